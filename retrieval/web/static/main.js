// Puts the page together: the address says what is shown, and everything that happens changes the address.

import * as api from "./api.js";
import { BoxEditor } from "./boxes.js";
import * as collection from "./collection.js";
import { byId, plural, shown } from "./dom.js";
import { isBox } from "./geometry.js";
import * as groups from "./groups.js";
import * as labels from "./labels.js";
import * as match from "./match.js";
import * as results from "./results.js";
import { address, browsing, read, searching } from "./state.js";
import { listen } from "./uploads.js";

const TITLE = "Find the same place";
const PAUSE = 250; // milliseconds after a letter before the collection is filtered
const tools = byId("tools");
const editor = new BoxEditor(byId("stage"), (box) => go({ ...read(), box, hit: null }));
let index = null;
let work = new AbortController();
let before = null; // what was shown last
let typing = null; // the timer that waits for the next letter of a name
let typed = false; // whether the address on the page came by typing
let last = { key: null, found: null, photograph: null }; // the search that is on the page

function tell(text) {
  byId("problem").textContent = text;
  byId("problem").hidden = !text;
}

function only(...shownIds) {
  if (index?.labels && !shownIds.includes("match") && !shownIds.includes("groups")) shownIds.push("labelling");
  for (const id of ["views", "intro", "query", "labelling", "results", "match", "groups", "collection"]) byId(id).hidden = !shownIds.includes(id);
}

function go(state, focus = null) {
  const { pathname, search } = new URL(address(state), location.href);
  clearTimeout(typing);
  typed = false;
  if (pathname + search !== location.pathname + location.search) history.pushState(null, "", pathname + search);
  return render(focus);
}

// Filters by what stands in the field, which is left alone; the back button goes to before the first letter.
function filter() {
  clearTimeout(typing);
  const find = byId("find-text").value.trim(), state = read();
  if (!state.q && state.find === find) return;
  const href = address(browsing(1, find));
  if (typed) history.replaceState(null, "", href);
  else history.pushState(null, "", href);
  typed = true;
  render();
}

async function render(focus = null) {
  work.abort();
  work = new AbortController();
  const { signal } = work, state = read(), from = before;
  if (!typed) byId("find-text").value = state.find;
  before = state;
  tell("");
  try {
    index ??= await api.about();
    describe();
    if (state.q && state.hit) await explain(state, signal);
    else if (state.groups) await group(state, signal);
    else if (!state.q) await browse(state, signal);
    else await search(state, signal);
    if (returned(from, state)) return;
    if (focus) byId(focus)?.focus({ preventScroll: focus === "results-title" });
  } catch (error) {
    if (error.name === "AbortError" || signal.aborted) return;
    document.title = TITLE;
    byId("results").removeAttribute("aria-busy");
    byId("status").textContent = "";
    results.partial(null);
    tell(error.message);
    if (error.status === 404) await instead(signal);
  }
}

// Back from a hit, a group or a photograph: to the card that led there, not to the top of the page.
function returned(from, state) {
  const group = from?.of && !state.of ? "of" : "hit";
  const [list, key] = state.groups ? [state.of ? "members" : "group-list", group] : state.q ? ["hits", group] : ["images", "q"];
  if (!from?.[key] || state[key]) return false;
  const link = [...byId(list).querySelectorAll("a")].find((one) => {
    const to = new URLSearchParams(one.search);
    return to.get(key) === from[key] && (key !== "hit" || to.get("q") === from.q);
  });
  link?.focus({ preventScroll: true });
  link?.scrollIntoView({ block: "center" });
  return Boolean(link);
}

function describe() {
  byId("about").textContent = `${plural(index.images, "photograph")} in ${shown(index.name)}`;
  byId("depth-note").textContent = `for the best ${index.depth} candidates`;
  tools.querySelector("[value=hqe]").disabled = !index.signatures;
  const none = "this index keeps no signatures";
  byId("auto-note").textContent = index.signatures ? "signatures vote, and what geometry confirms joins in; without geometry, similar details alone" : `by words and geometry: ${none}`;
  byId("hqe-note").textContent = index.signatures ? "Hamming query expansion, several words a detail" : `not possible: ${none}`;
}

async function browse(state, signal) {
  document.title = TITLE;
  only("views", "intro", "collection");
  views(0);
  await Promise.all([collection.show(state, signal), index.labels ? labels.show(state, index, null, null, signal) : null]);
}

