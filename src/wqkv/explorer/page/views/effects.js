// Links with what removing them does: numbers as text, and a table that can be sorted.

import { h } from "../parts/dom.js";
import { count, fixed, label, number, visible, weight } from "../parts/format.js";
import { bdi } from "../parts/token.js";
import { bar } from "../parts/vector.js";
import { linkName, wholeView } from "../reading/asked.js";
import { go, state } from "../reading/state.js";
import { t } from "../words/words.js";

/** @import { LinkEffectFacts, WhyAnswer } from "../types" */

/**
 * A number of what is asked about: with two decimals, of a cosine with four; an effect has its sign.
 *
 * @param {{ kind: string }} answer
 * @param {number | null | undefined} value
 */
export function amount({ kind }, value, signed = false) {
  if (value === null || value === undefined) return "-";
  const text = kind === "similarity" ? fixed(value, 4) : number(value);
  return signed && value > 0 ? `+${text}` : text;
}

/**
 * A token whose blank in front can be seen, because with and without one they are two tokens.
 *
 * @param {string} token
 */
export function withBlank(token) {
  return token.startsWith(" ") ? `␣${visible(token.slice(1))}` : visible(token);
}

/**
 * The number that is asked about, in words.
 *
 * @param {{ kind: string, answer: string | null, against: string | null }} answer
 */
export function numberText({ kind, answer, against }) {
  const words = { answer: withBlank(answer ?? ""), against: withBlank(against ?? "") };
  return t(`number_${kind === "similarity" ? (against === null ? "like" : "likeless") : "logits"}`, words);
}

/**
 * The two tokens of a link.
 *
 * @param {WhyAnswer} answer
 * @param {LinkEffectFacts} one
 */
function tokensOf({ tokens, keys }, { part, query, key }) {
  return [tokens[part][query], keys[part][key]];
}

/**
 * @param {WhyAnswer} answer
 * @param {LinkEffectFacts} one
 */
export function linkText(answer, one) {
  const [from, to] = tokensOf(answer, one);
  return `${one.layer}.${one.head} ${label(from)}@${one.query} → ${label(to)}@${one.key}`;
}

/**
 * Opens the seven steps of a link's row with the link removed.
 *
 * @param {LinkEffectFacts} one
 */
export function openWithout(one) {
  const { layer, head, query: token, key: other, part } = one,
    whole = wholeView();
  go({
    ...(String(state.v).includes(".") ? { v: `${whole}.${part}` } : {}),
    layer,
    head,
    token,
    other,
    set: null,
    without: linkName(one),
    step: 5,
  });
  document.getElementById("strip")?.scrollIntoView();
}

/**
 * @typedef {"true" | "predicted" | "weight" | "layer"} Sorted
 * @type {Record<Sorted, (one: LinkEffectFacts) => number>}
 */
const ORDERS = {
  true: one => -Math.abs(one.true ?? 0),
  predicted: one => -Math.abs(one.predicted ?? 0),
  weight: one => -(one.weight ?? 0),
  layer: one => one.layer * 1e4 + one.head,
};

/**
 * A table of links; the column it is sorted by stands in the address, the same for all tables.
 *
 * @param {WhyAnswer} answer
 * @param {{ name: string, links: LinkEffectFacts[], most: number }} table
 */
export function effectTable(answer, { name, links, most }) {
  const sort = /** @type {Sorted} */ (state.sort !== undefined && state.sort in ORDERS ? state.sort : "true"),
    order = ORDERS[sort],
    all = state.more === name ? links.length : most;
  const sorted = [...links].sort((a, b) => order(a) - order(b)),
    top = Math.max(...links.map(one => Math.abs(one.true ?? 0)), 0);
  const title = (by, text) =>
    h(
      "th",
      { scope: "col", class: by === "layer" ? "right lh" : "right", "aria-sort": sort === by ? (by === "layer" ? "ascending" : "descending") : "none" },
      h("button", { class: "link", "data-key": `sort-${name}-${by}`, onclick: () => go({ sort: by === "true" ? null : by }) }, text, h("span", { "aria-hidden": "true" }, sort === by ? (by === "layer" ? " ▴" : " ▾") : "")),
    );
  return [
    h(
      "table",
      { class: "ranking effects" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, t("link")), title("layer", t("layerHead")), title("weight", t("weight")), title("predicted", t("predicted")), title("true", t("trueEffect")), h("td", { class: "barcell" }), h("th", { scope: "col", class: "marks" }, name === "heaviest" ? "" : t("marks")))),
      h("tbody", {}, sorted.slice(0, all).map(one => row(answer, name, one, top))),
    ),
    links.length > most &&
      h(
        "p",
        { class: "note" },
        h("button", { class: "quiet", "data-key": `more-${name}`, "aria-expanded": String(all > most), onclick: () => go({ more: all > most ? null : name }) }, all > most ? t("fewer", { n: most }) : t("allOf", { n: count(links.length) })),
      ),
  ];
}

function row(answer, name, one, top) {
  const [from, to] = tokensOf(answer, one),
    id = `${one.part}-${linkName(one)}`,
    gone = state.without === linkName(one),
    clear = Math.abs(one.true ?? 0) > answer.rounding;
  const says = name === "heaviest" ? [] : marks(one);
  return h(
    "tr",
    { class: gone ? "chosen" : null },
    h(
      "th",
      { scope: "row" },
      h(
        "button",
        { class: "link", "data-key": `${name}-${id}`, title: t("openWithout"), "aria-pressed": String(gone), onclick: () => openWithout(one) },
        bdi(from),
        h("sub", {}, one.query),
        " → ",
        bdi(to),
        h("sub", {}, one.key),
        answer.tokens.text === undefined && h("small", {}, ` ${t(`part_${one.part}`)}`),
      ),
      // where there is no room for these columns
      h("small", { class: "brief" }, [`${one.layer}.${one.head}`, ...says].join(" · ")),
    ),
    h("td", { class: "right lh" }, `${one.layer}.${one.head}`),
    h("td", { class: "right", title: String(one.weight) }, weight(one.weight)),
    h("td", { class: "right", title: String(one.predicted) }, amount(answer, one.predicted, true)),
    h("td", { class: "right truth", title: String(one.true) }, clear ? amount(answer, one.true, true) : t("belowRounding")),
    h("td", { class: "barcell" }, bar(one.true, top, { signed: true, kind: "down", below: "up" })),
    h("td", { class: "marks" }, says.map(text => h("span", { class: "mark" }, text))),
  );
}

// The warning that was there before anything was removed, and how the prediction missed.
function marks(one) {
  const found = [];
  if (one.warning) found.push(`! ${t(`mark_${one.warning}`)}`);
  if (one.miss) found.push(t(`mark_${one.miss}`));
  return found;
}
