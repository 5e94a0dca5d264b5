// Which column and row of the bench are lit, and which rows and columns are seen.

import { clamp } from "../parts/format.js";
import { isWhole } from "../reading/matrices.js";
import { fitting } from "./plates.js";

/** @import { Shown } from "./plates.js" */
/** @import { Plate } from "./product.js" */

/**
 * @typedef {object} Spot
 * @property {number} plate
 * @property {number} column
 * @property {number | null} row its place in the order of the rows; none of a matrix that is a picture
 */

/**
 * The place that the address names; else the column that gives the largest number of the first matrix.
 *
 * @param {string | undefined} lit "WQ.29"
 * @param {Plate[]} plates
 * @returns {Spot}
 */
export function spotOf(lit, plates) {
  const [name, at] = (lit ?? "").split("."),
    plate = plates.findIndex(one => one.matrix.name === name);
  if (plate >= 0 && /^\d{1,6}$/.test(at ?? "") && Number(at) < plates[plate].matrix.columns)
    return { plate, column: Number(at), row: null };
  const sizes = plates[0].results.map(value => Math.abs(value ?? 0));
  return { plate: 0, column: sizes.indexOf(Math.max(...sizes)), row: null };
}

/**
 * Where a key moves the lit place; undefined: it is no such key.
 *
 * @param {string} key
 * @param {Spot} spot
 * @param {Plate} plate
 * @returns {Spot | undefined}
 */
export function movedBy(key, spot, { matrix }) {
  const { rows, columns } = matrix;
  const row = spot.row ?? -1,
    down = to => ({ row: isWhole(matrix) ? clamp(to, 0, rows - 1) : null });
  const move = {
    ArrowLeft: { column: clamp(spot.column - 1, 0, columns - 1) },
    ArrowRight: { column: clamp(spot.column + 1, 0, columns - 1) },
    Home: { column: 0 },
    End: { column: columns - 1 },
    ArrowUp: row > 0 ? down(row - 1) : { row: null },
    ArrowDown: down(row + 1),
    PageUp: down(row - 10),
    PageDown: down(row + 10),
  }[key];
  return move && { ...spot, ...move };
}

/**
 * The rows and columns of a plate that are seen: all, or so many whose numbers can be read.
 *
 * @param {Plate} plate
 * @param {HTMLCanvasElement} canvas
 * @param {{ digits: boolean, r0: number, c0: number }} look
 * @returns {Shown}
 */
export function seenOn({ matrix: { rows, columns } }, canvas, { digits, r0, c0 }) {
  if (!digits) return { r0: 0, rows, c0: 0, columns, digits };
  const fit = fitting(canvas),
    [high, wide] = [Math.min(fit.rows, rows), Math.min(fit.columns, columns)];
  return { r0: clamp(r0, 0, rows - high), rows: high, c0: clamp(c0, 0, columns - wide), columns: wide, digits };
}

/**
 * The first row or column to show, so that one of them is among `count`.
 *
 * @param {number} first
 * @param {number} count
 * @param {number} at
 */
export function broughtIn(first, count, at) {
  if (at < first) return at;
  return at >= first + count ? at - count + 1 : first;
}
