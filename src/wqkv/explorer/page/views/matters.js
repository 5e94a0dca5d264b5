// What matters: the links that carry an answer, each removed for real, beside what was predicted.

import { whenAnswered } from "../frame/awaited.js";
import { foot, WHOLE_TEXT } from "../frame/foot.js";
import { h } from "../parts/dom.js";
import { count } from "../parts/format.js";
import { barPicture } from "../parts/picture.js";
import { tokenTag } from "../parts/token.js";
import { chosenHow, HOWS, question, wholeQuestion, wholeView } from "../reading/asked.js";
import { askChoices, opened, size } from "../reading/opened.js";
import { workOnce } from "../reading/server.js";
import { go, state } from "../reading/state.js";
import { t } from "../words/words.js";
import { amount, digitsIn, effectTable, linkText, numberText, withBlank } from "./effects.js";
import { groupLists } from "./groups.js";
import { verdict } from "./verdict.js";
import { arcs } from "./arcs.js";

/** @import { ChoicesAnswer, WhyAnswer } from "../types" */

const SHOWN = 12; // links in a table before all are asked for

// A change of the question: the answer to the old one is not shown under it.
function askAnew(patch) {
  go({ asked: null, more: null, ...patch });
}

export async function mattersView() {
  const choices = await askChoices();
  const missing = choices.kind === "similarity" && !state.answer;
  return [
    h("p", { class: "note" }, t("mattersSays")),
    h("div", { class: "question" }, questionForm(choices), howChoice()),
    h(
      "p",
      { class: "controls" },
      h(
        "button",
        {
          class: "main",
          "data-key": "ask-why",
          disabled: missing,
          onclick: () => {
            askAnew({}); // so that a question that was cancelled is asked again
            go({ asked: "1" });
          },
        },
        t("removeLinks", { n: count(choices.budget) }),
      ),
      missing ? h("span", { class: "note" }, t("likeNeeded")) : null,
    ),
    state.asked && !missing && whenAnswered(workOnce(`views/${wholeView()}/why`, { ...question(), how: chosenHow() }), shown),
  ];
}

// What is asked

/** @param {ChoicesAnswer} choices */
function questionForm(choices) {
  if (choices.kind === "similarity")
    return [
      field("answer", t("likeText"), state.answer ?? ""),
      field("against", t("unlikeText"), state.against ?? ""),
    ];
  const { answer, against } = wholeQuestion(choices);
  return [
    choices.kind === "next token" ? nextPlaces() : maskedPlaces(choices),
    tokenChoice("answer", t("answer"), choices, answer, against),
    tokenChoice("against", t("against"), choices, against, answer),
  ];
}

// Behind which token one is predicted: the last one, or the chosen one.
function nextPlaces() {
  const written = !opened.text.part || opened.text.part !== "encoder",
    here = state.after ?? state.token;
  return placeChoice(t("predictedAfter"), state.after ?? null, [
    { after: null, name: "after-end", text: t("endOfText") },
    ...(written && here < size() - 1 ? [{ after: here, name: "after-word", text: tokenTag(here) }] : []),
  ]);
}

/** @param {ChoicesAnswer} choices */
function maskedPlaces({ at }) {
  if (at === null) return null;
  const { tokens } = opened.text,
    masked = tokens.flatMap((token, j) => (token === tokens[at] ? [j] : []));
  return placeChoice(
    t("predictedAt"),
    at,
    masked.map(j => ({ after: j, name: `masked-${j}`, text: tokenTag(j) })),
  );
}

/**
 * @param {string} title
 * @param {number | null} chosen
 * @param {{ after: number | null, name: string, text: unknown }[]} places
 */
function placeChoice(title, chosen, places) {
  return h(
    "div",
    { class: "asks" },
    h("h3", {}, title),
    h(
      "span",
      { class: "segmented", role: "group", "aria-label": title },
      places.map(({ after, name, text }) =>
        h(
          "button",
          {
            "data-key": name,
            "aria-pressed": String(chosen === after),
            onclick: () => askAnew({ after, answer: null, against: null }),
          },
          text,
        ),
      ),
    ),
  );
}

/**
 * Tokens as chips, of which one is chosen, and a field for another.
 *
 * @param {"answer" | "against"} name
 * @param {string} title
 * @param {ChoicesAnswer} choices
 * @param {string | null} chosen
 * @param {string | null} taken the token of the other row, which this one cannot be
 */
