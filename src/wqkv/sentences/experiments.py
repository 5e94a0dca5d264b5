"""The questions about q, k and v: what is asked, guessed, found and refused, by experiment.

They speak to a learner, who knows words. So a token is called a word here.
"""

from __future__ import annotations

#: What is asked, in the order in which a learner asks it.
QUESTIONS = {
    "no_projection": (
        "Why three matrices? Could a word be its own query and key?",
        "为什么需要三个矩阵？词向量自己当查询和键不行吗？",
    ),
    "same_matrix": ("Why can WQ and WK not be one matrix?", "为什么 Q 和 K 不能用同一个矩阵？"),
    "value_is_key": ("Why is v not the same as k?", "为什么 V 不等于 K？"),
    "unscaled": ("Why are the scores divided by √d_k?", "为什么要除以 √d_k？"),
    "swapped": ("Is attention symmetric?", "注意力是对称的吗？"),
    "big_weight": ("Is a large weight important?", "权重大就重要吗？"),
    "concat_or_sum": ("Are the heads concatenated, or added?", "多个头是拼接，还是相加？"),
    "shuffled_heads": ("Does the order of the heads matter?", "头的顺序重要吗？"),
    "variance": ("Is the variance of q · k equal to d_k?", "q · k 的方差真的等于 d_k 吗？"),
    "no_key_bias": ("What does the bias of WK do?", "WK 的偏置有什么用？"),
    "merged": ("Can WQ and WK be merged into one matrix?", "WQ 和 WK 能合并成一个矩阵吗？"),
    "low_rank": ("What would a smaller d_k do?", "d_k 小一些会怎样？"),
}

#: The change, in the paper's notation.
CHANGES = {
    "no_projection": (
        "q = k = x, scale = 1 / √d_model",
        "q = k = x，缩放为 1 / √d_model",
    ),
    "same_matrix": ("WK := WQ", "WK := WQ"),
    "value_is_key": ("WV := WK", "WV := WK"),
    "unscaled": ("scale = 1", "缩放 = 1"),
    "swapped": ("score(i, j) := score(j, i)", "分数(i, j) := 分数(j, i)"),
    "big_weight": (
        "the head without the key that is heaviest in the row",
        "去掉该行权重最大的键",
    ),
    "concat_or_sum": (
        "concat_h(context_h) WO, and sum_h context_h WO_h",
        "concat_h(context_h) WO 与 sum_h context_h WO_h",
    ),
    "shuffled_heads": (
        "head h takes the place of head h + 1, with its rows of WO and without them",
        "头 h 换到头 h + 1 的位置：WO 的行跟着换，或不跟着换",
    ),
    "variance": ("none: the scores are measured", "不作改动，只测量分数"),
    "no_key_bias": ("k without its bias", "k 不加偏置"),
    "merged": ("scores = x W x^T · scale, W = WQ WK^T", "分数 = x W x^T · 缩放，W = WQ WK^T"),
    "low_rank": (
        "WQ WK^T with its r largest singular values",
        "WQ WK^T 只保留最大的 r 个奇异值",
    ),
}

