// Opens graphs in ComfyUI's page and tells, as JSON, what was seen of each.
//   node page.cjs URL JOBS.json
// A job is {"graph": file, "run": press Run and wait for the end, "picture": file for a picture of all of it,
// "nodes": [{"type", "title", "size", "file"}], "help": [node types whose help page to open],
// "help_picture": file}; all but graph may be left out.
// Needs playwright-core (found through NODE_PATH) and a Chromium named by CHROMIUM.
const fs = require("fs");
const { chromium } = require("playwright-core");

const [url, jobsFile] = process.argv.slice(2);
const PADDING = 20;
// For pictures: the graph alone, without the page's bars.
const HIDE =
  "body * {visibility: hidden !important} #graph-canvas, .dom-widget, .dom-widget * {visibility: visible !important}";

async function main() {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-background-networking", "--disable-gpu", "--hide-scrollbars"],
  });
  const page = await browser.newPage({ viewport: { width: 2040, height: 1150 } });
  // A busy machine is slow, not broken.
  page.setDefaultTimeout(600000);
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

  const seen = [];
  for (const job of JSON.parse(fs.readFileSync(jobsFile))) seen.push({ ...(await open(page, job)), errors: errors.splice(0) });
  await browser.close();
  console.log(JSON.stringify(seen));
}

async function open(page, job) {
  const graph = JSON.parse(fs.readFileSync(job.graph));
  const missing = await page.evaluate(async (graph) => {
    // Files that an earlier graph has saved.
    await app.refreshComboInNodes();
    await app.loadGraphData(graph);
    return graph.nodes.map((node) => node.type).filter((type) => !(type in LiteGraph.registered_node_types));
  }, graph);
  await page.waitForTimeout(job.run || job.picture ? 3000 : 1000);
  const sent = await page.evaluate(async () => (await app.graphToPrompt()).output);
  const result = { missing, sent, ...(job.run ? await run(page) : {}) };
  if (job.picture || job.nodes) await photograph(page, job);
  for (const type of job.help || []) result.help = { ...result.help, [type]: await help(page, type, job.help_picture) };
  return result;
}

/** Press Run and wait for the end: what the host answered, how it ended, and the videos that the page shows. */
async function run(page) {
  const posted = page.waitForResponse((response) => response.url().endsWith("/prompt") && response.request().method() === "POST");
  await page.getByRole("button", { name: "Run", exact: true }).first().click();
  const answer = await (await posted).json();
  let entry;
  while (answer.prompt_id && !entry) {
    await page.waitForTimeout(500);
    entry = (await (await fetch(`${url}/history/${answer.prompt_id}`)).json())[answer.prompt_id];
  }
  // The page shows a video a moment after it is saved.
  await page.waitForTimeout(4000);
  await page.waitForFunction(() => [...document.querySelectorAll("video")].every((video) => video.readyState > 1));
  await settled(page);
  const videos = await page.evaluate(() =>
    [...document.querySelectorAll("video")].map((video) => ({
      source: decodeURIComponent(video.currentSrc), width: video.videoWidth, seconds: video.duration,
    })));
  // What the page sends with Apply bypassed: who feeds the sampler, and is the node gone?
  const bypassed = await page.evaluate(async () => {
    const applied = app.graph._nodes.filter((node) => node.type === "SlotIDApply");
    applied.forEach((node) => { node.mode = 4; });
    const nodes = (await app.graphToPrompt()).output;
    applied.forEach((node) => { node.mode = 0; });
    const sampler = Object.values(nodes).find((node) => node.class_type === "KSampler");
    return {
      model: sampler && nodes[sampler.inputs.model[0]].class_type,
      sent: Object.values(nodes).map((node) => node.class_type),
    };
  });
  return { answer, status: entry?.status.status_str, videos, bypassed };
}

/** Wait until no node grows any more: pictures and texts come to their nodes one after the other. */
async function settled(page) {
  let last, now;
  do {
    last = now;
    await page.waitForTimeout(1500);
    now = await page.evaluate(() => JSON.stringify(app.graph._nodes.map((node) => [...node.size])));
  } while (now !== last);
}

