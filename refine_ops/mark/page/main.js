// Wiring: what is shown, buttons, keys.
"use strict";
const HINTS = {
  box: "Drag a box round what should be refined",
  scribble: "Scribble over what should be refined",
  brush: "Paint over what should be refined",
  eraser: "Take away from the painted region",
  move: "Click a region to select it; drag to move the view",
};
const FINER = 1.2;
let sayTimer = 0;

function say(message) {
  $("hint").textContent = visible(message);
  clearTimeout(sayTimer);
  sayTimer = setTimeout(hint, 6000);
}

function hint() {
  $("hint").textContent = store.current >= 0 && $("unreadable").hidden && !store.regions.length ? HINTS[canvas.tool] : "";
}

async function showImage(number) {
  const name = store.folder.images[number];
  store.heading = number;
  stopThumbs();
  $("grid").hidden = true;
  $("editor").hidden = $("to-grid").hidden = $("steps").hidden = false;
  $("title").textContent = visible(name);
  $("place").textContent = `${(number + 1).toLocaleString("en")} of ${store.folder.images.length.toLocaleString("en")}`;
  $("previous").disabled = number === 0;
  $("next").disabled = number + 1 >= store.folder.images.length;
  canvas.image.visible(false);
  $("unreadable").hidden = true;
  document.documentElement.dataset.shown = "";
  if (history.state?.image !== number) history.pushState({ image: number }, "");
  try {
    if (!(await openImage(number))) return;
    await showPicture(number);
    if (number !== store.heading) return;
    setWidth(canvas.share ?? 62);
    store.folder.counts[number] = store.regions.length;
  } catch (error) {
    if (number !== store.heading) return;
    Object.assign(store, { current: number, regions: [], selected: null });
    $("unreadable").textContent = visible(error.message);
    $("unreadable").hidden = false;
  }
  changed("image");
  hint();
  $("stage").focus({ preventScroll: true });
  document.documentElement.dataset.shown = String(number);
  if (number + 1 < store.folder.images.length) new Image().src = `view/${number + 1}`;  // most go on to it
}

function showGrid() {
  store.current = store.heading = -1;
  $("grid").hidden = false;
  $("editor").hidden = $("to-grid").hidden = $("steps").hidden = true;
  $("title").textContent = visible(store.folder.name);
  $("place").textContent = "";
  if (history.state?.image !== undefined) history.pushState({}, "");
  filterGrid();
  moveInGrid(0);
}

const goTo = (number) => {
  if (number < 0 || number >= store.folder.images.length) return undefined;
  grid.at = Math.max(0, grid.shown.indexOf(number));
  return showImage(number);
};

function setTool(tool) {
  canvas.tool = tool;
  for (const button of document.querySelectorAll("[data-tool]")) button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
  $("width-label").hidden = tool === "box" || tool === "move";
  $("stage").classList.toggle("move", tool === "move");
  hint();
  drawMarks();
}

// The slider's hundred steps run from one pixel to a quarter of the image, evenly in factors.
function setWidth(share) {
  canvas.share = Math.min(Math.max(share, 0), 100);
  const most = Math.max(2, Math.min(4096, Math.max(store.width, store.height) / 4));
  canvas.width = Math.max(1, Math.round(most ** (canvas.share / 100)));
  $("width").value = String(canvas.share);
  $("width-value").textContent = `${canvas.width} px`;
}

// Where the view is enlarged beyond what was sent, the part that is seen is asked for in native pixels.
let detailTimer = 0;
function showDetailSoon() {
  canvas.detail.visible(false);
  clearTimeout(detailTimer);
  if (canvas.stage.scaleX() * devicePixelRatio > (canvas.viewScale ?? 1) * FINER && canvas.viewScale < 1) detailTimer = setTimeout(showDetail, 150);
}

async function showDetail() {
  const [stage, number] = [canvas.stage, store.current];
  const scale = stage.scaleX();
  const low = [Math.floor(-stage.x() / scale), Math.floor(-stage.y() / scale)].map((v) => Math.max(0, v));
  const box = [...low, Math.min(store.width, Math.ceil((stage.width() - stage.x()) / scale)), Math.min(store.height, Math.ceil((stage.height() - stage.y()) / scale))];
  if (box[0] >= box[2] || box[1] >= box[3]) return;
  const part = new Image();
  part.src = `detail/${number}?box=${box.join(",")}`;
  try { await part.decode(); } catch { return; }
  if (number !== store.current || scale !== stage.scaleX()) return;
  canvas.detail.setAttrs({ image: part, x: box[0], y: box[1], width: box[2] - box[0], height: box[3] - box[1], visible: true });
}

