// Elements without innerHTML: text from files and servers is never markup.

const SVG = "http://www.w3.org/2000/svg";

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const html = (tag, attributes, ...children) => build(document.createElement(tag), attributes, children);
export const svg = (tag, attributes, ...children) => build(document.createElementNS(SVG, tag), attributes, children);
export const byId = (id) => document.getElementById(id);

// Names may hold bytes that are not text, or line breaks: they are shown, not obeyed.
export function shown(name) {
  return [...name].map((c) => (/[\p{Cc}\p{Cf}\p{Cs}\u2028\u2029]/u.test(c) ? "\ufffd" : c)).join("");
}

// A name that may be broken where people would break it.
export const breakable = (name) =>
  shown(name).split(/(?<=[/_\- ])/u).flatMap((part, i) => (i ? [html("wbr"), part] : [part]));

export const plural = (count, one, several = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : several}`;

export const pictureAddress = (id) => `api/images/${id}/picture?side=1280`;

// Draws a photograph so that pixel (0, 0) has its centre at the origin, as boxes and regions count.
export function picture(id, [width, height], href = pictureAddress(id)) {
  return svg("image", { href, x: -0.5, y: -0.5, width, height, preserveAspectRatio: "none" });
}
export const viewBox = ([width, height]) => `-0.5 -0.5 ${width} ${height}`;
