// One layer of a saved page: its numbers, unpacked from the string of explorer/saved_layer.py.

import { bytesOf } from "../parts/base64.js";

/** @import { SavedLayer } from "../types" */

/**
 * What is asked of one head, as in the formula: n queries look at m keys. All are views into the
 * layer's numbers. `visible` and `bias` are n x m.
 *
 * @typedef {object} HeadCall
 * @property {number} n
 * @property {number} m
 * @property {Float32Array[]} q
 * @property {Float32Array[]} k
 * @property {Float32Array[]} v
 * @property {number} scale
 * @property {number | null} softcap
 * @property {number | null} sink
 * @property {Float32Array[] | null} bias
 * @property {Float32Array[] | null} visible
 */

/** @typedef {{ shape: readonly number[], numbers: Float32Array }} Tensor */

export class LayerNumbers {
  /**
   * @param {SavedLayer} facts
   * @param {Map<string, Tensor>} tensors
   */
  constructor(facts, tensors) {
    this.facts = facts;
    this.tensors = tensors;
    this.n = this.shape("x")[0];
    this.m = this.shape("k")[1];
    this.nHead = this.shape("q")[0];
    this.group = this.nHead / this.shape("k")[0]; // how many heads share k and v
  }

  /** @param {string} name */
  shape(name) {
    return this.tensors.get(name)?.shape ?? [];
  }

  /**
   * The rows of a tensor along its last axis, or of one part of it along its first axis.
   *
   * @param {string} name
   * @param {number | null} part
   */
  rows(name, part = null) {
    const found = this.tensors.get(name);
    if (!found) throw new Error(`The layer has no ${name}.`);
    const width = found.shape.at(-1) ?? 1,
      count = found.shape.at(-2) ?? 1,
      first = part === null ? 0 : part * count,
      end = part === null ? found.numbers.length / width : first + count;
    return Array.from({ length: end - first }, (_, row) =>
      found.numbers.subarray((first + row) * width, (first + row + 1) * width),
    );
  }

  /** @param {number} head */
  keyHead(head) {
    return Math.floor(head / this.group);
  }

  /**
   * @param {number} head
   * @returns {HeadCall}
   */
  call(head) {
    const { facts, n, m } = this,
      shared = this.keyHead(head),
      part = name => (this.tensors.has(name) ? this.rows(name, this.shape(name)[0] === 1 ? 0 : head) : null);
    return {
      n,
      m,
      q: this.rows("q", head),
      k: this.rows("k", shared),
      v: this.rows("v", shared),
      scale: facts.scale,
      softcap: facts.softcap,
      sink: this.tensors.get("sinks")?.numbers[head] ?? null,
      bias: part("bias"),
      visible: part("visible"),
    };
  }

  /**
   * Numbers of a head, made of v, as the gate of token i lets them pass.
   *
   * @param {number} head
   * @param {number} i
   * @param {ArrayLike<number>} context
   */
  gated(head, i, context) {
    if (!this.tensors.has("gate")) return context;
    const gate = this.rows("gate", head)[i];
    return Float64Array.from(context, (value, c) => value * gate[c]);
  }

  /**
   * |context WO| of a head, from WO WO^T.
   *
   * @param {number} head
   * @param {ArrayLike<number>} context
   */
  lengthThroughWO(head, context) {
    return Math.sqrt(Math.max(this.productThroughWO(head, context, context), 0));
  }

  /**
   * (one WO) . (other WO) of a head.
   *
   * @param {number} head
   * @param {ArrayLike<number>} one
   * @param {ArrayLike<number>} other
   */
  productThroughWO(head, one, other) {
    const products = this.rows("lengths", head);
    let sum = 0;
    for (let a = 0; a < products.length; a++)
      for (let b = 0; b < products.length; b++) sum += one[a] * products[a][b] * other[b];
    return sum;
  }

  /**
   * What a head adds to token i, (weights v) WO: from WO, or from v_j WO of every key.
   *
   * @param {number} head
   * @param {number} i
   * @param {Float64Array} weights
   * @param {Float64Array} context
   */
  share(head, i, weights, context) {
    return this.tensors.has("WO")
      ? sumOf(this.gated(head, i, context), this.rows("WO", head))
      : sumOf(weights, this.rows("added", head));
  }
}

/**
 * sum_j factors_j rows_j.
 *
 * @param {ArrayLike<number>} factors
 * @param {ArrayLike<number>[]} rows
 */
export function sumOf(factors, rows) {
  const sum = new Float64Array(rows[0]?.length ?? 0);
  rows.forEach((row, j) => {
    for (let c = 0; c < sum.length; c++) sum[c] += factors[j] * row[c];
  });
  return sum;
}

/** @param {string} packed */
export async function unpackLayer(packed) {
  const { facts, bytes } = await unzipped(packed),
    known = /** @type {SavedLayer} */ (facts);
  /** @type {Map<string, Tensor>} */
  const tensors = new Map();
  let at = 0;
  for (const [name, shape] of Object.entries(known.shapes)) {
    const count = shape.reduce((product, side) => product * side, 1);
    tensors.set(name, { shape, numbers: floats(bytes.subarray(at, at + 4 * count), count) });
    at += 4 * count;
  }
  return new LayerNumbers(known, tensors);
}

/**
 * What was packed by zipped() of explorer/saved_layer.py: facts, and the bytes behind them.
 *
 * @param {string} packed
 * @returns {Promise<{ facts: unknown, bytes: Uint8Array<ArrayBuffer> }>}
 */
export async function unzipped(packed) {
  const stream = new Blob([bytesOf(packed)]).stream().pipeThrough(new DecompressionStream("gzip")),
    bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const size = new DataView(bytes.buffer).getUint32(0, true),
    facts = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + size)));
  return { facts, bytes: bytes.subarray(4 + size) };
}

// float32 numbers whose first bytes stand together, then their second ones, and so on.
function floats(bytes, count) {
  const inOrder = new Uint8Array(4 * count);
  for (let place = 0; place < 4; place++)
    for (let i = 0; i < count; i++) inOrder[4 * i + place] = bytes[place * count + i];
  return new Float32Array(inOrder.buffer); // every machine that runs a browser is little-endian
}
