// The figure that repeats the answer: q of one word over k of the other, the weight, and v.

import { h } from "../parts/dom.js";
import { number, weight } from "../parts/format.js";
import { rich } from "../parts/rich.js";
import { named } from "../parts/token.js";
import { signedBars } from "../parts/vector.js";
import { askFor, keys, opened } from "../reading/opened.js";
import { state } from "../reading/state.js";
import { lang, t } from "../words/words.js";

/** @import { Read } from "../steps/panel.js" */
/** @import { Entry } from "../steps/worked.js" */

/**
 * @param {Omit<Read, "without">} read
 * @param {Entry} best the key that is looked at most
 */
export async function figure({ story }, best) {
  const { layer, head, token } = state;
  // Between two texts the story has the k and v of the key that is looked at most.
  const theirs =
    opened.text.keys || best.index === token
      ? story
      : await askFor("story", { layer, head, token: best.index, lang: lang() }).catch(error => {
          if (error.status !== 410) throw error;
          return null; // a saved page without this word
        });
  if (!theirs) return null;
  const top = Math.max(...[...story.q, ...theirs.k, ...theirs.v].map(one => Math.abs(one ?? 0)));
  const word = () => named(opened.text, token),
    key = () => named(keys(), best.index);
  const line = (matrix, vector, of, values) => [
    h("dt", {}, h("code", {}, `${matrix} →`), " ", rich(marks => t("figureOf", marks), { vector: () => h("i", {}, vector), token: () => h("b", {}, of()) })),
    h("dd", {}, signedBars(values, { class: "mini", "aria-hidden": "true" }, top)),
  ];
  const score = story.scores?.[best.index],
    shown = weight(best.weight);
  return h(
    "figure",
    { class: "herofigure" },
    h(
      "dl",
      {},
      line("WQ", "q", word, story.q),
      line("WK", "k", key, theirs.k),
      h("dt", { class: "fits" }, typeof score === "number" ? t("figureFits", { score: number(score), weight: shown }) : t("figureFitsLong", { weight: shown })),
      line("WV", "v", key, theirs.v),
      h("dt", { class: "fits" }, rich(marks => t("figureGoes", marks), { weight: shown, token: word })),
    ),
    h("figcaption", {}, `${t("figureSays")} ${t("figureScale", { n: story.q.length, top: number(top) })}`),
  );
}
