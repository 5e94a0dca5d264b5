// Elements of the page. Text goes in as text nodes, never as markup.

const TYPED_IN = "input[type='text'], textarea";
const SVG = "http://www.w3.org/2000/svg";

/**
 * An element: h("p", { class: "note", onclick: f }, "text", other). False and null are left out.
 *
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, any>} attributes
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function h(tag, attributes = {}, ...children) {
  return dress(document.createElement(tag), attributes, children);
}

/**
 * @template {keyof SVGElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, any>} attributes
 * @returns {SVGElementTagNameMap[Tag]}
 */
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

/**
 * The elements inside `place` that a selector names.
 *
 * @param {HTMLElement} place
 * @param {string} selector
 * @returns {HTMLElement[]}
 */
export function select(place, selector) {
  return [.../** @type {NodeListOf<HTMLElement>} */ (place.querySelectorAll(selector))];
}

const scrolled = new Map(); // where parts stood, by their data-scroll

/** @type {string | null} */
let lost = null; // the data-key of what had the focus and is to have it again

addEventListener("focusin", () => {
  lost = null;
});
addEventListener("pointerdown", () => {
  lost = null;
});

/**
 * New children for a place. What had the focus there (by its data-key) has it again, even if it
 * comes later, and what was scrolled stays scrolled.
 *
 * @param {HTMLElement} place
 */
export function fill(place, ...children) {
  const focused = /** @type {HTMLElement | null} */ (document.activeElement),
    active = place.contains(focused) ? focused : null;
  const at = active?.matches(TYPED_IN) ? /** @type {HTMLInputElement} */ (active).selectionStart : null;
  if (active?.dataset.key) lost = active.dataset.key;
  const key = lost;
  for (const part of select(place, "[data-scroll]"))
    scrolled.set(part.dataset.scroll, [part.scrollLeft, part.scrollTop]);
  place.replaceChildren(...shownChildren(children));
  for (const part of select(place, "[data-scroll]"))
    [part.scrollLeft, part.scrollTop] = scrolled.get(part.dataset.scroll) ?? [0, 0];
  const again =
    key &&
    document.activeElement === document.body &&
    select(place, "[data-key]").find(part => part.dataset.key === key);
  if (!again) return;
  again.focus({ preventScroll: true });
  if (at !== null) /** @type {HTMLInputElement} */ (again).setSelectionRange(at, at);
}

// A sentence whose numbers do not break over lines at their minus: 1.8e-04.
export function unbroken(text) {
  return text.split(/(\S*\de-\d+\S*)/).map((part, i) => (i % 2 ? h("span", { class: "named" }, part) : part));
}

/**
 * The arrow keys walk the parts of a widget: the one chosen takes Tab, the others are reached from it.
 *
 * @param {KeyboardEvent} event
 * @param {HTMLElement[]} parts
 */
export function walk(event, parts, columns = 1, choose = part => part.click()) {
  const at = parts.findIndex(part => part.contains(/** @type {Node} */ (event.target)));
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
