// One weight and one row of weights, worked out with the numbers that make them.

import { h } from "../parts/dom.js";
import { number, power, short, weight } from "../parts/format.js";
import { listed, ranking } from "../parts/ranking.js";
import { keyTag, tokenTag } from "../parts/token.js";
import { signedBars } from "../parts/vector.js";
import { t } from "../words/words.js";

/** @import { CellAnswer, ColumnAnswer, RowAnswer, StrongFacts, TermFacts } from "../types" */
/** @import { RankingColumn } from "../parts/ranking.js" */

/** @typedef {StrongFacts & { weight: number }} Entry */

/**
 * The strongest positions of a row, whether all of it came or, of a long text, the strongest alone.
 *
 * @param {Pick<RowAnswer, "weights" | "effects" | "strongest"> | ColumnAnswer} row
 * @returns {Entry[]}
 */
export function entriesOf(row) {
  const effects = "effects" in row ? row.effects : undefined;
  const found = row.weights
    ? row.weights.map((value, j) => ({ index: j, weight: value, effect: effects?.[j] ?? null }))
    : (/** @type {RowAnswer} */ (row).strongest ?? []);
  return /** @type {Entry[]} */ (found.filter(one => one.weight !== null));
}

/**
 * Weights by position.
 *
 * @param {RowAnswer | ColumnAnswer} answer
 * @returns {Map<number, number>}
 */
export function weightsOf(answer) {
  return new Map(entriesOf(answer).map(({ index, weight: value }) => [index, value]));
}

/** @param {RowAnswer | ColumnAnswer} row */
export function strongest(row) {
  return entriesOf(row).sort((a, b) => b.weight - a.weight || a.index - b.index);
}

/**
 * From q . k to the weight, one line for each stage.
 *
 * @param {CellAnswer} cell
 * @param {number} i
 * @param {number} j
 */
export function cellSheet(cell, i, j) {
  if (cell.hidden)
    return h("div", { class: "cell" }, h("h4", {}, tokenTag(i), " → ", keyTag(j)), h("p", {}, t("cellHidden")));
  // One line for each stage: what is done, the number after it, why.
  const line = (name, value, say) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, name),
      h("td", { class: "right", title: String(value) }, number(value)),
      h("td", { class: "say" }, say),
    );
  const capped = cell.capped ?? null;
  const lines = [
    line("q · k", cell.dot, t("sumOf", { n: cell.terms.length })),
    line(`× ${short(cell.scale)}`, cell.scaled, t(cell.scale === 1 ? "noScaleSays" : "scaleSays")),
    capped !== null && line(t("softcap", { cap: short(cell.softcap) }), capped, t("softcapSays")),
    cell.bias !== null && line(`+ ${number(cell.bias)}`, cell.score, t("biasSays")),
    line(
      `− ${number(cell.lse)}`,
      (cell.score ?? NaN) - (cell.lse ?? NaN),
      t(cell.sink === null ? "lseSays" : "lseSinkSays", { sink: number(cell.sink) }),
    ),
  ];
  const result = h(
    "tr",
    { class: "result" },
    h("th", { scope: "row" }, "exp"),
    h("td", { class: "right", title: String(cell.weight) }, weight(cell.weight)),
    h("td", { class: "say" }, t("weightOf"), " ", tokenTag(i), " → ", keyTag(j)),
  );
  return h(
    "div",
    { class: "cell" },
    h("h4", {}, t("worked"), " ", tokenTag(i), " → ", keyTag(j)),
    termBars(cell.terms),
    h("table", { class: "chain" }, h("tbody", {}, lines, result)),
    termTable(cell.terms),
  );
}

/**
 * Every product q_d k_d as a bar; point or use the arrows to read one.
 *
 * @param {TermFacts[]} terms
 */
