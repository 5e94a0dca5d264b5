// The cards of a saved page: experiments and what is said of them, as explorer/cards.py and draw/cards.py make
// them. The sentences come as data: explorer/saved_cards.py.

import { count, general, label, power, weight } from "../parts/format.js";
import { changedMapsOf, experimentOf, heaviestOf, outputsOf, strongestKey } from "./experiments.js";
import { headlineOf, noGuess, numberOf, rightGuess, strongestOther } from "./guesses.js";

/** @import { Answers, ChangedFacts, MadeFacts, MeasuredFacts, SavedCards, SavedQuestion } from "../types" */
/** @import { Query, SavedView } from "./answers.js" */
/** @import { Measured } from "./experiments.js" */
/** @import { Asked } from "./guesses.js" */

const COUNTED = new Set(["numbers", "dimensions"]); // units of whole numbers

/**
 * @param {SavedView} seen
 * @param {Query} query
 * @returns {Answers["experiment"]}
 */
export function experimentAnswer(seen, query) {
  const { cards, layer, model } = seen,
    name = String(query.name),
    [head, i] = [Number(query.head), Number(query.token)],
    question = questionOf(cards, name),
    made = experimentOf(layer, name, head, i),
    rank = name === "low_rank" ? rankOf(seen) : null;
  const answer = { name, asked: question.asked, made: null, refused: null, rank, ranks: rank === null ? null : model.d_k };
  if (!made) return { ...answer, refused: whyNot(seen, query), python: seen.python };
  const of = { seen, question, made, i, r: rank === null ? "" : String(rank) };
  return { ...answer, made: madeFacts(of, query), python: `${seen.python}\n${experimentPython(seen, query)}` };
}

/**
 * @param {SavedView} seen
 * @param {Query} query
 * @returns {Answers["changedmaps"] | undefined}
 */
export function changedMapsAnswer(seen, query) {
  const { name, head, token, size } = query,
    found = changedMapsOf(seen.layer, String(name), Number(head), Number(token), Number(size));
  if (!found) return undefined;
  const maps = `found.before.map.thumbnail(${size}), found.after.map.thumbnail(${size})`;
  return {
    ...found,
    means: found.means.map(one => measuredFacts(seen.cards, one)),
    python: `${seen.python}\nfound = ${experimentPython(seen, query)}\n${maps}`,
  };
}

/**
 * @param {SavedCards} cards
 * @param {string} name
 */
function questionOf({ questions }, name) {
  return /** @type {SavedQuestion} */ (questions.find(one => one.name === name));
}

/** @param {SavedView} seen */
function rankOf({ model, cards }) {
  return Math.max(1, Math.floor(model.d_k / cards.kept));
}

/**
 * @param {SavedView} seen
 * @param {Query} query
 */
function experimentPython(seen, { name, layer, head, token }) {
  return `wqkv.experiments.${name}(view, ${layer}, ${head}, ${token}${name === "low_rank" ? `, ${rankOf(seen)}` : ""})`;
}

/**
 * Why a head has no answer: for all its rows, or because the row has one key alone.
 *
 * @param {SavedView} seen
 * @param {Query} query
 */
function whyNot({ cards, layer }, { name, layer: number, head, token }) {
  const places = { row: token, key: strongestKey(layer, Number(head), Number(token)), head, layer: number };
  return layer.facts.refused[name] ?? eachLanguage(lang => filled(cards.alone[lang], places));
}

/**
 * @param {Asked} of
 * @param {Query} query
 * @returns {MadeFacts}
 */
function madeFacts(of, query) {
  const { seen, question, made, i } = of,
    { layer, cards, text } = seen,
    head = Number(query.head);
  const right = rightGuess(of),
    names = question.rules.map(rule => rule.name),
    turned = question.turn - (right === null ? 0 : names.indexOf(right)),
    shown = names.map((_, at) => names[(((at - turned) % names.length) + names.length) % names.length]);
  return {
    cards: eachLanguage(lang => cardFacts(of, lang, shown, right)),
    key: made.key,
    names: shown,
    right,
    headline: /** @type {[string, string]} */ (headlineOf(of).map(one => cardDigits(one.value, one.unit))),
    numbers: made.numbers.map(one => measuredFacts(cards, one)),
    shows: question.shows,
    links: strongestLinks(of),
    outputs: question.shows === "outputs" ? outputsOf(layer, question.name, head, i, made) : [],
    proof: layer.facts.residuals[i],
    same: made.same,
    changes: made.changes && !text.parts.length,
    beside: besideFacts(of, query),
  };
}

