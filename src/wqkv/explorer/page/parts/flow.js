// A text in its own spaces and lines, its pictures in place, each token tinted by a number; of a long
// one a page.

import { go, state } from "../reading/state.js";
import { t } from "../words/words.js";
import { paint, signedRamp } from "./color.js";
import { fill, h, select } from "./dom.js";
import { clamp, count, visible } from "./format.js";
import { pictureAt } from "./patch.js";
import { lookOf, paintCell, photo } from "./photo.js";
import { around } from "./ranking.js";
import { tokenTag } from "./token.js";
import { signedBars } from "./vector.js";

/** @import { PictureFacts, TextFacts } from "../types" */
/** @import { Look } from "./photo.js" */

const LAID = 1500; // tokens that are laid out at once
const PEEKED = 3; // tokens that are named of those that one looks at
const PAUSE = 60; // milliseconds that the pointer rests, before a token is asked about
const RIGHT_TO_LEFT = /^\P{L}*[\p{Script=Hebrew}\p{Script=Arabic}\p{Script=Syriac}\p{Script=Thaana}\p{Script=Nko}]/u;

/**
 * @typedef {(j: number) => number} Lookup the number of each token
 *
 * @typedef {object} Peek what is seen while the pointer is at a token, and what is said of it then
 * @property {(j: number) => Promise<Lookup>} ask
 * @property {(j: number) => unknown} says
 *
 * @typedef {object} Flow
 * @property {TextFacts} of
 * @property {string} name what the text is called
 * @property {"from" | "keysfrom"} from where the address says at which token the page begins
 * @property {number[]} asked the chosen tokens
 * @property {number} at the one that takes the focus
 * @property {Lookup} [lookup] what a token is tinted by; without it pictures have their own colors
 * @property {Look} [look] how the numbers are seen, if they are no weights
 * @property {boolean} [hide] leaves special tokens out
 * @property {(j: number) => void} pick
 * @property {(j: number) => void} [toggle] chooses with Shift
 * @property {number[]} [gone] cells that are crossed out
 * @property {Peek} [peek]
 */

