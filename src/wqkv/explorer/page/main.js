// The page: reads the address, asks for what it names, and draws the part that changed.

import { answer } from "./first/answer.js";
import { modelStrip } from "./first/stream.js";
import { drawKeys, drawNotice, jobBar } from "./frame/notices.js";
import { drawTop } from "./frame/top.js";
import { drawWhere } from "./frame/where.js";
import { fill, h, select, walk } from "./parts/dom.js";
import { visible } from "./parts/format.js";
import { removedKey } from "./reading/asked.js";
import { hasStatistic, keyCount, opened, readModel, readView, size } from "./reading/opened.js";
import { finish, onJob, recorded, Refusal, work } from "./reading/server.js";
import { go, onState, state } from "./reading/state.js";
import { panel, readStory, STEPS } from "./steps/panel.js";
import { strip } from "./steps/strip.js";
import { cardsView } from "./views/cards.js";
import { generateView } from "./views/generate.js";
import { gridView } from "./views/grid.js";
import { mapView } from "./views/map.js";
import { mattersView } from "./views/matters.js";
import { pairView } from "./views/pair.js";
import { textView } from "./views/text.js";
import { whatifView } from "./views/whatif.js";
import { lang, t } from "./words/words.js";

/** @import { ViewName } from "./types" */

const VIEWS = { cards: cardsView, text: () => (opened.text.keys ? pairView() : textView()), grid: gridView, map: mapView, matters: mattersView, whatif: whatifView, generate: generateView };
const IN_ADDRESS = 1500; // characters of a text that the address carries

// A part of open.html, all of which are there.
const part = name => /** @type {HTMLElement} */ (document.getElementById(name));

// Drawing: each part knows of what state it was drawn, and the last to ask is the one that is shown.

const drawn = new Map();

async function draw(name, key, make) {
  const last = drawn.get(name),
    whole = JSON.stringify([key, lang(), state.theme, state.v]);
  if (last === whole) return;
  drawn.set(name, whole);
  const place = part(name);
  place.setAttribute("aria-busy", "true");
  let made;
  try {
    made = await make();
  } catch (error) {
    if (!(error instanceof Refusal)) console.error(error);
    made = drawNotice(error, () => {
      drawn.clear(); // whatever failed is asked for again
      paintAll();
    });
  }
  if (drawn.get(name) !== whole) return; // something else is asked for by now
  fill(place, made);
  place.removeAttribute("aria-busy");
}

function paintAll() {
  document.documentElement.lang = lang() === "zh" ? "zh-CN" : "en";
  if (state.theme) document.documentElement.dataset.theme = state.theme;
  else delete document.documentElement.dataset.theme;
  part("skip").textContent = t("skip");
  draw("top", [opened.model?.name, opened.text?.tokens.length], () => drawTop(openText, openWindow));
  part("main").hidden = !opened.text;
  if (!opened.text) {
    document.title = t("title");
    return;
  }
  settle();
  const { layer, head, token, other, step, view } = state;
  document.title = `${visible(opened.text.tokens[token])} · ${t("atBoth", { layer, head })} · wqkv`;
  draw("where", [layer, head, token, opened.text.proofs], () => drawWhere());
  draw("answer", [layer, head, token], async () => answer(await readStory()));
  draw("stream", [layer, head, token], () => modelStrip());
  draw("strip", [layer, head, token, step, state.without], async () => strip(await readStory()));
  draw("open", [layer, head, token, other, step, state.without, state.how], async () => panel(await readStory()));
  draw("tabs", [view], () => viewTabs());
  draw("view", [{ ...state, step: 0, lang: "", theme: "", lit: "", order: "", times: "" }], () => VIEWS[view]());
}

// What the address may have wrong is put right: a layer that the model has not, a token beyond the end.
function settle() {
  const { first, tokens } = opened.text,
    { n_layer, n_head } = opened.model;
  const within = (value, n, otherwise) => (Number.isInteger(value) && value < n ? value : otherwise);
  state.layer = within(state.layer, n_layer, first?.layer ?? 0);
  state.head = within(state.head, n_head, first?.head ?? 0);
  state.token = within(state.token, tokens.length, first?.token ?? 0);
  if (removedKey() === undefined) delete state.without;
  if (state.other !== undefined && state.other >= keyCount()) delete state.other;
  if (!hasStatistic(state.stat)) state.stat = "entropy";
  if (!opened.text.tabs.some(name => name === state.view)) state.view = "cards";
  if (state.step > STEPS) state.step = STEPS;
}

function viewTabs() {
  const tabs = opened.text.tabs.map(name =>
    h(
      "button",
      {
        role: "tab",
        id: `tab-${name}`,
        "data-key": `tab-${name}`,
        "aria-selected": String(state.view === name),
        "aria-controls": "view",
        tabindex: state.view === name ? 0 : -1,
        onclick: () => go({ view: name }),
      },
      t(`view_${name}`),
    ),
  );
  return h(
    "div",
    { role: "tablist", class: "tabs", "aria-label": t("views"), onkeydown: event => walk(event, tabs, 0) },
    tabs,
  );
}

// Opening

/**
 * @param {string} text
 * @param {{ target?: string, pair?: string, picture?: string }} beside what a model of two texts writes, a
 *   second sentence, or another picture
 */
