"""The sentences of how often a head looks where it was expected to."""

from __future__ import annotations

RATE = {
    "hits": (
        "{model}, layer {layer}, head {head}: {hits} of {n} sentences ({rate:.2f}), mean weight"
        " on the expected word {weight:.3f}.",
        "{model} 第 {layer} 层第 {head} 个头：{n} 句中符合 {hits} 句（{rate:.2f}），"
        "预期的词平均得到注意力权重 {weight:.3f}。",
    ),
    "without": ("Rules that need no model:", "不需要模型的规则："),
    "first": ("the first candidate", "第一个候选词"),
    "nearest": ("the nearest candidate", "最近的候选词"),
    "before": ("the word {steps} places before", "往前数第 {steps} 个词"),
    "after": ("the word {steps} places after", "往后数第 {steps} 个词"),
    "rule": (
        "  {rule}: {hits} of {n}; the head picks the same in {agrees}",
        "  {rule}：{n} 句中符合 {hits} 句；这个头有 {agrees} 句与它选得一样",
    ),
    "chance": (
        "  a candidate at random: {hits:.1f} of {n}",
        "  随机选一个候选词：{n} 句中符合 {hits:.1f} 句",
    ),
    "chosen": (
        "This head is the best of {heads} on these very sentences. Chosen on one half of them and"
        " tried on the other, such a choice gives {held} of {n}.",
        "这个头是在这些句子上从 {heads} 个头里挑出的最好的一个。用一半句子挑选、用另一半检验，"
        "这样的挑选在 {n} 句中符合 {held} 句。",
    ),
    "known": (
        "How often? In {n} such sentences the expected word has the most weight in {hits}; always"
        " taking {rule} would be right in {right}, and this head takes it in {agrees}"
        " (wqkv rate --data examples/{data} --layer {layer} --head {head}).",
        "多常如此？在 {n} 个这样的句子里，预期的词权重最大的有 {hits} 句；总是选{rule}能对"
        " {right} 句，而这个头有 {agrees} 句选它"
        "（wqkv rate --data examples/{data} --layer {layer} --head {head}）。",
    ),
    "met": ("yes", "是"),
    "missed": ("no", "否"),
}
