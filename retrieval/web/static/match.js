// Why a photograph was found: both side by side with the matching details, in words, and one laid over the other.

import { blinker } from "./blink.js";
import { byId, html, picture, plural, shown, svg } from "./dom.js";
import { corners, ellipse, points, wholeBox } from "./geometry.js";
import { away, grade } from "./results.js";
import { address, searching } from "./state.js";

const FEW = 60; // matches drawn at first: more lines than that hide the photographs
const NARROW = 640; // screen pixels below which photographs stand one above the other
const GAP = 20, UNIT = 600;

export function show(state, one, images, signal) {
  const box = one.query.box ?? null, figure = html("div", { class: "pair-figure" });
  const all = html("input", { type: "checkbox", name: "all" });
  let wide = null;
  const draw = () => figure.replaceChildren(pair(one, box, wide, all.checked ? Infinity : FEW));
  const observer = new ResizeObserver(([entry]) => {
    if (entry.contentRect.width >= NARROW !== wide) {
      wide = entry.contentRect.width >= NARROW;
      draw();
    }
  });
  observer.observe(figure);
  signal.addEventListener("abort", () => observer.disconnect());
  all.addEventListener("change", draw);
  const many = one.matches.length > FEW;
  const parts = [
    html("p", {}, html("a", { class: "quiet-link", href: address({ ...state, hit: null }), "data-inner": true }, state.groups ? "← Back to the group" : "← Back to what was found")),
    html("h1", { id: "match-title", tabindex: "-1" }, "Why this photograph?"),
    html("p", { class: "lead" }, sentence(one), one.transform && one.query.id !== one.image.id ? verdict(one) : null),
    ["aqe", "hqe"].includes(state.expand) ? html("p", { class: "quiet" }, `This is how the search ${state.expand === "aqe" ? "once, by words and geometry," : "with one word a detail"} found it; what searching again added is left out.`) : null,
    one.partial ? html("p", { class: "note", role: "status" }, away(one, images)) : null,
    html("p", { class: "quiet names" }, `${shown(one.query.name)} and ${shown(one.image.name)}`),
    figure,
    many ? html("p", {}, html("label", { class: "check" }, all, html("span", {}, `Show all ${one.matches.length} matching details, not just the ${FEW} rarest`))) : null,
    ...(one.transform ? blinker(one, signal) : []),
    numbers(one),
    html("p", {}, html("a", { class: "button", href: address(searching(one.image.id)), "data-inner": true }, "Search with this photograph")),
  ];
  byId("match").replaceChildren(...parts.filter((part) => part !== null));
}

function sentence(one) {
  if (!one.transform) return reason(one);
  const { scale, rotation_clockwise: turn, stretch } = one.placement;
  const size = Math.abs(scale - 1) < 0.03 ? "at the same size" : `${scale.toFixed(2)} times as large`;
  const turned = Math.abs(turn) < 1 ? "" : `, turned by ${Math.abs(turn).toFixed(0)}° ${turn > 0 ? "clockwise" : "anticlockwise"}`;
  const stamp = one.stamped ? ` ${one.stamped} of them at the same place near the border, as a date, a watermark or a frame does: these do not count.` : "";
  const seen = stretch > 1.15 ? ", and seen at another angle" : "";
  const mirrored = one.mirrored ? "mirrored, " : "";
  return `${plural(one.inliers, "detail")} lie in the same arrangement in both: the second photograph shows it ${mirrored}${size}${turned}${seen}.${stamp}`;
}

function verdict(one) {
  const { kind, text } = grade(one);
  return html("span", { class: `grade ${kind}` }, text);
}

function reason(one) {
  return {
    "no query features": `There are no distinctive details in the ${one.query.box ? "box" : "first photograph"}.`,
    "no image features": "The second photograph has no distinctive details.",
    "no shared words": "The two photographs have no similar details. Found again with others, it came by their way.",
    "no similar signatures": "The two photographs have details that look alike from afar, but none that do from near.",
    "beyond depth": `It is not among the best ${one.depth} by ${one.expansion ? "votes" : "similar details"}, which are those whose geometry is checked.`,
    "no pairs": "The similar details are too common to say anything.",
    "too few inliers": "There are similar details, but they do not lie in the same arrangement.",
  }[one.reason] ?? "No arrangement of details fits both.";
}

