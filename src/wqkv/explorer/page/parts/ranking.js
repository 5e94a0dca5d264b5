// Tokens to choose from: as a table with numbers and bars, or as chips; and the scale of weights.

import { keyCount, keys, opened, size } from "../reading/opened.js";
import { t } from "../words/words.js";
import { paint, tint } from "./color.js";
import { h } from "./dom.js";
import { named, tokenOf } from "./token.js";
import { bar, topsOf } from "./vector.js";

/** @import { TextFacts } from "../types" */
/** @import { Unit } from "./vector.js" */

/**
 * @typedef {object} RankingColumn
 * @property {string} title
 * @property {Unit} unit
 * @property {(j: number) => number | null | undefined} value none is said to be hidden
 * @property {(value: number) => string} text
 * @property {boolean} [signed]
 * @property {string} [kind] "up" or "down", the color of its bars
 */

/**
 * Tokens with numbers and bars beside them: `at` are their positions in the text `of`, and `pick`
 * makes buttons of the tokens.
 *
 * @typedef {{
 *   name: string, at: number[], columns: RankingColumn[], pick?: (j: number) => void,
 *   chosen?: number, of?: TextFacts,
 * }} Ranking
 */

/** @param {Ranking} table */
export function ranking(table) {
  return rankings([table])[0];
}

/**
 * Tables that stand beside each other: in all of them a unit has one scale.
 *
 * @param {Ranking[]} tables
 */
export function rankings(tables) {
  const tops = topsOf(
    tables.flatMap(({ at, columns }) => columns.flatMap(({ unit, value }) => at.map(j => ({ unit, value: value(j) })))),
  );
  return tables.map(table => rankingWith(table, tops));
}

/**
 * @param {Ranking} table
 * @param {Map<Unit, number>} tops
 */
function rankingWith({ name, at, columns, pick, chosen, of = keys() }, tops) {
  const head = h(
    "tr",
    {},
    h("th", { scope: "col" }, t("at")),
    h("th", { scope: "col" }, t("token")),
    columns.map(column => [h("th", { scope: "col", class: "right" }, column.title), h("td", {})]),
  );
  const rows = at.map(j =>
    h(
      "tr",
      {
        class:
          [j === chosen && "chosen", of.special[j] && "special"].filter(Boolean).join(" ") || null,
      },
      h("td", { class: "at" }, j),
      h(
        "th",
        { scope: "row" },
        pick
          ? h(
              "button",
              {
                class: "link",
                "data-key": `${name}-${j}`,
                "aria-pressed": String(j === chosen),
                onclick: () => pick(j),
              },
              named(of, j),
            )
          : named(of, j),
      ),
      columns.map(({ value, text, unit, signed, kind }, i) => {
        const found = value(j);
        if (found === null || found === undefined)
          return [h("td", { class: "right hidden" }, i ? "" : t("hidden")), h("td", {})];
        return [
          h("td", { class: "right", title: String(found) }, text(found)),
          h("td", { class: "barcell" }, bar(found, tops, unit, { signed, kind })),
        ];
      }),
    ),
  );
  return h("table", { class: `ranking n${columns.length}` }, h("thead", {}, head), h("tbody", {}, rows));
}

// Which tokens a table shows: all of a short text in reading order, else the strongest.
export function listed(ranked, most = 16) {
  return keyCount() <= 24 ? [...Array(keyCount()).keys()] : ranked.slice(0, most);
}

/**
 * The scale of weights, from 0 to 1; or of means of weights, from 0 to `top`.
 *
 * @param {number} top
 */
export function scale(top = 1) {
  const marks = [0, 0.01, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1];
  return swatches(
    t("weight"),
    marks.map(mark => ({ color: tint(mark), text: markText(mark * top) })),
  );
}

/** @param {number} value of a scale */
export function markText(value) {
  return String(Number(value.toPrecision(2))).replace("0.", ".");
}

/**
 * Colors with what they stand for.
 *
 * @param {string} says
 * @param {{ color: number[], text: string }[]} colors
 */
export function swatches(says, colors) {
  return h(
    "p",
    { class: "scale" },
    h("span", {}, says),
    colors.map(({ color, text }) => {
      const swatch = h("b", {}, text);
      paint(swatch, color);
      return swatch;
    }),
  );
}

// Tokens as chips, of which one is chosen.
export function chips(positions, pick) {
  return h(
    "p",
    { class: "chips" },
    positions.map(j =>
      h(
        "button",
        {
          class: `chip${opened.text.special[j] ? " special" : ""}`,
          "data-key": `chip-${j}`,
          "aria-pressed": String(j === pick.chosen),
          onclick: () => pick(j),
        },
        tokenOf(opened.text, j),
      ),
    ),
  );
}

// At most `most` positions around one, as near to the middle as the ends allow.
export function around(position, most, n = size()) {
  const first = Math.max(0, Math.min(position - Math.floor(most / 2), n - most));
  return Array.from({ length: Math.min(n, most) }, (_, i) => first + i);
}
