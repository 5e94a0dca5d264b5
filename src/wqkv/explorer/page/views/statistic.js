// One number per head: as text, as a color, as a scale with its ends, and as a picture of all heads.

import { css, inkOn, ramp } from "../parts/color.js";
import { h, svg } from "../parts/dom.js";
import { fixed, number, short } from "../parts/format.js";
import { sheet, svgText } from "../parts/picture.js";
import { layerNumbers, opened } from "../reading/opened.js";
import { t } from "../words/words.js";

/** @import { GridAnswer } from "../types" */

export function brief(value) {
  return Math.abs(value) >= 10
    ? String(Math.round(value))
    : fixed(value, 1).replace(/\.0$/, "").replace(/^0\./, ".");
}

/**
 * @param {GridAnswer} grid
 * @param {number} value
 */
export function share(grid, value) {
  return (value - grid.low) / (grid.high - grid.low || 1);
}

/**
 * @param {GridAnswer} grid
 * @param {number | null} value
 */
export function statText(grid, value) {
  return value === null ? "-" : `${short(value, 3)} ${t(`unit_${grid.unit}`, {}, grid.unit)}`.trim();
}

/**
 * The name of a label, and its form of at most four letters.
 *
 * @param {GridAnswer} grid
 * @param {string} label
 */
export function labelName(grid, label) {
  return grid.names?.[label] ?? { name: label, brief: label };
}

/**
 * From low to high; of labels, how many heads have each.
 *
 * @param {GridAnswer} grid
 */
export function legend(grid) {
  const steps = Array.from({ length: 9 }, (_, i) => i / 8);
  const bar = h(
    "p",
    { class: "scale" },
    h("span", {}, `${short(grid.low, 3)}`),
    steps.map(at => {
      const swatch = h("b", {}, "");
      swatch.style.backgroundColor = css(ramp(at));
      return swatch;
    }),
    h("span", {}, `${short(grid.high, 3)} ${t(`unit_${grid.unit}`, {}, grid.unit)}`),
  );
  if (!grid.labels) return bar;
  const counts = new Map();
  for (const name of grid.labels.flat()) counts.set(name, (counts.get(name) ?? 0) + 1);
  return [
    bar,
    grid.source && h("p", { class: "note" }, t("measuredOn", { source: grid.source })),
    h(
      "dl",
      { class: "labels" },
      [...counts]
        .sort((a, b) => b[1] - a[1])
        .map(([name, n]) =>
          h("div", {}, h("dt", {}, labelName(grid, name).brief), h("dd", {}, `${labelName(grid, name).name} (${n})`)),
        ),
    ),
  ];
}

/**
 * @param {GridAnswer} grid
 * @param {string} stat
 */
export function gridPicture(grid, stat) {
  const side = 34,
    left = 60,
    top = 60,
    { n_layer, n_head } = opened.model,
    width = Math.max(480, left + n_head * side + 20);
  const cells = grid.values.flatMap((row, l) =>
    row.map((value, j) => {
      const color = ramp(value === null ? 0 : share(grid, value)),
        text = grid.labels ? labelName(grid, grid.labels[l][j]).brief : value === null ? "" : brief(value);
      const shownText = svgText(text, left + j * side + side / 2, top + l * side + side / 2 + 4, "middle");
      shownText.setAttribute("fill", inkOn(color));
      shownText.setAttribute("font-size", "11");
      return [
        svg("rect", {
          x: left + j * side,
          y: top + l * side,
          width: side - 2,
          height: side - 2,
          fill: css(color),
        }),
        shownText,
      ];
    }),
  );
  const names = [
    ...layerNumbers().map(l => svgText(String(l), left - 10, top + l * side + side / 2 + 4, "end", "--soft")),
    ...Array.from({ length: n_head }, (_, j) =>
      svgText(String(j), left + j * side + side / 2, top - 8, "middle", "--soft"),
    ),
  ];
  return sheet(
    `${opened.model.name}: ${t(`stat_${stat}`)}, ${number(grid.low)} - ${number(grid.high)} ${t(`unit_${grid.unit}`, {}, grid.unit)}`,
    width,
    top + n_layer * side + 20,
    cells,
    names,
  );
}
