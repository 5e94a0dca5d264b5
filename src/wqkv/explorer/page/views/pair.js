// Two texts: a written token is chosen to see where it looks, a token that was read to see who looks.

import { foot, pythonOf } from "../frame/foot.js";
import { h } from "../parts/dom.js";
import { flow } from "../parts/flow.js";
import { count, weight } from "../parts/format.js";
import { scaleOf } from "../parts/photo.js";
import { barPicture } from "../parts/picture.js";
import { rankings } from "../parts/ranking.js";
import { keyWithPosition, named, tokenWithPosition } from "../parts/token.js";
import { askFor, keys, opened } from "../reading/opened.js";
import { go, state } from "../reading/state.js";
import { strongest, weightsOf } from "../steps/worked.js";
import { t } from "../words/words.js";
import { drawnAs, linesView } from "./lines.js";

/** @import { TextFacts } from "../types" */

const MOST = 10;

export async function pairView() {
  if (state.as === "lines") return linesView();
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
    h("div", { class: "controls" }, drawnAs()),
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
    scaleOf(keys()),
    h(
      "div",
      { class: "twolists" },
      bothWays([
        { name: "up", title: [named(written, token), " ", t("looksAt")], ranked: ranked(to), of: keys(), chosen: key, pick: toKey },
        ...(column
          ? [
              {
                name: "down",
                title: [t("lookedAtBy"), " ", named(keys(), key)],
                ranked: ranked(from),
                of: written,
                chosen: token,
                pick: j => go({ token: j, other: key }),
              },
            ]
          : []),
      ]),
      !column && h("p", { class: "note" }, t("notRecorded")),
    ),
    foot({
      name: "text",
      python: pythonOf(column ? [row, column] : [row]),
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

function ranked(weights) {
  return [...weights].filter(([, value]) => value > 0).sort((a, b) => b[1] - a[1] || a[0] - b[0]);
}

/**
 * The strongest tokens each way, as buttons that go there: on one scale.
 *
 * @param {{ name: string, title: (Node | string)[], ranked: [number, number][], of: TextFacts, chosen: number, pick: (j: number) => void }[]} ways
 */
function bothWays(ways) {
  const tables = rankings(
    ways.map(({ name, ranked: all, of, chosen, pick }) => {
      const values = new Map(all);
      return {
        name: `list-${name}`,
        of,
        at: all.slice(0, MOST).map(([j]) => j),
        chosen,
        pick,
        columns: [{ title: t("weight"), unit: "share", value: j => values.get(j), text: weight, kind: name }],
      };
    }),
  );
  return ways.map(({ title, ranked: all }, n) => {
    const rest = all.slice(MOST);
    return h(
      "section",
      {},
      h("h3", {}, title),
      tables[n],
      rest.length > 0 &&
        h("p", { class: "note" }, t("restShare", { n: count(rest.length), share: weight(rest.reduce((sum, [, value]) => sum + value, 0)) })),
    );
  });
}
