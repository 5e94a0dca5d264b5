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
    "One scale for all maps: a head that looks at all words alike is pale everywhere.",
    "所有小图共用一个色标：均匀看向各词元的头处处都浅。",
  ],
  mapsOwn: [
    "Each map has its own scale: its largest number has the strongest color. Compare shapes here, not colors: a head that looks at all words alike looks solid.",
    "每张小图各用自己的色标：最大的数颜色最深。此时只能比较形状，不能比较深浅：均匀看向各词元的头会显得一片深色。",
  ],
  mapsScale: ["One scale from 0 to {top}", "统一色标，0 到 {top}"],
  faint: ["See faint maps: each on its own scale", "看清浅色小图：各用自己的色标"],
  strongestIs: ["The strongest color is {top}.", "颜色最深处为 {top}。"],
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
