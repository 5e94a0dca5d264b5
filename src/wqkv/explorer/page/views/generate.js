// What a causal model writes, token by token: a scrubber over the steps, and where each step looked.

import { foot } from "../frame/foot.js";
import { paint, tint } from "../parts/color.js";
import { h } from "../parts/dom.js";
import { clamp, count, fixed, visible, weight } from "../parts/format.js";
import { barPicture } from "../parts/picture.js";
import { bdi } from "../parts/token.js";
import { bar } from "../parts/vector.js";
import { askFor, opened } from "../reading/opened.js";
import { get, workOnce } from "../reading/server.js";
import { go, state } from "../reading/state.js";
import { entriesOf } from "../steps/worked.js";
import { t } from "../words/words.js";

/** @import { GenerateAnswer, RowAnswer, WrittenFacts } from "../types" */

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
        go({ count: String(clamp(Number(amount.value) || 8, 1, 64)), moment: 0 });
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
  if (!state.count) return [form, h("p", { class: "note" }, t("generateSays"))];
  /** @type {GenerateAnswer} */
  const answer = await workOnce(`views/${state.v}/generate`, { count: Number(state.count) });
  const last = answer.steps.length - 1,
    moment = clamp(state.moment ?? 0, 0, Math.max(last, 0));
  if (last < 0) return [form, h("p", { class: "note" }, t("nothingWritten"))];
  const step = answer.steps[moment],
    { layer, head } = state;
  // The row that chose a token is that of the token before it.
  const row = answer.view
    ? await get(`views/${answer.view}/row`, { layer, head, i: step.position - 1 })
    : await askFor("row", { layer, head, i: step.position - 1 });
  return [
    form,
    scrubber(answer, moment, last),
    sentence(answer, step, row),
    h("div", { class: "twolists" }, candidates(step), looked(answer, row)),
    foot({
      name: `step-${moment}`,
      python: answer.python,
      data: answer,
      token: null,
      picture: () =>
        barPicture(
          `${t("candidates")} (${step.position})`,
          step.top.map(one => [visible(one.token), one.probability]),
        ),
    }),
  ];
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
  const weights = new Map(entriesOf(row).map(one => [one.index, one.weight])),
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
  return [
    from > 0 && h("p", { class: "note" }, t("wordsOf", { first: count(from), last: count(step.position), n: count(answer.tokens.length) })),
    h("p", { class: "flow", "data-scroll": "written" }, tokens),
  ];
}

/** @param {WrittenFacts} step */
function candidates(step) {
  const top = step.top[0]?.probability ?? 1;
  return h(
    "section",
    {},
    h("h3", {}, t("candidates")),
    h(
      "table",
      { class: "ranking n1" },
      h(
        "tbody",
        {},
        step.top.map(({ token, probability, id }) =>
          h(
            "tr",
            { class: id === step.id ? "chosen" : null }, // the likeliest, mostly
            h("th", { scope: "row" }, h("bdi", {}, visible(token))),
            h("td", { class: "right", title: String(probability) }, fixed(probability ?? NaN, 3)),
            h("td", { class: "barcell" }, bar(probability, top)),
          ),
        ),
      ),
    ),
  );
}

/**
 * @param {GenerateAnswer} answer
 * @param {RowAnswer} row
 */
function looked(answer, row) {
  const ranked = entriesOf(row)
      .sort((a, b) => b.weight - a.weight)
      .slice(0, 8),
    top = ranked[0]?.weight ?? 1;
  return h(
    "section",
    {},
    h("h3", {}, t("lookedThen", { layer: state.layer, head: state.head })),
    h(
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
            h("th", { scope: "row" }, bdi(answer.tokens[index])),
            h("td", { class: "right", title: String(value) }, weight(value)),
            h("td", { class: "barcell" }, bar(value, top)),
          ),
        ),
      ),
    ),
  );
}
