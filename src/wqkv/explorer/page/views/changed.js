// Before and after a change, on one scale: two small maps, the row's weights, what is added; to save too.

import { css, currentColor, tint } from "../parts/color.js";
import { h, svg } from "../parts/dom.js";
import { clamp, label, short, weight } from "../parts/format.js";
import { sheet, svgText } from "../parts/picture.js";
import { scale } from "../parts/ranking.js";
import { drawThumbnail, topOf } from "../parts/thumbnail.js";
import { bdi, tokenTag } from "../parts/token.js";
import { bar, means, signedBars } from "../parts/vector.js";
import { keyAt, keyCount, keys, size } from "../reading/opened.js";
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
  const top = Math.max(...links.flatMap(({ before, after }) => [before ?? 0, after ?? 0]));
  return pairedTable(
    t("cardLinks"),
    links.map(({ key, before, after }) => [
      bdi(keyAt(key), { class: keys().special[key] ? "special" : null }),
      [`${weight(before)} → `, h("b", {}, weight(after))],
      [bar(before, top, { kind: "was" }), bar(after, top)],
    ]),
  );
}

/** @param {[string, string]} headline */
export function spreadBars(headline) {
  const values = headline.map(Number),
    top = Math.max(...values);
  return pairedTable(
    t("cardSpread"),
    values.map((value, i) => [t(`spread_${i}`), headline[i], bar(value, top, { kind: i ? "up" : "was" })]),
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
export function outputBars(outputs) {
  const drawn = outputs.map(one => means(one, ADDED)),
    per = drawn[0][1],
    top = Math.max(...drawn.flatMap(([bars]) => bars.map(Math.abs)));
  return h(
    "section",
    {},
    h("h4", {}, t("cardOutputs", { n: outputs[0].length, top: short(top, 3) }), per > 1 && h("span", { class: "note" }, t("cardEach", { per }))),
    drawn.map(([bars], i) =>
      h("figure", { class: "vector" }, h("figcaption", {}, t(i ? "changed" : "trained")), signedBars(bars, { role: "img", "aria-label": t(i ? "changed" : "trained") }, top)),
    ),
  );
}

// The card as one picture

/**
 * @param {string} question
 * @param {MadeFacts} made
 * @param {ChangedMapsAnswer | undefined} maps
 */
export function cardPicture(question, made, maps) {
  const said = made.cards[lang()],
    side = 230,
    left = 12;
  const pair = maps ? [maps.before, maps.after].map((values, i) => mapSquares(values, topOfBoth(maps), left + i * (side + 20), 130, side)) : [];
  const y = maps ? 130 + side + 30 : 120,
    lines = drawnLines(made, y);
  return sheet(
    question,
    520,
    y + lines.height + 20,
    svgText(said.headline, left, 56, "start", "--soft"),
    svg("text", { x: left, y: 92, "font-size": 28, "font-weight": 600, fill: currentColor("--ink") }, made.headline.join(" → ")),
    maps && [svgText(t("trained"), left, 122, "start", "--soft"), svgText(t("changed"), left + side + 20, 122, "start", "--soft")],
    pair,
    lines.parts,
  );
}

/**
 * @param {ChangedMapsAnswer["before"]} values
 * @param {number} top
 * @param {number} x
 * @param {number} y
 * @param {number} side
 */
function mapSquares(values, top, x, y, side) {
  const [high, wide] = [side / values.length, side / values[0].length],
    row = (state.token * side) / size();
  return svg(
    "g",
    {},
    values.map((line, i) =>
      line.map((value, j) => svg("rect", { x: x + j * wide, y: y + i * high, width: wide, height: high, fill: css(tint((value ?? 0) / top)) })),
    ),
    svg("rect", { x, y: y + row, width: side, height: Math.max(side / size(), 3), fill: "none", stroke: currentColor("--down"), "stroke-width": 2 }),
  );
}

// The row's weights, or the numbers that are added, as pairs of bars.
/** @param {MadeFacts} made */
function drawnLines({ links, outputs, shows, headline }, y) {
  if (shows === "outputs") {
    const drawn = outputs.map(one => means(one, ADDED)[0]),
      top = Math.max(...drawn.flat().map(Math.abs));
    const parts = drawn.map((bars, i) =>
      bars.map((value, j) => {
        const length = (Math.abs(value) / top) * 36,
          middle = y + 40 + i * 80;
        return svg("rect", { x: 12 + j * (496 / bars.length), y: value > 0 ? middle - length : middle, width: 496 / bars.length - 0.4, height: length, fill: currentColor(value < 0 ? "--down" : "--up") });
      }),
    );
    return { height: 160, parts };
  }
  const rows = shows === "numbers" ? headline.map((text, i) => ({ name: t(`spread_${i}`), values: [Number(text)] })) : links.map(({ key, before, after }) => ({ name: label(keyAt(key)), values: [before ?? 0, after ?? 0] }));
  const top = Math.max(...rows.flatMap(row => row.values));
  const parts = rows.map(({ name, values }, i) => [
    svgText(name, 120, y + i * 26 + 14, "end"),
    svgText(values.map(weight).join(" → "), 250, y + i * 26 + 14, "end", "--soft"),
    values.map((value, j) => svg("rect", { x: 260, y: y + i * 26 + j * 10, width: (value / top) * 245, height: 8, fill: currentColor(j ? "--up" : "--soft") })),
  ]);
  return { height: rows.length * 26, parts };
}
