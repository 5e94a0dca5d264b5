// All heads of the model as a grid of layers and heads, colored by one statistic; one head enlarged.

import { whenAnswered } from "../frame/awaited.js";
import { foot } from "../frame/foot.js";
import { paint, ramp } from "../parts/color.js";
import { h, walk } from "../parts/dom.js";
import { drawThumbnail } from "../parts/thumbnail.js";
import { askFor, hasStatistic, headGroups, layerNumbers, opened } from "../reading/opened.js";
import { go, state } from "../reading/state.js";
import { lang, t } from "../words/words.js";
import { large, numbersOf, sharing } from "./head.js";
import { brief, gridPicture, labelName, legend, share, statText } from "./statistic.js";

/** @import { GridAnswer, ThumbnailAnswer } from "../types" */

const STATISTICS = ["entropy", "received", "distance", "sink", "label"];
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
        [...STATISTICS, "maps"].filter(hasStatistic).map(name =>
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
    ),
    h("p", { class: "note" }, t(`says_${stat}`)),
    h(
      "div",
      { class: "gridsplit" },
      whenAnswered(Promise.all([grid, maps]), ([found, drawn]) => [
        table(found, drawn, little),
        legend(found, stat),
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
    whenAnswered(Promise.all([grid, thumbnail]), ([found, small]) =>
      foot({
        name: `heads-${stat}`,
        python: little ? small.python : found.python,
        data: found,
        picture: () => gridPicture(found, stat),
        token: null,
      }),
    ),
  ];
}

/**
 * @param {GridAnswer} grid
 * @param {ThumbnailAnswer[] | null} maps
 * @param {boolean} little
 */
function table(grid, maps, little) {
  const cells = [];
  return h(
    "div",
    {
      class: little ? "heads maps" : "heads",
      role: "grid",
      "aria-label": t("gridOf", { statistic: t(`stat_${state.stat}`) }),
      "data-scroll": "heads",
      onkeydown: event => walk(event, cells, opened.model.n_head),
    },
    headNumbers(),
    layerNumbers().map(l => layerRow(l, grid, maps?.[l], cells)),
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
 * @param {ThumbnailAnswer | undefined} thumbnails
 * @param {HTMLElement[]} cells
 */
function layerRow(l, grid, thumbnails, cells) {
  return h(
    "div",
    { class: "headrow", role: "row" },
    h("span", { class: "lname", role: "rowheader" }, l),
    headGroups().map(heads =>
      together(
        heads.map(j => {
          const cell = headCell(l, j, grid, thumbnails?.heads?.[j]);
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
 * @param {ThumbnailAnswer["values"]} values
 */
function headCell(l, j, grid, values) {
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
    values ? null : name ? labelName(grid, name).brief : value === null ? "" : brief(value),
  );
  if (values) cell.append(drawThumbnail(values));
  else if (value !== null) paint(cell, ramp(share(grid, value)));
  return cell;
}
