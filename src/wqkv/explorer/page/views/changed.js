// Before and after a change, on one scale: two small maps, the row's weights, what is added; to save too.

import { css, currentColor, tint } from "../parts/color.js";
import { h, svg } from "../parts/dom.js";
import { clamp, label, short, visible, weight } from "../parts/format.js";
import { sheet, svgText } from "../parts/picture.js";
import { scale } from "../parts/ranking.js";
import { drawThumbnail, topOf } from "../parts/thumbnail.js";
import { named, tokenTag, tokenWithPosition } from "../parts/token.js";
import { bar, means, sharesOf, signedBars, topsOf } from "../parts/vector.js";
import { keyAt, keyCount, keys, opened, size } from "../reading/opened.js";
import { state } from "../reading/state.js";
import { lang, t } from "../words/words.js";

/** @import { ChangedLinkFacts, ChangedMapsAnswer, MadeFacts } from "../types" */

const ADDED = 128; // of the numbers that are added

// Both maps on the scale of weights; of a long text, whose means are small, on the larger of both.
/** @param {ChangedMapsAnswer} maps */
function topOfBoth({ before, after }) {
  return isExact(before) ? 1 : Math.max(topOf(before), topOf(after));
}

function isExact(values) {
  return values.length >= size() && values[0].length >= keyCount();
}

/** @param {ChangedMapsAnswer} maps */
export function changedMaps(maps) {
  const top = topOfBoth(maps),
    exact = isExact(maps.before),
    [high, wide] = [maps.before.length, maps.before[0].length];
  const one = (values, how) =>
    h(
      "figure",
      {},
      h("figcaption", {}, t(how)),
      boxed(h("div", { class: "smallmap" }, drawThumbnail(values, top, t("mapAs", { how: t(how) })), rowFrame())),
    );
  return [
    h("div", { class: "twomaps" }, one(maps.before, "trained"), one(maps.after, "changed")),
    exact && scale(),
    h("p", { class: "note" }, !exact && [t("cardBlocks", { rows: short(size() / high, 2), keys: short(keyCount() / wide, 2), top: weight(top) }), " "], t("cardMapSays"), " ", tokenTag(state.token)),
  ];
}

function boxed(box) {
  box.style.aspectRatio = String(clamp(keyCount() / size(), 0.5, 2));
  return box;
}

