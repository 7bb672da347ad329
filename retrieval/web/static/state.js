// What is shown is a function of the address, so that every search can be shared and the back button works.

export const CONFIDENCES = ["sure", "perhaps", "chance"];

export function read(search = location.search) {
  const given = new URLSearchParams(search);
  const box = (given.get("box") ?? "").split(",").map(Number);
  return {
    q: given.get("q"),
    box: box.length === 4 && box.every(Number.isFinite) ? box : null,
    verify: given.get("verify") !== "0",
    expand: ["aqe", "hqe", "none"].includes(given.get("expand")) ? given.get("expand") : "",
    mirror: given.get("mirror") === "1",
    top: Math.min(Math.max(Number.parseInt(given.get("top") ?? "24", 10) || 24, 1), 1000),
    hit: given.get("hit"),
    page: Math.max(Number.parseInt(given.get("page"), 10) || 0, 0), // 0: not said
    find: given.get("find") ?? "",
    groups: CONFIDENCES.includes(given.get("groups")) ? given.get("groups") : "",
    of: given.get("of"),
    links: given.get("links") === "1",
  };
}

export function address(state) {
  const parameters = new URLSearchParams();
  if (state.groups) {
    parameters.set("groups", state.groups);
    if (state.of) parameters.set("of", state.of);
    if (state.of && state.links) parameters.set("links", "1");
    if (state.page > (state.of ? 0 : 1)) parameters.set("page", state.page);
    if (state.q && state.hit) { // the match of two photographs of the group
      parameters.set("q", state.q);
      parameters.set("hit", state.hit);
    }
  } else if (state.q) {
    parameters.set("q", state.q);
    if (state.box) parameters.set("box", state.box.join(","));
    if (!state.verify) parameters.set("verify", "0");
    if (state.expand) parameters.set("expand", state.expand);
    if (state.mirror) parameters.set("mirror", "1");
    if (state.top !== 24) parameters.set("top", state.top);
    if (state.hit) parameters.set("hit", state.hit);
  } else {
    if (state.find) parameters.set("find", state.find);
    if (state.page > 1) parameters.set("page", state.page);
  }
  const text = parameters.toString().replaceAll("%2C", ",");
  return text ? `./?${text}` : "./";
}

const FRESH = { q: null, box: null, verify: true, expand: "", mirror: false, top: 24, hit: null, page: 0, find: "", groups: "", of: null, links: false };
export const searching = (q) => ({ ...FRESH, q });
export const browsing = (page, find) => ({ ...FRESH, page, find });
export const grouping = (groups, of = null, links = false) => ({ ...FRESH, groups, of, links });
