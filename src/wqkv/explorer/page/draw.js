// Small drawings that several views share: vectors, bars beside words, the scale, pictures to save.

import { css, inkOn, tint, worn } from "./colour.js";
import { bdi, h, label, number, svg, visible, weight } from "./dom.js";
import { here, keyAt, keyCount, keys, size, wordAt } from "./here.js";
import { t } from "./words.js";

const BARS = 512;

// Neighbouring numbers in at most `most` means, and how many numbers each is the mean of.
export function means(values, most) {
  const per = Math.ceil(values.length / most),
    result = [];
  for (let i = 0; i < values.length; i += per) {
    const part = values.slice(i, i + per).map(value => value ?? 0);
    result.push(part.reduce((a, b) => a + b, 0) / part.length);
  }
  return [result, per];
}

// Bars above and below a line, one a number: three paths.
export function signedBars(values, attributes = {}) {
  const top = values.reduce((most, value) => Math.max(most, Math.abs(value ?? 0)), 0) || 1;
  let up = "",
    down = "";
  values.forEach((value, i) => {
    const height = Math.round(((value ?? 0) / top) * 100);
    if (height > 0) up += `M${i} 100v-${height}h.85v${height}z`;
    else if (height < 0) down += `M${i} 100v${-height}h.85v${height}z`;
  });
  return svg(
    "svg",
    { viewBox: `0 0 ${values.length} 200`, preserveAspectRatio: "none", ...attributes },
    svg("path", { class: "up", d: up }),
    svg("path", { class: "down", d: down }),
    svg("path", { class: "axis", d: `M0 100h${values.length}` }),
  );
}

// A vector with its name, its size, its bars, and all its numbers for who wants them.
export function vector(name, values) {
  const [bars, per] = means(values, BARS);
  const spread = t("numbers", {
    n: values.length,
    low: number(Math.min(...values)),
    high: number(Math.max(...values)),
  });
  const all = h("details", { class: "all" }, h("summary", {}, t("allNumbers")));
  all.addEventListener("toggle", () => {
    // written out when asked for
    if (all.open && all.children.length === 1)
      all.append(h("p", { class: "digits", tabindex: 0 }, values.map(value => value ?? "null").join(", ")));
  });
  return h(
    "figure",
    { class: "vector" },
    h("figcaption", {}, h("b", {}, name), ` ${spread}`, per > 1 && t("eachMean", { per }), all),
    signedBars(bars, { role: "img", "aria-label": `${name}: ${spread}` }),
  );
}

// A bar of a table: from the left, or around the middle where numbers have a sign.
export function bar(value, top, { signed = false, kind = "up" } = {}) {
  const share = top && Number.isFinite(value) ? Math.min(Math.abs(value) / top, 1) * (signed ? 50 : 100) : 0;
  const start = signed ? (value < 0 ? 50 - share : 50) : 0;
  return svg(
    "svg",
    { class: "bar", "aria-hidden": "true" },
    svg("rect", {
      class: signed && value < 0 ? "down" : kind,
      x: `${start}%`,
      width: `${share}%`,
      height: "100%",
    }),
    signed && svg("rect", { class: "axis", x: "50%", width: 1, height: "100%" }),
  );
}

// Words with numbers and bars beside them. Columns: {title, value(j), text(value), signed, kind}.
// `pick(j)` makes the words buttons; `of` is the text whose words they are.
export function ranking({ name, at, columns, pick, chosen, of = keys() }) {
  const tops = columns.map(({ value }) => Math.max(...at.map(j => Math.abs(value(j) ?? 0)), 0));
  const head = h(
    "tr",
    {},
    h("th", { scope: "col" }, t("at")),
    h("th", { scope: "col" }, t("token")),
    columns.map(column => [h("th", { scope: "col", class: "right" }, column.title), h("td", {})]),
  );
  const rows = at.map(j =>
    h(
      "tr",
      {
        class:
          [j === chosen && "chosen", of.special[j] && "special"].filter(Boolean).join(" ") || null,
      },
      h("td", { class: "at" }, j),
      h(
        "th",
        { scope: "row" },
        pick
          ? h(
              "button",
              {
                class: "link",
                "data-key": `${name}-${j}`,
                "aria-pressed": String(j === chosen),
                onclick: () => pick(j),
              },
              bdi(of.tokens[j]),
            )
          : bdi(of.tokens[j]),
      ),
      columns.map(({ value, text, signed, kind }, i) => {
        const found = value(j);
        if (found === null || found === undefined)
          return [h("td", { class: "right hidden" }, i ? "" : t("hidden")), h("td", {})];
        return [
          h("td", { class: "right", title: String(found) }, text(found)),
          h("td", { class: "barcell" }, bar(found, tops[i], { signed, kind })),
        ];
      }),
    ),
  );
  return h("table", { class: `ranking n${columns.length}` }, h("thead", {}, head), h("tbody", {}, rows));
}

