// Wiring: buttons, keys, the address, and the chunks of the index as they arrive.
function followAddress() {
  const before = stateParameters().toString();
  const state = readState();
  if (stateParameters().toString() !== before) refresh();
  openFrom(state);
}

function openFrom(state) {
  const id = state.get("item");
  if (id === null) return;
  const row = rowOf(id, Number(state.get("run") ?? 0));
  if (row >= 0 && row !== viewer.row) openItem(row);
}

const keys = {
  j: () => step(1), k: () => step(-1), ArrowRight: () => step(1), ArrowLeft: () => step(-1),
  a: () => review({ decision: "approve" }, true), x: () => review({ decision: "reject" }, true),
  n: () => $("note").focus(), u: () => { undo(); showDecision(); },
  o: () => { $("outlines").click(); }, " ": () => viewer.mode === 2 && viewer.flip?.(),
};
MODES.forEach((_, i) => { keys[String(i + 1)] = () => setMode(i); });

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches("input:not([type=range], [type=checkbox]), select, textarea");
  if (event.key === "Enter" && event.target === $("note")) { event.target.blur(); $("stage").focus(); return; }
  if (typing || (event.target.matches("input[type=range]") && event.key.startsWith("Arrow"))) return;
  if (event.key === " " && event.target.matches("button, input, a")) return;
  if ($("item").open && keys[event.key]) { event.preventDefault(); keys[event.key](); }
  else if (!$("item").open && event.key === "/") { event.preventDefault(); $("search").focus(); }
  else if (!$("item").open && event.key === "j" && view.rows.length) openItem(view.rows[0]);
});

$("item").addEventListener("cancel", (event) => { event.preventDefault(); closeItem(); });
$("close").onclick = closeItem;
$("next").onclick = () => step(1);
$("previous").onclick = () => step(-1);
$("approve").onclick = () => review({ decision: "approve" }, true);
$("reject").onclick = () => review({ decision: "reject" }, true);
$("undo").onclick = () => { undo(); showDecision(); };
$("note").onchange = () => review({ note: $("note").value }, false);
$("place").onchange = $("zoom").onchange = $("outlines").onchange = drawStage;
$("gain").oninput = () => {
  $("gain-value").textContent = `×${gain()}`;
  for (const slope of $("heat").querySelectorAll("[slope]")) slope.setAttribute("slope", String(gain()));
  const caption = viewer.mode === 3 && $("stage").querySelector("figure:last-child figcaption");
  if (caption) caption.textContent = `largest channel difference, ×${gain()}`;
};
$("export").onclick = exportDecisions;
addEventListener("hashchange", followAddress);

async function start() {
  buildTools();
  tally();
  const asked = readState();
  for (let chunk = 0; chunk < facts.chunks; chunk++) {
    addChunk(await load("index", chunk));
    if (chunk === 0 || chunk === facts.chunks - 1) refresh();
  }
  pages.clear();
  openFrom(asked);
  document.documentElement.dataset.ready = "1";
}

start().catch(complain);
