// Two texts: a written token is chosen to see where it looks, a token that was read to see who looks.

import { foot } from "../frame/foot.js";
import { h } from "../parts/dom.js";
import { flow } from "../parts/flow.js";
import { count, weight } from "../parts/format.js";
import { barPicture } from "../parts/picture.js";
import { ranking, scale } from "../parts/ranking.js";
import { bdi, keyWithPosition, tokenWithPosition } from "../parts/token.js";
import { askFor, keys, opened } from "../reading/opened.js";
import { go, state } from "../reading/state.js";
import { entriesOf, strongest } from "../steps/worked.js";
import { t } from "../words/words.js";

/** @import { ColumnAnswer, RowAnswer } from "../types" */

const MOST = 10;

export async function pairView() {
  const { layer, head, token } = state,
    row = await askFor("row", { layer, head, i: token }),
    key = state.other ?? strongest(row)[0]?.index ?? 0;
  const column = await askFor("column", { layer, head, j: key }).catch(error => {
    if (error.status !== 410) throw error;
    return null; // a saved page without this column
  });
  const to = weightsOf(row),
    from = column ? weightsOf(column) : new Map();
  const written = opened.text,
    toWritten = j => go({ token: j, other: null }),
    toKey = j => go({ other: j });
  return [
    h("p", { class: "note" }, t("pairSays")),
    h(
      "div",
      { class: "twotexts" },
      h(
        "section",
        {},
        h("h3", {}, t("wasWritten")),
        h("p", { class: "note" }, t(opened.text.target === null ? "byModel" : "byYou")),
        flow({
          of: written,
          name: t("wasWritten"),
          from: "from",
          asked: [token],
          at: token,
          lookup: j => from.get(j) ?? 0,
          pick: toWritten,
        }),
      ),
      h(
        "section",
        {},
        h("h3", {}, t("wasRead")),
        h("p", { class: "note" }, t("keysSay")),
        flow({
          of: keys(),
          name: t("wasRead"),
          from: "keysfrom",
          asked: [key],
          at: key,
          lookup: j => to.get(j) ?? 0,
          pick: toKey,
        }),
      ),
    ),
    scale(),
    h(
      "div",
      { class: "twolists" },
      looks(t("looksAt"), token, to, { of: keys(), chosen: key, pick: toKey, kind: "up" }),
      column
        ? looks(t("lookedAtBy"), key, from, {
            of: written,
            chosen: token,
            pick: j => go({ token: j, other: key }),
            kind: "down",
          })
        : h("p", { class: "note" }, t("notRecorded")),
    ),
    foot({
      name: "text",
      python: column ? `${row.python}\n${column.python.split("\n").at(-1)}` : row.python,
      data: { token, to: [...to], key, from: [...from] },
      other: key,
      picture: () =>
        barPicture(
          `${tokenWithPosition(token)} ${t("looksAt")}`,
          ranked(to)
            .slice(0, 24)
            .map(([j, value]) => [keyWithPosition(j), value]),
        ),
    }),
  ];
}

/** @param {RowAnswer | ColumnAnswer} answer */
function weightsOf(answer) {
  return new Map(entriesOf(answer).map(({ index, weight: value }) => [index, value]));
}

function ranked(weights) {
  return [...weights].filter(([, value]) => value > 0).sort((a, b) => b[1] - a[1] || a[0] - b[0]);
}

// The strongest tokens one way, as buttons that go there.
function looks(title, subject, weights, { of, chosen, pick, kind }) {
  const all = ranked(weights),
    at = all.slice(0, MOST).map(([j]) => j),
    rest = all.slice(MOST).reduce((sum, [, value]) => sum + value, 0);
  const name = bdi(kind === "up" ? opened.text.tokens[subject] : keys().tokens[subject]);
  return h(
    "section",
    {},
    h("h3", {}, kind === "up" ? [name, " ", title] : [title, " ", name]),
    ranking({
      name: `list-${kind}`,
      of,
      at,
      chosen,
      pick,
      columns: [{ title: t("weight"), value: j => weights.get(j), text: weight, kind }],
    }),
    all.length > MOST &&
      h("p", { class: "note" }, t("restShare", { n: count(all.length - MOST), share: weight(rest) })),
  );
}
