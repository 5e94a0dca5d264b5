// What became of a text after a change: its next token or similarity, where a token looks, the layers.

import { h } from "../parts/dom.js";
import { flow } from "../parts/flow.js";
import { fixed, short, visible, weight } from "../parts/format.js";
import { scaleOf } from "../parts/photo.js";
import { bdi, named, tokenTag } from "../parts/token.js";
import { bar, sharesOf, topsOf } from "../parts/vector.js";
import { askFor, opened, size } from "../reading/opened.js";
import { get } from "../reading/server.js";
import { go, state } from "../reading/state.js";
import { entriesOf, strongest, weightsOf } from "../steps/worked.js";
import { t } from "../words/words.js";

/** @import { WhatIfAnswer } from "../types" */
/** @import { Unit } from "../parts/vector.js" */

/** @typedef {{ edits: { token: number, text: string }[] }} Edited */

/**
 * A number before and after, with what it is of.
 *
 * @typedef {[name: Node | unknown[], was: number | null | undefined, is: number | null | undefined]} BeforeAfter
 */

/**
 * What became of the text: what the model says now, where the chosen token looks, every layer. All
 * probabilities and weights have one scale.
 *
 * @param {WhatIfAnswer} answer
 * @param {Edited} asked
 */
export async function outcome(answer, asked) {
  const next = nextTokens(answer),
    looks = await looksNow(answer, asked),
    tops = topsOf([...next, ...looks].flatMap(([, was, is]) => sharesOf([was ?? null, is ?? null])));
  const { layer, head, token } = state,
    ofClasses = opened.model.reads === "picture",
    pictured = opened.text.pictures.length > 0 && answer.tokens.length === size();
  return [
    h(
      "section",
      {},
      answer.before.top
        ? [h("h3", {}, ofClasses ? t("classes") : t("nextWord")), twoColumns(next, tops), h("p", { class: "note" }, ofClasses ? t("classesSay") : t("nextAfter"))]
        : similarity(answer),
      changedText(answer, asked),
    ),
    looks.length > 0 &&
      h(
        "section",
        {},
        h("h3", {}, t("looksNow"), " ", tokenTag(token), " ", t("inBoth", { layer, head })),
        pictured ? await looksOnPicture(answer, asked) : twoColumns(looks, tops),
      ),
    layers(answer),
  ];
}

/**
 * The text after the change, and the way to open it.
 *
 * @param {WhatIfAnswer} answer
 * @param {Edited} asked
 */
function changedText(answer, { edits }) {
  return [
    edits.length > 0 &&
      !opened.text.pictures.length &&
      h(
        "p",
        { class: "aftertext" },
        answer.tokens.slice(0, 80).map(token => [bdi(token), " "]),
        answer.tokens.length > 80 && "...",
      ),
    answer.view &&
      h(
        "p",
        {},
        h(
          "button",
          {
            "data-key": "open-after",
            onclick: () =>
              go({ v: String(answer.view), change: null, other: null, set: null, at: null, text: null }),
          },
          t("openAfter"),
        ),
      ),
  ];
}

/** @param {WhatIfAnswer} answer */
function similarity({ after }) {
  return [
    h("h3", {}, t("similarity")),
    h("p", { class: "big", title: String(after.similarity) }, fixed(after.similarity ?? NaN, 4)),
    h("p", { class: "note" }, t("similaritySays")),
  ];
}

/**
 * @param {WhatIfAnswer} answer
 * @returns {BeforeAfter[]}
 */
function nextTokens({ before, after }) {
  // by id: parts of characters are different tokens that read alike
  const [old, now] = [before.top ?? [], after.top ?? []],
    [was, is] = [old, now].map(top => new Map(top.map(one => [one.id, one.probability]))),
    names = new Map([...now, ...old].map(one => [one.id, one.token]));
  return [...names].map(([id, token]) => [h("bdi", {}, visible(token)), was.get(id), is.get(id)]);
}

