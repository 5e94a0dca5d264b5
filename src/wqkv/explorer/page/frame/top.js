// The top of the page: the text to read, language, theme, keys, and the whole page as one file.

import { h } from "../parts/dom.js";
import { count } from "../parts/format.js";
import { addressOf } from "../parts/patch.js";
import { opened } from "../reading/opened.js";
import { computes, recorded } from "../reading/server.js";
import { go, state } from "../reading/state.js";
import { lang, t } from "../words/words.js";
import { drawKeys } from "./notices.js";
import { drawWindow } from "./window.js";

/** @import { Recorded } from "../types" */

const TYPED = 20000; // characters that are put back into the box
const THEMES = ["", "light", "dark"];

/**
 * @param {(text: string, beside: { target?: string, pair?: string, picture?: string }) => void} openText
 * @param {(number: number) => void} openWindow
 */
export function drawTop(openText, openWindow) {
  const read = () => openText(field.value, { ...(second?.value.trim() && { [second.id]: second.value }), ...(sentPicture && { picture: sentPicture }) });
  const box = (name, value, says) =>
    h("textarea", {
      id: name,
      "data-key": name,
      rows: 1,
      placeholder: says,
      "aria-label": says,
      title: says,
      value: value.length <= TYPED ? value : "",
      spellcheck: "false",
      onkeydown: event => {
        if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
          event.preventDefault();
          read();
        }
      },
    });
  const shown = opened.text ? (opened.text.read ?? "") : (state.text ?? ""),
    field = box("text", shown, t("placeholder")),
    two = opened.model && Object.keys(opened.model.parts).length,
    { target, pair } = opened.text ?? state;
  let second = null; // what a model of two texts writes, or the second sentence of a pair
  if (two) second = box("target", target ?? "", t(opened.model.generates ? "targetText" : "targetNeeded"));
  else if (pair) second = box("pair", pair, t("pairText"));
  const reads = opened.model?.reads ?? "text",
    ofPicture = reads === "picture";
  const other = reads !== "text" && !recorded && pictureChoice(picture => {
    if (ofPicture) return openText(picture, {});
    sentPicture = picture;
    read();
  });
  const form = recorded || ofPicture
    ? null
    : h(
        "form",
        {
          class: "ask",
          onsubmit: event => {
            event.preventDefault();
            read();
          },
        },
        field,
        second,
        h("button", { type: "submit", class: "main", "data-key": "read" }, t("read")),
      );
  const { model } = opened;
  return [
    h(
      "div",
      { class: "topbar" },
      h(
        "p",
        { class: "brand" },
        h("b", {}, "wqkv"),
        model &&
          h(
            "span",
            {},
            h("bdi", {}, model.name),
            h(
              "small",
              {},
              t("modelSize", { layers: model.n_layer, heads: model.n_head, d: model.d_model }),
              model.bits && h("b", {}, t("bits", { n: model.bits })),
            ),
          ),
      ),
      form,
      other,
      h(
        "div",
        { class: "tools" },
        h(
          "button",
          {
            class: "quiet",
            "data-key": "lang",
            lang: lang() === "en" ? "zh-CN" : "en",
            onclick: () => go({ lang: lang() === "en" ? "zh" : "en" }),
          },
          t("language"),
        ),
        h(
          "button",
          {
            class: "quiet",
            "data-key": "theme",
            "aria-label": t("theme", { now: t(state.theme || "auto") }),
            title: t("theme", { now: t(state.theme || "auto") }),
            onclick: () => go({ theme: THEMES[(THEMES.indexOf(state.theme) + 1) % 3] }),
          },
          { "": "◐", light: "○", dark: "●" }[state.theme] ?? "◐",
        ),
        h(
          "button",
          {
            class: "quiet",
            "data-key": "keys",
            "aria-label": t("keys"),
            title: t("keys"),
            onclick: drawKeys,
          },
          "?",
        ),
        opened.text && !recorded && saveMenu(),
      ),
    ),
    recorded && recordedNote(recorded),
    opened.text && drawWindow(openWindow),
  ];
}

/** @type {string | undefined} */
let sentPicture; // what was chosen in place of the picture that the command line gave

/**
 * Another picture from a file, which is sent as an address that has it inside.
 *
 * @param {(picture: string) => void} open
 */
function pictureChoice(open) {
  const field = h("input", {
    type: "file",
    id: "picture",
    "data-key": "picture",
    accept: "image/*",
    onchange: async () => {
      const [file] = field.files ?? [];
      if (file) open(await addressOf(file));
    },
  });
  return h("label", { class: "openpicture" }, t("openPicture"), field);
}

function saveMenu() {
  const link = h(
    "a",
    {
      href: "#",
      "data-key": "export",
      onclick: () => {
        // asks for what is looked at now
        const { layer, head, token } = state,
          query = `layer=${layer}&head=${head}&token=${token}&lang=${lang()}`;
        link.href = `api/views/${state.v}/export?${query}`;
      },
    },
    t("wholePage"),
  );
  link.setAttribute("download", "");
  return h(
    "details",
    { class: "menu" },
    h("summary", { "data-key": "menu" }, t("menu")),
    h(
      "div",
      {},
      link,
      h("p", { class: "note" }, t("wholePageSays")),
      h("p", { class: "note" }, t("savedHere")),
    ),
  );
}

/** @param {Recorded} page */
function recordedNote(page) {
  const bytes = new Blob([document.documentElement.outerHTML]).size,
    kilo = value => `${count(Math.round(value / 1024))} KB`,
    missing = page.left_out[lang()];
  return h(
    "p",
    { class: "recorded" },
    computes ? t("computedSays", { size: kilo(bytes) }) : t("recordedSays", { size: kilo(bytes), cap: kilo(page.cap) }),
    missing.length ? ` ${t("leftOut", { what: missing.join("; ") })}` : "",
  );
}
