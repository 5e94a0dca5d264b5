// A text in its own spaces and lines, each token tinted by a number; of a long one a page.

import { go, state } from "../reading/state.js";
import { t } from "../words/words.js";
import { paint, tint } from "./color.js";
import { h, select } from "./dom.js";
import { clamp, count, visible, weight } from "./format.js";
import { around } from "./ranking.js";
import { signedBars } from "./vector.js";

/** @import { TextFacts } from "../types" */

const LAID = 1500; // tokens that are laid out at once
const RIGHT_TO_LEFT = /^\P{L}*[\p{Script=Hebrew}\p{Script=Arabic}\p{Script=Syriac}\p{Script=Thaana}\p{Script=Nko}]/u;

/**
 * @typedef {object} Flow
 * @property {TextFacts} of
 * @property {string} name what the text is called
 * @property {"from" | "keysfrom"} from where the address says at which token the page begins
 * @property {number[]} asked the chosen tokens
 * @property {number} at the one that takes the focus
 * @property {(j: number) => number} lookup the number that a token is tinted by
 * @property {boolean} [hide] leaves special tokens out
 * @property {(j: number) => void} pick
 * @property {(j: number) => void} [toggle] chooses with Shift
 */

/** @param {Flow} given */
export function flow({ of, name, from, asked, at, lookup, hide = false, pick, toggle = pick }) {
  const n = of.tokens.length,
    positions = around(state[from] ? Number(state[from]) + LAID / 2 : at, LAID, n),
    backward = RIGHT_TO_LEFT.test(of.text ?? "");
  const box = h(
    "div",
    {
      class: n > 200 ? "flow long" : "flow",
      dir: backward ? "rtl" : "ltr",
      role: "listbox",
      "aria-multiselectable": "true",
      "aria-label": name,
      "data-scroll": `flow-${from}`,
      onclick: event => choose(event, pick, toggle),
      onmousedown: event => event.shiftKey && event.preventDefault(), // else the browser selects text
      onkeydown: event => {
        if (event.key === "Enter" || event.key === " ") return choose(event, pick, toggle);
        const way = backward ? -1 : 1,
          step = { ArrowLeft: -way, ArrowRight: way, ArrowUp: -10, ArrowDown: 10 }[event.key];
        const all = select(box, "[data-j]"),
          index = all.indexOf(event.target);
        if (!step || index < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
        event.preventDefault();
        event.stopPropagation();
        all[clamp(index + step, 0, all.length - 1)].focus();
      },
    },
    laid({ of, from, positions, asked, at, lookup, hide }),
  );
  requestAnimationFrame(() => {
    // of a long text the chosen token is brought into sight
    const token = select(box, ".chosen").at(0),
      top = token ? token.offsetTop - box.offsetTop : 0;
    if (token && (top < box.scrollTop || top > box.scrollTop + box.clientHeight - 30))
      box.scrollTop = top - box.clientHeight / 2;
  });
  return [n > LAID && overview(lookup, n, from), box, positions.length < n && pages(positions, n, from)];
}

function choose(event, pick, toggle) {
  const j = Number(event.target.closest("[data-j]")?.dataset.j ?? NaN);
  if (Number.isNaN(j)) return;
  event.preventDefault();
  if (event.shiftKey) toggle(j);
  else pick(j);
}

function laid({ of, from, positions, asked, at, lookup, hide }) {
  const points = of.text ? [...of.text] : null,
    spans = of.spans ?? [],
    key = from === "from" ? "w" : from;
  const parts = [];
  let last = null;
  for (const j of positions) {
    const special = of.special[j],
      [start, end] = spans[j] ?? [0, 0],
      known = points && end > start;
    if (special && hide) continue;
    const again = known && last !== null && start < last; // one more part of a character
    if (known && last !== null && !again) parts.push(printed(points.slice(last, start).join("")));
    else if (parts.length && !again) parts.push(" ");
    const shownText = again
      ? "\u22ef"
      : known && points.length >= end && !special
        ? printed(points.slice(start, end).join(""))
        : visible(of.tokens[j]);
    const value = lookup(j),
      chosen = asked.includes(j);
    const part = h(
      "bdi",
      {
        class: `w${special ? " special" : ""}${chosen ? " chosen" : ""}`,
        "data-j": j,
        "data-key": `${key}-${j}`,
        role: "option",
        "aria-selected": String(chosen),
        "aria-label": `${visible(of.tokens[j])} ${weight(value)}`,
        title: `${j}: ${weight(value)}`,
        tabindex: j === at ? 0 : -1,
      },
      shownText,
    );
    if (value > 0.0005) paint(part, tint(value));
    parts.push(part);
    if (known) last = end;
  }
  return parts;
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
