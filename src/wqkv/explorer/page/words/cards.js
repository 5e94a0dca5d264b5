// The texts of the view Why?; the questions and answers come from Python, see sentences/experiments.py.

/** @import { Texts } from "./words.js" */

/** @satisfies {Texts} */
export const cardsTexts = /** @type {const} */ ({
  view_cards: ["Why?", "为什么？"],
  cardsSay: [
    "Guess first. Then the same head and the same text, with one thing changed. Everything follows the word, the layer and the head that are chosen above:",
    "先猜一猜，再看同一个头、同一段文本，只改一处。卡片跟随上面所选的词、层和头：",
  ],
  closeCards: ["Guess all again", "全部重猜"],
  whatHappens: ["What will happen?", "会怎样？"],
  guessRight: ["You guessed right:", "猜对了："],
  guessWrong: ["You guessed, but not here:", "你猜的，但这里不是："],
  isSo: ["It is so:", "实际是："],
  guessAgain: ["Guess again", "再猜一次"],
  noAnswer: ["No answer here:", "这里没有答案："],
  trained: ["as trained", "训练好的"],
  changed: ["changed", "改动后"],
  mapAs: ["map of the head, {how}", "这个头的注意力图，{how}"],
  cardMapSays: ["Row: who looks. Column: at whom. Framed: the row of", "行：谁在看；列：看谁。框出的行："],
  cardBlocks: [
    "The text has many words: each cell is the mean of a block of about {rows} × {keys} words. The darkest is {top}.",
    "词元很多：每格是约 {rows} × {keys} 个词元的均值，最深的一格是 {top}。",
  ],
  cardLinks: ["Where it looks: gray as trained, blue changed", "它看向哪里：灰色是训练好的，蓝色是改动后"],
  cardOutputs: ["What is added to the word: {n} numbers, on one scale (±{top})", "加到这个词上的 {n} 个数，同一比例尺（±{top}）"],
  cardEach: ["; each bar is the mean of {per}", "；每条是 {per} 个数的均值"],
  cardSpread: ["Standard deviation of q · k, before the scale:", "q · k 的标准差（缩放之前）："],
  spread_0: ["the argument: √d_k", "论证：√d_k"],
  spread_1: ["measured", "实测"],
  besideTitle: ["With one matrix less each time:", "每次少一个矩阵："],
  besideChange: ["change", "改动"],
  besideOwn: ["on itself", "对自己"],
  besideOutput: ["what it adds changes by", "所加内容的变化"],
  rankIs: ["r = {r} of {all}", "r = {r}，共 {all}"],
  rankSaved: ["r = {r} of {all}. Other r are not in the saved page.", "r = {r}，共 {all}。保存的页面里没有别的 r。"],
  outputsNotSaved: [
    "What is added, as bars, is not in the saved page. Open the text with wqkv open to see it.",
    "保存的页面里没有所加内容的条形图。请用 wqkv open 打开文本查看。",
  ],
  cardLimit: ["Limit:", "局限："],
  cardSame: [
    "The same to rounding: off by {difference}, numbers up to {size} (allowed {tolerance}).",
    "除舍入误差外相同：相差 {difference}，数值最大 {size}（允许 {tolerance}）。",
  ],
  cardNotSame: [
    "NOT the same: off by {difference}, numbers up to {size} (allowed {tolerance}).",
    "并不相同：相差 {difference}，数值最大 {size}（允许 {tolerance}）。",
  ],
  cardNumbers: ["All numbers and the proof", "全部数字与验证"],
  cardMeans: ["Means over all words:", "所有词的均值："],
  oftenHeads: [
    "For this word it comes out so in {same} of the {all} heads of the model.",
    "对这个词来说，模型的 {all} 个头里有 {same} 个是这样。",
  ],
  oftenLayers: [
    "For this word it comes out so in {same} of the {all} layers of the model.",
    "对这个词来说，模型的 {all} 层里有 {same} 层是这样。",
  ],
  runOn: ["What does the whole model make of it?", "整个模型会怎样？"],
  job_runon: ["Running the model on from the changed head", "正在从改动的头继续运行模型"],
  job_often: ["Asking the same of every head", "正在对每个头做同样的实验"],
  job_changedmaps: ["Drawing both maps", "正在绘制两张图"],
});
