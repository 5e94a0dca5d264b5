// The drawing of each of the seven steps.

import { proofFacts } from "../frame/foot.js";
import { h } from "../parts/dom.js";
import { flow } from "../parts/flow.js";
import { count, number } from "../parts/format.js";
import { around, chips, listed, ranking } from "../parts/ranking.js";
import { keyWithPosition, labelAt } from "../parts/token.js";
import { largestSize, means, signedBars, vector } from "../parts/vector.js";
import { asRows, readMatrices } from "../reading/matrices.js";
import { askFor, keyCount, opened, size } from "../reading/opened.js";
import { recorded } from "../reading/server.js";
import { go, state } from "../reading/state.js";
import { t } from "../words/words.js";
import { bench } from "./bench.js";
import { cellSheet, residual, rowSheet, strongest } from "./worked.js";

/** @import { StoryAnswer } from "../types" */
/** @import { Matrix } from "../reading/matrices.js" */
/** @import { Read } from "./panel.js" */
/** @import { Numbers } from "../parts/vector.js" */

const CHIPS = 40; // tokens that step 1 shows

/**
 * @typedef {object} Drawn a step's drawing, and what its foot has instead of the story
 * @property {Element} drawing what is seen, and what a saved picture shows
 * @property {string} [python]
 * @property {unknown} [data]
 * @property {number} [other]
 */

/** @type {((read: Read) => Drawn | Promise<Drawn>)[]} */
export const DRAWINGS = [stepWords, stepMatrices, stepVectors, stepScores, stepSoftmax, stepSum, stepOut];

function drawing(...parts) {
  return h("div", { class: "drawing" }, parts);
}

/** @param {Read} read */
function stepWords({ story }) {
  const pick = Object.assign(j => go({ token: j, other: null }), { chosen: state.token });
  const near = around(state.token, CHIPS);
  return {
    drawing: drawing(
      opened.text.pictures.length ? flow({ of: opened.text, name: t("chooseWord"), from: "from", asked: [state.token], at: state.token, pick }) : chips(near, pick),
      !opened.text.pictures.length &&
        near.length < size() &&
        h("p", { class: "note" }, t("wordsOf", { first: count(near[0]), last: count(near[near.length - 1]), n: count(size()) })),
      vector(`x(${labelAt(state.token)})`, story.x),
      h("p", { class: "note" }, t("barColors")),
    ),
  };
}

/** @param {Read} read */
async function stepMatrices(read) {
  const { story } = read,
    matrices = await readMatrices().catch(refused);
  if (!matrices) return { drawing: productsAlone(read) };
  const { WQ, WK, WV } = matrices,
    x = finite(story.x),
    of = (/** @type {Matrix} */ matrix, result, known, says) => ({
      matrix,
      result,
      bias: matrix.bias,
      known: matrix.between.length ? null : known,
      says,
    });
  const q = of(WQ, "q", story.q, t("queryOf")),
    word = story.source ? keyWithPosition(story.source.token) : "";
  const k = of(WK, "k", story.k, story.source ? t("keyOfOther", { word }) : t("keyOf")),
    v = of(WV, "v", story.v, story.source ? t("valueOfOther", { word }) : t("valueOf"));
  const factors = story.source
    ? [
        { name: "x", values: x, products: [q] },
        { name: "y", values: finite(story.source.x), products: [k, v] },
      ]
    : [{ name: "x", values: x, products: [q, k, v] }];
  return {
    python: matrices.python,
    data: { toJSON: () => ({ ...story, WQ: asRows(WQ), WK: asRows(WK), WV: asRows(WV) }) },
    drawing: drawing(bench(factors), shared(story)),
  };
}

/**
 * JSON has null for what is no number; a model that gives such has failed its proof.
 *
 * @param {Numbers} values
 */
function finite(values) {
  return values.map(value => value ?? 0);
}

// A model whose heads have no such matrices, or a saved page without those of this head.
function refused(error) {
  if (error.status === 410 || error.status === 422) return null;
  throw error;
}

/** @param {Read} read */
function productsAlone({ story }) {
  const y = story.source?.x ?? story.x;
  /** @type {[string, string, Numbers, string, Numbers][]} */
  const products = [
    ["WQ", "q", story.q, "x", story.x],
    ["WK", "k", story.k, entering(story), y],
    ["WV", "v", story.v, entering(story), y],
  ];
  const rows = products.map(([name, result, values, from, input]) =>
    h(
      "div",
      { class: "product" },
      h(
        "span",
        { class: "vec" },
        h("b", {}, from),
        signedBars(means(input, 96)[0], { class: "mini", "aria-hidden": "true" }),
        h("small", {}, input.length),
      ),
      h("span", {}, "×"),
      h("span", { class: "mat" }, h("b", {}, name), h("small", {}, `${input.length} × ${values.length}`)),
      h("span", {}, "="),
      h(
        "span",
        { class: "vec" },
        h("b", {}, result),
        signedBars(values, { class: "mini", "aria-hidden": "true" }),
        h("small", {}, values.length),
      ),
    ),
  );
  return drawing(rows, h("p", { class: "note" }, t(recorded ? "notRecorded" : "noMatrices")), shared(story));
}

