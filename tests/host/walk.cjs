// Walks through ComfyUI's page as somebody does who has just installed the pack, with the mouse, and keeps a picture of
// each step: from the templates to the first video, and to an identity saved and used again.
//   node walk.cjs URL FOLDER
// The server must have no identity named kim yet. Prints, as JSON, the videos that were shown and what went wrong.
const { chromium } = require("playwright-core");

const [url, folder] = process.argv.slice(2);
const NAME = "actors/kim";

async function main() {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-background-networking", "--disable-gpu", "--hide-scrollbars"],
  });
  const page = await browser.newPage({ viewport: { width: 1440, height: 900 } });
  // A busy machine is slow, not broken.
  page.setDefaultTimeout(120000);
  const errors = [];
  page.on("pageerror", (error) => errors.push(error.message));
  const shot = (name) => page.screenshot({ path: `${folder}/${name}.png` });
  await page.goto(url);
  await page.waitForFunction(() => window.app?.graph && window.LiteGraph?.registered_node_types.KSampler);
  await page.waitForTimeout(4000);

  await templates(page);
  await shot("templates");
  await choose(page, "slotid_demo");
  await look(page, 0.6);
  await shot("opened");
  const videos = [await run(page, "slotid_demo_0")];
  await shot("first_video");
  await look(page, 0.6);
  await press(page, await title(page, "SlotIDPrepareFace"));
  await page.getByTestId("info-button").click();
  await page.locator(".node-help-content img").first().waitFor();
  await page.waitForTimeout(2000);
  await shot("help");
  await closePanel(page);

  // What is met by those who begin at the end.
  await templates(page);
  await choose(page, "slotid_reuse_identity");
  await look(page, 0.65);
  await run(page);
  await page.getByText("View details").click();
  await page.getByRole("button", { name: "Info for Slot-ID Load Identity" }).click();
  await page.waitForTimeout(1000);
  await shot("nothing_saved");
  await closePanel(page);

  await templates(page);
  await choose(page, "slotid_save_identity");
  await look(page, 0.72, 660);
  await press(page, await widget(page, "SlotIDSaveIdentity", "name"), 2);
  await page.locator(".graphdialog input").fill(NAME);
  await page.keyboard.press("Enter");
  await run(page);
  await shot("saved");

  await page.getByText("slotid_reuse_identity").first().click();
  await page.waitForTimeout(3000);
  await look(page, 0.72);
  await press(page, [1330, 640]);
  await page.keyboard.press("r");
  await page.waitForTimeout(2000);
  await press(page, await widget(page, "SlotIDLoadIdentity", "file"));
  await page.waitForTimeout(1000);
  await shot("list");
  await pick(page, NAME);
  for (const [name, word] of [["pose", "front"], ["expression", "smile"]]) {
    await press(page, await widget(page, "SlotIDDemoPrompt", name));
    await pick(page, word);
  }
  videos.push(await run(page, "slotid_reuse_0"));
  await shot("used_again");
  await browser.close();
  console.log(JSON.stringify({ videos, errors }));
}

/** Open the pack's templates, as on the first visit (they are open then) or from the bar on the left. */
async function templates(page) {
  if (!(await page.getByRole("dialog").count())) await page.getByRole("button", { name: "Templates" }).click();
  await page.getByRole("dialog").getByText("ComfyUI-SlotID").click();
  await page.getByText("slotid_demo", { exact: true }).last().waitFor();
  await page.waitForTimeout(3000);
}

async function choose(page, template) {
  await page.getByRole("dialog").getByText(template, { exact: true }).click();
  await page.waitForTimeout(5000);
}

/** Press Run and wait for the end: what is shown of the video whose file begins so. */
async function run(page, file) {
  const posted = page.waitForResponse((response) => response.url().endsWith("/prompt") && response.request().method() === "POST");
  await page.getByRole("button", { name: "Run", exact: true }).first().click();
  const { prompt_id: id } = await (await posted).json();
  while (id && !(await (await fetch(`${url}/history/${id}`)).json())[id]) await page.waitForTimeout(500);
  await page.waitForTimeout(6000);
  return file && page.evaluate((file) => {
    const video = [...document.querySelectorAll("video")].find((video) => video.currentSrc.includes(file));
    return video && { width: video.videoWidth, seconds: video.duration };
  }, file);
}

/** Bring the graph to the left edge, or what lies right of `left`, in this size. */
async function look(page, scale, left = 10) {
  await page.evaluate(([scale, left]) => {
    const view = app.canvas.ds;
    view.scale = scale;
    view.offset = [90 / scale - left, 95 / scale - 10];
    app.canvas.setDirty(true, true);
  }, [scale, left]);
  await page.waitForTimeout(1500);
}

/** Where a point of a node, in the graph's units from its corner, is on the page. */
function place(page, type, dx, dy) {
  return page.evaluate(([type, dx, dy]) => {
    const { pos } = app.graph._nodes.find((node) => node.type === type), { scale, offset } = app.canvas.ds;
    const canvas = document.querySelector("#graph-canvas").getBoundingClientRect();
    return [canvas.x + (pos[0] + offset[0] + dx) * scale, canvas.y + (pos[1] + offset[1] + dy) * scale];
  }, [type, dx, dy]);
}

const title = (page, type) => place(page, type, 150, -15);

async function widget(page, type, name) {
  const y = await page.evaluate(([type, name]) =>
    app.graph._nodes.find((node) => node.type === type).widgets.find((widget) => widget.name === name).last_y, [type, name]);
  return place(page, type, 200, y + 12);
}

/** A click as of a hand: the page misses one that comes with the arrival of the pointer. */
async function press(page, [x, y], times = 1) {
  await page.mouse.move(x - 3, y);
  await page.waitForTimeout(200);
  await page.mouse.move(x, y);
  await page.waitForTimeout(200);
  await page.mouse.click(x, y, { delay: 80, clickCount: times });
  await page.waitForTimeout(800);
}

async function pick(page, text) {
  await page.locator(".litecontextmenu .litemenu-entry").filter({ hasText: text }).first().click();
  await page.waitForTimeout(800);
}

async function closePanel(page) {
  await page.getByRole("button", { name: "Toggle properties panel" }).first().click();
  await page.waitForTimeout(1000);
}

main().catch((error) => { console.error(error); process.exit(1); });
