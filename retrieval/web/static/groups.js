// The groups of the collection: all of them, each as a strip of pictures; and one, with the links of a picture drawn.

import * as api from "./api.js";
import { card, pager } from "./collection.js";
import { byId, html, plural, shown, svg } from "./dom.js";
import { address, CONFIDENCES, grouping, searching } from "./state.js";

const PAGE = 24; // groups
const STRIP = 12; // tiles of a group, the last of which stands for what is left
const bend = (distance) => Math.min(0.16 * Math.abs(distance), 100); // of lines, screen pixels
const SAID = { sure: "very likely", perhaps: "perhaps", chance: "may be chance" };
let listed = ""; // the address of the list that was seen last

// Shows what the address says, and returns its title.
export async function show(state, index, signal) {
  choices(state);
  if (!state.of) listed = address(state);
  byId("groups-back").hidden = !state.of;
  byId("groups-back").setAttribute("href", listed.includes(`groups=${state.groups}`) ? listed : address(grouping(state.groups)));
  byId(state.of ? "group-list" : "members").replaceChildren();
  try {
    const found = await (state.of ? api.group(state.of, state.groups, state.page, signal) : api.groups(state.groups, state.page, PAGE, signal));
    note(found, index);
    return state.of ? one(state, found, signal) : all(state, found);
  } catch (error) {
    if (error.name !== "AbortError") clear();
    throw error;
  }
}

function clear() {
  for (const id of ["group-list", "members", "groups-pager", "groups-lead", "groups-status", "chosen"]) byId(id).replaceChildren();
  byId("groups-note").hidden = true;
  byId("groups-title").textContent = "Groups";
}

// How far links are trusted, as links, so that the back button takes a choice back.
function choices(state) {
  byId("confidence").replaceChildren(byId("confidence").firstElementChild, ...CONFIDENCES.map((name) => {
    const href = address(grouping(name, state.of, state.links));
    return html("a", { href, id: `trust-${name}`, "data-inner": true, "data-stay": true, "data-focus": `trust-${name}`, "aria-current": name === state.groups ? "true" : null }, SAID[name]);
  }));
}

// What has to be run where the groups are not those of the whole collection.
function note({ pairs, missing }, index) {
  const command = html("code", {}, `retrieval groups ${shown(index.name)}`);
  byId("groups-note").hidden = missing === 0 && pairs !== null;
  byId("groups-note").replaceChildren(...(pairs === null
    ? [html("p", {}, "Groups have not been made yet. Where the index is, run ", command, ": it searches with every photograph, and this page then shows what belongs together.")]
    : [html("p", {}, `${plural(missing, "photograph")} came into the collection after the groups were made, and ${missing === 1 ? "is" : "are"} in none. Run `, command, " again: it does only what is new.")]));
}

function all(state, found) {
  byId("groups-title").textContent = "Groups";
  byId("groups-lead").textContent = "Photographs that show the same thing, the largest groups first.";
  byId("groups-status").textContent = found.total
    ? `${plural(found.total, "group")} of ${plural(found.grouped, "photograph")}; ${(found.photographs - found.grouped).toLocaleString("en")} are in none.`
    : found.pairs === null ? "" : "No photographs are known to show the same.";
  byId("chosen").hidden = true;
  byId("group-list").replaceChildren(...found.groups.map((group, i) => strip(state, group, (found.page - 1) * PAGE + i + 1)));
  byId("groups-pager").replaceChildren(...pager(found.page, found.pages, (page) => address({ ...grouping(state.groups), page })));
  return "Groups";
}

function strip(state, group, number) {
  const open = address(grouping(state.groups, group.images[0].id)), inner = { "data-inner": true };
  const tiles = group.total > STRIP ? group.images.slice(0, STRIP - 1) : group.images;
  const items = tiles.map((image) => {
    const picture = html("img", { src: `thumbnails/${image.id}`, alt: shown(image.name), loading: "lazy", decoding: "async" });
    const copy = image.copy_of === null ? null : html("span", { class: "badge" }, "copy", html("span", { class: "spoken" }, ` of ${shown(image.copy_of)}`));
    const href = address(grouping(state.groups, image.id, true));
    return html("li", {}, html("a", { class: "tile", href, title: shown(image.name), ...inner }, picture, copy));
  });
  if (tiles.length < group.total) {
    const rest = (group.total - tiles.length).toLocaleString("en");
    items.push(html("li", {}, html("a", { class: "tile rest", href: open, ...inner }, `+ ${rest}`, html("span", { class: "spoken" }, " more"))));
  }
  return html(
    "li", {},
    html("h2", {}, html("a", { href: open, ...inner }, `Group ${number}: ${plural(group.total, "photograph")}`)),
    group.copies ? html("p", { class: "quiet" }, `${plural(group.copies, "copy", "copies")} among them`) : null,
    html("ul", { class: "strip" }, ...items),
  );
}

