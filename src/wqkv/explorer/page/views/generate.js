// What a causal model writes, token by token: a scrubber over the steps, and where each step looked.

import { foot, pythonOf } from "../frame/foot.js";
import { paint, tint } from "../parts/color.js";
import { fill, h } from "../parts/dom.js";
import { flow } from "../parts/flow.js";
import { clamp, count, visible, weight } from "../parts/format.js";
import { barPicture } from "../parts/picture.js";
import { named } from "../parts/token.js";
import { bar, sharesOf, topsOf } from "../parts/vector.js";
import { opened, size } from "../reading/opened.js";
import { get, workOnce } from "../reading/server.js";
import { go, state } from "../reading/state.js";
import { strongest, weightsOf } from "../steps/worked.js";
import { t } from "../words/words.js";
import { chosenSampling, nextShares, nextTable, samplingName, samplingPanel, samplingSays, writtenSampling } from "./sampling.js";

/** @import { GenerateAnswer, NextAnswer, RowAnswer, WrittenFacts } from "../types" */
/** @import { Unit } from "../parts/vector.js" */
/** @import { Entry } from "../steps/worked.js" */

const LATEST = 200; // tokens before the one that is written: of a long text the rest is left out

export async function generateView() {
  if (opened.text.part) return h("p", { class: "note" }, t("hasWritten", { model: opened.model.name }));
  if (!opened.model.generates) return h("p", { class: "note" }, t("noGenerate", { model: opened.model.name }));
  const form = h(
    "form",
    {
      class: "controls",
      onsubmit: event => {
        event.preventDefault();
        go({ count: String(clamp(Number(amount.value) || 8, 1, 64)), moment: 0, drawn: samplingName(chosenSampling()) });
      },
    },
    h("label", { for: "amount" }, t("howMany")),
  );
  const amount = h("input", {
    type: "number",
    id: "amount",
    "data-key": "amount",
    min: 1,
    max: 64,
    value: state.count ?? 8,
  });
  form.append(amount, h("button", { type: "submit", "data-key": "generate" }, t("write")));
  if (!state.count) {
    const place = await nextPlace({ view: String(state.v), i: size() - 1, tokens: opened.text.tokens });
    return [form, h("p", { class: "note" }, t("generateSays")), place.lists, place.foot("next")];
  }
  const drawn = writtenSampling();
  /** @type {GenerateAnswer} */
  const answer = await workOnce(`views/${state.v}/generate`, { count: Number(state.count), ...(drawn.seed !== undefined && drawn) });
  const last = answer.steps.length - 1,
    moment = clamp(state.moment ?? 0, 0, Math.max(last, 0));
  if (last < 0) return [form, h("p", { class: "note" }, t("nothingWritten"))];
  const step = answer.steps[moment],
    place = await nextPlace({ view: answer.view, i: step.position - 1, tokens: answer.tokens, step });
  return [
    form,
    h(
      "p",
      { class: "note" },
      samplingSays(drawn),
      samplingName(drawn) !== samplingName(chosenSampling()) && [" ", h("b", {}, t("writeAgain"))],
    ),
    scrubber(answer, moment, last),
    sentence(answer, step, place.row),
    place.lists,
    place.foot(`step-${moment}`, answer),
  ];
}

/**
 * What could come after position i, and where the chosen head looked from there: on one scale.
 *
 * @param {{ view: string, i: number, tokens: readonly string[], step?: WrittenFacts }} place
 */
