// The texts of the view What matters.

/** @import { Texts } from "./words.js" */

/** @satisfies {Texts} */
export const mattersTexts = /** @type {const} */ ({
  mattersSays: [
    "A weight says where a head looked, not what that did. Here links are removed one by one, and the model runs again without each: what then changes is what the link did.",
    "注意力权重说明一个头看向哪里，并不说明这有什么作用。这里逐一去掉连接，让模型在没有它的情况下继续运行：变化多少，它就起多大作用。",
  ],
  answer: ["Answer", "答案"],
  against: ["Against", "对照答案"],
  another: ["another (␣ is a blank: type it too)", "另填（␣ 是空格，也要输入）"],
  predictedAfter: ["The word that comes after", "预测其后的词元"],
  predictedAt: ["The masked word", "被遮住的词元"],
  endOfText: ["the end of the text", "文本末尾"],
  likeText: ["A text to be like", "要与之相似的文本"],
  unlikeText: ["less like (may stay empty)", "要与之不相似（可留空）"],
  likeNeeded: [
    "This model predicts no word, so the question is how like two texts are. Type the other one.",
    "这个模型不预测词元，所以问的是两段文本有多相似。请输入另一段。",
  ],
  howTitle: ["How a link is removed", "如何去掉一条连接"],
  how_renormalize: ["its weight goes to the row's other words", "它的权重分给本行其余词元"],
  how_zero: ["its weight stays, and what it brings is 0", "权重不变，它带来的内容为 0"],
  howSays_renormalize: ["Removed: the weight goes to the row's other words.", "去掉：权重分给本行其余词元。"],
  howSays_zero: ["Removed: the weight stays, and what it brings is 0.", "去掉：权重不变，带来的内容为 0。"],
  removeLinks: ["Remove {n} links for real", "真实去掉 {n} 条连接"],
  number_logits: [
    "logit of “{answer}” less logit of “{against}”",
    "“{answer}”的 logit 减去“{against}”的 logit",
  ],
  number_like: ["cosine with “{answer}”", "与“{answer}”的余弦"],
  number_likeless: [
    "cosine with “{answer}” less cosine with “{against}”",
    "与“{answer}”的余弦减去与“{against}”的余弦",
  ],
  linksOf: [
    "{n} links in all layers and heads, {removed} removed for real.",
    "所有层和头共 {n} 条连接，其中 {removed} 条已真实去掉。",
  ],
  nothingClear: [
    "No link that was removed changes the number by more than rounding.",
    "去掉的连接中，没有一条使该数的变化超过舍入误差。",
  ],
  linksTitle: ["What removing one link does", "去掉一条连接有何作用"],
  link: ["link", "连接"],
  layerHead: ["layer.head", "层.头"],
  predicted: ["predicted", "预测"],
  trueEffect: ["true", "真实"],
  marks: ["marks", "标记"],
  marksSay: [
    "Predicted: to first order, from gradients. A mark with ! was known before the link was removed; the others say how a prediction missed by more than half.",
    "预测：由梯度得到的一阶近似。“!”在去掉之前就已知；其余标记说明预测的偏差怎样超过一半。",
  ],
  belowRounding: ["below rounding", "低于舍入误差"],
  openWithout: ["Open its seven steps without it", "打开去掉它之后的七个步骤"],
  "mark_large local change": ["large local change", "局部变化大"],
  "mark_its own block says otherwise": ["its own block says otherwise", "只在本块重算，结果不同"],
  "mark_wrong sign": ["wrong sign", "符号错"],
  "mark_prediction too small": ["prediction too small", "预测偏小"],
  "mark_prediction too large": ["prediction too large", "预测偏大"],
  allOf: ["All {n}", "全部 {n} 条"],
  fewer: ["Only {n}", "只看 {n} 条"],
  restingTitle: ["To the first word", "看向第一个词元"],
  restingSays_renormalize: [
    "A head that finds nothing rests on the first word. Removing that link switches the head on: the effect is real, but it does not say that the first word was read. The list may miss some.",
    "一个头若找不到要看的东西，就停在第一个词元上。去掉这条连接会使该头活动起来：作用是真实的，但不表示它读了第一个词元。此表可能有遗漏。",
  ],
  restingSays_zero: [
    "A head that finds nothing rests on the first word. Such links do not say that the first word was read. The list may miss some.",
    "一个头若找不到要看的东西，就停在第一个词元上。这样的连接不表示它读了第一个词元。此表可能有遗漏。",
  ],
  heaviestTitle: ["Where heads look most", "各头看得最多之处"],
  heaviestSays: [
    "The links of largest weight, removed too: they change the number by {low} to {high}, and the strongest above by {top}.",
    "权重最大的连接，也已去掉：它们使该数变化 {low} 到 {high}，而上表最强的一条为 {top}。",
  ],
  arcsLabel: [
    "the {n} strongest links as arcs over the text; the table below has the same",
    "文本上方以弧线表示最强的 {n} 条连接；下表相同",
  ],
  speaksFor: ["speaks for the answer: the number falls without it", "支持答案：去掉它，该数下降"],
  speaksAgainst: ["speaks against it: the number rises", "反对答案：去掉它，该数上升"],
  arcsSay: [
    "The {n} strongest; the thickest is {top}. The dot is at the word that is looked at.",
    "最强的 {n} 条；最粗为 {top}。圆点在被看的词元上。",
  ],
  togetherTitle: ["The {n} strongest removed together", "最强的 {n} 条一起去掉"],
  togetherSays: [
    "As many others of the same words and of like weight: {low} to {high} ({n} draws, 5 to 95 %).",
    "同样多条由同样的词元看出、权重相近的其他连接：{low} 到 {high}（抽 {n} 次，5 到 95 %）。",
  ],
  noDraws: ["There were no others of like weight to compare with.", "没有权重相近的其他连接可比。"],
  wins: ["Now “{answer}” has the larger logit.", "现在“{answer}”的 logit 更大。"],
  stillWins: ["“{answer}” still has the larger logit.", "“{answer}”的 logit 仍然更大。"],
  sum_equal: [
    "Single effects sum to {sum}, and removing all does {change}: they add up.",
    "各自的作用相加为 {sum}，一起为 {change}：可以相加。",
  ],
  sum_apart: [
    "Single effects sum to {sum}, and removing all does {change}: they do not add up.",
    "各自的作用相加为 {sum}，一起为 {change}：不能相加。",
  ],
  sum_overlap: [
    "Single effects sum to {sum}, and removing all does {change}: they overlap.",
    "各自的作用相加为 {sum}，一起为 {change}：作用互相重叠。",
  ],
  sum_more: [
    "Single effects sum to {sum}, and removing all does {change}: together they do more.",
    "各自的作用相加为 {sum}，一起为 {change}：一起作用更大。",
  ],
  stayed: ["{n} stayed, because their rows would have lost every word.", "{n} 条保留，因为否则其所在行将失去所有词元。"],
  notChecked: ["What was not checked", "未检查的部分"],
  notCheckedSays: [
    "{left} links, with {share} of all predicted effect; none is predicted above {largest}.",
    "{left} 条连接，占全部预测作用的 {share}；预测值均不超过 {largest}。",
  ],
  allChecked: ["Every link was removed for real.", "每条连接都已真实去掉。"],
  checkedSays: [
    "Of {all} removed links above rounding, {sign} were predicted with the right sign and {close} within half of the true effect.",
    "高于舍入误差的 {all} 条已去掉的连接中，{sign} 条预测符号正确，{close} 条误差在真实作用的一半以内。",
  ],
  noProof: ["This is no proof that nothing else matters.", "这并不证明其他一切都不起作用。"],
  groupsTitle: ["Removed as a whole", "整组去掉"],
  by_head: ["Heads", "头"],
  by_token: ["Words", "词元"],
  by_span: ["Sentences", "句"],
  groupSays_head: ["Each head with its output set to 0, for real.", "逐一把每个头的输出设为 0，真实运行。"],
  groupSays_token: [
    "Each word hidden from all other words, in every layer and head, for real.",
    "逐一把每个词元对其他所有词元遮住（所有层和头），真实运行。",
  ],
  groupSays_span: [
    "Each sentence hidden from all words outside it, in every layer and head, for real.",
    "逐一把每个句子对其外的所有词元遮住（所有层和头），真实运行。",
  ],
  restGroups: ["{n} more, with smaller effects.", "其余 {n} 个作用更小。"],
  withoutLink: ["Without the link", "去掉的连接："],
  withoutIt: ["without it", "去掉后"],
  withoutEarly: [
    "Steps 1 to 4 are as before: the link is taken out after the scores.",
    "第 1 到 4 步不变：连接在分数之后去掉。",
  ],
  withoutOutput: [
    "What the head adds to this word is {before} long with the link and {after} long without it.",
    "该头加给这个词元的内容，有这条连接时长 {before}，没有时长 {after}。",
  ],
  putBack: ["Put the link back", "恢复这条连接"],
  backToList: ["Back to what matters", "回到“什么起作用”"],
});
