// Lines between words: where each word of a window looks, for one head or several over each other.

import { foot, pythonOf } from "../frame/foot.js";
import { currentColor } from "../parts/color.js";
import { fill, h, select, svg, walk } from "../parts/dom.js";
import { clamp, count, visible, weight } from "../parts/format.js";
import { around } from "../parts/ranking.js";
import { askFor, keyAt, keyCount, keys, opened, size, tokenAt } from "../reading/opened.js";
import { go, state } from "../reading/state.js";
import { strongest } from "../steps/worked.js";
import { t } from "../words/words.js";
import { chosenLinks } from "./lineslist.js";
import { linesDrawing, SAMPLES, thickness } from "./linesdrawing.js";
import { headRow, shownHeads } from "./linesheads.js";
import { savedLines } from "./linespicture.js";
import { inside, readTile, sides } from "./rectangle.js";

/** @import { TileAnswer } from "../types" */
/** @import { DrawnLink, LinesShown } from "./linesdrawing.js" */
/** @import { HeadLook } from "./linesheads.js" */

const LEAST = [0.01, 0.02, 0.05, 0.1, 0.2], // a link of less weight is not drawn
  USUAL = 0.05,
  NARROW = 820, // pixels: below, the rows stand upright
  WORD = 48, // pixels that a word takes in a level row, about
  UPRIGHT = 40; // words of an upright row

/** The switch between where words look and who looks at them. */
export function direction() {
  const choice = (dir, text) =>
    h("button", { "data-key": `dir-${dir}`, "aria-pressed": String(state.dir === dir), onclick: () => go({ dir }) }, text);
  return h(
    "span",
    { class: "segmented", role: "group", "aria-label": t("direction") },
    choice("to", t("whereLooks")),
    choice("from", t("whoLooks")),
  );
}

/**
 * A box that writes into the address under its name: "1" or nothing, if `valueOf` does not say else.
 *
 * @param {string} name
 * @param {boolean} on
 * @param {string} text
 * @param {(checked: boolean) => string | null} valueOf
 */
export function checkbox(name, on, text, valueOf = checked => (checked ? "1" : null)) {
  return h(
    "label",
    { class: "check" },
    h("input", { type: "checkbox", "data-key": `check-${name}`, checked: on, onchange: event => go({ [name]: valueOf(event.target.checked) }) }),
    text,
  );
}

/** The switch between the text in colors and the lines. */
export function drawnAs() {
  const choice = (as, text) =>
    h(
      "button",
      { "data-key": `as-${as ?? "words"}`, "aria-pressed": String(state.as === (as ?? undefined)), onclick: () => go({ as, set: null }) },
      text,
    );
  return h(
    "span",
    { class: "segmented", role: "group", "aria-label": t("drawAs") },
    choice(null, opened.model.reads === "picture" ? t("asPicture") : t("asWords")),
    choice("lines", t("asLines")),
  );
}

export async function linesView() {
  const heads = shownHeads(),
    box = h("div", { class: "lines" });
  let width = /** @type {HTMLElement} */ (document.getElementById("view")).clientWidth,
    drawn = await readWindow(heads, width);
  fill(box, drawnWindow(drawn));
  new ResizeObserver(async () => {
    const now = box.clientWidth;
    if (!now || now === width) return;
    width = now;
    const read = await readWindow(heads, now);
    if (now !== width) return; // the window has changed again
    drawn = read;
    fill(box, drawnWindow(read));
  }).observe(box);
  const { shown, answers } = drawn,
    below = await chosenLinks(shown.chosen);
  return [
    lineControls(),
    headRow(heads, head => {
      for (const line of /** @type {Iterable<SVGElement>} */ (box.querySelectorAll(".weightline")))
        line.classList.toggle("aside", head !== null && line.dataset.head !== String(head));
    }),
    box,
    below.table,
    foot({
      name: "lines",
      python: pythonOf([...answers, ...below.answers]),
      data: { layer: state.layer, heads: heads.map(one => one.head), least: least(), links: shown.links },
      other: shown.chosen.i === undefined ? null : (state.other ?? null),
      picture: () => savedLines(drawn.shown),
    }),
  ];
}

function lineControls() {
  const options = LEAST.map(one => h("option", { value: one, selected: one === least() }, String(one)));
  return h(
    "div",
    { class: "controls" },
    drawnAs(),
    direction(),
    h(
      "label",
      { class: "check" },
      t("leastWeight"),
      h("select", { "data-key": "least", onchange: event => go({ least: event.target.value === String(USUAL) ? null : event.target.value }) }, options),
    ),
    checkbox("dim", state.dim !== "0", t("dimOthers"), on => (on ? null : "0")),
    opened.text.special.some(Boolean) && checkbox("hide", state.hide === "1", t("hideSpecial")),
  );
}

function least() {
  return LEAST.find(one => String(one) === state.least) ?? USUAL;
}

// What is drawn

/**
 * The links of a window of words, which begins at word q0 of those that look and at k0 of those that
 * are looked at. `total` is the weight of all its rows, of all heads, and `rest` the share of it that
 * goes to words that are not shown.
 *
 * @typedef {object} ShownWindow
 * @property {LinesShown} shown
 * @property {TileAnswer[]} answers
 * @property {number} total
 * @property {number} rest
 * @property {{ first: number, many: number }} looking
 * @property {{ first: number, many: number }} looked
 */

/**
 * @param {HeadLook[]} heads
 * @param {number} width
 * @returns {Promise<ShownWindow>}
 */