#: What the answer leaves open.
LIMITS = {
    "no_projection": (
        "The model was trained with WQ and WK; one that is trained without them would have other x."
        " With RoPE x is not rotated.",
        "这个模型是带着 WQ、WK 训练的；不带它们训练的模型，x 会不一样。有 RoPE 时，这里的 x 没有旋"
        "转。",
    ),
    "same_matrix": (
        "The model was trained with two matrices. One that is trained with a single matrix, such as"
        " Reformer, does work.",
        "这个模型是用两个矩阵训练的。从一开始就只用一个矩阵训练的模型（如 Reformer）也能用。",
    ),
    "value_is_key": (
        "The weights stay as they are. Only what the head adds changes, and WO was trained for v.",
        "注意力权重不变，变的只是这个头加上去的内容；而 WO 是配着 v 训练的。",
    ),
    "unscaled": (
        "The model was trained with the scale, and one that is trained without it could learn"
        " smaller matrices.",
        "这个模型是带着缩放训练的；不带缩放训练的模型，可以学出更小的矩阵。",
    ),
    "swapped": (
        "The mask stays as it is. The answer holds for this head, and others are more symmetric.",
        "掩码保持不变。结论只针对这个头，有的头要对称得多。",
    ),
    "big_weight": (
        "This is what changes in one head. What changes in the answer, wqkv.why says.",
        "这只是一个头里的变化。对最终答案的影响要看 wqkv.why。",
    ),
    "concat_or_sum": (
        "Both are one formula. The bias of WO is added once.",
        "两种写法是同一个公式。WO 的偏置只加一次。",
    ),
    "shuffled_heads": (
        "The order is free only before training: each head's rows of WO belong to it.",
        "只有训练之前顺序才是任意的：训练之后，WO 的每一组行都属于某一个头。",
    ),
    "variance": (
        "The argument is about independent numbers of variance 1, so about the start of training."
        " Pairs that the mask hides are counted too.",
        "这个论证假设各个数相互独立、方差为 1，说的是训练开始的时候。被掩码遮住的词对也计算在内。",
    ),
    "no_key_bias": (
        "It adds the same number to all scores of a row, which cancels. With RoPE, a norm of"
        " k, a softcap or a learned sink it does not cancel.",
        "它给一行的所有分数加上同一个数，softmax 会把它消掉。有 RoPE、k 的归一化、softcap 或学到"
        "的汇点时，就消不掉。",
    ),
    "merged": (
        "It holds without RoPE and without a norm of q and k, which stand between WQ and WK.",
        "只有 WQ 和 WK 之间没有 RoPE、也没有 q 和 k 的归一化时才成立。",
    ),
    "low_rank": (
        "A model that is trained with a smaller d_k would use its few dimensions better.",
        "一开始就用较小 d_k 训练的模型，会更好地利用那几个维度。",
    ),
}

#: What a reader may expect, by experiment and guess; about equally long, so that none stands out.
GUESSES = {
    "no_projection.itself": ("“{token}” looks most at itself", "“{token}”看得最多的是自己"),
    "no_projection.one": ("one word takes nearly all", "几乎全给了一个词"),
    "no_projection.even": ("all weights become nearly even", "权重变得几乎一样"),
    "no_projection.finds": ("“{token}” still finds “{other}”", "“{token}”仍找到“{other}”"),
    "same_matrix.itself": ("“{token}” looks most at itself", "“{token}”看得最多的是自己"),
    "same_matrix.one": ("one word takes nearly all", "几乎全给了一个词"),
    "same_matrix.even": ("all weights become nearly even", "权重变得几乎一样"),
    "same_matrix.finds": ("“{token}” still finds “{other}”", "“{token}”仍找到“{other}”"),
    "value_is_key.same": ("it adds the same as before", "加上的内容不变"),
    "value_is_key.length": ("the same, longer or shorter", "内容不变，只变长短"),
    "value_is_key.other": ("it adds something different", "加上的内容变了样"),
    "unscaled.sharper": ("one word takes even more", "一个词拿得更多"),
    "unscaled.flatter": ("the weights even out more", "权重变得更平均"),
    "unscaled.same": ("nothing: softmax undoes it", "没变：softmax 抵消"),
    "swapped.alike": ("the way back weighs about as much", "反方向的权重差不多"),
    "swapped.weaker": ("the way back weighs much less", "反方向的权重小得多"),
    "swapped.stronger": ("the way back weighs much more", "反方向的权重大得多"),
    "big_weight.share": ("it brings about as much as it weighs", "它带来的与权重相当"),
    "big_weight.less": ("it brings clearly less than it weighs", "它带来的比权重更少"),
    "big_weight.more": ("it brings clearly more than it weighs", "它带来的比权重更多"),
    "concat_or_sum.same": ("both give the same vector", "两种写法结果相同"),
    "concat_or_sum.longer": ("the sum is a longer vector", "相加的向量会更长"),
    "concat_or_sum.shorter": ("the sum is a shorter vector", "相加的向量会更短"),
    "shuffled_heads.same": ("nothing: all heads are alike", "没变：各个头都一样"),
    "shuffled_heads.near": ("the output changes a little", "输出只有一点变化"),
    "shuffled_heads.other": ("the output becomes another one", "输出变成另一个向量"),
    "variance.as_said": ("the scores spread about {root}", "分数的散布约为 {root}"),
    "variance.wider": ("the scores spread clearly more", "分数的散布明显更大"),
    "variance.narrower": ("the scores spread clearly less", "分数的散布明显更小"),
    "no_key_bias.same": ("no weight changes at all", "权重一点都不变"),
    "no_key_bias.moved": ("the weights move a little", "权重会变动一点"),
    "no_key_bias.lost": ("“{token}” loses “{key}”", "“{token}”丢掉“{key}”"),
    "merged.same": ("the weights stay the same", "权重完全一样"),
    "merged.near": ("the weights move a little", "权重变动一点"),
    "merged.other": ("the weights become others", "权重变成别的"),
    "low_rank.finds": ("“{key}” keeps most of its weight", "“{key}”保住大半权重"),
    "low_rank.weaker": ("“{key}” leads, but with less", "“{key}”领先但变少"),
    "low_rank.lost": ("“{key}” is no longer the first", "“{key}”不再是第一"),
}

