// Every text of the page in English and Chinese. Sentences about one word's numbers come from Python.

import { state } from "./state.js";

export function lang() {
  return state.lang in TEXTS ? state.lang : navigator.language?.toLowerCase().startsWith("zh") ? "zh" : "en";
}

// A text with its {numbers} put in; `otherwise` where there is none of that name.
export function t(key, values = {}, otherwise = key) {
  const text = TEXTS[lang()][key] ?? TEXTS.en[key] ?? otherwise;
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

const en = {
  title: "wqkv: what one head of attention does",
  skip: "Skip to the views", textToRead: "Text to read", read: "Read", placeholder: "Type a sentence, or paste a long text",
  language: "中文", theme: "Colours: {now}", auto: "as the system", light: "light", dark: "dark", keys: "Keys", menu: "Save",
  wholePage: "This page as one file", wholePageSays: "Opens without a server or a network.", savedHere: "PNG, SVG and JSON of one view are under that view.",
  layer: "layer", head: "head", word: "word", weight: "weight", score: "score", effect: "effect", at: "at", hidden: "hidden", previous: "{what}: one less", following: "{what}: one more",
  atLayer: "layer {layer}", atHead: "head {head}", atBoth: "layer {layer}, head {head}", words: "{n} words", modelSize: "{layers} layers × {heads} heads, {d} numbers a word",
  exact: "exact", failed: "failed its proof", unproved: "not proved yet", someFailed: "failed its proof in layers {layers}", someProved: "exact in {done} of {all} layers",
  proofHolds: "Proof holds:", proofFailed: "FAILED ITS PROOF, do not trust this picture:",
  proofFacts: "our output and the model's own differ by at most {difference} (allowed {tolerance}, numbers up to {size}).",
  python: "Copy as Python", copied: "Copied", copyThese: "Selected: copy them",
  sevenSteps: "Attention in seven steps", back: "Back", next: "Next", close: "Close",
  numbers: "{n} numbers, {low} to {high}", allNumbers: "all numbers", eachMean: "; each bar is the mean of {per}",
  wordsOf: "Words {first} to {last} of {n}.", bestOf: "The {n} strongest of {all} words.",
  sharedKV: "Heads {first} to {last} share one k and one v (group {group}).",
  worked: "Worked out:", sumOf: "the sum of {n} products", scaleSays: "so that longer vectors do not score higher: the score", softcap: "softcap {cap}", softcapSays: "large scores are bent down", biasSays: "a bias by how far apart the two are", lseSays: "lse, the same for the whole row, so that its weights sum to 1", lseSinkSays: "lse, the same for the whole row; with the learned sink of {sink} the weights sum to less than 1",
  weightOf: "the weight", cellHidden: "The mask hides this word: no score, weight 0.", terms: "products of q and k, one a channel", pointTerm: "Point at a bar, or use the arrow keys.", allTerms: "all {n} products",
  restShare: "And {n} more words share {share}.", restShareKept: "And {n} more of the strongest words share {share}.", sinkTakes: "The head's learned sink takes {sink} of this row and adds nothing.", lseIs: "lse = log(sum of exp(score)) = {lse}",
  effectSays: "Effect: the length of weight × v × WO. A word with much weight and little effect is a sink.",
  residualHolds: "This word's output from these weights and the model's own differ by at most {difference} (allowed {tolerance}).", residualFailed: "FAILED ITS PROOF: this word's output from these weights and the model's own differ by {difference} (allowed {tolerance}).", outputOf: "output of {n} heads",
  views: "Views", view_text: "Text", view_grid: "Heads", view_map: "Map", view_whatif: "What if", view_generate: "Writing",
  looksAt: "looks at", lookAt: "look at", lookedAtBy: "Who looks at", whereLooks: "Where it looks", whoLooks: "Who looks at it", direction: "Direction", hideSpecial: "Hide special words", renormalise: "Share out what they held",
  hiddenRest: "Special words are not shown. They hold {share} of the weight; the rest is as the model has it, not renormalised.", hiddenEven: "Special words hold {share} of the weight. The rest is shown times {factor}, so that it sums to 1: these are not the model's own weights.",
  shiftSays: "Click a word. Shift-click adds words to a set. Colour is weight.", setOf: "{n} words", setMean: "(mean of their rows)", setSum: "(weight on any of them)", clearSet: "One word again", textOf: "the text", nobody: "No word.", overview: "Where in the whole text the weight lies: the most in each stretch. Click to go there.", earlier: "Earlier", later: "Later",
  colourBy: "Colour by", gridOf: "layers and heads by {statistic}", stat_entropy: "Entropy", stat_received: "Most received", stat_distance: "Distance", stat_sink: "Sink", stat_label: "Label", stat_maps: "Maps",
  says_entropy: "How spread the weights of a row are, as a mean over rows: 0 is one word alone.", says_received: "The share of all weight that goes to the word that is looked at most.", says_distance: "How many words away the weight lies, as a mean over rows.", says_sink: "The weight on the first word (and on a learned sink), as a mean over rows.", says_label: "What the head does, by where its weight lies; the colour is the score that gave the label.", says_maps: "Every head's map in small: rows look at columns.",
  unit_nats: "nats", unit_words: "words", "unit_of 1": "", mapsSay: "Each map has its own scale: its strongest colour is its largest block mean.", thumbnailOf: "map of layer {layer}, head {head}", blockMeans: "Means of blocks: {n} words in {size} × {size} blocks.", eachCell: "Each cell is one word looking at one word.", openMap: "Open the map", groupOf: "Heads {first} to {last} share k and v (group {group}): each has its own q",
  brief_previous: "prev", brief_next: "next", "brief_first-token sink": "first", "brief_separator sink": "sep", "brief_duplicate-token": "same", brief_induction: "ind", brief_local: "near", brief_uniform: "even", brief_unclassified: "·",
  label_previous: "previous word", label_next: "next word", "label_first-token sink": "sink: first word", "label_separator sink": "sink: separators", "label_duplicate-token": "same word elsewhere", label_induction: "induction", label_local: "near words", label_uniform: "even", label_unclassified: "unclassified",
  zoomIn: "Zoom in", zoomOut: "Zoom out", aroundWord: "Around the word", mapKeys: "map of weights: arrow keys move, plus and minus zoom, Enter chooses", minimapKeys: "the whole text: click or use the arrow keys to move what is shown", minimapSays: "The whole text, {n} words, as exact means of {size} × {size} blocks; the strongest colour is {top}. Above: what every word receives. Click to look there.", tileSays: "Exact weights from words {q0} to {q1} (rows) to words {k0} to {k1} (columns). An empty cell is 0. Point, drag, or use the arrow keys, + and −; Enter chooses.", receivedShort: "received", receivedEach: "Above: what every word receives.", receivedMean: "Above: what words receive, as means of {per} words.", receivedShort: "received", receivedBy: "weight received by every word",
  distances: "How far it looks", wordsAway: "words away", meanDistance: "Mean distance: {mean} words.", strongestLinks: "Strongest links",
  whatifSays: "Switch a head off or change a word, and see what the model makes of it. Nothing is changed yet.", offSays: "The chosen head:", switchOff: "Switch off layer {layer}, head {head}", switchOn: "Switch on layer {layer}, head {head}", isOff: "layer {layer}, head {head} off", editSays: "Replace the chosen word", change: "Replace", specialWord: "Special words cannot be replaced: choose another.", undo: "Undo", undoThis: "undo this one", undoAll: "Undo all",
  similarity: "Similarity to before", similaritySays: "Cosine of the text's embedding before and after: 1 is the same.", nextWord: "The next word", nextAfter: "Probabilities of the word after the last.", looksNow: "Where it looks:", before: "before", after: "after", layerChange: "Change of each layer's output", outputChange: "The model's output changes by", changeSays: "Length of the change over the length before, as a mean over words.", changeBy: "change", openAfter: "Open the changed text",
  noGenerate: "{model} reads in both directions at once and writes nothing. Open a causal model to watch it write.", howMany: "How many words", write: "Write", generateSays: "The model goes on with the text, each time with the likeliest word. Then walk through its steps.", nothingWritten: "The model ends the text here.", stepOf: "word {at} of {all}", candidates: "What could come", lookedThen: "Where layer {layer}, head {head} looked",
  wait: "Waiting for other work", job_open: "Reading the text", job_whatif: "Running the changed model", job_generate: "Writing", job_export: "Saving the page", job_grid: "Measuring every head", job_thumbnail: "Drawing the whole map", job_received: "Adding up what words receive", job_distances: "Measuring distances", job_links: "Finding the strongest links", job_column: "Finding who looks here", cancel: "Cancel", cancelled: "Cancelled.", again: "Try again", gone: "The server does not answer. Is wqkv open still running?", notRecorded: "This is not in the saved page. Open the text with wqkv open to see it.", recordedSays: "A saved page: {size} of at most {cap}. Without a server it shows what was recorded.", leftOut: "Left out: {what}.", noText: "Type a text above and press Read.", empty: "Type at least one word.",
  keysTitle: "Keys", key_steps: "walk the seven steps", key_number: "open a step", key_escape: "close the step", key_layer: "next layer (with Shift: previous)", key_head: "next head", key_word: "next word", key_view: "next view", key_help: "this list",
};

const zh = {
  title: "wqkv：一个注意力头在做什么",
  skip: "跳到各视图", textToRead: "要读的文本", read: "读入", placeholder: "输入一句话，或粘贴长文本",
  language: "English", theme: "配色：{now}", auto: "跟随系统", light: "浅色", dark: "深色", keys: "按键", menu: "保存",
  wholePage: "把本页存成一个文件", wholePageSays: "无需服务器和网络即可打开。", savedHere: "每个视图下方可单独存为 PNG、SVG 和 JSON。",
  layer: "层", head: "头", word: "词", weight: "权重", score: "得分", effect: "作用", at: "位置", hidden: "遮住", previous: "{what}：减一", following: "{what}：加一",
  atLayer: "第 {layer} 层", atHead: "第 {head} 头", atBoth: "第 {layer} 层第 {head} 头", words: "{n} 个词", modelSize: "{layers} 层 × {heads} 头，每个词 {d} 个数",
  exact: "精确", failed: "未通过验证", unproved: "尚未验证", someFailed: "第 {layers} 层未通过验证", someProved: "{all} 层中 {done} 层已验证为精确",
  proofHolds: "验证通过：", proofFailed: "未通过验证，请勿相信此图：",
  proofFacts: "我们的输出与模型自身的输出最多相差 {difference}（允许 {tolerance}，数值最大 {size}）。",
  python: "复制为 Python", copied: "已复制", copyThese: "已选中，请复制",
  sevenSteps: "注意力的七个步骤", back: "上一步", next: "下一步", close: "收起",
  numbers: "{n} 个数，{low} 到 {high}", allNumbers: "全部数字", eachMean: "；每条是 {per} 个数的均值",
  wordsOf: "共 {n} 个词，此处为第 {first} 到 {last} 个。", bestOf: "{all} 个词中最强的 {n} 个。",
  sharedKV: "第 {first} 到 {last} 头共用同一组 k 和 v（第 {group} 组）。",
  worked: "逐步计算：", sumOf: "{n} 个乘积之和", scaleSays: "免得向量越长得分越高：即得分", softcap: "压缩 {cap}", softcapSays: "把过大的得分压低", biasSays: "偏置，取决于两词的距离", lseSays: "lse，整行相同，使权重之和为 1", lseSinkSays: "lse，整行相同；学到的汇点为 {sink}，权重之和小于 1",
  weightOf: "权重", cellHidden: "掩码遮住了这个词：没有得分，权重为 0。", terms: "q 与 k 各通道的乘积", pointTerm: "指向一条，或用方向键。", allTerms: "全部 {n} 个乘积",
  restShare: "其余 {n} 个词共占 {share}。", restShareKept: "其余较强的 {n} 个词共占 {share}。", sinkTakes: "该头学到的汇点占去本行的 {sink}，不带来任何内容。", lseIs: "lse = log(exp(得分) 之和) = {lse}",
  effectSays: "作用：权重 × v × WO 的长度。权重大而作用小的词是“汇点”。",
  residualHolds: "由这些权重算出的本词输出与模型自身的输出最多相差 {difference}（允许 {tolerance}）。", residualFailed: "未通过验证：由这些权重算出的本词输出与模型自身的输出相差 {difference}（允许 {tolerance}）。", outputOf: "{n} 个头的输出",
  views: "视图", view_text: "文本", view_grid: "各头", view_map: "全图", view_whatif: "假如", view_generate: "续写",
  looksAt: "看向", lookAt: "看向", lookedAtBy: "谁看向", whereLooks: "它看向哪里", whoLooks: "谁看向它", direction: "方向", hideSpecial: "隐藏特殊词", renormalise: "把它们的权重分给其余词",
  hiddenRest: "未显示特殊词，它们占权重的 {share}；其余权重保持模型原值，未重新归一。", hiddenEven: "特殊词占权重的 {share}。其余权重乘以 {factor} 后显示，使其和为 1：这不是模型自身的权重。",
  shiftSays: "点一个词；按住 Shift 再点可选一组词。颜色表示权重。", setOf: "{n} 个词", setMean: "（各行的均值）", setSum: "（落在其中任一词上的权重）", clearSet: "回到一个词", textOf: "文本", nobody: "没有词。", overview: "权重落在整篇文本的何处：每段取最大值。点击即到该处。", earlier: "往前", later: "往后",
  colourBy: "着色依据", gridOf: "各层各头的{statistic}", stat_entropy: "熵", stat_received: "最多被看", stat_distance: "距离", stat_sink: "汇点", stat_label: "标签", stat_maps: "小图",
  says_entropy: "一行权重有多分散（各行均值）：0 表示只看一个词。", says_received: "被看得最多的词占全部权重的份额。", says_distance: "权重落在多少个词之外（各行均值）。", says_sink: "落在第一个词（及学到的汇点）上的权重，各行均值。", says_label: "按权重的去处判断这个头做什么；颜色是得出该标签的分数。", says_maps: "每个头的缩略图：行看向列。",
  unit_nats: "奈特", unit_words: "个词", "unit_of 1": "", mapsSay: "每张小图有自己的色标：颜色最强处为其最大的块均值。", thumbnailOf: "第 {layer} 层第 {head} 头的图", blockMeans: "块均值：{n} 个词分为 {size} × {size} 块。", eachCell: "每格是一个词看向一个词。", openMap: "打开全图", groupOf: "第 {first} 到 {last} 头共用 k 和 v（第 {group} 组），各有自己的 q",
  brief_previous: "前词", brief_next: "后词", "brief_first-token sink": "首词", "brief_separator sink": "分隔", "brief_duplicate-token": "同词", brief_induction: "归纳", brief_local: "邻近", brief_uniform: "均匀", brief_unclassified: "·",
  label_previous: "看前一个词", label_next: "看后一个词", "label_first-token sink": "汇点：首词", "label_separator sink": "汇点：分隔符", "label_duplicate-token": "看别处的同一个词", label_induction: "归纳头", label_local: "看邻近的词", label_uniform: "均匀", label_unclassified: "未归类",
  zoomIn: "放大", zoomOut: "缩小", aroundWord: "回到所选的词", mapKeys: "权重图：方向键移动，加减号缩放，回车选定", minimapKeys: "整篇文本：点击或用方向键移动所看的区域", minimapSays: "整篇 {n} 个词，{size} × {size} 块的精确均值，颜色最强为 {top}。上方：每个词被看的总量。点击即看该处。", tileSays: "第 {q0} 到 {q1} 个词（行）对第 {k0} 到 {k1} 个词（列）的精确权重。空格为 0。可指、拖，或用方向键、+ 和 −；回车选定。", receivedShort: "被看", receivedEach: "上方：每个词被看的总量。", receivedMean: "上方：每 {per} 个词被看的均值。", receivedShort: "被看", receivedBy: "每个词被看的总量",
  distances: "看多远", wordsAway: "相隔词数", meanDistance: "平均距离：{mean} 个词。", strongestLinks: "最强的联系",
  whatifSays: "关掉一个头，或换一个词，看模型有何不同。目前未作改动。", offSays: "所选的头：", switchOff: "关掉第 {layer} 层第 {head} 头", switchOn: "打开第 {layer} 层第 {head} 头", isOff: "第 {layer} 层第 {head} 头已关", editSays: "替换所选的词", change: "替换", specialWord: "特殊词不能替换，请另选一词。", undo: "撤销", undoThis: "撤销此项", undoAll: "全部撤销",
  similarity: "与之前的相似度", similaritySays: "前后文本向量的余弦：1 为相同。", nextWord: "下一个词", nextAfter: "末尾之后那个词的概率。", looksNow: "它看向哪里：", before: "之前", after: "之后", layerChange: "各层输出的变化", outputChange: "模型输出的变化：", changeSays: "变化的长度除以原来的长度，取各词均值。", changeBy: "变化", openAfter: "打开改动后的文本",
  noGenerate: "{model} 同时看前后文，不会续写。打开一个因果模型即可观看续写。", howMany: "写多少个词", write: "续写", generateSays: "模型接着文本写下去，每次取最可能的词；之后可逐步回看。", nothingWritten: "模型到此结束。", stepOf: "第 {at} 个词，共 {all} 个", candidates: "可能的下一个词", lookedThen: "第 {layer} 层第 {head} 头当时看向",
  wait: "等待其他工作", job_open: "正在读文本", job_whatif: "正在运行改动后的模型", job_generate: "正在续写", job_export: "正在保存页面", job_grid: "正在测量每个头", job_thumbnail: "正在绘制整图", job_received: "正在累计被看的量", job_distances: "正在测量距离", job_links: "正在寻找最强的联系", job_column: "正在寻找谁看向此处", cancel: "取消", cancelled: "已取消。", again: "重试", gone: "服务器没有回应。wqkv open 还在运行吗？", notRecorded: "保存的页面里没有这一项。请用 wqkv open 打开文本查看。", recordedSays: "这是保存的页面：{size}，上限 {cap}。没有服务器，只显示已记录的内容。", leftOut: "未收入：{what}。", noText: "在上方输入文本，然后按“读入”。", empty: "请至少输入一个词。",
  keysTitle: "按键", key_steps: "走过七个步骤", key_number: "打开某一步", key_escape: "收起这一步", key_layer: "下一层（加 Shift：上一层）", key_head: "下一个头", key_word: "下一个词", key_view: "下一个视图", key_help: "本列表",
};

export const TEXTS = { en, zh };
