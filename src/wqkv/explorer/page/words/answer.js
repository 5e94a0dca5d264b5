// The texts of the first screen: the question, its answer, the figure beside it, and the tour.

/** @import { Texts } from "./words.js" */

/** @satisfies {Texts} */
export const answerTexts = /** @type {const} */ ({
  question: ["What do WQ, WK and WV do to {token}?", "WQ、WK、WV 对{token}做了什么？"],
  pageIsFor: [
    "Attention at work in {model}: every number is the model's own, on this text. Press one to see how it is worked out.",
    "看注意力如何在 {model} 里工作：每个数字都是模型在这段文本上算出的，点一下就能看到计算过程。",
  ],
  makes: [
    "{WQ} makes a query of {token}; {WK} and {WV} make a key and a value of every word (token).",
    "{WQ} 由{token}得到查询，{WK} 和 {WV} 由每个词元（token）得到键和值。",
  ],
  makesOfRead: [
    "{WQ} makes a query of {token}; {WK} and {WV} make a key and a value of every word (token) of the text that was read.",
    "{WQ} 由{token}得到查询，{WK} 和 {WV} 由读入文本的每个词元（token）得到键和值。",
  ],
  answerFits: [
    "In layer {layer}, head {head}, the query of {token} fits the key of {key} best{score}, so {weight} of what {token} takes in is the value of {key}.",
    "在第 {layer} 层第 {head} 头，{token}的查询与{key}的键最相配{score}，所以{token}取到的内容中有 {weight} 是{key}的值。",
  ],
  answerItself: [
    "In layer {layer}, head {head}, the query of {token} fits its own key best{score}, so {weight} of what {token} takes in is its own value.",
    "在第 {layer} 层第 {head} 头，{token}的查询与它自己的键最相配{score}，所以{token}取到的内容中有 {weight} 是它自己的值。",
  ],
  answerTwo: [
    "In layer {layer}, head {head}, the query of {token} fits the keys of {key} and {next} almost equally well{score}: of what {token} takes in, {weight} is the value of {key} and {weightNext} that of {next}.",
    "在第 {layer} 层第 {head} 头，{token}的查询与{key}和{next}的键几乎同样相配{score}：{token}取到的内容中，{weight} 是{key}的值，{weightNext} 是{next}的值。",
  ],
  answerEven: [
    "In layer {layer}, head {head}, no key stands out for the query of {token}. The best is that of {key}{score}: {weight} of what {token} takes in is its value.",
    "在第 {layer} 层第 {head} 头，没有哪个键与{token}的查询特别相配。最好的是{key}{score}：{token}取到的内容中有 {weight} 是它的值。",
  ],
  answerAlone: [
    "In layer {layer}, head {head}, {token} may look at no word but itself, so its weight is {weight} whatever its query and key are: it takes in its own value.",
    "在第 {layer} 层第 {head} 头，{token}只能看到自己，所以无论查询和键是什么，权重都是 {weight}：它取到的是自己的值。",
  ],
  answerOne: [
    "In layer {layer}, head {head}, {token} may look at no word but {key}, so the weight is {weight} whatever query and key are: {token} takes in the value of {key}.",
    "在第 {layer} 层第 {head} 头，{token}只能看到{key}，所以无论查询和键是什么，权重都是 {weight}：{token}取到的是{key}的值。",
  ],
  answerEmpty: [
    "In layer {layer}, head {head}, the mask hides every word from {token}: its row is empty, and this head adds nothing to it.",
    "在第 {layer} 层第 {head} 头，掩码对{token}遮住了所有词元：这一行是空的，这个头什么也没有加给它。",
  ],
  answerScore: [" (score {score})", "（分数 {score}）"],
  answerSink: [
    "The head's learned sink takes {sink} of the weight and gives nothing.",
    "这个头学到的汇点占去 {sink} 的权重，不带来任何内容。",
  ],
  answerRests: [
    "Much weight, but little content: what arrives from {key} has length {effect}, while the head's output has {output}.",
    "权重大而内容少：从{key}传来的部分长度只有 {effect}，而这个头的输出长度为 {output}。",
  ],
  answerWithout: [
    "Without that one link this head's output for {token} would change by {change}.",
    "去掉这一条连接，这个头给{token}的输出会变，变化的大小是{change}。",
  ],
  changePercent: ["{n}\u00a0% of its length", "原长度的 {n}%"],
  changeTimes: ["{n} times its length", "原长度的 {n} 倍"],
  answerMatters: ["Does the model's answer need it? {link}", "模型的回答需要它吗？{link}"],
  answerMattersText: ["Does the text's embedding need it? {link}", "整段文本的句向量需要它吗？{link}"],
  toWhy: ["Why three matrices?", "为什么需要三个矩阵？"],
  removeForReal: ["Remove it for real", "真的去掉它试试"],
  chooseWord: ["Words of the text: choose one", "文本中的词元：选择一个"],
  readWords: ["What {token} looks at:", "{token}看向："],
  figureSays: ["The answer as numbers.", "用数字表示的答案。"],
  figureOf: ["{vector} of {token}", "{token}的 {vector}"],
  figureFits: ["q · k: score {score}, weight {weight}", "q · k：分数 {score}，权重 {weight}"],
  figureFitsLong: ["q · k: weight {weight}", "q · k：权重 {weight}"],
  figureGoes: ["{weight} × v goes to {token}", "{weight} × v 传给{token}"],
  figureScale: ["{n} numbers each, one scale: ±{top}", "各 {n} 个数，同一刻度：±{top}"],
  tour: ["One-minute tour", "一分钟导览"],
  tourAt: ["{at} of {all}", "{at} / {all}"],
  tourEnd: ["End", "结束"],
  tour_answer: [
    "The question, answered with the numbers of this text. Press a number to go where it is worked out; press a word to ask about it.",
    "这是问题和答案，用的是这段文本的数字。点数字可看到它的计算过程，点词元可改问它。",
  ],
  tour_stream: [
    "The whole model. Every attention and every MLP adds a vector to the word; a bar is as tall as what is added. Press a layer to open it.",
    "这是整个模型。每个注意力和每个前馈网络（MLP）都给词元加上一个向量，条的高度是所加向量的长度。点某一层可打开它。",
  ],
  tour_step2: [
    "Step 2: the word's numbers x times three matrices, WQ, WK and WV, give its query, its key and its value.",
    "第 2 步：词元的数 x 乘以三个矩阵 WQ、WK、WV，得到它的查询、键和值。",
  ],
  tour_step4: [
    "Step 4: the query is multiplied with the key of every word. A large score means that the two fit.",
    "第 4 步：查询与每个词元的键相乘。分数大，表示两者相配。",
  ],
  tour_step5: [
    "Step 5: softmax makes weights of the scores. They are positive and sum to 1.",
    "第 5 步：softmax 把分数变成权重，权重为正，总和为 1。",
  ],
  tour_step6: [
    "Step 6: each value times its weight, added up. That is what the word takes in from the others.",
    "第 6 步：每个值乘以它的权重再相加，就是这个词元从其他词元取到的内容。",
  ],
  tour_picture: [
    "The picture: where the chosen patch looks, and who looks at it. Point at another patch to see where that one looks.",
    "图片：所选的图块看向哪里，谁看向它。指向别的图块，可看它看向哪里。",
  ],
  tour_why: [
    "Why? Change one thing in the head, such as one matrix for both query and key, guess what happens, and see it.",
    "为什么？改动这个头的一处，比如让查询和键共用一个矩阵，先猜会怎样，再看结果。",
  ],
  tour_text: [
    "The text: where the word looks, and who looks at it. Type your own sentence at the top whenever you like.",
    "文本：这个词元看向哪里，谁看向它。随时可以在页面顶部输入你自己的句子。",
  ],
});
