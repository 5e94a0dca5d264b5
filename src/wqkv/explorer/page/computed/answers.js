// The answers that a saved page computes itself, as explorer/numbers.py gives them on a server.

import { allWeights, blockEdges, blockMeansOf, massByDistance, rowOf, scoreOf, softmax } from "./formula.js";
import { sumOf } from "./layer.js";

/** @import { Answers, ModelAnswer, SavedCards, TextFacts, ViewAnswer } from "../types" */
/** @import { LayerNumbers } from "./layer.js" */

/**
 * What an answer is computed from. `python` are the lines that open the view.
 *
 * @typedef {{ model: ModelAnswer, text: ViewAnswer, layer: LayerNumbers, cards: SavedCards, python: string }} SavedView
 */

/** @typedef {Record<string, string | number>} Query */

const RANKED = 64; // so many of the tokens that are looked at most are listed in a story

// JSON has no number for an infinity or NaN.
const finiteOrNull = value => (Number.isFinite(value) ? value : null);
const asNumbers = values => Array.from(values, finiteOrNull);

/**
 * @param {SavedView} seen
 * @param {string} line
 */
const says = (seen, line) => `${seen.python}\n${line}`;

/** By the last part of the address. Each is given the view and the query. */
export const COMPUTED = {
  story: storyAnswer,
  cell: cellAnswer,
  row: rowAnswer,
  column: columnAnswer,
  tile: tileAnswer,
  thumbnail: thumbnailAnswer,
  received: receivedAnswer,
  distances: distancesAnswer,
  links: linksAnswer,
};

/**
 * @param {SavedView} seen
 * @param {Query} query
 * @returns {Answers["story"]}
 */
function storyAnswer(seen, { layer, head, token, lang = "en" }) {
  const { model, text, layer: at } = seen,
    [h, i] = [Number(head), Number(token)],
    call = at.call(h);
  const { scores, weights } = rowOf(call, i),
    context = sumOf(weights, call.v);
  /** @type {TextFacts} */
  const keys = text.keys ?? text;
  const order = weights.map((_, j) => j).sort((a, b) => weights[b] - weights[a]),
    kept = text.keys ? order[0] : i; // whose k and v are shown
  return {
    model: model.name,
    family: model.family,
    n_layer: model.n_layer,
    n_head: model.n_head,
    n_kv_head: model.n_kv_head,
    d_model: model.d_model,
    d_k: model.d_k,
    layer: Number(layer),
    head: h,
    token: i,
    mask: at.facts.mask,
    position: at.facts.position,
    scale: at.facts.scale,
    x: asNumbers(at.rows("x")[i]),
    q: asNumbers(call.q[i]),
    k: asNumbers(call.k[kept]),
    v: asNumbers(call.v[kept]),
    context: asNumbers(context),
    gated: at.tensors.has("gate") ? asNumbers(at.gated(h, i, context)) : null,
    share: asNumbers(at.share(h, i, weights, context)),
    output: asNumbers(at.rows("output")[i]),
    proof: text.proofs[Number(layer)],
    source: text.keys ? { token: kept, x: asNumbers(at.rows("source")[kept]) } : null,
    ranked: Array.from(order.slice(0, RANKED), j => ({ token: keys.tokens[j], position: j, weight: weights[j] })),
    ...at.facts.stories[lang][h][i],
    sentence: text.text,
    tokens: text.tokens,
    special: text.special,
    scores: asNumbers(scores),
    weights: asNumbers(weights),
  };
}

/**
 * @param {SavedView} seen
 * @param {Query} query
 * @returns {Answers["cell"]}
 */
function cellAnswer(seen, { layer, head, i, j }) {
  const call = seen.layer.call(Number(head)),
    found = scoreOf(call, Number(i), Number(j)),
    { weights, lse } = rowOf(call, Number(i)),
    [q, k] = [call.q[i], call.k[j]];
  return {
    terms: Array.from(q, (value, c) => ({ q: value, k: k[c], product: value * k[c] })),
    dot: found.product,
    scale: call.scale,
    scaled: found.scaled,
    softcap: call.softcap,
    capped: found.capped,
    bias: found.bias,
    score: finiteOrNull(found.score),
    sink: call.sink,
    lse: finiteOrNull(lse),
    weight: weights[j],
    hidden: found.hidden,
    python: says(seen, `view.cell(${layer}, ${head}, ${i}, ${j})`),
  };
}

/**
 * With `without` the row computed again, as if there were no link to that token.
 *
 * @param {SavedView} seen
 * @param {Query} query
 * @returns {Answers["row"]}
 */
function rowAnswer(seen, { layer, head, i, without, how = "renormalize" }) {
  const at = seen.layer,
    [h, token] = [Number(head), Number(i)],
    call = at.call(h),
    place = `${layer}, ${head}, ${i}`;
  let { scores, weights, lse } = rowOf(call, token),
    brings = weights; // whose v is summed
  if (without !== undefined) {
    if (how === "zero") brings = weights.map((weight, j) => (j === Number(without) ? 0 : weight));
    else {
      scores[Number(without)] = -Infinity;
      ({ weights, lse } = softmax(scores, call.sink));
      brings = weights;
    }
  }
  const trained = sumOf(rowOf(call, token).weights, call.v),
    sum = sumOf(brings, call.v);
  const context = at.gated(h, token, sum),
    difference = at.gated(h, token, sum.map((value, c) => value - trained[c]));
  return {
    sink: call.sink === null ? null : Math.exp(call.sink - lse),
    lse: finiteOrNull(lse),
    output: at.lengthThroughWO(h, context),
    residual: without === undefined ? at.facts.residuals[token] : null,
    python: says(
      seen,
      without === undefined ? `view.row(${place})` : `view.row_without(${place}, ${without}, '${how}')`,
    ),
    weights: asNumbers(weights),
    changed: without === undefined ? null : at.lengthThroughWO(h, difference),
    effects: Array.from(brings, (weight, j) => weight * at.lengthThroughWO(h, at.gated(h, token, call.v[j]))),
  };
}

