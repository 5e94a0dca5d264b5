// A vector as bars, and the bars of tables.

import { t } from "../words/words.js";
import { h, svg } from "./dom.js";
import { number } from "./format.js";

const BARS = 512;

/** @typedef {(number | null)[]} Numbers */

/**
 * Neighboring numbers in at most `most` means, and how many numbers each is the mean of.
 *
 * @param {Numbers} values
 * @param {number} most
 * @returns {[number[], number]}
 */
export function means(values, most) {
  const per = Math.ceil(values.length / most),
    result = /** @type {number[]} */ ([]);
  for (let i = 0; i < values.length; i += per) {
    const part = values.slice(i, i + per);
    result.push(part.reduce((/** @type {number} */ sum, value) => sum + (value ?? 0), 0) / part.length);
  }
  return [result, per];
}

/**
 * Bars above and below a line, one for each number: three paths.
 *
 * @param {Numbers} values
 * @param {number} top the length of a whole bar
 */
export function signedBars(values, attributes = {}, top = largestSize(values)) {
  let up = "",
    down = "";
  values.forEach((value, i) => {
    const height = Math.round(((value ?? 0) / top) * 100);
    if (height > 0) up += `M${i} 100v-${height}h.85v${height}z`;
    else if (height < 0) down += `M${i} 100v${-height}h.85v${height}z`;
  });
  return svg(
    "svg",
    { viewBox: `0 0 ${values.length} 200`, preserveAspectRatio: "none", ...attributes },
    svg("path", { class: "up", d: up }),
    svg("path", { class: "down", d: down }),
    svg("path", { class: "axis", d: `M0 100h${values.length}` }),
  );
}

/**
 * The largest size of some numbers; 1 where all are 0, because a bar's length is divided by it.
 *
 * @param {Numbers} values
 */
export function largestSize(values) {
  return values.reduce((/** @type {number} */ most, value) => Math.max(most, Math.abs(value ?? 0)), 0) || 1;
}

/**
 * A vector with its name, its size, its bars, and all its numbers for who wants them.
 *
 * @param {string} name
 * @param {Numbers} values
 * @param {number} most the size of the longest bar, where several vectors have one scale
 */
export function vector(name, values, most = 0) {
  const [bars, per] = means(values, BARS);
  const spread = t("numbers", {
    n: values.length,
    low: number(Math.min(...values.map(value => value ?? 0))),
    high: number(Math.max(...values.map(value => value ?? 0))),
  });
  const all = h("details", { class: "all" }, h("summary", {}, t("allNumbers")));
  all.addEventListener("toggle", () => {
    // written out when asked for
    if (all.open && all.children.length === 1)
      all.append(h("p", { class: "digits", tabindex: 0 }, values.map(value => value ?? "null").join(", ")));
  });
  return h(
    "figure",
    { class: "vector" },
    h("figcaption", {}, h("b", {}, name), ` ${spread}`, per > 1 && t("eachMean", { per }), all),
    signedBars(bars, { role: "img", "aria-label": `${name}: ${spread}` }, per > 1 ? undefined : most || undefined),
  );
}

/**
 * What a bar measures: a "share" is a weight or a probability, a "length" that of a vector, a "change"
 * one of the number that is asked about.
 *
 * @typedef {"share" | "score" | "length" | "change"} Unit
 */

/**
 * The largest size of each unit among numbers that stand beside each other: it has a whole bar.
 *
 * @param {{ unit: Unit, value: number | null | undefined }[]} numbers
 * @returns {Map<Unit, number>}
 */
export function topsOf(numbers) {
  const tops = new Map();
  for (const { unit, value } of numbers) tops.set(unit, Math.max(tops.get(unit) ?? 0, Math.abs(value ?? 0)));
  return tops;
}

/**
 * Numbers as shares, for the scale of what stands beside them.
 *
 * @param {(number | null)[]} values
 * @returns {{ unit: Unit, value: number | null }[]}
 */
export function sharesOf(values) {
  return values.map(value => ({ unit: "share", value }));
}

/**
 * A bar of a table: from the left, or around the middle where numbers have a sign. Its scale is that
 * of its unit among all that stand beside it, so that two bars of one unit can be compared.
 *
 * @param {number | null | undefined} value
 * @param {Map<Unit, number>} tops
 * @param {Unit} unit
 */
export function bar(value, tops, unit, { signed = false, kind = "up", below = "down" } = {}) {
  const length = value ?? 0,
    top = tops.get(unit),
    share = top ? Math.min(Math.abs(length) / top, 1) * (signed ? 50 : 100) : 0,
    start = signed ? (length < 0 ? 50 - share : 50) : 0;
  return svg(
    "svg",
    { class: "bar", "aria-hidden": "true", "data-unit": unit },
    svg("rect", {
      class: signed && length < 0 ? below : kind,
      x: `${start}%`,
      width: `${share}%`,
      height: "100%",
    }),
    signed && svg("rect", { class: "axis", x: "50%", width: 1, height: "100%" }),
  );
}
