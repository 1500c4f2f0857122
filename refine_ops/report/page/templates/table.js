// The table: filter and sort work on the index; only the rows in view exist in the document.
const view = { rows: new Uint32Array(0), q: "", finding: "", metric: "", least: "", reviewed: "", sort: "rank", down: "", slices: {} };
const columns = facts.columns.map((name) => facts.metrics.find((m) => m.name === name));
const rowHeight = () => parseFloat(getComputedStyle(document.documentElement).getPropertyValue("--row"));
let lowered = [];

function buildTools() {
  $("table").style.setProperty("--columns", columns.length);
  const flagged = facts.findings.filter((f) => f.count).map((f) => element("option", { value: f.code }, `${f.label} (${f.count})`));
  $("finding").append(element("option", { value: "" }, "all items"), element("option", { value: "any" }, `flagged (${facts.flagged})`), element("option", { value: "none" }, "clean"), ...flagged);
  $("metric").append(element("option", { value: "" }, "any"), ...facts.metrics.map((m) => element("option", { value: m.name }, `${m.label}, ${m.unit}`)));
  $("sort").append(element("option", { value: "rank" }, "worst first"), element("option", { value: "id" }, "item id"), ...facts.metrics.map((m) => element("option", { value: m.name }, m.label)));
  for (const [name, values] of Object.entries(facts.slices)) {
    const select = element("select", { id: `slice-${name}` }, element("option", { value: "" }, "all"));
    values.forEach((value, i) => select.append(element("option", { value: String(i) }, visible(value))));
    select.addEventListener("change", () => { view.slices[name] = select.value; refresh(); });
    $("slices").append(element("label", {}, `${name} `, select));
  }
  for (const name of ["finding", "metric", "least", "reviewed", "sort"]) $(name).addEventListener("input", () => { view[name] = $(name).value; if (name === "sort") view.down = ""; refresh(); });
  $("search").addEventListener("input", () => { view.q = $("search").value; refresh(); });
  $("scroller").addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
  addEventListener("resize", () => { sizeTable(); draw(); });
  const heading = (name, label) => element("span", { role: "columnheader", "data-sort": name }, element("button", { type: "button" }, label));
  $("head").append(element("span", { role: "columnheader" }, "picture"), heading("id", "item"), heading("rank", "findings, worst first"), ...columns.map((m) => heading(m.name, `${m.label}, ${m.unit}`)), element("span", { role: "columnheader" }, "review"));
  $("head").addEventListener("click", (event) => {
    const name = event.target.closest("[data-sort]")?.dataset.sort;
    if (!name) return;
    view.down = view.sort === name && !view.down ? "1" : "";
    view.sort = $("sort").value = name;
    refresh();
  });
}

function matches(row) {
  const bits = index.findings[row];
  if (view.finding === "any" ? !bits : view.finding === "none" ? bits : view.finding && !(bits & (1 << facts.findings.findIndex((f) => f.code === view.finding)))) return false;
  for (const [name, value] of Object.entries(view.slices)) if (value !== "" && value !== undefined && index.slices[name][row] !== Number(value)) return false;
  if (view.metric) {
    const value = index.metrics[view.metric][row];
    if (value == null || (view.least !== "" && value < Number(view.least))) return false;
  }
  if (view.reviewed) {
    const entry = decisionOf(row);
    if (view.reviewed === "open" ? entry?.decision : view.reviewed === "note" ? !entry?.note : entry?.decision !== view.reviewed) return false;
  }
  return !view.q || (lowered[row] ??= `${index.id[row]}\n${index.text[row]}`.toLowerCase()).includes(view.q.toLowerCase());
}

