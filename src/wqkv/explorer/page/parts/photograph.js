// What stands on the screen as an SVG to save: texts, bars and canvases, where they are now.
//
// The picture is taken of the page itself, so that it cannot say something else than the page does.

import { svg } from "./dom.js";
import { savedPicture, svgText } from "./picture.js";

const PICTURE_EDGE = 16;
const CAPTION_LINE = 22; // of the lines above the picture
/** What is there to be pressed or opened, and says nothing in a picture. */
const UNSAVED = ".controls, .ways, details:not([open]), output, [hidden]";
const PAINT = ["filter", "fill", "stroke", "stroke-width", "opacity", "vector-effect", "font-size", "font-family"];

/**
 * An element as it is seen, below lines that say what it is.
 *
 * @param {Element} element
 * @param {string[]} lines the first is the picture's title
 */
export function photograph(element, lines) {
  const box = element.getBoundingClientRect(),
    bottom = Math.max(...[...element.children].map(child => child.getBoundingClientRect().bottom)), // it may be stretched
    above = PICTURE_EDGE + CAPTION_LINE * lines.length,
    [width, height] = [Math.ceil(Math.max(box.width, 320)) + 2 * PICTURE_EDGE, Math.ceil(bottom - box.top) + above + PICTURE_EDGE];
  const place = { left: box.left - PICTURE_EDGE, top: box.top - above };
  const caption = lines.map((line, i) => captioned(line, i, width - 2 * PICTURE_EDGE));
  return savedPicture(lines.join("\n"), width, height, "--panel", caption, seen(element, place));
}

// A line of the caption, the first of which is bold; one that is too long is pressed together.
function captioned(line, i, room) {
  const element = svgText(line, PICTURE_EDGE, PICTURE_EDGE + 8 + CAPTION_LINE * i, "start", i ? "--soft" : "--ink"),
    wide = [...line].reduce((sum, letter) => sum + (letter >= "\u2e80" ? 13 : 7), 0);
  if (!i) element.setAttribute("font-weight", "600");
  if (wide > room) element.setAttribute("textLength", String(room));
  element.setAttribute("lengthAdjust", "spacingAndGlyphs");
  return element;
}

/**
 * @param {Element} element
 * @param {{ left: number, top: number }} place the screen's place of the picture's corner
 * @returns {(SVGElement | SVGElement[])[]}
 */
function seen(element, place) {
  const style = getComputedStyle(element),
    box = element.getBoundingClientRect();
  if (element.matches(UNSAVED) || style.display === "none" || style.visibility === "hidden" || !box.width) return [];
  const at = { x: box.left - place.left, y: box.top - place.top, width: box.width, height: box.height };
  if (element instanceof HTMLCanvasElement) return [svg("image", { ...at, href: element.toDataURL(), preserveAspectRatio: "none" })];
  if (element instanceof SVGSVGElement) return [painted(element, at)];
  return [
    ...ground(style, at),
    ...[...element.childNodes].flatMap(child => {
      if (child instanceof Text) return lettered(child, style, place);
      return child instanceof Element ? seen(child, place) : [];
    }),
  ];
}

// The ground of an element and the lines around it.
function ground(style, { x, y, width, height }) {
  const parts = /** @type {SVGElement[]} */ ([]),
    clear = color => /^transparent$|^rgba.*, 0\)$|\/ 0\)$/.test(color);
  if (!clear(style.backgroundColor)) {
    const rx = parseFloat(style.borderTopLeftRadius) || 0;
    parts.push(svg("rect", { x, y, width, height, rx, fill: style.backgroundColor }));
  }
  const [right, bottom] = [x + width, y + height],
    sides = { Top: [x, y, right, y], Bottom: [x, bottom, right, bottom], Left: [x, y, x, bottom], Right: [right, y, right, bottom] };
  for (const [side, [x1, y1, x2, y2]] of Object.entries(sides)) {
    const wide = parseFloat(style[`border${side}Width`]);
    if (wide > 0 && style[`border${side}Style`] !== "none" && !clear(style[`border${side}Color`]))
      parts.push(svg("line", { x1, y1, x2, y2, stroke: style[`border${side}Color`], "stroke-width": wide }));
  }
  return parts;
}

// An SVG of the page with the colors that its style sheet gives it.
function painted(element, at) {
  const copy = /** @type {SVGSVGElement} */ (element.cloneNode(true)),
    copies = [copy, ...copy.querySelectorAll("*")];
  [element, ...element.querySelectorAll("*")].forEach((part, i) => {
    const style = getComputedStyle(part),
      target = /** @type {SVGElement} */ (copies[i]);
    for (const name of PAINT) target.setAttribute(name, style.getPropertyValue(name)); // no style="": the policy forbids it
    for (const name of ["class", "role", "tabindex", "data-key"]) target.removeAttribute(name);
  });
  for (const [name, value] of Object.entries(at)) copy.setAttribute(name, String(value));
  return copy;
}

/**
 * A text node line by line, each word group where it stands.
 *
 * @param {Text} node
 * @param {CSSStyleDeclaration} style
 * @param {{ left: number, top: number }} place
 */
function lettered(node, style, place) {
  const lines = /** @type {{ text: string, box: DOMRect, right: number }[]} */ ([]),
    range = document.createRange();
  for (const { 0: word, index } of node.data.matchAll(/\s+|[\u2e80-\uffef]|[^\s\u2e80-\uffef]+/g)) {
    range.setStart(node, index);
    range.setEnd(node, index + word.length);
    const box = range.getClientRects()[0],
      last = lines.at(-1);
    if (!box?.width) continue;
    if (last && Math.abs(last.box.top - box.top) < 2) {
      last.text += word;
      last.right = box.right;
    } else lines.push({ text: word, box, right: box.right });
  }
  return lines
    .filter(({ text }) => text.trim())
    .map(({ text, box, right }) =>
      svg(
        "text",
        {
          x: box.left - place.left,
          y: box.top - place.top + box.height * 0.79, // where letters stand in a line of a font's own height
          textLength: right - box.left,
          lengthAdjust: "spacingAndGlyphs",
          "xml:space": "preserve",
          "font-size": style.fontSize,
          "font-family": style.fontFamily,
          "font-weight": style.fontWeight,
          fill: style.color,
        },
        text,
      ),
    );
}
