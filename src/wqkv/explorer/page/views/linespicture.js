// The lines as a picture to save, with what they are of: model, layer, sentence, thickness, heads.

import { currentColor } from "../parts/color.js";
import { svg } from "../parts/dom.js";
import { sentenceLine, sheet, svgText } from "../parts/picture.js";
import { opened } from "../reading/opened.js";
import { state } from "../reading/state.js";
import { t } from "../words/words.js";
import { linesDrawing, SAMPLES, thickness } from "./linesdrawing.js";

/** @import { LinesShown } from "./linesdrawing.js" */

/** @param {LinesShown} shown */
export function savedLines(shown) {
  const width = shown.turned ? Math.max(shown.width, 480) : Math.max(shown.width, 900),
    drawing = linesDrawing({ ...shown, width }),
    high = Number(drawing.getAttribute("height")),
    names = shown.heads.map(look => ({ ...look, name: t("headName", { head: look.head }) }));
  drawing.setAttribute("y", "84");
  let x = 12;
  const legend = names.map(({ name, color, dash }) => {
    const at = x;
    x += 90;
    return [
      svg("path", { d: `M${at} ${high + 106}h24`, stroke: color, "stroke-width": 6, "stroke-dasharray": dash || null }),
      svgText(name, at + 30, high + 111),
    ];
  });
  return sheet(
    `${opened.model.name}, ${t("atLayer", { layer: state.layer })}`,
    Math.max(width, x),
    high + 126,
    sentenceLine(opened.text.text),
    svgText(t("thickness"), 12, 68, "start", "--soft"),
    SAMPLES.map((value, n) => [
      svg("path", { d: `M${170 + 80 * n} 64h30`, stroke: currentColor("--up"), "stroke-width": thickness(value) }),
      svgText(String(value), 205 + 80 * n, 68, "start", "--soft"),
    ]),
    svgText(t("greyLinks"), 500, 68, "start", "--soft"),
    drawing,
    legend,
  );
}
