// The texts of the view Map.

/** @import { Texts } from "./words.js" */

/** @satisfies {Texts} */
export const mapTexts = /** @type {const} */ ({
  zoomIn: ["Zoom in", "放大"],
  zoomOut: ["Zoom out", "缩小"],
  aroundWord: ["Around the word", "回到所选的词元"],
  mapKeys: [
    "map, {what}: arrow keys move, plus and minus zoom, Enter chooses",
    "图（{what}）：方向键移动，加减号缩放，回车选定",
  ],
  minimapKeys: [
    "the whole text: click or use the arrow keys to move what is shown",
    "整篇文本：点击或用方向键移动所看的区域",
  ],
  minimapSays: [
    "The whole text, {n} words, as exact means of {size} × {size} blocks; the strongest color is {top}. Above: what every word receives. Click to look there.",
    "整篇 {n} 个词元，{size} × {size} 块的精确均值，颜色最强为 {top}。上方：每个词元收到的注意力总量。点击即看该处。",
  ],
  mapShows: ["What the map shows", "图中所示"],
  shows_weight: ["Weight", "权重"],
  shows_contribution: ["Contribution", "贡献"],
  shows_effect: ["Effect", "作用"],
  contributionSays: [
    "Contribution: the length of weight × v × WO, which is what the link adds to the word, in the unit of the hidden states. The strongest color is the largest of this tile.",
    "贡献：权重 × v × WO 的长度，即这条连接加给该词元的内容，单位同隐藏状态。最强的颜色为此块中的最大值。",
  ],
  effectMapSays: [
    "Effect on the number: {number}, to first order. Blue: it falls without the link, which speaks for the answer; orange: it rises. Heavy links can be far off: What matters removes them for real.",
    "对“{number}”的作用，一阶近似。蓝色：去掉连接后该数下降，它支持答案；橙色：该数上升。权重大的连接可能相差很远：“什么起作用”会真实去掉它们。",
  ],
  notRemovable: ["alone in its row, cannot be removed", "本行只有它，无法去掉"],
  askFirst: [
    "Effects are effects on a number. This model predicts no word, so say first which text yours should be like.",
    "作用是对某个数的作用。这个模型不预测词元，所以请先说明文本应与哪段文本相似。",
  ],
  toMatters: ["Say it in What matters", "到“什么起作用”中选定"],
  strongestHere: ["Strongest in this tile", "此块中最强的"],
  minimapSizes: [
    "The whole text as exact means of absolute values, in {high} × {wide} blocks; the strongest color is {top}. Click to look there.",
    "整篇文本，{high} × {wide} 块，绝对值的精确均值，颜色最强为 {top}。点击即看该处。",
  ],
  tileSays_weight: [
    "Exact weights from words {q0} to {q1} (rows) to words {k0} to {k1} (columns). An empty cell is 0.",
    "第 {q0} 到 {q1} 个词元（行）对第 {k0} 到 {k1} 个词元（列）的精确权重。空格为 0。",
  ],
  tileSays_contribution: [
    "From words {k0} to {k1} (columns) to words {q0} to {q1} (rows). An empty cell is 0.",
    "第 {k0} 到 {k1} 个词元（列）加给第 {q0} 到 {q1} 个词元（行）的内容。空格为 0。",
  ],
  tileSays_effect: [
    "Links from words {q0} to {q1} (rows) to words {k0} to {k1} (columns). An empty cell is 0.",
    "第 {q0} 到 {q1} 个词元（行）看第 {k0} 到 {k1} 个词元（列）的连接。空格为 0。",
  ],
  tileKeys: [
    "Point, drag, or use the arrow keys, + and −; Enter chooses.",
    "可用鼠标指、拖，也可用方向键、+ 和 −；回车选定。",
  ],
  receivedEach: ["Above: what every word receives.", "上方：每个词元收到的注意力总量。"],
  receivedEach_: ["What every token receives", "每个词元收到的注意力总量"],
  receivedMean: ["Above: what words receive, as means of {per} words.", "上方：每 {per} 个词元收到的注意力的均值。"],
  receivedShort: ["received", "收到"],
  receivedBy: ["weight received by every word", "每个词元收到的注意力总量"],
  distances: ["How far it looks", "看多远"],
  wordsAway: ["words away", "相隔的词元数"],
  meanDistance: ["Mean distance: {mean} words.", "平均距离：{mean} 个词元。"],
  strongestLinks: ["Strongest links", "最强的连接"],
});
