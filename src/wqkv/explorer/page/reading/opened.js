// The text that is open and the model that read it; and how to ask for numbers of them.

import { get } from "./server.js";
import { state } from "./state.js";

export const opened = { model: null, text: null };
let whole = null; // the model with the facts of all its parts

export async function readModel() {
  whole = await get("model");
  opened.model = whole;
}

// A text that the server has, and the facts of the attention that it shows.
export async function readView(view) {
  opened.text = await get(`views/${view}`);
  opened.model = { ...whole, ...whole.parts[opened.text.part] };
}

// An answer about the open text: about("row", { layer: 3, head: 1, i: 10 }).
export function askFor(what, query = {}) {
  return get(`views/${state.v}/${what}`, query);
}

export function size() {
  return opened.text.tokens.length;
}

export function tokenAt(position) {
  return opened.text.tokens[position] ?? "";
}

// The words that are looked at: the text's own, or those of the text that was read.
export function keys() {
  return opened.text.keys ?? opened.text;
}

export function keyCount() {
  return keys().tokens.length;
}

export function keyAt(position) {
  return keys().tokens[position] ?? "";
}

export function hasStatistic(name) {
  return name === "maps" || opened.text.statistics.includes(name);
}
