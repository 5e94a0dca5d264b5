// The chosen head beside the grid: its number, its map enlarged, and the heads that share k and v with it.

import { whenAnswered } from "../frame/awaited.js";
import { h, unbroken } from "../parts/dom.js";
import { clamp, count, weight } from "../parts/format.js";
import { drawThumbnail, topOf } from "../parts/thumbnail.js";
import { vector } from "../parts/vector.js";
import { askFor, headGroups, keyCount, opened, size } from "../reading/opened.js";
import { go, state } from "../reading/state.js";
import { lang, t } from "../words/words.js";
import { labelName, statText } from "./statistic.js";

/** @import { GridAnswer, ThumbnailAnswer } from "../types" */

/** Whether each map has a scale of its own, so that a faint one can be seen. */
export function ownScales() {
  return state.faint === "1";
}

/**
 * The chosen head's number, or its label with the evidence.
 *
 * @param {GridAnswer} grid
 */
export function numbersOf(grid) {
  const { layer, head } = state,
    value = grid.values[layer][head],
    name = grid.labels?.[layer][head];
  return [
    value !== null &&
      h(
        "p",
        {},
        t("named", { name: name ? t("score") : t(`stat_${grid.statistic}`) }),
        " ",
        h("b", { title: String(value) }, statText(grid, value)),
      ),
    name && h("p", {}, h("b", {}, labelName(grid, name).name), " ", unbroken(grid.evidence?.[layer][head] ?? "")),
  ];
}

/** @param {ThumbnailAnswer} thumbnail */
export function large({ values = [] }) {
  const [n, m, high, wide] = [size(), keyCount(), values.length, values[0].length],
    facts = { n: count(n), m: count(m), size: high, high, wide },
    means = opened.text.keys ? t("blockMeansBoth", facts) : t("blockMeans", facts),
    whole = n <= high && m <= wide,
    top = whole && !ownScales() ? 1 : topOf(values),
    box = h("div", { class: "bigmap" }, drawThumbnail(values, top, t("thumbnailOf", state)));
  box.style.aspectRatio = String(clamp(m / n, 0.5, 2));
  return [
    box,
    h("p", { class: "note" }, whole ? t("eachCell") : means, top < 1 && [" ", t("strongestIs", { top: weight(top) })]),
    h("p", {}, h("button", { "data-key": "to-map", onclick: () => go({ view: "map" }) }, t("openMap"))),
  ];
}

// Heads that share k and v: each head's q, and the one k and v of all.
export function sharing() {
  const { layer, head, token } = state,
    per = opened.model.n_head / opened.model.n_kv_head,
    group = Math.floor(head / per);
  if (per === 1) return null;
  const heads = headGroups()[group];
  return whenAnswered(
    Promise.all(heads.map(one => askFor("story", { layer, head: one, token, lang: lang() }))),
    stories =>
      h(
        "section",
        { class: "shared" },
        h("h4", {}, t("groupOf", { first: heads[0], last: heads.at(-1), group })),
        stories.map((story, i) => vector(`q (${heads[i]})`, story.q)),
        vector("k", stories[0].k),
        vector("v", stories[0].v),
      ),
  );
}
