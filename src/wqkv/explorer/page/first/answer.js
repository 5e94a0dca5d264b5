// The question that the page is about, answered in a sentence with the numbers of this text.

import { paint, tint } from "../parts/color.js";
import { h, walk } from "../parts/dom.js";
import { flow } from "../parts/flow.js";
import { fixed, number, short, weight } from "../parts/format.js";
import { scaleOf } from "../parts/photo.js";
import { around } from "../parts/ranking.js";
import { rich } from "../parts/rich.js";
import { named, tokenOf, tokenTag } from "../parts/token.js";
import { linkName } from "../reading/asked.js";
import { askFor, keys, opened, size } from "../reading/opened.js";
import { recorded } from "../reading/server.js";
import { go, state } from "../reading/state.js";
import { LOOKS_AT } from "../steps/peek.js";
import { strongest } from "../steps/worked.js";
import { lang, t } from "../words/words.js";
import { figure } from "./figure.js";
import { tour } from "./tour.js";

/** @import { TextFacts } from "../types" */
/** @import { Read } from "../steps/panel.js" */
/** @import { Entry } from "../steps/worked.js" */

const WORDS_NEAR = 60; // words of a text that stand below the answer
const EVEN = 0.2; // a largest weight below this stands out from nothing
const ALIKE = 0.9; // two weights are alike if the smaller one is this share of the larger
const RESTS = 0.25; // much weight and little content: the share of the head's output that arrives

/**
 * What a row of weights says in one sentence.
 *
 * @param {Entry[]} found the keys, those of the largest weights first
 * @param {boolean} own whether the text looks at itself
 * @param {number} token
 */
function kindOf(found, own, token) {
  const seen = found.filter(one => one.weight > 0),
    [best, next] = seen,
    itself = own && best?.index === token;
  if (!best) return "empty";
  if (!next) return itself ? "alone" : "one";
  if (best.weight < EVEN) return "even";
  if (itself) return "itself";
  return next.weight >= ALIKE * best.weight ? "two" : "fits";
}

/** @param {Omit<Read, "without">} read */
export async function answer(read) {
  const { story, row } = read,
    { layer, head, token } = state,
    found = strongest(row),
    own = !opened.text.keys,
    kind = kindOf(found, own, token),
    [best, next] = found;
  const asks = { layer, head, i: token, without: best?.index ?? 0 };
  const without = "empty alone one".includes(kind) ? null : await askFor("row", asks).catch(notThere);
  const here = () => mention(opened.text, token),
    key = () => mention(keys(), best.index),
    score = story.scores?.[best?.index ?? 0];
  const parts = {
    layer: String(layer),
    head: String(head),
    token: here,
    key,
    next: () => mention(keys(), next.index),
    score: () =>
      typeof score === "number" ? rich(marks => t("answerScore", marks), { score: fact("score", number(score), 4, best.index) }) : "",
    weight: () => fact("weight", weight(best.weight), 5, best.index),
    weightNext: () => fact("next", weight(next.weight), 5, next.index),
  };
  const matrices = Object.fromEntries(["WQ", "WK", "WV"].map(name => [name, () => fact(name, name, 2)]));
  const sentences = [
    rich(marks => (own ? t("makes", marks) : t("makesOfRead", marks)), { ...matrices, token: here }),
    rich(marks => sentenceOf(kind, marks), parts),
    row.sink ? rich(marks => t("answerSink", marks), { sink: weight(row.sink) }) : null,
    rests(best, row.output, kind) &&
      rich(marks => t("answerRests", marks), { key, effect: () => fact("effect", short(best.effect, 2), 6, best.index), output: () => fact("output", short(row.output, 3), 7) }),
    without && row.output
      ? rich(marks => t("answerWithout", marks), { token: here, change: () => removal(best.index, (without.changed ?? 0) / (row.output ?? 1)) })
      : null,
    without && !recorded && opened.text.tabs.includes("matters") ? rich(marks => (opened.model.generates ? t("answerMatters", marks) : t("answerMattersText", marks)), { link: () => leadsTo("matters", t("removeForReal"), "views", { view: "matters" }) }) : null,
  ];
  return h(
    "div",
    { class: "hero" },
    h(
      "div",
      { class: "heroline" },
      h("h1", {}, rich(marks => t("question", marks), { token: () => h("mark", {}, named(opened.text, token)) })),
      h("button", { class: "tourstart", "data-key": "tour", onclick: tour }, t("tour")),
      leadsTo("why", t("toWhy"), "views", { view: "cards" }),
      h("p", { class: "note" }, t("pageIsFor", { model: opened.model.name })),
    ),
    h(
      "div",
      { class: "herotext" },
      h("p", { class: "answer" }, sentences.filter(Boolean).map(one => [one, lang() === "zh" ? "" : " "])),
      story.rate && h("p", { class: "note rate" }, story.rate),
      opened.text.pictures.length ? wholeText(found) : wordLine(own ? found : null),
      own ? null : lookedAt(found),
      scaleOf(keys()),
    ),
    kind === "empty" ? null : await figure(read, best),
  );
}

