// Elements of the page. Text goes in as text nodes, never as markup.

const SVG = "http://www.w3.org/2000/svg";

// An element: h("p", { class: "note", onclick: f }, "text", other). False and null are left out.
export function h(tag, attributes = {}, ...children) {
  return dress(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return dress(document.createElementNS(SVG, tag), attributes, children);
}

function dress(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...shownChildren(children));
  return element;
}

// What is given of a list of children; a condition that does not hold gives none.
function shownChildren(children) {
  return children.flat(9).filter(child => child !== null && child !== undefined && child !== false);
}

const scrolled = new Map(); // where parts stood, by their data-scroll
let lost = null; // the data-key of what had the focus and is to have it again

addEventListener("focusin", () => {
  lost = null;
});
addEventListener("pointerdown", () => {
  lost = null;
});

// New children for a place. What had the focus there (by its data-key) has it again, even if it
// comes later, and what was scrolled stays scrolled.
export function fill(place, ...children) {
  const active = place.contains(document.activeElement) ? document.activeElement : null;
  const at = active?.matches("input[type='text'], textarea") ? active.selectionStart : null;
  if (active?.dataset.key) lost = active.dataset.key;
  const key = lost;
  for (const part of place.querySelectorAll("[data-scroll]"))
    scrolled.set(part.dataset.scroll, [part.scrollLeft, part.scrollTop]);
  place.replaceChildren(...shownChildren(children));
  for (const part of place.querySelectorAll("[data-scroll]"))
    [part.scrollLeft, part.scrollTop] = scrolled.get(part.dataset.scroll) ?? [0, 0];
  const again =
    key &&
    document.activeElement === document.body &&
    [...place.querySelectorAll("[data-key]")].find(part => part.dataset.key === key);
  if (!again) return;
  again.focus({ preventScroll: true });
  if (at !== null) again.setSelectionRange(at, at);
}

// A sentence whose numbers do not break over lines at their minus: 1.8e-04.
export function unbroken(text) {
  return text.split(/(\S*\de-\d+\S*)/).map((part, i) => (i % 2 ? h("span", { class: "named" }, part) : part));
}

// The arrow keys walk the parts of a widget: the one chosen takes Tab, the others are reached from it.
export function walk(event, parts, columns = 1, choose = part => part.click()) {
  const at = parts.indexOf(event.target.closest("[data-key]"));
  const move = {
    ArrowLeft: -1,
    ArrowRight: 1,
    ArrowUp: -columns,
    ArrowDown: columns,
    Home: -at,
    End: parts.length - 1 - at,
  }[event.key];
  if (at < 0 || move === undefined || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey)
    return;
  event.preventDefault();
  event.stopPropagation();
  const to = parts[at + move];
  if (!to) return;
  to.focus();
  choose(to);
}
