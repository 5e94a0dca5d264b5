// The strongest links as arcs over the text: thick by true effect, blue for the answer, orange against.

import { h, svg } from "../parts/dom.js";
import { count, label } from "../parts/format.js";
import { linkName } from "../reading/asked.js";
import { state } from "../reading/state.js";
import { t } from "../words/words.js";
import { amount, digitsIn, linkText, openWithout } from "./effects.js";

/** @import { LinkEffectFacts, WhyAnswer } from "../types" */

const MOST_ARCS = 12,
  FONT = "14px system-ui, sans-serif",
  GAP = 12, // pixels between two tokens, and so many more where there is room
  SPREAD = 30,
  LINE = 24, // pixels of a token's line, where they stand one below the other
  HIGH = 150,
  WIDE = 120; // pixels that arcs take: above the text, or beside it

/**
 * A token and its number in its text; tokens left out stand at -1.
 *
 * @typedef {{ at: number, number: number, text: string, size: number }} Place
 */

/**
 * @param {WhyAnswer} answer
 * @param {LinkEffectFacts[]} links by falling effect, all above rounding
 */
export function arcs(answer, links) {
  const shownLinks = links.slice(0, MOST_ARCS),
    place = h("div", { class: "arcs" });
  const draw = () => place.replaceChildren(picture(answer, shownLinks, place.clientWidth || 600));
  let before = 0;
  new ResizeObserver(() => {
    if (place.clientWidth === before) return;
    before = place.clientWidth;
    draw();
  }).observe(place);
  return h(
    "figure",
    { role: "group", "aria-label": t("arcsLabel", { n: shownLinks.length }) },
    place,
    h(
      "figcaption",
      { class: "arclegend" },
      h("span", { class: "for" }, t("speaksFor")),
      h("span", { class: "against" }, t("speaksAgainst")),
      h("span", {}, t("arcsSay", { n: shownLinks.length, top: amount(links[0].true, digitsIn(answer), true) })),
    ),
  );
}

/**
 * All texts as one line: of a model of two texts first what was read, then what was written.
 *
 * @param {WhyAnswer} answer
 */
function lineOf({ tokens }) {
  const parts = tokens.text ? [tokens.text] : [tokens.encoder, tokens.decoder],
    behind = tokens.text ? 0 : tokens.encoder.length;
  return {
    words: parts.flat(),
    behind, // where the second text begins; 0: there is one text
    /** @param {LinkEffectFacts} one */
    ends: ({ part, query, key }) => [
      query + (part === "decoder" || part === "cross" ? behind : 0),
      key + (part === "decoder" ? behind : 0),
    ],
  };
}

function picture(answer, links, width) {
  const line = lineOf(answer),
    ends = links.map(line.ends),
    ruler = /** @type {CanvasRenderingContext2D} */ (document.createElement("canvas").getContext("2d"));
  ruler.font = FONT;
  const wide = text => ruler.measureText(text).width + GAP;
  const whole = placed(line, line.words.map((_, at) => at), wide);
  if (total(whole) <= width) return across(answer, links, ends, whole, width);
  const touched = [...new Set(ends.flat())],
    near = touched.flatMap(at => [at - 1, at, at + 1]).filter(at => at >= 0 && at < line.words.length);
  for (const some of [near, touched]) {
    const folded = placed(line, some, wide);
    if (total(folded) <= width) return across(answer, links, ends, folded, width);
  }
  return down(answer, links, ends, placed(line, near, wide), width);
}

/**
 * Some tokens in order, with a place for each stretch that is left out, and one between two texts.
 *
 * @param {{ words: string[], behind: number }} line
 * @param {number[]} some
 * @param {(text: string) => number} wide
 */
function placed({ words, behind }, some, wide) {
  /** @type {Place[]} */
  const places = [];
  let last = -1;
  const put = text => places.push({ at: -1, number: 0, text, size: wide(text) });
  const leave = next => {
    const gaps = last < behind && next >= behind && behind ? [behind - last - 1, next - behind] : [next - last - 1];
    gaps.forEach((left, i) => {
      if (i) put("│");
      if (left > 0) put(`⋯${count(left)}`);
    });
  };
  for (const at of [...new Set(some)].sort((a, b) => a - b)) {
    leave(at);
    const text = label(words[at]);
    places.push({ at, number: at < behind ? at : at - behind, text, size: Math.max(wide(text), 22) });
    last = at;
  }
  leave(words.length);
  return places;
}

/** @param {Place[]} places */
function total(places) {
  return places.reduce((sum, { size }) => sum + size, 0);
}

