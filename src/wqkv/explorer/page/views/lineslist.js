// Below the lines: the links of the chosen word, each with its weight and what arrives by it.

import { h } from "../parts/dom.js";
import { count, weight } from "../parts/format.js";
import { ranking } from "../parts/ranking.js";
import { bdi } from "../parts/token.js";
import { askFor, keyAt, keys, opened, size, tokenAt } from "../reading/opened.js";
import { go, state } from "../reading/state.js";
import { entriesOf } from "../steps/worked.js";
import { t } from "../words/words.js";

/** @import { TileAnswer } from "../types" */
/** @import { Entry } from "../steps/worked.js" */
/** @import { LinesShown } from "./linesdrawing.js" */

const STRONGEST = 8;

/**
 * The links of the chosen word of the chosen head: the weight, and what arrives by it.
 *
 * @param {LinesShown} shown
 */
export async function chosenLinks({ chosen, at }) {
  const { layer, head } = state,
    i = chosen.i,
    j = chosen.j ?? 0;
  const { entries, answers } = i === undefined ? await whoLooks(layer, head, j, at) : await whereItLooks(layer, head, i);
  const ranked = entries.filter(one => one.weight > 0).sort((a, b) => b.weight - a.weight || a.index - b.index),
    found = new Map(ranked.map(one => [one.index, one])),
    name = bdi(i === undefined ? keyAt(j) : tokenAt(i)),
    left = ranked.slice(STRONGEST);
  const of = i === undefined ? opened.text : keys();
  const pick = to =>
    i === undefined ? go({ token: to, other: j, dir: "to" }) : go({ other: to });
  return {
    answers,
    table: h(
      "section",
      { class: "chosenlinks" },
      h("h3", {}, i === undefined ? [t("lookedAtBy"), " ", name] : [name, " ", t("looksAt")], " ", t("inBoth", { layer, head })),
      ranking({
        name: "line",
        of,
        at: ranked.slice(0, STRONGEST).map(one => one.index),
        chosen: i === undefined ? state.token : state.other,
        pick,
        columns: [
          { title: t("weight"), unit: "share", value: to => found.get(to)?.weight, text: weight },
          { title: t("whatArrives"), unit: "length", value: to => found.get(to)?.effect, text: weight, kind: "down" },
        ],
      }),
      left.length > 0 &&
        h("p", { class: "note" }, t("restShare", { n: count(left.length), share: weight(left.reduce((sum, one) => sum + one.weight, 0)) })),
      i === undefined && at.length < size() && h("p", { class: "note" }, t("amongShown")),
      h("p", { class: "note" }, t("arrivesSays")),
    ),
  };
}

async function whereItLooks(layer, head, i) {
  const row = await askFor("row", { layer, head, i });
  return { entries: entriesOf(row), answers: [row] };
}

/**
 * @param {number[]} at the words that are shown
 * @returns {Promise<{ entries: Entry[], answers: TileAnswer[] }>}
 */
async function whoLooks(layer, head, j, at) {
  const place = { layer, head, q0: at[0], q1: (at.at(-1) ?? 0) + 1, k0: j, k1: j + 1 };
  const answers = await Promise.all([askFor("tile", place), askFor("tile", { ...place, of: "contribution" })]);
  const [weights, lengths] = answers;
  const entries = at.map(i => ({
    index: i,
    weight: weights.values[i - at[0]][0] ?? 0,
    effect: lengths.values[i - at[0]][0],
  }));
  return { entries, answers };
}
