// The query laid over the result by its transform, and swapped with it: what jumps is not the same.

import { html, picture, shown, svg, viewBox } from "./dom.js";
import { matrix } from "./geometry.js";

const EVERY = 800; // milliseconds; well below three flashes a second

export function blinker(one, signal) {
  const over = svg("g", { transform: matrix(one.transform) }, picture(one.query.id, one.query.size));
  const slider = html("input", { type: "range", min: "0", max: "100", value: "50", id: "blend" });
  const swap = html("button", { type: "button" }, "Swap");
  const blink = html("button", { type: "button", "aria-pressed": "false" }, "Blink");
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const said = html("span", { class: "quiet", role: "status" });
  let timer = null;

  function set(percent) {
    slider.value = percent;
    over.setAttribute("opacity", percent / 100);
  }
  const turn = () => set(Number(slider.value) < 100 ? 100 : 0);
  function stop() {
    clearInterval(timer);
    timer = null;
    blink.setAttribute("aria-pressed", "false");
    blink.textContent = "Blink";
  }
  slider.addEventListener("input", () => {
    stop();
    set(Number(slider.value));
  });
  swap.addEventListener("click", () => {
    stop();
    turn();
    said.textContent = Number(slider.value) ? "Your photograph" : "The photograph that was found";
  });
  blink.addEventListener("click", () => {
    if (timer) return stop();
    said.textContent = "";
    turn();
    timer = setInterval(turn, EVERY);
    blink.setAttribute("aria-pressed", "true");
    blink.textContent = "Stop";
  });
  const obey = () => {
    blink.hidden = still.matches; // who wants less motion swaps by hand
    if (still.matches) stop();
  };
  still.addEventListener("change", obey, { signal });
  signal.addEventListener("abort", stop);
  obey();
  set(50);
  const label = `${shown(one.image.name)}, with ${shown(one.query.name)} laid over it`;
  return [
    html("h2", {}, "One over the other"),
    html("p", { class: "quiet" }, "Your photograph is moved onto the other: what belongs together stays where it is."),
    html("div", { class: "row controls" }, blink, swap, html("span", { class: "blend" }, html("label", { for: "blend" }, "Blend"), slider), said),
    svg("svg", { class: "blink", viewBox: viewBox(one.image.size), role: "img", "aria-label": label }, picture(one.image.id, one.image.size), over),
  ];
}
