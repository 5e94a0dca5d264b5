// The texts of the seven steps; the sentences with numbers come from Python, see sentences/steps.py.

/** @import { Texts } from "./words.js" */

/** @satisfies {Texts} */
export const stepsTexts = /** @type {const} */ ({
  sevenSteps: ["Attention in seven steps", "注意力的七个步骤"],
  back: ["Back", "上一步"],
  next: ["Next", "下一步"],
  close: ["Close", "收起"],
  numbers: ["{n} numbers, {low} to {high}", "{n} 个数，{low} 到 {high}"],
  allNumbers: ["all numbers", "全部数字"],
  eachMean: ["; each bar is the mean of {per}", "；每条是 {per} 个数的均值"],
  wordsOf: ["Words {first} to {last} of {n}.", "共 {n} 个词元，此处为第 {first} 到 {last} 个。"],
  bestOf: ["The {n} strongest of {all} words.", "{all} 个词元中最强的 {n} 个。"],
  sharedKV: [
    "Heads {first} to {last} share one k and one v (group {group}).",
    "第 {first} 到 {last} 头共用同一组 k 和 v（第 {group} 组）。",
  ],
  worked: ["Worked out:", "逐步计算："],
  sumOf: ["the sum of {n} products", "{n} 个乘积之和"],
  scaleSays: ["keeps the spread of the scores from growing with d_k: the score", "使分数的离散程度不随 d_k 变大：这就是分数"],
  noScaleSays: ["this model does not scale: the score", "这个模型不缩放：这就是分数"],
  softcap: ["softcap {cap}", "软上限 {cap}"],
  softcapSays: ["large scores are bent down", "把过大的分数压低"],
  biasSays: ["a bias by how far apart the two are", "偏置，取决于两个词元的距离"],
  lseSays: ["lse, the same for the whole row, so that its weights sum to 1", "lse，整行相同，使注意力权重之和为 1"],
  lseSinkSays: [
    "lse, the same for the whole row; with the learned sink of {sink} the weights sum to less than 1",
    "lse，整行相同；学得的汇点为 {sink}，权重之和小于 1",
  ],
  weightOf: ["the weight", "注意力权重"],
  cellHidden: ["The mask hides this word: no score, weight 0.", "掩码遮住了这个词元：没有分数，权重为 0。"],
  terms: ["products of q and k, one per channel", "q 与 k 逐维相乘的乘积"],
  pointTerm: ["Point at a bar, or use the arrow keys.", "指向一条，或用方向键。"],
  allTerms: ["all {n} products", "全部 {n} 个乘积"],
  restShare: ["Other words ({n}) share {share}.", "其余 {n} 个词元共占 {share}。"],
  restShareKept: ["Others of the strongest words ({n}) share {share}.", "其余较强的 {n} 个词元共占 {share}。"],
  sinkTakes: [
    "The head's learned sink takes {sink} of this row and adds nothing.",
    "该头学得的汇点占去本行的 {sink}，不带来任何内容。",
  ],
  lseIs: ["lse = log(sum of exp(score)) = {lse}", "lse = log(exp(分数) 之和) = {lse}"],
  effectSays: [
    "Effect: the length of weight × v × WO. A word with much weight and little effect is a sink.",
    "作用：权重 × v × WO 的长度。权重大而作用小的词元是汇点（attention sink）。",
  ],
  residualHolds: [
    "This word's output from these weights and the model's own differ by at most {difference} (allowed {tolerance}).",
    "由这些权重算出的该词元输出与模型自身的输出最多相差 {difference}（允许 {tolerance}）。",
  ],
  residualFailed: [
    "FAILED ITS PROOF: this word's output from these weights and the model's own differ by {difference} (allowed {tolerance}).",
    "未通过验证：由这些权重算出的该词元输出与模型自身的输出相差 {difference}（允许 {tolerance}）。",
  ],
  shareOf: ["share = context WO", "份额 = 上下文 WO"],
  outputOf: ["output of {n} heads", "{n} 个头的输出"],
});
