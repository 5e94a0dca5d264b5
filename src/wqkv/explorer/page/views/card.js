// One question as a card: greyed where it cannot be asked, with its guesses, or with its answer.

import { whenAnswered } from "../frame/awaited.js";
import { foot } from "../frame/foot.js";
import { h } from "../parts/dom.js";
import { count, power, short, weight } from "../parts/format.js";
import { keyTag } from "../parts/token.js";
import { askFor } from "../reading/opened.js";
import { recorded } from "../reading/server.js";
import { go, list, state } from "../reading/state.js";
import { lang, t } from "../words/words.js";
import { cardPicture, changedMaps, pairedBars, outputBars, spreadBars } from "./changed.js";
import { outcome } from "./outcome.js";

/** @import { ChangedMapsAnswer, ExperimentAnswer, MadeFacts, ProofFacts } from "../types" */

const CARD_BLOCKS = 48; // blocks a side of a small map; a saved page has these: SMALL of explorer/cards.py

/**
 * @param {ExperimentAnswer} answer
 * @param {string} kind
 */
function frameOf({ name, asked }, kind, ...parts) {
  const { question, change } = asked[lang()],
    id = `card-${name}`;
  return h(
    "article",
    { class: `card ${kind}`, "data-card": name, "aria-labelledby": id },
    h("header", {}, h("h3", { id }, question), h("p", { class: "changeline" }, change)),
    parts,
  );
}

/** @param {ExperimentAnswer} answer */
export function refusedCard(answer) {
  return frameOf(answer, "refused", h("p", { class: "note" }, h("b", {}, t("noAnswer")), " ", answer.refused?.[lang()]));
}

/**
 * @param {ExperimentAnswer} answer
 * @param {MadeFacts} made
 * @param {(guess: string) => void} pick
 */
export function openCard(answer, made, pick) {
  const { guesses } = made.cards[lang()];
  return frameOf(
    answer,
    "unguessed",
    rankChoice(answer),
    h("p", { class: "note" }, t("whatHappens")),
    h(
      "div",
      { class: "guesses", role: "group", "aria-label": t("whatHappens") },
      made.names.map((name, i) =>
        h("button", { "data-key": `guess-${answer.name}-${i}`, "data-guess": name, onclick: () => pick(name) }, guesses[i]),
      ),
    ),
  );
}

/**
 * @param {ExperimentAnswer} answer
 * @param {MadeFacts} made
 * @param {string} chosen
 * @param {Record<string, string | number>} asked
 * @param {() => void} again
 */
export function answeredCard(answer, made, chosen, asked, again) {
  const said = made.cards[lang()];
  /** @type {ChangedMapsAnswer | undefined} */
  let maps; // for the picture, once they are there
  const drawn =
    made.shows === "weights" &&
    whenAnswered(askFor("changedmaps", { ...asked, size: CARD_BLOCKS }), found => {
      maps = found;
      return [changedMaps(found), meansOf(found)];
    });
  return frameOf(
    answer,
    "answered",
    h(
      "div",
      { class: "cardbody" },
      h(
        "div",
        { class: "cardtell" },
        verdictLine(made, chosen, said.guesses),
        h("p", { class: "note" }, said.headline),
        h("p", { class: "big" }, made.headline[0], " → ", h("b", {}, made.headline[1])),
        h("p", {}, said.answer),
        said.reason && h("p", {}, said.reason),
        whenAnswered(askFor("often", asked).catch(notRecorded), often => often && h("p", { class: "often" }, t(often.layers ? "oftenLayers" : "oftenHeads", { same: count(often.same), all: count(often.total) }))),
        made.same && h("p", { class: "residual" }, t(made.same.holds ? "cardSame" : "cardNotSame", proofWords(made.same))),
        rankChoice(answer),
        h("p", { class: "note" }, h("b", {}, t("cardLimit")), " ", answer.asked[lang()].limits),
        h("pre", { class: "code", tabindex: 0 }, answer.python.split("\n").at(-1)),
        h(
          "p",
          { class: "controls" },
          // has the key of the guess that was pressed, and so its focus
          h("button", { "data-key": `guess-${answer.name}-${made.names.indexOf(chosen)}`, onclick: again }, t("guessAgain")),
          made.changes && h("button", { "data-key": `runon-${answer.name}`, "aria-pressed": String(ran(answer.name)), onclick: () => toggleRun(answer.name) }, t("runOn")),
        ),
      ),
      drawn && h("div", { class: "cardmaps" }, drawn),
      h(
        "div",
        { class: "cardrow" },
        made.beside.length > 0 && besideTable(made),
        made.shows === "weights" && pairedBars(made.links),
        made.outputs.length > 0 && outputBars(made.outputs),
        made.shows === "outputs" && !made.outputs.length && h("p", { class: "note" }, t("outputsNotSaved")),
        made.shows === "numbers" && spreadBars(made.headline),
        allNumbersOf(made),
      ),
    ),
    made.changes && ran(answer.name) && h("div", { class: "ranon" }, whenAnswered(askFor("runon", asked), async after => [await outcome(after, { edits: [] }), h("p", { class: "note" }, t("outputChange"), " ", h("b", { title: String(after.change) }, short(after.change, 3)))])),
    foot({
      name: `why-${answer.name}`,
      python: answer.python,
      data: answer,
      picture: () => cardPicture(answer.asked[lang()], made, maps),
    }),
  );
}

