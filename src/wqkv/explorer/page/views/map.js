// One head's map: the whole text as block means, and exact tiles of it, fetched when looked at.

import { whenAnswered } from "../frame/awaited.js";
import { foot } from "../frame/foot.js";
import { drawNotice } from "../frame/notices.js";
import { h, svg } from "../parts/dom.js";
import { clamp, short } from "../parts/format.js";
import { imagesOf } from "../parts/patch.js";
import { sheet, svgText } from "../parts/picture.js";
import { keyTag, tokenTag } from "../parts/token.js";
import { sharesOf } from "../parts/vector.js";
import { askFor, hasStatistic, keyCount, keys, opened, size } from "../reading/opened.js";
import { go, state } from "../reading/state.js";
import { t } from "../words/words.js";
import { askFirst, mapped, mapSwitch, strongestCells } from "./mapped.js";
import { gutter, histogram, linkTable, minimap } from "./minimap.js";
import { receivedOnPicture, rowPlace } from "./onpicture.js";
import { inside, longer, nextSpan, readTile, shownTile, sides, WHOLE } from "./rectangle.js";
import { cellsOf, drawTile, tileLayout } from "./tile.js";

/** @import { ReceivedAnswer, TileAnswer } from "../types" */
/** @import { TileShown } from "./tile.js" */
/** @import { Mapped } from "./mapped.js" */
/** @import { RowPlace } from "./onpicture.js" */

const BLOCKS = 128,
  LINKS = 20;

const cursor = { i: -1, j: -1 }; // where the arrow keys are; it outlives a drawing

// The tile comes at once; what needs a pass over the whole map is drawn when it is there.
export async function mapView() {
  const { layer, head } = state,
    where = { layer, head },
    n = longer(),
    [q0, k0, span] = shownTile(),
    [rows, cols] = sides(span);
  const small = n > WHOLE || span < n,
    what = await mapped();
  if (!what) return [h("div", { class: "controls" }, mapSwitch()), askFirst()];
  const blocks = small ? what.blocks({ ...where, size: n > WHOLE ? BLOCKS : 64 }) : null,
    received = what.kind === "weight" ? askFor("received", where) : null;
  let tile;
  try {
    tile = await readTile(what.tile, where, q0, k0, span);
  } catch (error) {
    if (what.kind === "weight") throw error;
    return [h("div", { class: "controls" }, mapSwitch()), drawNotice(error)]; // the way back stays
  }
  const read = h("output", { class: "readout" }),
    row = rowPlace(what), // none where there is no picture
    images = await imagesOf([opened.text, keys()]),
    canvas = tileCanvas(tile.values, what, [q0, k0, span], { received, read, row, images }),
    between = { q0, q1: q0 + rows - 1, k0, k1: k0 + cols - 1 };
  return [
    h("div", { class: "controls" }, mapSwitch(), zoomButtons(q0, k0, span), read),
    h(
      "div",
      { class: small ? "mapsplit three" : "mapsplit" },
      blocks &&
        h(
          "div",
          { class: "mini-side" },
          received && whenAnswered(received, gutter),
          whenAnswered(blocks, found => minimap(found, what, [q0, k0, span], moveTo)),
        ),
      h(
        "div",
        { class: "tile-side" },
        canvas,
        what.legend(tile.values),
        h("p", { class: "note" }, t(`tileSays_${what.kind}`, between), " ", t("tileKeys")),
        received && whenAnswered(received, found => h("p", { class: "note" }, gutterSays(found))),
        row && h("div", { class: "twopictures" }, row.place, received && whenAnswered(received, found => receivedOnPicture(receivedAt(found)))),
      ),
      h("div", { class: "lists" }, lists(what, tile.values, q0, k0)),
    ),
    foot({
      name: what.kind === "weight" ? "map" : `map-${what.kind}`,
      python: tile.python,
      data: { layer, head, q0, k0, values: tile.values },
      token: null,
      picture: () => mapPicture(canvas),
    }),
  ];
}

/**
 * Of weights what a pass over the whole map finds; of other numbers the strongest of the tile.
 *
 * @param {Mapped} what
 * @param {TileAnswer["values"]} values
 * @param {number} q0
 * @param {number} k0
 */
function lists(what, values, q0, k0) {
  const { layer, head } = state,
    where = { layer, head };
  if (what.kind !== "weight")
    return linkTable(strongestCells(values, q0, k0, LINKS), what, t("strongestHere"), goToLink);
  const distances = hasStatistic("distance") ? askFor("distances", where) : null;
  return whenAnswered(Promise.all([distances, askFor("links", { ...where, k: LINKS })]), ([far, found]) => [
    far && histogram(far, sharesOf(found.links.map(one => one.weight))),
    linkTable(found.links, what, t("strongestLinks"), goToLink, sharesOf(far?.mass ?? [])),
  ]);
}

/** @param {ReceivedAnswer} received */
function gutterSays({ edges }) {
  return edges ? t("receivedMean", { per: short(keyCount() / (edges.length - 1), 2) }) : t("receivedEach");
}

/**
 * `received` by position, whether every token's came or the means of blocks.
 *
 * @param {ReceivedAnswer} received
 * @returns {(j: number) => number | null}
 */
function receivedAt(received) {
  const { edges, values } = received;
  return edges ? j => values[edges.findLastIndex(edge => edge <= j)] : j => values[j];
}

