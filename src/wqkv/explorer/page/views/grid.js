// All heads of the model as a grid of layers and heads, colored by one statistic; one head enlarged.

import { whenAnswered } from "../frame/awaited.js";
import { foot } from "../frame/foot.js";
import { css, inkOn, paint, ramp } from "../parts/color.js";
import { h, svg, unbroken, walk } from "../parts/dom.js";
import { clamp, count, fixed, number, short } from "../parts/format.js";
import { sheet, svgText } from "../parts/picture.js";
import { drawThumbnail } from "../parts/thumbnail.js";
import { vector } from "../parts/vector.js";
import { askFor, hasStatistic, keyCount, opened, size } from "../reading/opened.js";
import { go, state } from "../reading/state.js";
import { lang, t } from "../words/words.js";

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

function layerNumbers() {
  return [...Array(opened.model.n_layer).keys()];
}

function groups() {
  const { n_head, n_kv_head } = opened.model,
    per = n_head / n_kv_head;
  return Array.from({ length: n_kv_head }, (_, group) =>
    Array.from({ length: per }, (_, i) => group * per + i),
  );
}

function headNumbers() {
  return h(
    "div",
    { class: "headrow", "aria-hidden": "true" },
    h("span", { class: "lname" }),
    groups().map(heads => together(heads.map(j => h("span", { class: "hname" }, j)))),
  );
}

function layerRow(l, grid, thumbnails, cells) {
  return h(
    "div",
    { class: "headrow", role: "row" },
    h("span", { class: "lname", role: "rowheader" }, l),
    groups().map(heads =>
      together(
        heads.map(j => {
          const cell = headCell(l, j, grid, thumbnails?.heads[j]);
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

function headCell(l, j, grid, values) {
  const value = grid.values[l][j],
    name = grid.labels?.[l]?.[j],
    chosen = l === state.layer && j === state.head;
  const says = `${t("atBoth", { layer: l, head: j })}: ${t(`stat_${grid.statistic}`)} ${statText(grid, value)}${name ? `, ${labelText(name)}` : ""}`;
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
    values ? null : name ? t(`brief_${name}`) : value === null ? "" : brief(value),
  );
  if (values) cell.append(drawThumbnail(values));
  else if (value !== null) paint(cell, ramp(share(grid, value)));
  return cell;
}

function brief(value) {
  return Math.abs(value) >= 10
    ? String(Math.round(value))
    : fixed(value, 1).replace(/\.0$/, "").replace(/^0\./, ".");
}

function share(grid, value) {
  return (value - grid.low) / (grid.high - grid.low || 1);
}

function statText(grid, value) {
  return value === null ? "-" : `${short(value, 3)} ${t(`unit_${grid.unit}`, {}, grid.unit)}`.trim();
}

function labelText(name) {
  return t(`label_${name}`, {}, name);
}

// From low to high; of labels, how many heads have each.
function legend(grid, stat) {
  if (stat === "maps") return h("p", { class: "note" }, t("mapsSay"));
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
    h(
      "dl",
      { class: "labels" },
      [...counts]
        .sort((a, b) => b[1] - a[1])
        .map(([name, n]) =>
          h("div", {}, h("dt", {}, t(`brief_${name}`)), h("dd", {}, `${labelText(name)} (${n})`)),
        ),
    ),
  ];
}

// The chosen head's number, or its label with the evidence.
function numbersOf(grid) {
  const { layer, head } = state,
    value = grid.values[layer][head],
    name = grid.labels?.[layer][head];
  return [
    value !== null &&
      h(
        "p",
        {},
        t("named", { name: name ? t("score") : t(`stat_${grid.statistic}`) }),
        " ",
        h("b", { title: String(value) }, statText(grid, value)),
      ),
    name && h("p", {}, h("b", {}, labelText(name)), " ", unbroken(grid.evidence[layer][head])),
  ];
}

function large({ values }) {
  const [n, m, high, wide] = [size(), keyCount(), values.length, values[0].length],
    facts = { n: count(n), m: count(m), size: high, high, wide },
    means = opened.text.keys ? t("blockMeansBoth", facts) : t("blockMeans", facts),
    box = h("div", { class: "bigmap" }, drawThumbnail(values, t("thumbnailOf", state)));
  box.style.aspectRatio = String(clamp(m / n, 0.5, 2));
  return [
    box,
    h("p", { class: "note" }, n > high || m > wide ? means : t("eachCell")),
    h("p", {}, h("button", { "data-key": "to-map", onclick: () => go({ view: "map" }) }, t("openMap"))),
  ];
}

// Heads that share k and v: each head's q, and the one k and v of all.
function sharing() {
  const { layer, head, token } = state,
    per = opened.model.n_head / opened.model.n_kv_head,
    group = Math.floor(head / per);
  if (per === 1) return null;
  const heads = groups()[group];
  return whenAnswered(
    Promise.all(heads.map(one => askFor("story", { layer, head: one, token, lang: lang() }))),
    stories =>
      h(
        "section",
        { class: "shared" },
        h("h4", {}, t("groupOf", { first: heads[0], last: heads.at(-1), group })),
        stories.map((story, i) => vector(`q (${heads[i]})`, story.q)),
        vector("k", stories[0].k),
        vector("v", stories[0].v),
      ),
  );
}

function gridPicture(grid, stat) {
  const side = 34,
    left = 60,
    top = 60,
    { n_layer, n_head } = opened.model,
    width = Math.max(480, left + n_head * side + 20);
  const cells = grid.values.flatMap((row, l) =>
    row.map((value, j) => {
      const color = ramp(value === null ? 0 : share(grid, value)),
        text = grid.labels ? t(`brief_${grid.labels[l][j]}`) : value === null ? "" : brief(value);
      const shownText = svgText(text, left + j * side + side / 2, top + l * side + side / 2 + 4, "middle");
      shownText.setAttribute("fill", inkOn(color));
      shownText.setAttribute("font-size", 11);
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
