// The line under every view: what can be saved; behind a click where it looks, in which numbers, and
// the proof. A failed proof stands before the click.

import { h } from "../parts/dom.js";
import { count, power, short } from "../parts/format.js";
import { save } from "../parts/save.js";
import { keyTag, tokenTag } from "../parts/token.js";
import { opened, size } from "../reading/opened.js";
import { state } from "../reading/state.js";
import { t } from "../words/words.js";

/** @import { ProofFacts } from "../types" */

/**
 * The lines of Python of several answers, each line once.
 *
 * @param {{ python?: string }[]} answers
 */
export function pythonOf(answers) {
  return [...new Set(answers.flatMap(answer => (answer.python ?? "").split("\n")))].join("\n");
}

// The proof of a layer: a sign that is read as a sentence.
export function proofSign(layer = state.layer) {
  const proof = opened.text.proofs?.[layer];
  if (!proof) return h("span", { class: "sign waits" }, t("unproved"));
  const facts = factsOf(proof);
  return h(
    "span",
    { class: proof.holds ? "sign holds" : "sign failed", title: facts },
    proof.holds ? t("exact") : t("failed"),
  );
}

/** @param {ProofFacts} proof */
function factsOf(proof) {
  return t("proofFacts", {
    difference: proof.difference ? power(proof.difference) : "0",
    tolerance: power(proof.tolerance),
    size: short(proof.size),
    rows: count(proof.rows),
    n: count(size()),
  });
}

export function proofFacts(layer = state.layer) {
  const proof = opened.text.proofs?.[layer];
  if (!proof) return t("unproved");
  const facts = factsOf(proof);
  return `${proof.holds ? t("proofHolds") : t("proofFailed")} ${facts}`;
}

/** What `foot` is given by a view that is not about one layer, head and token. */
export const WHOLE_TEXT = { layer: null, head: null, token: null };

/**
 * The line under every view: layer, head, token, dtype, engine and proof behind a click; and the ways out.
 * Layer, head and token are null where a view is not about one.
 *
 * @param {{
 *   name: string, python?: string, picture?: () => SVGElement, data?: unknown,
 *   layer?: number | null, head?: number | null, token?: number | null, other?: number | null,
 *   proof?: string | null,
 * }} given `python` are the lines that give the same numbers, `picture` makes an SVG to save, `data`
 *   goes into the JSON to save, `other` is the token that is looked at, `proof` stands in place of that
 *   of the layer
 */
export function foot({
  name,
  python,
  picture,
  data,
  layer = state.layer,
  head = state.head,
  token = state.token,
  other = null,
  proof = null,
}) {
  const { dtype } = opened.model,
    facts = h("p", { class: "facts" });
  const code = h("pre", { class: "code", hidden: true, tabindex: 0 }, python ?? "");
  if (layer !== null) facts.append(h("span", {}, t("atLayer", { layer })));
  if (head !== null) facts.append(h("span", {}, t("atHead", { head })));
  if (token !== null)
    facts.append(h("span", {}, other === null ? [tokenTag(token)] : [tokenTag(token), " → ", keyTag(other)]));
  facts.append(h("span", {}, dtype ?? "float32"), h("span", {}, opened.text.engine ?? ""));
  const sign = layer === null ? allProofs() : proofSign(layer),
    failed = sign.classList.contains("failed");
  if (!failed) facts.append(sign);
  const file = [opened.model.name, name, layer !== null && `layer${layer}`, head !== null && `head${head}`]
    .filter(Boolean)
    .join("-");
  return h(
    "footer",
    { class: "foot" },
    failed && sign,
    h(
      "details",
      { class: "basis" },
      h("summary", { "data-key": `basis-${name}` }, t("basis")),
      facts,
      h("p", {}, proof ?? (layer === null ? null : proofFacts(layer))),
    ),
    h(
      "p",
      { class: "ways" },
      python &&
        h(
          "button",
          {
            class: "quiet",
            "data-key": `python-${name}`,
            onclick: event => showCode(event.currentTarget, code, python),
          },
          t("python"),
        ),
      picture &&
        /** @type {const} */ (["png", "svg"]).map(kind =>
          h(
            "button",
            { class: "quiet", "data-key": `${kind}-${name}`, onclick: () => save(kind, file, picture) },
            kind.toUpperCase(),
          ),
        ),
      data &&
        h(
          "button",
          { class: "quiet", "data-key": `json-${name}`, onclick: () => save("json", file, () => data) },
          "JSON",
        ),
    ),
    code,
  );
}

function allProofs() {
  const proofs = opened.text.proofs ?? [],
    failed = proofs.flatMap((proof, layer) => (proof && !proof.holds ? [layer] : []));
  if (failed.length)
    return h("span", { class: "sign failed" }, t("someFailed", { layers: failed.join(", ") }));
  const done = proofs.filter(Boolean).length;
  return h(
    "span",
    { class: done ? "sign holds" : "sign waits" },
    done === proofs.length ? t("exact") : t("someProved", { done, all: proofs.length }),
  );
}

async function showCode(button, code, python) {
  code.hidden = !code.hidden;
  if (code.hidden) return;
  let copied = true;
  try {
    await navigator.clipboard.writeText(python);
  } catch {
    // no clipboard here: the lines are shown and selected
    copied = false;
    getSelection()?.selectAllChildren(code);
  }
  button.textContent = copied ? t("copied") : t("copyThese");
  setTimeout(() => {
    button.textContent = t("python");
  }, 2500);
}
