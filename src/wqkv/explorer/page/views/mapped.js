// What a map shows of every link: its weight, its contribution or its effect. How each is asked for,
// colored, written and explained.

import { css, effectTint, palette, tint } from "../parts/color.js";
import { h } from "../parts/dom.js";
import { fixed, power, short, weight } from "../parts/format.js";
import { lookOf } from "../parts/photo.js";
import { scale } from "../parts/ranking.js";
import { chosenHow, question, wholeQuestion } from "../reading/asked.js";
import { askChoices, askFor, keys, opened } from "../reading/opened.js";
import { computes, recorded } from "../reading/server.js";
import { go, state } from "../reading/state.js";
import { LOOKS_AT } from "../steps/peek.js";
import { entriesOf } from "../steps/worked.js";
import { t } from "../words/words.js";
import { numberText } from "./effects.js";

/** @import { ThumbnailAnswer, TileAnswer } from "../types" */
/** @import { Lookup } from "../parts/flow.js" */
/** @import { Look } from "../parts/photo.js" */

// What a map may show. A saved page has the effects that were asked for, and of a long text no contributions.
function kinds() {
  return /** @type {const} */ (["weight", "contribution", "effect"]).filter(kind => {
    if (kind === "effect" && !opened.text.tabs.includes("matters")) return false;
    if (!recorded || kind === "weight") return true;
    return kind === "contribution" ? computes : Object.keys(recorded.answers).some(key => /\/effects\?/.test(key));
  });
}

/**
 * A whole row, and how it is seen on a picture.
 *
 * @typedef {object} OnPicture
 * @property {(i: number) => Promise<Lookup>} row
 * @property {(values: TileAnswer["values"]) => Look} look
 *
 * @typedef {object} Mapped
 * @property {"weight" | "contribution" | "effect"} kind
 * @property {(query: Record<string, number>) => Promise<TileAnswer>} tile
 * @property {(query: Record<string, number>) => Promise<ThumbnailAnswer>} blocks
 * @property {(value: number | null) => string} text
 * @property {(values: TileAnswer["values"]) => (value: number | null) => string | null} shades the
 *   color of each value; null leaves a cell empty
 * @property {OnPicture} [onPicture] what is asked about a text with pictures has this
 * @property {(values: TileAnswer["values"]) => unknown} legend
 */

/** @type {Mapped} */
const WEIGHTS = {
  kind: "weight",
  tile: query => askFor("tile", query),
  blocks: query => askFor("thumbnail", query),
  text: weight,
  shades: () => {
    const colors = palette().map(css);
    return value => (value ? colors[Math.round(Math.min(Math.max(value, 0), 1) * 255)] : null);
  },
  onPicture: { row: LOOKS_AT.ask, look: () => lookOf(keys()) },
  legend: () => scale(),
};

/** @type {Mapped} */
const CONTRIBUTIONS = {
  kind: "contribution",
  tile: query => askFor("tile", { ...query, of: "contribution" }),
  blocks: query => askFor("thumbnail", { ...query, of: "contribution" }),
  text: value => short(value, 3),
  shades: values => {
    const colors = palette().map(css),
      top = largest(values);
    return value => (value ? colors[Math.round((value / top) * 255)] : null);
  },
  onPicture: {
    row: async i => {
      const { layer, head } = state,
        found = new Map(entriesOf(await askFor("row", { layer, head, i })).map(one => [one.index, one.effect]));
      return j => found.get(j) ?? 0;
    },
    look: values => ({ level: value => Math.sqrt(value / largest(values)), text: value => short(value, 3) }),
  },
  legend: values => [ends([0, 0.25, 0.5, 1].map(tint), "0", short(largest(values), 3)), h("p", { class: "note" }, t("contributionSays"))],
};

/**
 * @param {string} number what is asked about, in words
 * @returns {Mapped}
 */
function effectsOn(number) {
  const asked = { ...question(), how: chosenHow() };
  return {
    kind: "effect",
    tile: query => askFor("effects", { ...query, ...asked }),
    blocks: query => askFor("effectblocks", { ...query, ...asked }),
    text: effectText,
    shades: values => {
      const top = largest(values),
        colors = Array.from({ length: 511 }, (_, i) => css(effectTint((i - 255) / 255)));
      return value => (value ? colors[255 + Math.round((value / top) * 255)] : null);
    },
    legend: values => {
      const top = effectText(largest(values)).slice(1);
      return [
        ends([-1, -0.5, -0.1, 0, 0.1, 0.5, 1].map(effectTint), `-${top}`, `+${top}`),
        h("p", { class: "note" }, t("effectMapSays", { number }), " ", t(`howSays_${chosenHow()}`)),
      ];
    },
  };
}

// +0.0021, or +1.2e-05 where that would have few digits.
function effectText(value) {
  if (value === null) return t("notRemovable");
  const text = value === 0 ? "0" : Math.abs(value) < 1e-3 ? power(value) : fixed(value, 4);
  return value > 0 ? `+${text}` : text;
}

/** @param {TileAnswer["values"]} values */
function largest(values) {
  let top = 0;
  for (const row of values) for (const value of row) top = Math.max(top, Math.abs(value ?? 0));
  return top || 1;
}

function ends(colors, low, high) {
  return h(
    "p",
    { class: "scale" },
    h("span", {}, low),
    colors.map(color => {
      const swatch = h("b", {});
      swatch.style.backgroundColor = css(color);
      return swatch;
    }),
    h("span", {}, high),
  );
}

/**
 * What the address says that the map shows; null where a question has to be asked first.
 *
 * @returns {Promise<Mapped | null>}
 */
export async function mapped() {
  if (!kinds().some(kind => kind === state.shows) || state.shows === "weight") return WEIGHTS;
  if (state.shows === "contribution") return CONTRIBUTIONS;
  const asked = wholeQuestion(await askChoices());
  return asked.answer === null ? null : effectsOn(numberText(asked));
}

// The switch, where there is a choice.
export function mapSwitch() {
  const all = kinds();
  if (all.length < 2) return null;
  const shown = all.find(kind => kind === state.shows) ?? all[0];
  return h(
    "span",
    { class: "segmented", role: "group", "aria-label": t("mapShows") },
    all.map(kind =>
      h(
        "button",
        { "data-key": `shows-${kind}`, "aria-pressed": String(kind === shown), onclick: () => go({ shows: kind === all[0] ? null : kind }) },
        t(`shows_${kind}`),
      ),
    ),
  );
}

// How to get a map of effects where the model has no question of its own.
export function askFirst() {
  return [
    h("p", { class: "note" }, t("askFirst")),
    h("p", {}, h("button", { "data-key": "to-matters", onclick: () => go({ view: "matters" }) }, t("toMatters"))),
  ];
}

/**
 * The strongest cells of a tile, by falling size.
 *
 * @param {TileAnswer["values"]} values
 * @param {number} q0
 * @param {number} k0
 * @param {number} most
 */
export function strongestCells(values, q0, k0, most) {
  const found = values.flatMap((row, i) => row.map((value, j) => ({ i: q0 + i, j: k0 + j, weight: value ?? 0 })));
  return found
    .filter(one => one.weight)
    .sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight))
    .slice(0, most);
}