function nudge(x, y, event) {
  const region = selectedRegion();
  if (!region) return;
  const by = event.shiftKey ? 10 : 1;
  const kind = `nudge ${region.region_id}`;
  if (region.box) {
    const [x0, y0, x1, y1] = region.box;
    const box = event.altKey ? insideBox([x0, y0, Math.max(x0 + 1, x1 + x * by), Math.max(y0 + 1, y1 + y * by)]) : insideBox([x0 + x * by, y0 + y * by, x1 + x * by, y1 + y * by], true);
    changeRegion(region.region_id, { box }, kind);
  } else if (region.scribble) {
    const strokes = region.scribble.strokes.map((stroke) => stroke.map((point) => [point[0] + x * by, point[1] + y * by]));
    changeRegion(region.region_id, { scribble: { ...region.scribble, strokes } }, kind);
  } else say("A painted region is changed with the brush and the eraser.");
}

function boxInMiddle() {
  const { stage } = canvas;
  const scale = stage.scaleX();
  const [x, y] = [(stage.width() / 2 - stage.x()) / scale, (stage.height() / 2 - stage.y()) / scale];
  const half = Math.min(stage.width(), stage.height(), store.width * scale, store.height * scale) / scale / 8;
  addRegion({ box: insideBox([x - half, y - half, x + half, y + half], true) });
}

function selectStep(by) {
  const { regions, selected } = store;
  if (!regions.length) return;
  const at = regions.findIndex((region) => region.region_id === selected);
  select(regions[(at + by + regions.length + (at < 0 && by < 0 ? 1 : 0)) % regions.length].region_id);
}

// To the image after this one; where it has another size, shapes keep their place in the frame.
async function copyToNext() {
  const { regions, width, height, current } = store;
  if (!regions.length || current + 1 >= store.folder.images.length) return;
  await sendWaiting();
  const from = await ask(`api/image/${current}`);  // what was painted is a file by now
  await showImage(current + 1);
  if (store.current !== current + 1 || !$("unreadable").hidden) return;
  const [fx, fy] = [store.width / width, store.height / height];
  const copies = [];
  for (const region of from.regions) copies.push(scaledRegion(region, fx, fy, copies));
  setRegions([...store.regions, ...copies], { selected: copies[0].region_id });
  say(`${plural(copies.length, "region")} copied; u takes it back`);
}

function scaledRegion(region, fx, fy, copies) {
  const taken = new Set([...store.regions, ...copies].map((each) => each.region_id));
  let id = region.region_id;
  for (let number = 2; taken.has(id); number++) id = `${region.region_id}-${number}`;
  const copy = { ...region, region_id: id };
  const same = fx === 1 && fy === 1;
  const tenth = (value) => Math.round(value * 10) / 10;
  if (copy.box) copy.box = insideBox([copy.box[0] * fx, copy.box[1] * fy, copy.box[2] * fx, copy.box[3] * fy]);
  if (copy.scribble) {
    const strokes = copy.scribble.strokes.map((stroke) => stroke.map(([x, y]) => [tenth(x * fx), tenth(y * fy)]));
    copy.scribble = { strokes, width: same ? copy.scribble.width : Math.max(1, tenth(copy.scribble.width * Math.sqrt(fx * fy))) };
  }
  if (copy.mask && !same) copy.mask = { ...copy.mask, resize: true };
  return copy;
}