function one(state, found, signal) {
  const alone = found.total === 1, name = shown(found.name);
  const title = alone ? "In no group" : `${plural(found.total, "photograph")} that show the same`;
  byId("groups-title").textContent = title;
  byId("groups-lead").textContent = alone ? `No other photograph is known to show the same as ${name}.` : "";
  const drawn = state.links && !alone;
  byId("groups-status").textContent = alone ? "" : drawn ? told(found) : "Choose a picture to see its links.";
  byId("chosen").hidden = false;
  byId("chosen").replaceChildren(
    html("strong", { class: "name" }, name),
    html("a", { class: "button", href: address(searching(found.id)), "data-inner": true }, "Search with it"),
    ...(alone ? [] : [html("a", { class: "button", id: "draw", href: address({ ...grouping(state.groups, found.id, !drawn), page: state.page }), "data-inner": true, "data-stay": true, "data-focus": "draw" }, drawn ? "Hide its links" : "Draw its links")]),
  );
  const list = byId("members"), key = found.images.map((image) => image.id).join();
  if (list.dataset.key !== key || !list.children.length) { // else only what is drawn on them changes
    list.replaceChildren(...found.images.map((image) => member(image)));
    list.dataset.key = key;
  }
  const links = new Map(drawn ? found.links.map((link) => [link.id, link]) : []);
  list.classList.toggle("choosing", drawn);
  found.images.forEach((image, i) => decorate(state, found, image, list.children[i], links.get(image.id)));
  draw(drawn ? found.images.findIndex((image) => image.id === found.id) : -1, found.images.map((image) => links.get(image.id)), signal);
  byId("groups-pager").replaceChildren(...pager(found.page, found.pages, (page) => address({ ...grouping(state.groups, found.id, state.links), page })));
  return title;
}

function told(found) {
  const there = new Set(found.images.map((image) => image.id)), away = found.links.filter((link) => !there.has(link.id)).length;
  const elsewhere = away ? `, ${away.toLocaleString("en")} of them on other pages` : "";
  return `Linked with ${plural(found.links.length, "photograph")}${elsewhere}: the numbers lead to the details that match.`;
}

function member(image) {
  const item = card(image, ""), link = item.firstChild;
  link.id = `member-${image.id}`;
  link.dataset.focus = link.id;
  link.dataset.stay = "";
  if (image.copy_of !== null) link.append(html("span", { class: "quiet names" }, `copy of ${shown(image.copy_of)}`));
  return item;
}

function decorate(state, found, image, item, link) {
  const chosen = image.id === found.id;
  item.className = chosen ? "chosen" : link ? "joined" : "";
  item.firstChild.setAttribute("href", address(grouping(state.groups, image.id, !(chosen && state.links))));
  if (chosen) item.firstChild.setAttribute("aria-current", "true");
  else item.firstChild.removeAttribute("aria-current");
  item.querySelector(".details")?.remove();
  if (!link) return;
  const hit = link.query === found.id ? image.id : found.id; // as it was found: then the details are the same
  const href = address({ ...grouping(state.groups, found.id, true), page: state.page, q: link.query, hit });
  const text = [plural(link.inliers, "detail"), html("span", { class: "spoken" }, ` shared by ${shown(found.name)} and ${shown(image.name)}: ${SAID[link.grade]}`)];
  item.append(html("a", { class: `details grade ${link.grade}`, href, "data-inner": true }, ...text));
}

// Lines from the chosen picture to those that it is linked with, the strongest on top.
function draw(from, links, signal) {
  const figure = byId("figure");
  figure.querySelector(".links")?.remove();
  if (from < 0) return;
  const over = svg("svg", { class: "links", "aria-hidden": "true" });
  const place = () => {
    const { left, top, width, height } = figure.getBoundingClientRect();
    const centres = [...figure.querySelectorAll(".thumb")].map((thumb) => {
      const box = thumb.getBoundingClientRect();
      return [box.left + box.width / 2 - left, box.top + box.height / 2 - top];
    });
    const [x1, y1] = centres[from];
    over.setAttribute("viewBox", `0 0 ${width} ${height}`);
    over.replaceChildren(...links.map((link, i) => [link, i]).filter(([link]) => link).sort(([a], [b]) => a.significance - b.significance).map(([link, i]) => {
      const [x2, y2] = centres[i];
      // bent, up and towards the middle: else those to pictures of one row or column would lie on each other
      const aside = bend(y2 - y1) * (x1 < width / 2 ? 1 : -1), d = `M${x1} ${y1}Q${(x1 + x2) / 2 + aside} ${(y1 + y2) / 2 - bend(x2 - x1)} ${x2} ${y2}`;
      return svg("g", { class: link.grade }, svg("path", { class: "casing", d }), svg("path", { d }), svg("circle", { cx: x2, cy: y2, r: 6 }));
    }), svg("circle", { class: "from", cx: x1, cy: y1, r: 9 }));
  };
  figure.append(over);
  const observer = new ResizeObserver(place);
  observer.observe(figure);
  signal.addEventListener("abort", () => observer.disconnect());
}
