// Lines from a row of words to a row of words: as thick as the weight, in the color of the head.

import { currentColor } from "../parts/color.js";
import { svg } from "../parts/dom.js";
import { label, weight } from "../parts/format.js";
import { drawnCrop, pictureAt } from "../parts/patch.js";
import { keyAt, keys, opened, tokenAt } from "../reading/opened.js";
import { t } from "../words/words.js";

/** @import { HeadLook } from "./linesheads.js" */

const LETTERS = "14px system-ui, sans-serif",
  SPACE = 10, // pixels between two words at least
  TALL = 210, // pixels that the lines take between two rows
  ROOM = 40, // pixels of a row of words, with a number beside each
  STEP = 25, // pixels of a word's line, where the rows stand upright
  CROP = 17, // pixels of a patch
  THICK = 14, // pixels of a weight of 1
  APART = 2.5; // pixels between the lines of two heads that join the same words

/** Sample weights for the legend. */
export const SAMPLES = [0.05, 0.2, 0.5, 1];

/**
 * A link that is drawn: from word i to word j.
 *
 * @typedef {{ head: number, i: number, j: number, weight: number }} DrawnLink
 */

/**
 * What a drawing is made of: `at` and `to` are the positions of both rows; of `chosen` one is a
 * position, and its links stand out.
 *
 * @typedef {object} LinesShown
 * @property {HeadLook[]} heads
 * @property {DrawnLink[]} links
 * @property {number[]} at
 * @property {number[]} to
 * @property {{ i?: number, j?: number }} chosen
 * @property {boolean} dim whether the links of other words step back
 * @property {boolean} turned whether the rows stand upright
 * @property {number} width
 * @property {(part: SVGElement, row: "i" | "j", position: number) => void} [dress] makes a word
 *   something to choose; a saved picture has none
 * @property {(link: DrawnLink) => void} [follow]
 */

