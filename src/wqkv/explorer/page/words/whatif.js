// The texts of the view What if.

/** @import { Texts } from "./words.js" */

/** @satisfies {Texts} */
export const whatifTexts = /** @type {const} */ ({
  whatifSays: [
    "Switch a head off or change a word, and see what the model makes of it. Nothing is changed yet.",
    "关掉一个头，或换一个词，看模型的结果有何不同。目前还没有改动。",
  ],
  hideSays: [
    "Click patches to hide them, and see what the model makes of the rest. A hidden patch has the mean color in place of its own pixels.",
    "点击图块可把它遮住，看模型对其余部分的结果有何不同。被遮住的图块，其像素换成平均颜色。",
  ],
  isHidden: ["hidden", "已遮住"],
  classes: ["The class", "类别"],
  classesSay: ["Probabilities of the classes that the model tells apart.", "模型所能区分的各类别的概率。"],
  offSays: ["The chosen head:", "所选的头："],
  switchOff: ["Switch off layer {layer}, head {head}", "关掉第 {layer} 层第 {head} 头"],
  switchOn: ["Switch on layer {layer}, head {head}", "打开第 {layer} 层第 {head} 头"],
  isOff: ["layer {layer}, head {head} off", "第 {layer} 层第 {head} 头已关"],
  editSays: ["Replace the chosen word", "替换所选的词元"],
  change: ["Replace", "替换"],
  specialWord: ["Special words cannot be replaced: choose another.", "特殊词元不能替换，请另选一个。"],
  undo: ["Undo", "撤销"],
  undoThis: ["undo this one", "撤销此项"],
  undoAll: ["Undo all", "全部撤销"],
  similarity: ["Similarity to before", "与之前的相似度"],
  similaritySays: [
    "Cosine of the text's embedding before and after: 1 is the same.",
    "改动前后句向量的余弦：1 为相同。",
  ],
  nextWord: ["The next word", "下一个词元"],
  nextAfter: ["Probabilities of the word after the last.", "末尾之后那个词元的概率。"],
  looksNow: ["Where it looks:", "它看向哪里："],
  before: ["before", "之前"],
  after: ["after", "之后"],
  layerChange: ["Change of each layer's output", "各层输出的变化"],
  outputChange: ["The model's output changes by", "模型输出的变化："],
  changeSays: [
    "Length of the change over the length before, as a mean over words.",
    "变化的长度除以原来的长度，取各词元的均值。",
  ],
  changeBy: ["change", "变化"],
  openAfter: ["Open the changed text", "打开改动后的文本"],
});
