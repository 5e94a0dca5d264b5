// The text itself, each word tinted by its weight: where a word looks, and who looks at it.

import { about, foot, here, named, size } from "./here.js";
import { around, barPicture, fullWord, ranking, scale, signedBars } from "./draw.js";
import { bdi, clamp, count, h, visible, weight } from "./dom.js";
import { entriesOf } from "./worked.js";
import { go, list, state } from "./state.js";
import { paint, tint } from "./colour.js";
import { t } from "./words.js";

const WORDS = 1500; // what is laid out at once
const SET = 24; // words of a set
const LISTED = 10;

export async function textView() {
  const { layer, head, word } = state,
    set = list(state.set)
      .map(Number)
      .filter(j => j < size());
  const asked = set.length ? set : [word];
  const [rows, columns] = await Promise.all([
    Promise.all(asked.map(i => about("row", { layer, head, i }))),
    Promise.all(asked.map(j => about("column", { layer, head, j }))),
  ]);
  const to = merge(rows, 1 / asked.length),
    from = merge(columns, 1);
  const special = here.text.special,
    hide = state.hide === "1",
    even = hide && state.even === "1";
  const gone = hide ? [...to.entries()].reduce((sum, [j, value]) => sum + (special[j] ? value : 0), 0) : 0;
  const factor = even && gone < 1 ? 1 / (1 - gone) : 1;
  const lookup = state.dir === "to" ? j => (to.get(j) ?? 0) * factor : j => from.get(j) ?? 0;
  const python = [
    ...new Set([...rows, ...columns].flatMap(answer => (answer.python ?? "").split("\n"))),
  ].join("\n");
  return [
    controls(hide, even),
    hide &&
      h(
        "p",
        { class: "note" },
        t(even ? "hiddenEven" : "hiddenRest", { share: weight(gone), factor: factor.toFixed(3) }),
      ),
    setNote(set),
    size() > WORDS && overview(lookup),
    flow(asked, lookup, hide),
    scale(),
    h(
      "div",
      { class: "twolists" },
      listing("to", t(asked.length > 1 ? "lookAt" : "looksAt"), asked, to, hide, factor),
      listing("from", t("lookedAtBy"), asked, from, hide, 1),
    ),
    foot({
      name: `text-${state.dir}`,
      python,
      data: { words: asked, to: [...to], from: [...from] },
      picture: () =>
        barPicture(
          `${asked.map(fullWord).join(", ")}: ${t(state.dir === "to" ? "looksAt" : "lookedAtBy")}`,
          strong(state.dir === "to" ? to : from, hide)
            .slice(0, 24)
            .map(([j, value]) => [fullWord(j), value * (state.dir === "to" ? factor : 1)]),
        ),
    }),
  ];
}

// Sums of weights by position. Of a set the rows are averaged, the columns added.
function merge(answers, factor) {
  const sums = new Map();
  for (const answer of answers)
    for (const { index, weight: value } of entriesOf(answer))
      sums.set(index, (sums.get(index) ?? 0) + value * factor);
  return sums;
}

function strong(weights, hide) {
  return [...weights]
    .filter(([j, value]) => value > 0 && !(hide && here.text.special[j]))
    .sort((a, b) => b[1] - a[1] || a[0] - b[0]);
}

function controls(hide, even) {
  const choice = (dir, text) =>
    h(
      "button",
      { "data-key": `dir-${dir}`, "aria-pressed": String(state.dir === dir), onclick: () => go({ dir }) },
      text,
    );
  const box = (name, on, text) =>
    h(
      "label",
      { class: "check" },
      h("input", {
        type: "checkbox",
        "data-key": `check-${name}`,
        checked: on,
        onchange: event => go({ [name]: event.target.checked ? "1" : null }),
      }),
      text,
    );
  return h(
    "div",
    { class: "controls" },
    h(
      "span",
      { class: "segmented", role: "group", "aria-label": t("direction") },
      choice("to", t("whereLooks")),
      choice("from", t("whoLooks")),
    ),
    here.text.special.some(Boolean) && box("hide", hide, t("hideSpecial")),
    hide && state.dir === "to" && box("even", even, t("renormalise")),
  );
}

function setNote(set) {
  if (!set.length) return h("p", { class: "note" }, t("shiftSays"));
  return h(
    "p",
    { class: "note" },
    t("setOf", { n: set.length }),
    " ",
    set.flatMap((j, i) => [i ? " " : "", named(j)]),
    " ",
    t(state.dir === "to" ? "setMean" : "setSum"),
    " ",
    h("button", { class: "quiet", "data-key": "set-clear", onclick: () => go({ set: null }) }, t("clearSet")),
  );
}

