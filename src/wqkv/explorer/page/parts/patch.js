// The token of a picture as the crop of its cell. Each picture stands in the page once, and all its
// crops use it.

import { svg } from "./dom.js";

/** @import { PictureFacts, TextFacts } from "../types" */

const MOST_BYTES = 700_000, // of a file that is sent as it is; a request has MAX_BYTES of server.py
  MOST_PIXELS = 1024; // a side of one that is larger
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
  return cutOut(picture, cellAt(picture, position), { class: "patch", role: "img", "aria-label": name }, svg("title", {}, name));
}

/**
 * The cell of a token in a drawing.
 *
 * @param {PictureFacts} picture
 * @param {number} position
 * @param {{ x: number, y: number, size: number }} place its upper left corner
 */
export function drawnCrop(picture, position, { x, y, size }) {
  return cutOut(picture, cellAt(picture, position), { class: "drawn", x, y, width: size, height: size });
}

/**
 * Where the cell of a token is.
 *
 * @param {PictureFacts} picture
 * @param {number} position
 */
export function cellAt({ first, columns }, position) {
  const at = position - first;
  return { row: Math.floor(at / columns), column: at % columns, rows: 1, columns: 1 };
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
 * A file as an address that has it inside: as it is, or a picture with fewer pixels where a request
 * could not carry it.
 *
 * @param {Blob} file
 * @returns {Promise<string>}
 */
export async function addressOf(file) {
  const bitmap = file.size > MOST_BYTES && (await createImageBitmap(file).catch(() => null)); // null: no picture
  if (!bitmap)
    return new Promise(resolve => {
      const reader = new FileReader();
      reader.onload = () => resolve(String(reader.result));
      reader.readAsDataURL(file);
    });
  const scale_ = Math.min(1, MOST_PIXELS / Math.max(bitmap.width, bitmap.height)),
    canvas = Object.assign(document.createElement("canvas"), { width: Math.round(bitmap.width * scale_), height: Math.round(bitmap.height * scale_) });
  canvas.getContext("2d")?.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", 0.92);
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
