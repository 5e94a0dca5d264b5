// Pictures to save: whole SVG files with their own colors, because they leave the page.

import { currentColor } from "./color.js";
import { svg } from "./dom.js";
import { weight } from "./format.js";

/**
 * @param {string} title
 * @param {[string, number | null][]} entries
 */
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
    entries.map(([name, found], i) => {
      const value = found ?? 0,
        length = (Math.abs(value) / top) * room * (signed ? 0.5 : 1),
        middle = left + (signed ? room / 2 : 0),
        y = head + i * line;
      return [
        svgText(name, 140, y + 15, "end"),
        svgText(found === null ? "-" : text(found), left - 8, y + 15, "end", "--soft"),
        svg("rect", {
          x: value < 0 ? middle - length : middle,
          y: y + 3,
          width: length,
          height: line - 6,
          fill: currentColor(value < 0 ? "--down" : "--up"),
        }),
      ];
    }),
  );
}

/**
 * @param {string} title
 * @param {number} width
 * @param {number} height
 */
export function sheet(title, width, height, ...parts) {
  return savedPicture(title, width, height, "--ground", svgText(title, 12, 24), parts);
}

/**
 * A whole SVG file: its title, its ground in a color of the page, and what is drawn on it.
 *
 * @param {string} title
 * @param {number} width
 * @param {number} height
 * @param {string} ground
 */
export function savedPicture(title, width, height, ground, ...parts) {
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
    svg("rect", { width, height, fill: currentColor(ground) }),
    parts,
  );
}

/**
 * The sentence that a picture is of, in one line.
 *
 * @param {string} text
 */
export function sentenceLine(text) {
  const letters = [...text].slice(0, 110).map(letter => (letter === "\n" ? " " : letter)),
    end = letters.length < [...text].length ? "…" : "";
  return svgText(letters.join("") + end, 12, 46, "start", "--soft");
}

export function svgText(text, x, y, anchor = "start", color = "--ink") {
  return svg("text", { x, y, "text-anchor": anchor, fill: currentColor(color) }, text);
}