#: What was found, in one sentence with its numbers.
ANSWERS = {
    "no_projection": (
        "Without WQ and WK, “{token}” gives {own1} of its weight to itself (trained: {own0}), and "
        "{link1} to “{key}” (trained: {link0}).",
        "去掉 WQ 和 WK，“{token}”把 {own1} 的权重给了自己（原来 {own0}），给“{key}” {link1}（原来 "
        "{link0}）。",
    ),
    "same_matrix": (
        "With one matrix for both, “{token}” gives {own1} of its weight to itself (trained: {own0}"
        "), and {link1} to “{key}” (trained: {link0}).",
        "两者共用一个矩阵，“{token}”把 {own1} 的权重给了自己（原来 {own0}），给“{key}” {link1}（原"
        "来 {link0}）。",
    ),
    "cross": (
        "The largest weight goes from {large0} to {large1}, and that of “{key}” from {link0} to "
        "{link1}.",
        "最大的权重从 {large0} 变成 {large1}，“{key}”的权重从 {link0} 变成 {link1}。",
    ),
    "value_is_key": (
        "All weights are as before, “{key}” still has {link1}. But what the head adds to “{token}” "
        "has a cosine of {cosine1} with what it added before.",
        "权重全都没变，“{key}”仍是 {link1}；但这个头加到“{token}”上的向量，与原来的余弦是 "
        "{cosine1}。",
    ),
    "unscaled": (
        "The largest weight goes from {large0} to {large1}, and the gradient that gets back through"
        " the softmax from {slope0} to {slope1} (trace of its Jacobian).",
        "最大的权重从 {large0} 变成 {large1}；能穿过 softmax 传回来的梯度从 {slope0} 变成 {slope1}"
        "（雅可比矩阵的迹）。",
    ),
    "swapped": (
        "“{token}” gives “{key}” {back0} of its weight, and “{key}” gives “{token}” {back1}.",
        "“{token}”给“{key}” {back0} 的权重，“{key}”给“{token}” {back1}。",
    ),
    "big_weight": (
        "“{key}” has {link0} of the weight and brings {share0} of what arrives (lengths of "
        "weight × v WO). Without it, what the head adds changes by {change0} of its length.",
        "“{key}”占权重的 {link0}，带来的内容占 {share0}（按 权重 × v WO 的长度）。去掉它，这个头加"
        "上去的向量变化 {change0}（与原长度之比）。",
    ),
    "concat_or_sum": (
        "Concatenate and multiply by WO, or multiply each head by its rows of WO and add: the two "
        "vectors are {off} apart, their largest number is {of}.",
        "先拼接再乘 WO，或每个头各乘 WO 的那几行再相加：两个向量最多相差 {off}，最大的数是 {of}。",
    ),
    "shuffled_heads": (
        "Moved together with its rows of WO, the layer's output is {off} apart, its largest number "
        "is {of}. Moved alone, the output has a cosine of {cosine1} with the trained one.",
        "连同 WO 的行一起换，这一层的输出最多相差 {off}，最大的数是 {of}；只换头，输出与原来的余弦"
        "是 {cosine1}。",
    ),
    "variance": (
        "The scores q · k of this head have a standard deviation of {spread0}; the argument says "
        "√d_k = {root}.",
        "这个头的分数 q · k 标准差是 {spread0}；按那个论证应是 √d_k = {root}。",
    ),
    "no_key_bias": (
        "Without the bias, the weight of “{key}” goes from {link0} to {link1}.",
        "去掉偏置，“{key}”的权重从 {link0} 变成 {link1}。",
    ),
    "merged": (
        "“{key}” has {link1} of the weight (with two matrices: {link0}). But W has {size1} "
        "numbers instead of {size0}, and its rank is only {rank0}.",
        "“{key}”的权重是 {link1}（两个矩阵时 {link0}）。但 W 有 {size1} 个数，原来只要 {size0} 个，"
        "而它的秩只有 {rank0}。",
    ),
    "low_rank": (
        "With {r} of {d_k} dimensions, which hold {kept1} of WQ WK^T (squared norm), the weight of "
        "“{key}” goes from {link0} to {link1}.",
        "只留 {d_k} 维中的 {r} 维（占 WQ WK^T 平方范数的 {kept1}），“{key}”的权重从 {link0} 变成 "
        "{link1}。",
    ),
}

