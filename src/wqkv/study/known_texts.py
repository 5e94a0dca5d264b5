"""The texts that a model reads to have its heads labeled, and what is known of any text's tokens.

Which tokens are brackets, pieces of one word or rare follows from the tokenizer. Which noun is the
object of which verb is known of the built-in texts, where it is written down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from wqkv.study.patterns import TokenPair
from wqkv.study.tokens import TokenWindow, cut_text


class KnownText(NamedTuple):
    """A text, and its verbs with their objects: "lit lamp" is the first lamp after lit."""

    name: str
    text: str
    objects: tuple[str, ...]


#: What a model that is not causal reads where no text is given.
KNOWN_TEXTS = (
    KnownText(
        "lighthouse",
        "The keeper of the lighthouse lit the lamp every evening. When the storm came, the keeper "
        "climbed the stairs twice, because the wind had put out the lamp. From the village, people "
        "watched the light and knew that the harbour was safe. In the morning a fisherman brought "
        "him bread, and the keeper told him what the wind had done that night, slowly, as if the "
        "storm were an old friend who talks too much.",
        ("lit lamp", "climbed stairs", "put lamp", "watched light", "brought bread"),
    ),
    KnownText(
        "heart",
        "The heart is a muscular organ (about the size of a fist) that pumps blood through the "
        "body. It has four chambers: two atria, which receive blood, and two ventricles, which "
        "send it out. Oxygenated blood leaves the left ventricle through the aorta (the largest "
        "artery); the veins carry deoxygenated blood back. A healthy adult's heart beats 60 to 100 "
        "times per minute, and a cardiologist measures this rhythm with an electrocardiogram.",
        (
            "pumps blood",
            "has chambers",
            "receive blood",
            "send it",
            "carry blood",
            "measures rhythm",
        ),
    ),
    KnownText(
        "letter",
        '"Did you read the letter?" asked Anna. "I read it twice," said her brother, "and I still '
        "don't understand it.\" He gave her the envelope, and she opened it carefully. Inside "
        'there was a photograph of an old bridge, a key, and a list of names. "Our grandmother '
        'wrote these names," she whispered. Her brother turned the photograph around and found a '
        "date: 12 May 1931.",
        (
            "read letter",
            "understand it",
            "gave envelope",
            "opened it",
            "wrote names",
            "turned photograph",
            "found date",
        ),
    ),
)

#: One text, where one is enough.
TEXT = KNOWN_TEXTS[0].text

#: Marks that open, and what closes each.
BRACKETS = {
    "(": ")", "[": "]", "{": "}", "“": "”", "‘": "’", "«": "»",
    "（": "）", "【": "】", "「": "」", "『": "』", "《": "》",
}  # fmt: skip
#: Quotation marks that open and close alike.
ALIKE = '"'
#: So large a part of a text's tokens is called rare.
RARE = 0.1

NO_RELATIONS: Mapping[str, list[TokenPair]] = MappingProxyType({})


class MarkedWindow(NamedTuple):
    """A piece of a text with what is known of its tokens, as `heads` takes it."""

    ids: list[int]
    special: list[bool]
    separators: list[bool]
    rare: list[bool]
    relations: Mapping[str, list[TokenPair]]


def mark_window(
    tokenizer: Any, window: TokenWindow, relations: Mapping[str, list[TokenPair]] = NO_RELATIONS
) -> MarkedWindow:
    """Find rare tokens, brackets and pieces of one word; `relations` are known already."""
    found = {**relations_of(tokenizer, window.ids), **relations}
    return MarkedWindow(*window, rare_among(*window), found)


def relations_of(tokenizer: Any, ids: Sequence[int]) -> dict[str, list[TokenPair]]:
    """The pairs (query, key) of brackets, and of pieces of one word, among the tokens of a text."""
    texts = [tokenizer.decode([i]) for i in ids]
    brackets = _brackets([text.strip() for text in texts])
    return {
        "opening to closing": brackets,
        "closing to opening": [(j, i) for i, j in brackets],
        "subword": _pieces(tokenizer, ids),
    }


def _brackets(texts: Sequence[str]) -> list[TokenPair]:
    """Where brackets and quotation marks open and close; a mark without its other is left out."""
    pairs: list[TokenPair] = []
    opened: list[tuple[int, str]] = []  # where, and what closes it
    for at, text in enumerate(texts):
        closes = next((k for k in range(len(opened) - 1, -1, -1) if opened[k][1] == text), None)
        if closes is not None:
            pairs.append((opened[closes][0], at))
            del opened[closes:]
        elif text in BRACKETS:
            opened.append((at, BRACKETS[text]))
        elif text == ALIKE:
            opened.append((at, ALIKE))
    return pairs


def _pieces(tokenizer: Any, ids: Sequence[int]) -> list[TokenPair]:
    """All pairs of two different tokens of one written word."""
    special = set(tokenizer.all_special_ids)
    words: list[list[int]] = []
    for at, i in enumerate(ids):
        if i in special:
            words.append([])
        elif words and words[-1] and _continues(tokenizer, ids[at - 1], i):
            words[-1].append(at)
        else:
            words.append([at])
    return [(i, j) for word in words for i in word for j in word if i != j]


def _continues(tokenizer: Any, before: int, i: int) -> bool:
    """Whether a token goes on with the word of the one before it: no blank, no punctuation between.

    Scripts from U+2E80 on (Chinese, Japanese, Korean) are written without blanks.
    """
    both: str = tokenizer.decode([before, i]).strip()
    alone: str = tokenizer.decode([before]).strip()
    rest = both[len(alone) :]
    return (
        both.startswith(alone)
        and alone[-1:].isalnum()
        and rest[:1].isalnum()
        and alone[-1:] < "\u2e80"
        and rest[:1] < "\u2e80"
    )


def rare_among(
    ids: Sequence[int], special: Sequence[bool], separators: Sequence[bool]
) -> list[bool]:
    """The rarest tenth of the ordinary tokens of a text, by their place in the vocabulary.

    The vocabularies of BPE, WordPiece and Unigram are in falling order of how often a token came
    in the tokenizer's own texts, but for a few hundred at their start.
    """
    marks = zip(ids, special, separators, strict=True)
    ordinary = sorted((i for i, mark, parts in marks if not (mark or parts)), reverse=True)
    count = round(RARE * len(ordinary))
    rare = set(ordinary[:count])
    return [i in rare for i in ids]


def objects_of(tokenizer: Any, known: KnownText) -> dict[str, list[TokenPair]]:
    """The pairs (verb, object) of a built-in text, and (object, verb)."""
    text = cut_text(tokenizer, known.text)
    pairs = []
    for pair in known.objects:
        verb, noun = pair.split()
        start = known.text.index(f" {verb} ") + 1
        end = known.text.index(noun, start + len(verb))
        # A word of several pieces looks, and is looked at, by its last one.
        i, j = (_token_ending(text.spans, at) for at in (start + len(verb), end + len(noun)))
        if i is not None and j is not None:
            pairs.append((i, j))
    return {"verb to object": pairs, "object to verb": [(j, i) for i, j in pairs]}


def _token_ending(spans: Sequence[tuple[int, int]], end: int) -> int | None:
    """The token that has the character before `end`."""
    return max((i for i, (a, b) in enumerate(spans) if a < end <= b), default=None)
