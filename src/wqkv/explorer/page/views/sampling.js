// How the next word is chosen: temperature, top-k, top-p and a seed, and what they do to its probabilities.

import { drawNotice } from "../frame/notices.js";
import { fill, h } from "../parts/dom.js";
import { clamp, count, visible, weight } from "../parts/format.js";
import { bar, sharesOf } from "../parts/vector.js";
import { get } from "../reading/server.js";
import { go, state } from "../reading/state.js";
import { t } from "../words/words.js";

/** @import { NextAnswer, WrittenFacts } from "../types" */
/** @import { Unit } from "../parts/vector.js" */

const KS = [1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 0]; // 0: all words

/**
 * How words are drawn, in the names of transformers; without a seed the likeliest word is taken.
 *
 * @typedef {{ temperature: number, top_k: number, top_p: number, seed?: number }} Sampling
 */

/** @returns {Sampling} what the address says */
export function chosenSampling() {
  const { temperature, topk, topp, seed } = state;
  return samplingOf([temperature ?? "1", topk ?? "0", topp ?? "1", seed ?? ""]);
}

/**
 * What a text was written with, as the address keeps it.
 *
 * @returns {Sampling}
 */
export function writtenSampling() {
  return samplingOf((state.drawn ?? "").split(","));
}

/**
 * @param {string[]} parts
 * @returns {Sampling}
 */
function samplingOf([temperature, k, p, seed]) {
  const number = (text, least, most, otherwise) => (text && Number(text) >= least ? Math.min(Number(text), most) : otherwise);
  const base = { temperature: number(temperature, 0.01, 100, 1), top_k: Math.floor(number(k, 0, 1e6, 0)), top_p: number(p, 0.001, 1, 1) };
  return seed ? { ...base, seed: Math.floor(number(seed, 0, 2 ** 32 - 1, 0)) } : base;
}

/** @param {Sampling} drawn */
export function samplingName({ temperature, top_k, top_p, seed }) {
  return seed === undefined ? "" : [temperature, top_k, top_p, seed].join(",");
}

/** @param {Sampling} drawn */
export function samplingSays({ temperature, top_k, top_p, seed }) {
  if (seed === undefined) return t("writtenGreedy");
  return t("writtenDrawn", { temperature, k: top_k || t("allWords"), p: top_p, seed });
}

/**
 * The controls; while one moves, the probabilities of the word after position i are asked for again.
 *
 * @param {{ view: string, i: number }} place
 * @param {(answer: NextAnswer, drawn: Sampling) => void} told is given every answer, the first one
 *   before this returns
 */
export async function samplingPanel({ view, i }, told) {
  const now = chosenSampling(),
    trouble = h("div");
  let asked = 0;
  const ask = async () => {
    const turn = ++asked;
    try {
      const { temperature, top_k, top_p, seed } = now;
      const answer = await get(`views/${view}/next`, seed === undefined ? { i } : { i, temperature, top_k, top_p });
      if (turn === asked) told(answer, now); // else a slider has moved on
    } catch (error) {
      fill(trouble, drawNotice(error));
    }
  };
  await ask();
  return [trouble, samplingControls(now, ask)];
}

/**
 * @param {NextAnswer} answer
 * @param {{ step?: WrittenFacts, drawn: Sampling, tops: Map<Unit, number> }} how
 */