#: Why it came out so, by the guess that was right.
REASONS = {
    "no_projection.itself": (
        "x · x is a squared length, and no x that is not longer fits better. WQ and WK let a word "
        "look for something that it is not, and WV says what is passed on.",
        "x · x 是长度的平方，不更长的 x 不会比它更合适。有了 WQ 和 WK，词才能去找与自己不同的东西；"
        "WV 决定传过去什么。",
    ),
    "same_matrix.itself": (
        "q · q is a squared length, and no vector that is not longer fits better. With two matrices"
        " a word can look for something that it is not.",
        "q · q 是长度的平方，不更长的向量不会比它更合适。有两个矩阵，词才能去找与自己不同的东西。",
    ),
    "value_is_key.other": (
        "k says what a word can be found by, v what it passes on: WV is free to choose something "
        "else.",
        "k 说的是凭什么被找到，v 说的是传出去什么：WV 可以另选内容。",
    ),
    "unscaled.sharper": (
        "√d_k keeps the softmax from giving all to one word, where it hardly learns any more.",
        "除以 √d_k，softmax 就不会把权重全给一个词；那样它几乎学不动。",
    ),
    "swapped.weaker": (
        "To be looked for is not to look: WQ and WK make other vectors of the same word.",
        "被找与去找是两回事：WQ 和 WK 从同一个词做出不同的向量。",
    ),
    "big_weight.less": (
        "A word with much weight and a short v rests there and brings little.",
        "权重大而 v 很短的词只是一个落脚处，带不来多少内容。",
    ),
    "big_weight.more": (
        "Its v WO is longer than that of the others, so that it counts for more than its weight.",
        "它的 v WO 比别的词长，所以作用比权重还大。",
    ),
    "concat_or_sum.same": (
        "A product with stacked rows is the sum of the products. So each head can be looked at "
        "alone.",
        "乘以叠在一起的行，就等于分别相乘再相加。所以可以单独看每一个头。",
    ),
    "shuffled_heads.other": (
        "WO has learned which head stands where.",
        "WO 已经学会了哪个头在哪个位置。",
    ),
    "shuffled_heads.near": (
        "WO has learned which head stands where.",
        "WO 已经学会了哪个头在哪个位置。",
    ),
    "variance.wider": (
        "In training the matrices grow, and q and k are no longer independent.",
        "训练使矩阵变大，q 和 k 也不再相互独立。",
    ),
    "no_key_bias.same": (
        "q · b is the same number for the whole row, and softmax does not see it.",
        "q · b 对整行都是同一个数，softmax 看不见它。",
    ),
    "merged.same": (
        "(x WQ)(x WK)^T = x (WQ WK^T) x^T. Two narrow matrices are the cheaper way to write it.",
        "(x WQ)(x WK)^T = x (WQ WK^T) x^T。写成两个窄矩阵更省。",
    ),
    "low_rank.finds": (
        "For this link a few dimensions are enough.",
        "对这条连线来说，几个维度就够了。",
    ),
}

