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
    "The model goes on with the text, one word after the other. Then walk through its steps.",
    "模型接着文本一个词元一个词元地写下去；之后可逐步回看。",
  ],
  howChosen: ["How a word is chosen", "如何选词元"],
  takeLikeliest: ["The likeliest", "取最可能的"],
  takeDrawn: ["Drawn at random", "随机抽取"],
  temperature: ["temperature", "温度"],
  topK: ["top-k", "top-k"],
  topP: ["top-p", "top-p"],
  allWords: ["all", "全部"],
  seed: ["seed", "随机种子"],
  seedSays: [
    "The same seed draws the same words again. In this order: scores are divided by the temperature, then the k likeliest words stay, then the fewest of these that have together the probability p.",
    "同一个种子每次抽到相同的词元。顺序：分数先除以温度，再只留最可能的 k 个词元，再从中只留合计概率达到 p 的最少几个词元。",
  ],
  greedySays: ["Each time the likeliest word is taken: the first one.", "每次取最可能的词元，即第一个。"],
  drawnAll: [
    "All {n} words may be drawn.",
    "{n} 个词元都可能被抽到。",
  ],
  drawnKept: [
    "{kept} of {n} words may be drawn. At this temperature what is left holds {held} of the probability, and is divided by {held}, so that it adds up to 1.",
    "{n} 个词元中有 {kept} 个可能被抽到。在此温度下留下的词元合计占概率 {held}，再各除以 {held}，使总和为 1。",
  ],
  cutOff: ["cut off", "被剔除"],
  drawnOther: ["Drawn here: {word}, probability before {before}.", "此处抽到：{word}，之前的概率 {before}。"],
  writtenGreedy: ["Written with the likeliest word each time.", "每次取最可能的词元写成。"],
  writtenDrawn: [
    "Written with temperature {temperature}, top-k {k}, top-p {p}, seed {seed}.",
    "写成时：温度 {temperature}，top-k {k}，top-p {p}，随机种子 {seed}。",
  ],
  writeAgain: [
    "The controls say something else now: press Write to write with them.",
    "现在的设置已不同：按“续写”用新设置重写。",
  ],
  nothingWritten: ["The model ends the text here.", "模型到此结束。"],
  stepOf: ["word {at} of {all}", "第 {at} 个词元，共 {all} 个"],
  candidates: ["What could come", "可能的下一个词元"],
  lookedThen: ["Where layer {layer}, head {head} looked", "第 {layer} 层第 {head} 头当时看向"],
});
