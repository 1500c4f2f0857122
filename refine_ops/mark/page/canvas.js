// The image and what is drawn on it. Konva keeps shapes in native pixels of the image, whatever the zoom; it hits, drags
// and resizes them. Painted masks are a canvas of their own, as no shape of a drawing library can be erased from.
"use strict";
const MARK = "#ff2f6d";
const OTHER = "#00b8d4";
const NEAR_PX = 4;
const canvas = { tool: "box", width: 24, stage: null, gesture: null, fit: 1, space: false };
const overlays = new Map();  // by mask; only those that are seen: each takes 16 MB

function buildStage() {
  const holder = $("stage");
  canvas.stage = new Konva.Stage({ container: holder, width: 10, height: 10 });
  canvas.pictures = new Konva.Layer({ listening: false });
  canvas.marks = new Konva.Layer();
  canvas.stage.add(canvas.pictures, canvas.marks);
  canvas.image = new Konva.Image();
  canvas.detail = new Konva.Image({ visible: false });
  canvas.pictures.add(canvas.image, canvas.detail);
  new ResizeObserver(() => {
    const before = canvas.fit === canvas.stage.scaleX();
    canvas.stage.size({ width: holder.clientWidth, height: holder.clientHeight });
    measureFit();
    if (before) zoomFit(); else drawMarks();
  }).observe(holder);
  holder.addEventListener("pointerdown", pressed);
  holder.addEventListener("pointermove", moved);
  holder.addEventListener("pointerup", released);
  holder.addEventListener("pointercancel", dropped);
  holder.addEventListener("pointerleave", () => { canvas.cursor?.visible(false); });
  holder.addEventListener("wheel", (event) => { event.preventDefault(); zoomAt(placeOf(event), Math.exp(-Math.max(-120, Math.min(120, event.deltaY)) / 800)); }, { passive: false });
  holder.addEventListener("contextmenu", (event) => event.preventDefault());
}

async function showPicture(number) {
  const picture = new Image();
  picture.src = `view/${number}`;
  await picture.decode();
  if (number !== store.current) return;
  canvas.image.setAttrs({ image: picture, width: store.width, height: store.height, visible: true });
  canvas.detail.visible(false);
  canvas.viewScale = picture.naturalWidth / store.width;
  measureFit();
  zoomFit();
}

function measureFit() {
  const { width, height } = canvas.stage.size();
  canvas.fit = Math.min((width - 24) / store.width, (height - 24) / store.height) || 1;
}

function zoomFit() {
  const { width, height } = canvas.stage.size();
  canvas.stage.scale({ x: canvas.fit, y: canvas.fit });
  canvas.stage.position({ x: (width - store.width * canvas.fit) / 2, y: (height - store.height * canvas.fit) / 2 });
  drawMarks();
}

function zoomAt(place, factor) {
  const stage = canvas.stage;
  const before = stage.scaleX();
  const scale = Math.min(Math.max(before * factor, canvas.fit / 2), Math.max(32, canvas.fit));
  stage.position({ x: place.x - ((place.x - stage.x()) / before) * scale, y: place.y - ((place.y - stage.y()) / before) * scale });
  stage.scale({ x: scale, y: scale });
  drawMarks();
}
const zoomMiddle = (factor) => zoomAt({ x: canvas.stage.width() / 2, y: canvas.stage.height() / 2 }, factor);

function placeOf(event) {
  const frame = $("stage").getBoundingClientRect();
  return { x: event.clientX - frame.left, y: event.clientY - frame.top };
}

// From the screen to pixels of the image, kept inside it.
function pixelOf(event) {
  const place = placeOf(event);
  const scale = canvas.stage.scaleX();
  const tenth = (value, most) => Math.round(Math.min(Math.max(value, 0), most) * 10) / 10;
  return [tenth((place.x - canvas.stage.x()) / scale, store.width), tenth((place.y - canvas.stage.y()) / scale, store.height)];
}

