// Review: decisions live in this browser until they are exported; the run folder is never touched from here.
const storageKey = `refine-ops-review:${facts.key}`;
const decisions = new Map(readDecisions());
const undone = [];

function readDecisions() {
  try { return JSON.parse(localStorage.getItem(storageKey) ?? "[]"); } catch { return []; }
}

const keyOf = (row) => `${index.run[row]}/${index.id[row]}`;
const decisionOf = (row) => decisions.get(keyOf(row));

function decide(row, change, fingerprint) {
  const before = decisionOf(row);
  undone.push([keyOf(row), before]);
  const entry = { run: facts.runs[index.run[row]], item_id: index.id[row], fingerprint, decision: "", note: "", ...before, ...change, at: new Date().toISOString() };
  if (entry.decision || entry.note) decisions.set(keyOf(row), entry);
  else decisions.delete(keyOf(row));
  keepDecisions();
}

function undo() {
  const last = undone.pop();
  if (!last) return;
  if (last[1]) decisions.set(last[0], last[1]);
  else decisions.delete(last[0]);
  keepDecisions();
}

function keepDecisions() {
  try { localStorage.setItem(storageKey, JSON.stringify([...decisions])); } catch { /* private window: kept until closed */ }
  tally();
}

function tally() {
  const all = [...decisions.values()];
  const count = (d) => all.filter((e) => e.decision === d).length;
  $("tally").textContent = all.length ? `${count("approve")} approved, ${count("reject")} rejected, ${all.filter((e) => e.note).length} with a note` : "nothing reviewed yet";
}

function exportDecisions() {
  const body = { schema: "refine-ops/decisions/1", report: facts.key, decisions: [...decisions.values()] };
  const url = URL.createObjectURL(new Blob([JSON.stringify(body, null, 1)], { type: "application/json" }));
  element("a", { href: url, download: "decisions.json" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