/**
 * @param {SavedView} seen
 * @param {Query} query
 * @returns {Answers["column"]}
 */
function columnAnswer(seen, { layer, head, j }) {
  const weights = mapOf(seen.layer, Number(head)).map(one => one[j]);
  return {
    weights,
    received: weights.reduce((sum, weight) => sum + weight, 0),
    python: says(seen, `view.column(${layer}, ${head}, ${j})`),
  };
}

/**
 * @param {SavedView} seen
 * @param {Query} query
 * @returns {Answers["tile"] | undefined}
 */
function tileAnswer(seen, { layer, head, q0, q1, k0, k1, of = "weight" }) {
  const map = of === "weight" ? mapOf(seen.layer, Number(head)) : contributionsOf(seen.layer, Number(head));
  if (!map) return undefined;
  return {
    values: map.slice(Number(q0), Number(q1)).map(one => asNumbers(one.slice(Number(k0), Number(k1)))),
    python: says(
      seen,
      of === "weight"
        ? `view.tile(${layer}, ${head}, ${q0}, ${q1}, ${k0}, ${k1})`
        : `view.contributions(${layer}, ${head})[0, 0, ${q0}:${q1}, ${k0}:${k1}]`,
    ),
  };
}

/**
 * @param {SavedView} seen
 * @param {Query} query
 * @returns {Answers["thumbnail"] | undefined}
 */
function thumbnailAnswer(seen, { layer, head, size = 64, of = "weight" }) {
  const at = seen.layer,
    edges = blockEdges(at.n, Number(size)),
    keys = blockEdges(at.m, Number(size)),
    blocks = map => blockMeansOf(map, edges, keys);
  if (head === undefined)
    return {
      edges,
      keys,
      heads: Array.from({ length: at.nHead }, (_, one) => blocks(mapOf(at, one))),
      python: says(seen, `view.thumbnail(${layer}, None, ${size})`),
    };
  const weights = of === "weight",
    map = weights ? mapOf(at, Number(head)) : contributionsOf(at, Number(head));
  if (!map) return undefined;
  return {
    edges,
    keys,
    values: blocks(map),
    python: says(
      seen,
      weights
        ? `view.thumbnail(${layer}, ${head}, ${size})`
        : `view.contributions(${layer}, ${head}).thumbnail(${size})[0, 0]`,
    ),
  };
}

/**
 * @param {SavedView} seen
 * @param {Query} query
 * @returns {Answers["received"]}
 */
function receivedAnswer(seen, { layer, head }) {
  const map = mapOf(seen.layer, Number(head));
  return { values: asNumbers(sumOf(map.map(() => 1), map)), python: says(seen, `view.received(${layer}, ${head})`) };
}

/**
 * @param {SavedView} seen
 * @param {Query} query
 * @returns {Answers["distances"]}
 */
function distancesAnswer(seen, { layer, head }) {
  const { n } = seen.layer,
    by = massByDistance(mapOf(seen.layer, Number(head))).map(mass => mass / n),
    edges = [0];
  for (let edge = 1; edge < n; edge *= 2) edges.push(edge);
  edges.push(n);
  const sum = values => values.reduce((a, b) => a + b, 0);
  return {
    edges,
    mass: edges.slice(1).map((end, b) => sum(by.slice(edges[b], end))),
    mean: sum(by.map((mass, distance) => mass * distance)),
    python: says(seen, `view.distances(${layer}, ${head})`),
  };
}

/**
 * @param {SavedView} seen
 * @param {Query} query
 * @returns {Answers["links"]}
 */
function linksAnswer(seen, { layer, head, k = 20 }) {
  const found = mapOf(seen.layer, Number(head)).flatMap((one, i) =>
    Array.from(one, (weight, j) => ({ i, j, weight })),
  );
  return {
    links: found
      .filter(one => one.weight)
      .sort((a, b) => b.weight - a.weight)
      .slice(0, Number(k)),
    python: says(seen, `view.links(${layer}, ${head}, ${k})`),
  };
}

/** @type {WeakMap<LayerNumbers, Float64Array[][]>} */
const maps = new WeakMap();

/**
 * The map of a head, which is kept.
 *
 * @param {LayerNumbers} layer
 * @param {number} head
 */
function mapOf(layer, head) {
  const kept = maps.get(layer) ?? [];
  maps.set(layer, kept);
  return (kept[head] ??= allWeights(layer.call(head)));
}

/**
 * P_ij |v_j WO| of all links of a head; undefined where a gate sets them token by token.
 *
 * @param {LayerNumbers} layer
 * @param {number} head
 */
function contributionsOf(layer, head) {
  if (layer.tensors.has("gate")) return undefined;
  const lengths = layer.call(head).v.map(v => layer.lengthThroughWO(head, v));
  return mapOf(layer, head).map(weights => weights.map((weight, j) => weight * lengths[j]));
}
