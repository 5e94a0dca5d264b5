// The experiments on one head, up to its output, as experiments/switches.py makes them.

import { allWeights, blockEdges, blockMeansOf, rowOf, scoreOf } from "./formula.js";
import { sumOf } from "./layer.js";

/** @import { ProofFacts } from "../types" */
/** @import { HeadCall, LayerNumbers } from "./layer.js" */

/**
 * @typedef {{ name: string, unit: string, before: number, after: number | null }} Measured
 * @typedef {{ scores: Float64Array, weights: Float64Array }} Row
 */

/**
 * The head with one change of q, k, v, the scale or the mask; `key` has the most weight in row i.
 *
 * @type {Record<string, (layer: LayerNumbers, call: HeadCall, head: number, key: number) => HeadCall>}
 */
const CHANGES = {
  no_projection: (layer, call) => {
    const x = layer.rows("x");
    return { ...call, q: x, k: layer.tensors.has("source") ? layer.rows("source") : x, scale: 1 / Math.sqrt(x[0].length) };
  },
  same_matrix: (layer, call, head) => ({ ...call, k: rowsOr(layer, "same_keys", head, call.q) }),
  value_is_key: (layer, call, head) => ({ ...call, v: rowsOr(layer, "key_values", layer.keyHead(head), call.k) }),
  swapped: (_, call) => ({ ...call, q: call.k, k: call.q }),
  unscaled: (_, call) => ({ ...call, scale: 1 }),
  no_key_bias: (layer, call, head) => ({ ...call, k: layer.rows("plain_keys", layer.keyHead(head)) }),
  big_weight: (_, call, __, key) => ({ ...call, visible: hiding(call, key) }),
  low_rank: (layer, call, head) => ({ ...call, q: layer.rows("low_rank_queries", head) }),
};

/** What else each of them measures. @type {Record<string, (at: Changed) => Measured[]>} */
const MORE = {
  swapped: ({ layer, call, head, i, key, before }) => {
    const own = before.weights[key],
      back = rowOf(call, key).weights[i];
    return [
      ...symmetricAlone(layer, call, head, i, key, own),
      { name: "the link back", unit: "of 1", before: own, after: back },
      { name: "antisymmetric part of the scores", unit: "of the symmetric", before: antisymmetric(call), after: null },
    ];
  },
  merged: ({ layer, call, head }) => {
    const [d, width] = [call.q[0].length, layer.rows("x")[0].length];
    return [
      { name: "size of the matrices", unit: "numbers", before: 2 * width * d, after: width * width },
      { name: "rank of WQ WK^T", unit: "dimensions", before: layer.facts.ranks[head][0], after: null },
    ];
  },
  variance: ({ call }) => {
    const unit = "of the scores before the scale";
    return [
      { name: "standard deviation of q . k", unit, before: deviation(call), after: null },
      { name: "sqrt(d_k)", unit, before: Math.sqrt(call.q[0].length), after: null },
    ];
  },
  value_is_key: ({ layer, call, changed, head, i, before }) => {
    const [old, now] = [call, changed].map(one => layer.gated(head, i, sumOf(before.weights, one.v))),
      lengths = layer.lengthThroughWO(head, old) * layer.lengthThroughWO(head, now);
    return [cosineWith(layer.productThroughWO(head, old, now) / lengths)];
  },
  concat_or_sum: ({ layer, i }) => {
    const length = lengthOf(layer.rows("output")[i]);
    return [{ name: "length of the output", unit: "", before: length, after: length }];
  },
  shuffled_heads: ({ layer, i }) => {
    const [largest, change, , cosine] = layer.facts.shuffled[i];
    return [
      cosineWith(cosine),
      { name: "largest number of the output", unit: "", before: largest, after: null },
      { name: "largest change of it", unit: "", before: change, after: null },
    ];
  },
  big_weight: ({ layer, call, head, i, key, before }) => {
    const added = call.v.map((v, j) => before.weights[j] * layer.lengthThroughWO(head, layer.gated(head, i, v)));
    const share = added[key] / added.reduce((sum, one) => sum + one, 0);
    return [{ name: "what it adds", unit: "of the lengths of all links", before: share, after: null }];
  },
  low_rank: ({ layer, head }) => [
    { name: "kept of WQ WK^T", unit: "of its squared norm", before: 1, after: layer.facts.ranks[head][1] },
  ],
};

