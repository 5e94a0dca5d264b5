// The texts of the view Writing.

/** @import { Texts } from "./words.js" */

/** @satisfies {Texts} */
export const writingTexts = /** @type {const} */ ({
  noGenerate: [
    "{model} reads in both directions at once and writes nothing. Open a causal model to watch it write.",
    "{model} 同时看前后文，不能续写。请打开一个因果语言模型来看续写。",
  ],
  howMany: ["How many words", "写多少个词元"],
  write: ["Write", "续写"],
  generateSays: [
    "The model goes on with the text, each time with the likeliest word. Then walk through its steps.",
    "模型接着文本写下去，每次取最可能的词元；之后可逐步回看。",
  ],
  nothingWritten: ["The model ends the text here.", "模型到此结束。"],
  stepOf: ["word {at} of {all}", "第 {at} 个词元，共 {all} 个"],
  candidates: ["What could come", "可能的下一个词元"],
  lookedThen: ["Where layer {layer}, head {head} looked", "第 {layer} 层第 {head} 头当时看向"],
});
