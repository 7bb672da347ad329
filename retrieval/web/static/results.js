// What a search found: cards in order, with the place of the box drawn on each.

import * as api from "./api.js";
import { card } from "./collection.js";
import { byId, html, plural, shown, svg, viewBox } from "./dom.js";
import { apply, corners, points, wholeBox } from "./geometry.js";
import { address, grouping } from "./state.js";

// What the matching details say, in words; what a date, a watermark or a frame explains is not counted for it.
export function grade(hit) {
  const chance = 2 * hit.stamped > hit.inliers ? "a shared stamp or frame" : "may be chance";
  const text = { words: "similar details only", sure: "very likely the same", perhaps: "perhaps the same", chance };
  return { kind: hit.grade, text: text[hit.grade] };
}

// What could not be searched, as the machines that have it do not answer.
export function away(found, images) {
  if (!found?.partial) return "";
  const many = found.missing.reduce((sum, part) => sum + part.images, 0).toLocaleString("en");
  return `Partial: ${many} of ${plural(images, "photograph")} could not be searched, as a part of the index does not answer. Search again later.`;
}

export function partial(found, images) {
  byId("partial").textContent = away(found, images);
  byId("partial").hidden = !found?.partial;
}

export function show(state, found) {
  byId("hits").replaceChildren(...found.hits.map((hit) => hitCard(state, hit, found.query)));
  const others = found.hits.filter((hit) => hit.id !== found.query.id);
  const confirmed = others.filter((hit) => grade(hit).kind === "sure").length;
  byId("status").textContent = summary(found, confirmed);
  byId("more").hidden = found.hits.length < state.top || state.top >= 1000;
}

// "Show all of this" on every hit that is in a group; how large that is comes after the hits.
export function offer(found, signal) {
  const draw = () => found.hits.forEach((hit, i) => {
    const size = found.sizes[hit.id], item = byId("hits").children[i];
    if (!size || item.querySelector(".all")) return;
    const text = [`Show all ${size.toLocaleString("en")} of this`, html("span", { class: "spoken" }, ` in the group of ${shown(hit.name)}`)];
    item.firstChild.after(html("a", { class: "all", href: address(grouping("sure", hit.id)), "data-inner": true }, ...text));
  });
  if (found.sizes) return draw();
  return api.groupSizes(found.hits.map((hit) => hit.id), signal).then((sizes) => {
    found.sizes = sizes;
    if (!signal.aborted) draw();
  }, () => {}); // the view of groups says what is wrong with them
}

function summary(found, confirmed) {
  if (!found.query.features) {
    return found.query.box
      ? "There is nothing to search for in this box: it holds no distinctive details. Draw a larger one."
      : "There is nothing to search for: this photograph holds no distinctive details. It may be small, blurred, faint or plain, and cannot be found either.";
  }
  if (!found.hits.length) return "Nothing was found.";
  const likely = found.depth ? ` ${confirmed || "None"} very likely ${confirmed === 1 ? "shows" : "show"} the same.` : "";
  const checked = found.depth ? ` Geometry was checked for the best ${found.depth}.` : "";
  return `${plural(found.hits.length, "photograph")} in ${found.seconds.toFixed(2)} seconds.${likely}${checked}`;
}

function hitCard(state, hit, query) {
  const item = card(hit, address({ ...state, hit: hit.id })), link = item.firstChild;
  const { kind, text } = hit.id === query.id ? { kind: "itself", text: "this photograph" } : grade(hit);
  if (hit.transform) {
    const outline = corners(query.box ?? wholeBox(query.size)).map((corner) => apply(hit.transform, corner));
    const shape = svg("polygon", { class: "outline", points: points(outline) });
    link.firstChild.append(svg("svg", { viewBox: viewBox(hit.size), class: "over", "aria-hidden": "true" }, shape));
  }
  link.prepend(html("span", { class: "rank" }, html("span", { class: "spoken" }, "Rank "), String(hit.rank)));
  link.append(
    html("span", { class: `grade ${kind}` }, hit.mirrored && hit.transform ? `${text}, mirrored` : text),
    html("span", { class: "quiet numbers" }, hit.transform ? html("span", {}, plural(hit.inliers, "matching detail")) : null,
      html("span", {}, `score ${hit.score.toFixed(3)}`)),
  );
  return item;
}
