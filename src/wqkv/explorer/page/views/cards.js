// Why?: the questions about q, k and v as cards, in the order in which a learner asks them.

import { h } from "../parts/dom.js";
import { tokenTag } from "../parts/token.js";
import { askFor, opened } from "../reading/opened.js";
import { recorded } from "../reading/server.js";
import { go, list, state } from "../reading/state.js";
import { t } from "../words/words.js";
import { answeredCard, openCard, refusedCard } from "./card.js";

/** @import { ExperimentAnswer } from "../types" */

/** @type {string | undefined} */
let found; // the card that the address named last: it is brought into sight once

// What was guessed stands in the address: guesses=same_matrix:itself,unscaled:sharper.
function guessed() {
  return new Map(list(state.guesses).map(part => /** @type {[string, string]} */ (part.split(":"))));
}

/**
 * @param {string} name
 * @param {string | null} picked null guesses again
 */
function guess(name, picked) {
  const all = guessed();
  if (picked === null) all.delete(name);
  else all.set(name, picked);
  found = name;
  go({ guesses: [...all].map(pair => pair.join(":")).join(","), card: name });
}

/** What a question is asked with: the same for its numbers, its maps and the model run on. */
function askedOf(name) {
  const { layer, head, token, rank } = state,
    own = name === "low_rank" && rank !== undefined && !recorded;
  return { name, layer, head, token, ...(own ? { r: rank } : {}) };
}

export async function cardsView() {
  const answers = await Promise.all(opened.text.questions.map(name => askFor("experiment", askedOf(name)))),
    all = guessed();
  const grid = h("div", { class: "cards" }, answers.map(answer => oneCard(answer, all.get(answer.name))));
  if (state.card && state.card !== found) requestAnimationFrame(() => bringIn(grid, state.card));
  return [
    h(
      "p",
      { class: "note cardssay" },
      h("span", {}, t("cardsSay"), " ", tokenTag(state.token), " · ", t("atBoth", { layer: state.layer, head: state.head })),
      all.size > 0 && h("button", { class: "quiet", "data-key": "guess-all", onclick: () => go({ guesses: null, card: null, ran: null }) }, t("closeCards")),
    ),
    grid,
  ];
}

function bringIn(grid, name) {
  found = name;
  grid.querySelector(`[data-card="${CSS.escape(name)}"]`)?.scrollIntoView({ block: "center" });
}

/**
 * @param {ExperimentAnswer} answer
 * @param {string | undefined} chosen
 */
function oneCard(answer, chosen) {
  const { name, made } = answer;
  if (!made) return refusedCard(answer);
  if (chosen === undefined || !made.names.includes(chosen)) return openCard(answer, made, to => guess(name, to));
  return answeredCard(answer, made, chosen, askedOf(name), () => guess(name, null));
}
