// One number of a product worked out: a vector times a column, term by term, in digits that add up.

import { fixed } from "../parts/format.js";

/**
 * Which rows stand first: those of the largest numbers, or as they are stored.
 *
 * @param {ArrayLike<number>} values
 * @param {boolean} largest
 */
export function orderOf(values, largest) {
  const order = Array.from(values, (_, r) => r);
  return largest ? order.sort((a, b) => Math.abs(values[b]) - Math.abs(values[a]) || a - b) : order;
}

/**
 * All numbers of a vector times a matrix plus a bias.
 *
 * @param {ArrayLike<number>} values
 * @param {{ numbers: ArrayLike<number>, columns: number }} matrix
 * @param {(number | null)[] | null} bias
 */
export function timesMatrix(values, { numbers, columns }, bias) {
  const sums = Array.from({ length: columns }, () => 0);
  for (let r = 0; r < values.length; r++)
    for (let c = 0; c < columns; c++) sums[c] += values[r] * numbers[r * columns + c];
  return sums.map((sum, c) => sum + (bias?.[c] ?? 0));
}

/**
 * @typedef {object} Term
 * @property {number} row
 * @property {number} value the number of the vector
 * @property {number} weight the number of the column
 * @property {number} product
 * @property {number} sum of the products up to this one
 */

/**
 * The products of a vector and a column, in an order of the rows.
 *
 * @param {ArrayLike<number>} values
 * @param {ArrayLike<number>} column
 * @param {number[]} order
 * @returns {Term[]}
 */
export function termsOf(values, column, order) {
  let sum = 0;
  return order.map(row => {
    const product = values[row] * column[row];
    sum += product;
    return { row, value: values[row], weight: column[row], product, sum };
  });
}

const FEWEST = 3; // digits behind the point
const DIGITS = 9;
const COUNTS = [3, 4, 5, 6]; // how many of the largest products stand by themselves

/**
 * @typedef {object} Brief a sum as a few lines that add up as they are written
 * @property {Term[]} largest
 * @property {number} rest the sum of all other products
 * @property {number} others how many those are
 * @property {number} digits behind the point
 */

/**
 * The largest products, the rest, the sum and the bias in the fewest digits at which the shown parts
 * add up to the shown sums. Rounded parts often do not; then one product more is listed, or a digit.
 *
 * @param {Term[]} terms
 * @param {number | null} bias
 * @returns {Brief}
 */
export function briefOf(terms, bias) {
  const ranked = [...terms].sort((a, b) => Math.abs(b.product) - Math.abs(a.product)),
    sum = terms.at(-1)?.sum ?? 0;
  for (let digits = FEWEST; ; digits++)
    for (const count of COUNTS) {
      const largest = ranked.slice(0, count),
        rest = ranked.slice(count).reduce((left, term) => left + term.product, 0),
        found = { largest, rest, others: terms.length - largest.length, digits };
      const parts = [...largest.map(term => term.product), rest];
      if (digits === DIGITS || (adds(parts, sum, digits) && adds([sum, bias ?? 0], sum + (bias ?? 0), digits))) return found;
    }
}

/**
 * @param {number[]} parts
 * @param {number} sum
 * @param {number} digits
 */
function adds(parts, sum, digits) {
  const shown = (/** @type {number} */ value) => Math.round(Number(fixed(value, digits)) * 10 ** digits);
  return parts.reduce((all, part) => all + shown(part), 0) === shown(sum);
}

/**
 * The fewest digits at which two shown factors give the shown product.
 *
 * @param {Term} term
 * @param {number} digits of the product
 */
export function digitsOfFactors({ value, weight, product }, digits) {
  const gives = (/** @type {number} */ some) =>
    fixed(Number(fixed(value, some)) * Number(fixed(weight, some)), digits) === fixed(product, digits);
  let some = FEWEST;
  while (some < digits + 6 && !gives(some)) some++;
  return some;
}
