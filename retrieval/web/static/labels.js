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
let current = null; // the query on the page: key, query, box, name, labels (id -> label), hits, asked (what is being saved)
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
  signal.throwIfAborted();
  progress(told);
  if (query === null) return;
  const key = `${query} ${state.box ?? ""}`;
  current = { key, query, box: state.box, name: photograph.name, labels: told.labels, hits: new Map(), asked: new Map() };
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

// The marks as they are on disk; a button that was pressed stays so until the server has answered.
function draw() {
  for (const [id, { item, set }] of current.hits) {
    const label = current.labels[id] ?? "";
    set.querySelector(`[value="${current.asked.get(id)?.label ?? label}"]`).checked = true;
    item.dataset.mark = label;
  }
}

// here: whether the next query is the one after the query that is on the page.
function progress(told, here = true) {
  const done = told.queries > 0 && told.labelled === told.queries;
  byId("progress").textContent = `${told.labelled.toLocaleString("en")} of ${plural(told.queries, "query", "queries")} labelled${done ? ": all of them" : ""}.`;
  byId("label-after").hidden = !done;
  for (const id of here ? ["next", "next-below"] : []) {
    byId(id).hidden = told.next === null;
    if (told.next !== null) byId(id).setAttribute("href", address(searching(told.next)));
  }
}

function mark(hit, label) {
  const { key, query, box, name, asked } = current, own = { label };
  asked.set(hit.id, own);
  next(async () => {
    try {
      const told = await send({ query, box, hit: hit.id, label: label || null }, key);
      if ((told.before ?? "") !== label) made.push({ key, query, box, name, hit, label, before: told.before ?? "" });
      say(`${shown(hit.name)}: ${SAYS[label]}. Saved.`);
    } finally {
      if (asked.get(hit.id) === own) asked.delete(hit.id);
    }
  });
}

function undo() {
  next(async () => {
    const last = made.pop();
    if (!last) return say("There is nothing to undo.");
    const { key, query, box, name, hit, label, before } = last;
    try {
      await send({ query, box, hit: hit.id, label: before || null, expected: label || null }, key);
    } catch (error) {
      if (error.status !== 409) made.push(last);
      throw error;
    }
    say(`Undone: ${shown(hit.name)} is ${SAYS[before]}${current?.key === key ? "" : `, for ${shown(name)}`}. Saved.`);
    if (current?.key !== key) return;
    draw();
    focus(current.hits.get(hit.id));
  });
}

// One after the other, in the order of the keys, however fast they come.
function next(work) {
  saving = saving.then(work).catch(async (error) => {
    tell(`${error.status ? "Not saved" : "It is not sure that this was saved"}. ${error.message}`);
    const here = current, told = here && (await api.labels(here.query, here.box).catch(() => null));
    if (told) here.labels = told.labels;
  }).then(() => current && draw());
}

// The page shows as marked what the server says that it has saved.
async function send(wanted, key) {
  const told = await api.mark(wanted);
  if (current?.key === key) current.labels = told.labels;
  tell("");
  progress(told, current?.key === key);
  return told;
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
