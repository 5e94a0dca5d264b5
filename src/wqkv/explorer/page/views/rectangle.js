// The rectangle of a map that is shown exactly: where it lies, how large it may be, its numbers.

import { clamp } from "../parts/format.js";
import { keyCount, size } from "../reading/opened.js";
import { recorded } from "../reading/server.js";
import { list, state } from "../reading/state.js";

export const WHOLE = 256; // a shorter text is one tile
const SPANS = [8, 16, 32, 64, 128, 256];

// The rectangle that is shown exactly: [q0, k0, span]. Its sides are span, or all tokens there are.
export function shownTile() {
  const n = longer(),
    given = list(state.at).map(Number);
  if (given.length === 3 && given.every(Number.isInteger))
    return inside(given[0], given[1], clamp(given[2], Math.min(4, n), Math.min(WHOLE, n)));
  if (n <= WHOLE) return [0, 0, n];
  const kept = recordedTile();
  if (kept) return [kept.q0, kept.k0, Math.max(kept.q1 - kept.q0, kept.k1 - kept.k0)];
  const span = 64;
  return inside(state.token - span / 2, (state.other ?? state.token) - span / 2, span);
}

export function longer() {
  return Math.max(size(), keyCount());
}

export function sides(span) {
  return [Math.min(span, size()), Math.min(span, keyCount())];
}

export function inside(q0, k0, span) {
  const [rows, cols] = sides(span);
  return [clamp(Math.round(q0), 0, size() - rows), clamp(Math.round(k0), 0, keyCount() - cols), span];
}

// The tile of this head that a saved page has inside, if it is one: smaller ones are cut out of it.
function recordedTile() {
  for (const key of Object.keys(recorded?.answers ?? {})) {
    const [path, query] = key.split("?"),
      at = Object.fromEntries([...new URLSearchParams(query)].map(([name, value]) => [name, Number(value)]));
    if (path.endsWith("/tile") && at.layer === state.layer && at.head === state.head) return at;
  }
  return null;
}

export async function readTile(tileOf, where, q0, k0, span) {
  const [rows, cols] = sides(span),
    kept = recordedTile(),
    cut = kept && q0 >= kept.q0 && k0 >= kept.k0 && q0 + rows <= kept.q1 && k0 + cols <= kept.k1;
  if (!cut) return tileOf({ ...where, q0, q1: q0 + rows, k0, k1: k0 + cols });
  const { q0: top, q1, k0: left, k1 } = kept,
    whole = await tileOf({ ...where, q0: top, q1, k0: left, k1 });
  return {
    ...whole,
    values: whole.values.slice(q0 - top, q0 - top + rows).map(row => row.slice(k0 - left, k0 - left + cols)),
  };
}

export function nextSpan(span, way) {
  const most = Math.min(WHOLE, longer()),
    spans = [...new Set([...SPANS.filter(one => one < most), most])];
  if (way < 0) return spans.filter(one => one < span).at(-1) ?? span;
  return spans.find(one => one > span) ?? span;
}