function drawMarks() {
  const { marks, stage } = canvas;
  marks.destroyChildren();
  for (const mask of overlays.keys()) if (!store.regions.some((region) => region.mask === mask)) overlays.delete(mask);
  const scale = stage.scaleX();
  store.regions.forEach((region, place) => {
    const selected = region.region_id === store.selected;
    const group = new Konva.Group({ id: region.region_id, name: "region" });
    shapesOf(region, selected).forEach((shape) => group.add(shape));
    const [x, y] = cornerOf(region);
    const label = new Konva.Label({ x, y, scaleX: 1 / scale, scaleY: 1 / scale, listening: false });
    label.add(new Konva.Tag({ fill: selected ? MARK : OTHER, cornerRadius: 3 }), new Konva.Text({ text: String(place + 1), fill: selected ? "#fff" : "#000", padding: 4, fontStyle: "bold", fontSize: 13 }));
    group.add(label);
    marks.add(group);
    if (selected && region.box && canvas.tool !== "eraser") marks.add(handles(group.findOne("Rect"), region));
  });
  canvas.cursor = new Konva.Circle({ radius: canvas.width / 2, stroke: "#fff", strokeWidth: 1.5, strokeScaleEnabled: false, shadowColor: "#000", shadowBlur: 2, shadowOpacity: 1, listening: false, visible: false });
  marks.add(canvas.cursor);
  showDetailSoon();
}

function shapesOf(region, selected) {
  const colour = selected ? MARK : OTHER;
  if (region.box) {
    const [x0, y0, x1, y1] = region.box;
    return [new Konva.Rect({ x: x0, y: y0, width: x1 - x0, height: y1 - y0, stroke: colour, strokeWidth: selected ? 3 : 2, strokeScaleEnabled: false, fill: selected ? "#ff2f6d22" : "#00b8d411" })];
  }
  if (region.scribble) return region.scribble.strokes.map((stroke) => lineOf(stroke, region.scribble.width, colour));
  const painted = overlayOf(region);
  return [new Konva.Image({ image: tinted(painted, colour), width: store.width, height: store.height, opacity: 0.55, hitFunc: () => {} })];
}

function lineOf(stroke, width, colour) {
  const points = stroke.length > 1 ? stroke.flat() : [...stroke[0], stroke[0][0] + 0.01, stroke[0][1]];
  return new Konva.Line({ points, stroke: colour, opacity: 0.55, strokeWidth: width, lineCap: "round", lineJoin: "round" });
}

function cornerOf(region) {
  if (region.box) return region.box;
  const strokes = region.scribble?.strokes ?? region.mask.strokes.map((stroke) => stroke.points);
  const points = strokes.flat();
  if (!points.length) return region.mask.at ?? overlayCorner(region);
  return [Math.min(...points.map((p) => p[0])), Math.min(...points.map((p) => p[1]))];
}

// Resizing and moving a box: Konva's handles, then whole pixels inside the image.
function handles(rect, region) {
  rect.draggable(true);
  const keep = () => {
    const [x, y] = [rect.x(), rect.y()];
    changeRegion(region.region_id, { box: insideBox([x, y, x + rect.width() * rect.scaleX(), y + rect.height() * rect.scaleY()], true) });
  };
  rect.on("dragend transformend", keep);
  return new Konva.Transformer({ nodes: [rect], rotateEnabled: false, flipEnabled: false, ignoreStroke: true, keepRatio: false, anchorSize: 11, anchorStroke: MARK, borderEnabled: false });
}

// A box of at least one whole pixel inside the image; `move` keeps its size where it would lead out.
function insideBox([x0, y0, x1, y1], move = false) {
  const span = (a, b, most) => {
    let [low, high] = [Math.round(Math.min(a, b)), Math.round(Math.max(a, b))];
    if (move && high - low <= most) {
      const shift = Math.min(Math.max(0, -low), most) || Math.min(0, most - high);
      [low, high] = [low + shift, high + shift];
    }
    low = Math.min(Math.max(low, 0), most - 1);
    return [low, Math.min(Math.max(high, low + 1), most)];
  };
  const [left, right] = span(x0, x1, store.width);
  const [top, bottom] = span(y0, y1, store.height);
  return [left, top, right, bottom];
}

