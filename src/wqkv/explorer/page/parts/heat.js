// A matrix of numbers with a sign as a picture, and the scale of its colors.

import { signedRamp } from "./color.js";

/**
 * Draws numbers as a picture of one pixel each; what is outside of -top to top has the end's color.
 *
 * @param {ArrayLike<number>} numbers row by row
 * @param {number} width
 * @param {number} top
 */
export function heatPicture(numbers, width, top) {
  const height = Math.max(1, Math.ceil(numbers.length / width)),
    canvas = Object.assign(document.createElement("canvas"), { width, height });
  const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d")),
    image = pen.createImageData(width, height),
    colors = Array.from({ length: 511 }, (_, i) => heatColor((i - 255) / 255));
  for (let i = 0; i < numbers.length; i++) {
    const [r, g, b] = colors[255 + Math.round(255 * Math.max(-1, Math.min(1, numbers[i] / top)))];
    image.data.set([r, g, b, 255], 4 * i);
  }
  pen.putImageData(image, 0, 0);
  return canvas;
}

/**
 * The color of a number from -1 to 1 in a picture of many. The ramp's darkest end, which marks the one
 * large weight of a row, would make a whole matrix too dark to look at.
 *
 * @param {number} value
 */
export function heatColor(value) {
  return signedRamp(0.75 * Math.max(-1, Math.min(1, value)));
}

/**
 * The end of a scale for many numbers: all but 1 in 200 are within it; at most two digits.
 *
 * @param {ArrayLike<number>[]} lists
 */
export function endOfScale(...lists) {
  const sizes = /** @type {number[]} */ ([]);
  for (const list of lists) {
    const step = Math.max(1, Math.floor(list.length / 20000));
    for (let i = 0; i < list.length; i += step) sizes.push(Math.abs(list[i]));
  }
  sizes.sort((a, b) => a - b);
  return Number((sizes[Math.floor(sizes.length * 0.995)] || 1).toPrecision(2));
}

/**
 * Of every `per` neighboring rows the number of each column that is farthest from 0.
 *
 * @param {ArrayLike<number>} numbers row by row
 * @param {number} width
 * @param {number} per
 */
export function extremesOf(numbers, width, per) {
  if (per === 1) return numbers;
  const rows = numbers.length / width,
    found = new Float64Array(Math.ceil(rows / per) * width);
  for (let r = 0; r < rows; r++)
    for (let c = 0; c < width; c++) {
      const at = Math.floor(r / per) * width + c;
      if (Math.abs(numbers[r * width + c]) > Math.abs(found[at])) found[at] = numbers[r * width + c];
    }
  return found;
}

/**
 * The pen of a canvas that is as large as it is shown, in CSS pixels.
 *
 * @param {HTMLCanvasElement} canvas
 * @returns {{ pen: CanvasRenderingContext2D, width: number, height: number }}
 */
export function sharpPen(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas,
    density = Math.min(devicePixelRatio || 1, 3);
  canvas.width = Math.round(width * density);
  canvas.height = Math.round(height * density);
  const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  pen.setTransform(density, 0, 0, density, 0, 0);
  pen.imageSmoothingEnabled = false;
  return { pen, width, height };
}
