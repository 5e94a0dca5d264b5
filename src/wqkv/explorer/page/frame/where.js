// Layer, head and token that are looked at: each can be stepped, chosen, or typed.

import { h } from "../parts/dom.js";
import { count, visible } from "../parts/format.js";
import { pictureAt } from "../parts/patch.js";
import { tokenOf } from "../parts/token.js";
import { opened, size } from "../reading/opened.js";
import { go, state } from "../reading/state.js";
import { lang, t } from "../words/words.js";
import { proofFacts, proofSign } from "./foot.js";

const CHOICES = 400; // more tokens are named by their number

export function drawWhere() {
  const { layer, head, token } = state,
    { model, text } = opened;
  const heads = [...Array(model.n_head).keys()].map(j => [j, String(j)]),
    layers = [...Array(model.n_layer).keys()].map(l => [l, String(l)]);
  const tokens = size() <= CHOICES ? text.tokens.map((one, j) => [j, `${j}  ${visible(one)}`]) : null;
  return [
    partChoice(),
    stepper("layer", layer, model.n_layer, layers),
    stepper("head", head, model.n_head, heads),
    stepper("token", token, size(), tokens),
    h(
      "p",
      { class: "now" },
      (!tokens || pictureAt(text, token)) && h("span", { class: "chosen" }, tokenOf(text, token)),
      h("span", {}, t("words", { n: count(size()) })),
      h("span", {}, model.dtype ?? "float32"),
      h("span", {}, text.engine ?? ""),
      proofSign(),
    ),
    text.cannotRead?.[lang()] && h("p", { class: "residual unread" }, text.cannotRead[lang()]),
    text.proofs?.[layer]?.holds === false && h("p", { class: "residual failed" }, proofFacts()),
  ];
}

function stepper(what, value, n, options) {
  const to = next =>
    go({
      [what]: Math.min(Math.max(next, 0), n - 1),
      other: null,
      ...(what === "token" ? { set: null } : {}),
    });
  const field = options
    ? h(
        "select",
        { id: `pick-${what}`, "data-key": `pick-${what}`, onchange: event => to(Number(event.target.value)) },
        options.map(([j, name]) => h("option", { value: j, selected: j === value }, name)),
      )
    : h("input", {
        type: "number",
        id: `pick-${what}`,
        "data-key": `pick-${what}`,
        min: 0,
        max: n - 1,
        value,
        onchange: event => to(Number(event.target.value) || 0),
      });
  return h(
    "div",
    { class: "stepper" },
    h("label", { for: `pick-${what}` }, t(what)),
    h(
      "span",
      { class: "joined" },
      h(
        "button",
        {
          "data-key": `less-${what}`,
          "aria-label": t("previous", { what: t(what) }),
          disabled: value === 0,
          onclick: () => to(value - 1),
        },
        "‹",
      ),
      field,
      h(
        "button",
        {
          "data-key": `more-${what}`,
          "aria-label": t("following", { what: t(what) }),
          disabled: value === n - 1,
          onclick: () => to(value + 1),
        },
        "›",
      ),
    ),
  );
}

// The three attentions of a model that reads one text and writes another.
function partChoice() {
  const { parts, part } = opened.text,
    base = String(state.v).split(".")[0];
  if (!parts?.length) return part ? h("p", { class: "note" }, t(`part_${part}`)) : null;
  return h(
    "span",
    { class: "segmented parts", role: "group", "aria-label": t("attentions") },
    parts.map(name =>
      h(
        "button",
        {
          "data-key": `part-${name}`,
          "aria-pressed": String(name === part),
          title: t(`partsays_${name}`),
          onclick: () => go({ v: `${base}.${name}`, other: null, set: null, at: null, from: null, keysfrom: null }),
        },
        t(`part_${name}`),
      ),
    ),
  );
}
