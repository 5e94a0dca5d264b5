// All heads of the model as a grid of layers and heads, colored by one statistic; one head enlarged.

import { whenAnswered } from "../frame/awaited.js";
import { foot } from "../frame/foot.js";
import { paint, ramp } from "../parts/color.js";
import { h, walk } from "../parts/dom.js";
import { drawThumbnail, topOf } from "../parts/thumbnail.js";
import { askFor, hasStatistic, headGroups, layerNumbers, opened } from "../reading/opened.js";
import { go, state } from "../reading/state.js";
import { lang, t } from "../words/words.js";
import { large, numbersOf, ownScales, sharing } from "./head.js";
import { mapLegend, mapsPicture, oneTop } from "./gridmaps.js";
import { brief, gridPicture, labelName, legend, share, statText } from "./statistic.js";

/** @import { GridAnswer, ThumbnailAnswer } from "../types" */

const STATISTICS = ["maps", "entropy", "received", "distance", "sink", "label"];
const ENLARGED = 64,
  SMALL = 24;

export async function gridView() {
  const { layer, head, stat } = state,
    little = stat === "maps",
    statistic = little ? "entropy" : stat;
  const grid = askFor("grid", { statistic, ...(statistic === "label" ? { lang: lang() } : {}) }),
    thumbnail = askFor("thumbnail", { layer, head, size: ENLARGED });
  const maps = little ? Promise.all(layerNumbers().map(l => askFor("thumbnail", { layer: l, size: SMALL }))) : null;
  return [
    h(
      "div",
      { class: "controls" },
      h(
        "span",
        { class: "segmented", role: "group", "aria-label": t("colorBy") },
        STATISTICS.filter(hasStatistic).map(name =>
          h(
            "button",
            {
              "data-key": `stat-${name}`,
              "aria-pressed": String(stat === name),
              onclick: () => go({ stat: name }),
            },
            t(`stat_${name}`),
          ),
        ),
      ),
      little &&
        h(
          "label",
          { class: "check" },
          h("input", { type: "checkbox", "data-key": "check-faint", checked: ownScales(), onchange: event => go({ faint: event.target.checked ? "1" : null }) }),
          t("faint"),
        ),
    ),
    h("p", { class: "note" }, t(`says_${stat}`)),
    h(
      "div",
      { class: "gridsplit" },
      whenAnswered(Promise.all([grid, maps]), ([found, drawn]) => [
        drawn ? [mapLegend(drawn), table(found, drawn)] : [table(found, null), legend(found)],
      ]),
      h(
        "aside",
        { class: "enlarged" },
        h("h3", {}, t("atBoth", { layer, head })),
        whenAnswered(grid, numbersOf),
        whenAnswered(thumbnail, large),
        sharing(),
      ),
    ),
    whenAnswered(Promise.all([grid, maps, thumbnail]), ([found, drawn, small]) =>
      foot({
        name: `heads-${stat}`,
        python: drawn ? small.python : found.python,
        data: drawn ? drawn.map(one => one.heads) : found,
        picture: () => (drawn ? mapsPicture(drawn) : gridPicture(found, stat)),
        token: null,
      }),
    ),
  ];
}

/**
 * @param {GridAnswer} grid
 * @param {ThumbnailAnswer[] | null} maps
 */
function table(grid, maps) {
  const cells = [],
    top = maps && !ownScales() ? oneTop(maps) : null;
  const mapOf = (l, j) => {
    const values = maps?.[l].heads?.[j];
    return values && drawThumbnail(values, top ?? topOf(values));
  };
  return h(
    "div",
    {
      class: maps ? "heads maps" : "heads",
      role: "grid",
      "aria-label": t("gridOf", { statistic: t(`stat_${state.stat}`) }),
      "data-scroll": "heads",
      onkeydown: event => walk(event, cells, opened.model.n_head),
    },
    headNumbers(),
    layerNumbers().map(l => layerRow(l, grid, mapOf, cells)),
  );
}

function headNumbers() {
  return h(
    "div",
    { class: "headrow", "aria-hidden": "true" },
    h("span", { class: "lname" }),
    headGroups().map(heads => together(heads.map(j => h("span", { class: "hname" }, j)))),
  );
}

/**
 * @param {number} l
 * @param {GridAnswer} grid
 * @param {(l: number, j: number) => HTMLCanvasElement | undefined} mapOf
 * @param {HTMLElement[]} cells
 */
function layerRow(l, grid, mapOf, cells) {
  return h(
    "div",
    { class: "headrow", role: "row" },
    h("span", { class: "lname", role: "rowheader" }, l),
    headGroups().map(heads =>
      together(
        heads.map(j => {
          const cell = headCell(l, j, grid, mapOf(l, j));
          cells.push(cell);
          return cell;
        }),
      ),
    ),
  );
}

// The heads of one group, as wide as they are many.
function together(parts) {
  const group_ = h("span", { class: "group" }, parts);
  Object.assign(group_.style, { flexGrow: parts.length, maxWidth: `${parts.length * 4.8}rem` });
  return group_;
}

/**
 * @param {number} l
 * @param {number} j
 * @param {GridAnswer} grid
 * @param {HTMLCanvasElement | undefined} map
 */
function headCell(l, j, grid, map) {
  const value = grid.values[l][j],
    name = grid.labels?.[l]?.[j],
    chosen = l === state.layer && j === state.head;
  const says = `${t("atBoth", { layer: l, head: j })}: ${t(`stat_${grid.statistic}`)} ${statText(grid, value)}${name ? `, ${labelName(grid, name).name}` : ""}`;
  const cell = h(
    "button",
    {
      class: "hcell",
      role: "gridcell",
      "data-key": `h-${l}-${j}`,
      "aria-selected": String(chosen),
      tabindex: chosen ? 0 : -1,
      "aria-label": says,
      title: says,
      onclick: () => go({ layer: l, head: j, other: null }),
    },
    map ?? (name ? labelName(grid, name).brief : value === null ? "" : brief(value)),
  );
  if (!map && value !== null) paint(cell, ramp(share(grid, value)));
  return cell;
}
