// What stands around the views: the top, where one looks, progress, errors, keys.

import { bdi, count, fill, h, visible } from "./dom.js";
import { cancel, recorded } from "./api.js";
import { go, state } from "./state.js";
import { here, proofFacts, proofSign, size } from "./here.js";
import { lang, t } from "./words.js";
import { partChoice } from "./pair.js";

const CHOICES = 400; // more words are named by their number
const TYPED = 20000; // characters that are put back into the box
const THEMES = ["", "light", "dark"];

export function drawTop(openText) {
  const read = () => openText(field.value, target?.value.trim() ? target.value : null);
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
  const shown = here.text ? (here.text.read ?? "") : (state.text ?? ""),
    field = box("text", shown, t("placeholder")),
    two = here.model && Object.keys(here.model.parts).length,
    given = here.text ? here.text.target : state.target,
    target = two ? box("target", given ?? "", t(here.model.generates ? "targetText" : "targetNeeded")) : null;
  const form = recorded
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
        target,
        h("button", { type: "submit", class: "main", "data-key": "read" }, t("read")),
      );
  const { model } = here;
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
            h("small", {}, t("modelSize", { layers: model.n_layer, heads: model.n_head, d: model.d_model })),
          ),
      ),
      form,
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
        here.text && !recorded && saveMenu(),
      ),
    ),
    recorded && recordedNote(),
  ];
}

function saveMenu() {
  const link = h(
    "a",
    {
      href: "#",
      "data-key": "export",
      onclick: () => {
        // asks for what is looked at now
        const { layer, head, token } = state;
        link.href = `api/views/${state.v}/export?${new URLSearchParams({ layer, head, token, lang: lang() })}`;
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

function recordedNote() {
  const bytes = new Blob([document.documentElement.outerHTML]).size,
    kilo = value => `${count(Math.round(value / 1024))} KB`;
  return h(
    "p",
    { class: "recorded" },
    t("recordedSays", { size: kilo(bytes), cap: kilo(recorded.cap ?? bytes) }),
    recorded.left_out?.length ? ` ${t("leftOut", { what: recorded.left_out.join("; ") })}` : "",
  );
}

// Layer, head, word: each can be stepped, chosen, or typed.
export function drawWhere() {
  const { layer, head, token } = state,
    { model, text } = here;
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
      tokens ? null : bdi(text.tokens[token], { class: "chosen" }),
      h("span", {}, t("words", { n: count(size()) })),
      h("span", {}, model.dtype ?? "float32"),
      h("span", {}, text.engine ?? ""),
      proofSign(),
    ),
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

export function jobBar(job) {
  const place = document.getElementById("job");
  place.hidden = !job;
  if (!job) return fill(place);
  const bar = h("progress", { max: job.total || 1, "aria-label": t(`job_${job.what}`) });
  if (job.total) bar.value = job.done ?? 0;
  else bar.removeAttribute("value"); // how long is not known
  fill(
    place,
    h("span", {}, job.state === "waiting" ? t("wait") : t(`job_${job.what}`)),
    bar,
    h("button", { class: "quiet", "data-key": "cancel", onclick: () => cancel(job.job) }, t("cancel")),
  );
}

// An error as one sentence and what to do.
export function drawNotice(error, again = null) {
  const known = { 410: t("notRecorded"), [-1]: t("gone"), 499: t("cancelled") }[error.status];
  return h(
    "div",
    { class: error.status === 410 ? "notice calm" : "notice" },
    h("p", {}, known ?? error.message),
    error.todo && h("p", {}, error.todo),
    again && error.status !== 410 && h("button", { "data-key": "again", onclick: again }, t("again")),
  );
}

export function drawKeys() {
  const dialog = document.getElementById("keys"),
    rows = [
      ["← →", "steps"],
      ["1 – 7", "number"],
      ["Esc", "escape"],
      ["L", "layer"],
      ["H", "head"],
      ["W", "token"],
      ["V", "view"],
      ["?", "help"],
    ];
  fill(
    dialog,
    h("h2", {}, t("keysTitle")),
    h(
      "dl",
      {},
      rows.map(([key, name]) => h("div", {}, h("dt", {}, h("kbd", {}, key)), h("dd", {}, t(`key_${name}`)))),
    ),
    h("form", { method: "dialog" }, h("button", {}, t("close"))),
  );
  dialog.showModal();
}