/** @param {LinesShown} shown */
export function linesDrawing(shown) {
  const { at, to, turned, width } = shown,
    rows = turned ? uprightRows(shown) : levelRows(shown),
    height = turned ? STEP * Math.max(at.length, to.length) + 8 : TALL + 2 * ROOM;
  return svg(
    "svg",
    { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": t("linesOf"), "font-family": "system-ui, sans-serif", "font-size": 14 },
    links(shown, rows),
    wordRow(shown, "i", rows.from),
    wordRow(shown, "j", rows.into),
  );
}

/**
 * Where a word of a row stands: where its text is, how it is cut, and where its lines end.
 *
 * @typedef {{ text: string, x: number, y: number, anchor: "start" | "middle" | "end", end: [number, number] }} WordPlace
 */

/**
 * Both rows by position, and the path of a line between two ends, moved by `aside` pixels.
 *
 * @typedef {object} Rows
 * @property {Map<number, WordPlace>} from
 * @property {Map<number, WordPlace>} into
 * @property {(a: [number, number], b: [number, number], aside: number) => string} path
 */

/**
 * @param {LinesShown} shown
 * @returns {Rows}
 */
function levelRows({ at, to, width }) {
  const top = ROOM,
    bottom = ROOM + TALL;
  const row = (positions, word, y, end) => {
    const middles = spread(positions.map(word), width);
    return new Map(positions.map((j, n) => [j, { ...middles[n], y, anchor: "middle", end: [middles[n].x, end] }]));
  };
  return {
    from: row(at, tokenAt, top - 12, top - 4),
    into: row(to, keyAt, bottom + 18, bottom + 2),
    path: ([x0, y0], [x1, y1], aside) => {
      const bend = (y1 - y0) * 0.55;
      return `M${px(x0 + aside)} ${px(y0)}C${px(x0 + aside)} ${px(y0 + bend)} ${px(x1 + aside)} ${px(y1 - bend)} ${px(x1 + aside)} ${px(y1)}`;
    },
  };
}

/**
 * @param {LinesShown} shown
 * @returns {Rows}
 */
function uprightRows({ at, to, width }) {
  const side = (positions, word) => Math.min(Math.max(...positions.map(j => wide(label(word(j))))) + 14, width * 0.3),
    [left, last] = [side(at, tokenAt), side(to, keyAt)],
    right = width - last - 40; // a number stands on the right of a word
  const row = (positions, word, room, x, anchor, end) =>
    new Map(
      positions.map((j, n) => {
        const y = STEP * (n + 0.5) + 4;
        return [j, { text: cut(label(word(j)), room - 8), x, y: y + 5, anchor, end: [end, y] }];
      }),
    );
  return {
    from: row(at, tokenAt, left, left - 8, "end", left),
    into: row(to, keyAt, last, right + 8, "start", right),
    path: ([x0, y0], [x1, y1], aside) => {
      const bend = (x1 - x0) * 0.5;
      return `M${px(x0)} ${px(y0 + aside)}C${px(x0 + bend)} ${px(y0 + aside)} ${px(x1 - bend)} ${px(y1 + aside)} ${px(x1)} ${px(y1 + aside)}`;
    },
  };
}

function px(value) {
  return value.toFixed(1);
}

/** @type {CanvasRenderingContext2D | null} */
let pen = null;

function wide(text) {
  pen ??= /** @type {CanvasRenderingContext2D} */ (document.createElement("canvas").getContext("2d"));
  pen.font = LETTERS;
  return pen.measureText(text).width;
}

// A text with at most so many pixels: what is too long ends in three dots.
function cut(text, most) {
  if (wide(text) <= most) return text;
  const letters = [...text];
  while (letters.length > 1 && wide(`${letters.join("")}…`) > most) letters.pop();
  return `${letters.join("")}…`;
}

/**
 * Words over the whole width: each as wide as its text where all fit, else all cut to one width.
 *
 * @param {string[]} words
 * @param {number} width
 */
function spread(words, width) {
  const texts = words.map(word => label(word)),
    own = texts.map(text => Math.max(wide(text), 12) + SPACE),
    sum = own.reduce((all, one) => all + one, 0),
    slot = width / words.length;
  let x = 0;
  return texts.map((text, n) => {
    const room = sum <= width ? own[n] + (width - sum) / words.length : slot;
    x += room;
    return { text: sum <= width ? text : cut(text, slot - 4), x: x - room / 2 };
  });
}

/**
 * @param {LinesShown} shown
 * @param {Rows} rows
 */
function links({ heads, links: all, chosen, dim, follow }, { from, into, path }) {
  const looks = new Map(heads.map((look, n) => [look.head, { ...look, aside: (n - (heads.length - 1) / 2) * APART }])),
    gray = currentColor("--soft");
  const stands = link => link.i === chosen.i || link.j === chosen.j;
  const order = [...all].sort((a, b) => Number(stands(a)) - Number(stands(b)) || a.weight - b.weight); // the last one is on top
  return order.map(link => {
    const look = looks.get(link.head),
      [a, b] = [from.get(link.i), into.get(link.j)];
    if (!look || !a || !b) return null;
    const special = keys().special[link.j],
      says = `${tokenAt(link.i)} (${link.i}) → ${keyAt(link.j)} (${link.j}): ${weight(link.weight)}, ${t("headName", { head: link.head })}`;
    return svg(
      "path",
      {
        class: "weightline",
        "data-head": link.head,
        "data-link": `${link.i}-${link.j}`,
        "data-weight": link.weight,
        d: path(a.end, b.end, looks.size > 1 ? look.aside : 0),
        fill: "none",
        stroke: special ? gray : look.color,
        "stroke-width": thickness(link.weight),
        "stroke-dasharray": look.dash || null,
        opacity: opacity(stands(link), dim, special),
        onclick: follow && (() => follow(link)),
      },
      svg("title", {}, says),
    );
  });
}

function opacity(stands, dim, special) {
  if (!dim) return special ? 0.3 : 0.6;
  if (stands) return special ? 0.5 : 0.95;
  return special ? 0.1 : 0.2;
}

/** @param {number} value */
export function thickness(value) {
  return Number((value * THICK).toFixed(3));
}

/**
 * The words of one row; beside those that the chosen word is linked with stands the weight of the
 * chosen head.
 *
 * @param {LinesShown} shown
 * @param {"i" | "j"} row
 * @param {Map<number, WordPlace>} places
 */
function wordRow({ links: all, heads, chosen, turned, dress }, row, places) {
  const other = row === "i" ? "j" : "i",
    text_ = row === "i" ? opened.text : keys(),
    special = text_.special,
    found = all.filter(link => link.head === heads[0].head && link[other] === chosen[other]),
    values = new Map(found.map(link => [link[row], link.weight]));
  return svg(
    "g",
    { role: "listbox", "aria-label": t(row === "i" ? "rowWho" : "rowWhom"), "data-row": row },
    [...places].map(([position, { text, x, y, anchor }]) => {
      const value = values.get(position),
        own = position === chosen[row],
        long = wide(text) + 10,
        left = { start: x - 5, middle: x - long / 2, end: x - long + 5 }[anchor],
        picture = pictureAt(text_, position),
        below = row === "i" ? y - 15 : y + 17,
        [nx, ny, na] = turned
          ? row === "i"
            ? [left - 2, y, "end"]
            : [left + long + 2, y, "start"]
          : [x, below, "middle"];
      const part = svg(
        "g",
        { class: "lineword" },
        svg("rect", {
          x: left,
          y: y - 15,
          width: long,
          height: 20,
          rx: 4,
          fill: own ? currentColor("--mark") : "transparent",
        }),
        picture
          ? drawnCrop(picture, position, { x: left + (long - CROP) / 2, y: y - 5 - CROP / 2, size: CROP })
          : svg(
              "text",
              { x, y, "text-anchor": anchor, fill: currentColor(special[position] ? "--soft" : "--ink"), "font-weight": own ? 600 : 400 },
              text,
            ),
        value !== undefined &&
          svg("text", { class: "value", x: nx, y: ny, "text-anchor": na, fill: heads[0].color, "font-size": 12, "font-weight": 600 }, weight(value)),
      );
      dress?.(part, row, position);
      return part;
    }),
  );
}
