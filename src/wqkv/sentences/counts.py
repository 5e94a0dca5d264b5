"""How many there are of something: `1 head`, `2 heads`, `2 个头`."""

from __future__ import annotations

from wqkv.sentences import Said

#: What is counted: the English noun, and the Chinese one with what counts it (个, 条).
NOUNS = {
    "layer": ("layer", "层"),
    "head": ("head", "个头"),
    "token": ("token", "个词元"),
    "link": ("link", "条连接"),
    "removed link": ("removed link", "条已去掉的连接"),
    "document": ("document", "个文档"),
    "draw": ("draw", "次抽取"),
}


def count_of(count: int, noun: str) -> Said:
    """Return a number and what is counted.

    >>> print(count_of(1, "head"), count_of(7000, "token"))
    1 head 7,000 tokens
    """
    english, chinese = NOUNS[noun]
    return Said(f"{count:,} {english}{'s' * (count != 1)}", f"{count:,} {chinese}")
