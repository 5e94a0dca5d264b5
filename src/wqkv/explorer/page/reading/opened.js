// The text that is open and the model that read it; and how to ask for numbers of them.

import { speakOfPictures } from "../words/words.js";
import { wholeView } from "./asked.js";
import { get, getAnew } from "./server.js";
import { state } from "./state.js";

/** @import { Answers, ServedModel, TextFacts, ViewAnswer } from "../types" */

// Both are missing until they are read; no view is drawn before.
export const opened = /** @type {{ model: ServedModel, text: ViewAnswer }} */ ({});

/** @type {ServedModel} */
let whole; // the model with the facts of all its parts

export async function readModel() {
  whole = await get("model");
  opened.model = whole;
  speakOfPictures(whole.reads === "picture");
}

/**
 * A text that the server has, and the facts of the attention that it shows. It may have let go of
 * a text that was shown before, so it is asked each time.
 *
 * @param {string} view
 */
export async function readView(view) {
  const text = (opened.text = /** @type {ViewAnswer} */ (await getAnew(`views/${view}`)));
  opened.model = { ...whole, ...(text.part && whole.parts[text.part]) };
}

/**
 * An answer about the open text: askFor("row", { layer: 3, head: 1, i: 10 }).
 *
 * @template {keyof Answers} Name
 * @param {Name} what
 * @param {Record<string, string | number>} query
 * @returns {Promise<Answers[Name]>}
 */
export function askFor(what, query = {}, keep = true) {
  return get(`views/${state.v}/${what}`, query, keep);
}

/**
 * What can be asked about the whole text, at the place that the address names.
 *
 * @returns {Promise<Answers["choices"]>}
 */
export function askChoices() {
  return get(`views/${wholeView()}/choices`, state.after === undefined ? {} : { at: state.after });
}

export function size() {
  return opened.text.tokens.length;
}

/** @param {number} position */
export function tokenAt(position) {
  return opened.text.tokens[position] ?? "";
}

/**
 * The tokens that are looked at: the text's own, or those of the text that was read.
 *
 * @returns {TextFacts}
 */
export function keys() {
  return opened.text.keys ?? opened.text;
}

export function keyCount() {
  return keys().tokens.length;
}

/** @param {number} position */
export function keyAt(position) {
  return keys().tokens[position] ?? "";
}

export function hasStatistic(name) {
  return name === "maps" || opened.text.statistics.includes(name);
}

/** The numbers of the layers, from 0. */
export function layerNumbers() {
  return [...Array(opened.model.n_layer).keys()];
}

/** The heads of each group that shares k and v. */
export function headGroups() {
  const { n_head, n_kv_head } = opened.model,
    per = n_head / n_kv_head;
  return Array.from({ length: n_kv_head }, (_, group) =>
    Array.from({ length: per }, (_, i) => group * per + i),
  );
}