function zoomButtons(q0, k0, span) {
  const [rows, cols] = sides(span);
  const zoom = way => {
    const to = nextSpan(span, way),
      i = cursor.i >= 0 ? cursor.i : q0 + rows / 2,
      j = cursor.j >= 0 ? cursor.j : k0 + cols / 2;
    moveTo(i - to / 2, j - to / 2, to);
  };
  const button = (key, text, name, off, act) =>
    h(
      "button",
      { "data-key": `zoom-${key}`, "aria-label": name, title: name, disabled: off, onclick: act },
      text,
    );
  return h(
    "span",
    { class: "segmented" },
    button("in", "+", t("zoomIn"), nextSpan(span, -1) === span, () => zoom(-1)),
    button("out", "−", t("zoomOut"), nextSpan(span, 1) === span, () => zoom(1)),
    h("button", { "data-key": "zoom-here", onclick: () => go({ at: null }) }, t("aroundWord")),
  );
}

function goToLink(i, j) {
  Object.assign(cursor, { i, j });
  go({ token: i, other: j, at: null });
}

function moveTo(q0, k0, span) {
  go({ at: inside(q0, k0, span).join(",") }, true);
}

/**
 * The exact numbers, with tokens beside them where there is room, and what every token receives above.
 *
 * @param {TileAnswer["values"]} values
 * @param {Mapped} what
 * @param {number[]} place its first query and key, and its span
 * @param {{ received: Promise<ReceivedAnswer> | null, read: HTMLElement, row: RowPlace | null, images: TileShown["images"] }} beside
 *   what is told of its cursor, and what stands at its edges
 */
function tileCanvas(values, what, [q0, k0, span], { received, read, row, images }) {
  const canvas = h("canvas", {
    class: "tile",
    tabindex: 0,
    role: "application",
    "aria-label": t("mapKeys", { what: t(`shows_${what.kind}`) }),
    "data-key": "tile",
  });
  const [rows, cols] = sides(span);
  /** @type {TileShown} */
  const rect = { values, q0, k0, rows, cols, received: null, shade: what.shades(values), images };
  received?.then(
    found => {
      rect.received = receivedAt(found);
      drawTile(canvas, rect, cursor);
    },
    () => {},
  ); // said where it is written out
  const tell = (i, j) => {
    Object.assign(cursor, { i: clamp(i, q0, q0 + rows - 1), j: clamp(j, k0, k0 + cols - 1) });
    const value = values[cursor.i - q0][cursor.j - k0];
    read.replaceChildren(
      tokenTag(cursor.i),
      " → ",
      keyTag(cursor.j),
      " ",
      h("b", { title: String(value) }, what.text(value)),
    );
    drawTile(canvas, rect, cursor);
    row?.tell(cursor.i, rect);
  };
  const shows = (i, j) => i >= q0 && i < q0 + rows && j >= k0 && j < k0 + cols;
  const start = shows(cursor.i, cursor.j)
    ? cursor
    : { i: state.token, j: state.other ?? strongestIn(values[clamp(state.token - q0, 0, rows - 1)]) + k0 };
  new ResizeObserver(() => tell(cursor.i, cursor.j)).observe(canvas);
  Object.assign(cursor, { i: clamp(start.i, q0, q0 + rows - 1), j: clamp(start.j, k0, k0 + cols - 1) });
  let pressed = null;
  const at = event => cellsOf(canvas, rect, event);
  canvas.addEventListener("pointermove", event => {
    const cell = at(event);
    if (cell && !pressed) tell(...cell);
  });
  canvas.addEventListener("pointerdown", event => {
    pressed = { x: event.clientX, y: event.clientY };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointerup", event => {
    const from = pressed,
      cell = at(event);
    pressed = null;
    if (!from) return;
    const { side } = tileLayout(canvas, rect),
      dx = Math.round((event.clientX - from.x) / side),
      dy = Math.round((event.clientY - from.y) / side);
    if ((dx || dy) && span < longer()) moveTo(q0 - dy, k0 - dx, span);
    else if (cell) (tell(...cell), choose());
  });
  canvas.addEventListener("pointercancel", () => {
    pressed = null;
  });
  const choose = () => go({ token: cursor.i, other: cursor.j });
  canvas.addEventListener("keydown", event => {
    const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (event.key === "Enter") choose();
    else if (event.key === "+" || event.key === "=")
      moveTo(cursor.i - nextSpan(span, -1) / 2, cursor.j - nextSpan(span, -1) / 2, nextSpan(span, -1));
    else if (event.key === "-")
      moveTo(cursor.i - nextSpan(span, 1) / 2, cursor.j - nextSpan(span, 1) / 2, nextSpan(span, 1));
    else if (move && !event.altKey && !event.ctrlKey && !event.metaKey) {
      const by = event.shiftKey ? 10 : 1,
        i = clamp(cursor.i + move[0] * by, 0, size() - 1),
        j = clamp(cursor.j + move[1] * by, 0, keyCount() - 1);
      if (shows(i, j)) tell(i, j);
      else {
        Object.assign(cursor, { i, j });
        moveTo(q0 + move[0] * Math.max(by, span >> 1), k0 + move[1] * Math.max(by, span >> 1), span);
      }
    } else return;
    event.preventDefault();
    event.stopPropagation();
  });
  return canvas;
}

function strongestIn(row) {
  return row.reduce((best, value, j) => (Math.abs(value) > Math.abs(row[best]) ? j : best), 0);
}

function mapPicture(canvas) {
  const width = canvas.width,
    height = canvas.height,
    title = `${opened.model.name}, ${t("atBoth", state)}`;
  return sheet(
    title,
    Math.max(width, 320),
    height + 40,
    svg("image", { href: canvas.toDataURL("image/png"), x: 0, y: 40, width, height }),
    svgText("", 0, 0),
  );
}
