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
  return pictureAt(text, position) ? withSub(text, position, label(text.tokens[position])) : tokenOf(text, position);
}

/**
 * "animal" with its position, small, beside it; a patch with its row and column.
 *
 * @param {number} position
 * @param {Pick<TextFacts, "tokens" | "pictures">} text
 */
export function tokenTag(position, text = opened.text) {
  return pictureAt(text, position) ? named(text, position) : withSub(text, position, String(position));
}

function withSub(text, position, sub) {
  return h("span", { class: "named" }, tokenOf(text, position), h("sub", {}, sub));
}

/** @param {number} position */
export function keyTag(position) {
  return tokenTag(position, keys());
}
