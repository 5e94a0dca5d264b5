// One column of a matrix worked out: the column, its products with the vector, their sum, the bias.

import { h } from "../parts/dom.js";
import { fixed, number } from "../parts/format.js";
import { largestSize } from "../parts/vector.js";
import { t } from "../words/words.js";
import { drawRows, drawRunning } from "./plates.js";
import { resultName } from "./product.js";
import { briefOf, digitsOfFactors } from "./terms.js";

/** @import { Shown } from "./plates.js" */
/** @import { Plate } from "./product.js" */
/** @import { Term } from "./terms.js" */

/** A sheet for one column: `tell` gives it another one, and `draw` draws the rows that are seen. */
export function workedColumn() {
  const canvases = ["weight", "product", "sum"].map(() => h("canvas", { role: "img" })),
    titles = canvases.map(() => h("h4")),
    total = h("p", { class: "total" }),
    table = h("table", { class: "chain" }),
    then = h("p", { class: "note" }),
    summary = h("summary"),
    all = h("details", { class: "all" }, summary);
  /** @type {Term[]} */
  let told = [];
  let heads = /** @type {string[]} */ ([]); // of the table of all terms

  // Every term with all its digits, written out while it is open.
  function writeAll() {
    all.replaceChildren(summary);
    if (all.open) all.append(termsTable(heads, told));
  }
  all.addEventListener("toggle", writeAll);

  const sheet = {
    label: "", // the number that the column gives, as it is written
    element: h(
      "div",
      { class: "workedcolumn" },
      h("div", { class: "three" }, canvases.map((canvas, i) => h("div", { class: "benchcolumn" }, titles[i], canvas))),
      total,
      table,
      then,
      all,
    ),

    /**
     * Works a column out, and gives its number.
     *
     * @param {Plate} plate
     * @param {Term[]} terms
     * @param {number} c
     */
    tell(plate, terms, c) {
      told = terms;
      sheet.element.hidden = false;
      const { matrix, factor } = plate,
        column = t("columnName", { c }),
        bias = plate.bias?.[c] ?? null,
        sum = terms.at(-1)?.sum ?? 0,
        value = sum + (bias ?? 0),
        { largest, rest, others, digits } = briefOf(terms, bias),
        say = one => fixed(one, digits),
        name = resultName(plate, c);
      const heading = [
        [column, `±${number(largestSize(terms.map(term => term.weight)))}`],
        [factor.name.length > 1 ? t("productWord") : `${factor.name} × ${t("columnWord")}`, `±${number(largestSize(terms.map(term => term.product)))}`],
        [t("sumSoFar"), `0 → ${say(sum)}`],
      ];
      heading.forEach(([title, size], i) => {
        titles[i].replaceChildren(title, h("small", {}, size));
        canvases[i].setAttribute("aria-label", `${title}, ${size}`);
      });
      total.replaceChildren(
        bias === null ? "" : `${say(sum)} ${bias < 0 ? "−" : "+"} ${say(Math.abs(bias))} (b) = `,
        `${name} = `,
        h("b", { class: value < 0 ? "below" : null, title: String(value) }, say(value)),
      );
      const line = (title, how, found, kind = "") =>
        h(
          "tr",
          { class: kind || null },
          h("th", { scope: "row", colspan: how ? 1 : 2 }, title),
          how && h("td", { class: "right" }, how),
          h("td", { class: "right", title: String(found) }, say(found)),
        );
      const lines = largest.map(term => {
        const more = digitsOfFactors(term, digits);
        return line(t("rowName", { r: term.row }), `${fixed(term.value, more)} × ${fixed(term.weight, more)}`, term.product);
      });
      if (others) lines.push(line(t("otherRows", { n: others }), "", rest));
      lines.push(line(`${factor.name} · ${column}`, "", sum, "result"));
      if (bias !== null)
        lines.push(line(t("biasName", { b: `${matrix.name.replace("W", "b")}[${c}]` }), "", bias), line(name, "", value, "result"));
      table.replaceChildren(h("caption", {}, t("largestProducts")), h("tbody", {}, lines));
      then.hidden = !matrix.between.length;
      then.textContent = t("thenBetween", { what: matrix.between.map(one => t(`between_${one}`)).join(t("comma")) });
      summary.textContent = t("allTerms", { n: terms.length });
      heads = ["", `${factor.name}[r]`, `${matrix.name}[r, ${c}]`, "×", "Σ"];
      writeAll();
      sheet.label = say(value);
      return value;
    },

    /**
     * Hides the sheet of a column that is not known, of which the number alone is.
     *
     * @param {string} label
     */
    leave(label) {
      told = [];
      sheet.label = label;
      sheet.element.hidden = true;
    },

    /**
     * @param {Shown} shown
     * @param {number | null} row
     */
    draw(shown, row) {
      if (!told.length) return;
      drawRows(canvases[0], { values: at => told[at].weight, top: largestSize(told.map(term => term.weight)), shown, row });
      drawRows(canvases[1], { values: at => told[at].product, top: largestSize(told.map(term => term.product)), shown, row });
      drawRunning(canvases[2], { terms: told, shown, row });
    },
  };
  return sheet;
}

/**
 * @param {string[]} heads
 * @param {Term[]} terms
 */
function termsTable(heads, terms) {
  const rows = terms.map(({ row, value, weight, product, sum }) =>
    h("tr", {}, h("td", { class: "at" }, row), [value, weight, product, sum].map(one => h("td", { class: "right" }, String(one)))),
  );
  const head = h("tr", {}, heads.map(name => h("th", { scope: "col", class: "right" }, name)));
  return h("div", { class: "scroll", tabindex: 0 }, h("table", { class: "exact" }, h("thead", {}, head), h("tbody", {}, rows)));
}
