// A small map as a canvas: one pixel a value, scaled up without smoothing.

import { palette } from "./color.js";
import { h } from "./dom.js";

/**
 * Values are weights from 0 to 1; block means of a long text are small, so the largest gives the top.
 *
 * @param {(number | null)[][]} values
 * @param {string | null} name what it is called; without a name it is decoration
 * @param {number} top the value that has the darkest color
 */
export function drawThumbnail(values, name = null, top = topOf(values)) {
  const height = values.length,
    width = values[0]?.length ?? 0;
  const canvas = h("canvas", {
    class: "plain",
    width,
    height,
    role: name ? "img" : null,
    "aria-label": name,
    "aria-hidden": name ? null : "true",
  });
  const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d")),
    image = pen.createImageData(width || 1, height || 1);
  colorIn(image, values, top);
  pen.putImageData(image, 0, 0);
  return canvas;
}

/** @param {(number | null)[][]} values */
export function topOf(values) {
  let top = 0;
  for (const row of values) for (const value of row) top = Math.max(top, value ?? 0);
  return top || 1;
}

function colorIn(image, values, top) {
  const colors = palette(),
    data = image.data;
  let at = 0;
  for (const row of values)
    for (const value of row) {
      const [r, g, b] = colors[Math.round(Math.min(Math.max((value ?? 0) / top, 0), 1) * 255)];
      data[at] = r;
      data[at + 1] = g;
      data[at + 2] = b;
      data[at + 3] = 255;
      at += 4;
    }
}
