// What the links do together, what was not checked, and how good the predictions were.

import { h } from "../parts/dom.js";
import { count } from "../parts/format.js";
import { t } from "../words/words.js";
import { amount, digitsIn, withBlank } from "./effects.js";

/** @import { WhyAnswer } from "../types" */

/** @param {WhyAnswer} answer */
export function verdict(answer) {
  const { checked } = answer,
    largest = amount(checked.largest, digitsIn(answer)),
    share = `${Number(((checked.share ?? 0) * 100).toPrecision(3))} %`;
  return [
    together_(answer),
    h(
      "section",
      {},
      h("h3", {}, t("notChecked")),
      h("p", { class: "note" }, checked.left ? t("notCheckedSays", { left: count(checked.left), share, largest }) : t("allChecked")),
      h(
        "p",
        { class: "note" },
        checked.judged ? t("checkedSays", { all: count(checked.judged), sign: count(checked.sign), close: count(checked.close) }) : t("nothingClear"),
      ),
      h("p", { class: "note" }, h("b", {}, t("noProof"))),
    ),
  ];
}

/** @param {WhyAnswer} answer */
function together_(answer) {
  const { together: joint, links, before } = answer;
  if (!joint) return null;
  const digits = digitsIn(answer),
    say = value => amount(value, digits),
    change = (joint.after ?? NaN) - before,
    sum = links.slice(0, joint.links).reduce((all, one) => all + (one.true ?? 0), 0);
  return h(
    "section",
    { class: "together" },
    h("h3", {}, t("togetherTitle", { n: joint.links })),
    h("p", { class: "big" }, `${say(before)} → ${say(joint.after)}`),
    winner(answer, before, joint.after),
    h("p", { class: "note" }, joint.draws ? t("togetherSays", { n: joint.draws, low: say(joint.low), high: say(joint.high) }) : t("noDraws")),
    joint.links > 1 &&
      Number.isFinite(change) &&
      h("p", { class: "note" }, t(`sum_${compared(sum, change)}`, { sum: amount(sum, digits, true), change: amount(change, digits, true) })),
    joint.kept > 0 && h("p", { class: "note" }, t("stayed", { n: joint.kept })),
  );
}

// Of two answers the one that has the larger number now.
function winner({ answer, against, kind }, before, after) {
  if (kind === "similarity" || after === null || !against) return null;
  const name = { answer: withBlank((after > 0 ? answer : against) ?? "") };
  return h("p", { class: "note" }, t(before * after > 0 ? "stillWins" : "wins", name));
}

/**
 * @param {number} sum of single effects
 * @param {number} change what all do together
 */
function compared(sum, change) {
  if (Math.abs(sum - change) <= 0.05 * Math.max(Math.abs(sum), Math.abs(change))) return "equal";
  if (sum * change < 0) return "apart";
  return Math.abs(change) < Math.abs(sum) ? "overlap" : "more";
}