async function readWindow(heads, width) {
  const { layer, token } = state,
    turned = width < NARROW,
    span = turned ? UPRIGHT : clamp(Math.floor(width / WORD), 8, UPRIGHT),
    two = Boolean(opened.text.keys);
  const start = Number(state.from ?? around(token, span)[0]),
    other = two ? Number(state.keysfrom ?? around(state.other ?? 0, span, keyCount())[0]) : start,
    [q0, k0] = inside(start, other, span),
    [rows, cols] = sides(span);
  const answers = await Promise.all(
    heads.map(({ head }) => readTile(query => askFor("tile", query), { layer, head }, q0, k0, span)),
  );
  const hidden = state.hide === "1",
    kept = (from, n, special) => Array.from({ length: n }, (_, j) => from + j).filter(j => !(hidden && special[j])),
    at = kept(q0, rows, opened.text.special),
    to = kept(k0, cols, keys().special);
  /** @type {DrawnLink[]} */
  const links = [];
  let inWindow = 0;
  heads.forEach(({ head }, n) => {
    for (const i of at)
      for (const j of to) {
        const value = answers[n].values[i - q0][j - k0] ?? 0;
        inWindow += value;
        if (value >= least()) links.push({ head, i, j, weight: value });
      }
  });
  const total = at.length * heads.length || 1;
  return {
    shown: { heads, links, at, to, chosen: await chosenWord(), dim: state.dim !== "0", turned, width },
    answers,
    total,
    rest: Math.max(0, 1 - inWindow / total),
    looking: { first: q0, many: rows },
    looked: { first: k0, many: cols },
  };
}

// The word whose links stand out: one that looks, or one that is looked at.
async function chosenWord() {
  const { layer, head, token } = state;
  if (state.dir === "to") return { i: token };
  if (!opened.text.keys) return { j: token };
  return { j: state.other ?? strongest(await askFor("row", { layer, head, i: token }))[0]?.index ?? 0 };
}

/** @param {ShownWindow} read */
function drawnWindow({ shown, total, rest, looking, looked }) {
  const { heads, links, turned } = shown,
    share = links.reduce((sum, link) => sum + link.weight, 0) / total;
  const facts = { n: count(links.length), least: least(), share: weight(share), heads: heads.length },
    outside = rest > 0.0005 && shown.to.length < keyCount();
  return [
    h(
      "p",
      { class: "note drawn" },
      heads.length > 1 ? t("linesDrawnHeads", facts) : t("linesDrawn", facts),
      outside && [" ", t("linesOutside", { share: weight(rest) })],
    ),
    h("p", { class: "note samples" }, h("span", {}, t("thickness")), SAMPLES.map(sample), links.some(link => keys().special[link.j]) && h("span", {}, t("greyLinks"))),
    turned && h("p", { class: "rownames note" }, h("span", {}, t("rowWho")), h("span", {}, t("rowWhom"))),
    linesDrawing({ ...shown, dress: choosable, follow: ({ head, i, j }) => go({ head, token: i, other: j, dir: "to" }) }),
    h("p", { class: "note" }, t(turned ? "linesSayTurned" : "linesSay")),
    windows(looking, looked),
  ];
}

function sample(value) {
  const line = svg("svg", { width: 34, height: 16, "aria-hidden": "true" });
  line.append(svg("path", { d: "M0 8h34", stroke: currentColor("--up"), "stroke-width": thickness(value) }));
  return h("span", { class: "named" }, line, " ", String(value));
}

/**
 * A word becomes one that can be chosen, by mouse and by keyboard.
 *
 * @param {SVGElement} part
 * @param {"i" | "j"} row
 * @param {number} position
 */
function choosable(part, row, position) {
  const word = row === "i" ? tokenAt(position) : keyAt(position),
    own = row === "i" || !opened.text.keys ? state.token : state.other,
    chosen = position === own && (state.dir === "to") === (row === "i");
  const choose = () => {
    if (row === "i") go({ token: position, other: null, dir: "to", set: null });
    else if (opened.text.keys) go({ other: position, dir: "from" });
    else go({ token: position, other: null, dir: "from", set: null });
  };
  const made = { role: "option", "aria-selected": chosen, "aria-label": visible(word), "data-key": `line-${row}-${position}`, tabindex: position === own ? 0 : -1 };
  for (const [name, value] of Object.entries(made)) part.setAttribute(name, String(value));
  part.addEventListener("click", choose);
  part.addEventListener("keydown", event => {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      return choose();
    }
    const all = select(/** @type {any} */ (part.parentNode), ".lineword");
    walk(event, all, 1, () => {});
  });
}

function windows(looking, looked) {
  const two = opened.text.keys;
  return [
    turns("from", two && t("windowWho"), looking, size()),
    two && turns("keysfrom", t("windowWhom"), looked, keyCount()),
  ];
}

// Arrows that move the window by as many words as it has.
function turns(name, says, { first, many }, n) {
  const last = first + many - 1;
  if (many >= n) return null;
  const turn = (to, text, off) =>
    h(
      "button",
      { class: "quiet", "data-key": `lines-${name}-${to < first ? "back" : "on"}`, disabled: off, onclick: () => go({ [name]: String(Math.max(to, 0)) }) },
      text,
    );
  return h(
    "p",
    { class: "note pages" },
    says,
    turn(first - many, `← ${t("earlier")}`, first === 0),
    t("wordsOf", { first: count(first), last: count(last), n: count(n) }),
    turn(last + 1, `${t("later")} →`, last === n - 1),
  );
}
