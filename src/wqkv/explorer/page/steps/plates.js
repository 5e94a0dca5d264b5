// What the bench of a product draws on its canvases: matrices, vectors and sums, on the same rows.

import { currentColor, css, inkOn } from "../parts/color.js";
import { fixed } from "../parts/format.js";
import { heatColor, sharpPen } from "../parts/heat.js";

/** @import { Term } from "./terms.js" */

/** The height of the bars below a matrix, and the space between the two. */
const BARS_HEIGHT = 76;
const SPACE_HEIGHT = 8;
const ROW_HEIGHT = 18; // pixels that a row of single numbers needs
const CELL_WIDTH = 46; // and a column

/**
 * The rows and columns that are seen: all of them, or so few that their numbers can be read.
 *
 * @typedef {object} Shown
 * @property {number} r0
 * @property {number} rows
 * @property {number} c0
 * @property {number} columns
 * @property {boolean} digits whether single numbers are written
 */

/** The height of the rows of a matrix whose canvas has bars below them. */
export function rowsHeight(canvas) {
  return canvas.clientHeight - BARS_HEIGHT - SPACE_HEIGHT;
}

/**
 * How many rows and columns of single numbers fit.
 *
 * @param {HTMLCanvasElement} canvas
 */
export function fitting(canvas) {
  return { rows: Math.max(1, Math.floor(rowsHeight(canvas) / ROW_HEIGHT)), columns: Math.max(1, Math.floor(canvas.clientWidth / CELL_WIDTH)) };
}

function inks() {
  return Object.fromEntries(["ground", "ink", "soft", "line", "mark", "up", "down"].map(name => [name, currentColor(`--${name}`)]));
}

/**
 * A matrix, and below it the numbers that its columns give.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {{
 *   picture: HTMLCanvasElement, cell: (row: number, column: number) => number, top: number,
 *   results: (number | null)[], topResult: number, shown: Shown, column: number | null, row: number | null,
 *   label: string,
 * }} plate `cell` is asked for a place in the order of the rows; `column` and `row` are lit, and `label`
 *   stands at the bar of the lit column
 */
export function drawPlate(canvas, { picture, cell, top, results, topResult, shown, column, row, label }) {
  const { pen, width, height } = sharpPen(canvas),
    ink = inks(),
    high = height - BARS_HEIGHT - SPACE_HEIGHT,
    { r0, rows, c0, columns } = shown,
    [wide, tall] = [width / columns, high / rows];
  pen.fillStyle = ink.ground;
  pen.fillRect(0, high + SPACE_HEIGHT, width, BARS_HEIGHT);
  if (shown.digits) {
    pen.font = font(Math.min(12, wide / 4.2));
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (let r = 0; r < rows; r++)
      for (let c = 0; c < columns; c++) {
        const value = cell(r0 + r, c0 + c),
          color = heatColor(value / top);
        pen.fillStyle = css(color);
        pen.fillRect(c * wide, r * tall, wide - 1, tall - 1);
        pen.fillStyle = inkOn(color);
        pen.fillText(threeDigits(value), (c + 1) * wide - 5, (r + 0.5) * tall);
      }
  } else pen.drawImage(picture, 0, 0, width, high);
  const zero = high + SPACE_HEIGHT + BARS_HEIGHT / 2,
    room = BARS_HEIGHT / 2 - 5,
    at = column === null ? -1 : column - c0,
    isLit = at >= 0 && at < columns,
    [left, frame] = [Math.max(1, at * wide - 1), Math.max(wide + 2, 5)];
  if (isLit) {
    pen.fillStyle = ink.mark;
    pen.fillRect(left, high + SPACE_HEIGHT, frame, BARS_HEIGHT);
  }
  pen.fillStyle = ink.line;
  pen.fillRect(0, zero, width, 1);
  for (let c = 0; c < columns; c++) {
    const value = results[c0 + c] ?? 0,
      length = (Math.abs(value) / topResult) * room;
    pen.fillStyle = value < 0 ? ink.down : ink.up;
    pen.fillRect(c * wide + wide * 0.12, value < 0 ? zero : zero - length, Math.max(wide * 0.76, 0.6), length);
  }
  if (row !== null) markRow(pen, ink, row - r0, rows, tall, width);
  if (!isLit) return;
  pen.strokeStyle = ink.ink;
  pen.lineWidth = 2;
  pen.strokeRect(left, 1, frame, height - 2);
  writeLabel(pen, ink, label, left, frame, width, (results[c0 + at] ?? 0) < 0 ? high + SPACE_HEIGHT + 11 : height - 11);
}

