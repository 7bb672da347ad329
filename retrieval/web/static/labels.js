// The labelling mode: what somebody says of each hit, saved at once, to be taken back, and how far the list is done.

import * as api from "./api.js";
import { byId, html, plural, shown } from "./dom.js";
import { address, searching } from "./state.js";

const CHOICES = [["positive", "Right"], ["wrong", "Wrong"], ["junk", "Junk"], ["", "None"]];
const SAYS = { positive: "right", wrong: "wrong", junk: "junk", "": "not marked" };
// Heard only while the focus is on a hit, as single letters belong to browsers and screen readers elsewhere.
const KEYS = { r: "positive", w: "wrong", j: "junk", delete: "", backspace: "" };

const made = []; // marks of this page, to be undone
let saving = Promise.resolve(); // one after the other, in the order of the keys
let current = null; // the query on the page: key, query, box, name, labels (id -> label), hits
let tell = () => {};

export function listen(problem, go) {
  tell = problem;
  byId("undo").addEventListener("click", undo);
  byId("hits").addEventListener("keydown", (event) => pressed(event, go));
}

// What was said of the hits on the page; found: null where nothing was searched.
export async function show(state, index, photograph, found, signal) {
  const before = current;
  current = null;
  byId("label-file").textContent = shown(index.labels);
  byId("label-command").textContent = `retrieval evaluate ${shown(index.name)} ${shown(index.labels)}`;
  byId("label-note").hidden = !photograph?.uploaded;
  const query = photograph && !photograph.uploaded ? photograph.id : null;
  const told = await api.labels(query, query && state.box, signal);
  progress(told);
  if (query === null) return;
  const key = `${query} ${state.box ?? ""}`;
  current = { key, query, box: state.box, name: photograph.name, labels: told.labels, hits: new Map() };
  if (before?.key !== key) byId("label-status").textContent = "";
  [...byId("hits").children].forEach((item, i) => {
    if (found.hits[i].id !== query) item.append(group(found.hits[i], item));
  });
  draw();
}

function group(hit, item) {
  const options = CHOICES.map(([value, text]) =>
    html("label", {}, html("input", { type: "radio", name: `mark-${hit.id}`, value }), html("span", {}, text)));
  const set = html("fieldset", { class: "marks" }, html("legend", { class: "spoken" }, `Mark ${shown(hit.name)} as`), ...options);
  current.hits.set(hit.id, { hit, item, set });
  set.addEventListener("change", (event) => mark(hit, event.target.value));
  return set;
}

// The marks as they are on disk.
function draw() {
  for (const [id, { item, set }] of current.hits) {
    const label = current.labels[id] ?? "";
    set.querySelector(`[value="${label}"]`).checked = true;
    item.dataset.mark = label;
  }
}

function progress(told) {
  const done = told.queries > 0 && told.labelled === told.queries;
  byId("progress").textContent = `${told.labelled.toLocaleString("en")} of ${plural(told.queries, "query", "queries")} labelled${done ? ": all of them" : ""}.`;
  byId("label-after").hidden = !done;
  for (const id of ["next", "next-below"]) {
    byId(id).hidden = told.next === null;
    if (told.next !== null) byId(id).setAttribute("href", address(searching(told.next)));
  }
}

function mark(hit, label) {
  const { key, query, box, name } = current;
  return save({ query, box, hit: hit.id, label: label || null }, key, (told) => {
    if ((told.before ?? "") === label) return;
    made.push({ key, query, box, name, hit, label, before: told.before ?? "" });
    say(`${shown(hit.name)}: ${SAYS[label]}. Saved.`);
  });
}

function undo() {
  const last = made.pop();
  if (!last) return say("There is nothing to undo.");
  const { key, query, box, hit, label, before } = last;
  return save({ query, box, hit: hit.id, label: before || null, expected: label || null }, key, () => {
    const where = current?.key === key ? "" : `, for ${shown(last.name)}`;
    say(`Undone: ${shown(hit.name)} is ${SAYS[before]}${where}. Saved.`);
    if (current?.key === key) focus(current.hits.get(hit.id));
  });
}

// One request after the other; the page shows what the server says it has saved.
function save(wanted, key, then) {
  saving = saving.then(async () => {
    try {
      const told = await api.mark(wanted);
      if (current?.key === key) {
        current.labels = told.labels;
        draw();
      }
      tell("");
      progress(told);
      then(told);
    } catch (error) {
      tell(`${error.status ? "Not saved" : "It is not sure that this was saved"}. ${error.message}`);
      const told = current?.key === key ? await api.labels(current.query, current.box).catch(() => null) : null;
      if (told && current?.key === key) current.labels = told.labels;
      if (current?.key === key) draw();
    }
  });
  return saving;
}

function say(text) {
  byId("label-status").textContent = text;
}

const focus = (one) => (one?.set.querySelector(":checked") ?? one?.item.querySelector("a"))?.focus();

function pressed(event, go) {
  const item = event.target.closest("#hits > li");
  if (!current || !item || event.repeat || event.isComposing || event.ctrlKey || event.altKey || event.metaKey) return;
  // letters where they lie on the keyboard, for keyboards of other scripts
  const key = (/^[^\x20-\x7e]$/u.test(event.key) ? event.code.replace(/^Key/, "") : event.key).toLowerCase();
  const all = [...current.hits.values()], at = all.findIndex((one) => one.item === item);
  if (key === "u") undo();
  else if (key === "n" && !byId("next").hidden) go(new URL(byId("next").href).search);
  else if (key in KEYS && at >= 0) {
    const { hit, set } = all[at];
    set.querySelector(`[value="${KEYS[key]}"]`).checked = true;
    mark(hit, KEYS[key]);
    if (at + 1 < all.length) focus(all[at + 1]);
    else [byId("more"), byId("next-below"), byId("undo")].find((one) => !one.hidden).focus();
  } else return;
  event.preventDefault();
}