function refresh() {
  const kept = [];
  for (let row = 0; row < index.size; row++) if (matches(row)) kept.push(row);
  const rows = Uint32Array.from(kept);
  if (view.sort === "id") rows.sort((a, b) => (index.id[a] < index.id[b] ? -1 : index.id[a] > index.id[b] ? 1 : a - b));
  else if (view.sort !== "rank") {
    const values = index.metrics[view.sort];
    const metric = facts.metrics.find((m) => m.name === view.sort);
    const sign = metric.worse === "down" ? 1 : -1;
    const key = Float64Array.from(values, (v) => (v == null ? Infinity : sign * v));
    rows.sort((a, b) => key[a] - key[b] || a - b);
  }
  view.rows = view.down ? rows.reverse() : rows;
  for (const cell of $("head").querySelectorAll("[data-sort]")) {
    if (cell.dataset.sort === view.sort) cell.setAttribute("aria-sort", view.down ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  }
  $("count").textContent = `${number(rows.length, 0)} of ${number(index.size, 0)}${index.size < facts.items ? `, ${number(facts.items, 0)} loading` : ""}`;
  $("table").setAttribute("aria-rowcount", String(rows.length));
  $("scroller").scrollTop = 0;
  sizeTable();
  draw();
  keepState();
}

function sizeTable() {
  const height = view.rows.length * rowHeight();
  $("space").style.height = `${height}px`;
  $("scroller").style.height = `min(70vh, 900px, ${Math.max(height, rowHeight()) + 2}px)`;
}

function draw() {
  const height = rowHeight();
  const first = Math.max(0, Math.floor($("scroller").scrollTop / height) - 4);
  const last = Math.min(view.rows.length, first + Math.ceil($("scroller").clientHeight / height) + 8);
  const old = new Map([...$("space").children].map((node) => [node.dataset.key, node]));
  const nodes = [];
  for (let at = first; at < last; at++) {
    const row = view.rows[at];
    const key = `${at}:${row}:${decisionOf(row)?.at ?? ""}`;
    nodes.push(old.get(key) ?? drawRow(row, at, height, key));
    old.delete(key);
  }
  for (const node of old.values()) node.remove();
  nodes.forEach((node, i) => { if ($("space").children[i] !== node) $("space").insertBefore(node, $("space").children[i] ?? null); });
}

function drawRow(row, at, height, key) {
  const picture = element("img", { class: "thumb", width: 48, height: 48, alt: "" });
  load("thumbs", index.page[row]).then((thumbs) => { if (thumbs[row]) picture.src = thumbs[row]; else picture.replaceWith(element("span", { "aria-hidden": "true" })); }).catch(complain);
  const cell = (content, name = "") => element("span", { role: "cell", class: name }, content);
  const decision = decisionOf(row);
  const values = columns.map((m) => {
    const value = index.metrics[m.name][row];
    const over = value != null && m.limit != null && value > m.limit;
    return cell(`${number(value, m.digits)}${over ? " ▲" : ""}`, over ? "over" : "");
  });
  const node = element("div", { role: "row", class: `row ${decision?.decision ?? ""}`, "aria-rowindex": String(at + 2), "data-key": key },
    cell(picture), cell(element("a", { href: linkTo(row), dir: "auto" }, visible(index.id[row]))), cell(findingLabels(row).join(", "), "why"), ...values,
    cell(decision ? `${{ approve: "✓", reject: "✗" }[decision.decision] ?? ""}${decision.note ? " ✎" : ""}` : ""));
  node.style.top = `${at * height}px`;
  return node;
}

function complain(error) {
  $("count").textContent = error.message;
}

// The address holds the filter and the open item, so that both can be sent to a colleague.
const linkTo = (row) => `#${stateParameters(row)}`;

function stateParameters(row) {
  const state = new URLSearchParams();
  for (const name of ["q", "finding", "metric", "least", "reviewed", "down"]) if (view[name]) state.set(name, view[name]);
  if (view.sort !== "rank") state.set("sort", view.sort);
  for (const [name, value] of Object.entries(view.slices)) if (value) state.set(`slice.${name}`, value);
  if (row != null && row >= 0) {
    state.set("item", index.id[row]);
    if (index.run[row]) state.set("run", String(index.run[row]));
  }
  return state;
}

function keepState() {
  history.replaceState(null, "", `#${stateParameters(viewer.row)}`);
}

function readState() {
  const state = new URLSearchParams(location.hash.slice(1));
  const names = [...state.keys()].filter((name) => name !== "item" && name !== "run");
  if (!names.length) return state;
  for (const name of ["q", "finding", "metric", "least", "reviewed", "down"]) view[name] = state.get(name) ?? "";
  const sort = state.get("sort");
  view.sort = sort === "id" || sort in index.metrics ? sort : "rank";
  if (view.metric && !(view.metric in index.metrics)) view.metric = "";
  for (const name of Object.keys(facts.slices)) $(`slice-${name}`).value = view.slices[name] = state.get(`slice.${name}`) ?? "";
  $("search").value = view.q;
  for (const name of ["finding", "metric", "least", "reviewed", "sort"]) $(name).value = view[name];
  return state;
}