function pressed(event) {
  if (store.current < 0 || canvas.gesture || !canvas.image.visible()) return;
  $("stage").focus({ preventScroll: true });
  const place = placeOf(event);
  const hit = canvas.stage.getIntersection(place);
  const overHandle = hit && hit.getParent()?.className === "Transformer";
  const region = hit?.findAncestor(".region")?.id() ?? paintedAt(pixelOf(event));
  const onSelected = hit?.draggable() && region === store.selected;
  if (event.button === 1 || canvas.space || event.button === 2) canvas.gesture = { kind: "pan", place, from: canvas.stage.position() };
  else if (event.button !== 0 || overHandle) return;
  else if (canvas.tool === "move" || canvas.tool === "box") {
    if (onSelected) return;
    if (canvas.tool === "move") {
      select(region ?? null);
      canvas.gesture = { kind: "pan", place, from: canvas.stage.position() };
    } else canvas.gesture = { kind: "box", place, from: pixelOf(event), hit: region };
  } else if (canvas.tool === "eraser" && !selectedRegion()?.mask) return say("The eraser takes away from a painted region: select one, or paint one with the brush first.");
  else canvas.gesture = { kind: "stroke", points: [pixelOf(event)] };
  $("stage").setPointerCapture(event.pointerId);
  moved(event);
}

function paintedAt([x, y]) {
  const alphaAt = (paper) => paper.getContext("2d").getImageData(Math.floor((x / store.width) * paper.width), Math.floor((y / store.height) * paper.height), 1, 1).data[3];
  return store.regions.findLast((region) => region.mask && alphaAt(overlayOf(region)) > 0)?.region_id;
}

function moved(event) {
  const { gesture } = canvas;
  const brush = ["scribble", "brush", "eraser"].includes(canvas.tool);
  if (canvas.cursor && brush) {
    const [x, y] = pixelOf(event);
    canvas.cursor.setAttrs({ x, y, radius: canvas.width / 2, visible: true });
  }
  if (!gesture) return;
  if (gesture.kind === "pan") {
    const place = placeOf(event);
    canvas.stage.position({ x: gesture.from.x + place.x - gesture.place.x, y: gesture.from.y + place.y - gesture.place.y });
    showDetailSoon();
  } else if (gesture.kind === "box") {
    const [x, y] = pixelOf(event);
    gesture.rect ??= new Konva.Rect({ stroke: MARK, strokeWidth: 2, strokeScaleEnabled: false, dash: [6, 4], fill: "#ff2f6d22", listening: false });
    if (!gesture.rect.getLayer()) canvas.marks.add(gesture.rect);
    gesture.rect.setAttrs({ x: Math.min(x, gesture.from[0]), y: Math.min(y, gesture.from[1]), width: Math.abs(x - gesture.from[0]), height: Math.abs(y - gesture.from[1]) });
  } else {
    for (const each of event.getCoalescedEvents?.() ?? [event]) addPoint(gesture.points, pixelOf(each));
    gesture.line?.destroy();
    gesture.line = lineOf(gesture.points, canvas.width, canvas.tool === "eraser" ? "#fff" : MARK);
    canvas.marks.add(gesture.line);
  }
}

function addPoint(points, point) {
  const [x, y] = points.at(-1);
  if (Math.hypot(point[0] - x, point[1] - y) * canvas.stage.scaleX() >= 1.5) points.push(point);
}

function released(event) {
  const { gesture } = canvas;
  canvas.gesture = null;
  if (!gesture) return;
  if (gesture.kind === "box") {
    const place = placeOf(event);
    const [x, y] = pixelOf(event);
    gesture.rect?.destroy();
    if (Math.hypot(place.x - gesture.place.x, place.y - gesture.place.y) < NEAR_PX) select(gesture.hit ?? null);
    else addRegion({ box: insideBox([...gesture.from, x, y]) });
  } else if (gesture.kind === "stroke") {
    gesture.line?.destroy();
    endStroke(gesture.points);
  }
}

function dropped() {
  canvas.gesture?.rect?.destroy();
  canvas.gesture?.line?.destroy();
  canvas.gesture = null;
}

