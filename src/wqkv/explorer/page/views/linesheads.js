// Which heads of the layer are laid over each other, the color of each, and the row that chooses them.

import { currentColor } from "../parts/color.js";
import { h } from "../parts/dom.js";
import { opened } from "../reading/opened.js";
import { go, list, state } from "../reading/state.js";
import { t } from "../words/words.js";

const COLORS = 7, // beside the page's blue, which the chosen head has: style/lines.css
  DOUBLE = 250; // milliseconds in which a second click makes a double one

/**
 * How a head's lines are drawn; `dash` is "" or a stroke-dasharray.
 *
 * @typedef {{ head: number, color: string, dash: string }} HeadLook
 */

// The heads that the address names beside the chosen one, in its order: with=4,7 or with=all.
function others() {
  const { n_head } = opened.model,
    named = state.with === "all" ? [...Array(n_head).keys()] : list(state.with).map(Number);
  return [...new Set(named)].filter(one => Number.isInteger(one) && one < n_head && one !== state.head);
}

/**
 * The chosen head first, so that it is drawn above the others at the end.
 *
 * @returns {HeadLook[]}
 */
export function shownHeads() {
  const taken = new Set();
  const looks = others().map(head => {
    // A head keeps its color while others come and go, unless two want the same one.
    let slot = head % COLORS;
    const round = Math.floor(taken.size / COLORS);
    while (taken.has(slot + round * COLORS)) slot = (slot + 1) % COLORS;
    taken.add(slot + round * COLORS);
    return { head, color: currentColor(`--head-${slot}`), dash: ["", "7 4", "2 3"][Math.min(round, 2)] };
  });
  return [{ head: state.head, color: currentColor("--up"), dash: "" }, ...looks];
}

/**
 * A button for each head of the layer: which are shown, in which color.
 *
 * @param {HeadLook[]} shown
 * @param {(head: number | null) => void} point is told of the head that is pointed at
 */
export function headRow(shown, point) {
  const { n_head } = opened.model,
    { layer, head: chosen } = state,
    looks = new Map(shown.map(look => [look.head, look]));
  if (n_head === 1) return null;
  const buttons = [...Array(n_head).keys()].map(head => headButton(head, looks.get(head), point));
  return h(
    "div",
    { class: "headsover" },
    h(
      "div",
      { class: "headbuttons", role: "group", "aria-label": t("headsOver", { layer }) },
      h("span", { class: "note" }, t("headsOver", { layer })),
      buttons,
      looks.size < n_head &&
        h("button", { class: "quiet", "data-key": "heads-all", onclick: () => go({ with: "all" }) }, t("overlayAll")),
      looks.size > 1 &&
        h(
          "button",
          { class: "quiet", "data-key": "heads-one", onclick: () => go({ with: null }) },
          t("oneHead", { head: chosen }),
        ),
    ),
    h(
      "p",
      { class: "note" },
      t("headsSay"),
      looks.size > 1 && [" ", t("colorsSay")],
      looks.size > COLORS + 1 && [" ", t("colorsDashed")],
    ),
  );
}

/**
 * @param {number} head
 * @param {HeadLook | undefined} look none: the head is not shown
 * @param {(head: number | null) => void} point
 */
function headButton(head, look, point) {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let waiting;
  const swatch = h("i");
  if (look?.dash) swatch.style.background = `repeating-linear-gradient(90deg, ${look.color} 0 4px, transparent 4px 6px)`;
  else if (look) swatch.style.background = look.color;
  return h(
    "button",
    {
      class: look ? "headbutton on" : "headbutton",
      "data-key": `over-${head}`,
      "aria-pressed": String(Boolean(look)),
      "aria-label": t("headName", { head }),
      title: t("headName", { head }),
      onclick: event => {
        clearTimeout(waiting);
        if (event.detail > 1) return alone(head);
        // A drawing that changes at once would take the button from under a double click.
        if (event.detail === 1) waiting = setTimeout(() => toggleHead(head), DOUBLE);
        else toggleHead(head); // by the space bar
      },
      onkeydown: event => {
        if (event.key !== "Enter") return;
        event.preventDefault();
        alone(head);
      },
      onpointerenter: () => look && point(head),
      onpointerleave: () => point(null),
    },
    swatch,
    head,
  );
}

function alone(head) {
  go({ head, with: null, other: null });
}

// One head is always shown: of the last one nothing is taken off.
function toggleHead(head) {
  const beside = others();
  if (head !== state.head)
    return go({ with: (beside.includes(head) ? beside.filter(one => one !== head) : [...beside, head]).join(",") });
  if (!beside.length) return;
  const [next, ...rest] = beside;
  go({ head: next, with: rest.join(","), other: null });
}