function views(current) {
  [...byId("views").children].forEach((link, i) => (i === current ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current")));
}

async function group(state, signal) {
  only("views", "groups");
  views(1);
  document.title = `${await groups.show(state, index, signal)} – ${TITLE}`;
}

// What stood there belongs to something else: the collection offers a way on.
async function instead(signal) {
  only("views", "intro", "collection");
  views(0);
  await collection.show(browsing(1, ""), signal).catch(() => only("views", "intro"));
}

async function search(state, signal) {
  const key = address({ ...state, hit: null });
  const wanted = { id: state.q, box: state.box, top: state.top, verify: state.verify, expand: state.expand || "auto", mirror: state.mirror };
  const searched = last.key === key ? null : api.search(wanted, signal); // the photograph's facts come meanwhile
  searched?.catch(() => {}); // what went wrong is told where the answer is awaited
  if (last.photograph?.id !== state.q) {
    only();
    last = { key: null, found: null, photograph: await api.photograph(state.q, signal) };
    byId("hits").replaceChildren();
  }
  const { photograph } = last;
  only("query", "results");
  document.title = `${shown(photograph.name)} – ${TITLE}`;
  byId("query-name").textContent = `${shown(photograph.name)}${photograph.uploaded ? " (uploaded)" : ""}, ${photograph.size.join(" × ")} pixels`;
  fill(state);
  editor.show(photograph, state.box);
  if (searched) {
    byId("status").textContent = "Searching …";
    results.partial(null);
    byId("results").setAttribute("aria-busy", "true");
    last.found = await searched.finally(() => setTimeout(() => editor.sharpen())); // after the hits have been put in
    last.key = last.found.partial ? null : key;
    byId("results").removeAttribute("aria-busy");
  }
  results.show(state, last.found);
  results.partial(last.found, index.images);
  results.offer(last.found, signal);
  if (index.labels) await labels.show(state, index, photograph, last.found, signal);
}

async function explain(state, signal) {
  only("match");
  byId("match").replaceChildren();
  tell("");
  const once = ["none", "aqe"].includes(state.expand) || (!state.expand && !state.verify) ? "none" : "";
  const one = await api.explain(state.q, state.box, state.hit, state.mirror, once, signal);
  document.title = `${shown(one.image.name)} – ${TITLE}`;
  match.show(state, one, index.images, signal);
}

function fill(state) {
  ["x1", "y1", "x2", "y2"].forEach((name, i) => (tools.elements[name].value = state.box ? state.box[i] : ""));
  tools.elements.verify.checked = state.verify || state.expand === "aqe";
  tools.elements.verify.disabled = state.expand === "aqe";
  tools.elements.expand.value = state.expand;
  tools.elements.mirror.checked = state.mirror;
}

function boxOfFields() {
  const texts = ["x1", "y1", "x2", "y2"].map((name) => tools.elements[name].value.trim());
  if (texts.every((text) => text === "")) return null;
  const box = texts.map((text) => (text === "" ? Number.NaN : Number(text)));
  if (!isBox(box)) throw new Error("The box needs four numbers: right must exceed left, and bottom must exceed top.");
  return box;
}

tools.addEventListener("submit", (event) => {
  event.preventDefault();
  try {
    go({ ...read(), box: boxOfFields() });
  } catch (error) {
    tell(error.message);
  }
});
tools.addEventListener("change", (event) => {
  const { verify, expand, mirror } = tools.elements;
  if (event.target === verify) go({ ...read(), verify: verify.checked });
  else if (event.target === mirror) go({ ...read(), mirror: mirror.checked });
  else if (event.target.name === "expand") go({ ...read(), expand: expand.value });
});
byId("whole").addEventListener("click", () => go({ ...read(), box: null }));
byId("more").addEventListener("click", () => {
  const state = read();
  go({ ...state, top: Math.min(state.top * 4, 1000) });
});
byId("find").addEventListener("submit", (event) => {
  event.preventDefault();
  filter();
});
for (const kind of ["input", "compositionend"]) {
  byId("find-text").addEventListener(kind, (event) => {
    clearTimeout(typing);
    if (!event.isComposing) typing = setTimeout(filter, PAUSE);
  });
}
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-inner]");
  if (!link || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  const state = read(link.search);
  if (!("stay" in link.dataset)) scrollTo(0, 0);
  const title = state.hit ? "match-title" : state.groups ? "groups-title" : state.q ? "query-title" : "content";
  go(state, link.dataset.focus ?? title);
});
addEventListener("popstate", () => {
  clearTimeout(typing);
  typed = false;
  render();
});
if (matchMedia("(max-width: 56rem)").matches) byId("settings").open = false; // results come first on small screens
labels.listen(tell, (search) => {
  scrollTo(0, 0);
  go(read(search), "results-title");
});
listen({
  begin: () => tell("Sending the photograph …"),
  done: (photograph) => {
    last = { key: null, found: null, photograph };
    byId("hits").replaceChildren();
    go(searching(photograph.id));
  },
  failed: tell,
  limit: () => index?.max_upload ?? Infinity,
});
render();
