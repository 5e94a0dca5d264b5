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

/** @import { Lookup } from "../parts/flow.js" */
/** @import { Mapped } from "./mapped.js" */
/** @import { TileShown } from "./tile.js" */

/** @typedef {{ place: HTMLElement, tell: (i: number, tile: TileShown) => void }} RowPlace */

/**
 * A place for a row of a map on the pictures; it is told which.
 *
 * @param {Mapped} what
 * @returns {RowPlace}
 */
export function rowPlace(what) {
  const place = h("section");
  let told = -1;
  const tell = (i, tile) => {
    if (told === i) return;
    told = i;
    const show = parts => told === i && fill(place, parts);
    rowOnPicture(i, tile, what).then(show, error => show(drawNotice(error)));
  };
  return { place, tell };
}

/**
 * A row of a map: where token i looks. Of a row that cannot be asked for alone no more is known than
 * the tile has.
 *
 * @param {number} i
 * @param {TileShown} tile
 * @param {Mapped} what
 */
async function rowOnPicture(i, { values, q0, k0, cols }, what) {
  const whole = cols === keyCount() || !what.row,
    lookup = whole ? j => values[i - q0]?.[j - k0] ?? null : await /** @type {(i: number) => Promise<Lookup>} */ (what.row)(i);
  return [
    h("h3", {}, what.kind === "weight" ? [tokenTag(i), " ", t("looksAt")] : [t("named", { name: t(`shows_${what.kind}`) }), " ", tokenTag(i)]),
    onPicture(lookup, { asked: opened.text.keys ? [] : [i], look: what.look(values), pick: j => go({ token: i, other: j }) }),
    what.kind === "weight" && scaleOf(keys()),
  ];
}

/** @param {(j: number) => number | null} received */
export function receivedOnPicture(received) {
  const spread = { even: size() / keyCount(), whole: size() };
  return h(
    "section",
    {},
    h("h3", {}, t("receivedEach_")),
    onPicture(received, { asked: [], look: { level: photoLevel(spread), text: value => short(value, 3) }, pick: j => go({ other: j, ...(opened.text.keys ? {} : { token: j }) }) }),
    photoScale(t("receivedShort"), spread),
  );
}

/**
 * @param {Lookup} lookup
 * @param {Pick<import("../parts/flow.js").Flow, "asked" | "look" | "pick">} given
 */
function onPicture(lookup, given) {
  return h("div", {}, flow({ of: keys(), name: t("textOf"), from: opened.text.keys ? "keysfrom" : "from", at: given.asked[0] ?? 0, lookup, ...given }));
}
