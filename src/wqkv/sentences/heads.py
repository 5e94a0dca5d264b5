"""What a head does, in words: the labels, their short forms, and why a head has one."""

from __future__ import annotations

#: The labels; in English a label is its own name.
LABELS = {
    "previous": ("previous", "看前一个词元"),
    "next": ("next", "看后一个词元"),
    "first-token sink": ("first-token sink", "汇点：第一个词元"),
    "separator sink": ("separator sink", "汇点：分隔符"),
    "duplicate-token": ("duplicate-token", "看别处的同一个词元"),
    "induction": ("induction", "归纳头"),
    "subword": ("subword", "同一个词的其余部分"),
    "verb to object": ("verb to object", "动词看宾语"),
    "object to verb": ("object to verb", "宾语看动词"),
    "opening to closing": ("opening to closing", "左括号看右括号"),
    "closing to opening": ("closing to opening", "右括号看左括号"),
    "rare token": ("rare token", "少见的词元"),
    "local": ("local", "看邻近的词元"),
    "delimiter": ("delimiter", "定界符"),
    "uniform": ("uniform", "均匀"),
    "unclassified": ("unclassified", "未归类"),
}

#: The labels where there is little room: at most four letters.
BRIEF = {
    "previous": ("prev", "前词"),
    "next": ("next", "后词"),
    "first-token sink": ("sink", "首词"),
    "separator sink": ("sep", "分隔"),
    "duplicate-token": ("dup", "同词"),
    "induction": ("ind", "归纳"),
    "subword": ("sub", "词内"),
    "verb to object": ("v>o", "动宾"),
    "object to verb": ("o>v", "宾动"),
    "opening to closing": ("(>)", "(>)"),
    "closing to opening": (")>(", ")>("),
    "rare token": ("rare", "少见"),
    "local": ("near", "邻近"),
    "delimiter": ("dlm", "定界"),
    "uniform": ("unif", "均匀"),
    "unclassified": ("-", "-"),
}

#: Why a head has its label; {on} is one of ON.
EVIDENCE = {
    "share": (
        "puts {value} of its weight {on} (mean of {tokens} tokens; equal weights: {flat})",
        "{value} 的注意力权重落在{on}上（{tokens} 个词元的均值；平均分配时为 {flat}）",
    ),
    "apart": (
        "puts {value} of its weight {on} (mean of {tokens} tokens; as far away elsewhere: {flat})",
        "{value} 的注意力权重落在{on}上（{tokens} 个词元的均值；别处同样的距离上为 {flat}）",
    ),
    "even": (
        "reaches {value} of the highest entropy (mean of {tokens} tokens)",
        "熵达到最大值的 {value}（{tokens} 个词元的均值）",
    ),
    "none": (
        "fits no pattern; the nearest is {nearest}: {evidence}",
        "不符合任何一种；最接近的是“{nearest}”：{evidence}",
    ),
    "few": ("has too few tokens to tell", "词元太少，无法判断"),
}

ON = {
    "previous": ("on the previous token", "前一个词元"),
    "next": ("on the next token", "后一个词元"),
    "first-token sink": ("on the first token", "第一个词元"),
    "separator sink": (
        "on separators: punctuation, closing special tokens",
        "分隔符（标点、末尾的特殊词元）",
    ),
    "duplicate-token": ("on other places of the same token", "同一个词元的其他位置"),
    "induction": (
        "on the token that followed the same token before",
        "同一个词元上次出现时的后一个词元",
    ),
    "subword": ("on other tokens of the same word", "同一个词的其他词元"),
    "verb to object": ("on the object of the verb", "动词的宾语"),
    "object to verb": ("on the verb of the object", "宾语的动词"),
    "opening to closing": (
        "on the bracket or quotation mark that closes",
        "与之配对的右括号或右引号",
    ),
    "closing to opening": (
        "on the bracket or quotation mark that opens",
        "与之配对的左括号或左引号",
    ),
    "rare token": ("on the rarest tenth of the text's tokens", "文本中最少见的十分之一词元"),
    "local": ("on tokens at most {near} places away", "相距不超过 {near} 的词元"),
    "delimiter": ("on punctuation and special tokens", "标点和特殊词元"),
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
        "A label needs more than {share:.2f} of the weight and {lift:g} times what equal weights"
        " would put there; uniform needs {even:.2f} of the highest entropy. Patterns of few tokens"
        " (brackets, verbs and objects, subwords) need {some:.2f} and {times:g} times what the head"
        " puts as far away elsewhere, rare tokens {rare:.2f} and {most:g} times equal weights.",
        "标签的条件：落在那里的注意力权重超过 {share:.2f}，并且至少是平均分配时的 {lift:g} 倍；"
        "均匀要求熵达到最大值的 {even:.2f}。只涉及少数词元的标签（括号、动词与宾语、词内）要求"
        " {some:.2f}，并且至少是这个头在别处同样距离上的 {times:g} 倍；少见的词元要求 {rare:.2f}，"
        "并且至少是平均分配时的 {most:g} 倍。",
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