/**
 * What was guessed, and what is so where it is another.
 *
 * @param {MadeFacts} made
 * @param {string} chosen
 * @param {string[]} guesses
 */
function verdictLine(made, chosen, guesses) {
  const right = made.right === chosen,
    say = name => guesses[made.names.indexOf(name)];
  return h(
    "div",
    { class: "verdict", role: "status" },
    h("p", { class: right ? "guess so" : "guess not" }, h("span", { class: "note" }, t(right ? "guessRight" : "guessWrong")), " ", h("b", {}, say(chosen))),
    !right && made.right !== null && h("p", { class: "guess so" }, h("span", { class: "note" }, t("isSo")), " ", h("b", {}, say(made.right))),
  );
}

// How many singular values low_rank keeps. A saved page has one answer alone.
/** @param {ExperimentAnswer} answer */
function rankChoice({ rank, ranks }) {
  if (rank === null || ranks === null) return null;
  if (recorded) return h("p", { class: "note rank" }, t("rankSaved", { r: rank, all: ranks }));
  const says = h("output", {}, t("rankIs", { r: rank, all: ranks }));
  const slide = h("input", {
    type: "range",
    id: "rank",
    "data-key": "rank",
    min: 1,
    max: ranks,
    value: rank,
    "aria-label": t("rankIs", { r: rank, all: ranks }),
    oninput: () => (says.textContent = t("rankIs", { r: slide.value, all: ranks })),
    onchange: () => go({ rank: Number(slide.value) }, true),
  });
  return h("p", { class: "rank" }, slide, says);
}

// A saved page has what needs runs of the model where it was asked for.
function notRecorded(error) {
  if (recorded && error.status === 410) return null;
  throw error;
}

/** @param {ProofFacts} proof */
function proofWords({ difference, size, tolerance }) {
  return { difference: difference ? power(difference) : "0", size: short(size), tolerance: power(tolerance) };
}

// The changes that answer the question together, with the row as trained first.
/** @param {MadeFacts} made */
function besideTable({ beside, key }) {
  const own = beside.every(one => one.own !== null);
  return h(
    "section",
    {},
    h("h4", {}, t("besideTitle")),
    h(
      "table",
      { class: "beside" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, t("besideChange")), own && h("th", { scope: "col" }, t("besideOwn")), h("th", { scope: "col" }, "→ ", keyTag(key)), h("th", { scope: "col" }, t("besideOutput")))),
      h(
        "tbody",
        {},
        beside.map((one, i) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, i ? one.change[lang()] : t("trained")),
            own && h("td", { title: String(one.own) }, weight(one.own)),
            h("td", { title: String(one.link) }, weight(one.link)),
            h("td", { title: String(one.output) }, i ? `${Math.round(100 * (one.output ?? 0))} %` : "-"),
          ),
        ),
      ),
    ),
  );
}

/** @param {MadeFacts} made */
function allNumbersOf({ numbers, proof }) {
  return h(
    "details",
    { class: "all" },
    h("summary", {}, t("cardNumbers")),
    h("ul", { class: "numbers" }, numbers.map(one => h("li", {}, one.said[lang()]))),
    proof && h("p", { class: "note" }, t(proof.holds ? "residualHolds" : "residualFailed", proofWords(proof))),
  );
}

/** @param {ChangedMapsAnswer} found */
function meansOf({ means }) {
  return h("details", { class: "all" }, h("summary", {}, t("cardMeans")), h("ul", { class: "numbers" }, means.map(one => h("li", {}, one.said[lang()]))));
}

// The model run on from a change, where it was asked for: ran=same_matrix in the address.

function ran(name) {
  return list(state.ran).includes(name);
}

function toggleRun(name) {
  const all = list(state.ran);
  go({ ran: (ran(name) ? all.filter(one => one !== name) : [...all, name]).join(",") });
}
