// Boxes, transforms and regions, in pixels of the photographs. A transform is 2 x 3, query to image.

export const apply = ([[a, b, c], [d, e, f]], [x, y]) => [a * x + b * y + c, d * x + e * y + f];

export const wholeBox = ([width, height]) => [-0.5, -0.5, width - 0.5, height - 0.5];

export const corners = ([x1, y1, x2, y2]) => [[x1, y1], [x2, y1], [x2, y2], [x1, y2]];

export const points = (list) => list.map(([x, y]) => `${x.toFixed(2)},${y.toFixed(2)}`).join(" ");

// SVG writes matrices by columns.
export const matrix = ([[a, b, c], [d, e, f]]) => `matrix(${a} ${d} ${b} ${e} ${c} ${f})`;

// A region x, y, a, b, c: [[a, 0], [b, c]] takes the unit circle to its ellipse.
export const ellipse = ([x, y, a, b, c]) => `matrix(${a} ${b} 0 ${c} ${x} ${y})`;

// A box from two corners in any order, kept within the photograph and written with whole pixels.
export function boxBetween([ax, ay], [bx, by], [width, height]) {
  const inside = (value, most) => Math.round(Math.min(Math.max(value, 0), most - 1));
  return [
    inside(Math.min(ax, bx), width), inside(Math.min(ay, by), height),
    inside(Math.max(ax, bx), width), inside(Math.max(ay, by), height),
  ];
}

export const isBox = (box) => box !== null && box.every(Number.isFinite) && box[0] < box[2] && box[1] < box[3];