#: What is said where none of the three guesses is right, and where no guess can be.
OTHERWISE = {
    "none": (
        "None of the three: its largest weight, {most_weight}, goes to “{most}”.",
        "三个都不对：它给“{most}”的权重最大，有 {most_weight}。",
    ),
    "alone": (
        "“{token}” sees no other word here, so that its weight is 1 whatever the scores are. "
        "Choose a later word.",
        "“{token}”在这里看不到别的词，不论分数怎样权重都是 1。请选后面的词。",
    ),
    "own_link": (
        "Here “{token}” looks most at itself, and there is no way back to compare. Choose another "
        "word.",
        "这里“{token}”看得最多的是自己，没有反方向可比。请换一个词。",
    ),
}

#: What the two large numbers of a card are, by the names of the numbers that they are made of.
HEADLINES = {
    "weight on itself": ("weight of “{token}” on itself", "“{token}”对自己的权重"),
    "weight of the strongest link": ("weight of “{key}”", "“{key}”的权重"),
    "largest weight": ("largest weight", "最大的权重"),
    "cosine with the trained output": (
        "cosine with what was added before",
        "与原来所加内容的余弦",
    ),
    "length of the output": ("length of what the heads add", "各头所加内容的长度"),
    "the link back": ("“{token}” → “{key}”, and back", "“{token}” → “{key}”，再反过来"),
    "what it adds": ("its weight → its share of what arrives", "它的权重 → 它带来的份额"),
    "standard deviation of q . k": (
        "√d_k → standard deviation of q · k",
        "√d_k → q · k 的标准差",
    ),
    "size of the matrices": (
        "numbers in the matrices of one head",
        "一个头的矩阵里有多少个数",
    ),
}

#: The numbers of an experiment, by their English names.
NUMBERS = {
    "weight of the strongest link": ("weight of the strongest link", "最强连线的权重"),
    "weight on itself": ("weight on itself", "对自己的权重"),
    "entropy": ("entropy", "熵"),
    "largest weight": ("largest weight", "最大的权重"),
    "trace of the softmax's Jacobian": (
        "trace of the softmax's Jacobian",
        "softmax 雅可比矩阵的迹",
    ),
    "change of the output": ("change of the output", "输出的变化"),
    "cosine with the trained output": ("cosine with the trained output", "与原输出的余弦"),
    "length of the output": ("length of the output", "输出的长度"),
    "the link from the symmetric part of WQ WK^T alone": (
        "the link from the symmetric part of WQ WK^T alone",
        "只用 WQ WK^T 的对称部分时这条连线的权重",
    ),
    "the link back": ("the link back", "反方向的权重"),
    "antisymmetric part of the scores": (
        "antisymmetric part of the scores",
        "分数的反对称部分",
    ),
    "size of the matrices": ("size of the matrices", "矩阵的大小"),
    "rank of WQ WK^T": ("rank of WQ WK^T", "WQ WK^T 的秩"),
    "standard deviation of q . k": ("standard deviation of q . k", "q · k 的标准差"),
    "sqrt(d_k)": ("sqrt(d_k)", "√d_k"),
    "largest number of the output": ("largest number of the output", "输出中最大的数"),
    "largest change of it": ("largest change of it", "输出的最大变化"),
    "what it adds": ("what it adds", "它带来的内容"),
    "kept of WQ WK^T": ("kept of WQ WK^T", "WQ WK^T 保留的部分"),
}