// The text on one line, with arcs above it.
function across(answer, links, ends, places, width) {
  /** @type {number[]} */
  const middle = [],
    texts = [],
    more = Math.min((width - total(places)) / places.length, SPREAD);
  let x = (width - total(places) - more * places.length) / 2;
  for (const { at, number, text, size: own } of places) {
    const size = own + more;
    if (at >= 0) middle[at] = x + size / 2;
    texts.push(svg("text", { x: x + size / 2, y: HIGH + 20, "text-anchor": "middle", class: at < 0 ? "left" : wordClass(ends, at) }, text));
    if (at >= 0) texts.push(svg("text", { x: x + size / 2, y: HIGH + 34, "text-anchor": "middle", class: "number" }, number));
    x += size;
  }
  const height = HIGH + 40,
    point = (along, away) => `${along.toFixed(1)} ${(HIGH - away).toFixed(1)}`;
  return sheetOf(width, height, [...curves(answer, links, ends, middle, point, HIGH - 8), ...texts]);
}

// The tokens one below the other, with arcs on their left: for narrow windows and long texts.
function down(answer, links, ends, places, width) {
  /** @type {number[]} */
  const middle = [],
    room = Math.min(WIDE, width / 3),
    texts = places.map(({ at, number, text }, i) => {
      const y = LINE * (i + 0.5);
      if (at >= 0) middle[at] = y;
      return [
        svg("text", { x: room + 10, y: y + 5, class: at < 0 ? "left" : wordClass(ends, at) }, text),
        at >= 0 && svg("text", { x: width - 4, y: y + 5, "text-anchor": "end", class: "number" }, number),
      ];
    });
  const point = (along, away) => `${(room - away).toFixed(1)} ${along.toFixed(1)}`;
  return sheetOf(width, LINE * places.length, [...curves(answer, links, ends, middle, point, room - 6), ...texts]);
}

function wordClass(ends, at) {
  return ends.flat().includes(at) ? "touched" : "word";
}

function sheetOf(width, height, parts) {
  return svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, parts);
}

/**
 * The arcs, the thickest behind the others. Those that join the same tokens stand above each other.
 *
 * @param {WhyAnswer} answer
 * @param {LinkEffectFacts[]} links
 * @param {number[][]} ends
 * @param {number[]} middle where each token stands along the text
 * @param {(along: number, away: number) => string} point
 * @param {number} most how far from the text an arc may go
 */
function curves(answer, links, ends, middle, point, most) {
  const top = Math.abs(links[0].true ?? 1),
    span = Math.max(...ends.map(([a, b]) => Math.abs(middle[a] - middle[b])), 1),
    thickness = links.map(one => 1.5 + 8.5 * (Math.abs(one.true ?? 0) / top)),
    stack = stacked(ends, thickness);
  return links.map((one, i) => {
    const [from, to] = ends[i].map(at => middle[at]),
      thick = thickness[i],
      way = Math.sign(from - to) || 1,
      [below, all] = stack(i),
      out = from === to ? 14 : below / 4;
    // A curve of this kind goes three quarters as far as its two handles.
    const away = (30 + (Math.abs(from - to) / span) * Math.max(most - 30 - all, 0) + below) / 0.75,
      foot_ = from === to ? 4 : Math.min(below / 4, 6);
    const path = `M${point(from + way * foot_, 2)}C${point(from + way * out, away)} ${point(to - way * out, away)} ${point(to - way * foot_, 2)}`,
      [x, y] = point(to - way * foot_, 2).split(" "),
      gone = state.without === linkName(one);
    const says = `${linkText(answer, one)}: ${amount(one.true, digitsIn(answer), true)}`;
    return svg(
      "g",
      { class: `arc ${(one.true ?? 0) < 0 ? "for" : "against"}${gone ? " chosen" : ""}`, onclick: () => openWithout(one) },
      svg("title", {}, says),
      svg("path", { class: "hit", d: path }),
      svg("path", { class: "line", d: path, "stroke-width": thick.toFixed(1) }),
      svg("circle", { cx: x, cy: y, r: Math.max(3, thick / 2 + 1).toFixed(1) }),
    );
  });
}

/**
 * Arcs that join the same two tokens stand above each other. Of an arc: how thick those below it
 * are, and how thick all of them are.
 *
 * @param {number[][]} ends
 * @param {number[]} thickness
 * @returns {(i: number) => [number, number]}
 */
function stacked(ends, thickness) {
  const sums = new Map(),
    names = ends.map(pair => [...pair].sort((a, b) => a - b).join());
  const below = names.map((name, i) => {
    const sum = sums.get(name) ?? 0;
    sums.set(name, sum + thickness[i] + 3);
    return sum;
  });
  return i => [below[i], sums.get(names[i])];
}
