"""Where tokens are made: a text as a tokenizer cuts it, as a person reads it and as ids.

`tokenizer` is always one of transformers' tokenizers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from wqkv.errors import ArgumentError

#: The longest window, in tokens, whatever the model takes: `watch` holds the maps of all layers of
#: a window at once.
LONGEST_WINDOW = 8192


@dataclass(frozen=True)
class TokenizedText:
    """A text as a tokenizer cut it."""

    sentence: str
    tokens: tuple[str, ...]  # as a person reads them
    special: tuple[bool, ...]  # True for [CLS], <s> and their like
    spans: tuple[tuple[int, int], ...]  # where each token stands in the sentence; (0, 0) if unknown
    ids: tuple[int, ...]  # as the model reads them

    @classmethod
    def of_ids(cls, ids: Sequence[int]) -> TokenizedText:
        """Tokens of which only the ids are known, and which are shown as these numbers."""
        tokens = tuple(map(str, ids))
        return cls(
            " ".join(tokens), tokens, (False,) * len(tokens), ((0, 0),) * len(tokens), (*ids,)
        )


def tokenize(
    tokenizer: Any, sentence: str, name: str, longest: int | None, side: str = "text"
) -> TokenizedText:
    """Cut a text into tokens for the model `name`, which takes at most `longest` of them.

    Args:
        side: "text" for a text that the model reads, "text_target" for one that it writes.

    Raises:
        ArgumentError: an empty text, one that is too long, or one without a token of its own.
    """
    if not sentence.strip():
        raise ArgumentError("The sentence is empty. Give at least one word.")
    encoded = tokenizer(**{side: sentence}, return_offsets_mapping=tokenizer.is_fast, verbose=False)
    ids: list[int] = encoded["input_ids"]
    check_length(len(ids), name, longest)
    known = set(tokenizer.all_special_ids)
    special = tuple(i in known for i in ids)
    if all(special):
        raise ArgumentError(f"{name} sees no token in the sentence {sentence!r}.")
    pieces = tokenizer.convert_ids_to_tokens(ids)
    found = encoded.get("offset_mapping") or [(0, 0)] * len(ids)
    spans = tuple(
        (0, 0) if is_blank(piece) else trim_span(sentence, *span)
        for piece, span in zip(pieces, found, strict=True)
    )
    tokens = tuple(
        piece if mark or a == b else sentence[a:b]
        for piece, mark, (a, b) in zip(pieces, special, spans, strict=True)
    )
    return TokenizedText(sentence, tokens, special, spans, tuple(ids))


def check_length(n: int, name: str, longest: int | None) -> None:
    """Raise if n tokens are more than the model `name` takes."""
    if longest is not None and n > longest:
        raise ArgumentError(
            f"The sentence has {n} tokens, and {name} takes {longest}.\nGive a shorter text."
        )


def is_blank(piece: str) -> bool:
    """Whether a piece is only ▁, the blank before a word, and so stands for nothing in the text.

    Where the tokenizer put the blank in by itself, its offsets are those of the next character.
    """
    return not piece.strip("\u2581")


def trim_span(sentence: str, start: int, end: int) -> tuple[int, int]:
    """A span without the blanks around it: some tokenizers include the blank before a word."""
    part = sentence[start:end]
    if not part.strip():
        return start, end
    return start + len(part) - len(part.lstrip()), max(start, start + len(part.rstrip()))


def extend(tokenizer: Any, text: TokenizedText, ids: list[int]) -> TokenizedText:
    """The text that goes on: `ids` begins with the ids of `text`, and has those of new tokens.

    The new tokens are written as the tokenizer writes them behind the last token of `text`.
    """
    new, last, decode = ids[len(text.ids) :], text.ids[-1], tokenizer.decode
    known, begin = set(tokenizer.all_special_ids), len(text.sentence)
    special = [id in known for id in new]
    pieces = [  # a model may have more rows than its tokenizer has pieces
        piece or str(id)
        for piece, id in zip(tokenizer.convert_ids_to_tokens(new), new, strict=True)
    ]
    # A token is written by itself in another way than behind others, for example without the blank
    # before it. So all new tokens are decoded together, behind `last`, one more each time.
    decoded, sentence, ends = [last], text.sentence, [begin]
    for id, mark in zip(new, special, strict=True):
        if not mark:
            decoded.append(id)
            sentence = sentence[:begin] + decode(decoded)[len(decode([last])) :]
        # The first pieces of a character are decoded as \ufffd until its last piece comes.
        ends.append(max(ends[-1], len(sentence.rstrip("\ufffd"))))
    ends[-1] = len(sentence)
    spans = []
    for at, (piece, mark) in enumerate(zip(pieces, special, strict=True)):
        # All pieces of one character get the span of the whole character.
        start, stop = ends[at], next((end for end in ends[at + 1 :] if end > ends[at]), ends[at])
        spans.append((0, 0) if mark or is_blank(piece) else trim_span(sentence, start, stop))
    shown = [sentence[a:b] or piece for (a, b), piece in zip(spans, pieces, strict=True)]
    return TokenizedText(
        sentence,
        (*text.tokens, *shown),
        (*text.special, *special),
        (*text.spans, *spans),
        tuple(ids),
    )


# Texts longer than the model


class TokenWindow(NamedTuple):
    """A piece of a text that fits the model, with the special tokens that it puts around a text."""

    ids: list[int]
    special: list[bool]
    separators: list[bool]  # True for punctuation and for special tokens after the first


def special_around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The ids of the special tokens that the tokenizer puts before and after a text."""
    found = tokenizer("a", return_special_tokens_mask=True)
    inner = [at for at, mark in enumerate(found["special_tokens_mask"]) if not mark]
    return found["input_ids"][: inner[0]], found["input_ids"][inner[-1] + 1 :]


def windows(tokenizer: Any, text: str, longest: int | None) -> list[TokenWindow]:
    """A text cut into windows of nearly equal length, none of more than `longest` tokens."""
    if not text.strip():
        raise ArgumentError("The text is empty. Give at least one word.")
    before, after = special_around(tokenizer)
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    room = min(longest or LONGEST_WINDOW, LONGEST_WINDOW) - len(before) - len(after)
    count = max(1, math.ceil(len(ids) / room))
    special = set(tokenizer.all_special_ids)
    texts = {i: tokenizer.decode([i]) for i in {*ids} - special}
    # A piece of a character has no text of its own (it decodes as \ufffd) and is no separator.
    punctuation = {
        i for i, text in texts.items() if not any(c.isalnum() or c == "\ufffd" for c in text)
    }
    cut = []
    for start, stop in pairwise(len(ids) * number // count for number in range(count + 1)):
        window = [*before, *ids[start:stop], *after]
        separators = [
            at > 0 if id in special else id in punctuation for at, id in enumerate(window)
        ]
        cut.append(TokenWindow(window, [id in special for id in window], separators))
    return cut
