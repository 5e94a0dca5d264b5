// What if: heads switched off, words changed; the answer before and after; every change can be undone.

import { get, workOnce } from "./api.js";
import { around, bar, barPicture, chips } from "./draw.js";
import { bdi, fixed, h, short, visible, weight } from "./dom.js";
import { about, foot, here, named, size } from "./here.js";
import { entriesOf, strongest } from "./worked.js";
import { go, state } from "./state.js";
import { t } from "./words.js";

// The changes stand in the address, the last one last: change=3.1|10:cat (each text escaped).
function changes() {
  const { n_layer, n_head } = here.model, found = [];
  for (const part of (state.change ?? "").split("|")) {
    const off = /^(\d{1,4})\.(\d{1,4})$/.exec(part), edit = /^(\d{1,9}):(.+)$/.exec(part);
    if (off && Number(off[1]) < n_layer && Number(off[2]) < n_head) found.push({ layer: Number(off[1]), head: Number(off[2]) });
    else if (edit && Number(edit[1]) < size()) found.push({ word: Number(edit[1]), text: unescaped(edit[2]) });
  }
  return found;
}

function unescaped(text) {
  try {
    return decodeURIComponent(text);
  } catch { // a broken escape stays as it is
    return text;
  }
}

function change(to) {
  go({ change: to.map(one => (one.text === undefined ? `${one.layer}.${one.head}` : `${one.word}:${encodeURIComponent(one.text)}`)).join("|") || null });
}

export async function whatifView() {
  const made = changes(), parts = [editor(made), made.length ? changeList(made) : h("p", { class: "note" }, t("whatifSays"))];
  if (!made.length) return parts;
  const asked = { off: made.filter(one => one.text === undefined).map(({ layer, head }) => [layer, head]), edits: made.filter(one => one.text !== undefined) };
  const answer = await workOnce(`views/${state.v}/whatif`, asked);
  return [...parts, h("div", { class: "outcome" }, outcome(answer, asked), await looksNow(answer, asked), layers(answer)),
    foot({ name: "whatif", python: answer.python, data: answer, layer: null, head: null, word: null, picture: () => barPicture(t("layerChange"), answer.layers.map((value, l) => [t("atLayer", { layer: l }), value]), { text: short }) })];
}

function editor(made) {
  const { layer, head, word } = state, special = here.text.special[word];
  const off = made.findIndex(one => one.layer === layer && one.head === head), edit = made.findIndex(one => one.word === word);
  const without = at => made.filter((_, i) => i !== at);
  const given = h("input", { type: "text", id: "new-word", "data-key": "new-word", value: edit < 0 ? here.text.words[word] : made[edit].text, maxlength: 200, disabled: special, autocomplete: "off" });
  const pick = Object.assign(j => go({ word: j, other: null }), { chosen: word });
  return [chips(around(word, 60), pick), h("div", { class: "editor" },
    h("div", {}, h("p", {}, t("offSays")), h("button", { "data-key": "off", "aria-pressed": String(off >= 0), onclick: () => change(off >= 0 ? without(off) : [...made, { layer, head }]) }, t(off >= 0 ? "switchOn" : "switchOff", { layer, head }))),
    h("form", { onsubmit: event => {
      event.preventDefault();
      const text = given.value;
      if (text.trim() && text !== here.text.words[word]) change([...without(edit), { word, text }]);
    } }, h("p", {}, h("label", { for: "new-word" }, t("editSays"), " ", named(word))), special ? h("p", { class: "note" }, t("specialWord")) : h("span", { class: "joined" }, given, h("button", { type: "submit", "data-key": "edit" }, t("change")))))];
}

function changeList(made) {
  return h("div", { class: "changes" }, h("ul", {}, made.map((one, at) => h("li", {}, one.text === undefined ? t("isOff", one) : [named(one.word), " → ", bdi(one.text)],
    h("button", { class: "quiet", "data-key": `undo-${at}`, "aria-label": t("undoThis"), title: t("undoThis"), onclick: () => change(made.filter((_, i) => i !== at)) }, "×")))),
  h("button", { "data-key": "undo", onclick: () => change(made.slice(0, -1)) }, t("undo")),
  made.length > 1 && h("button", { "data-key": "undo-all", onclick: () => change([]) }, t("undoAll")));
}

