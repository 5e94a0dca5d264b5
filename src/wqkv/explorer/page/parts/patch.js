// The token of a picture as the crop of its cell. Each picture stands in the page once, and all its
// crops use it.

import { svg } from "./dom.js";

/** @import { PictureFacts, TextFacts } from "../types" */

const inPage = new Map(); // the ids of pictures that stand in the page

/**
 * The picture of a text on whose cell a token stands; undefined for a word.
 *
 * @param {Pick<TextFacts, "pictures">} text
 * @param {number} position
 */
export function pictureAt({ pictures }, position) {
  return pictures.find(({ first, rows, columns }) => position >= first && position < first + rows * columns);
}

/**
 * A rectangle of a picture in cells, stretched over the element.
 *
 * @param {PictureFacts} picture
 * @param {{ row: number, column: number, rows: number, columns: number }} cells
 * @param {Record<string, unknown>} attributes
 */
export function cutOut(picture, { row, column, rows, columns }, attributes, ...parts) {
  return svg(
    "svg",
    { viewBox: `${column} ${row} ${columns} ${rows}`, preserveAspectRatio: "none", ...attributes },
    parts,
    svg("use", { href: `#${idInPage(picture)}` }),
  );
}

/**
 * The cell of a token, which a reader of screens is told by its name.
 *
 * @param {PictureFacts} picture
 * @param {number} position of the token in its text
 * @param {string} name
 */
export function crop(picture, position, name) {
  const at = position - picture.first,
    cell = { row: Math.floor(at / picture.columns), column: at % picture.columns, rows: 1, columns: 1 };
  return cutOut(picture, cell, { class: "patch", role: "img", "aria-label": name }, svg("title", {}, name));
}

// The picture as one unit a cell, whatever its pixels; it is put into the page when it is first used.
function idInPage({ image, rows, columns }) {
  if (!inPage.has(image)) {
    const id = `picture-${inPage.size}`;
    document.getElementById("pictures")?.append(svg("image", { id, href: image, width: columns, height: rows, preserveAspectRatio: "none" }));
    inPage.set(image, id);
  }
  return inPage.get(image);
}

/**
 * The pictures of texts for a canvas, by what they are.
 *
 * @param {TextFacts[]} texts
 * @returns {Promise<Map<string, HTMLImageElement>>}
 */
export async function imagesOf(texts) {
  const found = new Map(texts.flatMap(({ pictures }) => pictures.map(({ image }) => [image, Object.assign(new Image(), { src: image })])));
  await Promise.all([...found.values()].map(image => image.decode()));
  return found;
}

/**
 * A drawing that leaves the page, with the pictures that it uses.
 *
 * @param {SVGElement} drawing
 */
export function withPictures(drawing) {
  const used = new Set([...drawing.querySelectorAll("use")].map(one => one.getAttribute("href")));
  if (used.size) drawing.prepend(svg("defs", {}, [...used].map(href => document.querySelector(String(href))?.cloneNode(true))));
  return drawing;
}
