// One column of a matrix worked out: the column, its products with the vector, their sum, the bias.

import { h } from "../parts/dom.js";
import { fixed, number } from "../parts/format.js";
import { t } from "../words/words.js";
import { drawRows, drawRunning } from "./plates.js";
import { digitsOfFactors, digitsThatAdd } from "./terms.js";

/** @import { Plate } from "./bench.js" */
/** @import { Shown } from "./plates.js" */
/** @import { Term } from "./terms.js" */

const LISTED = 3; // products that stand in the table

/**
 * @typedef {object} WorkedColumn
 * @property {Plate} plate
 * @property {Term[]} terms
 * @property {number} column
 */

/**
 * What the number of a column is called: q[29], or q[29] before RoPE.
 *
 * @param {Plate} plate
 * @param {number} c
 */
export function resultName({ result, matrix }, c) {
  const [what] = matrix.between,
    name = `${result}[${c}]`;
  return what ? t("beforeThat", { result: name, what: what === "RoPE" ? what : t(`between_${what}`) }) : name;
}

/** The worked column, to which `tell` gives another one; `draw` draws its rows as they are seen. */
export function worked() {
  const [ofColumn, ofProducts, ofSums] = [1, 2, 3].map(() => h("canvas", { role: "img" })),
    titles = [1, 2, 3].map(() => h("h4", {})),
    total = h("p", { class: "total" }),
    table = h("table", { class: "chain" }),
    then = h("p", { class: "note" }),
    all = h("details", { class: "all" }, h("summary", {}));
  /** @type {WorkedColumn} */
  let told;
  const sheet = {
    label: "",
    value: 0,
    element: h(
      "div",
      { class: "workedcolumn" },
      h("div", { class: "three" }, [ofColumn, ofProducts, ofSums].map((canvas, i) => h("div", { class: "benchcolumn" }, titles[i], canvas))),
      total,
      table,
      then,
      all,
    ),
    /** @param {WorkedColumn} given */
    tell(given) {
      told = given;
      const { plate, terms, column } = given,
        { name, between } = plate.matrix,
        factor = plate.factor.name,
        sum = terms.at(-1)?.sum ?? 0,
        bias = plate.bias?.[column] ?? null,
        largest = [...terms].sort((a, b) => Math.abs(b.product) - Math.abs(a.product)).slice(0, LISTED),
        rest = terms.filter(term => !largest.includes(term)).reduce((left, term) => left + term.product, 0),
        parts = [...largest.map(term => term.product), ...(terms.length > LISTED ? [rest] : [])],
        value = sum + (bias ?? 0),
        // The terms add up to the sum, and the sum and the bias to the number, in the digits shown.
        digits = Math.max(digitsThatAdd(parts, sum), bias === null ? 0 : digitsThatAdd([sum, bias], value)),
        say = one => fixed(one, digits),
        result = resultName(plate, column);
      sheet.value = value;
      sheet.label = say(value);
      const [top, most] = [terms.map(term => term.weight), terms.map(term => term.product)].map(list => `±${number(Math.max(...list.map(Math.abs)))}`);
      [[t("columnName", { c: column }), top], [factor.length > 1 ? t("productWord") : `${factor} × ${t("columnWord")}`, most], [t("sumSoFar"), `0 → ${say(sum)}`]].forEach(
        ([title, size], i) => titles[i].replaceChildren(title, h("small", {}, size)),
      );
      [ofColumn, ofProducts, ofSums].forEach((canvas, i) => canvas.setAttribute("aria-label", `${titles[i].textContent}`));
      total.replaceChildren(
        bias === null ? "" : `${say(sum)} ${bias < 0 ? "−" : "+"} ${say(Math.abs(bias))} (b) = `,
        `${result} = `,
        h("b", { title: String(value) }, say(value)),
      );
      const line = (title, how, found, kind = null) =>
        h("tr", { class: kind }, h("th", { scope: "row", colspan: how ? 1 : 2 }, title), how && h("td", { class: "right" }, how), h("td", { class: "right", title: String(found) }, say(found)));
      table.replaceChildren(
        h("caption", {}, t("largestProducts")),
        h(
          "tbody",
          {},
          largest.map(term => {
            const more = digitsOfFactors(term, digits);
            return line(t("rowName", { r: term.row }), `${fixed(term.value, more)} × ${fixed(term.weight, more)}`, term.product);
          }),
          terms.length > LISTED && line(t("otherRows", { n: terms.length - LISTED }), "", rest),
          line(`${factor} · ${t("columnName", { c: column })}`, "", sum, "result"),
          bias !== null && line(t("biasName", { b: `${name.replace("W", "b")}[${column}]` }), "", bias),
          bias !== null && line(result, "", value, "result"),
        ),
      );
      then.replaceChildren(between.length ? t("thenBetween", { what: between.map(one => t(`between_${one}`)).join(t("comma")) }) : "");
      then.hidden = !between.length;
      all.firstElementChild?.replaceChildren(t("allTerms", { n: terms.length }));
      fillAll();
    },
    /**
     * @param {Shown} shown
     * @param {number | null} row
     */
    draw(shown, row) {
      if (!told) return;
      const { terms } = told,
        bars = (canvas, of) =>
          drawRows(canvas, { values: at => of(terms[at]), top: Math.max(...terms.map(term => Math.abs(of(term)))) || 1, shown, row });
      bars(ofColumn, term => term.weight);
      bars(ofProducts, term => term.product);
      drawRunning(ofSums, { terms, shown, row });
    },
  };

  // Every product with all its digits, written out while it is open.
  function fillAll() {
    const summary = all.firstElementChild;
    if (!summary) return;
    all.replaceChildren(summary);
    if (!all.open || !told) return;
    const { plate, terms, column } = told,
      heads = ["", `${plate.factor.name}[r]`, `${plate.matrix.name}[r, ${column}]`, "×", "Σ"];
    all.append(
      h("div", { class: "scroll", tabindex: 0 }, h("table", { class: "exact" },
        h("thead", {}, h("tr", {}, heads.map(name => h("th", { scope: "col", class: "right" }, name)))),
        h("tbody", {}, terms.map(term => h("tr", {}, h("td", { class: "at" }, term.row), [term.value, term.weight, term.product, term.sum].map(one => h("td", { class: "right" }, String(one)))))),
      )),
    );
  }
  all.addEventListener("toggle", fillAll);
  return sheet;
}
