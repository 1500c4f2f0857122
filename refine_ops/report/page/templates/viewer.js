// The item view: one place of one item, before and after, in five ways.
const MODES = ["side by side", "slider", "blink", "difference", "raw patch"];
const viewer = { row: -1, item: null, mode: 0, timer: 0, after: true };
const still = matchMedia("(prefers-reduced-motion: reduce)");

async function openItem(row) {
  viewer.row = row;
  let page;
  try { page = await load("details", index.page[row]); } catch (error) { complain(error); return; }
  if (viewer.row !== row) return;
  viewer.item = page[row];
  $("item-title").textContent = visible(index.id[row]);
  $("findings").replaceChildren(...viewer.item.findings.map((text) => element("li", {}, visible(text))));
  $("place").replaceChildren(...viewer.item.windows.map((w, i) => element("option", { value: String(i) }, visible(w.title))));
  $("place").parentElement.hidden = viewer.item.windows.length < 2;
  drawFacts();
  showDecision();
  if (!$("item").open) $("item").showModal();
  drawStage();
  keepState();
  neighbours().forEach((n) => load("details", index.page[n]).catch(() => {}));
}

function closeItem() {
  clearInterval(viewer.timer);
  const row = viewer.row;
  viewer.row = -1;
  if ($("item").open) $("item").close();
  draw();
  keepState();
  [...$("space").querySelectorAll("a")].find((a) => a.textContent === visible(index.id[row]))?.focus();
}

function neighbours() {
  const at = view.rows.indexOf(viewer.row);
  return [view.rows[at + 1], view.rows[at - 1]].filter((row) => row !== undefined);
}

function step(by) {
  const at = view.rows.indexOf(viewer.row) + by;
  if (at >= 0 && at < view.rows.length) openItem(view.rows[at]);
}

function drawStage() {
  clearInterval(viewer.timer);
  const place = viewer.item.windows[Number($("place").value) || 0];
  $("modes").replaceChildren(...MODES.map((name, i) => element("button", { type: "button", "aria-pressed": String(viewer.mode === i), disabled: !place || (i === 4 && !place.raw), title: String(i + 1), onclick: () => setMode(i) }, name)));
  $("wipe-label").hidden = viewer.mode !== 1 || !place;
  if (!place) {
    $("stage").replaceChildren(element("p", {}, viewer.item.no_pictures));
    $("legend").textContent = "";
    return;
  }
  const mode = viewer.mode === 4 && !place.raw ? 0 : viewer.mode;
  const painters = [sideBySide, slider, blink, difference, rawPatch];
  $("stage").replaceChildren(...painters[mode](place));
  const shown = place.scale < 1 ? `pictures at ${Math.round(place.scale * 100)} % of native size` : "native pixels";
  $("legend").textContent = `Box ${place.box.join(", ")} px of the upright image; ${shown}. Outlines: cyan the mask, dashed yellow the allowed change, red the worst stretch of a visible seam.`;
}

function setMode(mode) {
  viewer.mode = mode;
  drawStage();
}

const sideBySide = (place) => [figure("before", place, [place.before]), figure("after", place, [place.after])];
const rawPatch = (place) => [figure("before", place, [place.before]), figure("raw patch, before alignment and paste-back", place, [place.raw])];
const difference = (place) => [figure("after", place, [place.after]), figure(`largest channel difference, ×${gain()}`, place, [place.difference], "heat")];

function slider(place) {
  const node = figure("before left, after right", place, [place.after, place.before]);
  const [, top] = node.querySelectorAll("img");
  const edge = element("i");
  const move = () => { top.style.clipPath = `inset(0 ${100 - $("wipe").value}% 0 0)`; edge.style.left = `${$("wipe").value}%`; };
  node.querySelector(".picture").append(edge);
  const drag = (event) => { if (event.buttons & 1) { const box = node.querySelector(".picture").getBoundingClientRect(); $("wipe").value = String((100 * (event.clientX - box.left)) / box.width); move(); } };
  node.addEventListener("pointerdown", drag);
  node.addEventListener("pointermove", drag);
  $("wipe").oninput = move;
  move();
  return [node];
}

