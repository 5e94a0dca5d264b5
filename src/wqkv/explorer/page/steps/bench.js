// A vector times a matrix, to look into: heat maps beside the vector, one column lit and worked out.

import { h } from "../parts/dom.js";
import { clamp, fixed, short } from "../parts/format.js";
import { heatPicture } from "../parts/heat.js";
import { largestSize } from "../parts/vector.js";
import { columnOf, isWhole } from "../reading/matrices.js";
import { recorded } from "../reading/server.js";
import { go, state } from "../reading/state.js";
import { t } from "../words/words.js";
import { workedColumn } from "./column.js";
import { drawPlate, drawRows, fitting, rowsHeight } from "./plates.js";
import { arranged, pictureOf, plateAttributes, platesOf, resultName, termSays } from "./product.js";
import { broughtIn, movedBy, seenOn, spotOf } from "./spot.js";
import { termsOf } from "./terms.js";

/** @import { Factor, Plate } from "./product.js" */
/** @import { Spot } from "./spot.js" */

/** What can be switched: a name, and the texts of its two states. */
const SWITCHES = /** @type {const} */ ([
  ["times", "asMatrix", "asProducts"],
  ["largest", "asStored", "largestFirst"],
  ["digits", "allRows", "singleNumbers"],
]);

/** @param {Factor[]} factors */
export function bench(factors) {
  const plates = platesOf(factors),
    topResult = largestSize(plates.flatMap(plate => plate.results)),
    whole = plates.every(plate => isWhole(plate.matrix)), // else there are pictures, as they are stored
    look = { largest: whole && state.order !== "stored", times: whole && state.times === "1", digits: false, r0: 0, c0: 0 };
  const steps = Math.max(...plates.map(plate => plate.matrix.step ?? 0)); // of pictures in a saved page
  const canvases = plates.map(plate => h("canvas", plateAttributes(plate))),
    vectors = factors.map(({ name, values }) =>
      h("canvas", { role: "img", "aria-label": t("vectorSays", { name, n: values.length }) }),
    ),
    legend = h("p", { class: "note heatlegend" }),
    said = h("output", { class: "note" }),
    sheet = workedColumn();
  let arrangement = arranged(plates, look),
    pictures = /** @type {ReturnType<typeof pictureOf>[]} */ ([]); // once there is a place for them
  let kept = spotOf(state.lit, plates), // what was chosen
    spot = kept; // what is lit: that, or what the pointer is at
  const columns = plates.map((_, i) => (i === kept.plate ? kept.column : 0)); // the last one of each

  const orderFor = i => /** @type {number[]} */ (arrangement.orders.get(plates[i].factor));
  const seenIn = i => seenOn(plates[i], canvases[i], look);

  // Moves what is seen of a plate, as far as it goes.
  function see(r0, c0, i) {
    Object.assign(look, { r0, c0 });
    const { r0: row, c0: column } = seenIn(i);
    Object.assign(look, { r0: row, c0: column });
  }

  // The pictures for the size that they have now.
  function paint() {
    pictures = plates.map((plate, i) =>
      pictureOf(plate, arrangement.numbers[i], arrangement.top, rowsHeight(canvases[i]) * Math.min(devicePixelRatio, 3)),
    );
    legend.replaceChildren(...legendOf(arrangement, Math.max(...pictures.map(one => one.per)), look.largest, factors[0].name, steps));
  }

  function draw() {
    if (rowsHeight(canvases[0]) <= 0) return; // there is no place yet
    if (!pictures.length) paint();
    const lit = plates[spot.plate];
    plates.forEach((plate, i) =>
      drawPlate(canvases[i], {
        picture: pictures[i].canvas,
        cell: (row, c) => arrangement.numbers[i][row * plate.matrix.columns + c],
        top: arrangement.top,
        results: plate.results,
        topResult,
        shown: seenIn(i),
        column: plate === lit ? spot.column : null,
        row: plate.factor === lit.factor ? spot.row : null,
        label: sheet.label,
      }),
    );
    factors.forEach((factor, f) => {
      const first = plates.findIndex(plate => plate.factor === factor),
        order = orderFor(first);
      drawRows(vectors[f], {
        values: row => factor.values[order[row]],
        top: largestSize(factor.values),
        shown: seenIn(first),
        row: factor === lit.factor ? spot.row : null,
        names: row => String(order[row]),
      });
    });
    sheet.draw(seenIn(spot.plate), spot.row);
  }

  /**
   * Lights a place: its column is worked out and said.
   *
   * @param {Spot} to
   */
  async function light(to) {
    spot = to;
    const plate = plates[to.plate],
      found = columnOf(plate.matrix, to.column),
      column = found instanceof Float32Array ? found : await found.catch(() => null);
    if (spot !== to) return; // another one is lit by now
    if (!column) {
      const about = plate.results[to.column];
      sheet.leave(about === null ? "" : `${plate.known ? "" : "≈ "}${fixed(about, 3)}`);
      said.textContent = `${columnSays(plate, to.column)}. ${t(recorded ? "pictureAlone" : "gone")}`;
      draw();
      return;
    }
    const terms = termsOf(plate.factor.values, column, orderFor(to.plate));
    const value = sheet.tell(plate, terms, to.column);
    plate.results[to.column] ??= value;
    const canvas = canvases[to.plate];
    canvas.setAttribute("aria-valuenow", String(to.column));
    canvas.setAttribute("aria-valuetext", columnSays(plate, to.column));
    said.textContent = to.row === null ? t("pointColumn") : termSays(terms[to.row], plate, to.column);
    draw();
  }

  /**
   * @param {Plate} plate
   * @param {number} c
   */
  function columnSays(plate, c) {
    return t("columnIs", { name: plate.matrix.name, c, result: resultName(plate, c), value: sheet.label });
  }

  /** @param {Spot} to */
  function keep(to) {
    kept = to;
    columns[to.plate] = to.column;
    const { r0, rows, c0, columns: count } = seenIn(to.plate);
    see(broughtIn(r0, rows, to.row ?? r0), broughtIn(c0, count, to.column), to.plate);
    go({ lit: `${plates[to.plate].matrix.name}.${to.column}` }, true);
    return light(to);
  }

  /**
   * The place under the pointer.
   *
   * @param {MouseEvent} event
   * @param {number} i
   * @returns {Spot}
   */
  function spotAt(event, i) {
    const box = canvases[i].getBoundingClientRect(),
      { r0, rows, c0, columns: count } = seenIn(i),
      down = (event.clientY - box.top) / rowsHeight(canvases[i]),
      within = (share, first, n) => first + clamp(Math.floor(share * n), 0, n - 1);
    return {
      plate: i,
      column: within((event.clientX - box.left) / box.width, c0, count),
      row: down < 1 && whole ? within(down, r0, rows) : null,
    };
  }

  function choose(name, on, to = kept) {
    const place = to.row === null ? null : orderFor(to.plate)[to.row];
    look[name] = on;
    if (name === "digits") {
      root.classList.toggle("numbers", on);
      const fit = fitting(canvases[to.plate]);
      see((to.row ?? 0) - Math.floor(fit.rows / 2), to.column - Math.floor(fit.columns / 2), to.plate);
    } else {
      arrangement = arranged(plates, look);
      pictures = [];
      kept = { ...to, row: place === null ? null : orderFor(to.plate).indexOf(place) }; // the same row of the matrix
      go({ order: look.largest ? null : "stored", times: look.times ? "1" : null }, true);
    }
    press();
    light(kept);
  }

  function onKey(event, i) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    const at = { plate: i, column: columns[i], row: kept.row },
      to = movedBy(event.key, at, plates[i]);
    if (to) keep(to);
    else if ((event.key === "Enter" || event.key === " ") && whole) choose("digits", !look.digits, at);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  // In single numbers the wheel moves what is seen, until its end.
  function onWheel(event, i) {
    if (!look.digits || event.ctrlKey) return;
    const before = seenIn(i);
    see(before.r0 + Math.sign(event.deltaY) * 3, before.c0 + Math.sign(event.deltaX), i);
    if (look.r0 === before.r0 && look.c0 === before.c0) return; // the end: the page scrolls on
    event.preventDefault();
    light(spotAt(event, i));
  }

  // Single numbers are dragged with the pointer; what was dragged is not chosen.
  let dragged = /** @type {{ x: number, y: number, r0: number, c0: number, moved: boolean } | null} */ (null);

  function onMove(event, i) {
    if (!event.buttons || !dragged) return event.pointerType === "mouse" && light(spotAt(event, i));
    const { rows, columns: count } = seenIn(i),
      down = Math.round((event.clientY - dragged.y) / (rowsHeight(canvases[i]) / rows)),
      right = Math.round((event.clientX - dragged.x) / (canvases[i].clientWidth / count));
    dragged.moved ||= down !== 0 || right !== 0;
    see(dragged.r0 - down, dragged.c0 - right, i);
    return draw();
  }

  canvases.forEach((canvas, i) => {
    canvas.addEventListener("pointerdown", event => {
      dragged = look.digits ? { x: event.clientX, y: event.clientY, r0: look.r0, c0: look.c0, moved: false } : null;
    });
    canvas.addEventListener("pointermove", event => onMove(event, i));
    canvas.addEventListener("pointerleave", () => light(kept));
    canvas.addEventListener("click", event => !dragged?.moved && keep(spotAt(event, i)));
    canvas.addEventListener("dblclick", event => whole && choose("digits", !look.digits, spotAt(event, i)));
    canvas.addEventListener("focus", () => {
      if (kept.plate === i || !canvas.matches(":focus-visible")) return; // a pointer chooses by its click
      keep({ plate: i, column: columns[i], row: kept.row });
    });
    canvas.addEventListener("keydown", event => onKey(event, i));
    canvas.addEventListener("wheel", event => onWheel(event, i), { passive: false });
  });

  const switches = SWITCHES.map(([name, ...texts]) => {
    const buttons = texts.map((text, i) => {
      const given = { "data-key": `bench-${name}-${i}`, disabled: !whole, title: whole ? null : t(steps ? "pictureAlone" : "tooLarge") };
      return h("button", { ...given, onclick: () => choose(name, i === 1) }, t(text, { x: factors[0].name }));
    });
    return { name, buttons, group: h("span", { class: "segmented" }, buttons) };
  });

  function press() {
    for (const { name, buttons } of switches)
      buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(look[name] === (i === 1))));
  }

  const begins = plates.some(plate => plate.bias) ? "+ b =" : "=",
    scaleOfResults = h("p", { class: "note plus" }, begins, h("br"), `±${short(topResult, 2)}`);
  const root = h(
    "div",
    { class: factors[0].values.length <= 64 ? "bench low" : "bench" },
    h(
      "div",
      {},
      h(
        "div",
        { class: "mats" },
        factors.map((factor, f) => [
          benchColumn(factor.name, `±${short(largestSize(factor.values), 2)}`, vectors[f], f ? null : scaleOfResults, "vectorcolumn"),
          plates.map(
            ({ factor: own, matrix: { name, rows, columns: count }, says }, i) =>
              own === factor && benchColumn(name, `${rows} × ${count}`, canvases[i], h("p", { class: "platesays" }, says)),
          ),
        ]),
      ),
      h("div", { class: "benchfoot" }, h("p", { class: "controls" }, switches.map(one => one.group)), legend),
      said,
    ),
    sheet.element,
  );
  press();
  light(kept);
  new ResizeObserver(() => {
    pictures = [];
    draw();
  }).observe(root);
  return root;
}

function benchColumn(name, size, canvas, under, kind = "") {
  return h("div", { class: `benchcolumn ${kind}` }, h("h4", {}, name, h("small", {}, size)), canvas, under);
}

function legendOf({ times, top }, per, largest, x, step) {
  const ramp = heatPicture(Array.from({ length: 129 }, (_, i) => i / 64 - 1), 129, 1);
  ramp.className = "ramp";
  return [
    `${t(times ? "eachProduct" : "eachNumber")} ≤ -${short(top)}`,
    ramp,
    `≥ ${short(top)}`,
    h("span", {}, t(largest ? "rowsByX" : "rowsStored", { x })),
    per > 1 ? h("span", {}, t("extremes", { per })) : "",
    step ? h("span", {}, t("inSteps", { step: short(step, 2) })) : "",
  ];
}
