// What if: heads switched off, tokens changed; the answer before and after; every change can be undone.

import { foot, WHOLE_TEXT } from "../frame/foot.js";
import { h } from "../parts/dom.js";
import { short } from "../parts/format.js";
import { flow } from "../parts/flow.js";
import { pictureAt } from "../parts/patch.js";
import { barPicture } from "../parts/picture.js";
import { around, chips } from "../parts/ranking.js";
import { bdi, tokenTag } from "../parts/token.js";
import { opened, size } from "../reading/opened.js";
import { workOnce } from "../reading/server.js";
import { go, state } from "../reading/state.js";
import { t } from "../words/words.js";
import { outcome } from "./outcome.js";

/** @import { WhatIfAnswer } from "../types" */

// The changes stand in the address, the last one last: change=3.1|10:cat|12: (each text escaped). A
// patch with no text is hidden.
function changes() {
  const { n_layer, n_head } = opened.model,
    found = [];
  for (const part of (state.change ?? "").split("|")) {
    const off = /^(\d{1,4})\.(\d{1,4})$/.exec(part),
      edit = /^(\d{1,9}):(.*)$/.exec(part);
    if (off && Number(off[1]) < n_layer && Number(off[2]) < n_head)
      found.push({ layer: Number(off[1]), head: Number(off[2]) });
    else if (edit && Number(edit[1]) < size() && (edit[2] || pictureAt(opened.text, Number(edit[1]))))
      found.push({ token: Number(edit[1]), text: unescaped(edit[2]) });
  }
  return found;
}

function unescaped(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    // a broken escape stays as it is
    return text;
  }
}

function change(to) {
  go({
    change:
      to
        .map(one =>
          one.text === undefined ? `${one.layer}.${one.head}` : `${one.token}:${encodeURIComponent(one.text)}`,
        )
        .join("|") || null,
  });
}

export async function whatifView() {
  if (opened.text.part) return h("p", { class: "note" }, t("noWhatif", { model: opened.model.name }));
  const made = changes(),
    told = [editor(made), made.length ? changeList(made) : h("p", { class: "note" }, opened.model.reads !== "picture" && t("whatifSays"), " ", ofPicture() && t("hideSays"))];
  if (!made.length) return ofPicture() ? besidePicture(made, told) : told;
  const asked = {
    off: made.filter(one => one.text === undefined).map(({ layer, head }) => [layer, head]),
    edits: /** @type {{ token: number, text: string }[]} */ (made.filter(one => one.text !== undefined)),
  };
  /** @type {WhatIfAnswer} */
  const answer = await workOnce(`views/${state.v}/whatif`, asked);
  const [became, ...rest] = await outcome(answer, asked);
  return [
    ...(ofPicture() ? [besidePicture(made, [told, became])] : told),
    h("div", { class: "outcome" }, ofPicture() ? rest : [became, rest]),
    foot({
      name: "whatif",
      python: answer.python,
      data: answer,
      ...WHOLE_TEXT,
      picture: () =>
        barPicture(
          t("layerChange"),
          answer.layers.map((value, l) => [t("atLayer", { layer: l }), value]),
          { text: short },
        ),
    }),
  ];
}

function editor(made) {
  const { layer, head, token } = state,
    special = opened.text.special[token];
  const off = made.findIndex(one => one.layer === layer && one.head === head),
    edit = made.findIndex(one => one.token === token);
  const without = at => made.filter((_, i) => i !== at);
  const given = h("input", {
    type: "text",
    id: "new-word",
    "data-key": "new-word",
    value: edit < 0 ? opened.text.typed[token] : made[edit].text,
    maxlength: 200,
    disabled: special,
    autocomplete: "off",
  });
  const pick = Object.assign(j => go({ token: j, other: null }), { chosen: token });
  return [
    !ofPicture() && chips(around(token, 60), pick),
    h(
      "div",
      { class: "editor" },
      h(
        "div",
        {},
        h("p", {}, t("offSays")),
        h(
          "button",
          {
            "data-key": "off",
            "aria-pressed": String(off >= 0),
            onclick: () => change(off >= 0 ? without(off) : [...made, { layer, head }]),
          },
          t(off >= 0 ? "switchOn" : "switchOff", { layer, head }),
        ),
      ),
      opened.model.reads !== "picture" && !pictureAt(opened.text, token) && h(
        "form",
        {
          onsubmit: event => {
            event.preventDefault();
            const text = given.value;
            if (text.trim() && text !== opened.text.typed[token]) change([...without(edit), { token, text }]);
          },
        },
        h("p", {}, h("label", { for: "new-word" }, t("editSays"), " ", tokenTag(token))),
        special
          ? h("p", { class: "note" }, t("specialWord"))
          : h(
              "span",
              { class: "joined" },
              given,
              h("button", { type: "submit", "data-key": "edit" }, t("change")),
            ),
      ),
    ),
  ];
}

function ofPicture() {
  return opened.text.pictures.length > 0;
}

// The picture stands beside what is made of it, so that both are seen while patches are hidden.
function besidePicture(made, parts) {
  return h("div", { class: "hiding" }, h("div", {}, hidable(made)), h("div", {}, parts));
}

// The pictures: a patch that is clicked is hidden, or shown again.
function hidable(made) {
  const gone = made.filter(one => one.text === "").map(one => one.token);
  return flow({
    of: opened.text,
    name: t("textOf"),
    from: "from",
    asked: opened.model.reads === "picture" ? [] : [state.token],
    at: state.token,
    gone,
    pick: token => {
      if (!pictureAt(opened.text, token)) return go({ token, other: null });
      change(gone.includes(token) ? made.filter(one => one.token !== token) : [...made, { token, text: "" }]);
    },
  });
}

function changeList(made) {
  return h(
    "div",
    { class: "changes" },
    h(
      "ul",
      {},
      made.map((one, at) =>
        h(
          "li",
          {},
          one.text === undefined ? t("isOff", one) : [tokenTag(one.token), " ", one.text ? ["→ ", bdi(one.text)] : t("isHidden")],
          h(
            "button",
            {
              class: "quiet",
              "data-key": `undo-${at}`,
              "aria-label": t("undoThis"),
              title: t("undoThis"),
              onclick: () => change(made.filter((_, i) => i !== at)),
            },
            "×",
          ),
        ),
      ),
    ),
    h("button", { "data-key": "undo", onclick: () => change(made.slice(0, -1)) }, t("undo")),
    made.length > 1 && h("button", { "data-key": "undo-all", onclick: () => change([]) }, t("undoAll")),
  );
}
