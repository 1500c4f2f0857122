// All images: only the cells that are seen exist, so that a folder may hold thousands.
"use strict";
const CELL = { width: 216, height: 208, gap: 10 };
const grid = { shown: [], across: 1, at: 0 };

function filterGrid() {
  const { images, counts } = store.folder;
  const wanted = $("search").value.toLowerCase();
  const kind = $("filter").value;
  grid.shown = images.map((_, at) => at).filter((at) => images[at].toLowerCase().includes(wanted) && (kind === "all" || (kind === "marked") === counts[at] > 0));
  $("count").textContent = grid.shown.length === images.length ? plural(images.length, "image") : `${grid.shown.length.toLocaleString("en")} of ${plural(images.length, "image")}`;
  grid.at = Math.min(grid.at, Math.max(0, grid.shown.length - 1));
  drawGrid();
}

function drawGrid() {
  const [scroller, space] = [$("scroller"), $("space")];
  const step = CELL.width + CELL.gap;
  grid.across = Math.max(1, Math.floor((space.clientWidth + CELL.gap) / step));
  const line = CELL.height + CELL.gap;
  space.style.height = `${Math.ceil(grid.shown.length / grid.across) * line}px`;
  const first = Math.max(0, Math.floor(scroller.scrollTop / line) - 1) * grid.across;
  const last = Math.min(grid.shown.length, (Math.ceil((scroller.scrollTop + scroller.clientHeight) / line) + 1) * grid.across);
  const kept = new Map([...space.children].map((cell) => [cell.dataset.key, cell]));
  const cells = [];
  for (let place = first; place < last; place++) {
    const at = grid.shown[place];
    const key = `${at}/${store.folder.counts[at]}`;
    const cell = kept.get(key) ?? gridCell(at, key);
    cell.style.left = `${(place % grid.across) * step}px`;
    cell.style.top = `${Math.floor(place / grid.across) * line}px`;
    cell.tabIndex = place === grid.at ? 0 : -1;
    cell.dataset.place = String(place);
    cells.push(cell);
  }
  const focused = document.activeElement?.dataset?.place;
  space.replaceChildren(...cells);
  if (focused !== undefined) space.querySelector(`[data-place="${focused}"]`)?.focus({ preventScroll: true });
}

function gridCell(at, key) {
  const [name, count] = [store.folder.images[at], store.folder.counts[at]];
  const picture = element("img", { src: `thumb/${at}`, alt: "" });
  picture.onerror = () => { if (picture.hasAttribute("src")) cell.append(element("span", { class: "badge bad" }, "cannot be read")); };
  const cell = element("button", { type: "button", class: "cell", "data-key": key, title: visible(name) }, picture, element("span", { class: "name" }, element("bdi", {}, visible(name))));
  if (count) cell.append(element("span", { class: "badge" }, plural(count, "region")));
  cell.style.width = `${CELL.width}px`;
  cell.style.height = `${CELL.height}px`;
  cell.onclick = () => goTo(at);
  return cell;
}

// Thumbnails that have not come yet would keep the image that was opened waiting.
function stopThumbs() {
  for (const picture of $("space").querySelectorAll("img")) {
    if (picture.complete) continue;
    picture.removeAttribute("src");
    picture.closest(".cell").remove();
  }
}

function moveInGrid(by) {
  if (!grid.shown.length) return;
  grid.at = Math.min(Math.max(grid.at + by, 0), grid.shown.length - 1);
  const [line, scroller] = [CELL.height + CELL.gap, $("scroller")];
  const top = Math.floor(grid.at / grid.across) * line;
  if (top < scroller.scrollTop) scroller.scrollTop = top;
  else if (top + line > scroller.scrollTop + scroller.clientHeight) scroller.scrollTop = top + line - scroller.clientHeight;
  drawGrid();
  $("space").querySelector(`[data-place="${grid.at}"]`)?.focus({ preventScroll: true });
}