function sentenceOf(kind, marks) {
  if (kind === "empty") return t("answerEmpty", marks);
  if (kind === "alone") return t("answerAlone", marks);
  if (kind === "one") return t("answerOne", marks);
  if (kind === "even") return t("answerEven", marks);
  if (kind === "itself") return t("answerItself", marks);
  return kind === "two" ? t("answerTwo", marks) : t("answerFits", marks);
}

// A saved page has not every row.
function notThere(error) {
  if (error.status !== 410) throw error;
  return null;
}

function rests(best, output, kind) {
  return !"empty even".includes(kind) && best.effect !== null && output && best.effect < RESTS * output;
}

/**
 * A token in a sentence; its position stands beside it where another one reads alike.
 *
 * @param {TextFacts} text
 * @param {number} position
 */
function mention(text, position) {
  const plain = at => text.tokens[at].trim().toLowerCase(),
    alike = text.tokens.some((_, at) => at !== position && plain(at) === plain(position));
  const [open, close] = lang() === "zh" ? ["“", "”"] : ["", ""];
  return h("b", { class: "named" }, open, alike ? tokenTag(position, text) : named(text, position), close);
}

/**
 * A number of the answer: a link to the step where it is worked out.
 *
 * @param {string} name
 * @param {string} text
 * @param {number} step
 * @param {number} [other] the token that is looked at there
 */
function fact(name, text, step, other) {
  return leadsTo(name, text, "strip", { step, other });
}

/**
 * Words that lead to a part of the page. A link in a sentence breaks over lines as words do, and a
 * button does not.
 *
 * @param {string} name
 * @param {string} text
 * @param {string} part
 * @param {Parameters<typeof go>[0]} change
 */
function leadsTo(name, text, part, change) {
  const follow = event => {
    event.preventDefault();
    go(change);
    document.getElementById(part)?.scrollIntoView({ block: part === "strip" ? "nearest" : "start" });
  };
  return h("a", { class: "fact", href: "#", "data-key": `answer-${name}`, onclick: follow }, text);
}

// By how much the head's output changes without a link; step 6 shows the row without it.
function removal(key, share) {
  const { layer, head, token } = state,
    without = linkName({ layer, head, query: token, key });
  const text = share < 2 ? t("changePercent", { n: fixed(100 * share, share < 0.1 ? 1 : 0) }) : t("changeTimes", { n: fixed(share, 1) });
  return leadsTo("change", text, "strip", { step: 6, other: key, ...(recorded ? {} : { without }) });
}

/**
 * The words around the chosen one, each tinted by its weight where the text looks at itself.
 *
 * @param {Entry[] | null} found
 */
function wordLine(found) {
  const buttons = around(state.token, WORDS_NEAR).map(j =>
    h(
      "button",
      {
        class: opened.text.special[j] ? "w special" : "w",
        "data-key": `word-${j}`,
        "aria-pressed": String(j === state.token),
        tabindex: j === state.token ? 0 : -1,
        onclick: () => go({ token: j, other: null, set: null }),
      },
      tokenOf(opened.text, j),
    ),
  );
  if (found) tinted(buttons, around(state.token, WORDS_NEAR), found);
  const attributes = { class: "wordline", role: "group", "aria-label": t("chooseWord"), onkeydown: event => walk(event, buttons, 0, () => {}) };
  return h("p", attributes, size() > WORDS_NEAR && "… ", buttons, size() > WORDS_NEAR && " …");
}

/**
 * A text with pictures, which are seen whole.
 *
 * @param {Entry[]} found
 */
function wholeText(found) {
  const { token } = state,
    weights = new Map(found.map(one => [one.index, one.weight]));
  return h(
    "div",
    {},
    flow({
      of: opened.text,
      name: t("chooseWord"),
      from: "from",
      asked: [token],
      at: token,
      lookup: j => weights.get(j) ?? 0,
      pick: to => go({ token: to, other: null, set: null }),
      peek: LOOKS_AT,
    }),
  );
}

/** @param {Entry[]} found */
function lookedAt(found) {
  const at = around(found[0]?.index ?? 0, WORDS_NEAR, keys().tokens.length);
  const words = at.map(j => h("span", { class: keys().special[j] ? "w special" : "w" }, tokenOf(keys(), j)));
  tinted(words, at, found);
  return h("p", { class: "wordline" }, h("small", {}, rich(marks => t("readWords", marks), { token: () => mention(opened.text, state.token) })), words);
}

function tinted(elements, at, found) {
  const weights = new Map(found.map(one => [one.index, one.weight]));
  elements.forEach((element, i) => {
    const value = weights.get(at[i]) ?? 0;
    element.title = `${at[i]}: ${weight(value)}`;
    if (value > 0.0005) paint(element, tint(value));
  });
}
