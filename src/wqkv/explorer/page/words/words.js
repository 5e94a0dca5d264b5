// Which language the page speaks, and its texts by name with numbers put in.

import { state } from "../reading/state.js";
import { zh } from "./chinese.js";
import { en } from "./english.js";

export const TEXTS = { en, zh };

export function lang() {
  if (state.lang === "en" || state.lang === "zh") return state.lang;
  return navigator.language?.toLowerCase().startsWith("zh") ? "zh" : "en";
}

/**
 * @typedef {typeof en} Texts
 */

/**
 * The {places} of a text: "of" and "n" of "word {of} of {n}".
 *
 * @template {string} Text
 * @typedef {Text extends `${string}{${infer Place}}${infer Rest}` ? Place | Places<Rest> : never} Places
 */

/**
 * What may be put into a text; into one whose name is made while the page runs, anything.
 *
 * @template {string} Name
 * @typedef {Name extends keyof Texts ? Record<Places<Texts[Name]>, unknown> : Record<string, unknown>} Values
 */

/**
 * A text's name: one that is there, or one made of what an answer says, such as `stat_${name}`.
 *
 * @template {string} Name
 * @typedef {Name extends keyof Texts ? Name : {} extends Record<Name, 1> ? Name : never} Known
 */

/**
 * The text of a name with `values` at its {places}; `otherwise` where there is none of that name.
 *
 * @template {string} Name
 * @param {Known<Name>} key
 * @param {Values<Name>} values
 * @param {string} otherwise
 * @returns {string}
 */
export function t(key, values = /** @type {Values<Name>} */ ({}), otherwise = key) {
  /** @type {Record<string, string>} */
  const texts = TEXTS[lang()];
  return (texts[key] ?? otherwise).replace(/\{(\w+)\}/g, (_, place) => values[place] ?? "");
}
