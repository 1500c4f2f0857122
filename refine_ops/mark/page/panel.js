// The list of regions: what to do with each, how it should look, where it is in numbers.
"use strict";
const KINDS = { box: "box", scribble: "scribble", mask: "painted" };
const EMPTY = "Nothing is marked yet. Drag a box round what should be refined; scribble over it or paint it if it is no box.";
let written = "";  // the prompt that was written last, on whichever image
const kindOf = (region) => Object.keys(KINDS).find((kind) => region[kind]);

function drawPanel(what) {
  const { regions, selected } = store;
  $("region-count").textContent = regions.length || "";
  $("empty").textContent = regions.length || $("unreadable").hidden === false ? "" : EMPTY;
  $("copy").disabled = !regions.length || store.current + 1 >= store.folder.images.length;
  $("done").hidden = !regions.length;
  $("new-region").disabled = !selected;
  $("undo").disabled = !store.done.length;
  $("redo").disabled = !store.undone.length;
  if (what === "prompt") return;  // somebody is typing in it
  const [focus, name] = [document.activeElement, document.activeElement?.dataset?.field];
  const of = focus?.closest?.(".region")?.dataset.region;
  $("region-list").replaceChildren(...regions.map((region, place) => regionCard(region, place, region.region_id === selected)));
  if (of !== undefined && name) document.querySelector(`.region[data-region="${CSS.escape(of)}"] [data-field="${name}"]`)?.focus();
  document.querySelector(".region.selected")?.scrollIntoView({ block: "nearest" });
}

function regionCard(region, place, selected) {
  const id = region.region_id;
  const pick = element("button", { type: "button", class: "pick", "data-field": "pick", "aria-pressed": String(selected) }, `${place + 1} · ${KINDS[kindOf(region)]}`);
  pick.onclick = () => select(id);
  const remove = element("button", { type: "button", class: "delete", "data-field": "delete", "aria-label": `Delete region ${place + 1}` }, "Delete");
  remove.onclick = () => deleteRegion(id);
  const prompt = element("textarea", { rows: "2", "data-field": "prompt", maxlength: "4096", placeholder: store.folder.default_prompt });
  prompt.value = region.prompt;
  prompt.oninput = () => { written = prompt.value; card.querySelector(".again")?.remove(); changeRegion(id, { prompt: prompt.value }, `prompt ${id}`); };
  prompt.onfocus = () => { if (store.selected !== id) select(id, false); };
  const card = element("li", { class: `region${selected ? " selected" : ""}`, "data-region": id });
  card.append(element("div", { class: "top" }, pick, remove), element("label", {}, "What to do", prompt));
  if (written && !region.prompt) {
    const again = element("button", { type: "button", class: "again", "data-field": "again" }, `As before: ${visible(written)}`, " ", element("kbd", {}, "w"));
    again.onclick = () => changeRegion(id, { prompt: written });
    card.append(again);
  }
  if (store.folder.references.length || region.reference) card.append(referenceButton(region, place));
  if (selected && region.box) card.append(boxNumbers(region));
  return card;
}

function boxNumbers(region) {
  const names = ["left", "top", "right", "bottom"];
  const fields = names.map((name, at) => {
    const field = element("input", { type: "number", "data-field": name, "aria-label": `${name}, in pixels`, min: "0" });
    field.value = String(region.box[at]);
    field.onchange = () => {
      const box = [...region.box];
      box[at] = Number(field.value);
      changeRegion(region.region_id, { box: insideBox(box) });
    };
    return field;
  });
  return element("div", { class: "numbers", role: "group", "aria-label": "The box in pixels: left, top, right, bottom" }, ...fields);
}

function referenceButton(region, place) {
  const at = store.folder.references.findIndex((reference) => reference.uri === region.reference);
  const name = region.reference ? store.folder.references[at]?.name ?? region.reference : "";
  const button = element("button", { type: "button", class: "reference", "data-field": "reference" });
  if (at >= 0) button.append(element("img", { src: `reference/${at}`, alt: "" }));
  button.append(element("span", {}, region.reference ? `Should look like ${visible(name)}` : "Choose how it should look"));
  button.onclick = () => chooseReference(region.region_id);
  return button;
}

function deleteRegion(id) {
  const at = store.regions.findIndex((region) => region.region_id === id);
  const rest = store.regions.filter((region) => region.region_id !== id);
  setRegions(rest, { selected: rest[Math.min(at, rest.length - 1)]?.region_id ?? null });
  $("stage").focus({ preventScroll: true });
}

function select(id, redrawList = true) {
  store.selected = id;
  if (redrawList) return changed("selection");
  drawMarks();
  for (const card of document.querySelectorAll(".region")) card.classList.toggle("selected", card.dataset.region === id);
}

const MOST_SHOWN = 200;
function chooseReference(id) {
  if (!store.folder.references.length) return say("Start `refine-ops mark` with --references FOLDER to choose from the pictures in it.");
  select(id);
  $("reference-search").value = "";
  listReferences();
  $("references").showModal();
}

function listReferences() {
  const wanted = $("reference-search").value.toLowerCase();
  const found = store.folder.references.map((reference, at) => ({ ...reference, at })).filter((reference) => reference.name.toLowerCase().includes(wanted));
  $("reference-count").textContent = found.length > MOST_SHOWN ? `the first ${MOST_SHOWN} of ${found.length}` : plural(found.length, "picture");
  $("reference-list").replaceChildren(...found.slice(0, MOST_SHOWN).map((reference) => {
    const button = element("button", { type: "button", "aria-pressed": String(reference.uri === selectedRegion()?.reference) }, element("img", { src: `reference/${reference.at}`, alt: "", loading: "lazy" }), element("span", {}, visible(reference.name)));
    button.onclick = () => setReference(reference.uri);
    return button;
  }));
}

function setReference(uri) {
  $("references").close();
  changeRegion(store.selected, { reference: uri });
}