#: Their units, by their English names.
UNITS = {
    "": ("", ""),
    "of 1": ("of 1", "（总和为 1）"),
    "nats": ("nats", "nat"),
    "numbers": ("numbers", "个数"),
    "dimensions": ("dimensions", "维"),
    "of its length": ("of its length", "（与原长度之比）"),
    "of the symmetric": ("of the symmetric", "（与对称部分之比）"),
    "of the scores before the scale": ("of the scores before the scale", "（缩放之前的分数）"),
    "of the lengths of all links": ("of the lengths of all links", "（占所有连线长度之和）"),
    "of its squared norm": ("of its squared norm", "（占平方范数）"),
}

#: The other lines of a report.
REPORT = {
    "where": (
        "Experiment {name} of layer {layer}, head {head}, token {row}: {change}",
        "实验 {name}，第 {layer} 层第 {head} 头，词元 {row}：{change}",
    ),
    "strongest": ("strongest link as trained: {link}", "训练好的头里最强的连线：{link}"),
    "same": (
        "the same to rounding: off by {difference} of {size}",
        "除舍入误差外相同：{size} 中相差 {difference}",
    ),
    "not_same": (
        "NOT the same: off by {difference} of {size}",
        "并不相同：{size} 中相差 {difference}",
    ),
}

#: Why an experiment cannot be made, and what to do, by the reason.
REFUSALS = {
    "between": (
        "WQ and WK of layer {layer} are no single matrix: between them stands {between}.\n"
        "Ask a model without it, such as the packaged default.",
        "第 {layer} 层的 WQ 和 WK 合不成一个矩阵：中间隔着{between}。\n"
        "请换一个没有它的模型，例如自带的默认模型。",
    ),
    "not_plain": (
        "The heads of layer {layer} of {model} do more than their WQ, WK, WV and WO say, or do not"
        " have one of each.\nLook at the layer with its `map` and `trace`.",
        "{model} 第 {layer} 层的头不只由 WQ、WK、WV、WO 决定，或者没有各自的一份。\n"
        "请用这一层的 `map` 和 `trace` 来看。",
    ),
    "no_bias": (
        "WK of layer {layer} has no bias.\nAsk a model whose WK has one.",
        "第 {layer} 层的 WK 没有偏置。\n请换一个 WK 有偏置的模型。",
    ),
    "sizes": (
        "The head's part of {name} is {has}, and what would replace it {given}.\n"
        "Ask a layer where they are alike.",
        "这个头的 {name} 是 {has}，要换上的是 {given}。\n请换一个两者大小相同的层。",
    ),
    "other_text": (
        "The {n} tokens look at the {m} of another text, which do not look back.\n"
        "Ask a part where a text looks at itself.",
        "这 {n} 个词元看向另一段文本的 {m} 个词元，而后者不会看回来。\n"
        "请选文本看向自身的那一部分。",
    ),
    "alone": (
        "Token {row} sees token {key} alone in head {head} of layer {layer}: there is no row "
        "without it.\nAsk a later token.",
        "在第 {layer} 层第 {head} 头里，词元 {row} 只看得到词元 {key}：去掉它就没有这一行了。\n"
        "请选后面的词元。",
    ),
}

#: What may stand between WQ and WK.
BETWEEN = {
    "position": ("RoPE", " RoPE"),
    "norm": ("the norm of q and k", " q 和 k 的归一化"),
    "clip": ("the clipping of q and k", " q 和 k 的截断"),
    "temperature": ("the temperature of q", " q 的温度"),
}
