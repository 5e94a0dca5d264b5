// The texts of the strip of the whole model.

/** @import { Texts } from "./words.js" */

/** @satisfies {Texts} */
export const streamTexts = /** @type {const} */ ({
  whereStands: ["Where this stands", "在模型中的位置"],
  measureStrip: ["Measure what each layer adds (the model runs once more)", "测量每层所加的向量（模型再运行一次）"],
  barSays: [
    "Height and number: the length of what is added to {token}. One scale.",
    "高度和数字：加到{token}上的向量的长度，同一刻度。",
  ],
  barSaysNorm: [
    "Height and number: the length of what is added to {token}, before LayerNorm. One scale.",
    "高度和数字：加到{token}上的向量在层归一化之前的长度，同一刻度。",
  ],
  lensSays: [
    "Below each layer: the likeliest next word if the model ended there (logit lens: it reads a state in the middle with the last layer's norm and vocabulary).",
    "每层下方：如果模型到此结束，最可能的下一个词元（logit lens：用最后一层的归一化和词表去读中间状态）。",
  ],
  lensSaysMasked: [
    "Below each layer: the likeliest word at this place if the model ended there (logit lens: it reads a state in the middle with the last layer's norm and vocabulary).",
    "每层下方：如果模型到此结束，这个位置最可能的词元（logit lens：用最后一层的归一化和词表去读中间状态）。",
  ],
  embedded: ["embedding", "嵌入"],
  embeddedPlaced: ["embedding + position", "嵌入 + 位置"],
  attentionAdds: ["attention", "注意力"],
  crossAdds: ["cross-attention", "交叉注意力"],
  mlpAdds: ["MLP", "MLP"],
  bothAdd: ["attention and MLP, not told apart", "注意力与 MLP，无法分开"],
  adds: ["{what} adds {length}", "{what}加上 {length}"],
  stateAfter: ["state after it: {length}", "之后状态长度：{length}"],
  lensAfter: ["next: {top}", "下一个：{top}"],
  endNext: ["next word", "下一个词元"],
  endMasked: ["the word here", "此处的词元"],
  endMean: ["mean of {n} words: embedding", "{n} 个词元的平均：句向量"],
  endRead: ["to the decoder", "交给解码器"],
  endState: ["last state", "最后的状态"],
  headsOf: ["Layer {layer}: its {n} heads", "第 {layer} 层的 {n} 个头"],
  headsOfDecoder: ["Layer {layer}: {n} heads of this attention", "第 {layer} 层：这种注意力的 {n} 个头"],
  headAdds: ["head {head}: {length}", "第 {head} 头：{length}"],
  allLayers: ["Layers", "各层"],
  allHeads: ["Heads of the open layer", "所打开层的各头"],
  partsAddUp: [
    "In every layer the parts add up to the state, to {share} of what rounding allows.",
    "每一层的各部分相加等于其状态，误差为舍入允许值的 {share}。",
  ],
  partsFail: [
    "FAILED ITS PROOF: in layers {layers} the parts do not add up to the state.",
    "未通过验证：第 {layers} 层的各部分相加不等于其状态。",
  ],
});
