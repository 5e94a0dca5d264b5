// The drawing of each of the seven steps.

import { proofFacts } from "../frame/foot.js";
import { h } from "../parts/dom.js";
import { count, number, weight } from "../parts/format.js";
import { barPicture } from "../parts/picture.js";
import { around, chips, listed, ranking } from "../parts/ranking.js";
import { keyWithPosition, labelAt, tokenWithPosition } from "../parts/token.js";
import { means, signedBars, vector } from "../parts/vector.js";
import { askFor, keyCount, opened, size } from "../reading/opened.js";
import { go, state } from "../reading/state.js";
import { t } from "../words/words.js";
import { cellSheet, residual, rowSheet, strongest } from "./worked.js";

/** @import { RowAnswer, StoryAnswer } from "../types" */
/** @import { Read } from "./panel.js" */
/** @import { Numbers } from "../parts/vector.js" */

const CHIPS = 40; // tokens that step 1 shows

/**
 * @typedef {object} Drawn a step's drawing, and what its foot has instead of the story
 * @property {Element} drawing
 * @property {() => SVGElement} picture
 * @property {string} [python]
 * @property {unknown} [data]
 * @property {number} [other]
 */

/** @type {((read: Read) => Drawn | Promise<Drawn>)[]} */
export const DRAWINGS = [stepWords, stepMatrices, stepVectors, stepScores, stepSoftmax, stepSum, stepOut];

function drawing(...parts) {
  return h("div", { class: "drawing" }, parts);
}

/**
 * @param {string} name
 * @param {(number | null)[]} values
 */
function pictureOf(name, values) {
  const title = `${opened.model.name}, ${t("atBoth", state)}, ${tokenWithPosition(state.token)}: ${name}`;
  return () =>
    barPicture(
      title,
      values.slice(0, 64).map((value, i) => [`${name}[${i}]`, value]),
      { text: number, signed: true },
    );
}

/** @param {Read} read */
function stepWords({ story }) {
  const pick = Object.assign(j => go({ token: j, other: null }), { chosen: state.token });
  const near = around(state.token, CHIPS);
  return {
    picture: pictureOf("x", story.x),
    drawing: drawing(
      chips(near, pick),
      near.length < size() &&
        h("p", { class: "note" }, t("wordsOf", { first: count(near[0]), last: count(near[near.length - 1]), n: count(size()) })),
      vector(`x(${labelAt(state.token)})`, story.x),
    ),
  };
}

/** @param {Read} read */
function stepMatrices({ story }) {
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
  return { picture: pictureOf("q", story.q), drawing: drawing(rows, shared(story)) };
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
  return {
    picture: pictureOf("q", story.q),
    drawing: drawing(
      vector("q = x WQ", story.q),
      vector(`k = ${entering(story)} WK`, story.k),
      vector(`v = ${entering(story)} WV`, story.v),
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
    picture: scores
      ? () =>
          barPicture(
            `q(${tokenWithPosition(token)}) · k`,
            at.map(j => [keyWithPosition(j), scores[j]]),
            { text: number, signed: true },
          )
      : rowPicture(row),
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
    picture: rowPicture(row),
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
    picture: rowPicture(row),
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
      h("div", {}, vector("context", story.context), residual(row)),
    ),
  };
}

/** @param {Read} read */
function stepOut({ story }) {
  return {
    picture: pictureOf("share", story.share),
    drawing: drawing(
      vector(t("shareOf"), story.share),
      vector(t("outputOf", { n: story.n_head }), story.output),
      h("p", { class: story.proof.holds ? "residual" : "residual failed" }, proofFacts()),
    ),
  };
}

/** @param {RowAnswer} row */
function rowPicture(row) {
  const title = `${opened.model.name}, ${t("atBoth", state)}, ${tokenWithPosition(state.token)}: ${t("weight")}`;
  return () =>
    barPicture(
      title,
      listed(
        strongest(row).map(one => one.index),
        32,
      ).map(j => [keyWithPosition(j), strongest(row).find(one => one.index === j)?.weight ?? null]),
      { text: weight },
    );
}
