"""The sentences of the seven steps and of their proof; draw/steps.py fills in the numbers.

They speak to a learner, who knows words. So a token is called a word in English, and the first
sentence says once that the two are the same. In Chinese it is 词元, because 词 is a word of the
language, which a token often is not.
"""

from __future__ import annotations

#: With "_cross" after its name: of a word that is written, which looks at the words that were read.
#: With "_picture": of a patch; with "_both": of a text with a picture. {one} and {many} are words,
#: or what they are called there.
STEPS = {
    "words": ("Words", "词元"),
    "words_1": (
        'The model reads {n} words (tokens). We follow "{word}" into layer {layer}, head {head}.',
        "模型读入 {n} 个词元（token）。我们跟着“{word}”走进第 {layer} 层的第 {head} 个头。",
    ),
    "words_2_first": (
        "In the first layer x comes from the model's table of words and from the word's position: "
        "nothing of the other words is in it.",
        "在第一层里，x 就是嵌入层（embedding）给这个词元的向量，里面还没有其他词元的内容。",
    ),
    "words_2": (
        "By now {layer} layers have worked on x, so that it also tells of other {many}.",
        "前面 {layer} 层已经处理过 x，所以它也带有其他{many}的内容。",
    ),
    "words_f": (
        'x = the {d_model} numbers that stand for "{word}" there',
        "x = 在这里代表“{word}”的 {d_model} 个数",
    ),
    "matrices": ("WQ, WK, WV", "WQ、WK、WV"),
    "matrices_1": (
        "Three matrices, learned in training, turn the {d_model} numbers of x into {sizes}.",
        "三个训练得到的权重矩阵，把 x 的 {d_model} 个数变成{sizes}。",
    ),
    "each": ("{q} each", "三组数，每组 {q} 个"),
    "apart": (
        "{q} for q, {k} for k and {v} for v",
        " q 的 {q} 个数、k 的 {k} 个数和 v 的 {v} 个数",
    ),
    "matrices_2": (
        "Head {head} of {n_head} has its own part of each matrix: {d_model} x {d_k} numbers of WQ.",
        "一共 {n_head} 个头，第 {head} 个头在每个权重矩阵里有自己的一块："
        "WQ 的 {d_model} x {d_k} 个数。",
    ),
    "matrices_2_shared": (
        "Head {head} has its own part of WQ, {d_model} x {d_k} numbers; the {n_head} heads share "
        "{n_kv_head} parts of WK and WV.",
        "第 {head} 个头在 WQ 里有自己的一块，{d_model} x {d_k} 个数；{n_head} 个头共用 "
        "{n_kv_head} 块 WK 和 WV。",
    ),
    "matrices_f": (
        "q = x WQ,  k = x WK,  v = x WV   (plus a bias each, where the model has one)",
        "q = x WQ,  k = x WK,  v = x WV   （如果模型有偏置，再各加一个偏置）",
    ),
    "matrices_rope": (
        ",  then RoPE turns q and k by their positions",
        ",  然后 RoPE 按位置旋转 q 和 k",
    ),
    # The layer may change x WQ, x WK and x WV before they are q, k and v. These sentences say how,
    # if it does more than RoPE.
    "matrices_between": (",  then {made} through {between}", ",  然后 {made} 经过{between}"),
    "and": (", ", "、"),
    "norm": ("a norm", "归一化"),
    "clip": ("clipping", "截断"),
    "RoPE": ("RoPE", " RoPE "),
    "temperature": ("a temperature", "温度缩放"),
    "qkv": ("q, k, v", "q、k、v"),
    "qkv_1": (
        'q, the query: what "{word}" looks for. k, the key: how other {many} find it. v, the '
        "value: what it hands on.",
        "q 是查询（query）：“{word}”在找什么。k 是键（key）：别的{many}凭它找到“{word}”。v 是值"
        "（value）：它交出什么。",
    ),
    "qkv_2": (
        'The q of "{word}" is used for this {one} alone; its k and v are used by every {one} '
        "that looks at it.",
        "“{word}”的 q 只为它自己用；它的 k 和 v 供每个看向它的{one}使用。",
    ),
    "scores": ("Scores", "分数"),
    "scores_1": (
        'The q of "{word}" meets the k of each {one}. Where they agree, the score is high.',
        "“{word}”的 q 与每个{one}的 k 相乘。两者越一致，分数越高。",
    ),
    "scores_2_root": (
        "Dividing by the root of {d_k} keeps the spread of the scores from growing with the number "
        "of channels.",
        "除以 {d_k} 的平方根，分数的离散程度就不会随维数变大。",
    ),
    "scores_2_none": ("This model does not scale its scores.", "这个模型不缩放分数。"),
    "scores_2": (
        "This model multiplies its scores by {scale:.4g}.",
        "这个模型把分数乘以 {scale:.4g}。",
    ),
    "scores_f_none": (
        "no {one} may be seen, so there is no score",
        "没有可见的{one}，所以没有分数",
    ),
    "softmax": ("Mask and softmax", "掩码与 softmax"),
    "none_hidden": (
        'No {one} is hidden from "{word}" ({mask}).',
        "“{word}”能看到所有的{one}（{mask}）。",
    ),
    "one_hidden": (
        '{count} of {n} {many} is hidden from "{word}" ({mask}).',
        "{n} 个{many}里有 {count} 个“{word}”看不到（{mask}）。",
    ),
    "hidden": (
        '{count} of {n} {many} are hidden from "{word}" ({mask}).',
        "{n} 个{many}里有 {count} 个“{word}”看不到（{mask}）。",
    ),
    "softmax_1": (
        "{hidden} Softmax turns scores into weights that sum to 1.",
        "{hidden}softmax 把分数变成总和为 1 的注意力权重。",
    ),
    "softmax_1_sink": (
        "{hidden} Softmax turns scores into weights; with the {sink} of a learned sink they sum "
        "to 1.",
        "{hidden}softmax 把分数变成注意力权重；加上学得的汇点所占的 {sink}，总和为 1。",
    ),
    "softmax_2": (
        '"{word}" looks most at "{best}": {weight} of its weight lies there, where equal '
        "weights would put {equal}.",
        "“{word}”最关注“{best}”：注意力权重的 {weight} 落在那里；若平均分配，只有 {equal}。",
    ),
    "softmax_2_none": (
        "A row in which nothing may be seen is 0.",
        "什么都看不到的一行，结果是 0。",
    ),
    "softmax_f": ("exp(score) / sum of all exp(score)", "exp(分数) / 所有 exp(分数) 之和"),
    "softmax_f_none": (
        "no {one} may be seen, so every weight is 0",
        "没有可见的{one}，所以注意力权重都是 0",
    ),
    "sum": ("Weighted sum", "加权求和"),
    "sum_1": (
        "The v of every {one} is added up, each in proportion to its weight.",
        "把每个{one}的 v 按注意力权重加起来。",
    ),
    "sum_2": (
        "How much a {one} brings is its weight times the length of its v: a large weight on a "
        "short v brings little.",
        "一个{one}带来多少，是注意力权重乘以 v 的长度：权重大而 v 很短，带来的就很少。",
    ),
    "out": ("WO", "WO"),
    "out_1": (
        'WO turns the context into what this head adds to "{word}".',
        "WO 把上下文向量变成这个头加给“{word}”的内容。",
    ),
    "out_2": (
        "This head's share is {share} long, the output of all {n_head} heads {output}.",
        "这个头的份额长 {share}，{n_head} 个头的总输出长 {output}。",
    ),
    "out_f": (
        "share = context WO,  output = the {n_head} heads' shares added up  (plus a bias, where "
        "the model has one)",
        "份额 = 上下文 WO，  输出 = {n_head} 个头的份额之和  （如果模型有偏置，再加偏置）",
    ),
    "out_f_gated": (
        "share = (context x gate) WO,  output = the {n_head} heads' shares added up  (plus a bias, "
        "where the model has one)",
        "份额 = (上下文 x 门控) WO,  输出 = {n_head} 个头的份额之和  （如果模型有偏置，再加偏置）",
    ),
    "words_1_cross": (
        "The encoder has read {m} words (tokens), and the decoder {n} of what it writes. We "
        'follow "{word}" into the cross-attention of layer {layer}, head {head}.',
        "编码器读入了 {m} 个词元（token），解码器读入了所写的 {n} 个词元。我们跟着“{word}”走进第 "
        "{layer} 层交叉注意力的第 {head} 个头。",
    ),
    "words_2_cross": (
        "x is the decoder's state of the word after this layer's self-attention; the words that "
        "were read come as the encoder hands them on.",
        "x 是解码器在本层自注意力之后给这个词元的状态；原文各词元则用编码器交出的状态。",
    ),
    "matrices_1_cross": (
        "WQ turns x, {d_model} numbers, into q; WK and WV turn the encoder's state y of every "
        "word that was read into k and v: {sizes}.",
        "WQ 把 x 的 {d_model} 个数变成 q；WK 和 WV 把原文每个词元的编码器状态 y 变成 k 和 v："
        "{sizes}。",
    ),
    "matrices_f_cross": (
        "q = x WQ,  k = y WK,  v = y WV   (plus a bias each, where the model has one)",
        "q = x WQ,  k = y WK,  v = y WV   （如果模型有偏置，再各加一个偏置）",
    ),
    "qkv_1_cross": (
        'q, the query: what "{word}" looks for. k, the key: how "{best}" is found. v, the value: '
        "what it hands on.",
        "q 是查询（query）：“{word}”在找什么。k 是键（key）：凭它找到“{best}”。v 是值（value）：它"
        "交出什么。",
    ),
    "qkv_2_cross": (
        'q is of the written word; k and v are shown of "{best}", the word of the other text '
        "that it looks at most.",
        "q 属于所写的词元；k 和 v 取自“{best}”，即它在原文中看得最多的词元。",
    ),
    "scores_1_cross": (
        'The q of "{word}" meets the k of each word that was read. Where they agree, the score '
        "is high.",
        "“{word}”的 q 与原文每个词元的 k 相乘。两者越一致，分数越高。",
    ),
    "sum_1_cross": (
        "The v of every word that was read is added up, each in proportion to its weight.",
        "把原文每个词元的 v 按注意力权重加起来。",
    ),
    "words_picture": ("Patches", "图块"),
    "words_1_picture": (
        "The model cuts the picture into {rows} x {columns} patches, and reads {n} tokens. We "
        'follow "{word}" into layer {layer}, head {head}.',
        "模型把图片切成 {rows} x {columns} 个图块，读入 {n} 个词元（token）。我们跟着“{word}”"
        "走进第 {layer} 层的第 {head} 个头。",
    ),
    "words_both": ("Tokens", "词元"),
    "words_1_both": (
        "The model reads {n} tokens, {cells} of which are patches of the picture. We follow "
        '"{word}" into layer {layer}, head {head}.',
        "模型读入 {n} 个词元（token），其中 {cells} 个是图片的图块。我们跟着“{word}”走进第 {layer} "
        "层的第 {head} 个头。",
    ),
    "words_2_first_both": (
        "In the first layer x comes from the model's table of words or from the tower that has "
        "seen the picture: nothing of the text is in a patch.",
        "在第一层里，x 来自词的嵌入，或来自看过图片的视觉部分；图块里还没有文本的内容。",
    ),
    "words_2_first_picture": (
        "In the first layer x comes from the pixels of the patch and from its position: nothing of "
        "the other patches is in it.",
        "在第一层里，x 来自这个图块的像素和它的位置，里面还没有其他图块的内容。",
    ),
}

#: What {one} and {many} are, in a text, in a picture, and in both together.
NOUNS = {
    "text": {"one": ("word", "词元"), "many": ("words", "词元")},
    "picture": {"one": ("patch", "图块"), "many": ("patches", "图块")},
    "both": {"one": ("token", "词元"), "many": ("tokens", "词元")},
}

#: What the proof says.
PROOF = {
    "proof": (
        "our output and {model}'s own differ by at most {difference:.2g} (numbers up to {size}; "
        "allowed {tolerance:.2g})",
        "我们的输出与 {model} 自己的输出最多相差 {difference:.2g}（数值最大 {size}；允许 "
        "{tolerance:.2g}）",
    ),
    "holds": ("PROOF HOLDS: {facts}.", "证明成立：{facts}。"),
    "failed": (
        "FAILED ITS PROOF: {facts}. Do not trust this picture.",
        "证明失败：{facts}。不要相信这幅图。",
    ),
}