/** @param {Flow} given */
export function flow(given) {
  const { of, name, from, at, lookup = () => 0, pick, toggle = pick, peek } = given;
  const n = of.tokens.length,
    patches = of.pictures.reduce((sum, { rows, columns }) => sum + rows * columns, 0),
    positions = around(state[from] ? Number(state[from]) + LAID / 2 : at, LAID, n),
    backward = RIGHT_TO_LEFT.test(of.text ?? "");
  const box = h(
    "div",
    {
      class: `flow${n - patches > 200 ? " long" : ""}${isPicture(of) ? " picture" : ""}`,
      dir: backward ? "rtl" : "ltr",
      role: "listbox",
      "aria-multiselectable": "true",
      "aria-label": name,
      "data-scroll": `flow-${from}`,
      onclick: event => choose(event, pick, toggle),
      onmousedown: event => event.shiftKey && event.preventDefault(), // else the browser selects text
      onkeydown: event => {
        if (event.key === "Enter" || event.key === " ") return choose(event, pick, toggle);
        const all = select(box, "[data-j]"),
          index = all.indexOf(event.target),
          way = backward ? -1 : 1,
          line = pictureAt(of, Number(event.target.dataset.j))?.columns ?? 10,
          step = { ArrowLeft: -way, ArrowRight: way, ArrowUp: -line, ArrowDown: line }[event.key];
        if (!step || index < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
        event.preventDefault();
        event.stopPropagation();
        all[clamp(index + step, 0, all.length - 1)].focus();
      },
    },
    laid(given, positions),
  );
  requestAnimationFrame(() => {
    // of a long text the chosen token is brought into sight
    const token = select(box, ".chosen").at(0),
      top = token ? token.offsetTop - box.offsetTop : 0;
    if (token && (top < box.scrollTop || top > box.scrollTop + box.clientHeight - 30))
      box.scrollTop = top - box.clientHeight / 2;
  });
  return [n > LAID && overview(lookup, n, from), box, peek && peeking(box, given, peek), positions.length < n && pages(positions, n, from)];
}

// Whether nothing but special tokens stands beside one picture.
function isPicture({ pictures, special }) {
  return pictures.length === 1 && special.every((one, j) => one || pictureAt({ pictures }, j));
}

function choose(event, pick, toggle) {
  const j = Number(event.target.closest("[data-j]")?.dataset.j ?? NaN);
  if (Number.isNaN(j)) return;
  event.preventDefault();
  if (event.shiftKey) toggle(j);
  else pick(j);
}

/**
 * @param {Flow} given
 * @param {number[]} positions
 */
function laid(given, positions) {
  const { of, hide = false } = given,
    points = of.text ? [...of.text] : null,
    spans = of.spans ?? [];
  const parts = [];
  let last = null;
  /** @type {PictureFacts | undefined} */
  let pictured; // the last picture that was laid
  for (const j of positions) {
    const special = of.special[j],
      [start, end] = spans[j] ?? [0, 0],
      known = points && end > start,
      picture = pictureAt(of, j);
    if (special && hide) continue;
    if (picture) {
      if (picture !== pictured) parts.push(laidPicture(given, picture));
      pictured = picture;
      continue;
    }
    const again = known && last !== null && start < last; // one more part of a character
    if (known && last !== null && !again) parts.push(printed(points.slice(last, start).join("")));
    else if (parts.length && !again) parts.push(" ");
    const shownText = again
      ? "\u22ef"
      : known && points.length >= end && !special
        ? printed(points.slice(start, end).join(""))
        : visible(of.tokens[j]);
    const beside = special && of.pictures.length > 0 && h("small", { class: "says" }); // its number
    const part = option(given, j, "bdi", special ? "w special" : "w", shownText, beside);
    tellOption(part, given, given.lookup);
    parts.push(part);
    if (known) last = end;
  }
  return parts;
}

/**
 * @param {Flow} given
 * @param {PictureFacts} picture
 */
function laidPicture(given, picture) {
  const cells = Array.from({ length: picture.rows * picture.columns }, (_, at) => {
    const j = picture.first + at,
      cell = option(given, j, "i", given.gone?.includes(j) ? "cell gone" : "cell");
    tellOption(cell, given, given.lookup);
    return cell;
  });
  return photo(picture, cells, given.lookup ? "photo" : "photo colored");
}

/**
 * A token that can be chosen.
 *
 * @param {Flow} given
 * @param {number} j
 * @param {"bdi" | "i"} tag
 * @param {string} kind
 */
function option({ asked, at, from }, j, tag, kind, ...inside) {
  const chosen = asked.includes(j);
  return h(
    tag,
    {
      class: chosen ? `${kind} chosen` : kind,
      "data-j": j,
      "data-key": `${from === "from" ? "w" : from}-${j}`,
      role: "option",
      "aria-selected": String(chosen),
      tabindex: j === at ? 0 : -1,
    },
    inside,
  );
}

/**
 * Gives a token its number: as its color and in words.
 *
 * @param {HTMLElement} part
 * @param {Flow} given
 * @param {Lookup} [lookup]
 */
function tellOption(part, { of, look = lookOf(of) }, lookup) {
  const j = Number(part.dataset.j),
    cell = part.matches(".cell"),
    [level, says] = lookup ? [look.level(lookup(j)), look.text(lookup(j))] : [0, ""];
  part.ariaLabel = `${visible(of.tokens[j])} ${says}`.trim();
  part.title = `${cell ? of.tokens[j] : j}${says && `: ${says}`}`;
  if (cell) return paintCell(part, level);
  for (const beside of select(part, ".says")) beside.textContent = says;
  part.style.backgroundColor = part.style.color = "";
  if (Math.abs(level) > 0.022) paint(part, signedRamp(level));
}

/**
 * Shows the numbers of the token that the pointer is at, and says them in a line of its own.
 *
 * @param {HTMLElement} box
 * @param {Flow} given
 * @param {Peek} peek
 */
function peeking(box, given, peek) {
  const { of, look = lookOf(of) } = given,
    line = h("output", { class: "note peek" }, t("pointPatch"));
  let at = NaN; // what the pointer is at
  const show = (lookup, ...says) => {
    for (const part of select(box, "[data-j]")) tellOption(part, given, lookup);
    fill(line, says);
  };
  box.addEventListener("pointerover", event => {
    const part = /** @type {HTMLElement} */ (event.target).closest("[data-j]"),
      j = Number(/** @type {HTMLElement | null} */ (part)?.dataset.j ?? NaN);
    if (event.pointerType !== "mouse" || j === at) return;
    at = j;
    setTimeout(async () => {
      const found = at === j && !Number.isNaN(j) ? await peek.ask(j).catch(() => null) : null;
      if (at !== j || !found) return;
      const best = [...of.tokens.keys()].sort((a, b) => found(b) - found(a)).slice(0, PEEKED);
      show(found, peek.says(j), best.map(k => [" ", tokenTag(k, of), " ", h("b", {}, look.text(found(k)))]));
    }, PAUSE);
  });
  box.addEventListener("pointerleave", () => {
    at = NaN;
    show(given.lookup, t("pointPatch"));
  });
  return line;
}

// A part of the text with its own blanks and lines; what would turn the reading direction is spelled out.
function printed(text) {
  return text.replace(/[^\P{C}\n\r\t\u200c\u200d]/gu, visible);
}

function pages(positions, n, from) {
  const first = positions[0],
    end = positions.at(-1);
  const turn = (to, text, off) =>
    h(
      "button",
      {
        class: "quiet",
        "data-key": `turn-${from}-${text}`,
        disabled: off,
        onclick: () => go({ [from]: String(clamp(to, 0, n - LAID)) }),
      },
      text,
    );
  return h(
    "p",
    { class: "note pages" },
    turn(first - LAID, t("earlier"), first === 0),
    t("wordsOf", { first: count(first), last: count(end), n: count(n) }),
    turn(first + LAID, t("later"), end === n - 1),
  );
}

// Where in a long text the weight lies: the most in each of so many stretches. Click to go there.
function overview(lookup, n, from) {
  const bars = Math.min(n, 512),
    most = Array.from({ length: bars }, (_, b) => {
      let top = 0;
      for (let j = Math.floor((b * n) / bars); j < Math.floor(((b + 1) * n) / bars); j++)
        top = Math.max(top, lookup(j));
      return top;
    });
  const drawing = signedBars(most.map(Math.sqrt), {
    class: "overview",
    role: "img",
    "aria-label": t("overview"),
    onclick: event => {
      const box = drawing.getBoundingClientRect(),
        to = Math.round(((event.clientX - box.left) / box.width) * n - LAID / 2);
      go({ [from]: String(clamp(to, 0, n - LAID)) });
    },
  });
  drawing.setAttribute("viewBox", `0 0 ${bars} 100`);
  return h("figure", {}, drawing, h("figcaption", {}, t("overview")));
}
