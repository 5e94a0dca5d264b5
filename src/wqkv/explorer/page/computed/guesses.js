// Which guess about a head is right in a saved page: the rules of experiments/guesses.py, which come as data.

import { heaviestOf } from "./experiments.js";

/** @import { SavedQuestion } from "../types" */
/** @import { SavedView } from "./answers.js" */
/** @import { Made, Measured } from "./experiments.js" */

/**
 * @typedef {object} Asked an experiment with what its sentences and rules need
 * @property {SavedView} seen
 * @property {SavedQuestion} question
 * @property {Made} made
 * @property {number} i
 * @property {string} r of low_rank
 */

/** @type {Record<string, (of: Asked) => number>} */
const QUANTITIES = {
  itself: ({ seen, made, i }) =>
    seen.layer.tensors.has("source") ? -1 : made.after.weights[i] - Math.max(0, ...made.after.weights.filter((_, j) => j !== i)),
  evenness: ({ made }) => {
    const count = Array.from(made.after.scores).filter(Number.isFinite).length;
    return count > 1 ? afterOf(made, "entropy") / Math.log(count) : 1;
  },
  finds: of => Number(heaviestOf(of.made.after.weights) === strongestOther(of)),
  first: ({ made }) => Number(heaviestOf(made.after.weights) === made.key),
  kept: ({ made }) =>
    heaviestOf(made.after.weights) === made.key ? made.after.weights[made.key] / made.before.weights[made.key] : 0,
  largest: ({ made }) => afterOf(made, "largest weight"),
  grown: ({ made }) => afterOf(made, "largest weight") - numberOf(made, "largest weight").before,
  moved: ({ made }) => movedMost(made),
  differs: ({ made }) => (made.same ? Number(!made.same.holds) : movedMost(made)),
  change: ({ made }) => numberOf(made, "change of the output").before,
  cosine: ({ made }) => afterOf(made, "cosine with the trained output"),
  ratio: of => {
    const [first, second] = headlineOf(of).map(one => one.value);
    return first ? second / first : Infinity;
  },
};

/** @param {Made} made */
function movedMost({ before, after }) {
  return before.weights.reduce((most, weight, j) => Math.max(most, Math.abs(weight - after.weights[j])), 0);
}

/** @param {Asked} of */
export function rightGuess(of) {
  if (noGuess(of)) return null;
  const holds = ({ of: quantity, how, bound }) => {
    const found = QUANTITIES[quantity](of);
    return how === "least" ? found >= bound : how === "above" ? found > bound : found < bound;
  };
  return of.question.rules.find(holds)?.name ?? null;
}

/**
 * Why no guess can be right, whatever the numbers are.
 *
 * @param {Asked} of
 */
export function noGuess({ question, made, i }) {
  if (question.ofScores && Array.from(made.before.scores).filter(Number.isFinite).length <= 1) return "alone";
  return question.name === "swapped" && made.key === i ? "own_link" : null;
}

/**
 * The key that has the most weight as trained, without the token itself.
 *
 * @param {Asked} of
 */
export function strongestOther({ seen, made, i }) {
  const own = !seen.layer.tensors.has("source");
  return heaviestOf(made.before.weights.map((weight, j) => (own && j === i ? -1 : weight)));
}

/** @param {Asked} of */
export function headlineOf({ question, made }) {
  const [first, second] = question.headline.map(name => numberOf(made, name));
  return [
    { value: first.before, unit: first.unit },
    { value: second ? second.before : /** @type {number} */ (first.after), unit: first.unit },
  ];
}

/**
 * @param {Made} made
 * @param {string} name
 */
export function numberOf({ numbers }, name) {
  return /** @type {Measured} */ (numbers.find(one => one.name === name));
}

/**
 * @param {Made} made
 * @param {string} name
 */
function afterOf(made, name) {
  return /** @type {number} */ (numberOf(made, name).after);
}