export function nextTable({ top, vocabulary, kept, held }, { step, drawn, tops }) {
  const both = drawn.seed !== undefined;
  const cells = (value, kind) => [
    h("td", { class: "right", title: String(value) }, weight(value)),
    h("td", { class: "barcell" }, bar(value, tops, "share", { kind })),
  ];
  const rows = top.map(({ token, probability, after, id }) => {
    const cut = both && after === 0;
    return h(
      "tr",
      { class: [id === step?.id && "chosen", cut && "cut"].filter(Boolean).join(" ") || null },
      h("th", { scope: "row" }, h(cut ? "s" : "bdi", {}, visible(token))),
      cells(probability, "up"),
      both && (cut ? [h("td", { class: "right hidden" }, t("cutOff")), h("td", {})] : cells(after, "down")),
    );
  });
  const title = text => [h("th", { scope: "col", class: "right" }, text), h("td", {})];
  const facts = { kept: count(kept), n: count(vocabulary), held: weight(held) };
  return [
    h(
      "table",
      { class: both ? "ranking n2" : "ranking n1" },
      both && h("thead", {}, h("tr", {}, h("th", { scope: "col" }, t("token")), title(t("before")), title(t("after")))),
      h("tbody", {}, rows),
    ),
    step && !top.some(one => one.id === step.id) &&
      h("p", { class: "note" }, t("drawnOther", { word: visible(step.token), before: weight(step.probability) })),
    h("p", { class: "note" }, !both ? t("greedySays") : kept === vocabulary ? t("drawnAll", facts) : t("drawnKept", facts)),
  ];
}

/**
 * @param {NextAnswer} answer
 * @returns {{ unit: Unit, value: number | null }[]}
 */
export function nextShares({ top }) {
  return sharesOf(top.flatMap(one => [one.probability, one.after]));
}

/**
 * @param {Sampling} now is changed while a slider moves, and the address when it is let go
 * @param {() => void} ask
 */
function samplingControls(now, ask) {
  const keep = () =>
    go(
      {
        temperature: now.temperature === 1 ? null : String(now.temperature),
        topk: now.top_k ? String(now.top_k) : null,
        topp: now.top_p === 1 ? null : String(now.top_p),
        seed: now.seed === undefined ? null : String(now.seed),
      },
      true,
    );
  const slider = (key, name, { min, max, step, value, read, says }) => {
    const shown = h("output", {}, says());
    return h(
      "label",
      {},
      h("span", {}, name, " ", shown),
      h("input", {
        type: "range",
        "data-key": key,
        min,
        max,
        step,
        value,
        oninput: event => {
          read(Number(event.target.value));
          now.seed ??= 0; // who moves a slider wants to draw
          shown.textContent = says();
          ask();
        },
        onchange: keep,
      }),
    );
  };
  const way = (key, text, seed) =>
    h(
      "button",
      {
        "data-key": key,
        "aria-pressed": String((now.seed === undefined) === (seed === undefined)),
        onclick: () => {
          now.seed = seed;
          keep();
        },
      },
      text,
    );
  const atK = KS.indexOf(now.top_k);
  return h(
    "fieldset",
    { class: "sampling" },
    h("legend", {}, t("howChosen")),
    h(
      "span",
      { class: "segmented", role: "group", "aria-label": t("howChosen") },
      way("take-likeliest", t("takeLikeliest"), undefined),
      way("take-drawn", t("takeDrawn"), now.seed ?? 0),
    ),
    h(
      "div",
      { class: "sliders" },
      slider("temperature", t("temperature"), {
        min: 0.1,
        max: 2,
        step: 0.05,
        value: now.temperature,
        read: value => (now.temperature = value),
        says: () => String(now.temperature),
      }),
      slider("topk", t("topK"), {
        min: 0,
        max: KS.length - 1,
        step: 1,
        value: atK < 0 ? KS.length - 1 : atK,
        read: value => (now.top_k = KS[value]),
        says: () => (now.top_k ? String(now.top_k) : t("allWords")),
      }),
      slider("topp", t("topP"), {
        min: 0.05,
        max: 1,
        step: 0.05,
        value: now.top_p,
        read: value => (now.top_p = value),
        says: () => String(now.top_p),
      }),
      now.seed !== undefined &&
        h(
          "label",
          {},
          h("span", {}, t("seed")),
          h("input", {
            type: "number",
            "data-key": "seed",
            min: 0,
            max: 2 ** 32 - 1,
            value: now.seed,
            onchange: event => {
              now.seed = clamp(Math.floor(Number(event.target.value) || 0), 0, 2 ** 32 - 1);
              keep();
            },
          }),
        ),
    ),
    now.seed !== undefined && h("p", { class: "note" }, t("seedSays")),
  );
}
