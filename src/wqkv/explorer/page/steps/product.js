// A vector and the matrices that it is multiplied by: the order of the rows, the results, the pictures.

import { fixed, short } from "../parts/format.js";
import { endOfScale, extremesOf, heatPicture } from "../parts/heat.js";
import { isWhole } from "../reading/matrices.js";
import { t } from "../words/words.js";
import { orderOf, timesMatrix } from "./terms.js";

/** @import { Matrix } from "../reading/matrices.js" */
/** @import { Term } from "./terms.js" */

/**
 * @typedef {object} Factor a vector, and the matrices that it is multiplied by
 * @property {string} name "x"
 * @property {number[]} values
 * @property {Product[]} products
 *
 * @typedef {object} Product
 * @property {Matrix} matrix
 * @property {string} result what the product is called: "q"
 * @property {(number | null)[] | null} bias
 * @property {(number | null)[] | null} known the results of a matrix that is a picture
 * @property {string} says
 *
 * @typedef {Product & { factor: Factor, results: (number | null)[] }} Plate
 *
 * @typedef {object} Arranged how the rows stand, and what that makes of the pictures
 * @property {Map<Factor, number[]>} orders of the rows
 * @property {boolean} times whether a cell is x times the number of the matrix
 * @property {number} top the end of the scale of all cells
 * @property {ArrayLike<number>[]} numbers of each plate as they are drawn, row by row
 */

/**
 * The products of all vectors with their results: numbers, or null where they are not known.
 *
 * @param {Factor[]} factors
 * @returns {Plate[]}
 */
export function platesOf(factors) {
  return factors.flatMap(factor => factor.products.map(product => ({ ...product, factor, results: resultsOf(product, factor) })));
}

/**
 * @param {Product} product
 * @param {Factor} factor
 */
function resultsOf({ matrix, bias, known }, factor) {
  if (isWhole(matrix) || (matrix.per === 1 && !known)) return timesMatrix(factor.values, matrix, bias);
  return Array.from({ length: matrix.columns }, (_, c) => known?.[c] ?? null);
}

/**
 * What the number of a column is called: q[29], or q[29] before RoPE.
 *
 * @param {Product} product
 * @param {number} c
 */
export function resultName({ result, matrix }, c) {
  const [what] = matrix.between,
    name = `${result}[${c}]`;
  return what ? t("beforeThat", { result: name, what: what === "RoPE" ? what : t(`between_${what}`) }) : name;
}

/**
 * @param {Plate[]} plates
 * @param {{ largest: boolean, times: boolean }} look
 * @returns {Arranged}
 */
export function arranged(plates, { largest, times }) {
  const orders = new Map(plates.map(({ factor }) => [factor, orderOf(factor.values, largest)]));
  const numbers = plates.map(plate => {
    const { matrix, factor } = plate,
      order = /** @type {number[]} */ (orders.get(factor));
    if (!isWhole(matrix)) return matrix.numbers; // a picture, in the order that is stored
    return Float32Array.from({ length: matrix.rows * matrix.columns }, (_, at) => {
      const r = order[Math.floor(at / matrix.columns)];
      return matrix.numbers[r * matrix.columns + (at % matrix.columns)] * (times ? factor.values[r] : 1);
    });
  });
  return { orders, times, numbers, top: endOfScale(...numbers) };
}

/**
 * The picture of a plate, in which no number that is far from 0 is lost where rows are thinner than
 * pixels: `per` rows are drawn as the extremes of their columns.
 *
 * @param {Plate} plate
 * @param {ArrayLike<number>} numbers as they are drawn
 * @param {number} top
 * @param {number} pixels that the rows have
 */
export function pictureOf({ matrix: { columns, per } }, numbers, top, pixels) {
  const together = Math.max(1, Math.floor(numbers.length / columns / pixels));
  return { canvas: heatPicture(extremesOf(numbers, columns, together), columns, top), per: together * per };
}

/**
 * The canvas of a matrix: a slider over its columns, which says what is seen.
 *
 * @param {Plate} plate
 */
export function plateAttributes({ matrix: { name, rows, columns, numbers }, result }) {
  const low = numbers.reduce((least, number) => Math.min(least, number), 0),
    high = numbers.reduce((most, number) => Math.max(most, number), 0);
  return {
    class: "plate",
    role: "slider",
    tabindex: 0,
    "data-key": `plate-${name}`,
    "aria-label": t("plateSays", { name, rows, columns, low: short(low), high: short(high), result }),
    "aria-valuemin": 0,
    "aria-valuemax": columns - 1,
    "aria-valuenow": 0,
  };
}

/**
 * @param {Term} term
 * @param {Plate} plate
 * @param {number} c
 */
export function termSays({ row, value, weight, product }, { factor, matrix: { name } }, c) {
  const [a, b, ab] = [value, weight, product].map(one => fixed(one, 3));
  return `${factor.name}[${row}] × ${name}[${row}, ${c}] = ${a} × ${b} = ${ab}`;
}