// The words in the text's own spaces and lines. Of a long text one page, around what is chosen.
function flow(asked, lookup, hide) {
  const positions = around(state.from ? Number(state.from) + WORDS / 2 : state.word, WORDS);
  const points = here.text.text ? [...here.text.text] : null,
    spans = here.text.spans ?? [];
  const parts = [];
  let last = null;
  for (const j of positions) {
    const special = here.text.special[j],
      [start, end] = spans[j] ?? [0, 0],
      known = points && end > start;
    if (special && hide) continue;
    if (known && last !== null && start >= last) parts.push(points.slice(last, start).join(""));
    else if (parts.length) parts.push(" ");
    const shownText =
      known && points.length >= end && !special
        ? points.slice(start, end).join("")
        : visible(here.text.words[j]);
    const value = lookup(j),
      chosen = asked.includes(j);
    const part = h(
      "bdi",
      {
        class: `w${special ? " special" : ""}${chosen ? " chosen" : ""}`,
        "data-j": j,
        "data-key": `w-${j}`,
        role: "option",
        "aria-selected": String(chosen),
        "aria-label": `${visible(here.text.words[j])} ${weight(value)}`,
        title: `${j}: ${weight(value)}`,
        tabindex: j === state.word ? 0 : -1,
      },
      shownText,
    );
    if (value > 0.0005) paint(part, tint(value));
    parts.push(part);
    if (known) last = end;
  }
  const pick = event => {
    const j = Number(event.target.closest("[data-j]")?.dataset.j ?? NaN);
    if (Number.isNaN(j)) return;
    event.preventDefault();
    if (event.shiftKey) toggle(j);
    else go({ word: j, other: null, set: null });
  };
  const box = h(
    "div",
    {
      class: size() > 200 ? "flow long" : "flow",
      role: "listbox",
      "aria-multiselectable": "true",
      "aria-label": t("textOf"),
      "data-scroll": "flow",
      onclick: pick,
      onmousedown: event => event.shiftKey && event.preventDefault(), // else the browser selects text
      onkeydown: event => {
        if (event.key === "Enter" || event.key === " ") return pick(event);
        const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -10, ArrowDown: 10 }[event.key];
        const all = [...box.querySelectorAll("[data-j]")],
          at = all.indexOf(event.target);
        if (!step || at < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
        event.preventDefault();
        event.stopPropagation();
        all[Math.min(Math.max(at + step, 0), all.length - 1)].focus();
      },
    },
    parts,
  );
  requestAnimationFrame(() => {
    // of a long text the chosen word is brought into sight
    const word = box.querySelector(".chosen"),
      top = word ? word.offsetTop - box.offsetTop : 0;
    if (word && (top < box.scrollTop || top > box.scrollTop + box.clientHeight - 30))
      box.scrollTop = top - box.clientHeight / 2;
  });
  const first = positions[0],
    end = positions.at(-1),
    turn = (to, text, off) =>
      h(
        "button",
        {
          class: "quiet",
          "data-key": `turn-${text}`,
          disabled: off,
          onclick: () => go({ from: String(Math.max(0, Math.min(to, size() - WORDS))) }),
        },
        text,
      );
  return [
    box,
    positions.length < size() &&
      h(
        "p",
        { class: "note pages" },
        turn(first - WORDS, t("earlier"), first === 0),
        t("wordsOf", { first: count(first), last: count(end), n: count(size()) }),
        turn(first + WORDS, t("later"), end === size() - 1),
      ),
  ];
}

// Where in a long text the weight lies: the most in each of so many stretches. Click to go there.
function overview(lookup) {
  const n = size(),
    bars = Math.min(n, 512),
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
      const box = drawing.getBoundingClientRect();
      go({
        from: String(
          clamp(Math.round(((event.clientX - box.left) / box.width) * n - WORDS / 2), 0, n - WORDS),
        ),
      });
    },
  });
  drawing.setAttribute("viewBox", `0 0 ${bars} 100`);
  return h("figure", {}, drawing, h("figcaption", {}, t("overview")));
}

function toggle(j) {
  const set = new Set(list(state.set).length ? list(state.set).map(Number) : [state.word]);
  if (set.has(j)) set.delete(j);
  else if (set.size < SET) set.add(j);
  go({ set: [...set].sort((a, b) => a - b).join(",") || null });
}

// The strongest words one way, as buttons that go there.
function listing(kind, title, asked, weights, hide, factor) {
  const ranked = strong(weights, hide),
    at = ranked.slice(0, LISTED).map(([j]) => j);
  const rest = ranked.slice(LISTED).reduce((sum, [, value]) => sum + value, 0) * factor;
  const head = asked.length > 1 ? t("setOf", { n: asked.length }) : bdi(here.text.words[asked[0]]);
  return h(
    "section",
    {},
    h("h3", {}, kind === "to" ? [head, " ", title] : [title, " ", head]),
    at.length
      ? ranking({
          name: `list-${kind}`,
          at,
          chosen: state.word,
          pick: j => go({ word: j, other: null, set: null }),
          columns: [
            {
              title: t("weight"),
              value: j => weights.get(j) * factor,
              text: weight,
              kind: kind === "to" ? "up" : "down",
            },
          ],
        })
      : h("p", { class: "note" }, t("nobody")),
    ranked.length > LISTED &&
      h("p", { class: "note" }, t("restShare", { n: count(ranked.length - LISTED), share: weight(rest) })),
  );
}
