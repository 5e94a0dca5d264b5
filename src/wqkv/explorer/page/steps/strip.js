// The seven steps across the top, each with a small drawing of its numbers; the arrow keys walk them.

import { h, walk } from "../parts/dom.js";
import { endOfScale, heatPicture } from "../parts/heat.js";
import { means, signedBars } from "../parts/vector.js";
import { readSmallMatrices } from "../reading/matrices.js";
import { go, state } from "../reading/state.js";
import { t } from "../words/words.js";
import { strongest } from "./worked.js";

/** @import { RowAnswer, StoryAnswer } from "../types" */

const BRIEF = ["x", "W", "q k v", "q·k", "exp", "Σ", "WO"]; // where there is no room for names

/** @param {{ story: StoryAnswer, row: RowAnswer }} read */
export async function strip({ story, row }) {
  const minis = miniatures(story, row, await readSmallMatrices().catch(() => null));
  const tabs = story.steps.map((step, i) =>
    h(
      "button",
      {
        role: "tab",
        id: `step-${i + 1}`,
        class: "step",
        "data-key": `step-${i + 1}`,
        "aria-selected": String(state.step === i + 1),
        "aria-controls": "panel",
        tabindex: state.step === i + 1 || (!state.step && i === 0) ? 0 : -1,
        onclick: () => go({ step: state.step === i + 1 ? 0 : i + 1 }),
      },
      h("i", {}, i + 1),
      h("span", { class: "name" }, step.name),
      h("span", { class: "brief", "aria-hidden": "true" }, BRIEF[i]),
      minis[i],
    ),
  );
  return h(
    "div",
    {
      role: "tablist",
      class: "strip",
      "aria-label": t("sevenSteps"),
      onkeydown: event => walk(event, tabs, 0, tab => go({ step: tabs.indexOf(tab) + 1 })),
    },
    tabs,
  );
}

/**
 * @param {StoryAnswer} story
 * @param {RowAnswer} row
 * @param {{ numbers: Float32Array, width: number }[] | null} matrices none where there are no such
 */
function miniatures(story, row, matrices) {
  const mini = values => signedBars(means(values, 48)[0], { class: "mini", "aria-hidden": "true" });
  const three = (...parts) => h("span", { class: "minis" }, parts);
  const box = name => h("span", { class: "minimat" }, name);
  const weights = row.weights ?? row.curve?.values ?? strongest(row).map(one => one.weight);
  const scores = story.scores ?? weights;
  return [
    mini(story.x),
    matrices ? heats(matrices) : three(box("Q"), box("K"), box("V")),
    three(mini(story.q), mini(story.k), mini(story.v)),
    mini(scores),
    mini(weights),
    mini(story.context),
    mini(story.share),
  ];
}

// WQ, WK and WV on one scale, which is wide: each number is the extreme of a block, and all are large.
function heats(matrices) {
  const top = 1.6 * endOfScale(...matrices.map(one => one.numbers));
  return h("span", { class: "minis minimats", "aria-hidden": "true" }, matrices.map(({ numbers, width }) => heatPicture(numbers, width, top)));
}
