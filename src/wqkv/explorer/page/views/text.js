// The text itself, each token tinted by its weight: where a token looks, and who looks at it.

import { foot, pythonOf } from "../frame/foot.js";
import { h, select } from "../parts/dom.js";
import { flow } from "../parts/flow.js";
import { count, weight } from "../parts/format.js";
import { photograph } from "../parts/photograph.js";
import { scaleOf } from "../parts/photo.js";
import { barPicture } from "../parts/picture.js";
import { rankings } from "../parts/ranking.js";
import { named, tokenTag, tokenWithPosition } from "../parts/token.js";
import { askFor, opened, size } from "../reading/opened.js";
import { go, list, state } from "../reading/state.js";
import { LOOKED_AT_BY, LOOKS_AT } from "../steps/peek.js";
import { entriesOf } from "../steps/worked.js";
import { t } from "../words/words.js";
import { checkbox, direction, drawnAs, linesView } from "./lines.js";

/** @import { ColumnAnswer, RowAnswer } from "../types" */

const SET = 24; // tokens of a set
const LISTED = 10;

export async function textView() {
  if (state.as === "lines") return linesView();
  const { layer, head, token } = state,
    set = list(state.set)
      .map(Number)
      .filter(j => j < size());
  const asked = set.length ? set : [token];
  const [rows, columns] = await Promise.all([
    Promise.all(asked.map(i => askFor("row", { layer, head, i }))),
    Promise.all(asked.map(j => askFor("column", { layer, head, j }))),
  ]);
  const to = merge(rows, 1 / asked.length),
    from = merge(columns, 1);
  const special = opened.text.special,
    hide = state.hide === "1",
    even = hide && state.even === "1";
  const gone = hide ? [...to.entries()].reduce((sum, [j, value]) => sum + (special[j] ? value : 0), 0) : 0;
  const factor = even && gone < 1 ? 1 / (1 - gone) : 1;
  const lookup = state.dir === "to" ? j => (to.get(j) ?? 0) * factor : j => from.get(j) ?? 0;
  const pictured = opened.text.pictures.length > 0,
    shown = h("div", { class: pictured ? "whole" : null }, flow({ of: opened.text, name: t("textOf"), from: "from", asked, at: token, lookup, hide, pick, toggle, peek: pictured ? (state.dir === "to" ? LOOKS_AT : LOOKED_AT_BY) : undefined })),
    title = `${asked.map(j => tokenWithPosition(j)).join(", ")}: ${t(state.dir === "to" ? "looksAt" : "lookedAtBy")}`;
  return [
    controls(hide, even),
    hide &&
      h(
        "p",
        { class: "note" },
        t(even ? "hiddenEven" : "hiddenRest", { share: weight(gone), factor: factor.toFixed(3) }),
      ),
    setNote(set),
    shown,
    scaleOf(opened.text),
    h(
      "div",
      { class: "twolists" },
      listings(asked, [
        { name: "to", title: t(asked.length > 1 ? "lookAt" : "looksAt"), ranked: strong(to, hide), factor },
        { name: "from", title: t("lookedAtBy"), ranked: strong(from, hide), factor: 1 },
      ]),
    ),
    foot({
      name: `text-${state.dir}`,
      python: pythonOf([...rows, ...columns]),
      data: { tokens: asked, to: [...to], from: [...from] },
      picture: () =>
        pictured
          ? photograph(select(shown, ".flow")[0], [title, `${opened.model.name}, ${t("atBoth", { layer, head })}, ${opened.text.text}`])
          : barPicture(
              title,
              strong(state.dir === "to" ? to : from, hide)
                .slice(0, 24)
                .map(([j, value]) => [tokenWithPosition(j), value * (state.dir === "to" ? factor : 1)]),
            ),
    }),
  ];
}

/**
 * Sums of weights by position. Of a set the rows are averaged, the columns added.
 *
 * @param {(RowAnswer | ColumnAnswer)[]} answers
 * @param {number} factor
 * @returns {Map<number, number>}
 */
function merge(answers, factor) {
  const sums = new Map();
  for (const answer of answers)
    for (const { index, weight: value } of entriesOf(answer))
      sums.set(index, (sums.get(index) ?? 0) + value * factor);
  return sums;
}

function strong(weights, hide) {
  return [...weights]
    .filter(([j, value]) => value > 0 && !(hide && opened.text.special[j]))
    .sort((a, b) => b[1] - a[1] || a[0] - b[0]);
}

function controls(hide, even) {
  return h(
    "div",
    { class: "controls" },
    drawnAs(),
    direction(),
    opened.text.special.some(Boolean) && checkbox("hide", hide, t("hideSpecial")),
    hide && state.dir === "to" && checkbox("even", even, t("renormalize")),
  );
}

function setNote(set) {
  if (!set.length) return h("p", { class: "note" }, t("shiftSays"));
  return h(
    "p",
    { class: "note" },
    t("setIs", { n: set.length }),
    " ",
    set.flatMap((j, i) => [i ? " " : "", tokenTag(j)]),
    " ",
    t(state.dir === "to" ? "setMean" : "setSum"),
    " ",
    h("button", { class: "quiet", "data-key": "set-clear", onclick: () => go({ set: null }) }, t("clearSet")),
  );
}

function pick(j) {
  go({ token: j, other: null, set: null });
}

function toggle(j) {
  const set = new Set(list(state.set).length ? list(state.set).map(Number) : [state.token]);
  if (set.has(j)) set.delete(j);
  else if (set.size < SET) set.add(j);
  go({ set: [...set].sort((a, b) => a - b).join(",") || null });
}

/**
 * The strongest tokens each way, as buttons that go there: on one scale.
 *
 * @param {number[]} asked
 * @param {{ name: string, title: string, ranked: [number, number][], factor: number }[]} ways
 */
function listings(asked, ways) {
  const head = asked.length > 1 ? t("setOf", { n: asked.length }) : named(opened.text, asked[0]);
  const tables = rankings(
    ways.map(({ name, ranked, factor }) => {
      const values = new Map(ranked);
      return {
        name: `list-${name}`,
        at: ranked.slice(0, LISTED).map(([j]) => j),
        chosen: state.token,
        pick,
        columns: [
          { title: t("weight"), unit: "share", value: j => (values.get(j) ?? 0) * factor, text: weight, kind: name === "to" ? "up" : "down" },
        ],
      };
    }),
  );
  return ways.map(({ name, title, ranked, factor }, n) => {
    const rest = ranked.slice(LISTED),
      share = rest.reduce((sum, [, value]) => sum + value, 0) * factor;
    return h(
      "section",
      {},
      h("h3", {}, name === "to" ? [head, " ", title] : [title, " ", head]),
      ranked.length ? tables[n] : h("p", { class: "note" }, t("nobody")),
      rest.length > 0 && h("p", { class: "note" }, t("restShare", { n: count(rest.length), share: weight(share) })),
    );
  });
}
