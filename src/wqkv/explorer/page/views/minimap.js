// The whole of one head's map in small: block means, received weight, distances, strongest links.

import { h, svg } from "../parts/dom.js";
import { clamp, count, short, weight } from "../parts/format.js";
import { drawThumbnail, topOf } from "../parts/thumbnail.js";
import { keyTag, tokenTag } from "../parts/token.js";
import { bar, sharesOf, topsOf } from "../parts/vector.js";
import { keyCount, opened, size } from "../reading/opened.js";
import { state } from "../reading/state.js";
import { t } from "../words/words.js";

/** @import { DistancesAnswer, LinkFacts, ReceivedAnswer, ThumbnailAnswer } from "../types" */
/** @import { Unit } from "../parts/vector.js" */
/** @import { Mapped } from "./mapped.js" */

/**
 * The whole text as block means, and the rectangle that is shown exactly.
 *
 * @param {ThumbnailAnswer} blocks
 * @param {Mapped} what
 * @param {[number, number, number]} shown
 * @param {(q0: number, k0: number, span: number) => void} moveTo
 */
export function minimap({ values = [] }, what, [q0, k0, span], moveTo) {
  const n = size(),
    m = keyCount(),
    least = count_ => Math.max(Math.min(span, count_), count_ / 60),
    frame = svg(
      "svg",
      { class: "frame", viewBox: `0 0 ${m} ${n}`, preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("rect", { x: k0, y: q0, width: least(m), height: least(n) }),
    );
  const box = h(
    "div",
    {
      class: "minimap",
      tabindex: 0,
      role: "application",
      "aria-label": t("minimapKeys"),
      "data-key": "minimap",
      onclick: event => {
        const sides = box.getBoundingClientRect();
        moveTo(
          ((event.clientY - sides.top) / sides.height) * n - span / 2,
          ((event.clientX - sides.left) / sides.width) * m - span / 2,
          span,
        );
      },
      onkeydown: event => {
        const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[
          event.key
        ];
        if (!move) return;
        event.preventDefault();
        event.stopPropagation();
        const by = event.shiftKey ? span * 8 : span / 2;
        moveTo(q0 + move[0] * by, k0 + move[1] * by, span);
      },
    },
    drawThumbnail(values, topOf(values)),
    frame,
  );
  box.style.aspectRatio = String(clamp(m / n, 0.5, 2));
  const [high, wide] = [values.length, values[0].length],
    facts = { n: count(n), m: count(m), size: high, high, wide, top: what.text(topOf(values)).replace("+", "") };
  if (what.kind !== "weight") return [box, h("p", { class: "note" }, t("minimapSizes", facts))];
  if (n <= high && m <= wide) return [box, h("p", { class: "note" }, t("eachCell"))];
  return [box, h("p", { class: "note" }, opened.text.keys ? t("minimapBoth", facts) : t("minimapSays", facts))];
}

/**
 * What every token receives, over the whole text.
 *
 * @param {ReceivedAnswer} received
 */
export function gutter({ edges, values }) {
  const top = Math.max(...values.map(value => value ?? 0), 0) || 1;
  return svg(
    "svg",
    {
      class: "gutter",
      viewBox: `0 0 ${keyCount()} 100`,
      preserveAspectRatio: "none",
      role: "img",
      "aria-label": t("receivedBy"),
    },
    svg("path", { class: "down", d: gutterPath(values, edges, top) }),
  );
}

// At most 1024 bars, each as high as the most that one of its tokens receives.
function gutterPath(values, edges, top) {
  let path = "";
  const per = edges ? 1 : Math.ceil(values.length / 1024);
  for (let i = 0; i < values.length; i += per) {
    const most = Math.max(...values.slice(i, i + per)),
      x = edges ? edges[i] : i,
      wide = edges ? edges[i + 1] - edges[i] : per;
    path += `M${x} 100v${-((most / top) * 100).toFixed(1)}h${wide}V100z`;
  }
  return path;
}

/**
 * @param {DistancesAnswer} found
 * @param {{ unit: Unit, value: number | null }[]} beside what stands beside the table
 */
export function histogram({ edges, mass, mean }, beside) {
  const tops = topsOf([...sharesOf(mass), ...beside]),
    rows = mass.map((value, b) => {
      const [low, high] = [edges[b], edges[b + 1] - 1];
      return h(
        "tr",
        {},
        h("th", { scope: "row", class: "right" }, low >= high ? count(low) : `${count(low)}–${count(high)}`),
        h("td", { class: "right", title: String(value) }, weight(value)),
        h("td", { class: "barcell" }, bar(value, tops, "share")),
      );
    });
  return h(
    "section",
    {},
    h("h3", {}, t("distances")),
    h(
      "table",
      { class: "ranking n1 bins" },
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          h("th", { scope: "col", class: "right" }, t("wordsAway")),
          h("th", { scope: "col", class: "right" }, t("weight")),
          h("td", {}),
        ),
      ),
      h("tbody", {}, rows),
    ),
    h("p", { class: "note" }, t("meanDistance", { mean: short(mean, 3) })),
  );
}

/**
 * @param {LinkFacts[]} links
 * @param {Mapped} what
 * @param {string} title
 * @param {(i: number, j: number) => void} pick
 * @param {{ unit: Unit, value: number | null }[]} beside what stands beside the table
 */
export function linkTable(links, { kind, text }, title, pick, beside = []) {
  const unit = /** @type {Unit} */ ({ weight: "share", contribution: "length", effect: "change" }[kind]),
    tops = topsOf([...links.map(one => ({ unit, value: one.weight })), ...beside]),
    effect = kind === "effect" ? { signed: true, kind: "down", below: "up" } : {},
    rows = links.map(({ i, j, weight: value }, at) =>
    h(
      "tr",
      { class: i === state.token && j === state.other ? "chosen" : null },
      h(
        "th",
        { scope: "row" },
        h(
          "button",
          {
            class: "link",
            "data-key": `link-${at}`,
            onclick: () => pick(i, j),
          },
          tokenTag(i),
          " → ",
          keyTag(j),
        ),
      ),
      h("td", { class: "right", title: String(value) }, text(value)),
      h("td", { class: "barcell" }, bar(value, tops, unit, effect)),
    ),
  );
  return h(
    "section",
    {},
    h("h3", {}, title),
    h("table", { class: "ranking n1 links" }, h("tbody", {}, rows)),
  );
}