/**
 * Where the chosen token looks, in both texts. A token after the last change may have moved.
 *
 * @param {WhatIfAnswer} answer
 * @param {Edited} asked
 * @returns {Promise<BeforeAfter[]>} none where there is no text after the change
 */
async function looksNow({ view, tokens }, { edits }) {
  const { layer, head, token } = state,
    moved = tokens.length - size(),
    places = edits.map(edit => edit.token);
  const after = j => (j < Math.min(...places) || !moved ? j : j > Math.max(...places) ? j + moved : null),
    there = after(token);
  if (!view || there === null) return [];
  const [was, is] = await Promise.all([
    askFor("row", { layer, head, i: token }),
    get(`views/${view}/row`, { layer, head, i: there }),
  ]);
  const new_ = new Map(entriesOf(is).map(one => [one.index, one.weight])),
    rows = strongest(was).slice(0, 10);
  return rows.map(({ index, weight: value }) => {
    const to = after(index),
      text = to === null ? "" : tokens[to];
    return [
      [named(opened.text, index), text && text !== opened.text.tokens[index] && [" → ", bdi(text)]],
      value,
      to === null ? undefined : new_.get(to),
    ];
  });
}

/**
 * The same rows on the pictures, in which the hidden patches are crossed out.
 *
 * @param {WhatIfAnswer} answer
 * @param {Edited} asked
 */
async function looksOnPicture({ view }, { edits }) {
  const { layer, head, token } = state,
    of = opened.text;
  const one = (title, row, gone) => {
    const found = weightsOf(row);
    return h("section", {}, h("h4", {}, title), flow({ of, name: title, from: "from", asked: [token], at: token, lookup: j => found.get(j) ?? 0, gone, pick: j => go({ token: j, other: null }) }));
  };
  const [was, is] = await Promise.all([askFor("row", { layer, head, i: token }), get(`views/${view}/row`, { layer, head, i: token })]);
  return [h("div", { class: "twopictures" }, one(t("before"), was, []), one(t("after"), is, edits.map(edit => edit.token))), scaleOf(of)];
}

/**
 * @param {BeforeAfter[]} rows
 * @param {Map<Unit, number>} tops
 */
function twoColumns(rows, tops) {
  const cell = (value, kind) => [
    h("td", { class: "right", title: String(value ?? "") }, value === undefined ? "" : weight(value)),
    h("td", { class: "barcell" }, value === undefined ? "" : bar(value, tops, "share", { kind })),
  ];
  return h(
    "table",
    { class: "ranking n2" },
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        h("th", { scope: "col" }, t("token")),
        h("th", { scope: "col", class: "right" }, t("before")),
        h("td", {}),
        h("th", { scope: "col", class: "right" }, t("after")),
        h("td", {}),
      ),
    ),
    h(
      "tbody",
      {},
      rows.map(([name, was, is]) =>
        h("tr", {}, h("th", { scope: "row" }, name), cell(was, "up"), cell(is, "down")),
      ),
    ),
  );
}

/** @param {WhatIfAnswer} answer */
function layers(answer) {
  const tops = topsOf(answer.layers.map(value => ({ unit: "length", value })));
  const rows = answer.layers.map((value, l) =>
    h(
      "tr",
      {},
      h("th", { scope: "row", class: "right" }, l),
      h("td", { class: "right", title: String(value) }, short(value, 3)),
      h("td", { class: "barcell" }, bar(value, tops, "length", { kind: "down" })),
    ),
  );
  return h(
    "section",
    {},
    h("h3", {}, t("layerChange")),
    h("p", {}, t("outputChange"), " ", h("b", { title: String(answer.change) }, short(answer.change, 3))),
    h(
      "table",
      { class: "ranking n1 bins" },
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          h("th", { scope: "col", class: "right" }, t("layer")),
          h("th", { scope: "col", class: "right" }, t("changeBy")),
          h("td", {}),
        ),
      ),
      h("tbody", {}, rows),
    ),
    h("p", { class: "note" }, t("changeSays")),
  );
}
