// A text with elements at its places.

/**
 * The parts of a text: rich(marks => t("question", marks), { token: element }).
 *
 * @param {(marks: any) => string} text is given a mark for each place
 * @param {Record<string, unknown>} parts what stands at the places, by name
 */
export function rich(text, parts) {
  const marks = Object.fromEntries(Object.keys(parts).map(name => [name, `\u0001${name}\u0001`]));
  return text(marks)
    .split("\u0001")
    .map((piece, i) => (i % 2 ? copy(parts[piece]) : piece));
}

// An element can stand at one place alone; a text may name one of its places twice.
function copy(part) {
  return typeof part === "function" ? part() : part;
}