/**
 * The weights of the links that are strongest in either state, by falling weight as trained.
 *
 * @param {Asked} of
 */
function strongestLinks({ seen, made: { before, after } }) {
  const all = Array.from(before.weights, (weight, key) => ({ key, before: weight, after: after.weights[key] })),
    most = one => Math.max(one.before, one.after);
  return all
    .sort((a, b) => most(b) - most(a))
    .slice(0, seen.cards.links)
    .sort((a, b) => b.before - a.before);
}

/**
 * @param {Asked} of
 * @param {Query} query
 * @returns {ChangedFacts[]}
 */
function besideFacts({ seen, question, made, i }, query) {
  if (!question.beside.length) return [];
  const own = !seen.layer.tensors.has("source");
  const one = (found, weights, name) => ({
    change: eachLanguage(lang => (name ? questionOf(seen.cards, name).asked[lang].change : "")),
    own: own ? weights[i] : null,
    link: weights[made.key],
    output: name ? numberOf(found, "change of the output").before : 0,
  });
  const others = question.beside.flatMap(name => {
    const found = experimentOf(seen.layer, name, Number(query.head), i);
    return found ? [one(found, found.after.weights, name)] : []; // else its own card says why
  });
  return [one(made, made.before.weights, ""), one(made, made.after.weights, question.name), ...others];
}

// The sentences

/**
 * @param {Asked} of
 * @param {string} lang
 * @param {string[]} names
 * @param {string | null} right
 */
function cardFacts(of, lang, names, right) {
  const { question, seen } = of,
    said = question.said[lang],
    places = placesOf(of);
  const reason = right === null ? seen.cards.otherwise[lang][noGuess(of) ?? "none"] : (said.reasons[right] ?? "");
  return {
    guesses: names.map(name => filled(said.guesses[name], places)),
    headline: filled(said.headline, places),
    answer: filled(said.answer, places),
    reason: filled(reason, places),
  };
}

// What the sentences name, as it is written.
/** @param {Asked} of */
function placesOf(of) {
  const { seen, made, i, r } = of,
    { tokens } = seen.text,
    keys = (seen.text.keys ?? seen.text).tokens,
    most = heaviestOf(made.after.weights);
  /** @type {Record<string, string>} */
  const found = {
    token: label(tokens[i]),
    key: label(keys[made.key]),
    other: label(keys[strongestOther(of)]),
    most: label(keys[most]),
    most_weight: cardDigits(made.after.weights[most]),
    d_k: String(seen.model.d_k),
    r,
    off: made.same ? power(made.same.difference) : "",
    of: made.same ? cardDigits(made.same.size ?? 0) : "",
  };
  for (const [place, name] of Object.entries(seen.cards.places)) {
    const one = made.numbers.find(number => number.name === name);
    if (!one) continue;
    found[`${place}0`] = cardDigits(one.before, one.unit);
    found[`${place}1`] = one.after === null ? "" : cardDigits(one.after, one.unit);
  }
  return { ...found, root: found.root0 ?? "" };
}

/**
 * @param {SavedCards} cards
 * @param {Measured} one
 * @returns {MeasuredFacts}
 */
function measuredFacts(cards, one) {
  const write = value => (COUNTED.has(one.unit) ? count(value) : general(value, 4)),
    values = [one.before, one.after].filter(value => value !== null).map(write);
  return {
    ...one,
    said: eachLanguage(lang => `${cards.numbers[lang][one.name]}: ${values.join(" -> ")} ${cards.units[lang][one.unit]}`.trimEnd()),
  };
}

// A number with three digits or decimals; a count with all of them.
function cardDigits(value, unit = "") {
  if (COUNTED.has(unit)) return count(value);
  const size = Math.abs(value),
    text = size < 10 ? weight(size) : general(size, 3);
  return value < 0 ? `-${text}` : text;
}

function filled(sentence, places) {
  return sentence.replace(/\{(\w+)\}/g, (_, place) => places[place]);
}

function eachLanguage(say) {
  return { en: say("en"), zh: say("zh") };
}
