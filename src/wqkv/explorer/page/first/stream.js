// The whole model as a strip: what each layer's attention and MLP add to the chosen word.

import { whenAnswered } from "../frame/awaited.js";
import { foot } from "../frame/foot.js";
import { fill, h, select, walk } from "../parts/dom.js";
import { short, visible, weight } from "../parts/format.js";
import { barPicture } from "../parts/picture.js";
import { rich } from "../parts/rich.js";
import { bdi, named, tokenWithPosition } from "../parts/token.js";
import { askFor, opened, size } from "../reading/opened.js";
import { go, state } from "../reading/state.js";
import { t } from "../words/words.js";

/** @import { NextFacts, StreamAnswer, StreamLayerFacts } from "../types" */

/** @typedef {"attention" | "cross" | "mlp" | "both" | "embedding"} PartKind */

const WITHOUT_ASKING = 4096; // words of a text whose strip is drawn at once

// Three digits at most: 194, 16.8, 3.75, 0.05.
function length3(value) {
  if (value === null || value === undefined) return "-";
  return value >= 1000 ? short(value, 3) : value.toFixed(value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2);
}

const asked = new Set(); // the words of long texts whose strip was asked for

export async function modelStrip() {
  const { token } = state,
    word = `${state.v} ${token}`;
  if (size() <= WITHOUT_ASKING || asked.has(word)) return stripOf(await askFor("stream", { token }));
  // of a long text the model may have to run once more for each word
  const measure = () => {
    asked.add(word);
    fill(place, whenAnswered(askFor("stream", { token }), stripOf));
  };
  const place = h("div", {}, h("h2", {}, t("whereStands")), h("button", { "data-key": "measure", onclick: measure }, t("measureStrip")));
  return place;
}

/** @param {StreamAnswer} found */
function stripOf(found) {
  const { layer } = state,
    top = Math.max(found.embedding ?? 0, ...found.layers.flatMap(one => partsOf(one).map(part => part.length))) || 1;
  const layers = found.layers.map((one, at) => layerButton(one, at, found.lens?.[at], top));
  const box = h(
    "div",
    { class: "layers", role: "group", "aria-label": t("allLayers"), "data-scroll": "layers", onkeydown: event => walk(event, layers, 0) },
    h(
      "div",
      { class: "stop" },
      h("span", { class: "bars" }, partBar({ kind: "embedding", length: found.embedding ?? 0 }, top)),
      h("span", { class: "under" }, opened.model.position ? t("embedded") : t("embeddedPlaced")),
    ),
    layers,
  );
  requestAnimationFrame(() => {
    // of many layers the open one is brought into sight
    const lit = select(box, "[aria-pressed='true']").at(0);
    if (lit && (lit.offsetLeft < box.scrollLeft || lit.offsetLeft + lit.offsetWidth > box.scrollLeft + box.clientWidth))
      box.scrollLeft = lit.offsetLeft - box.clientWidth / 2;
  });
  return [
    h(
      "div",
      { class: "streamline" },
      h("h2", {}, t("whereStands")),
      h("p", { class: "note" }, scaleSays(found), " ", partLegend(found)),
    ),
    failedParts(found),
    h(
      "div",
      { class: "stream" },
      box,
      h("div", { class: "stop end" }, h("span", { class: "under" }, "→ ", ending(found))),
      headBars(found.layers[layer], top),
    ),
    found.lens && h("p", { class: "note" }, opened.model.generates ? t("lensSays") : t("lensSaysMasked")),
    foot({ name: "stream", python: found.python, picture: () => savedStrip(found), data: found, layer: null, head: null, proof: addUp(found) }),
  ];
}

/** @param {StreamAnswer} found */
function scaleSays(found) {
  const parts = { token: () => h("b", {}, named(opened.text, state.token)) };
  return rich(marks => (found.normAfter ? t("barSaysNorm", marks) : t("barSays", marks)), parts);
}

/**
 * What a layer adds, in the order in which it does.
 *
 * @param {StreamLayerFacts} layer
 * @returns {{ kind: PartKind, length: number }[]}
 */
function partsOf(layer) {
  const { attention, cross, mlp, added } = layer;
  if (attention === null || mlp === null) return [{ kind: "both", length: added ?? 0 }];
  return [
    { kind: "attention", length: attention },
    ...(cross === null ? [] : [{ kind: /** @type {const} */ ("cross"), length: cross }]),
    { kind: "mlp", length: mlp },
  ];
}

/** @param {PartKind} kind */
function partName(kind) {
  if (kind === "attention") return t("attentionAdds");
  if (kind === "cross") return t("crossAdds");
  return kind === "mlp" ? t("mlpAdds") : t("bothAdd");
}

