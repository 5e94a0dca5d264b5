// The number that "What matters" asks about, as the address says it; the map of effects asks the same.

import { state } from "./state.js";

/** @import { ChoicesAnswer, LinkEffectFacts } from "../types" */

/** How a link is removed, in the words of the library; the first one unless the address says so. */
export const HOWS = /** @type {const} */ (["renormalize", "zero"]);

export function chosenHow() {
  return state.how === "zero" ? HOWS[1] : HOWS[0];
}

// The view without its part: all attentions of a model of two texts answer together.
export function wholeView() {
  return String(state.v).split(".")[0];
}

/**
 * What is asked, without what is left to the library: the likeliest tokens, and the end of the text.
 *
 * @returns {{ answer?: string, against?: string, at?: number }}
 */
export function question() {
  const { answer, against, after } = state;
  return {
    ...(answer === undefined ? {} : { answer }),
    ...(against === undefined ? {} : { against }),
    ...(after === undefined ? {} : { at: after }),
  };
}

/**
 * What is asked with what the library would choose: the likeliest token, and the likeliest other.
 *
 * @param {ChoicesAnswer} choices
 */
export function wholeQuestion({ kind, top }) {
  const tokens = top.map(one => one.token),
    answer = state.answer ?? tokens[0] ?? null,
    against = state.against ?? tokens.find(token => token !== answer) ?? null;
  return { kind, answer, against };
}

/**
 * A link as the address names it while it is removed: its layer, head and both tokens.
 *
 * @param {Pick<LinkEffectFacts, "layer" | "head" | "query" | "key">} link
 */
export function linkName({ layer, head, query, key }) {
  return [layer, head, query, key].join(".");
}

/** The token that the chosen row does not look at, because its link is removed; undefined: none. */
export function removedKey() {
  const [layer, head, query, key] = (state.without ?? "").split(".").map(Number);
  const here = layer === state.layer && head === state.head && query === state.token;
  return here && Number.isInteger(key) ? key : undefined;
}
