// The texts of the view Text, and the names of all views.

/** @import { Texts } from "./words.js" */

/** @satisfies {Texts} */
export const textTexts = /** @type {const} */ ({
  views: ["Views", "视图"],
  view_text: ["Text", "文本"],
  view_grid: ["Heads", "各头"],
  view_map: ["Map", "全图"],
  view_matters: ["What matters", "什么起作用"],
  view_whatif: ["What if", "假如"],
  view_generate: ["Writing", "续写"],
  looksAt: ["looks at", "看向"],
  lookAt: ["look at", "看向"],
  lookedAtBy: ["Who looks at", "谁看向"],
  whereLooks: ["Where it looks", "它看向哪里"],
  whoLooks: ["Who looks at it", "谁看向它"],
  direction: ["Direction", "方向"],
  hideSpecial: ["Hide special words", "隐藏特殊词元"],
  renormalize: ["Share out what they held", "把它们的权重分给其余词元"],
  hiddenRest: [
    "Special words are not shown. They hold {share} of the weight; the rest is as the model has it, not renormalized.",
    "未显示特殊词元，它们占注意力权重的 {share}；其余权重保持模型原值，未重新归一。",
  ],
  hiddenEven: [
    "Special words hold {share} of the weight. The rest is shown times {factor}, so that it sums to 1: these are not the model's own weights.",
    "特殊词元占注意力权重的 {share}。其余权重乘以 {factor} 后显示，使其和为 1：这不是模型自身的权重。",
  ],
  shiftSays: [
    "Click a word. Shift-click adds words to a set. Color is weight.",
    "点一个词元；按住 Shift 再点可选一组词元。颜色表示注意力权重。",
  ],
  setOf: ["{n} words", "{n} 个词元"],
  setIs: ["A set of {n} words:", "一组 {n} 个词元："],
  setMean: ["(mean of their rows)", "（各行的均值）"],
  setSum: ["(weight on any of them)", "（落在其中任一词元上的权重）"],
  clearSet: ["One word again", "回到一个词元"],
  textOf: ["the text", "文本"],
  evenIs: ["even {even}", "均匀 {even}"],
  pointPatch: [
    "Point at a patch to see where it looks; click to choose it.",
    "指向一个图块可看它看向哪里；点击即选定。",
  ],
  nobody: ["No word.", "没有。"],
  overview: [
    "Where in the whole text the weight lies: the most in each stretch. Click to go there.",
    "注意力落在整篇文本的何处：每段取最大值。点击即到该处。",
  ],
  earlier: ["Earlier", "往前"],
  later: ["Later", "往后"],
});
