// Which language the page speaks, and its texts by name with numbers put in.
//
// A text stands in English and Chinese side by side, in the file of its subject. They speak to a
// learner: a token is a word in English, which the page says once, and 词元 in Chinese.

import { state } from "../reading/state.js";
import { answerTexts } from "./answer.js";
import { cardsTexts } from "./cards.js";
import { frameTexts } from "./frame.js";
import { headsTexts } from "./heads.js";
import { linesTexts } from "./lines.js";
import { mapTexts } from "./map.js";
import { matricesTexts } from "./matrices.js";
import { mattersTexts } from "./matters.js";
import { pairTexts } from "./pair.js";
import { stepsTexts } from "./steps.js";
import { streamTexts } from "./stream.js";
import { textTexts } from "./text.js";
import { whatifTexts } from "./whatif.js";
import { windowTexts } from "./window.js";
import { writingTexts } from "./writing.js";

/** @typedef {Record<string, readonly [en: string, zh: string]>} Texts */

export const TEXTS = {
  ...frameTexts,
  ...windowTexts,
  ...cardsTexts,
  ...answerTexts,
  ...streamTexts,
  ...stepsTexts,
  ...matricesTexts,
  ...textTexts,
  ...linesTexts,
  ...headsTexts,
  ...mapTexts,
  ...whatifTexts,
  ...writingTexts,
  ...pairTexts,
  ...mattersTexts,
};

export function lang() {
  if (state.lang === "en" || state.lang === "zh") return state.lang;
  return navigator.language?.toLowerCase().startsWith("zh") ? "zh" : "en";
}

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
 * @typedef {Name extends keyof typeof TEXTS ? Record<Places<(typeof TEXTS)[Name][0]>, unknown> : Record<string, unknown>} Values
 */

/**
 * A text's name: one that is there, or one made of what an answer says, such as `stat_${name}`.
 *
 * @template {string} Name
 * @typedef {Name extends keyof typeof TEXTS ? Name : {} extends Record<Name, 1> ? Name : never} Known
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
  const [en, zh] = /** @type {Texts} */ (TEXTS)[key] ?? [otherwise, otherwise];
  return (lang() === "zh" ? zh : en).replace(/\{(\w+)\}/g, (_, place) => values[place] ?? "");
}
