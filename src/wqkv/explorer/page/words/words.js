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

/**
 * A model of pictures has no words: its tokens are patches and a few special ones. The sentences
 * speak of tokens then, and of the picture in place of the text.
 *
 * @type {readonly (readonly (readonly [of: RegExp, says: string])[])[]}
 */
const IN_PICTURES = [
  [
    [/word(s?) \(tokens?\)/g, "token$1"],
    [/(?<![{\w])word(?=s?\b)/g, "token"],
    [/\bWord(?=s?\b)/g, "Token"],
    [/\btext(?=s?\b)/g, "picture"],
    [/\bText(?=s?\b)/g, "Picture"],
  ],
  [
    [/词(?![元汇])/g, "词元"],
    [/这段文本/g, "这张图片"],
    [/同一段文本/g, "同一张图片"],
    [/整[段篇](文本)?/g, "整张图片"],
    [/段?文本/g, "图片"],
    [/句向量/g, "向量"],
  ],
];

let readsPictures = false;

/** @param {boolean} on whether the model that is open reads pictures */
export function speakOfPictures(on) {
  readsPictures = on;
}

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
  const texts = /** @type {Texts} */ (TEXTS)[key] ?? [otherwise, otherwise],
    at = lang() === "zh" ? 1 : 0;
  let text = texts[at];
  if (readsPictures) for (const [of, says] of IN_PICTURES[at]) text = text.replace(of, says);
  return text.replace(/\{(\w+)\}/g, (_, place) => values[place] ?? "");
}
