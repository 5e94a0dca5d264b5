// The texts of the lines between words, and of the heads that are laid over each other.

/** @import { Texts } from "./words.js" */

/** @satisfies {Texts} */
export const linesTexts = /** @type {const} */ ({
  drawAs: ["Drawn as", "画法"],
  asWords: ["Words", "词元"],
  asPicture: ["Picture", "图片"],
  asLines: ["Lines", "连线"],
  linesOf: [
    "lines from the words that look to the words that are looked at",
    "从看的词元连到被看的词元",
  ],
  rowWho: ["looks", "谁在看"],
  rowWhom: ["is looked at", "被看的"],
  dimOthers: ["Dim the lines of other words", "淡化其他词元的连线"],
  leastWeight: ["Links from", "连线下限"],
  linesDrawn: [
    "Drawn: the {n} links of {least} or more, together {share} of all weight.",
    "已画：权重不小于 {least} 的 {n} 条连线，合计占全部权重的 {share}。",
  ],
  linesDrawnHeads: [
    "Drawn: the {n} links of {least} or more of {heads} heads, together {share} of all their weight.",
    "已画：{heads} 个头中权重不小于 {least} 的 {n} 条连线，合计占这些头全部权重的 {share}。",
  ],
  linesOutside: [
    "{share} of the weight of these words goes to words that are not shown here.",
    "这些词元的权重有 {share} 落在此处未显示的词元上。",
  ],
  thickness: ["Thickness is the weight:", "粗细即权重："],
  greyLinks: ["Gray links go to special words.", "灰色连线指向特殊词元。"],
  linesSay: [
    "Click a word above to see where it looks, a word below to see who looks at it.",
    "点上排的词元，看它看向哪里；点下排的词元，看谁看向它。",
  ],
  linesSayTurned: [
    "Click a word on the left to see where it looks, a word on the right to see who looks at it.",
    "点左列的词元，看它看向哪里；点右列的词元，看谁看向它。",
  ],
  whatArrives: ["what arrives", "传过去的量"],
  arrivesSays: [
    "What arrives is the length of weight × v WO. Each of the two columns has its own scale, because they are different quantities.",
    "“传过去的量”是 权重 × v WO 的长度。两列是不同的量，各有自己的尺度。",
  ],
  windowWho: ["Words that look:", "在看的词元："],
  windowWhom: ["Words that are looked at:", "被看的词元："],
  headsOver: ["Heads of layer {layer}", "第 {layer} 层的头"],
  headName: ["head {head}", "头 {head}"],
  overlayAll: ["All heads", "全部头"],
  oneHead: ["Only head {head}", "只看头 {head}"],
  headsSay: [
    "Click a head to add it or take it off; double-click it, or press Enter, to see it alone.",
    "点一个头可加上或去掉；双击或按回车只看它。",
  ],
  colorsSay: [
    "The chosen head is blue; color-blind readers can tell the other colors apart (Okabe and Ito; Tol).",
    "选中的头为蓝色；其余颜色色盲读者也能区分（Okabe 与 Ito；Tol）。",
  ],
  colorsDashed: [
    "From the ninth head on the colors come again, with dashed lines.",
    "从第九个头起颜色重复，改用虚线。",
  ],
});