async function openText(text, beside) {
  if (!text.trim()) return say(new Refusal(t("empty")));
  const { target, pair, picture } = beside,
    short = !picture && text.length + (target ?? pair ?? "").length <= IN_ADDRESS;
  await attempt(async () => {
    const { view } = await work("open", { text, ...beside });
    await readView(view);
    const { layer, head, token } = opened.text.first;
    const named = short ? { text, target: target ?? null, pair: pair ?? null } : { text: null, target: null, pair: null };
    show(view, { ...named, window: null, layer, head, token });
  });
}

// Another window of the text that is open, at the same layer, head and place.
function openWindow(window) {
  return attempt(async () => {
    const [base, part] = String(shownText).split("."),
      { view } = await work("open", { view: base, window }),
      name = part ? `${view}.${part}` : view;
    await readView(name);
    show(name, { window });
  });
}

// Shows a text that was read; what was chosen in the last one is dropped.
function show(view, patch) {
  shownText = view;
  drawn.clear(); // before the state changes, or all would be drawn twice
  go({
    v: view,
    ...patch,
    other: null,
    set: null,
    at: null,
    from: null,
    keysfrom: null,
    change: null,
    count: null,
    moment: null,
    answer: null,
    against: null,
    after: null,
    asked: null,
    without: null,
    by: null,
    more: null,
  });
  paintAll();
}

async function attempt(act) {
  say(null);
  try {
    await act();
  } catch (error) {
    if (!(error instanceof Refusal)) console.error(error);
    say(error);
  }
}

function say(error) {
  part("notice").hidden = !error;
  fill(part("notice"), error ? drawNotice(error) : []);
}

/** @type {string | undefined} */
let shownText; // the name of the view that is shown

async function start() {
  paintAll();
  await attempt(async () => {
    await readModel();
    paintAll();
    await resume();
  });
}

// The text that the address names; else the one that the command line gave.
async function resume() {
  const { start: given } = opened.model,
    { window } = state;
  let view = state.v;
  if (view === undefined && state.text) {
    await openText(state.text, { target: state.target, pair: state.pair });
    return window ? openWindow(window) : undefined;
  }
  if (view === undefined)
    view = given?.job ? /** @type {ViewName} */ (await finish(given.job)).view : given?.view;
  if (view === undefined) return say(new Refusal(t("noText")));
  shownText = await readOrReopen(view, state.text);
  if (window !== undefined && window !== opened.text.window?.number) return openWindow(window);
  settle();
  drawn.clear();
  go({ v: shownText }, true); // the address names from now on what is shown
  paintAll();
}

/**
 * Reads a view, or its text anew if the server has let it go; returns the name of the view.
 *
 * @param {string} view
 * @param {string | undefined} text of the view, if the address has it
 */
async function readOrReopen(view, text = undefined) {
  try {
    await readView(view);
    return view;
  } catch (error) {
    if (!(error instanceof Refusal && error.status === 404)) throw error;
    const { target, pair: second, window = 0 } = state,
      [base, part] = String(view).split(".");
    // The server knows the text of a view longer than its numbers, until it is started again.
    const asked = text ? { text, window, target, pair: second } : { view: base, window };
    const again = /** @type {ViewName} */ (await work("open", asked)).view,
      name = part ? `${again}.${part}` : again;
    await readView(name);
    return name;
  }
}

// Back and forward may name another text; an address that names none means this one.
async function follow() {
  if (opened.text) state.v ??= shownText;
  const view = state.v;
  if (opened.text && view !== undefined && view !== shownText) {
    shownText = view;
    part("view").setAttribute("aria-busy", "true");
    await attempt(async () => {
      shownText = await readOrReopen(view);
      go({ v: shownText }, true);
    });
    part("view").removeAttribute("aria-busy");
  }
  paintAll();
}

// Keys that work everywhere but in what is typed

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || !opened.text) return;
  if (event.target.closest("input, select, textarea, dialog[open], summary, .scroll, .digits, .code")) return;
  const way = event.shiftKey ? -1 : 1,
    turn = (value, n) => (value + way + n) % n;
  const key = event.key.toLowerCase();
  if (event.key === "ArrowRight" && state.step < STEPS) go({ step: state.step + 1 });
  else if (event.key === "ArrowLeft" && state.step > 1) go({ step: state.step - 1 });
  else if (/^[1-7]$/.test(key)) go({ step: Number(key) });
  else if (event.key === "Escape") go({ step: 0 });
  else if (key === "l") go({ layer: turn(state.layer, opened.model.n_layer), other: null });
  else if (key === "h") go({ head: turn(state.head, opened.model.n_head), other: null });
  else if (key === "w") go({ token: turn(state.token, size()), other: null, set: null });
  else if (key === "v")
    go({ view: opened.text.tabs[turn(opened.text.tabs.findIndex(name => name === state.view), opened.text.tabs.length)] });
  else if (event.key === "?") drawKeys();
  else return;
  event.preventDefault();
}

onState(follow);
onJob(job => jobBar(job));
document.addEventListener("keydown", onKey);
part("skip").addEventListener("click", () => {
  select(part("tabs"), "[tabindex='0']").at(0)?.focus();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  drawn.clear();
  paintAll();
});
if (recorded) document.documentElement.dataset.recorded = "";
start();
