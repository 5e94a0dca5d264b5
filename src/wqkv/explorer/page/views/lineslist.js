// Below the lines: the links of the chosen word, each with its weight and what arrives by it.

import { h } from "../parts/dom.js";
import { count, weight } from "../parts/format.js";
import { ranking } from "../parts/ranking.js";
import { named } from "../parts/token.js";
import { askFor, keys, opened } from "../reading/opened.js";
import { go, state } from "../reading/state.js";
import { strongest } from "../steps/worked.js";
import { t } from "../words/words.js";

const STRONGEST = 8;

/**
 * The links of the chosen word of the chosen head: the weight, and what arrives by it.
 *
 * @param {{ i?: number, j?: number }} chosen
 */
export async function chosenLinks({ i, j = 0 }) {
  const { layer, head } = state,
    looks = i !== undefined,
    asked = looks ? await askFor("row", { layer, head, i }) : await askFor("column", { layer, head, j }),
    all = strongest(asked).filter(one => one.weight > 0),
    top = all.slice(0, STRONGEST),
    left = all.slice(STRONGEST);
  const lengths = looks ? [] : await Promise.all(top.map(one => contribution(one.index, j))),
    arrives = new Map(top.map((one, n) => [one.index, looks ? one.effect : lengths[n]?.values[0][0]])),
    found = new Map(top.map(one => [one.index, one.weight])),
    name = looks ? named(opened.text, i) : named(keys(), j);
  return {
    answers: [asked, ...lengths.flatMap(one => one ?? [])],
    table: h(
      "section",
      { class: "chosenlinks" },
      h("h3", {}, looks ? [name, " ", t("looksAt")] : [t("lookedAtBy"), " ", name], " ", t("inBoth", { layer, head })),
      ranking({
        name: "line",
        of: looks ? keys() : opened.text,
        at: top.map(one => one.index),
        chosen: looks ? state.other : state.token,
        pick: to => (looks ? go({ other: to }) : go({ token: to, other: j, dir: "to" })),
        columns: [
          { title: t("weight"), unit: "share", value: to => found.get(to), text: weight },
          { title: t("whatArrives"), unit: "length", value: to => arrives.get(to), text: weight, kind: "down" },
        ],
      }),
      left.length > 0 &&
        h("p", { class: "note" }, t("restShare", { n: count(left.length), share: weight(left.reduce((sum, one) => sum + one.weight, 0)) })),
      h("p", { class: "note" }, t("arrivesSays")),
    ),
  };
}

// What arrives at word i from word j; none in a saved page that lacks it.
async function contribution(i, j) {
  const { layer, head } = state,
    place = { layer, head, q0: i, q1: i + 1, k0: j, k1: j + 1 };
  return askFor("tile", { ...place, of: "contribution" }).catch(error => {
    if (error.status !== 410) throw error;
    return null;
  });
}
