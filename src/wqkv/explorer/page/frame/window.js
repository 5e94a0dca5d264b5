// Which window of a long text is open, and the ones before and after it.

import { h } from "../parts/dom.js";
import { count } from "../parts/format.js";
import { opened } from "../reading/opened.js";
import { recorded } from "../reading/server.js";
import { t } from "../words/words.js";

/** @param {(number: number) => void} openWindow reads another window of the text */
export function drawWindow(openWindow) {
  const { window } = opened.text;
  if (!window) return null;
  const { number, windows, first, last, tokens } = window;
  const arrow = (to, sign, says) =>
    h(
      "button",
      {
        "data-key": `window-${sign}`,
        "aria-label": says,
        title: says,
        disabled: to < 0 || to >= windows,
        onclick: () => openWindow(to),
      },
      sign,
    );
  const choice = h("input", {
    type: "number",
    id: "pick-window",
    "data-key": "pick-window",
    min: 0,
    max: windows - 1,
    value: number,
    onchange: event => openWindow(Math.min(Math.max(Number(event.target.value) || 0, 0), windows - 1)),
  });
  return h(
    "div",
    { class: "window" },
    !recorded &&
      h(
        "div",
        { class: "stepper" },
        h("label", { for: "pick-window" }, t("window")),
        h(
          "span",
          { class: "joined" },
          arrow(number - 1, "‹", t("windowBefore")),
          choice,
          arrow(number + 1, "›", t("windowAfter")),
        ),
      ),
    h(
      "p",
      { class: "note" },
      t("windowSays", { first: count(first), last: count(last), tokens: count(tokens) }),
      " ",
      t(number ? "windowAlone" : "windowFirst"),
    ),
  );
}
