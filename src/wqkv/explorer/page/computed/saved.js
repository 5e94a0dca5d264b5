// A saved page has no server: an answer is recorded in it, or computed here, or it is not there.

import { COMPUTED } from "./answers.js";
import { unpackLayer } from "./layer.js";

/** @import { Recorded, ServedModel, ViewAnswer } from "../types" */
/** @import { LayerNumbers } from "./layer.js" */

/** @type {Map<string, Promise<LayerNumbers>>} */
const unpackedLayers = new Map(); // by the packed layer

/**
 * The answer to an address below api/, such as views/1/row with {layer: 3, head: 1, i: 10}.
 *
 * @param {Recorded} page
 * @param {string} path
 * @param {Record<string, string | number>} query
 * @param {(path: string, query: Record<string, string | number>) => string} keyOf
 * @returns {Promise<any>} undefined where the page lacks it
 */
export async function answerOf(page, path, query, keyOf) {
  const [, view, ...rest] = path.split("/"),
    name = rest.join("/"), // what was posted has its question behind it
    text = /** @type {ViewAnswer | undefined} */ (page.answers[`views/${view}`]),
    part = text?.part ?? "";
  const saved = page.parts[part];
  // Of a text with several attentions, views/1 is one of those that have a name.
  const place = name && part && saved ? `views/${view.split(".")[0]}.${part}/${name}` : path;
  const found = page.answers[keyOf(place, query)];
  if (found !== undefined || !name || !text) return found;
  const packed = saved?.layers[Number(query.layer)];
  if (!packed || !Object.hasOwn(COMPUTED, name)) return undefined;
  if (!unpackedLayers.has(packed)) unpackedLayers.set(packed, unpackLayer(packed));
  const layer = await /** @type {Promise<LayerNumbers>} */ (unpackedLayers.get(packed)),
    model = /** @type {ServedModel} */ (page.answers.model);
  return COMPUTED[name](
    { model: { ...model, ...(part && model.parts[part]) }, text, layer, python: saved.python },
    query,
  );
}
