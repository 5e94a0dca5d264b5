// Where any token of the open head looks, and who looks at it: what is seen while the pointer is at it.

import { tokenTag } from "../parts/token.js";
import { askFor, keys } from "../reading/opened.js";
import { state } from "../reading/state.js";
import { t } from "../words/words.js";
import { weightsOf } from "./worked.js";

/** @import { Peek } from "../parts/flow.js" */

/** @type {Peek} */
export const LOOKS_AT = {
  ask: async i => {
    const { layer, head } = state;
    return lookupIn(weightsOf(await askFor("row", { layer, head, i })));
  },
  says: i => [tokenTag(i), " ", t("looksAt")],
};

/** @type {Peek} */
export const LOOKED_AT_BY = {
  ask: async j => {
    const { layer, head } = state;
    return lookupIn(weightsOf(await askFor("column", { layer, head, j })));
  },
  says: j => [t("lookedAtBy"), " ", tokenTag(j, keys())],
};

/** @param {Map<number, number>} weights */
function lookupIn(weights) {
  return j => weights.get(j) ?? 0;
}