const always = { "?": () => $("keys").showModal() };
const inEditor = {
  b: () => setTool("box"), s: () => setTool("scribble"), m: () => setTool("brush"), e: () => setTool("eraser"), v: () => setTool("move"),
  j: () => goTo(store.heading + 1), k: () => goTo(store.heading - 1), g: showGrid,
  n: () => select(null), c: copyToNext, u: undo, y: redo,
  p: () => { if (!store.selected) selectStep(1); document.querySelector(".region.selected textarea")?.focus(); },
  w: () => { if (store.selected && written) changeRegion(store.selected, { prompt: written }); },
  r: () => { if (!store.selected) selectStep(1); if (store.selected) chooseReference(store.selected); },
  ",": () => selectStep(-1), ".": () => selectStep(1),
  "[": () => setWidth(canvas.share - 5), "]": () => setWidth(canvas.share + 5),
  "+": () => zoomMiddle(1.25), "=": () => zoomMiddle(1.25), "-": () => zoomMiddle(0.8), 0: zoomFit,
  Delete: () => store.selected && deleteRegion(store.selected), Backspace: () => store.selected && deleteRegion(store.selected),
  Escape: () => (canvas.gesture ? dropped() : store.selected ? select(null) : showGrid()),
  ArrowLeft: (event) => nudge(-1, 0, event), ArrowRight: (event) => nudge(1, 0, event), ArrowUp: (event) => nudge(0, -1, event), ArrowDown: (event) => nudge(0, 1, event),
};
const inGrid = {
  "/": () => $("search").focus(),
  ArrowLeft: () => moveInGrid(-1), ArrowRight: () => moveInGrid(1), ArrowUp: () => moveInGrid(-grid.across), ArrowDown: () => moveInGrid(grid.across),
  j: () => moveInGrid(1), k: () => moveInGrid(-1), Home: () => moveInGrid(-Infinity), End: () => moveInGrid(Infinity),
};

addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return;
  const typing = event.target.matches("input:not([type=range]), textarea, select");
  if (typing) {
    if (event.key === "Escape") { event.preventDefault(); (store.current >= 0 ? $("stage") : $("scroller")).focus(); }
    return;
  }
  if (event.ctrlKey || event.metaKey) {
    const key = event.key.toLowerCase();
    if (store.current >= 0 && (key === "z" || key === "y")) { event.preventDefault(); (key === "y" || event.shiftKey ? redo : undo)(); }
    return;
  }
  if (event.target.matches("input[type=range]") && event.key.startsWith("Arrow")) return;
  if (event.key === " " && event.target === $("stage")) { event.preventDefault(); canvas.space = true; return; }
  if (event.key === "Enter") {
    if (event.target === $("stage") && $("unreadable").hidden) { event.preventDefault(); boxInMiddle(); }
    else if (event.target === $("scroller") && grid.shown.length) goTo(grid.shown[grid.at]);
    return;
  }
  const action = always[event.key] ?? ($("editor").hidden ? inGrid : inEditor)[event.key];
  if (store.heading !== store.current && !"jkg".includes(event.key)) return;  // what was there before is not meant
  if (action && store.folder) { event.preventDefault(); action(event); }
});
addEventListener("keyup", (event) => { if (event.key === " ") canvas.space = false; });
addEventListener("popstate", (event) => { if (event.state?.image === undefined) showGrid(); else showImage(event.state.image); });

for (const button of document.querySelectorAll("[data-tool]")) button.onclick = () => setTool(button.dataset.tool);
const clicks = {
  "to-grid": showGrid, previous: () => goTo(store.heading - 1), next: () => goTo(store.heading + 1), undo, redo,
  "zoom-in": () => zoomMiddle(1.25), "zoom-out": () => zoomMiddle(0.8), "zoom-fit": zoomFit, help: always["?"],
  "new-region": () => select(null), copy: copyToNext, "no-reference": () => setReference(undefined), "references-close": () => $("references").close(),
};
for (const [id, action] of Object.entries(clicks)) $(id).onclick = () => action();
$("width").oninput = () => setWidth(Number($("width").value));
$("search").oninput = $("filter").onchange = filterGrid;
$("reference-search").oninput = listReferences;
$("scroller").onscroll = () => requestAnimationFrame(drawGrid);
new ResizeObserver(() => { if (store.folder && !$("grid").hidden) drawGrid(); }).observe($("scroller"));
onChange((what) => { if (what !== "prompt") drawMarks(); });
onChange(drawPanel);
onChange(hint);

async function start() {
  buildStage();
  store.folder = await ask("api/folder");
  for (const place of document.querySelectorAll("code")) place.textContent = visible(store.folder.command);
  document.title = `${visible(store.folder.name)} · refine-ops mark`;
  tellSaved();
  if (store.folder.images.length === 1) await showImage(0); else showGrid();
  document.documentElement.dataset.ready = "1";
}

start().catch((error) => trouble(error.message));
