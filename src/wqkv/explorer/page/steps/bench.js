// A vector times a matrix, to look into: heat maps beside the vector, one column lit and worked out.

import { h } from "../parts/dom.js";
import { clamp, fixed, short } from "../parts/format.js";
import { endOfScale, extremesOf, heatPicture } from "../parts/heat.js";
import { columnOf } from "../reading/matrices.js";
import { go, state } from "../reading/state.js";
import { t } from "../words/words.js";
import { resultName, worked } from "./column.js";
import { drawPlate, drawRows, fitting, rowsHeight } from "./plates.js";
import { orderOf, termsOf, timesMatrix } from "./terms.js";

/** @import { Matrix } from "../reading/matrices.js" */
/** @import { Lit, Shown } from "./plates.js" */

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
 * @property {(number | null)[] | null} known the results, where the page cannot compute them
 * @property {string} says
 *
 * @typedef {Product & {
 *   factor: Factor, canvas: HTMLCanvasElement, results: (number | null)[], picture: HTMLCanvasElement | null, per: number,
 * }} Plate
 *
 * @typedef {Lit & { plate: number }} Spot
 */

/**
 * @param {Factor[]} factors
 * @returns {HTMLElement}
 */
export function bench(factors) {
  const products = factors.flatMap(factor => factor.products.map(product => ({ ...product, factor }))),
    whole = products.every(product => product.matrix.per === 1), // else they are pictures in stored order
    plates = /** @type {Plate[]} */ (products.map(product => ({ ...product, canvas: h("canvas", {}), picture: null, per: 1, results: resultsOf(product) }))),
    topResult = Math.max(...plates.flatMap(plate => plate.results.map(value => Math.abs(value ?? 0)))) || 1,
    look = { largest: whole && state.order !== "stored", times: state.times === "1", digits: false, r0: 0, c0: 0 };
  /** @type {number[][]} */
  let orders = [];
  let top = 1;
  /** @type {Spot} */
  let kept = spotOf(state.lit, plates),
    spot = kept; // what is lit now: what was chosen, or what the pointer is at
  const vectors = factors.map(() => h("canvas", { role: "img" })),
    legend = h("p", { class: "note heatlegend" }),
    said = h("output", { class: "note" }),
    sheet = worked();

  const factorOf = plate => factors.indexOf(plate.factor);
  const cellOf = (plate, row, c) => {
    const r = orders[factorOf(plate)][row];
    return plate.matrix.numbers[r * plate.matrix.columns + c] * (look.times ? plate.factor.values[r] : 1);
  };

  // How the matrices are shown changes: their order, their scale, and with them their pictures.
  function prepare() {
    orders = factors.map(factor => orderOf(factor.values, look.largest));
    const ordered = plates.map(plate => {
      const { matrix } = plate;
      if (matrix.per > 1) return matrix.numbers;
      const found = new Float32Array(matrix.numbers.length);
      for (let r = 0; r < matrix.rows; r++)
        for (let c = 0; c < matrix.columns; c++) found[r * matrix.columns + c] = cellOf(plate, r, c);
      return found;
    });
    top = endOfScale(...ordered);
    plates.forEach((plate, i) => {
      const pixels = Math.max(1, rowsHeight(plate.canvas) * Math.min(devicePixelRatio || 1, 3)),
        per = Math.max(1, Math.floor(plate.matrix.rows / plate.matrix.per / pixels));
      plate.per = per * plate.matrix.per;
      plate.picture = heatPicture(extremesOf(ordered[i], plate.matrix.columns, per), plate.matrix.columns, top);
    });
    tellLegend();
  }

  /** @param {Plate} plate */
  function shownOf(plate) {
    const { rows, columns } = plate.matrix;
    if (!look.digits) return { r0: 0, rows, c0: 0, columns, digits: false };
    const fit = fitting(plate.canvas),
      [wide, high] = [Math.min(fit.columns, columns), Math.min(fit.rows, rows)];
    return { r0: clamp(look.r0, 0, rows - high), rows: high, c0: clamp(look.c0, 0, columns - wide), columns: wide, digits: true };
  }

  function draw() {
    if (!rowsHeight(plates[0].canvas) || rowsHeight(plates[0].canvas) < 20) return; // not laid out yet
    if (!plates[0].picture) prepare();
    plates.forEach((plate, i) => {
      const { canvas, picture, results } = plate;
      const lit = i === spot.plate ? spot : null,
        label = lit ? sheet.label : "";
      if (picture) drawPlate(canvas, { picture, cell: (row, c) => cellOf(plate, row, c), top, results, topResult, shown: shownOf(plate), lit: lit ?? (spot.row === null ? null : { column: -1, row: factorOf(plate) === factorOf(plates[spot.plate]) ? spot.row : null }), label });
    });
    factors.forEach((factor, f) => {
      const order = orders[f];
      drawRows(vectors[f], {
        values: row => factor.values[order[row]],
        top: Math.max(...factor.values.map(Math.abs)) || 1,
        shown: shownOf(plates[plates.findIndex(plate => plate.factor === factor)]),
        row: f === factorOf(plates[spot.plate]) ? spot.row : null,
        names: row => String(order[row]),
      });
    });
    sheet.draw(shownOf(plates[spot.plate]), spot.row);
  }

  // Lights a place: works its column out, and says it.
  /** @param {Spot} to */
  async function light(to) {
    spot = to;
    const plate = plates[to.plate],
      { matrix, factor } = plate,
      found = columnOf(matrix, to.column),
      column = found instanceof Float32Array ? found : await found;
    if (spot !== to) return; // another one is lit by now
    const terms = termsOf(factor.values, column, orders[factorOf(plate)]);
    sheet.tell({ plate, terms, column: to.column });
    plate.results[to.column] ??= sheet.value;
    plates.forEach((one, i) => {
      const { canvas, matrix: { name, columns } } = one,
        at = i === to.plate ? to.column : (lastColumn.get(i) ?? 0);
      canvas.setAttribute("aria-valuenow", String(at));
      canvas.setAttribute("aria-valuetext", i === to.plate ? t("columnIs", { name, c: at, result: resultName(one, at), value: sheet.label }) : t("columnAt", { name, c: at }));
      canvas.setAttribute("aria-valuemax", String(columns - 1));
    });
    lastColumn.set(to.plate, to.column);
    said.textContent = to.row === null ? t("pointColumn") : rowSays(terms[to.row], factor.name, matrix.name, to.column);
    draw();
  }
  const lastColumn = new Map();

  function keep(to) {
    kept = to;
    if (look.digits) follow(to);
    go({ lit: `${plates[to.plate].matrix.name}.${to.column}` }, true);
    return light(to);
  }

  // Brings the lit place into what is seen.
  function follow({ plate, column, row }) {
    const { r0, rows, c0, columns } = shownOf(plates[plate]),
      into = (first, count, at) => (at < first ? at : at >= first + count ? at - count + 1 : first);
    look.c0 = into(c0, columns, column);
    if (row !== null) look.r0 = into(r0, rows, row);
  }

  // The place under the pointer.
  function spotAt(event, i) {
    const canvas = plates[i].canvas,
      box = canvas.getBoundingClientRect(),
      { r0, rows, c0, columns } = shownOf(plates[i]),
      y = event.clientY - box.top,
      high = rowsHeight(canvas),
      within = (share, first, count) => first + clamp(Math.floor(share * count), 0, count - 1);
    return {
      plate: i,
      column: within((event.clientX - box.left) / box.width, c0, columns),
      row: y < high && plates[i].matrix.per === 1 ? within(y / high, r0, rows) : null,
    };
  }

  function zoom(digits, to = kept) {
    look.digits = digits;
    root.classList.toggle("numbers", digits);
    if (digits) {
      const fit = fitting(plates[to.plate].canvas);
      look.r0 = Math.max(0, (to.row ?? 0) - Math.floor(fit.rows / 2));
      look.c0 = Math.max(0, to.column - Math.floor(fit.columns / 2));
    }
    press();
    draw();
  }

  function onKey(event, i) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { rows, columns, per } = plates[i].matrix,
      column = kept.plate === i ? kept.column : (lastColumn.get(i) ?? 0),
      at = { plate: i, column, row: kept.row },
      last = columns - 1;
    const move = {
      ArrowLeft: { column: clamp(column - 1, 0, last) },
      ArrowRight: { column: clamp(column + 1, 0, last) },
      Home: { column: 0 },
      End: { column: last },
      ArrowUp: { row: per > 1 || !at.row ? null : at.row - 1 },
      ArrowDown: { row: per > 1 ? null : clamp((at.row ?? -1) + 1, 0, rows - 1) },
      PageUp: { row: per > 1 || at.row === null ? null : clamp(at.row - 10, 0, rows - 1) },
      PageDown: { row: per > 1 ? null : clamp((at.row ?? -1) + 10, 0, rows - 1) },
    }[event.key];
    if (move) keep({ ...at, ...move });
    else if ((event.key === "Enter" || event.key === " ") && whole) zoom(!look.digits, { ...at, row: at.row ?? 0 });
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  plates.forEach(({ canvas, matrix, result }, i) => {
    Object.entries({
      role: "slider",
      tabindex: "0",
      class: "plate",
      "data-key": `plate-${matrix.name}`,
      "aria-valuemin": "0",
      "aria-label": t("plateSays", { name: matrix.name, rows: matrix.rows, columns: matrix.columns, low: short(least(matrix.numbers, -1)), high: short(least(matrix.numbers, 1)), result }),
    }).forEach(([name, value]) => canvas.setAttribute(name, value));
    canvas.addEventListener("pointermove", event => !event.buttons && light(spotAt(event, i)));
    canvas.addEventListener("pointerleave", () => light(kept));
    canvas.addEventListener("click", event => keep(spotAt(event, i)));
    canvas.addEventListener("dblclick", event => whole && zoom(!look.digits, spotAt(event, i)));
    canvas.addEventListener("focus", () => kept.plate !== i && keep({ plate: i, column: lastColumn.get(i) ?? 0, row: kept.row }));
    canvas.addEventListener("keydown", event => onKey(event, i));
    canvas.addEventListener("wheel", event => look.digits && pan(event, i), { passive: false });
  });

  // In single numbers the wheel moves the rows and columns that are seen, until their end.
  function pan(event, i) {
    const before = shownOf(plates[i]);
    look.r0 = before.r0 + Math.sign(event.deltaY) * 3;
    look.c0 = before.c0 + Math.sign(event.deltaX);
    const after = shownOf(plates[i]);
    [look.r0, look.c0] = [after.r0, after.c0];
    if (after.r0 === before.r0 && after.c0 === before.c0) return;
    event.preventDefault();
    light(spotAt(event, i));
  }

  function tellLegend() {
    const wide = heatPicture(Array.from({ length: 129 }, (_, i) => i / 64 - 1), 129, 1),
      per = plates[0].per,
      end = short(top);
    wide.className = "ramp";
    legend.replaceChildren(
      t(look.times ? "eachProduct" : "eachNumber"), " ≤ -", end, wide, `≥ ${end}. `, t(look.largest ? "rowsByX" : "rowsStored", { x: factors[0].name }), per > 1 ? ` ${t("extremes", { per })}` : "",
    );
  }

  const pairs = /** @type {const} */ ([["times", "asMatrix", "asProducts"], ["largest", "asStored", "largestFirst"], ["digits", "allRows", "singleNumbers"]]);
  const switches = pairs.map(([name, off, on]) => {
    const made = [off, on].map((text, i) =>
      h("button", { "data-key": `bench-${name}-${i}`, disabled: !whole, title: whole ? null : t("tooLarge"), onclick: () => choose(name, i === 1) }, t(text, { x: factors[0].name })),
    );
    return { name, made, element: h("span", { class: "segmented", role: "group" }, made) };
  });

  function press() {
    for (const { name, made } of switches) made.forEach((button, i) => button.setAttribute("aria-pressed", String(look[name] === (i === 1))));
  }

  function choose(name, on) {
    if (name === "digits") return zoom(on);
    const row = spot.row === null ? null : orders[factorOf(plates[kept.plate])][spot.row];
    look[name] = on;
    prepare();
    kept = { ...kept, row: row === null ? null : orders[factorOf(plates[kept.plate])].indexOf(row) };
    go({ order: look.largest ? null : "stored", times: look.times ? "1" : null }, true);
    press();
    light(kept);
  }

  const root = h(
    "div",
    { class: `bench ${factors[0].values.length <= 64 ? "low" : ""}` },
    h(
      "div",
      {},
      h("div", { class: `mats m${factors.length + plates.length}` }, factors.map((factor, f) => [
        column(factor.name, `±${short(Math.max(...factor.values.map(Math.abs)), 2)}`, vectors[f], h("p", { class: "note plus" }, f ? null : [plates.some(plate => plate.bias) ? "+ b =" : "=", h("br"), `±${short(topResult, 2)}`]), "vectorcolumn"),
        plates.filter(plate => plate.factor === factor).map(plate => column(plate.matrix.name, `${plate.matrix.rows} × ${plate.matrix.columns}`, plate.canvas, h("p", { class: "platesays" }, plate.says))),
      ])),
      h("div", { class: "benchfoot" }, h("p", { class: "controls" }, switches.map(one => one.element)), legend),
      said,
    ),
    sheet.element,
  );
  factors.forEach((factor, f) => vectors[f].setAttribute("aria-label", t("vectorSays", { name: factor.name, n: factor.values.length })));
  orders = factors.map(factor => orderOf(factor.values, look.largest));
  press();
  light(kept);
  new ResizeObserver(() => {
    if (plates[0].picture) prepare();
    draw();
  }).observe(root);
  return root;
}

