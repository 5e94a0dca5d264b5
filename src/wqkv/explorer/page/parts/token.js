// A token of the text as an element, or with its position.

import { keyAt, keys, opened, tokenAt } from "../reading/opened.js";
import { h } from "./dom.js";
import { label, visible } from "./format.js";
import { crop, pictureAt } from "./patch.js";

/** @import { TextFacts } from "../types" */

/**
 * A token that stands in no text, in its own reading direction.
 *
 * @param {string} token
 */
export function bdi(token) {
  return h("bdi", {}, label(token));
}

/**
 * A token of a text: a word, or the patch of a picture.
 *
 * @param {Pick<TextFacts, "tokens" | "pictures">} text
 * @param {number} position
 */
export function tokenOf(text, position) {
  const token = text.tokens[position] ?? "",
    picture = pictureAt(text, position);
  return picture ? crop(picture, position, label(token)) : bdi(token);
}

/** @param {number} position */
export function labelAt(position) {
  return label(tokenAt(position));
}

/** @param {number} position */
export function tokenWithPosition(position, token = tokenAt(position)) {
  return `${visible(token)} (${position})`;
}

/** @param {number} position */
export function keyWithPosition(position) {
  return tokenWithPosition(position, keyAt(position));
}

/**
 * A word; a patch with its row and column beside it.
 *
 * @param {Pick<TextFacts, "tokens" | "pictures">} text
 * @param {number} position
 */
export function named(text, position) {
  if (!pictureAt(text, position)) return tokenOf(text, position);
  // who cannot see the patch is told its name once
  return h("span", { class: "named" }, tokenOf(text, position), h("sub", { "aria-hidden": "true" }, label(text.tokens[position])));
}

/**
 * "animal" with its position, small, beside it; a patch with its row and column.
 *
 * @param {number} position
 * @param {Pick<TextFacts, "tokens" | "pictures">} text
 */
export function tokenTag(position, text = opened.text) {
  if (pictureAt(text, position)) return named(text, position);
  return h("span", { class: "named" }, tokenOf(text, position), h("sub", {}, position));
}

/** @param {number} position */
export function keyTag(position) {
  return tokenTag(position, keys());
}
