// One hue from weight 0 to weight 1, away from the ground: the colors of every other picture of ours.

/** @typedef {number[]} RGB red, green and blue, from 0 to 255 */

const LIGHT = [
  [239, 244, 250],
  [49, 127, 201],
  [8, 36, 84],
];
const DARK = [
  [29, 36, 46],
  [47, 123, 196],
  [214, 236, 255],
];

// What speaks against: the same ramp in orange, from the same ground.
const LIGHT_AGAINST = [
  [239, 244, 250],
  [222, 124, 40],
  [96, 40, 0],
];
const DARK_AGAINST = [
  [29, 36, 46],
  [196, 110, 40],
  [255, 226, 196],
];

const system = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : system.matches;
}

/**
 * The color of a value from 0 to 1, as [red, green, blue].
 *
 * @param {number} value
 * @returns {RGB}
 */
export function ramp(value) {
  return between(isDark() ? DARK : LIGHT, value);
}

/**
 * @param {RGB[]} stops
 * @param {number} value
 */
function between(stops, value) {
  const at = 2 * Math.min(Math.max(value, 0), 1);
  const [low, high] = at < 1 ? [stops[0], stops[1]] : [stops[1], stops[2]];
  return low.map((a, i) => rounded(a + (high[i] - a) * (at < 1 ? at : at - 1)));
}

/**
 * The nearest whole number; of exact halves the even one, as in Python.
 *
 * @param {number} value
 */
function rounded(value) {
  const up = Math.round(value);
  return up - value === 0.5 && up % 2 ? up - 1 : up;
}

/** @param {RGB} rgb a fourth number is the opacity */
export function css([r, g, b, opacity = 1]) {
  return `rgb(${r} ${g} ${b}${opacity < 1 ? ` / ${opacity}` : ""})`;
}

/**
 * A weight's color: by its square root, so that 0.01 can be told from 0.
 *
 * @param {number | null | undefined} value
 */
export function tint(value) {
  return ramp(Math.sqrt(value || 0));
}

/**
 * The color of an effect from -1 to 1, by the square root of its size: blue where the number falls
 * without the link, which so speaks for the answer, and orange where it rises.
 *
 * @param {number} value
 */
export function effectTint(value) {
  const size = Math.sqrt(Math.abs(value));
  return signedRamp(value > 0 ? -size : size);
}

/**
 * The color of a number from -1 to 1: orange below 0, blue above, the ground at 0.
 *
 * @param {number} value
 */
export function signedRamp(value) {
  return value < 0 ? between(isDark() ? DARK_AGAINST : LIGHT_AGAINST, -value) : ramp(value);
}

/**
 * The color of a number from -1 to 1 over a picture, which is seen through it: with its opacity. The
 * ramp's darkest end would hide the picture.
 *
 * @param {number} level
 */
export function overlay(level) {
  const size = Math.min(Math.abs(level), 1);
  return [...signedRamp(Math.sign(level) * (0.3 + 0.5 * size)), Number((0.9 * size ** 0.8).toFixed(3))];
}

/**
 * The same color over the ground, for a scale.
 *
 * @param {number} level
 */
export function overGround(level) {
  const [r, g, b, opacity] = overlay(level),
    ground = ramp(0);
  return [r, g, b].map((part, i) => Math.round(ground[i] + (part - ground[i]) * opacity));
}

/**
 * Black or white, whichever is read better on a color.
 *
 * @param {RGB} rgb
 */
export function inkOn(rgb) {
  const [r, g, b] = rgb.map(part => (part / 255) ** 2.2);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.2 ? "#0c1420" : "#ffffff";
}

/**
 * Colors an element by CSSOM, which a strict policy allows.
 *
 * @param {HTMLElement} element
 * @param {RGB} rgb
 */
export function paint(element, rgb) {
  element.style.backgroundColor = css(rgb);
  element.style.color = inkOn(rgb);
}

// 256 colors for a canvas.
export function palette(scale = tint) {
  return Array.from({ length: 256 }, (_, i) => scale(i / 255));
}

/**
 * The color that a variable has now, for canvases and saved pictures. An element that wears it
 * answers, for light-dark(a, b) cannot be asked of the variable.
 *
 * @param {string} name
 */
export function currentColor(name) {
  const probe = /** @type {HTMLElement} */ (document.getElementById("probe"));
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color;
}
