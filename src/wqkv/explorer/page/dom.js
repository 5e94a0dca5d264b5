// Elements, and numbers as Python prints them. Text goes in as text nodes, never as markup.

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
  element.append(...there(children));
  return element;
}

// What is given of a list of children; a condition that does not hold gives none.
function there(children) {
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
  place.replaceChildren(...there(children));
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

// toFixed, but exact halves go to the even digit, as in Python.
export function fixed(value, digits) {
  const odd = value * 2 ** (digits + 1);
  if (!Number.isInteger(odd) || odd % 2 === 0 || Math.abs(value) > 1e9) return value.toFixed(digits);
  const below = Math.floor(value * 10 ** digits);
  return ((below % 2 ? below + 1 : below) / 10 ** digits).toFixed(digits);
}

// 4.2e-06, as Python writes powers.
export function power(value, digits = 1) {
  return value.toExponential(digits).replace(/e([+-])(\d)$/, "e$10$2");
}

// A score or a channel: -4.21, 12.00, 3.1e+04. null stands for what JSON cannot hold.
export function number(value) {
  if (value === null || value === undefined) return "-";
  if (!(Math.abs(value) < 9999.995)) return power(value);
  const text = fixed(value, 2);
  return text === "-0.00" ? "0.00" : text;
}

// A weight: 0.677, or 4.2e-06 where that would round to 0.
export function weight(value) {
  if (value === null || value === undefined) return "-";
  return value === 0 || value >= 0.0005 ? fixed(value, 3) : power(value);
}

// At most so many significant digits: 0.1768, 4.7e-05, 12,345.
export function short(value, digits = 4) {
  if (value === null || value === undefined) return "-";
  if (value === 0) return "0";
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return value.toLocaleString("en");
  const size = Math.abs(value);
  return size < 1e-3 || size >= 1e6
    ? power(value, Math.min(digits, 2) - 1)
    : String(Number(value.toPrecision(digits)));
}

export function count(value) {
  return value.toLocaleString("en");
}

// A word as it can be shown: a line break as \n, what turns the reading direction as \u202e.
export function visible(token) {
  if (!token.replaceAll(" ", "")) return `'${token}'`;
  return token.replace(/[\p{C}\p{Z}]/gu, c => {
    if (c === " ") return c;
    const known = { "\n": "\\n", "\r": "\\r", "\t": "\\t" }[c];
    const code = c.codePointAt(0).toString(16);
    return (
      known ??
      (code.length <= 2
        ? `\\x${code.padStart(2, "0")}`
        : code.length <= 4
          ? `\\u${code.padStart(4, "0")}`
          : `\\U${code.padStart(8, "0")}`)
    );
  });
}

export function label(token) {
  const text = visible(token),
    parts = [...text];
  return parts.length <= 20 ? text : parts.slice(0, 17).join("") + "...";
}

// A word of the text, in its own reading direction.
export function bdi(token, attributes = {}) {
  return h("bdi", attributes, label(token));
}

// A sentence whose numbers do not break over lines at their minus: 1.8e-04.
export function unbroken(text) {
  return text.split(/(\S*\de-\d+\S*)/).map((part, i) => (i % 2 ? h("span", { class: "named" }, part) : part));
}

export function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
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
