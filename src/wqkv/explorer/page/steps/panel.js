// The open step: its two sentences, its formula and its drawing.

import { foot } from "../frame/foot.js";
import { h, unbroken } from "../parts/dom.js";
import { short, visible } from "../parts/format.js";
import { photograph } from "../parts/photograph.js";
import { keyTag, tokenTag, tokenWithPosition } from "../parts/token.js";
import { chosenHow, removedKey } from "../reading/asked.js";
import { askFor, opened } from "../reading/opened.js";
import { go, state } from "../reading/state.js";
import { lang, t } from "../words/words.js";
import { DRAWINGS } from "./drawings.js";
import { strongest } from "./worked.js";

/** @import { RowAnswer, StepFacts, StoryAnswer } from "../types" */

/**
 * @typedef {object} Read
 * @property {StoryAnswer} story
 * @property {RowAnswer} row
 * @property {number} best the token that is looked at most
 * @property {RowAnswer} [without] the row computed again, where one of its links is removed
 */

export const STEPS = 7;
const SENTENCE = 90; // characters of it that a saved picture says

/**
 * What the panels are drawn from: the story, and the row where it says more.
 *
 * @returns {Promise<Read>}
 */
export async function readStory() {
  const { layer, head, token } = state,
    where = { layer, head },
    gone = removedKey();
  const [story, row, without] = await Promise.all([
    askFor("story", { ...where, token, lang: lang() }),
    askFor("row", { ...where, i: token }),
    gone === undefined ? undefined : askFor("row", { ...where, i: token, without: gone, how: chosenHow() }),
  ]);
  return { story, row, without, best: strongest(row)[0]?.index ?? token };
}

/** @param {Read} read */
export async function panel(read) {
  if (!state.step) return null;
  const { story } = read,
    step = story.steps[state.step - 1];
  const parts = await DRAWINGS[state.step - 1](read);
  const text = h(
    "div",
    { class: "tell" },
    h("h2", {}, h("i", {}, state.step), step.name),
    h("p", {}, unbroken(step.sentence)),
    h("p", {}, unbroken(step.sentence2)),
    h("p", { class: "formula" }, unbroken(step.formula)),
    h(
      "p",
      { class: "pager" },
      h(
        "button",
        { "data-key": "step-back", disabled: state.step === 1, onclick: () => go({ step: state.step - 1 }) },
        "←",
        h("span", {}, t("back")),
      ),
      h(
        "button",
        {
          "data-key": "step-next",
          disabled: state.step === STEPS,
          onclick: () => go({ step: state.step + 1 }),
        },
        h("span", {}, t("next")),
        "→",
      ),
      h("button", { class: "quiet", "data-key": "step-close", onclick: () => go({ step: 0 }) }, t("close")),
    ),
  );
  const shown = h("div", {}, read.without && withoutNote(read.row, read.without), parts.drawing);
  return h(
    "div",
    {
      class: `open step${state.step}`,
      role: "tabpanel",
      id: "panel",
      "aria-labelledby": `step-${state.step}`,
    },
    text,
    shown,
    foot({
      name: `step${state.step}`,
      python: parts.python ?? story.python,
      picture: () => photograph(shown, caption(step)),
      data: parts.data ?? story,
      other: parts.other ?? null,
    }),
  );
}

/**
 * What a saved picture says above what is shown: the step, where it is, the sentence, the formula.
 *
 * @param {StepFacts} step
 */
function caption(step) {
  const { layer, head, token } = state;
  const sentence = [...visible(opened.text.text)],
    text = sentence.length > SENTENCE ? `${sentence.slice(0, SENTENCE).join("")}…` : sentence.join("");
  return [
    `${state.step} ${step.name}`,
    `${opened.model.name}, ${t("atBoth", { layer, head })}, ${tokenWithPosition(token)}`,
    text,
    step.formula,
  ];
}

/**
 * Which link is removed, what comes of the head's output, and the ways back.
 *
 * @param {RowAnswer} row
 * @param {RowAnswer} without
 */
function withoutNote(row, without) {
  return h(
    "div",
    { class: "without" },
    h("p", {}, h("b", {}, t("withoutLink"), " ", tokenTag(state.token), " → ", keyTag(removedKey() ?? 0)), ` ${t(`howSays_${chosenHow()}`)}`),
    h("p", { class: "note" }, t(state.step < 5 ? "withoutEarly" : "withoutOutput", { before: short(row.output), after: short(without.output) })),
    h(
      "p",
      { class: "controls" },
      h("button", { class: "quiet", "data-key": "put-back", onclick: () => go({ without: null }) }, t("putBack")),
      h(
        "button",
        {
          class: "quiet",
          "data-key": "to-list",
          onclick: () => {
            go({ view: "matters" });
            document.getElementById("views")?.scrollIntoView();
          },
        },
        t("backToList"),
      ),
    ),
  );
}