function column(name, size, canvas, under, kind = "") {
  return h("div", { class: `benchcolumn ${kind}` }, h("h4", {}, name, h("small", {}, size)), canvas, under);
}

/** @param {Product & { factor: Factor }} product */
function resultsOf({ matrix, factor, bias, known }) {
  return matrix.per === 1 ? timesMatrix(factor.values, matrix, bias) : [...(known ?? Array.from({ length: matrix.columns }, () => null))];
}

/**
 * The place that the address names; else the column that gives the largest number of the first matrix.
 *
 * @param {string | undefined} lit
 * @param {Plate[]} plates
 * @returns {Spot}
 */
function spotOf(lit, plates) {
  const [name, at] = (lit ?? "").split("."),
    plate = plates.findIndex(one => one.matrix.name === name);
  if (plate >= 0 && /^\d+$/.test(at ?? "") && Number(at) < plates[plate].matrix.columns) return { plate, column: Number(at), row: null };
  const sizes = plates[0].results.map(value => Math.abs(value ?? 0));
  return { plate: 0, column: sizes.indexOf(Math.max(...sizes)), row: null };
}

function rowSays({ row, value, weight, product }, factor, name, c) {
  return `${factor}[${row}] × ${name}[${row}, ${c}] = ${fixed(value, 3)} × ${fixed(weight, 3)} = ${fixed(product, 3)}`;
}

// The least number, or with 1 the largest: a matrix has too many to be spread into Math.min.
function least(numbers, sign) {
  let found = numbers[0] ?? 0;
  for (const number of numbers) if (sign * number > sign * found) found = number;
  return found;
}
