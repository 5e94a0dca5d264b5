// One number of a product, worked out: a vector times a column, term by term, and the digits to show.

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

const LEAST = 3; // digits behind the point
const MOST = 9;

/**
 * The fewest digits at which the shown parts add up to the shown sum.
 *
 * @param {number[]} parts
 * @param {number} sum
 */
export function digitsThatAdd(parts, sum) {
  const shown = (/** @type {number} */ value, /** @type {number} */ digits) => Math.round(Number(fixed(value, digits)) * 10 ** digits);
  let digits = LEAST;
  while (digits < MOST && parts.reduce((all, part) => all + shown(part, digits), 0) !== shown(sum, digits)) digits++;
  return digits;
}

/**
 * The fewest digits at which two shown factors give the shown product.
 *
 * @param {Term} term
 * @param {number} digits of the product
 */
export function digitsOfFactors({ value, weight, product }, digits) {
  let more = LEAST;
  while (more < MOST && fixed(Number(fixed(value, more)) * Number(fixed(weight, more)), digits) !== fixed(product, digits)) more++;
  return more;
}