// The chosen row, which in a long text would be too thin to be seen.
function rowFrame() {
  const n = size(),
    high = Math.max(1, n / 40);
  return svg(
    "svg",
    { class: "frame", viewBox: `0 0 100 ${n}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { x: 0, y: clamp(state.token + 0.5 - high / 2, 0, n - high), width: 100, height: high }),
  );
}

/** @param {ChangedLinkFacts[]} links */
export function pairedBars(links) {
  const tops = topsOf(sharesOf(links.flatMap(({ before, after }) => [before, after])));
  return pairedTable(
    t("cardLinks"),
    links.map(({ key, before, after }) => [
      h("span", { class: keys().special[key] ? "special" : null }, named(keys(), key)),
      [`${weight(before)} → `, h("b", {}, weight(after))],
      [bar(before, tops, "share", { kind: "was" }), bar(after, tops, "share")],
    ]),
  );
}

/** @param {[string, string]} headline */
export function spreadBars(headline) {
  const values = headline.map(Number),
    tops = topsOf(values.map(value => ({ unit: "score", value })));
  return pairedTable(
    t("cardSpread"),
    values.map((value, i) => [t(`spread_${i}`), headline[i], bar(value, tops, "score", { kind: i ? "up" : "was" })]),
  );
}

function pairedTable(title, rows) {
  return h(
    "section",
    {},
    h("h4", {}, title),
    h(
      "table",
      { class: "paired" },
      h("tbody", {}, rows.map(([name, text, bars]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, text), h("td", { class: "barcell" }, bars)))),
    ),
  );
}

/** @param {MadeFacts["outputs"]} outputs */
function topOfOutputs(outputs) {
  return Math.max(...outputs.flatMap(one => means(one, ADDED)[0].map(Math.abs)));
}

/** @param {MadeFacts["outputs"]} outputs */
function outputTitle(outputs) {
  const per = means(outputs[0], ADDED)[1];
  return t("cardOutputs", { n: outputs[0].length, top: short(topOfOutputs(outputs), 3) }) + (per > 1 ? t("cardEach", { per }) : "");
}

/** @param {MadeFacts["outputs"]} outputs */
export function outputBars(outputs) {
  const top = topOfOutputs(outputs);
  return h(
    "section",
    {},
    h("h4", {}, outputTitle(outputs)),
    outputs.map((one, i) =>
      h("figure", { class: "vector" }, h("figcaption", {}, t(i ? "changed" : "trained")), signedBars(means(one, ADDED)[0], { role: "img", "aria-label": t(i ? "changed" : "trained") }, top)),
    ),
  );
}

// The card as one picture: what the screen shows, and of which model, head and text it is.

const PICTURE_SIDE = 520;
const MAP_SIDE = 230;
const CARD_EDGE = 12;

/**
 * @param {{ question: string, change: string }} asked
 * @param {MadeFacts} made
 * @param {ChangedMapsAnswer | undefined} maps
 */
export function cardPicture({ question, change }, made, maps) {
  const { layer, head, token } = state,
    y = maps ? 174 + MAP_SIDE + 34 : 166,
    lines = made.outputs.length ? drawnOutputs(made.outputs, y) : drawnRows(made, y),
    end = y + lines.height;
  return sheet(
    question,
    PICTURE_SIDE,
    end + 50,
    svgText(change, CARD_EDGE, 46, "start", "--soft"),
    svgText(made.cards[lang()].headline, CARD_EDGE, 78, "start", "--soft"),
    svg("text", { x: CARD_EDGE, y: 112, "font-size": 28, "font-weight": 600, fill: currentColor("--ink") }, made.headline.join(" → ")),
    maps && [maps.before, maps.after].map((values, i) => mapSquares(values, topOfBoth(maps), CARD_EDGE + i * (MAP_SIDE + 20), 174, t(i ? "changed" : "trained"))),
    svgText(made.outputs.length ? outputTitle(made.outputs) : t(made.shows === "numbers" ? "cardSpread" : "cardLinks"), CARD_EDGE, y - 12, "start", "--soft"),
    lines.parts,
    svgText(`${opened.model.name} · ${t("atBoth", { layer, head })} · ${tokenWithPosition(token)}`, CARD_EDGE, end + 20, "start", "--soft"),
    svgText(excerpt(opened.text.text), CARD_EDGE, end + 38, "start", "--soft"),
  );
}

// As much of a text as has room in a line.
function excerpt(text) {
  const parts = [...visible(text)];
  return parts.length <= 60 ? parts.join("") : parts.slice(0, 57).join("") + "...";
}

/**
 * @param {ChangedMapsAnswer["before"]} values
 * @param {number} top
 * @param {number} x
 * @param {number} y
 * @param {string} name
 */
function mapSquares(values, top, x, y, name) {
  const [high, wide] = [MAP_SIDE / values.length, MAP_SIDE / values[0].length],
    row = (state.token * MAP_SIDE) / size();
  return svg(
    "g",
    {},
    svgText(top === 1 ? name : `${name} (0 – ${weight(top)})`, x, y - 8, "start", "--soft"),
    values.map((line, i) =>
      line.map((value, j) => svg("rect", { x: x + j * wide, y: y + i * high, width: wide, height: high, fill: css(tint((value ?? 0) / top)) })),
    ),
    svg("rect", { x, y: y + row, width: MAP_SIDE, height: Math.max(MAP_SIDE / size(), 3), fill: "none", stroke: currentColor("--down"), "stroke-width": 2 }),
  );
}

/**
 * @param {MadeFacts["outputs"]} outputs
 * @param {number} y
 */
function drawnOutputs(outputs, y) {
  const top = topOfOutputs(outputs);
  const parts = outputs.map((one, i) => {
    const [bars] = means(one, ADDED),
      wide = (PICTURE_SIDE - 2 * CARD_EDGE) / bars.length,
      middle = y + 56 + i * 100;
    return [
      svgText(t(i ? "changed" : "trained"), CARD_EDGE, middle - 42, "start", "--soft"),
      bars.map((value, j) => {
        const length = (Math.abs(value) / top) * 36;
        return svg("rect", { x: CARD_EDGE + j * wide, y: value > 0 ? middle - length : middle, width: wide * 0.9, height: length, fill: currentColor(value < 0 ? "--down" : "--up") });
      }),
    ];
  });
  return { height: 200, parts };
}

/**
 * The row's weights in pairs of bars, or the two numbers of the headline.
 *
 * @param {MadeFacts} made
 * @param {number} y
 */
function drawnRows({ links, shows, headline }, y) {
  const rows =
    shows === "numbers"
      ? headline.map((text, i) => ({ name: t(`spread_${i}`), text, values: i ? [0, Number(text)] : [Number(text), 0] }))
      : links.map(({ key, before, after }) => ({ name: label(keyAt(key)), text: `${weight(before)} → ${weight(after)}`, values: [before ?? 0, after ?? 0] }));
  const top = Math.max(...rows.flatMap(row => row.values));
  const parts = rows.map(({ name, text, values }, i) => [
    svgText(name, 120, y + i * 26 + 14, "end"),
    svgText(text, 250, y + i * 26 + 14, "end", "--soft"),
    values.map((value, j) => svg("rect", { x: 260, y: y + i * 26 + j * 9, width: (value / top) * 245, height: 8, fill: currentColor(j ? "--up" : "--soft") })),
  ]);
  return { height: rows.length * 26, parts };
}