function termBars(terms) {
  const say = h("output", { class: "say" }, t("pointTerm"));
  const bars = signedBars(
    terms.map(term => term.product),
    {
      class: "terms",
      role: "slider",
      tabindex: 0,
      "data-key": "terms",
      "aria-label": t("terms"),
      "aria-valuemin": 0,
      "aria-valuemax": terms.length - 1,
      "aria-valuenow": 0,
    },
  );
  let at = -1;
  const tell = to => {
    if (to < 0 || to >= terms.length || to === at) return;
    at = to;
    const { q, k, product } = terms[at],
      text = `q[${at}] k[${at}] = ${number(q)} × ${number(k)} = ${number(product)}`;
    say.textContent = text;
    bars.setAttribute("aria-valuenow", String(at));
    bars.setAttribute("aria-valuetext", text);
  };
  bars.addEventListener("pointermove", event => {
    const box = bars.getBoundingClientRect();
    tell(Math.floor(((event.clientX - box.left) / box.width) * terms.length));
  });
  bars.addEventListener("keydown", event => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    tell(Math.max(0, at + step));
  });
  return h("div", { class: "termbox" }, bars, say);
}

/** @param {TermFacts[]} terms */
function termTable(terms) {
  const all = h("details", { class: "all" }, h("summary", {}, t("allTerms", { n: terms.length })));
  all.addEventListener("toggle", () => {
    if (!all.open || all.children.length > 1) return;
    const head = h(
      "tr",
      {},
      ["", "q", "k", "q · k"].map(name => h("th", { scope: "col", class: "right" }, name)),
    );
    const rows = terms.map((term, d) =>
      h(
        "tr",
        {},
        h("td", { class: "at" }, d),
        [term.q, term.k, term.product].map(value => h("td", { class: "right" }, String(value))),
      ),
    );
    all.append(
      h(
        "div",
        { class: "scroll", tabindex: 0 },
        h("table", { class: "exact" }, h("thead", {}, head), h("tbody", {}, rows)),
      ),
    );
  });
  return all;
}

/**
 * The row's weights, what each token adds, or both, so that a sink shows: much weight, little effect.
 *
 * @typedef {object} RowShown
 * @property {string} name
 * @property {(j: number) => void} pick
 * @property {number} [chosen]
 * @property {(number | null)[]} [scores]
 * @property {"weight" | "effect" | "both"} [shows]
 * @property {RowAnswer} [without] the row without one of its links, to stand beside it on one scale
 *
 * @param {RowAnswer} row
 * @param {RowShown} shown
 */
export function rowSheet(row, { name, pick, chosen, scores, shows = "weight", without }) {
  const entries = new Map(entriesOf(row).map(one => [one.index, one])),
    ranked = strongest(row).map(one => one.index);
  const seen = j => (scores?.[j] === null ? null : entries.get(j)); // a hidden token has no score
  const at = listed(ranked);
  /** @type {RankingColumn[]} */
  const columns = [];
  if (shows !== "effect") columns.push({ title: t("weight"), unit: "share", value: j => seen(j)?.weight, text: weight });
  if (shows !== "weight") columns.push({ title: t("effect"), unit: "length", value: j => seen(j)?.effect, text: weight, kind: "down" });
  if (without) columns.push(columnWithout(without, shows === "effect" ? "effect" : "weight", seen));
  const rest = ranked.filter(j => !at.includes(j)),
    left = rest.reduce((sum, j) => sum + (entries.get(j)?.weight ?? 0), 0);
  return [
    ranking({ name, at, columns, pick, chosen }),
    rest.length > 0 &&
      h(
        "p",
        { class: "note" },
        t(row.weights ? "restShare" : "restShareKept", { n: rest.length, share: weight(left) }),
      ),
    row.sink !== null &&
      row.sink !== undefined &&
      h("p", { class: "note" }, t("sinkTakes", { sink: weight(row.sink) })),
  ];
}

/**
 * The same column of the row without a link.
 *
 * @param {RowAnswer} without
 * @param {"weight" | "effect"} shows
 * @param {(j: number) => Entry | null | undefined} seen none of a token that the mask hides
 * @returns {RankingColumn}
 */
function columnWithout(without, shows, seen) {
  const entries = new Map(entriesOf(without).map(one => [one.index, one]));
  const value = j => seen(j) && entries.get(j)?.[shows];
  return { ...(shows === "effect" ? { unit: "length", kind: "down" } : { unit: "share" }), title: t("withoutIt"), value, text: weight };
}

/** @param {RowAnswer} row */
export function residual(row) {
  const found = row.residual;
  if (!found) return null;
  const facts = {
    difference: found.difference ? power(found.difference) : "0",
    tolerance: power(found.tolerance),
  };
  return h(
    "p",
    { class: found.holds ? "residual" : "residual failed" },
    t(found.holds ? "residualHolds" : "residualFailed", facts),
  );
}