/**
 * @typedef {{
 *   layer: LayerNumbers, call: HeadCall, changed: HeadCall, head: number, i: number, key: number, before: Row,
 *   after: Row,
 * }} Changed
 *
 * @typedef {{
 *   key: number, before: Row, after: Row, numbers: Measured[], same: ProofFacts | null, changes: boolean,
 * }} Made `same` is the proof that nothing changes; `changes` whether the head does something else
 */

/**
 * One question, answered on row i of a head; undefined where the page has not what it needs.
 *
 * @param {LayerNumbers} layer
 * @param {string} name
 * @param {number} head
 * @param {number} i
 * @returns {Made | undefined}
 */
export function experimentOf(layer, name, head, i) {
  const call = layer.call(head),
    before = rowOf(call, i),
    key = heaviestOf(before.weights);
  const alone_in_row = Array.from(before.scores).filter(Number.isFinite).length === 1;
  if (name in layer.facts.refused || (name === "big_weight" && alone_in_row)) return undefined;
  const changed = changedCall(layer, name, call, head, key),
    after = changed === call ? before : rowOf(changed, i);
  const context = sumOf(before.weights, call.v),
    difference = sumOf(after.weights, changed.v).map((value, c) => value - context[c]);
  const length = of => layer.lengthThroughWO(head, layer.gated(head, i, of)),
    proofs = layer.facts.proofs[name],
    change = name === "shuffled_heads" ? layer.facts.shuffled[i][2] : length(difference) / length(context);
  const own = layer.tensors.has("source") ? null : i,
    at = { layer, call, changed, head, i, key, before, after };
  return {
    key,
    before,
    after,
    numbers: [
      { name: "weight of the strongest link", unit: "of 1", before: before.weights[key], after: after.weights[key] },
      ...measuredOf([before.weights], [after.weights], own === null ? null : [own]),
      { name: "change of the output", unit: "of its length", before: change, after: null },
      ...(MORE[name]?.(at) ?? []),
    ],
    same: proofs ? proofs[proofs.length === 1 ? 0 : head][i] : null, // one for all heads together
    changes: !MEASURED_ALONE.includes(name),
  };
}

/**
 * What is added to the token as trained and changed; nothing where the layer was saved without WO.
 *
 * @param {LayerNumbers} layer
 * @param {string} name
 * @param {number} head
 * @param {number} i
 * @param {Made} made
 * @returns {number[][]}
 */
export function outputsOf(layer, name, head, i, { key, before, after }) {
  const whole = Array.from(layer.rows("output")[i]);
  if (name === "concat_or_sum") return [whole, whole];
  if (!layer.tensors.has("WO")) return [];
  const call = layer.call(head);
  if (name === "value_is_key") {
    const through = (weights, one) => sumOf(layer.gated(head, i, sumOf(weights, one.v)), layer.rows("WO", head));
    return [through(before.weights, call), through(after.weights, changedCall(layer, name, call, head, key))].map(one => Array.from(one));
  }
  const contexts = Array.from({ length: layer.nHead }, (_, one) => contextOf(layer, one, i)),
    turned = Float64Array.from(whole);
  contexts.forEach((context, place) => {
    const other = contexts.at(place - 1) ?? context,
      added = sumOf(other.map((value, c) => value - context[c]), layer.rows("WO", place));
    for (let c = 0; c < turned.length; c++) turned[c] += added[c];
  });
  return [whole, Array.from(turned)];
}

function contextOf(layer, head, i) {
  const call = layer.call(head);
  return Float64Array.from(layer.gated(head, i, sumOf(rowOf(call, i).weights, call.v)));
}

/**
 * The key that has the most weight in a row as trained.
 *
 * @param {LayerNumbers} layer
 * @param {number} head
 * @param {number} i
 */
export function strongestKey(layer, head, i) {
  return heaviestOf(rowOf(layer.call(head), i).weights);
}

const MEASURED_ALONE = ["variance", "concat_or_sum"]; // they change nothing

/**
 * @param {LayerNumbers} layer
 * @param {string} name
 * @param {HeadCall} call
 * @param {number} head
 * @param {number} key
 */
function changedCall(layer, name, call, head, key) {
  return name in CHANGES ? CHANGES[name](layer, call, head, key) : call;
}