function blink(place) {
  const node = figure("", place, [place.before, place.after]);
  const top = node.querySelectorAll("img")[1];
  const flip = () => {
    viewer.after = !viewer.after;
    top.style.visibility = viewer.after ? "visible" : "hidden";
    node.querySelector("figcaption").textContent = `${viewer.after ? "after" : "before"} — press space to switch`;
  };
  node.addEventListener("click", flip);
  viewer.flip = flip;
  flip();
  if (!still.matches) viewer.timer = setInterval(flip, 600);
  return [node];
}

const gain = () => 2 ** Number($("gain").value);

function figure(caption, place, sources, kind = "") {
  const zoom = $("zoom").value;
  const [width, height] = [place.width / place.scale, place.height / place.scale];
  const room = Math.max(120, ($("item").clientWidth - 80) / (viewer.mode === 1 || viewer.mode === 2 || innerWidth < 740 ? 1 : 2));
  const factor = zoom === "fit" ? Math.min(room / width, (0.6 * innerHeight) / height, 4) : Number(zoom) / devicePixelRatio;
  const picture = element("div", { class: `picture ${factor * devicePixelRatio >= 2 ? "crisp" : ""}` });
  picture.style.width = `${width * factor}px`;
  picture.style.height = `${height * factor}px`;
  for (const source of sources) picture.append(element("img", { src: source, alt: caption || "before and after", class: kind, draggable: false }));
  if ($("outlines").checked) picture.append(outlines(place));
  return element("figure", {}, picture, element("figcaption", {}, caption));
}

function outlines(place) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${place.width} ${place.height}`);
  svg.setAttribute("aria-hidden", "true");
  const groups = [["mask", place.mask_lines, "polygon"], ["allowed", place.allowed_lines, "polygon"], ["seam", place.seam_line.length ? [place.seam_line] : [], "polyline"]];
  for (const [name, lines, shape] of groups) for (const line of lines) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", shape);
    node.setAttribute("class", name);
    node.setAttribute("points", line.map((p) => `${p[0] + 0.5},${p[1] + 0.5}`).join(" "));
    svg.append(node);
  }
  return svg;
}

function drawFacts() {
  const { item } = viewer;
  const line = (name, value) => element("tr", {}, element("th", { scope: "row" }, name), element("td", { colspan: String(item.regions.length + 1), dir: "auto" }, visible(value)));
  const table = element("table", {}, element("tbody", {}, line("source", item.image), line("output", item.output || "–"), line("file", item.file), ...(item.message ? [line("message", item.message)] : []), line("run", facts.runs[index.run[viewer.row]])));
  const numbers = element("table", {}, element("thead", {}, element("tr", {}, ...["number", "limit", ...(item.regions.length > 1 ? ["worst"] : []), ...item.regions.map((r) => visible(`region ${r.region_id}`))].map((t) => element("th", { scope: "col" }, t)))));
  const body = element("tbody");
  for (const metric of facts.metrics) {
    const worst = index.metrics[metric.name][viewer.row];
    const values = [...(item.regions.length > 1 ? [worst] : []), ...item.regions.map((r) => r.metrics[metric.name] ?? (item.regions.length === 1 ? worst : null))];
    body.append(element("tr", { title: metric.meaning }, element("th", { scope: "row" }, `${metric.label} (${metric.kind}, ${metric.unit})`), element("td", {}, metric.limit_text ?? "–"),
      ...values.map((v) => element("td", {}, v == null ? "not measured" : `${number(v, metric.digits)} ${metric.unit}`))));
  }
  numbers.append(body);
  const prompts = item.regions.filter((r) => r.prompt).map((r) => element("p", { dir: "auto" }, visible(`${r.region_id}: ${r.prompt}`)));
  const origins = item.regions.filter((r) => r.origin).map((r) => element("li", {}, visible(`${item.regions.length > 1 ? `${r.region_id}: ` : ""}${r.origin}`), ...r.agreement.map((line) => element("small", {}, visible(line)))));
  $("facts").replaceChildren(...prompts, ...(origins.length ? [element("ul", { class: "origins" }, ...origins)] : []), numbers, table);
}

function showDecision() {
  const entry = decisionOf(viewer.row);
  $("decision").className = entry?.decision ?? "";
  $("decision").textContent = { approve: "✓ approved", reject: "✗ rejected" }[entry?.decision] ?? "not reviewed";
  $("note").value = entry?.note ?? "";
}

function review(change, andNext) {
  decide(viewer.row, change, viewer.item.fingerprint);
  if (andNext && view.rows.indexOf(viewer.row) + 1 < view.rows.length) step(1);
  else showDecision();
}
