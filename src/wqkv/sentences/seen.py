"""What stands around the seven steps in the terminal, on the page and in the image of `see`."""

from __future__ import annotations

SEEN = {
    "where": (
        "{model}, layer {layer} of 0 to {last_layer}, head {head} of 0 to {last_head}",
        "{model}，第 {layer} 层（0 至 {last_layer}），第 {head} 个注意力头（0 至 {last_head}）",
    ),
    "where_shared": (
        " (the {n_head} heads share {n_kv_head} of k and v)",
        "（{n_head} 个头共用 {n_kv_head} 组 k 和 v）",
    ),
    # Vectors
    "spread": ("{n} numbers, {low} to {high}", "{n} 个数，{low} 至 {high}"),
    "bars": (
        "above the middle: positive, below: negative; height: size",
        "中线以上为正，以下为负；高度表示大小",
    ),
    "mean_of": (
        "each bar is the mean of {per} neighboring numbers",
        "每根柱是相邻 {per} 个数的均值",
    ),
    "output": ("output of {n_head} heads", "{n_head} 个头的输出"),
    # Tables of tokens
    "at": ("at", "位置"),
    "word": ("word", "词元"),
    "score": ("score", "分数"),
    "weight": ("weight", "权重"),
    "hidden": ("hidden", "遮住"),
    "some_words": (
        "words {first} to {last} of 0 to {end}",
        "0 至 {end} 号词元中的第 {first} 至 {last} 号",
    ),
    "best_words": ("the {count} best of {n} words", "{n} 个词元中分数最高的 {count} 个"),
    "one_more": ("and 1 more word has {share}", "另外 1 个词元占 {share}"),
    "more": ("and {count} more words share {share}", "另外 {count} 个词元共占 {share}"),
    "hidden_words": ("hidden, no score: {words}", "遮住，没有分数：{words}"),
    "more_hidden": (" and {count} more", " 等，另有 {count} 个"),
    # The map
    "map": ("The whole head", "整个注意力头"),
    "map_says": (
        "The weight from each word (row) to each word (column). Point at a cell, or use the arrow "
        "keys.",
        "每个词元（行）对每个词元（列）的注意力权重。把鼠标移到格子上，或使用方向键。",
    ),
    "map_label": ("map of weights", "注意力权重图"),
    "empty_cell": (
        "An empty cell is exactly 0: hidden, or too small for a float.",
        "空白格恰好是 0：被遮住，或小到浮点数无法表示。",
    ),
    "from_word": ("from this word", "从这个词元"),
    "to_word": ("to this word", "看向这个词元"),
    "one_in": (" (1 in {step} is named)", "（每 {step} 个标出 1 个）"),
    "weight_scale": (
        "attention weight (color follows its square root)",
        "注意力权重（颜色按平方根变化）",
    ),
    # The matrices
    "given_rows": (
        "rows: the {shown} of {rows} with the largest |{given}|, the largest first",
        "行：|{given}| 最大的 {shown} 行（共 {rows} 行），从大到小",
    ),
    "all_rows": (
        "rows: all {rows}, those with the largest |{given}| first",
        "行：全部 {rows} 行，按 |{given}| 从大到小",
    ),
    "block": (
        "each cell: of {rows} x {columns} numbers the one of the largest size",
        "每格：{rows} x {columns} 个数中绝对值最大的那个",
    ),
    "blocks": (
        "blue: positive, orange: negative, gray: 0; full color from a size of {ends}",
        "蓝色为正，橙色为负，灰色为 0；绝对值达到以下数值时颜色最深：{ends}",
    ),
    "faint": (
        "blue: positive, orange: negative, faint: near 0; full color from a size of {ends}",
        "蓝色为正，橙色为负，越淡越接近 0；绝对值达到以下数值时颜色最深：{ends}",
    ),
    "signs": (
        "# and + are positive, = and - negative, . is near 0; # and = from half of these sizes, "
        "+ and - from an eighth: {ends}",
        "# 和 + 为正，= 和 - 为负，. 接近 0；# 和 = 从以下数值的一半起，+ 和 - 从八分之一起："
        "{ends}",
    ),
    "end": ("{end:g} ({names})", "{end:g}（{names}）"),
    "and": (", ", "、"),
    "lit": (
        "Column {column} of {matrix} is marked: {given} times this column{bias} gives {made}.",
        "标出的是 {matrix} 的第 {column} 列：{given} 乘以这一列{bias}，就得到 {made}。",
    ),
    "with_bias": (" and its bias added", "再加偏置"),
    "other_terms": ("the other {count} terms", "其余 {count} 项"),
    "bias": ("bias", "偏置"),
    "then": (" {made} then goes through {between}.", "之后 {made} 还要经过{between}。"),
    "q": ("q, the query", "q 查询"),
    "k": ("k, the key", "k 键"),
    "v": ("v, the value", "v 值"),
    "share": ("share", "share"),
    "picture_of": ("{name}, {rows} x {columns} numbers", "{name}，{rows} x {columns} 个数"),
    "no_matrices": (
        "The heads of this model do not have one WQ, WK, WV and WO each, so there is no picture of "
        "them.",
        "这个模型的注意力头不是各有一个 WQ、WK、WV 和 WO，所以没有它们的图。",
    ),
    # The page
    "title": ("wqkv: what WQ, WK, WV and WO do", "wqkv：WQ、WK、WV 和 WO 做什么"),
    "asks": (
        "What do {WQ}, {WK}, {WV} and {WO} do?",
        "{WQ}、{WK}、{WV} 和 {WO} 做什么？",
    ),
    "about": (
        "One head of a trained model, one word, seven steps. Every number is real.",
        "一个训练好的模型里的一个注意力头、一个词元、七个步骤。每个数都是真实的。",
    ),
}

#: What an image lacks.
SAID = {
    "no_font": (
        "no font here has {characters}: the image has their codes instead; install a font that has "
        "them ({fonts})",
        "这里没有字体含有 {characters}：图中写的是它们的编码；请安装含有它们的字体（{fonts}）",
    ),
    "no_letters": (
        "no font here has Chinese characters: the image speaks English; install {fonts}",
        "这里没有中文字体：图中文字改用英文；请安装 {fonts}",
    ),
}
