// The photographs of the index, a page at a time.

import * as api from "./api.js";
import { breakable, byId, html, plural, shown } from "./dom.js";
import { address, browsing, searching } from "./state.js";

const PAGE = 48;

export function card(photograph, href) {
  const image = html("img", { src: `thumbnails/${photograph.id}`, alt: "", loading: "lazy", decoding: "async" });
  const frame = html("span", { class: "thumb" }, image);
  image.addEventListener("error", () => frame.replaceChildren(html("span", { class: "gone" }, "picture not there")));
  const name = html("span", { class: "name" }, ...breakable(photograph.name));
  const lost = photograph.findable === false ? html("span", { class: "unfindable" }, "no distinctive details: cannot be found") : null;
  return html("li", {}, html("a", { class: "card", href, "data-inner": true }, frame, name, lost));
}

export async function show(state, signal) {
  const here = state.page || 1;
  const found = await api.images(here, PAGE, state.find, signal);
  byId("images").replaceChildren(...found.images.map((one) => card(one, address(searching(one.id)))));
  const which = state.find ? ` with “${shown(state.find)}” in the name` : "";
  byId("collection-status").textContent = found.total
    ? `${plural(found.total, "photograph")}${which}${found.pages > 1 ? `; page ${here} of ${found.pages}` : ""}.`
    : `No photograph${which}.`;
  byId("pager").replaceChildren(...pager(here, found.pages, (page) => address(browsing(page, state.find))));
}

// Links to the first, the last and the neighbouring pages; at: the address of a page.
export function pager(here, pages, at) {
  if (pages < 2) return [];
  const wanted = new Set([1, here - 1, here, here + 1, pages]);
  const numbers = [...wanted].filter((page) => page >= 1 && page <= pages).sort((a, b) => a - b);
  const parts = [];
  numbers.forEach((page, i) => {
    if (i && page > numbers[i - 1] + 1) parts.push(html("span", { "aria-hidden": "true" }, "…"));
    const current = page === here ? "page" : null;
    parts.push(html("a", { href: at(page), "data-inner": true, "aria-current": current, "aria-label": `Page ${page}` }, String(page)));
  });
  return parts;
}
