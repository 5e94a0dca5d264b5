"""The labels of heads, their table, and why a head has its label."""

from __future__ import annotations

#: The name of each label.
LABELS = {
    "previous": ("previous", "看前一个词元"),
    "next": ("next", "看后一个词元"),
    "first-token sink": ("first-token sink", "汇点：第一个词元"),
    "separator sink": ("separator sink", "汇点：分隔符"),
    "duplicate-token": ("duplicate-token", "看别处的同一个词元"),
    "induction": ("induction", "归纳头"),
    "local": ("local", "看邻近的词元"),
    "uniform": ("uniform", "均匀"),
    "unclassified": ("unclassified", "未归类"),
}

#: The name of each label in four columns of a terminal.
BRIEF = {
    "previous": ("prev", "前词"),
    "next": ("next", "后词"),
    "first-token sink": ("sink", "首词"),
    "separator sink": ("sep", "分隔"),
    "duplicate-token": ("dup", "同词"),
    "induction": ("ind", "归纳"),
    "local": ("near", "邻近"),
    "uniform": ("unif", "均匀"),
    "unclassified": ("-", "-"),
}

#: The table of all heads.
TABLE = {
    "size": ("{layers} x {heads}", "{layers} x {heads}"),
    "title": (
        "{model}, {size}, over {tokens:,} tokens",
        "{model}，{size}，{tokens:,} 个词元",
    ),
    "title_of": (
        "{model}, {size}, over {tokens:,} tokens: {source}",
        "{model}，{size}，{tokens:,} 个词元：{source}",
    ),
    "rule": (
        "A label needs more than {share:.2f} of the weight and {lift:g} times what equal weights "
        "would put there; uniform needs {even:.2f} of the highest entropy.",
        "一个标签要求超过 {share:.2f} 的注意力权重落在那里，并且达到平均分配时的 {lift:g} 倍；“均"
        "匀”"
        "要求熵达到最大值的 {even:.2f}。",
    ),
    "counted": (", {heads}", "，{heads}"),
    "strongest": ("strongest: L{layer}H{head} {evidence}", "最强：L{layer}H{head}，{evidence}"),
    "labelled": ("{letter}  {label}: {count}", "{letter}  {label}：{count}"),
    "layer": ("layer", "层"),
    "head": ("head", "头"),
    "rule_of_picture": (
        "{rule} The deeper the color, the higher the score.",
        "{rule}颜色越深，分值越高。",
    ),
}

#: Why a head has its label, in Chinese; the English sentence is made where the head is labeled.
EVIDENCE = {
    "share": "{value} 的注意力权重落在{on}上（{tokens} 个词元的均值；平均分配时为 {flat}）",
    "even": "熵达到最大值的 {value}（{tokens} 个词元的均值）",
    "none": "不符合任何一种；最接近的一种：{nearest}",
    "few": "词元太少，无法判断",
    "previous": "前一个词元",
    "next": "后一个词元",
    "first-token sink": "第一个词元",
    "separator sink": "分隔符（标点、末尾的特殊词元）",
    "duplicate-token": "同一个词元的其他位置",
    "induction": "同一个词元上次出现时的后一个词元",
    "local": "相距不超过 {near} 的词元",
    "uniform": "",
}
