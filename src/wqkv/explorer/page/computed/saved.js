// A saved page has no server: an answer is recorded in it, or computed here, or it is not there.

import { COMPUTED } from "./answers.js";
import { changedMapsAnswer, experimentAnswer } from "./cards.js";
import { unpackLayer, unzipped } from "./layer.js";
import { matricesAnswer, unpackMatrices } from "./matrices.js";

/** @import { Recorded, ServedModel, StreamAnswer, ViewAnswer } from "../types" */

const OF_LAYER = { ...COMPUTED, experiment: experimentAnswer, changedmaps: changedMapsAnswer };

/** @type {Map<string, Promise<any>>} */
const alreadyUnpacked = new Map(); // by the packed string

/**
 * @template T
 * @param {string} packed
 * @param {(packed: string) => Promise<T>} unpack
 * @returns {Promise<T>}
 */
function once(packed, unpack) {
  const found = alreadyUnpacked.get(packed) ?? unpack(packed);
  alreadyUnpacked.set(packed, found);
  return found;
}

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
  if (name === "stream" && saved?.streams) {
    const { facts } = await once(saved.streams, unzipped);
    return /** @type {StreamAnswer[]} */ (facts)[Number(query.token)];
  }
  const at = Number(query.layer),
    matrices = saved?.matrices[at],
    packed = saved?.layers[at];
  if (name === "matrices" && matrices) return matricesAnswer(await once(matrices, unpackMatrices), query, saved.python);
  if (!packed || !Object.hasOwn(OF_LAYER, name)) return undefined;
  const layer = await once(packed, unpackLayer),
    model = /** @type {ServedModel} */ (page.answers.model);
  return OF_LAYER[name](
    { model: { ...model, ...(part && model.parts[part]) }, text, layer, cards: saved.cards, python: saved.python },
    query,
  );
}
