// Data: JSON in inert script blocks of this file, or the same JSON in scripts beside it (file:// forbids fetch).
const facts = JSON.parse($("report").textContent);
const KEPT_PAGES = 48;
const pages = new Map();
const arrivals = new Map();

window.refineReport = (name, payload) => arrivals.get(name)?.(payload);

function load(kind, number) {
  const name = `${kind}-${String(number).padStart(5, "0")}`;
  let page = pages.get(name);
  if (page) pages.delete(name);
  else page = $(name) ? Promise.resolve(JSON.parse($(name).textContent)) : fetchScript(name);
  pages.set(name, page);
  if (pages.size > KEPT_PAGES) pages.delete(pages.keys().next().value);
  return page;
}

function fetchScript(name) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    arrivals.set(name, resolve);
    script.onload = () => { arrivals.delete(name); script.remove(); };
    script.onerror = () => { pages.delete(name); reject(new Error(`data/${name}.js cannot be read; keep the report's folder together`)); };
    script.src = `data/${name}.js`;
    document.head.append(script);
  });
}

const number = (value, digits) => (value == null ? "–" : value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }));

// The index: one array per column, filled chunk by chunk; a row's number is its rank, worst first.
const index = { size: 0, id: [], run: [], text: [], findings: [], page: [], metrics: {}, slices: {} };
for (const metric of facts.metrics) index.metrics[metric.name] = [];
for (const name of Object.keys(facts.slices)) index.slices[name] = [];

function addChunk(chunk) {
  for (const name of ["id", "run", "text", "findings", "page"]) append(index[name], chunk[name]);
  for (const name of Object.keys(index.metrics)) append(index.metrics[name], chunk.metrics[name]);
  for (const name of Object.keys(index.slices)) append(index.slices[name], chunk.slices[name]);
  index.size = index.id.length;
}

function append(target, source) {
  for (let i = 0; i < source.length; i++) target.push(source[i]);
}

function rowOf(id, run) {
  for (let row = 0; row < index.size; row++) if (index.id[row] === id && index.run[row] === run) return row;
  return -1;
}

function findingLabels(row) {
  return facts.findings.filter((_, bit) => index.findings[row] & (1 << bit)).map((f) => f.label);
}
