// A picture with a number on each of its cells, and the scale that tells small weights apart there.

import { css, overGround, overlay } from "./color.js";
import { h } from "./dom.js";
import { short, weight } from "./format.js";
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
 * What each patch has if all have the same, and what one has if it has all: of a row of weights 1 / n
 * and 1.
 *
 * @typedef {{ even: number, whole: number }} Spread
 */

/**
 * Shares on pictures. A row of n patches has weights of about 1 / n, which the scale of a sentence
 * would not show: the level is log(1 + w / even) / log(1 + whole / even), so that even ones are pale.
 *
 * @param {Spread} spread
 */
export function photoLevel({ even, whole }) {
  return value => Math.log1p(value / even) / Math.log1p(whole / even);
}

/**
 * @param {string} says
 * @param {Spread} spread
 */
export function photoScale(says, spread) {
  const { even, whole } = spread,
    marks = [0, even, whole / 100, whole / 10, whole].sort((a, b) => a - b),
    text = mark => (mark < 1 ? markText(mark) : short(mark, 3));
  return swatches(
    says,
    marks.map(mark => ({ color: overGround(photoLevel(spread)(mark)), text: mark === even ? t("evenIs", { even: text(mark) }) : text(mark) })),
  );
}

/** @param {TextFacts} text */
function ofWeights({ tokens }) {
  return { even: 1 / tokens.length, whole: 1 };
}

/** @type {Look} */
const SENTENCE_LOOK = { level: Math.sqrt, text: weight };

/**
 * How the weights on the tokens of a text are seen.
 *
 * @param {TextFacts} text
 */
export function lookOf(text) {
  return text.pictures.length ? { level: photoLevel(ofWeights(text)), text: weight } : SENTENCE_LOOK;
}

/** @param {TextFacts} text */
export function scaleOf(text) {
  return text.pictures.length ? photoScale(t("weight"), ofWeights(text)) : scale();
}
