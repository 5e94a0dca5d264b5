// Links with what removing them does: numbers as text, and a table that can be sorted.

import { h } from "../parts/dom.js";
import { clamp, count, fixed, label, power, visible, weight } from "../parts/format.js";
import { bdi } from "../parts/token.js";
import { bar, topsOf } from "../parts/vector.js";
import { linkName, wholeView } from "../reading/asked.js";
import { go, state } from "../reading/state.js";
import { t } from "../words/words.js";

/** @import { LinkEffectFacts, WhyAnswer } from "../types" */

/**
 * With how many decimals effects are written: three digits of the largest one, and at least two.
 *
 * @param {{ true: number | null, predicted?: number | null }[]} effects
 */
export function digitsOf(effects) {
  const largest = Math.max(...effects.map(one => Math.abs(one.true ?? one.predicted ?? 0)), 0) || 1;
  return clamp(2 - Math.floor(Math.log10(largest)), 2, 6);
}

/** @param {WhyAnswer} answer */
export function digitsIn({ links, resting }) {
  return digitsOf([...links, ...resting]);
}

/**
 * A number of what is asked about; an effect has its sign, and one that would read 0 is a power.
 *
 * @param {number | null | undefined} value
 * @param {number} digits
 */
export function amount(value, digits, signed = false) {
  if (value === null || value === undefined) return "-";
  const text = fixed(value, digits),
    shown = Math.abs(value) > 9999.99 || (value !== 0 && !Number(text)) ? power(value) : text;
  return signed && value > 0 ? `+${shown}` : shown;
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
    all = state.more === name ? links.length : most,
    digits = digitsIn(answer);
  const sorted = [...links].sort((a, b) => order(a) - order(b)),
    beside = [answer.links, answer.resting, answer.heaviest].flat(), // the other tables of this answer
    tops = topsOf(beside.map(one => ({ unit: "change", value: one.true })));
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
      h("tbody", {}, sorted.slice(0, all).map(one => row(answer, name, one, { tops, digits }))),
    ),
    links.length > most &&
      h(
        "p",
        { class: "note" },
        h("button", { class: "quiet", "data-key": `more-${name}`, "aria-expanded": String(all > most), onclick: () => go({ more: all > most ? null : name }) }, all > most ? t("fewer", { n: most }) : t("allOf", { n: count(links.length) })),
      ),
  ];
}

function row(answer, name, one, { tops, digits }) {
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
    h("td", { class: "right", title: String(one.predicted) }, amount(one.predicted, digits, true)),
    h("td", { class: clear ? "right truth" : "right rounded", title: String(one.true) }, clear ? amount(one.true, digits, true) : t("belowRounding")),
    h("td", { class: "barcell" }, bar(one.true, tops, "change", { signed: true, kind: "down", below: "up" })),
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
