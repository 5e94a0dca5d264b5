// The matrices of a head: asked for once, and kept for the heads that were looked at last.

import { bytesOf } from "../parts/base64.js";
import { askFor } from "./opened.js";
import { state } from "./state.js";

/** @import { MatricesAnswer, MatrixFacts } from "../types" */

/**
 * A matrix with its numbers row by row. Where it is too large to be sent they are a picture: each is
 * the number farthest from 0 of `per` neighboring rows, and single columns are asked for. A saved page
 * has pictures of most heads: every number a multiple of `step`, which is null where they are exact.
 *
 * @typedef {object} Matrix
 * @property {MatrixName} name
 * @property {number} rows
 * @property {number} columns
 * @property {number} per
 * @property {number | null} step
 * @property {Float32Array} numbers
 * @property {(number | null)[] | null} bias
 * @property {MatrixFacts["between"]} between
 */

/** @typedef {"WQ" | "WK" | "WV" | "WO"} MatrixName */

const NAMES = /** @type {const} */ (["WQ", "WK", "WV", "WO"]);
const HEADS = 8; // heads that are kept: of a large model each takes megabytes
const THUMBNAIL_SIDE = 24; // the side of the strip's pictures, as explorer/matrices.py says

/** @type {Map<string, Promise<Record<MatrixName, Matrix> & { python: string }>>} */
const keptHeads = new Map();

/** The four matrices of the chosen head. */
export function readMatrices() {
  const { layer, head } = state,
    key = [state.v, layer, head].join("/"); // the lines of Python name the text
  const found = keptHeads.get(key) ?? askFor("matrices", { layer, head }, false).then(decoded);
  keptHeads.delete(key);
  keptHeads.set(key, found); // the newest again
  found.catch(() => keptHeads.delete(key));
  for (const old of keptHeads.keys()) if (keptHeads.size > HEADS) keptHeads.delete(old);
  return found;
}

/**
 * A matrix as JSON has it, row by row, made when it is saved.
 *
 * @param {Matrix} matrix
 */
export function asRows({ numbers, ...facts }) {
  const rows = Array.from({ length: numbers.length / facts.columns }, (_, r) =>
    Array.from(numbers.subarray(r * facts.columns, (r + 1) * facts.columns)),
  );
  return { ...facts, numbers: rows };
}

/**
 * Whether a matrix is there with all its numbers as they are; else it is a picture.
 *
 * @param {Matrix} matrix
 */
export function isWhole({ per, step }) {
  return per === 1 && step === null;
}

/** @param {MatricesAnswer} answer */
function decoded(answer) {
  const matrices = NAMES.map(name => {
    const { rows, columns, per, step, numbers, bias, between } = answer[name];
    return [name, { name, rows, columns, per: per[0], step, numbers: unpacked(numbers), bias, between }];
  });
  return { ...Object.fromEntries(matrices), python: answer.python };
}

/**
 * Small pictures of WQ, WK and WV: each number is the extreme of a block.
 *
 * @returns {Promise<{ numbers: Float32Array, width: number }[]>}
 */
export async function readSmallMatrices() {
  const { layer, head } = state,
    answer = await askFor("matrices", { layer, head, size: THUMBNAIL_SIDE });
  return NAMES.slice(0, 3).map(name => {
    const { columns, per, numbers } = answer[name];
    return { numbers: unpacked(numbers), width: Math.ceil(columns / per[1]) };
  });
}

/**
 * One column of a matrix, exactly. A saved page refuses those of a picture.
 *
 * @param {Matrix} matrix
 * @param {number} column
 * @returns {Float32Array | Promise<Float32Array>}
 */
export function columnOf(matrix, column) {
  const { name, rows, columns, numbers } = matrix;
  if (isWhole(matrix)) return Float32Array.from({ length: rows }, (_, r) => numbers[r * columns + column]);
  const { layer, head } = state;
  return askFor("matrixcolumn", { layer, head, of: name, column }).then(answer => unpacked(answer.numbers));
}

// base64 of float32, the low byte first, as every machine with a browser has it.
function unpacked(text) {
  return new Float32Array(bytesOf(text).buffer);
}
