"""How two models differ in where they look."""

from __future__ import annotations

#: What was compared.
HOW = {
    "models": (
        "Two models, each with hidden states of its own.",
        "两个模型，各有自己的隐藏状态。",
    ),
    "keys": ("{model}, keys of {bits} bits", "{model}，{bits} 位的键"),
    "quantized": (
        "The keys of one layer at a time are rounded to {bits} bits, with a scale for each token "
        "and head: q and the layers before are those of A, so that the error of a layer is not "
        "carried to the next.",
        "每次只把一层的键舍入到 {bits} 位，每个词元和头各有一个缩放系数：q 和前面各层都是 A 的，"
        "所以一层的误差不会传到下一层。",
    ),
    "quantized_groups": (
        "The keys of one layer at a time are rounded to {bits} bits, with a scale for every "
        "{group} channels of each token and head: q and the layers before are those of A, so that "
        "the error of a layer is not carried to the next.",
        "每次只把一层的键舍入到 {bits} 位，每个词元和头的每 {group} 维有一个缩放系数："
        "q 和前面各层都是 A 的，所以一层的误差不会传到下一层。",
    ),
    "inside": ("{model} in {switch}()", "在 {switch}() 中的 {model}"),
    "switch": (
        "One model, A without the context and B in it.",
        "同一个模型，A 不在上下文管理器中，B 在其中。",
    ),
}

#: The tables and the picture.
DIFF = {
    "a": ("A: {model}", "A：{model}"),
    "b": ("B: {model}", "B：{model}"),
    "size": (
        "KL(A || B) in nats, {layers} layers x {n_head} heads, {tokens:,} tokens",
        "KL(A || B)，单位 nat，{layers} 层 x {n_head} 个头，{tokens:,} 个词元",
    ),
    "rounding": ("rounding", "舍入误差"),
    "infinite": ("infinite", "无穷大"),
    "below": (
        "{count} of {total} heads are below rounding in every row, which is 1e-5 (1 + the largest "
        "|lse| of the head): at most {limit:.1e} here.",
        "{total} 个头中有 {count} 个的每一行都低于舍入误差，即 1e-5 (1 + 该头最大的 |lse|)："
        "这里最大为 {limit:.1e}。",
    ),
    "heads": (
        "Heads by mean KL, with the row of the largest and the key that moved most",
        "按平均 KL 排列的头，以及 KL 最大的一行和变化最大的键",
    ),
    "rows": (
        "Tokens by mean KL over all heads, with the head of the largest",
        "按所有头的平均 KL 排列的词元，以及 KL 最大的头",
    ),
    "head": ("head", "头"),
    "mean_kl": ("mean KL", "平均 KL"),
    "token": ("token", "词元"),
    "largest": ("largest", "最大"),
    "key": ("key", "键"),
    "moved": ("A -> B", "A -> B"),
    "map": ("{name}, layer {layer}, head {head}", "{name}，第 {layer} 层第 {head} 头"),
    "from": ("from this token", "从这个词元"),
    "to": ("to this token", "到这个词元"),
    "scale": (
        "weight (the color follows its square root)",
        "注意力权重（颜色取其平方根）",
    ),
    "blocks": (
        "{below} Each point of a map is the weight that a token of a block of about {tokens} "
        "gives, in the mean, to all tokens of another such block together.",
        "{below}图中每个点是约 {tokens} 个词元一块之中，平均每个词元给另一块全部词元的权重之和。",
    ),
    "largest_at": ("largest: {kl} at {token}", "最大：{kl}，在 {token}"),
    "each_row": ("KL of each row, mean {kl}", "每一行的 KL，均值 {kl}"),
    "comparing": ("comparing with {model}", "正在与 {model} 比较"),
}