function cosineWith(after) {
  return { name: "cosine with the trained output", unit: "of 1", before: 1, after };
}

function lengthOf(vector) {
  return Math.hypot(...vector);
}

/**
 * The maps of a head as trained and changed, in blocks, and the means over their rows.
 *
 * @param {LayerNumbers} layer
 * @param {string} name
 * @param {number} head
 * @param {number} i
 * @param {number} size
 */
export function changedMapsOf(layer, name, head, i, size) {
  const made = experimentOf(layer, name, head, i);
  if (!made) return undefined;
  const call = layer.call(head),
    changed = changedCall(layer, name, call, head, made.key);
  const edges = blockEdges(layer.n, size),
    keys = blockEdges(layer.m, size),
    maps = [allWeights(call), allWeights(changed)],
    [before, after] = maps.map(map => blockMeansOf(map, edges, keys)),
    own = layer.tensors.has("source") ? null : maps[0].map((_, row) => row);
  return { edges, keys, before, after, means: measuredOf(maps[0], maps[1], own) };
}

// What is measured of a row, as means over some of them; `own` are the rows' places among the keys.
function measuredOf(before, after, own) {
  const mean = (rows, of) => rows.reduce((sum, row, at) => sum + of(row, at), 0) / rows.length,
    both = (name, unit, of) => ({ name, unit, before: mean(before, of), after: mean(after, of) });
  const found = [
    both("entropy", "nats", row => row.reduce((sum, p) => (p > 0 ? sum - p * Math.log(p) : sum), 0)),
    both("largest weight", "of 1", row => row[heaviestOf(row)]),
    both("trace of the softmax's Jacobian", "of 1", row => Math.max(0, row.reduce((rest, p) => rest - p * p, 1))),
  ];
  return own ? [both("weight on itself", "of 1", (row, at) => row[own[at]]), ...found] : found;
}

/** @param {Float64Array} row */
export function heaviestOf(row) {
  return row.reduce((best, value, j) => (value > row[best] ? j : best), 0);
}

function rowsOr(layer, name, part, otherwise) {
  return layer.tensors.has(name) ? layer.rows(name, part) : otherwise;
}

// The mask of a head that does not see one key.
function hiding(call, key) {
  return call.q.map((_, i) =>
    Float32Array.from({ length: call.m }, (__, j) => Number(j !== key && (!call.visible || call.visible[i][j] !== 0))),
  );
}

/**
 * The strongest link where WQ WK^T is replaced by half its sum with its transpose. With q = x WQ + a
 * and k = x WK + b, a product is half of (q_i - a) (k_j - b) + (k_i - b) (q_j - a), and a (k_j - b).
 */
function symmetricAlone(layer, call, head, i, key, own) {
  if (!layer.tensors.has("query_bias")) return []; // something stands between WQ and WK
  const a = layer.rows("query_bias")[head],
    plain = rowsOr(layer, "plain_keys", layer.keyHead(head), call.k),
    without = q => q.map((value, c) => value - a[c]),
    join = (one, other) => Float32Array.of(...one, ...other);
  const q = call.q.map((one, row) => join(without(one).map((value, c) => value / 2 + a[c]), plain[row].map(value => value / 2))),
    k = call.q.map((one, row) => join(plain[row], without(one)));
  const found = rowOf({ ...call, q, k }, i).weights[key];
  return [{ name: "the link from the symmetric part of WQ WK^T alone", unit: "of 1", before: own, after: found }];
}

// All products q_i . k_j.
function productsOf(call) {
  return call.q.map((_, i) => call.k.map((__, j) => scoreOf(call, i, j).product));
}

function antisymmetric(call) {
  const S = productsOf(call);
  let [minus, plus] = [0, 0];
  S.forEach((row, i) =>
    row.forEach((value, j) => {
      minus += (value - S[j][i]) ** 2;
      plus += (value + S[j][i]) ** 2;
    }),
  );
  return Math.sqrt(minus / plus);
}

function deviation(call) {
  const all = productsOf(call).flat(),
    mean = all.reduce((sum, one) => sum + one, 0) / all.length;
  return Math.sqrt(all.reduce((sum, one) => sum + (one - mean) ** 2, 0) / Math.max(1, all.length - 1));
}
