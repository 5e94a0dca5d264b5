// What is looked at, as the address says it: #layer=3&head=1&token=10. Back and forward work.

const NUMBERS = ["step", "layer", "head", "token", "other", "moment", "after", "rank", "window"];
const START = { step: 1, view: "cards", lang: "", theme: "", stat: "maps", dir: "to" };

/**
 * What is looked at. Layer, head and token are there as soon as a view is drawn, because main.js sets
 * what the address leaves out; of the other optional parts each belongs to one view.
 *
 * @typedef {typeof START & {
 *   layer: number, head: number, token: number, other?: number, moment?: number,
 *   v?: string, text?: string, target?: string, pair?: string, window?: number, set?: string, at?: string, from?: string,
 *   keysfrom?: string, change?: string, count?: string, hide?: string, even?: string,
 *   answer?: string, against?: string, after?: number, how?: string, asked?: string, sort?: string,
 *   more?: string, by?: string, without?: string, shows?: string, lit?: string, order?: string, times?: string,
 *   as?: string, with?: string,
 *   least?: string, dim?: string, faint?: string,
 *   temperature?: string, topk?: string, topp?: string, seed?: string, drawn?: string,
 *   guesses?: string, card?: string, rank?: number, ran?: string,
 * }} State
 */

export const state = /** @type {State} */ ({ ...START });

/** @type {((state: State) => void)[]} */
const listeners = [];

/** @param {(state: State) => void} listener */
export function onState(listener) {
  listeners.push(listener);
}

/**
 * Changes the state and the address; null takes a part out. With `replace` it makes no new entry in
 * the history, because back would then walk through every move of a cursor.
 *
 * @param {{ [Name in keyof State]?: State[Name] | null }} patch
 */
export function go(patch, replace = false) {
  const before = format();
  for (const [name, value] of Object.entries(patch)) {
    if (value === null || value === undefined || value === "") delete state[name];
    else state[name] = value;
  }
  for (const [name, value] of Object.entries(START)) state[name] ??= value;
  const after = format();
  if (after === before) return;
  try {
    history[replace ? "replaceState" : "pushState"](null, "", after);
  } catch {
    // a page in a sandbox has no history
  }
  tellAll();
}

function tellAll() {
  for (const listener of listeners) listener(state);
}

function format() {
  const parts = Object.entries(state)
    .filter(([name, value]) => value !== START[name])
    .sort();
  return (
    "#" +
    parts
      .map(
        ([name, value]) => `${name}=${encodeURIComponent(value).replace(/%2C/g, ",").replace(/%3A/g, ":")}`,
      )
      .join("&")
  );
}

export function parse(hash) {
  const found = { ...START };
  for (const part of hash.replace(/^#/, "").split("&")) {
    const [name, text] = [part.slice(0, part.indexOf("=")), part.slice(part.indexOf("=") + 1)];
    if (!/^[a-z]+$/.test(name)) continue;
    let value = text;
    try {
      value = decodeURIComponent(text);
    } catch {
      // a broken escape stays as it is
    }
    if (NUMBERS.includes(name)) {
      if (/^\d{1,9}$/.test(value)) found[name] = Number(value);
    } else found[name] = value;
  }
  return found;
}

function take() {
  for (const name of Object.keys(state)) delete state[name];
  Object.assign(state, parse(location.hash || `#${document.documentElement.dataset.start ?? ""}`));
}

take();
addEventListener("popstate", () => {
  take();
  tellAll();
});

/**
 * Lists in the address: set=3,4,5.
 *
 * @param {string | undefined} text
 */
export function list(text) {
  return text ? text.split(",") : [];
}
