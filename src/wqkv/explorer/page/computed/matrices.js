// The matrices of a saved page: pictures of one byte for each number, as explorer/saved_matrices.py packs them.

import { unzipped } from "./layer.js";

/** @import { MatricesAnswer, MatrixFacts, SavedMatrices, SavedMatrix } from "../types" */

/** @typedef {Record<"WQ" | "WK" | "WV" | "WO", (SavedMatrix & { numbers: Float32Array })[]>} LayerMatrices */

/**
 * By name the matrices of all heads, or of all that share one.
 *
 * @param {string} packed
 * @returns {Promise<LayerMatrices>}
 */
export async function unpackMatrices(packed) {
  const { facts, bytes } = await unzipped(packed);
  let at = 0;
  const numbersOf = (/** @type {SavedMatrix} */ matrix) => {
    const count = Math.ceil(matrix.rows / matrix.per[0]) * matrix.columns,
      steps = new Int8Array(bytes.buffer, bytes.byteOffset + at, count);
    at += count;
    return { ...matrix, numbers: Float32Array.from(steps, one => one * matrix.step) };
  };
  const { WQ, WK, WV, WO } = /** @type {SavedMatrices} */ (facts);
  return { WQ: WQ.map(numbersOf), WK: WK.map(numbersOf), WV: WV.map(numbersOf), WO: WO.map(numbersOf) };
}

/**
 * The matrices of a head, or pictures of at most `size` x `size` numbers of them.
 *
 * @param {LayerMatrices} layer
 * @param {Record<string, string | number>} query
 * @param {string} python the lines that open the view
 * @returns {MatricesAnswer}
 */
export function matricesAnswer(layer, { layer: number, head, size }, python) {
  const facts = (/** @type {LayerMatrices["WQ"]} */ matrices) => {
    const shared = layer.WQ.length / matrices.length;
    return matrixFacts(matrices[Math.floor(Number(head) / shared)], size === undefined ? null : Number(size));
  };
  return {
    WQ: facts(layer.WQ),
    WK: facts(layer.WK),
    WV: facts(layer.WV),
    WO: facts(layer.WO),
    python: `${python}\nview.matrices(${number}, ${head})`,
  };
}

/**
 * @param {LayerMatrices["WQ"][0]} matrix
 * @param {number | null} size
 * @returns {MatrixFacts}
 */
function matrixFacts({ numbers, ...matrix }, size) {
  if (size === null) return { ...matrix, numbers: asBase64(numbers) };
  const rows = numbers.length / matrix.columns,
    per = [Math.ceil(rows / size), Math.ceil(matrix.columns / size)];
  return { ...matrix, per: [per[0] * matrix.per[0], per[1]], numbers: asBase64(extremes(numbers, matrix.columns, per)) };
}

// Of every block of rows x columns numbers the one that is farthest from 0, as explorer/matrices.py has it.
/** @param {Float32Array} numbers @param {number} columns @param {number[]} block */
function extremes(numbers, columns, [high, wide]) {
  const rows = numbers.length / columns,
    width = Math.ceil(columns / wide),
    found = new Float32Array(Math.ceil(rows / high) * width);
  numbers.forEach((value, i) => {
    const at = Math.floor(Math.floor(i / columns) / high) * width + Math.floor((i % columns) / wide);
    if (Math.abs(value) > Math.abs(found[at])) found[at] = value;
  });
  return found;
}

function asBase64(numbers) {
  const bytes = new Uint8Array(numbers.buffer);
  let text = "";
  // in parts, because a function takes so many arguments and no more
  for (let at = 0; at < bytes.length; at += 4096) text += String.fromCharCode(...bytes.subarray(at, at + 4096));
  return btoa(text);
}