/**
 * What k and v are made of: the token's own state, or that of a token of the text that was read.
 *
 * @param {StoryAnswer} story
 */
function entering(story) {
  return story.source ? "y" : "x";
}

/** @param {StoryAnswer} story */
function shared(story) {
  if (story.source) return h("p", { class: "note" }, t("kvOf", { word: keyWithPosition(story.source.token) }));
  if (story.n_kv_head === story.n_head) return null;
  const per = story.n_head / story.n_kv_head,
    group = Math.floor(story.head / per);
  return h("p", { class: "note" }, t("sharedKV", { first: group * per, last: group * per + per - 1, group }));
}

/** @param {Read} read */
function stepVectors({ story }) {
  const top = largestSize([...story.q, ...story.k, ...story.v]);
  return {
    drawing: drawing(
      vector("q = x WQ", story.q, top),
      vector(`k = ${entering(story)} WK`, story.k, top),
      vector(`v = ${entering(story)} WV`, story.v, top),
      h("p", { class: "note" }, t("oneScale")),
      shared(story),
    ),
  };
}

/** @param {Read} read */
async function stepScores({ story, row, best }) {
  const other = state.other ?? best,
    { layer, head, token } = state;
  const cell = await askFor("cell", { layer, head, i: token, j: other }).catch(error => {
    if (error.status !== 410) throw error;
    return null; // a saved page without this cell
  });
  const at = listed(strongest(row).map(one => one.index)),
    scores = story.scores,
    pick = j => go({ other: j });
  const table = scores
    ? ranking({
        name: "score",
        at,
        chosen: other,
        pick,
        columns: [{ title: t("score"), unit: "score", value: j => scores[j], text: number, signed: true }],
      })
    : rowSheet(row, { name: "score", chosen: other, pick });
  return {
    other,
    python: cell?.python,
    data: cell ?? story,
    drawing: h(
      "div",
      { class: "drawing two" },
      h(
        "div",
        {},
        table,
        scores &&
          keyCount() > at.length &&
          h("p", { class: "note" }, t("bestOf", { n: at.length, all: count(keyCount()) })),
        scores && h("p", { class: "note" }, t("barColors")),
      ),
      cell ? cellSheet(cell, token, other) : h("p", { class: "note" }, t("notRecorded")),
    ),
  };
}

/** @param {Read} read */
async function stepSoftmax({ story, row, without, best }) {
  const other = state.other ?? best,
    pick = j => go({ other: j });
  return {
    other,
    python: (without ?? row).python,
    data: without ? { row, without } : row,
    drawing: drawing(
      rowSheet(row, { name: "weight", pick, chosen: other, scores: story.scores, without, shows: "weight" }),
      h("p", { class: "note" }, t("lseIs", { lse: number((without ?? row).lse) })),
    ),
  };
}

/** @param {Read} read */
function stepSum({ story, row, without }) {
  return {
    python: (without ?? row).python,
    data: without ? { row, without } : row,
    drawing: h(
      "div",
      { class: "drawing two" },
      h(
        "div",
        {},
        rowSheet(row, {
          name: "sum",
          without,
          shows: without ? "effect" : "both",
          scores: story.scores,
          pick: j => go({ other: j }),
          chosen: state.other,
        }),
        h("p", { class: "note" }, t("effectSays")),
      ),
      h("div", {}, vector("context", story.context), h("p", { class: "note" }, t("barColors")), residual(row)),
    ),
  };
}

/** @param {Read} read */
async function stepOut({ story }) {
  const matrices = await readMatrices().catch(refused);
  const WO = matrices && {
    matrix: { ...matrices.WO, between: [] }, // the gate comes before WO: it is in the context already
    result: t("share"),
    bias: null,
    known: story.share,
    says: t(matrices.WO.bias ? "shareOfBiased" : "shareSays"),
  };
  const top = largestSize([...story.share, ...story.output]);
  return {
    python: matrices?.python,
    data: matrices ? { toJSON: () => ({ ...story, WO: asRows(matrices.WO) }) } : story,
    drawing: drawing(
      WO && bench([{ name: t("contextName"), values: finite(story.gated ?? story.context), products: [WO] }]),
      vector(t("shareOf"), story.share, top),
      vector(t("outputOf", { n: story.n_head }), story.output, top),
      h("p", { class: "note" }, t("barColors")),
      h("p", { class: story.proof.holds ? "residual" : "residual failed" }, proofFacts()),
    ),
  };
}