/** @param {StreamAnswer} found */
function partLegend(found) {
  const kinds = [...new Set(found.layers.flatMap(one => partsOf(one).map(part => part.kind)))];
  return kinds.map(kind => h("span", { class: "legend" }, h("i", { class: kind }), partName(kind)));
}

function partBar({ kind, length }, top, shown = length3(length)) {
  const bar = h("i", { class: `part ${kind}` });
  bar.style.height = `${Math.max((100 * length) / top, 0.8)}%`;
  return h("span", { class: "partbar" }, h("small", {}, shown), bar);
}

/**
 * @param {StreamLayerFacts} layer
 * @param {number} at
 * @param {readonly NextFacts[] | undefined} lens
 * @param {number} top the length of a whole bar
 */
function layerButton(layer, at, lens, top) {
  const parts = partsOf(layer);
  const facts = [
    t("atLayer", { layer: at }),
    ...parts.map(part => t("adds", { what: partName(part.kind), length: length3(part.length) })),
    t("stateAfter", { length: length3(layer.state) }),
    lens && t("lensAfter", { top: lens.map(one => `${visible(one.token)} ${weight(one.probability)}`).join(", ") }),
  ].filter(Boolean);
  return h(
    "button",
    {
      class: "stop layer",
      "data-key": `layer-${at}`,
      "aria-pressed": String(at === state.layer),
      "aria-label": facts.join("; "),
      title: facts.join("\n"),
      tabindex: at === state.layer ? 0 : -1,
      onclick: () => go({ layer: at, other: null }),
    },
    h("span", { class: "bars" }, parts.map(part => partBar(part, top))),
    h("span", { class: "under" }, t("atLayer", { layer: at })),
    lens && h("span", { class: "lens" }, bdi(lens[0].token), h("small", {}, weight(lens[0].probability))),
  );
}

// The heads of the open layer on the same scale.
function headBars(layer, top) {
  const heads = layer.heads.map((length, head) => {
    const facts = t("headAdds", { head, length: length3(length) });
    return h(
      "button",
      {
        class: "stop head",
        "data-key": `head-${head}`,
        "aria-pressed": String(head === state.head),
        "aria-label": facts,
        title: facts,
        tabindex: head === state.head ? 0 : -1,
        onclick: () => go({ head, other: null }),
      },
      h("span", { class: "bars" }, partBar({ kind: opened.text.part === "cross" ? "cross" : "attention", length }, top)),
      h("span", { class: "under" }, head),
    );
  });
  const names = { layer: state.layer, n: heads.length };
  return h(
    "div",
    { class: "ofheads" },
    h("div", { class: "layers", role: "group", "aria-label": t("allHeads"), "data-scroll": "heads", onkeydown: event => walk(event, heads, 0) }, heads),
    h("p", { class: "under" }, opened.text.part ? t("headsOfDecoder", names) : t("headsOf", names)),
  );
}

/** @param {StreamAnswer} found */
function ending(found) {
  const last = found.lens?.at(-1)?.[0];
  if (last)
    return [opened.model.generates ? t("endNext") : t("endMasked"), h("b", {}, bdi(last.token)), h("small", {}, weight(last.probability))];
  if (opened.text.part) return opened.text.part === "encoder" ? t("endRead") : t("endNext");
  return opened.model.causal ? t("endState") : t("endMean", { n: size() });
}

// Proofs

/** @param {StreamAnswer} found */
function failedParts(found) {
  const layers = found.layers.flatMap((one, at) => (one.proof?.holds === false ? [at] : []));
  return layers.length ? h("p", { class: "residual failed" }, t("partsFail", { layers: layers.join(", ") })) : null;
}

/** @param {StreamAnswer} found */
function addUp(found) {
  const shares = found.layers.flatMap(one => (one.proof?.tolerance ? [(one.proof.difference ?? Infinity) / one.proof.tolerance] : []));
  return shares.length ? t("partsAddUp", { share: short(Math.max(...shares), 2) }) : t("bothAdd");
}

/** @param {StreamAnswer} found */
function savedStrip(found) {
  const title = `${opened.model.name}, ${tokenWithPosition(state.token)}: ${t("whereStands")}`;
  const rows = found.layers.flatMap((one, at) =>
    partsOf(one).map(part => /** @type {[string, number]} */ ([`${t("atLayer", { layer: at })}: ${partName(part.kind)}`, part.length])),
  );
  const first = opened.model.position ? t("embedded") : t("embeddedPlaced");
  return barPicture(title, [[first, found.embedding], ...rows], { text: length3 });
}
