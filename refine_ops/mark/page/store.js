// What is known: the folder, the open image's regions, what was done (to undo it), and what still has to be saved.
"use strict";
const store = {
  folder: null,
  current: -1,
  heading: -1,  // the image that is being opened, or is open
  width: 0,
  height: 0,
  regions: [],
  selected: null,
  done: [],
  undone: [],
};
const versions = new Map();  // by image: what the server calls its latest state
const agreed = new Map();  // by image: the regions that the server has
const waiting = new Map();  // by image: regions that it does not have yet
const listeners = [];
const tab = crypto.randomUUID();  // by which the server tells this tab's changes from another's
const SOON_MS = 250;
const AGAIN_MS = 1500;
let sending = false;
let timer = 0;

const onChange = (listener) => listeners.push(listener);
const changed = (what) => listeners.forEach((listener) => listener(what));
const plural = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;
const selectedRegion = () => store.regions.find((region) => region.region_id === store.selected);

async function ask(path, options) {
  const answer = await fetch(path, options);
  const body = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(body.error), { status: answer.status });
  return body;
}

// False where somebody went on to another image meanwhile.
async function openImage(number) {
  await sendWaiting();
  const asked = await ask(`api/image/${number}`);
  if (number !== store.heading) return false;
  versions.set(number, asked.version);
  agreed.set(number, asked.regions);
  Object.assign(store, { current: number, width: asked.width, height: asked.height, regions: asked.regions, selected: null });
  return true;
}

// `kind`: changes of one kind that follow each other (letters typed in one field) are one step to undo.
function setRegions(regions, { kind = "", selected = store.selected } = {}) {
  const last = store.done.at(-1);
  if (!(kind && last?.kind === kind && last.image === store.current)) store.done.push({ image: store.current, before: store.regions, kind });
  store.undone = [];
  apply(regions, selected, kind.startsWith("prompt"));
}

function apply(regions, selected, typing = false) {
  store.regions = regions;
  store.selected = regions.some((region) => region.region_id === selected) ? selected : null;
  store.folder.counts[store.current] = regions.length;
  waiting.set(store.current, regions);
  clearTimeout(timer);
  timer = setTimeout(sendWaiting, typing ? SOON_MS : 0);
  tellSaved();
  changed(typing ? "prompt" : "regions");
}

async function travel(from, to) {
  const step = from.at(-1);
  if (!step) return;
  if (step.image !== store.current) await showImage(step.image);
  if (store.current !== step.image || from.pop() !== step) return;  // went elsewhere meanwhile
  to.push({ ...step, before: store.regions, kind: "" });
  apply(step.before, store.selected);
}
const undo = () => travel(store.done, store.undone);
const redo = () => travel(store.undone, store.done);

const changeRegion = (id, change, kind = "") =>
  setRegions(store.regions.map((region) => (region.region_id === id ? { ...region, ...change } : region)), { kind });

function newId() {
  const taken = new Set(store.regions.map((region) => region.region_id));
  let number = store.regions.length + 1;
  while (taken.has(String(number))) number += 1;
  return String(number);
}

function addRegion(shape) {
  const region = { region_id: newId(), prompt: "", ...shape };
  setRegions([...store.regions, region], { selected: region.region_id });
}

// One change after another; what comes meanwhile waits, and of one image only the latest is sent.
async function sendWaiting() {
  clearTimeout(timer);
  if (sending) { await sending; return waiting.size && !store.trouble ? sendWaiting() : undefined; }
  sending = sendAll();
  try { await sending; } finally { sending = false; tellSaved(); }
}

async function sendAll() {
  while (waiting.size) {
    const [number, regions] = waiting.entries().next().value;
    try {
      const body = JSON.stringify({ version: versions.get(number), tab, regions });
      const { version } = await ask(`api/image/${number}`, { method: "PUT", headers: { "Content-Type": "application/json" }, body });
      versions.set(number, version);
      agreed.set(number, regions);
      if (waiting.get(number) === regions) waiting.delete(number);
      trouble("");
    } catch (error) {
      if (error.status === 422) refused(number, error.message);
      else if (error.status === 409) await superseded(number, error.message);
      else {
        trouble(error.status ? `Not saved: ${error.message}` : "Not saved: the server has stopped. Everything up to your last change is in the manifest; start `refine-ops mark` again and open the address it prints.");
        timer = setTimeout(sendWaiting, AGAIN_MS);
        return;
      }
    }
  }
}

// The last change cannot be in a manifest: it is taken back, and said.
function refused(number, message) {
  waiting.delete(number);
  if (number === store.current) {
    store.done.pop();
    store.regions = agreed.get(number);
    store.folder.counts[number] = store.regions.length;
    changed("regions");
  }
  say(message);
}

async function superseded(number, message) {
  waiting.delete(number);
  store.done = store.done.filter((step) => step.image !== number);
  store.undone = [];
  trouble(message);
  if (number === store.current) {
    const asked = await ask(`api/image/${number}`).catch(() => null);
    if (asked) {
      versions.set(number, asked.version);
      agreed.set(number, asked.regions);
      store.regions = asked.regions;
      changed("regions");
    }
  }
}

function trouble(message) {
  store.trouble = message;
  $("trouble").textContent = visible(message);
  $("trouble").hidden = !message;
  tellSaved();
}

function tellSaved() {
  const counts = store.folder?.counts ?? [];
  const images = counts.filter(Boolean).length;
  const regions = counts.reduce((sum, count) => sum + count, 0);
  const line = $("saved");
  line.className = store.trouble ? "bad" : waiting.size ? "busy" : "";
  if (store.trouble) line.textContent = "not saved";
  else if (waiting.size) line.textContent = "saving …";
  else line.textContent = regions ? `saved: ${plural(regions, "region")} in ${plural(images, "image")} · ${visible(store.folder.manifest_name)}` : "nothing marked yet";
}

addEventListener("pagehide", () => {
  for (const [number, regions] of waiting) {
    const body = JSON.stringify({ version: versions.get(number), tab, regions });
    fetch(`api/image/${number}`, { method: "PUT", headers: { "Content-Type": "application/json" }, body, keepalive: body.length < 60000 });
  }
});