function tokenChoice(name, title, { top }, chosen, taken) {
  const own = top.some(one => one.token === chosen);
  return h(
    "div",
    { class: "asks" },
    h("h3", { id: `title-${name}` }, title),
    h(
      "div",
      { class: "chips", role: "group", "aria-labelledby": `title-${name}` },
      top.map(({ token, probability }, i) =>
        h(
          "button",
          {
            class: "chip",
            "data-key": `${name}-${i}`,
            "aria-pressed": String(token === chosen),
            disabled: token === taken,
            title: String(probability),
            onclick: () => askAnew({ [name]: token }),
          },
          h("bdi", {}, withBlank(token)),
        ),
      ),
      chosen !== null &&
        !own &&
        h("button", { class: "chip", "data-key": `${name}-own`, "aria-pressed": "true" }, h("bdi", {}, withBlank(chosen))),
      field(name, t("another"), own ? "" : (chosen ?? "")),
    ),
  );
}

/**
 * @param {"answer" | "against"} name
 * @param {string} says
 * @param {string} value
 */
function field(name, says, value) {
  const given = h("input", {
    type: "text",
    id: `ask-${name}`,
    "data-key": `ask-${name}`,
    value,
    maxlength: 1000,
    autocomplete: "off",
    spellcheck: "false",
    onchange: () => {
      if (given.value !== value) askAnew({ [name]: given.value.trim() ? given.value : null });
    },
  });
  return h("p", { class: "typed" }, h("label", { for: `ask-${name}` }, says), given);
}

function howChoice() {
  return h(
    "div",
    { class: "asks" },
    h("h3", {}, t("howTitle")),
    h(
      "span",
      { class: "segmented", role: "group", "aria-label": t("howTitle") },
      HOWS.map(how =>
        h(
          "button",
          {
            "data-key": `how-${how}`,
            "aria-pressed": String(chosenHow() === how),
            onclick: () => askAnew({ how: how === HOWS[0] ? null : how, without: null }),
          },
          t(`how_${how}`),
        ),
      ),
    ),
  );
}

// What was found

/** @param {WhyAnswer} answer */
function shown(answer) {
  const clear = answer.links.filter(one => Math.abs(one.true ?? 0) > answer.rounding);
  return [
    h(
      "section",
      { class: "before" },
      h("p", { class: "big", title: String(answer.before) }, amount(answer.before, digitsIn(answer))),
      h("p", {}, numberText(answer), h("br"), h("span", { class: "note" }, t("linksOf", { n: count(answer.count), removed: count(answer.checked.removed) }), " ", t(`howSays_${answer.how}`))),
    ),
    clear.length ? arcs(answer, clear) : h("p", { class: "note" }, t("nothingClear")),
    h(
      "div",
      { class: "matterlists" },
      h("div", { class: "lists" }, tables(answer)),
      h("div", { class: "lists" }, verdict(answer), groupLists()),
    ),
    foot({
      name: "matters",
      python: answer.python,
      data: answer,
      ...WHOLE_TEXT,
      picture: () =>
        barPicture(
          numberText(answer),
          clear.slice(0, 24).map(one => [linkText(answer, one), one.true]),
          { text: value => amount(value, digitsIn(answer), true), signed: true },
        ),
    }),
  ];
}

// The strongest links, those to the first token, and those of largest weight.
/** @param {WhyAnswer} answer */
function tables(answer) {
  const { links, resting, heaviest } = answer;
  return [
    h("section", {}, h("h3", {}, t("linksTitle")), h("p", { class: "note" }, t("marksSay")), effectTable(answer, { name: "why", links, most: SHOWN })),
    resting.length > 0 &&
      h(
        "section",
        {},
        h("h3", {}, t("restingTitle")),
        h("p", { class: "note" }, t(`restingSays_${answer.how}`)),
        effectTable(answer, { name: "resting", links: resting, most: 6 }),
      ),
    heaviest.length > 0 &&
      h(
        "section",
        {},
        h("h3", {}, t("heaviestTitle")),
        h("p", { class: "note" }, heaviestSays(answer)),
        effectTable(answer, { name: "heaviest", links: heaviest, most: 6 }),
      ),
  ];
}

/** @param {WhyAnswer} answer */
function heaviestSays(answer) {
  const sizes = answer.heaviest.map(one => Math.abs(one.true ?? 0)),
    digits = digitsIn(answer);
  const [low, high] = [Math.min(...sizes), Math.max(...sizes)].map(size => (size > answer.rounding ? amount(size, digits) : "0"));
  return t("heaviestSays", { low, high, top: amount(Math.abs(answer.links[0]?.true ?? 0), digits) });
}
