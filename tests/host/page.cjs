// Opens a graph in ComfyUI's page, presses Run and tells, as JSON, what was seen.
//   node page.cjs URL GRAPH.json [PICTURE.png]
// Needs playwright-core (found through NODE_PATH) and a Chromium named by CHROMIUM.
const fs = require("fs");
const { chromium } = require("playwright-core");

const [url, graphFile, picture] = process.argv.slice(2);
// For the picture: the graph alone, without the page's bars.
const HIDE =
  "body * {visibility: hidden !important} #graph-canvas, .dom-widget, .dom-widget * {visibility: visible !important}";

async function main() {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-background-networking", "--disable-gpu", "--hide-scrollbars"],
  });
  const page = await browser.newPage({ viewport: { width: 2040, height: 1150 } });
  const errors = [];
  page.on("pageerror", (error) => errors.push(error.message));
  page.on("console", (message) => {
    if (message.type() === "error") errors.push(`${message.text()} ${message.location().url}`);
  });
  await page.goto(url);
  await page.waitForFunction(() => window.app?.graph && window.LiteGraph?.registered_node_types.KSampler);
  await page.waitForTimeout(3000);
  // A fresh installation greets with its templates.
  await page.keyboard.press("Escape");
  await page.waitForTimeout(500);

  const graph = JSON.parse(fs.readFileSync(graphFile));
  const missing = await page.evaluate(async (graph) => {
    await app.loadGraphData(graph);
    return graph.nodes.map((node) => node.type).filter((type) => !(type in LiteGraph.registered_node_types));
  }, graph);
  await page.waitForTimeout(3000);

  const posted = page.waitForResponse((response) => response.url().endsWith("/prompt") && response.request().method() === "POST");
  const button = page.getByRole("button", { name: "Run", exact: true });
  await button.first().click();
  const answer = await (await posted).json();
  let entry;
  while (answer.prompt_id && !entry) {
    await page.waitForTimeout(500);
    entry = (await (await fetch(`${url}/history/${answer.prompt_id}`)).json())[answer.prompt_id];
  }
  // The page shows the video a moment after it is saved.
  await page.waitForTimeout(4000);
  const videos = await page.evaluate(() =>
    [...document.querySelectorAll("video")].map((video) => ({
      source: decodeURIComponent(video.currentSrc), width: video.videoWidth, seconds: video.duration,
    })));
  if (picture) await photograph(page, picture);
  // What the page sends with Apply bypassed: who feeds the sampler, and is the node gone?
  const bypassed = await page.evaluate(async () => {
    app.graph._nodes.find((node) => node.type === "SlotIDApply").mode = 4;
    const nodes = (await app.graphToPrompt()).output;
    const sampler = Object.values(nodes).find((node) => node.class_type === "KSampler");
    return { model: nodes[sampler.inputs.model[0]].class_type, sent: Object.values(nodes).map((node) => node.class_type) };
  });
  await browser.close();
  console.log(JSON.stringify({ missing, errors, answer, status: entry?.status.status_str, videos, bypassed }));
}

async function photograph(page, picture) {
  await page.addStyleTag({ content: HIDE });
  await page.evaluate(() => {
    const canvas = app.canvas;
    const boxes = [...app.graph._groups, ...app.graph._nodes].map(({ pos, size }) => [...pos, pos[0] + size[0], pos[1] + size[1]]);
    const [left, top] = [0, 1].map((i) => Math.min(...boxes.map((box) => box[i])) - 20);
    const [right, bottom] = [2, 3].map((i) => Math.max(...boxes.map((box) => box[i])) + 20);
    const scale = Math.min(innerWidth / (right - left), innerHeight / (bottom - top));
    canvas.ds.scale = scale;
    canvas.ds.offset[0] = (innerWidth / scale - left - right) / 2;
    canvas.ds.offset[1] = (innerHeight / scale - top - bottom) / 2;
    canvas.show_info = false;
    canvas.setDirty(true, true);
    document.querySelectorAll("video").forEach((video) => { video.pause(); video.controls = false; video.currentTime = 0.9; });
  });
  await page.waitForTimeout(2000);
  await page.screenshot({ path: picture });
}

main().catch((error) => { console.error(error); process.exit(1); });
