// The small maps of all heads: the one scale of all, its legend, and a picture of them to save.

import { h, svg } from "../parts/dom.js";
import { clamp } from "../parts/format.js";
import { sentenceLine, sheet, svgText } from "../parts/picture.js";
import { scale } from "../parts/ranking.js";
import { drawThumbnail, topOf } from "../parts/thumbnail.js";
import { keyCount, opened, size } from "../reading/opened.js";
import { t } from "../words/words.js";
import { ownScales } from "./head.js";

/** @import { ThumbnailAnswer } from "../types" */

/**
 * The value of the strongest color: 1 where a cell is one weight. The block means of a long text are
 * small, so there it is the largest one of all heads.
 *
 * @param {ThumbnailAnswer[]} maps
 */
export function oneTop(maps) {
  const blocks = maps.flatMap(one => one.heads ?? []),
    whole = size() <= blocks[0].length && keyCount() <= blocks[0][0].length;
  return whole ? 1 : Math.max(...blocks.map(topOf));
}

/** @param {ThumbnailAnswer[]} maps */
export function mapLegend(maps) {
  return ownScales() ? h("p", { class: "note" }, t("mapsOwn")) : [scale(oneTop(maps)), h("p", { class: "note" }, t("mapsSay"))];
}

/** @param {ThumbnailAnswer[]} maps */
export function mapsPicture(maps) {
  const ratio = clamp(size() / keyCount(), 0.5, 2),
    [wide, high] = [72, Math.round(72 * ratio)],
    [left, top] = [50, 78],
    one = oneTop(maps),
    width = Math.max(480, left + opened.model.n_head * (wide + 4) + 12);
  return sheet(
    `${opened.model.name}: ${t("stat_maps")}. ${ownScales() ? t("mapsOwn") : t("mapsScale", { top: Number(one.toPrecision(2)) })}`,
    width,
    top + maps.length * (high + 4) + 12,
    sentenceLine(opened.text.text),
    maps.map(({ heads = [] }, l) => [
      svgText(String(l), left - 10, top + l * (high + 4) + high / 2 + 4, "end", "--soft"),
      heads.map((values, j) =>
        svg("image", {
          href: drawThumbnail(values, ownScales() ? topOf(values) : one).toDataURL(),
          x: left + j * (wide + 4),
          y: top + l * (high + 4),
          width: wide,
          height: high,
          preserveAspectRatio: "none",
          "image-rendering": "pixelated",
        }),
      ),
    ]),
    Array.from({ length: opened.model.n_head }, (_, j) => svgText(String(j), left + j * (wide + 4) + wide / 2, top - 8, "middle", "--soft")),
  );
}
