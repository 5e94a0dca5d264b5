// Beside a map of a text with pictures: its row, and what every token receives, on the pictures.

import { drawNotice } from "../frame/notices.js";
import { fill, h } from "../parts/dom.js";
import { flow } from "../parts/flow.js";
import { short } from "../parts/format.js";
import { photoLevel, photoScale, scaleOf } from "../parts/photo.js";
import { tokenTag } from "../parts/token.js";
import { keyCount, keys, opened, size } from "../reading/opened.js";
import { go } from "../reading/state.js";
import { t } from "../words/words.js";

/** @import { Flow, Lookup } from "../parts/flow.js" */
/** @import { Mapped, OnPicture } from "./mapped.js" */
/** @import { TileShown } from "./tile.js" */

/** @typedef {{ place: HTMLElement, tell: (i: number, tile: TileShown) => void }} RowPlace */

/**
 * A place for a row of a map on the pictures, if there are any; it is told which.
 *
 * @param {Mapped} what
 * @returns {RowPlace | null}
 */
export function rowPlace({ kind, onPicture: given }) {
  if (!given || !keys().pictures.length) return null;
  const place = h("section");
  let told = -1;
  const tell = (i, tile) => {
    if (told === i) return;
    told = i;
    const show = parts => told === i && fill(place, parts);
    rowOnPicture(i, tile, kind, given).then(show, error => show(drawNotice(error)));
  };
  return { place, tell };
}

/**
 * @param {number} i the row
 * @param {TileShown} tile
 * @param {Mapped["kind"]} kind
 * @param {OnPicture} given
 */
async function rowOnPicture(i, { values, q0, cols }, kind, { row, look }) {
  const lookup = cols === keyCount() ? j => values[i - q0][j] ?? 0 : await row(i);
  return [
    h("h3", {}, kind === "weight" ? [tokenTag(i), " ", t("looksAt")] : [t("named", { name: t(`shows_${kind}`) }), " ", tokenTag(i)]),
    drawnOn(lookup, { asked: opened.text.keys ? [] : [i], look: look(values), pick: j => go({ token: i, other: j }) }),
    kind === "weight" && scaleOf(keys()),
  ];
}

/** @param {(j: number) => number | null} received */
export function receivedOnPicture(received) {
  const spread = { even: size() / keyCount(), whole: size() };
  return h(
    "section",
    {},
    h("h3", {}, t("receivedEach_")),
    drawnOn(j => received(j) ?? 0, { asked: [], look: { level: photoLevel(spread), text: value => short(value, 3) }, pick: j => go({ other: j, ...(opened.text.keys ? {} : { token: j }) }) }),
    photoScale(t("receivedShort"), spread),
  );
}

/**
 * @param {Lookup} lookup
 * @param {Pick<Flow, "asked" | "look" | "pick">} given
 */
function drawnOn(lookup, given) {
  return h("div", {}, flow({ of: keys(), name: t("textOf"), from: opened.text.keys ? "keysfrom" : "from", at: given.asked[0] ?? 0, lookup, ...given }));
}