// A stroke goes on with the selected region of its kind, else it begins one.
function endStroke(points) {
  const region = selectedRegion();
  const width = canvas.width;
  if (canvas.tool === "scribble") {
    const scribble = region?.scribble;
    if (scribble && scribble.width === width) changeRegion(region.region_id, { scribble: { strokes: [...scribble.strokes, points], width } });
    else { addRegion({ scribble: { strokes: [points], width } }); goesOn(); }
    return;
  }
  const stroke = { points, width, erase: canvas.tool === "eraser" };
  if (region?.mask) changeRegion(region.region_id, { mask: { ...region.mask, strokes: [...region.mask.strokes, stroke] } });
  else { addRegion({ mask: { base: null, strokes: [stroke] } }); goesOn(); }
}

const goesOn = () => say(`More strokes go on with region ${store.regions.length}; n begins a new one`);

// A mask as the server has it, with the strokes since drawn over it, at the size of the view; white where it marks.
function overlayOf(region) {
  const { mask } = region;
  if (overlays.has(mask)) return overlays.get(mask);
  const scale = Math.min(1, 2048 / Math.max(store.width, store.height));
  const paper = element("canvas", { width: Math.max(1, Math.round(store.width * scale)), height: Math.max(1, Math.round(store.height * scale)) });
  overlays.set(mask, paper);
  const drawStrokes = () => mask.strokes.forEach((stroke) => drawStroke(paper, stroke));
  if (mask.base === null) { drawStrokes(); return paper; }
  const query = new URLSearchParams({ uri: mask.base });
  if (region.mask_level !== undefined) query.set("level", region.mask_level);
  if (region.mask_class !== undefined) query.set("class", region.mask_class);
  if (region.mask_invert) query.set("invert", "1");
  if (mask.resize) query.set("resize", "1");
  baseOf(`mask/${store.current}?${query}`).then((base) => {
    paper.getContext("2d", { willReadFrequently: true }).drawImage(base, 0, 0, paper.width, paper.height);
    drawStrokes();
    paper.corner = paper.tints = undefined;
    if (store.regions.some((each) => each.mask === mask)) drawMarks();
  }).catch(() => say(`The mask of region ${region.region_id} cannot be shown: it is missing or of another size.`));
  return paper;
}

const bases = new Map();
async function baseOf(address) {
  if (!bases.has(address)) {
    const base = new Image();
    base.src = address;
    bases.set(address, base.decode().then(() => base));
    if (bases.size > 32) bases.delete(bases.keys().next().value);
  }
  return bases.get(address);
}

function drawStroke(paper, stroke) {
  const pen = paper.getContext("2d", { willReadFrequently: true });
  const [sx, sy] = [paper.width / store.width, paper.height / store.height];
  pen.globalCompositeOperation = stroke.erase ? "destination-out" : "source-over";
  pen.strokeStyle = "#fff";
  pen.lineWidth = Math.max(1, stroke.width * sx);
  pen.lineCap = pen.lineJoin = "round";
  pen.beginPath();
  pen.moveTo(stroke.points[0][0] * sx, stroke.points[0][1] * sy);
  for (const [x, y] of stroke.points) pen.lineTo(x * sx + 0.001, y * sy);
  pen.stroke();
}

function tinted(paper, colour) {
  paper.tints ??= {};
  if (paper.tints[colour]) return paper.tints[colour];
  const copy = element("canvas", { width: paper.width, height: paper.height });
  const pen = copy.getContext("2d");
  pen.drawImage(paper, 0, 0);
  pen.globalCompositeOperation = "source-in";
  pen.fillStyle = colour;
  pen.fillRect(0, 0, copy.width, copy.height);
  paper.tints[colour] = copy;
  return copy;
}

// Where the number stands: the first marked pixel from the top.
function overlayCorner(region) {
  const paper = overlayOf(region);
  if (paper.corner) return paper.corner;
  const { data } = paper.getContext("2d", { willReadFrequently: true }).getImageData(0, 0, paper.width, paper.height);
  const first = data.findIndex((value, at) => at % 4 === 3 && value > 127) >> 2;
  if (first < 0) return [0, 0];
  paper.corner = [((first % paper.width) / paper.width) * store.width, (Math.floor(first / paper.width) / paper.height) * store.height];
  return paper.corner;
}