// The number of the lit bar, on the side of the frame where there is room, where its bar is not.
function writeLabel(pen, ink, label, left, frame, width, y) {
  pen.font = `600 ${font(12)}`;
  const room = pen.measureText(label).width + 8,
    x = left + frame + room < width ? left + frame + 2 : Math.max(0, left - room - 2);
  pen.fillStyle = ink.ground;
  pen.fillRect(x, y - 8, room, 16);
  pen.fillStyle = ink.ink;
  pen.textAlign = "left";
  pen.textBaseline = "middle";
  pen.fillText(label, x + 4, y);
}

function markRow(pen, ink, at, rows, tall, width) {
  if (at < 0 || at >= rows) return;
  pen.strokeStyle = ink.ink;
  pen.lineWidth = 1;
  pen.strokeRect(0.5, at * tall - 0.5, width - 1, Math.max(tall, 2) + 1);
}

function threeDigits(value) {
  const text = fixed(value, 3);
  return text === "-0.000" ? "0.000" : text;
}

function font(size) {
  return `${size}px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace`;
}

/**
 * Numbers as bars to both sides of a line, one on each row; `names` are written where rows are wide.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {{
 *   values: (row: number) => number, top: number, shown: Shown, row: number | null, names?: (row: number) => string,
 * }} given `top` is the size of the longest bar
 */
export function drawRows(canvas, { values, top, shown, row, names }) {
  const { pen, width, height: high } = sharpPen(canvas),
    ink = inks(),
    tall = high / shown.rows,
    middle = width / 2;
  pen.fillStyle = ink.ground;
  pen.fillRect(0, 0, width, high);
  pen.fillStyle = ink.line;
  pen.fillRect(middle, 0, 1, high);
  for (let r = 0; r < shown.rows; r++) {
    const value = values(shown.r0 + r),
      length = (Math.abs(value) / top) * (width / 2);
    pen.fillStyle = value < 0 ? ink.down : ink.up;
    pen.globalAlpha = shown.digits ? 0.35 : 1; // the number is written on its bar
    pen.fillRect(value < 0 ? middle - length : middle, r * tall, length, Math.max(tall - (shown.digits ? 1 : 0), 0.7));
    pen.globalAlpha = 1;
    if (!shown.digits) continue;
    pen.font = font(Math.min(12, width / 6));
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    pen.fillStyle = ink.ink;
    pen.fillText(threeDigits(value), width - 4, (r + 0.5) * tall);
    if (!names || width < 90) continue;
    pen.textAlign = "left";
    pen.fillStyle = ink.soft;
    pen.fillText(names(shown.r0 + r), 2, (r + 0.5) * tall);
  }
  if (row !== null) markRow(pen, ink, row - shown.r0, shown.rows, tall, width);
}

/**
 * The sum of the products from the first row on, as a line that runs down the rows.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {{ terms: Term[], shown: Shown, row: number | null }} given
 */
export function drawRunning(canvas, { terms, shown, row }) {
  const { pen, width, height } = sharpPen(canvas),
    ink = inks(),
    tall = height / shown.rows,
    sums = terms.map(term => term.sum),
    low = sums.reduce((least, sum) => Math.min(least, sum), 0),
    high = sums.reduce((most, sum) => Math.max(most, sum), 0),
    x = sum => 4 + ((sum - low) / (high - low || 1)) * (width - 8);
  pen.fillStyle = ink.ground;
  pen.fillRect(0, 0, width, height);
  pen.fillStyle = ink.line;
  pen.fillRect(x(0), 0, 1, height);
  pen.beginPath();
  pen.moveTo(x(sums[shown.r0 - 1] ?? 0), 0);
  for (let r = 0; r < shown.rows; r++) pen.lineTo(x(sums[shown.r0 + r]), (r + 1) * tall);
  pen.strokeStyle = (sums.at(-1) ?? 0) < 0 ? ink.down : ink.up;
  pen.lineWidth = 2;
  pen.lineJoin = "round";
  pen.globalAlpha = shown.digits ? 0.4 : 1;
  pen.stroke();
  pen.globalAlpha = 1;
  pen.font = font(Math.min(12, width / 6));
  pen.textBaseline = "middle";
  pen.textAlign = "right";
  pen.fillStyle = ink.ink;
  for (let r = 0; shown.digits && r < shown.rows; r++) pen.fillText(threeDigits(sums[shown.r0 + r]), width - 4, (r + 0.5) * tall);
  if (row !== null) markRow(pen, ink, row - shown.r0, shown.rows, tall, width);
}
