// Draws a tile of exact numbers on a canvas: cells, tokens beside them, received weight above.

import { currentColor } from "../parts/color.js";
import { clamp, label } from "../parts/format.js";
import { cellAt, pictureAt } from "../parts/patch.js";
import { keys, opened } from "../reading/opened.js";
import { t } from "../words/words.js";

/** @import { PictureFacts, TileAnswer } from "../types" */

/**
 * A rectangle of exact numbers; `received` is what each token receives, once it is known.
 *
 * @typedef {{
 *   values: TileAnswer["values"], q0: number, k0: number, rows: number, cols: number,
 *   received: ((j: number) => number | null) | null, shade: (value: number | null) => string | null,
 *   images: Map<string, HTMLImageElement>,
 * }} TileShown
 */

const READABLE = 12, // pixels that a line of tokens needs
  MARGIN = 40; // pixels for the names of rows of pictures, where there is none for tokens

/**
 * Where things are, in CSS pixels: margins for the tokens, the gutter, and a cell's side.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {TileShown} rect
 */
export function tileLayout(canvas, { rows, cols }) {
  const width = canvas.clientWidth || 300,
    guess = width / cols,
    tokens = guess >= READABLE * 0.8;
  const pictured = opened.text.pictures.length + keys().pictures.length > 0,
    left = tokens ? clamp(width * 0.2, 52, 118) : pictured ? MARGIN : 8,
    gutter = 34;
  const side = Math.min((width - left - 4) / cols, 44, Math.max(900 / rows, 14)),
    names = tokens && side >= READABLE * 0.9;
  const top = gutter + (names ? clamp(width * 0.16, 44, 92) : pictured ? MARGIN : 8);
  return { left, top, side, gutter, names, pictured, width, height: Math.ceil(top + side * rows + 4) };
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {TileShown} rect
 * @param {MouseEvent} event
 * @returns {[number, number] | null}
 */
export function cellsOf(canvas, rect, event) {
  const { left, top, side } = tileLayout(canvas, rect),
    box = canvas.getBoundingClientRect();
  const j = Math.floor((event.clientX - box.left - left) / side),
    i = Math.floor((event.clientY - box.top - top) / side);
  return i < 0 || j < 0 || i >= rect.rows || j >= rect.cols ? null : [rect.q0 + i, rect.k0 + j];
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {TileShown} rect
 * @param {{ i: number, j: number }} cursor
 */
export function drawTile(canvas, rect, cursor) {
  const at = tileLayout(canvas, rect),
    density = Math.min(devicePixelRatio || 1, 2);
  const [wide, high] = [Math.round(at.width * density), Math.round(at.height * density)];
  if (canvas.width !== wide || canvas.height !== high) {
    canvas.width = wide;
    canvas.height = high;
    canvas.style.height = `${at.height}px`;
  }
  const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d")),
    inks = Object.fromEntries(
      ["ground", "line", "ink", "soft", "down"].map(name => [name, currentColor(`--${name}`)]),
    );
  pen.setTransform(density, 0, 0, density, 0, 0);
  pen.fillStyle = inks.ground;
  pen.fillRect(0, 0, at.width, at.height);
  drawCells(pen, rect, at, inks);
  if (rect.received) drawGutter(pen, rect, at, inks);
  if (at.names || at.pictured) drawNames(pen, rect, at, cursor, inks);
  drawCursor(pen, rect, at, cursor, inks);
}

/**
 * A number of exactly 0 (hidden, or too small for a float) is left as empty ground.
 *
 * @param {CanvasRenderingContext2D} pen
 * @param {TileShown} rect
 */
function drawCells(pen, { values, rows, cols, shade }, { left, top, side }, inks) {
  const gap = side >= 13 ? 1 : -0.5;
  pen.fillStyle = inks.line;
  pen.fillRect(left - 1, top - 1, side * cols + 2, side * rows + 2);
  values.forEach((row, i) =>
    row.forEach((value, j) => {
      pen.fillStyle = shade(value) ?? inks.ground;
      pen.fillRect(left + j * side, top + i * side, side - gap, side - gap);
    }),
  );
}

function drawGutter(pen, { k0, cols, received }, { left, side, gutter }, inks) {
  const found = Array.from({ length: cols }, (_, j) => received(k0 + j) ?? 0),
    top = Math.max(...found, 1e-30);
  pen.fillStyle = inks.down;
  if (left > 50) {
    pen.font = "11px system-ui, sans-serif";
    pen.textAlign = "right";
    pen.textBaseline = "bottom";
    pen.fillText(t("receivedShort"), left - 6, gutter);
  }
  found.forEach((value, j) =>
    pen.fillRect(
      left + j * side,
      gutter - (value / top) * (gutter - 6),
      Math.max(side - 1, 1),
      (value / top) * (gutter - 6),
    ),
  );
}

/**
 * Every token beside its row and above its column: a word, or the crop of a patch. Where there is no
 * room for them, each row of a picture has the name of its first patch.
 *
 * @param {CanvasRenderingContext2D} pen
 * @param {TileShown} rect
 */
function drawNames(pen, { q0, k0, rows, cols, images }, { left, top, side, gutter, names }, cursor, inks) {
  pen.font = `${Math.round(clamp(side * 0.62, 10, 14))}px system-ui, sans-serif`;
  pen.textBaseline = "middle";
  const one = (of, position, chosen, right, room) => {
    const picture = pictureAt(of, position),
      named = names || (picture && beginsRow(picture, position, side));
    if (picture && names) {
      const size = Math.min(side - 1, room);
      drawCrop(pen, images.get(picture.image), picture, position, { x: right ? -size : 0, y: -size / 2, size });
    } else if (named) {
      pen.fillStyle = chosen ? inks.down : of.special[position] || !names ? inks.soft : inks.ink;
      pen.textAlign = right ? "right" : "left";
      pen.fillText(fitted(pen, of.tokens[position] ?? "", room), 0, 0); // none: another text is open by now
    }
  };
  for (let i = 0; i < rows; i++) {
    pen.save();
    pen.translate(left - 6, top + (i + 0.5) * side);
    one(opened.text, q0 + i, q0 + i === cursor.i, true, left - 10);
    pen.restore();
  }
  for (let j = 0; j < cols; j++) {
    pen.save();
    pen.translate(left + (j + 0.5) * side, top - 6);
    if (!names || !pictureAt(keys(), k0 + j)) pen.rotate(-Math.PI / 2);
    else pen.translate(-side / 2, -side / 2); // a picture is not turned
    one(keys(), k0 + j, k0 + j === cursor.j, false, top - gutter - 10);
    pen.restore();
  }
}

// Whether a patch is the first of a row of its picture that has room for a name.
function beginsRow({ first, columns }, position, side) {
  const every = columns * Math.ceil(READABLE / (columns * side));
  return (position - first) % every === 0;
}

/**
 * @param {CanvasRenderingContext2D} pen
 * @param {HTMLImageElement | undefined} image
 * @param {PictureFacts} picture
 * @param {number} position
 * @param {{ x: number, y: number, size: number }} place
 */
function drawCrop(pen, image, picture, position, { x, y, size }) {
  if (!image) return;
  const { row, column } = cellAt(picture, position),
    [wide, high] = [image.naturalWidth / picture.columns, image.naturalHeight / picture.rows];
  pen.drawImage(image, column * wide, row * high, wide, high, x, y, size, size);
}

function fitted(pen, token, room) {
  let text = label(token);
  if (pen.measureText(text).width <= room) return text;
  while (text.length > 1 && pen.measureText(`${text}…`).width > room) text = text.slice(0, -1);
  return `${text}…`;
}

function drawCursor(pen, { q0, k0, rows, cols }, { left, top, side }, { i, j }, inks) {
  if (i < q0 || j < k0 || i >= q0 + rows || j >= k0 + cols) return;
  const room = Math.max(side, 5);
  pen.strokeStyle = inks.down;
  pen.lineWidth = 2;
  pen.strokeRect(left + (j - k0) * side - 1, top + (i - q0) * side - 1, room + 1, room + 1);
}
