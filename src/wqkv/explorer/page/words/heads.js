// The texts of the view Heads: statistics and labels.

/** @import { Texts } from "./words.js" */

/** @satisfies {Texts} */
export const headsTexts = /** @type {const} */ ({
  colorBy: ["Color by", "着色方式"],
  gridOf: ["layers and heads by {statistic}", "各层各头的{statistic}"],
  stat_entropy: ["Entropy", "熵"],
  stat_received: ["Most received", "最受关注"],
  stat_distance: ["Distance", "距离"],
  stat_sink: ["Sink", "汇点"],
  stat_label: ["Label", "标签"],
  measuredOn: ["Measured on: {source}.", "测量所用的文本：{source}。"],
  stat_maps: ["Maps", "小图"],
  says_entropy: [
    "How spread the weights of a row are, as a mean over rows: 0 is one word alone.",
    "一行注意力权重有多分散（各行均值）：0 表示只看一个词元。",
  ],
  says_received: [
    "The share of all weight that goes to the word that is looked at most.",
    "最受关注的词元在全部注意力权重中所占的份额。",
  ],
  says_distance: ["How many words away the weight lies, as a mean over rows.", "注意力平均落在多少个词元之外（各行均值）。"],
  says_sink: [
    "The weight on the first word (and on a learned sink), as a mean over rows.",
    "落在第一个词元（及学得的汇点）上的权重，各行均值。",
  ],
  says_label: [
    "What the head does, by where its weight lies; the color is the score that gave the label.",
    "按注意力落在哪里判断这个头做什么；颜色表示得出该标签的分值。",
  ],
  says_maps: ["Every head's map in small: rows look at columns.", "每个头的缩略图：行看向列。"],
  unit_nats: ["nats", "nat"],
  unit_tokens: ["words", "个词元"],
  "unit_of 1": ["", ""],
  mapsSay: [
    "Each map has its own scale: its strongest color is its largest block mean.",
    "每张小图有自己的色标：颜色最强处为其最大的块均值。",
  ],
  thumbnailOf: ["map of layer {layer}, head {head}", "第 {layer} 层第 {head} 头的图"],
  blockMeans: [
    "Means of blocks: {n} words in {size} × {size} blocks.",
    "块均值：{n} 个词元分为 {size} × {size} 块。",
  ],
  eachCell: ["Each cell is one word looking at one word.", "每格是一个词元看向一个词元。"],
  openMap: ["Open the map", "打开全图"],
  groupOf: [
    "Heads {first} to {last} share k and v (group {group}): each has its own q",
    "第 {first} 到 {last} 头共用 k 和 v（第 {group} 组），各有自己的 q",
  ],
});
