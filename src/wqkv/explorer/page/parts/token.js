// A token of the text as an element, or with its position.

import { keyAt, tokenAt } from "../reading/opened.js";
import { h } from "./dom.js";
import { label, visible } from "./format.js";

/**
 * A token of the text, in its own reading direction.
 *
 * @param {string} token
 */
export function bdi(token, attributes = {}) {
  return h("bdi", attributes, label(token));
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
 * "animal" with its position, small, beside it.
 *
 * @param {number} position
 */
export function tokenTag(position, token = tokenAt(position)) {
  return h("span", { class: "named" }, bdi(token), h("sub", {}, position));
}

/** @param {number} position */
export function keyTag(position) {
  return tokenTag(position, keyAt(position));
}