// Which words a table shows: all of a short text in reading order, else the strongest.
export function shown(ranked, most = 16) {
  return keyCount() <= 24 ? [...Array(keyCount()).keys()] : ranked.slice(0, most);
}

// The scale of weights, from 0 to 1.
export function scale() {
  const marks = [0, 0.01, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1];
  return h(
    "p",
    { class: "scale" },
    h("span", {}, t("weight")),
    marks.map(mark => {
      const swatch = h("b", {}, String(mark).replace("0.", "."));
      const colour = tint(mark);
      swatch.style.backgroundColor = css(colour);
      swatch.style.color = inkOn(colour);
      return swatch;
    }),
  );
}

// Words as chips, of which one is chosen.
export function chips(positions, pick) {
  return h(
    "p",
    { class: "chips" },
    positions.map(j =>
      h(
        "button",
        {
          class: `chip${here.text.special[j] ? " special" : ""}`,
          "data-key": `chip-${j}`,
          "aria-pressed": String(j === pick.chosen),
          onclick: () => pick(j),
        },
        bdi(wordAt(j)),
      ),
    ),
  );
}

// At most `most` positions around one, as near to the middle as the ends allow.
export function around(position, most, n = size()) {
  const first = Math.max(0, Math.min(position - Math.floor(most / 2), n - most));
  return Array.from({ length: Math.min(n, most) }, (_, i) => first + i);
}

// Pictures to save: whole files with their own colours, for they leave the page.

export function barPicture(title, entries, { text = weight, signed = false } = {}) {
  const top = Math.max(...entries.map(([, value]) => Math.abs(value ?? 0)), 0) || 1;
  const width = 720,
    line = 22,
    head = 44,
    left = 220,
    room = width - left - 20;
  return sheet(
    title,
    width,
    head + line * entries.length + 16,
    entries.map(([name, value], i) => {
      const length = (Math.abs(value ?? 0) / top) * room * (signed ? 0.5 : 1),
        middle = left + (signed ? room / 2 : 0),
        y = head + i * line;
      return [
        said(name, 140, y + 15, "end"),
        said(value === null ? "-" : text(value), left - 8, y + 15, "end", "--soft"),
        svg("rect", {
          x: value < 0 ? middle - length : middle,
          y: y + 3,
          width: length,
          height: line - 6,
          fill: worn(value < 0 ? "--down" : "--up"),
        }),
      ];
    }),
  );
}

export function sheet(title, width, height, ...parts) {
  return svg(
    "svg",
    {
      xmlns: "http://www.w3.org/2000/svg",
      width,
      height,
      viewBox: `0 0 ${width} ${height}`,
      "font-family": "system-ui, sans-serif",
      "font-size": 13,
    },
    svg("title", {}, title),
    svg("rect", { width, height, fill: worn("--ground") }),
    said(title, 12, 24),
    ...parts,
  );
}

export function said(text, x, y, anchor = "start", colour = "--ink") {
  return svg("text", { x, y, "text-anchor": anchor, fill: worn(colour) }, text);
}

export function plainWord(position) {
  return label(wordAt(position));
}

export function fullWord(position, token = wordAt(position)) {
  return `${visible(token)} (${position})`;
}

export function fullKey(position) {
  return fullWord(position, keyAt(position));
}
