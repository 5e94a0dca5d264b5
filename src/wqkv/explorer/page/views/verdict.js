// What the links do together, what was not checked, and how good the predictions were.

import { h } from "../parts/dom.js";
import { count, fixed } from "../parts/format.js";
import { t } from "../words/words.js";
import { amount } from "./effects.js";

/** @import { WhyAnswer } from "../types" */

/** @param {WhyAnswer} answer */
export function verdict(answer) {
  const { checked, together, links } = answer,
    sum = links.slice(0, together?.links ?? 0).reduce((all, one) => all + (one.true ?? 0), 0);
  const say = value => amount(answer, value);
  return [
    together &&
      h(
        "section",
        { class: "together" },
        h("h3", {}, t("togetherTitle", { n: together.links })),
        h("p", { class: "big" }, `${say(answer.before)} → ${say(together.after)}`),
        h("p", { class: "note" }, t("togetherSays", { low: say(together.low), high: say(together.high) })),
        h("p", { class: "note" }, t("overlap", { sum: amount(answer, sum, true) }), together.kept > 0 && ` ${t("stayed", { n: together.kept })}`),
      ),
    h(
      "section",
      {},
      h("h3", {}, t("notChecked")),
      h("p", { class: "note" }, t("notCheckedSays", { left: count(checked.left), share: percent(checked.share), largest: say(checked.largest) })),
      h("p", { class: "note" }, t("checkedSays", { all: count(checked.judged), sign: count(checked.sign), close: count(checked.close) })),
      h("p", { class: "note" }, h("b", {}, t("noProof"))),
    ),
  ];
}

function percent(share) {
  return `${fixed((share ?? 0) * 100, 0)} %`;
}
