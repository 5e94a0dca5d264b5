// The texts for a model that reads one text and writes another.

/** @import { Texts } from "./words.js" */

/** @satisfies {Texts} */
export const pairTexts = /** @type {const} */ ({
  attentions: ["Attention", "注意力"],
  part_encoder: ["Encoder", "编码器"],
  part_decoder: ["Decoder", "解码器"],
  part_cross: ["Cross", "交叉"],
  partsays_encoder: ["The words that are read look at each other.", "原文各词元互相看。"],
  partsays_decoder: ["The words that are written look at those written before.", "所写的词元看之前写下的词元。"],
  partsays_cross: ["The words that are written look at the words that were read.", "所写的词元看原文的词元。"],
  pairText: ["The second sentence of the pair: leave empty to read the first alone", "句子对的第二句：留空则只读第一句"],
  targetText: ["What it writes: leave empty, and the model writes it", "要写的文本：留空则由模型来写"],
  targetNeeded: ["What it writes: this model has no head for it, so give it", "要写的文本：该模型没有输出头，请给出"],
  pairSays: [
    "Click a written word to see where it looks, a read word to see who looks at it. The row of a written word is where the decoder looks while it chooses the next one.",
    "点所写的词元，看它看向哪里；点原文的词元，看谁看向它。所写的词元的那一行，是解码器选下一个词元时所看之处。",
  ],
  wasWritten: ["Written", "所写"],
  wasRead: ["Read", "原文"],
  byModel: [
    "By the model, each time the likeliest word. Color: who looks at the chosen read word.",
    "由模型写出，每次取最可能的词元。颜色：谁看向所选的原文词元。",
  ],
  byYou: ["As it was given. Color: who looks at the chosen read word.", "由你给出。颜色：谁看向所选的原文词元。"],
  keysSay: ["Color: where the chosen written word looks.", "颜色：选中的词元看向哪里。"],
  kvOf: [
    "y is the encoder's state of {word}, the word that is looked at most.",
    "y 是编码器给 {word} 的状态，它是最受关注的词元。",
  ],
  noWhatif: [
    "Switching off heads and changing words is for models of one text, and {model} reads one and writes another. Change a text above, and read it again.",
    "关掉头、换词只适用于单文本模型，而 {model} 读一篇、写一篇。请在上方修改文本后重新读入。",
  ],
  hasWritten: [
    "{model} has written already: what it wrote stands in the view Text. To have it write something else, change the text above.",
    "{model} 已经写好：所写的内容在“文本”视图中。想让它写别的，请在上方修改文本。",
  ],
  blockMeansBoth: [
    "Means of blocks: {n} × {m} words in {high} × {wide} blocks.",
    "块均值：{n} × {m} 个词元分为 {high} × {wide} 块。",
  ],
  minimapBoth: [
    "All {n} written × {m} read words, as exact means of {high} × {wide} blocks; the strongest color is {top}. Above: what every read word receives. Click to look there.",
    "全部 {n} 个所写的词元 × {m} 个原文词元，{high} × {wide} 块的精确均值，颜色最强为 {top}。上方：每个原文词元收到的注意力总量。点击即看该处。",
  ],
});
