// Numbers and tokens as text: the same characters as draw/steps.py writes.

/**
 * toFixed, but exact halves go to the even digit, as in Python.
 *
 * @param {number} value
 * @param {number} digits
 */
export function fixed(value, digits) {
  const odd = value * 2 ** (digits + 1);
  if (!Number.isInteger(odd) || odd % 2 === 0 || Math.abs(value) > 1e9) return value.toFixed(digits);
  const below = Math.floor(value * 10 ** digits);
  return ((below % 2 ? below + 1 : below) / 10 ** digits).toFixed(digits);
}

/**
 * 4.2e-06, as Python writes powers: toExponential, but exact halves go to the even digit.
 *
 * @param {number | null | undefined} value
 */
export function power(value, digits = 1) {
  const given = value ?? NaN,
    [exact, exponent] = given.toExponential(60).split("e"),
    cut = exact.indexOf(".") + 1 + digits,
    half = /^50*$/.test(exact.slice(cut)) && "02468".includes(exact[cut - 1]);
  const text = half ? `${exact.slice(0, cut)}e${exponent}` : given.toExponential(digits);
  return text.replace(/e([+-])(\d)$/, "e$10$2");
}

/**
 * A score or a channel: -4.21, 12.00, 3.1e+04. null stands for what JSON cannot hold.
 *
 * @param {number | null | undefined} value
 */
export function number(value) {
  if (value === null || value === undefined) return "-";
  if (!(Math.abs(value) < 9999.995)) return power(value);
  const text = fixed(value, 2);
  return text === "-0.00" ? "0.00" : text;
}

/**
 * A weight: 0.677, or 4.2e-06 where that would round to 0.
 *
 * @param {number | null | undefined} value
 */
export function weight(value) {
  if (value === null || value === undefined) return "-";
  return value === 0 || value >= 0.0005 ? fixed(value, 3) : power(value);
}

/**
 * At most so many significant digits: 0.1768, 4.7e-05, 12,345.
 *
 * @param {number | null | undefined} value
 */
export function short(value, digits = 4) {
  if (value === null || value === undefined) return "-";
  if (value === 0) return "0";
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return value.toLocaleString("en");
  const size = Math.abs(value);
  return size < 1e-3 || size >= 1e6
    ? power(value, Math.min(digits, 2) - 1)
    : String(Number(value.toPrecision(digits)));
}

/**
 * So many significant digits, as Python's ".4g": 0.1768, 1.235e+04, 4.7e-05.
 *
 * @param {number} value
 * @param {number} digits
 */
export function general(value, digits) {
  const exponent = Number(value.toExponential(digits - 1).split("e")[1]);
  if (value && (exponent < -4 || exponent >= digits)) return power(value, digits - 1).replace(/\.?0*e/, "e");
  return String(Number(value.toPrecision(digits)));
}

/** @param {number} value */
export function count(value) {
  return value.toLocaleString("en");
}

/**
 * A token as it can be shown: a line break as \n, what turns the reading direction as \u202e.
 *
 * @param {string} token
 */
export function visible(token) {
  if (!token.replaceAll(" ", "")) return `'${token}'`;
  return token.replace(/[\p{C}\p{Z}]/gu, c => {
    if (c === " ") return c;
    const known = { "\n": "\\n", "\r": "\\r", "\t": "\\t" }[c];
    const code = /** @type {number} */ (c.codePointAt(0)).toString(16);
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

/** @param {string} token */
export function label(token) {
  const text = visible(token),
    parts = [...text];
  return parts.length <= 20 ? text : parts.slice(0, 17).join("") + "...";
}

/**
 * @param {number} value
 * @param {number} low
 * @param {number} high
 */
export function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}
