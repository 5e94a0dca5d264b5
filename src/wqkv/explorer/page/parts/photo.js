// A picture with a number on each of its cells, and the scale that tells small weights apart there.

import { css, overGround, overlay } from "./color.js";
import { h } from "./dom.js";
import { weight } from "./format.js";
import { cutOut } from "./patch.js";
import { markText, scale, swatches } from "./ranking.js";
import { t } from "../words/words.js";

/** @import { PictureFacts, TextFacts } from "../types" */

/**
 * How numbers are seen: as a level from 0 to 1, below 0 for what has a sign, and as a text.
 *
 * @typedef {{ level: (value: number) => number, text: (value: number) => string }} Look
 */

/**
 * A picture below one element for each of its cells, row by row.
 *
 * @param {PictureFacts} picture
 * @param {HTMLElement[]} cells
 */
export function photo(picture, cells, kind = "photo") {
  const { rows, columns, name } = picture,
    box = h(
      "span",
      { role: "group", "aria-label": name, class: kind },
      cutOut(picture, { row: 0, column: 0, rows, columns }, { "aria-hidden": "true" }),
      h("span", { class: "cells" }, cells),
    );
  box.style.setProperty("--columns", String(columns));
  box.style.setProperty("--rows", String(rows));
  return box;
}

/**
 * Colors a cell, through which the picture is seen.
 *
 * @param {HTMLElement} cell
 * @param {number} level
 */
export function paintCell(cell, level) {
  cell.style.backgroundColor = Math.abs(level) < 0.01 ? "" : css(overlay(level));
}

/**
 * Weights on pictures. A row of n patches has weights of about 1/n, which the scale of a sentence
 * would not show: the level is log(1 + n w) / log(1 + n), so that even weights are pale.
 *
 * @param {number} n
 * @returns {Look}
 */
function photoLook(n) {
  return { level: value => Math.log1p(n * value) / Math.log1p(n), text: weight };
}

/** @type {Look} */
const SENTENCE_LOOK = { level: Math.sqrt, text: weight };

/**
 * How the weights on the tokens of a text are seen.
 *
 * @param {TextFacts} text
 */
export function lookOf({ pictures, tokens }) {
  return pictures.length ? photoLook(tokens.length) : SENTENCE_LOOK;
}

/** @param {TextFacts} text */
export function scaleOf({ pictures, tokens }) {
  return pictures.length ? photoScale(tokens.length) : scale();
}

/** @param {number} n */
function photoScale(n) {
  const { level } = photoLook(n),
    marks = [0, 1 / n, 0.01, 0.1, 1].sort((a, b) => a - b);
  return swatches(
    t("weight"),
    marks.map(mark => ({ color: overGround(level(mark)), text: mark === 1 / n ? t("evenIs", { even: markText(mark) }) : markText(mark) })),
  );
}
