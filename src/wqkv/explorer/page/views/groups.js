// Whole heads, tokens or sentences removed, each for real, as bars.

import { whenAnswered } from "../frame/awaited.js";
import { foot, WHOLE_TEXT } from "../frame/foot.js";
import { h } from "../parts/dom.js";
import { count, label } from "../parts/format.js";
import { barPicture } from "../parts/picture.js";
import { bar, topsOf } from "../parts/vector.js";
import { question, wholeView } from "../reading/asked.js";
import { workOnce } from "../reading/server.js";
import { go, state } from "../reading/state.js";
import { t } from "../words/words.js";
import { amount, digitsOf } from "./effects.js";

/** @import { GroupFacts, GroupsAnswer } from "../types" */

const BY = /** @type {const} */ (["head", "token", "span"]);
const LISTED_GROUPS = 12;

export function groupLists() {
  const by = BY.find(one => one === state.by);
  return h(
    "section",
    { class: "groups" },
    h("h3", {}, t("groupsTitle")),
    h(
      "p",
      { class: "controls" },
      h(
        "span",
        { class: "segmented", role: "group", "aria-label": t("groupsTitle") },
        BY.map(one =>
          h("button", { "data-key": `by-${one}`, "aria-pressed": String(by === one), onclick: () => go({ by: by === one ? null : one }) }, t(`by_${one}`)),
        ),
      ),
    ),
    by && h("p", { class: "note" }, t(`groupSays_${by}`), " ", t("groupsScale")),
    by && whenAnswered(workOnce(`views/${wholeView()}/groups`, { ...question(), by }), groupTable),
  );
}

/** @param {GroupsAnswer} answer */
function groupTable(answer) {
  const { groups, rounding } = answer,
    digits = digitsOf(groups),
    tops = topsOf(groups.map(one => ({ unit: "change", value: one.true }))),
    listed_ = groups.slice(0, LISTED_GROUPS);
  return [
    h(
      "table",
      { class: "ranking n1 links" },
      h(
        "thead",
        {},
        h("tr", {}, h("th", { scope: "col" }, t(`by_${answer.by}`, {}, answer.by)), h("th", { scope: "col", class: "right" }, t("trueEffect")), h("td", {})),
      ),
      h(
        "tbody",
        {},
        listed_.map((one, i) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, groupName(one, i)),
            h("td", { class: "right", title: String(one.true) }, Math.abs(one.true ?? 0) > rounding ? amount(one.true, digits, true) : t("belowRounding")),
            h("td", { class: "barcell" }, bar(one.true, tops, "change", { signed: true, kind: "down", below: "up" })),
          ),
        ),
      ),
    ),
    groups.length > listed_.length && h("p", { class: "note" }, t("restGroups", { n: count(groups.length - listed_.length) })),
    foot({
      name: `groups-${answer.by}`,
      python: answer.python,
      data: answer,
      ...WHOLE_TEXT,
      picture: () =>
        barPicture(t("groupsTitle"), groups.slice(0, 24).map(one => [groupText(one), one.true]), {
          text: value => amount(value, digits, true),
          signed: true,
        }),
    }),
  ];
}

/** @param {GroupFacts} one */
function groupText({ layer, head, label: text, first }) {
  return layer === null ? `${label(text)} (${first})` : t("atBoth", { layer, head });
}

// A head or a token is a button that goes there.
function groupName(one, i) {
  const { layer, head, first, last, part } = one,
    v = String(state.v).includes(".") ? { v: `${wholeView()}.${part}` } : {};
  const button = (patch, ...text) => h("button", { class: "link", "data-key": `group-${i}`, onclick: () => go({ ...v, other: null, set: null, ...patch }) }, text);
  if (layer !== null) return button({ layer, head }, t("atBoth", { layer, head }));
  if (one.by === "token") return button({ token: first }, h("bdi", {}, label(one.label)), h("sub", {}, first));
  return [h("bdi", {}, one.label.trim()), h("sub", {}, `${first}–${last}`)];
}