// What the model says now: the next word, or how near the text's vector still is.
function outcome(answer, { edits }) {
  return h("section", {}, answer.before.top ? nextWords(answer) : similarity(answer),
    edits.length > 0 && h("p", { class: "aftertext" }, answer.words.slice(0, 80).map(word => [bdi(word), " "]), answer.words.length > 80 && "..."),
    answer.view && h("p", {}, h("button", { "data-key": "open-after", onclick: () => go({ v: String(answer.view), change: null, other: null, set: null, at: null, text: null }) }, t("openAfter"))));
}

function similarity({ after }) {
  return [h("h3", {}, t("similarity")), h("p", { class: "big", title: String(after.similarity) }, fixed(after.similarity, 4)), h("p", { class: "note" }, t("similaritySays"))];
}

function nextWords({ before, after }) {
  const was = new Map(before.top.map(({ word, probability }) => [word, probability])), is = new Map(after.top.map(({ word, probability }) => [word, probability]));
  const words = [...new Set([...is.keys(), ...was.keys()])];
  return [h("h3", {}, t("nextWord")), twoColumns(words.map(word => [h("bdi", {}, visible(word)), was.get(word), is.get(word)])), h("p", { class: "note" }, t("nextAfter"))];
}

// Where the chosen word looks, in both texts. A word after the last change may have moved.
async function looksNow({ view, words }, { edits }) {
  const { layer, head, word } = state, moved = words.length - size(), places = edits.map(edit => edit.word);
  const after = j => (j < Math.min(...places) || !moved ? j : j > Math.max(...places) ? j + moved : null), there = after(word);
  if (!view || there === null) return null;
  const [was, is] = await Promise.all([about("row", { layer, head, i: word }), get(`views/${view}/row`, { layer, head, i: there })]);
  const new_ = new Map(entriesOf(is).map(one => [one.index, one.weight])), rows = strongest(was).slice(0, 10);
  return h("section", {}, h("h3", {}, t("looksNow"), " ", named(word), ` (${t("atBoth", { layer, head })})`), twoColumns(rows.map(({ index, weight: value }) => {
    const to = after(index), text = to === null ? "" : words[to];
    return [[bdi(here.text.words[index]), text && text !== here.text.words[index] && [" → ", bdi(text)]], value, to === null ? undefined : new_.get(to)];
  })));
}

function twoColumns(rows) {
  const top = Math.max(...rows.flatMap(([, was, is]) => [was ?? 0, is ?? 0]));
  const cell = (value, kind) => [h("td", { class: "right", title: String(value ?? "") }, value === undefined ? "" : weight(value)), h("td", { class: "barcell" }, value === undefined ? "" : bar(value, top, { kind }))];
  return h("table", { class: "ranking n2" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, t("word")), h("th", { scope: "col", class: "right" }, t("before")), h("td", {}), h("th", { scope: "col", class: "right" }, t("after")), h("td", {}))),
    h("tbody", {}, rows.map(([name, was, is]) => h("tr", {}, h("th", { scope: "row" }, name), cell(was, "up"), cell(is, "down")))));
}

function layers(answer) {
  const top = Math.max(...answer.layers.map(value => value ?? 0));
  const rows = answer.layers.map((value, l) => h("tr", {}, h("th", { scope: "row", class: "right" }, l), h("td", { class: "right", title: String(value) }, short(value, 3)), h("td", { class: "barcell" }, bar(value, top, { kind: "down" }))));
  return h("section", {}, h("h3", {}, t("layerChange")), h("p", {}, t("outputChange"), " ", h("b", { title: String(answer.change) }, short(answer.change, 3))),
    h("table", { class: "ranking n1 bins" }, h("thead", {}, h("tr", {}, h("th", { scope: "col", class: "right" }, t("layer")), h("th", { scope: "col", class: "right" }, t("changeBy")), h("td", {}))), h("tbody", {}, rows)), h("p", { class: "note" }, t("changeSays")));
}
