// The photograph that is searched with, and the box that is drawn on it with mouse, pen or finger.

import { html, picture, pictureAddress, shown, svg, viewBox } from "./dom.js";
import { boxBetween, corners, isBox, wholeBox } from "./geometry.js";

const LEAST = 8; // screen pixels: less is a slip of the hand
const HANDLE = 9; // screen pixels

export class BoxEditor {
  // stage: an element to fill. changed: called with the box, or null, when the hand lets go.
  constructor(stage, changed) {
    this.stage = stage;
    this.changed = changed;
    this.drag = null;
  }

  show(photograph, box) {
    if (this.photograph?.id !== photograph.id) {
      this.photograph = photograph;
      this.sharp = false;
      this.shade = svg("path", { class: "shade", "fill-rule": "evenodd" });
      this.frame = svg("rect", { class: "frame" });
      this.handles = corners([0, 0, 1, 1]).map((_, i) => svg("circle", { class: `handle handle-${i}` }));
      this.view = svg(
        "svg", { class: "drawing", viewBox: viewBox(photograph.size), role: "img" },
        picture(photograph.id, photograph.size, `thumbnails/${photograph.id}`), this.shade, this.frame, ...this.handles,
      );
      this.view.style.setProperty("--ratio", photograph.size[0] / photograph.size[1]);
      this.view.addEventListener("pointerdown", (event) => this.#down(event));
      this.view.addEventListener("pointermove", (event) => this.#move(event));
      this.view.addEventListener("pointerup", (event) => this.#up(event));
      this.view.addEventListener("pointercancel", () => this.#cancel());
      this.stage.replaceChildren(this.view);
      this.observer?.disconnect();
      this.observer = new ResizeObserver(() => this.#draw());
      this.observer.observe(this.view);
    }
    this.box = box;
    this.#draw();
  }

  // What `show` draws is the thumbnail, which is there at once; the picture itself comes after the search.
  sharpen() {
    const image = this.view.querySelector("image"), href = pictureAddress(this.photograph.id);
    if (this.sharp) return;
    this.sharp = true;
    const loaded = html("img", { src: href });
    loaded.addEventListener("load", () => image.setAttribute("href", href));
    loaded.addEventListener("error", () => image.isConnected && this.#missing());
  }

  #missing() {
    const text = "The photograph's file is not there any more, or has changed; what is known of it can still be searched.";
    this.stage.append(html("p", { class: "problem" }, text));
  }

  #draw() {
    const [x1, y1, x2, y2] = wholeBox(this.photograph.size);
    const box = isBox(this.box) ? this.box : null;
    for (const part of [this.shade, this.frame, ...this.handles]) part.toggleAttribute("hidden", box === null);
    const name = shown(this.photograph.name);
    const where = box ? `a box from ${box[0]}, ${box[1]} to ${box[2]}, ${box[3]} is searched` : "all of it is searched";
    this.view.setAttribute("aria-label", `Photograph ${name}; ${where}`);
    if (!box) return;
    const [a, b, c, d] = box;
    this.shade.setAttribute("d", `M${x1} ${y1}H${x2}V${y2}H${x1}ZM${a} ${b}H${c}V${d}H${a}Z`);
    for (const [key, value] of Object.entries({ x: a, y: b, width: c - a, height: d - b })) this.frame.setAttribute(key, value);
    const radius = HANDLE / (this.#scale() || 1);
    corners(box).forEach(([x, y], i) => {
      for (const [key, value] of Object.entries({ cx: x, cy: y, r: radius })) this.handles[i].setAttribute(key, value);
    });
  }

  // Screen pixels for each pixel of the photograph.
  #scale() {
    return this.view.getBoundingClientRect().width / this.photograph.size[0];
  }

  #point(event) {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(this.view.getScreenCTM().inverse());
    return [at.x, at.y];
  }

  #down(event) {
    if (event.button !== 0 || this.drag) return;
    event.preventDefault();
    this.view.setPointerCapture(event.pointerId);
    const at = this.#point(event), box = this.box, reach = (2 * HANDLE) / this.#scale();
    this.drag = { pointer: event.pointerId, before: box, from: at, start: [event.clientX, event.clientY] };
    if (!isBox(box)) return;
    const corner = corners(box).findIndex(([x, y]) => Math.hypot(x - at[0], y - at[1]) < reach);
    if (corner >= 0) this.drag.from = corners(box)[(corner + 2) % 4]; // the opposite corner stays
    else if (at[0] > box[0] && at[0] < box[2] && at[1] > box[1] && at[1] < box[3]) this.drag.moved = at;
  }

  #move(event) {
    if (this.drag?.pointer !== event.pointerId) return;
    const at = this.#point(event), { before, moved } = this.drag, [width, height] = this.photograph.size;
    if (moved) {
      const dx = Math.min(Math.max(at[0] - moved[0], -before[0]), width - 1 - before[2]);
      const dy = Math.min(Math.max(at[1] - moved[1], -before[1]), height - 1 - before[3]);
      this.box = boxBetween([before[0] + dx, before[1] + dy], [before[2] + dx, before[3] + dy], this.photograph.size);
    } else {
      this.box = boxBetween(this.drag.from, at, this.photograph.size);
    }
    this.#draw();
  }

  #up(event) {
    if (this.drag?.pointer !== event.pointerId) return;
    const { before, start } = this.drag;
    const slip = Math.hypot(event.clientX - start[0], event.clientY - start[1]) < LEAST;
    this.drag = null;
    if (slip || !isBox(this.box)) this.box = before;
    this.#draw();
    if (this.box !== before) this.changed(this.box);
  }

  #cancel() {
    if (!this.drag) return;
    this.box = this.drag.before;
    this.drag = null;
    this.#draw();
  }
}