async function nextPlace({ view, i, tokens, step }) {
  const { layer, head } = state;
  // The row that chose a token is that of the token before it.
  const row = await get(`views/${view}/row`, { layer, head, i }),
    ranked = strongest(row).slice(0, 8),
    words = h("div", { class: "nextwords" }),
    looks = h("div");
  /** @type {NextAnswer | undefined} */
  let next;
  const panel = await samplingPanel({ view, i }, (answer, drawn) => {
    next = answer;
    const tops = topsOf([...sharesOf(ranked.map(one => one.weight)), ...nextShares(answer)]);
    fill(words, nextTable(answer, { step, drawn, tops }));
    fill(looks, looked(tokens, ranked, tops));
  });
  return {
    row,
    lists: h(
      "div",
      { class: "twolists" },
      h("section", {}, h("h3", {}, t("candidates")), words, panel),
      h("section", {}, h("h3", {}, t("lookedThen", { layer, head })), looks),
    ),
    foot: (name, written = {}) =>
      foot({
        name,
        python: pythonOf([written, next ?? row]),
        data: { ...written, next },
        token: null,
        picture: () =>
          barPicture(
            `${t("candidates")} (${i + 1})`,
            (next?.top ?? []).map(one => [visible(one.token), state.seed === undefined ? one.probability : one.after]),
          ),
      }),
  };
}

/**
 * @param {GenerateAnswer} answer
 * @param {number} moment
 * @param {number} last
 */
function scrubber(answer, moment, last) {
  const slider = h("input", {
    type: "range",
    min: 0,
    max: last,
    value: moment,
    "data-key": "moment",
    "aria-label": t("stepOf", { at: moment + 1, all: last + 1 }),
    oninput: event => go({ moment: Number(event.target.value) }, true),
  });
  return h(
    "div",
    { class: "controls scrub" },
    h(
      "button",
      { "data-key": "moment-back", disabled: moment === 0, onclick: () => go({ moment: moment - 1 }) },
      "←",
    ),
    slider,
    h(
      "button",
      { "data-key": "moment-next", disabled: moment === last, onclick: () => go({ moment: moment + 1 }) },
      "→",
    ),
    h("span", {}, t("stepOf", { at: moment + 1, all: last + 1 })),
  );
}

/**
 * The text so far, tinted by the weights of the row that chose the next token.
 *
 * @param {GenerateAnswer} answer
 * @param {WrittenFacts} step
 * @param {RowAnswer} row
 */
function sentence(answer, step, row) {
  const weights = weightsOf(row),
    first = answer.steps[0].position,
    from = Math.max(0, step.position - LATEST);
  const tokens = answer.tokens.slice(from, step.position + 1).map((token, i) => {
    const j = from + i,
      value = weights.get(j);
    const part = h(
      "bdi",
      {
        class: `w${j >= first ? " new" : ""}${j === step.position ? " chosen" : ""}`,
        title: `${j}: ${value === undefined ? "" : weight(value)}`,
      },
      visible(token),
    );
    if (j !== step.position && value !== undefined && value > 0.0005) paint(part, tint(value));
    return [part, " "];
  });
  const { pictures } = opened.text;
  if (pictures.length) {
    const all = [...answer.tokens].slice(0, step.position + 1),
      of = { text: "", tokens: all, typed: [], special: all.map((_, j) => opened.text.special[j] ?? false), spans: [], pictures };
    return flow({ of, name: t("textOf"), from: "from", asked: [step.position], at: step.position, lookup: j => weights.get(j) ?? 0, pick: () => {} });
  }
  return [
    from > 0 && h("p", { class: "note" }, t("wordsOf", { first: count(from), last: count(step.position), n: count(answer.tokens.length) })),
    h("p", { class: "flow", "data-scroll": "written" }, tokens),
  ];
}

/**
 * @param {readonly string[]} tokens
 * @param {Entry[]} ranked
 * @param {Map<Unit, number>} tops
 */
function looked(tokens, ranked, tops) {
  return h(
    "table",
    { class: "ranking n1" },
    h(
      "tbody",
      {},
      ranked.map(({ index, weight: value }) =>
        h(
          "tr",
          {},
          h("td", { class: "at" }, index),
          h("th", { scope: "row" }, named({ tokens: [...tokens], pictures: opened.text.pictures }, index)),
          h("td", { class: "right", title: String(value) }, weight(value)),
          h("td", { class: "barcell" }, bar(value, tops, "share")),
        ),
      ),
    ),
  );
}
