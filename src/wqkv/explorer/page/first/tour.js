// A walk through the page in one minute: a sentence at each stop, and the part that it speaks of lit.

import { h, select } from "../parts/dom.js";
import { opened } from "../reading/opened.js";
import { go, state } from "../reading/state.js";
import { t } from "../words/words.js";

/** @type {{ name: string, part: string, change?: { step?: number, view?: string } }[]} */
const STOPS = [
  { name: "answer", part: "answer" },
  { name: "stream", part: "stream" },
  { name: "step2", part: "strip", change: { step: 2 } },
  { name: "step4", part: "strip", change: { step: 4 } },
  { name: "step5", part: "strip", change: { step: 5 } },
  { name: "step6", part: "strip", change: { step: 6 } },
  { name: "why", part: "views", change: { view: "cards" } },
  { name: "text", part: "views", change: { view: "text" } },
];

/** @type {(() => void) | null} */
let endTour = null; // ends the tour that is on

export function tour() {
  endTour?.();
  const before = { step: state.step, view: state.view },
    says = h("p", { "aria-live": "polite" }),
    place = h("small", {});
  let at = 0,
    lit = /** @type {HTMLElement | null} */ (null);
  const show = to => {
    at = to;
    const { name, part, change } = STOPS[at];
    if (change) go(change, true);
    lit?.classList.remove("toured");
    lit = document.getElementById(part);
    lit?.classList.add("toured");
    lit?.scrollIntoView({ block: part === "answer" ? "end" : "start" });
    says.textContent = t(`tour_${name === "text" && opened.text.pictures.length ? "picture" : name}`);
    place.textContent = t("tourAt", { at: at + 1, all: STOPS.length });
    back.disabled = at === 0;
    const last = at === STOPS.length - 1;
    next.textContent = last ? t("tourEnd") : t("next");
    quit.hidden = last;
  };
  const end = () => {
    document.removeEventListener("keydown", onTourKey, true);
    lit?.classList.remove("toured");
    box.remove();
    endTour = null;
    go(before, true);
    scrollTo(0, 0);
    select(document.body, "[data-key='tour']").at(0)?.focus({ preventScroll: true });
  };
  const onward = () => (at === STOPS.length - 1 ? end() : show(at + 1));
  const onTourKey = event => {
    const act = { Escape: end, ArrowRight: onward, ArrowLeft: () => at && show(at - 1) }[event.key];
    if (!act) return;
    event.preventDefault();
    event.stopPropagation();
    act();
  };
  const back = h("button", { onclick: () => show(at - 1) }, t("back")),
    next = h("button", { class: "main", onclick: onward }, t("next")),
    quit = h("button", { class: "quiet", onclick: end }, t("tourEnd"));
  const box = h(
    "div",
    { class: "tour", role: "dialog", "aria-label": t("tour") },
    says,
    h("div", { class: "controls" }, place, back, next, quit),
  );
  endTour = end;
  document.addEventListener("keydown", onTourKey, true);
  document.body.append(box);
  show(0);
  next.focus({ preventScroll: true });
}
