// The formula, in float64: softmax(q k^T * scale, softcap, bias, mask, sink) v, row by row.

/** @import { HeadCall } from "./layer.js" */

/**
 * Every number on the way to one score.
 *
 * @param {HeadCall} call
 * @param {number} i
 * @param {number} j
 */
export function scoreOf(call, i, j) {
  const q = call.q[i],
    k = call.k[j];
  let product = 0;
  for (let c = 0; c < q.length; c++) product += q[c] * k[c];
  const scaled = product * call.scale,
    capped = call.softcap === null ? null : call.softcap * Math.tanh(scaled / call.softcap),
    bias = call.bias ? call.bias[i][j] : null,
    hidden = call.visible ? !call.visible[i][j] : false;
  return { product, scaled, capped, bias, hidden, score: hidden ? -Infinity : (capped ?? scaled) + (bias ?? 0) };
}

/**
 * Scores as weights: the sink is one more score, and a row that may see nothing is 0.
 *
 * @param {Float64Array} scores
 * @param {number | null} sink
 */
export function softmax(scores, sink = null) {
  const highest = scores.reduce((a, b) => Math.max(a, b), sink ?? -Infinity),
    shift = highest === -Infinity ? 0 : highest;
  const weights = scores.map(score => Math.exp(score - shift));
  let total = sink === null ? 0 : Math.exp(sink - shift);
  for (const weight of weights) total += weight;
  if (total === 0) return { weights, lse: -Infinity };
  return { weights: weights.map(weight => weight / total), lse: shift + Math.log(total) };
}

/**
 * Row i: its scores, weights and lse.
 *
 * @param {HeadCall} call
 * @param {number} i
 */
export function rowOf(call, i) {
  const scores = Float64Array.from({ length: call.m }, (_, j) => scoreOf(call, i, j).score);
  return { scores, ...softmax(scores, call.sink) };
}

/**
 * All rows of weights.
 *
 * @param {HeadCall} call
 */
export function allWeights(call) {
  return Array.from({ length: call.n }, (_, i) => rowOf(call, i).weights);
}

/**
 * Where the blocks of n positions begin, and where the last one ends.
 *
 * @param {number} n
 * @param {number} size
 */
export function blockEdges(n, size) {
  const blocks = Math.min(n, size);
  return Array.from({ length: blocks + 1 }, (_, block) => Math.ceil((block * n) / blocks));
}

/**
 * The means of blocks of a map.
 *
 * @param {ArrayLike<number>[]} map
 * @param {number[]} edges
 * @param {number[]} keys
 */
export function blockMeansOf(map, edges, keys) {
  const pairs = bounds => bounds.slice(1).map((end, b) => [bounds[b], end]);
  return pairs(edges).map(([top, bottom]) =>
    pairs(keys).map(([left, right]) => {
      let sum = 0;
      for (let i = top; i < bottom; i++) for (let j = left; j < right; j++) sum += map[i][j];
      return sum / ((bottom - top) * (right - left));
    }),
  );
}

/**
 * The weight at each distance |i - j|.
 *
 * @param {ArrayLike<number>[]} map
 */
export function massByDistance(map) {
  const found = new Float64Array(Math.max(map.length, map[0]?.length ?? 0));
  map.forEach((row, i) => {
    for (let j = 0; j < row.length; j++) found[Math.abs(i - j)] += row[j];
  });
  return found;
}
