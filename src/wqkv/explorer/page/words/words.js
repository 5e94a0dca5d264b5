// Which language the page speaks, and its texts by name with numbers put in.

import { state } from "../reading/state.js";
import { zh } from "./chinese.js";
import { en } from "./english.js";

export function lang() {
  return state.lang in TEXTS ? state.lang : navigator.language?.toLowerCase().startsWith("zh") ? "zh" : "en";
}

// A text with its {numbers} put in; `otherwise` where there is none of that name.
export function t(key, values = {}, otherwise = key) {
  const text = TEXTS[lang()][key] ?? TEXTS.en[key] ?? otherwise;
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

export const TEXTS = { en, zh };