// Both photographs and the lines between them; wide: side by side, else one above the other.
function pair(one, box, wide, most) {
  const [first, second] = [one.query, one.image].map(({ size: [w, h] }) => UNIT / (wide ? h : w));
  const shift = wide
    ? [[0, 0], [one.query.size[0] * first + GAP, 0]]
    : [[0, 0], [0, one.query.size[1] * first + GAP]];
  const place = [first, second].map((s, i) => `translate(${shift[i].map((v) => v.toFixed(2)).join(" ")}) scale(${s}) translate(.5 .5)`);
  const at = (i, [x, y]) => [x, y].map((v, axis) => shift[i][axis] + (v + 0.5) * [first, second][i]);
  const width = wide ? shift[1][0] + one.image.size[0] * second : UNIT;
  const height = wide ? UNIT : shift[1][1] + one.image.size[1] * second;
  const searched = corners(box ?? wholeBox(one.query.size));
  const matches = one.matches.slice(0, most);
  const lines = matches.map(({ query, image }) => {
    const [from, to] = [at(0, query), at(1, image)], hue = 80 + (130 * query[1]) / one.query.size[1];
    const stroke = `hsl(${hue.toFixed(0)} 90% 66%)`;
    return svg(
      "g", { class: "pair", stroke },
      svg("line", { class: "casing", x1: from[0], y1: from[1], x2: to[0], y2: to[1] }),
      svg("line", { x1: from[0], y1: from[1], x2: to[0], y2: to[1] }),
      svg("circle", { r: 1, transform: `${place[0]} ${ellipse(query)}` }),
      svg("circle", { r: 1, transform: `${place[1]} ${ellipse(image)}` }),
    );
  });
  const label = `${shown(one.query.name)} and ${shown(one.image.name)} with ${plural(matches.length, "matching detail")} joined by lines`;
  return svg(
    "svg", { class: "pairs", viewBox: `0 0 ${width.toFixed(1)} ${height.toFixed(1)}`, role: "img", "aria-label": label },
    svg("g", { transform: place[0] }, picture(one.query.id, one.query.size), box ? svg("polygon", { class: "outline", points: points(searched) }) : null),
    svg("g", { transform: place[1] }, picture(one.image.id, one.image.size), one.placement ? svg("polygon", { class: "outline", points: points(one.placement.corners) }) : null),
    ...lines,
  );
}

function sum(one) {
  const divided = one.divisor === 1 ? "" : ` / ${one.divisor.toFixed(4)}`, score = one.score.toFixed(4), inliers = plural(one.inliers, "matching detail");
  if (!one.expansion) return `${score}: ${inliers} + similarity ${one.cosine.toFixed(4)}${divided}`;
  return `${score}: votes ${one.expansion.votes.toFixed(4)}${divided} × ${one.expansion.factor.toFixed(4)} for ${inliers}`;
}

function numbers(one) {
  const rows = [
    ["Rank", one.rank === null ? "not found" : `${one.rank} of ${one.candidates}`],
    ["Score", one.score === null ? "–" : sum(one)],
    ...(one.expansion ? [
      ["Photographs that joined in", one.expansion.sources.length ? one.expansion.sources.map(shown).join(", ") : "none"],
      ["Rank by votes, before geometry", one.listed_rank ?? "–"],
    ] : []),
    ["Rank by similar details alone", one.word_rank ?? "–"],
    ["Shared visual words", one.words.length],
    ["Pairs looked at", one.pairs],
    ["Transform, query to image", one.transform ? one.transform.map((row) => row.map((v) => v.toFixed(3)).join("  ")).join("\n") : "none"],
  ];
  return html(
    "details", {}, html("summary", {}, "In numbers"),
    html("dl", {}, ...rows.flatMap(([name, value]) => [html("dt", {}, name), html("dd", {}, String(value))])),
  );
}