/** A node's help page, opened as a user does: click the node, then the (i) above it. */
async function help(page, type, picture) {
  const [x, y] = await page.evaluate((type) => {
    const node = app.graph._nodes.find((node) => node.type === type), view = app.canvas.ds;
    view.scale = 1;
    view.offset[0] = 300 - node.pos[0];
    view.offset[1] = 300 - node.pos[1];
    app.canvas.setDirty(true, true);
    const canvas = document.querySelector("#graph-canvas").getBoundingClientRect();
    return [canvas.x + 300 + node.size[0] / 2, canvas.y + 300 - 12];
  }, type);
  await page.waitForTimeout(500);
  await page.mouse.click(x, y);
  await page.getByTestId("info-button").click();
  await page.locator(".node-help-content h1, .node-help-content h2").first().waitFor();
  await page.waitForTimeout(1500);
  if (picture) await page.screenshot({ path: picture });
  return page.evaluate(() => ({
    text: document.querySelector(".node-help-content").innerText,
    pictures: [...document.querySelectorAll(".node-help-content img")].map((image) => ({
      source: image.src, width: image.naturalWidth, shown: image.getBoundingClientRect().width,
    })),
  }));
}

/** Pictures of the whole graph and of single nodes, without the page's bars. */
async function photograph(page, job) {
  const style = await page.addStyleTag({ content: HIDE });
  await page.evaluate(() => {
    app.canvas.deselectAll();
    app.canvas.show_info = false;
  });
  if (job.picture) {
    const boxes = await page.evaluate(() => [...app.graph._groups, ...app.graph._nodes].map(({ pos, size }) => [...pos, ...size]));
    await page.screenshot({ path: job.picture, clip: await frame(page, boxes) });
  }
  for (const { id, size, file } of job.nodes || []) {
    const box = await page.evaluate(([id, size]) => {
      const node = app.graph.getNodeById(id);
      // Away from everything that would show around it.
      node.pos = [node.pos[0] + 1e5, node.pos[1]];
      if (size) node.setSize(size);
      return [node.pos[0], node.pos[1] - LiteGraph.NODE_TITLE_HEIGHT, node.size[0], node.size[1] + LiteGraph.NODE_TITLE_HEIGHT];
    }, [id, size]);
    const clip = await frame(page, [box], 1.5);
    await page.screenshot({ path: file, clip });
    await page.evaluate((id) => { app.graph.getNodeById(id).pos[0] -= 1e5; }, id);
  }
  await style.evaluate((element) => element.remove());
}

/** Bring boxes [x, y, width, height] of the graph into the middle of the page; where they are then. */
async function frame(page, boxes, largest = 2) {
  const clip = await page.evaluate(([boxes, largest, room]) => {
    const [left, top] = [0, 1].map((i) => Math.min(...boxes.map((box) => box[i])) - room);
    const [right, bottom] = [0, 1].map((i) => Math.max(...boxes.map((box) => box[i] + box[i + 2])) + room);
    const scale = Math.min(innerWidth / (right - left), innerHeight / (bottom - top), largest), view = app.canvas.ds;
    view.scale = scale;
    view.offset[0] = (innerWidth / scale - left - right) / 2;
    view.offset[1] = (innerHeight / scale - top - bottom) / 2;
    app.canvas.setDirty(true, true);
    document.querySelectorAll("video").forEach((video) => {
      video.pause();
      video.controls = false;
      video.currentTime = 0.9;
    });
    const canvas = document.querySelector("#graph-canvas").getBoundingClientRect();
    const [x, y] = [left + view.offset[0], top + view.offset[1]].map((side) => side * scale);
    return { x: canvas.x + x, y: canvas.y + y, width: (right - left) * scale, height: (bottom - top) * scale };
  }, [boxes, largest, PADDING]);
  await page.waitForTimeout(2000);
  return clip;
}

main().catch((error) => { console.error(error); process.exit(1); });
