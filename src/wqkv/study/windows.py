"""Texts that are longer than a model takes, in windows that it reads each by itself.

`tokenizer` is always one of transformers' tokenizers.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from wqkv.errors import ArgumentError
from wqkv.sentences.errors import mistake
from wqkv.study.tokens import special_around

#: At most so many times a text is cut, each time into shorter windows, until every one fits.
TRIES = 4


class TextWindow(NamedTuple):
    """Which part of a text is read: `text[start:stop]`, as a text of its own.

    Tokens are counted over the whole text, without the special ones around it.
    """

    number: int  # from 0
    windows: int  # how many the text has
    start: int  # in characters
    stop: int
    first: int  # its first token
    last: int  # and its last one
    tokens: int  # how many the text has


def text_windows(tokenizer: Any, text: str, longest: int) -> list[TextWindow]:
    """Cut a text into windows of nearly equal length, none of more than `longest` tokens.

    `longest` counts the special tokens too that each window gets. A window begins at the blank
    before a word, or behind a mark of Chinese, where one of them is near.

    Raises:
        ArgumentError: the tokenizer does not say where its tokens stand, and the text is too long.
    """
    n = len(tokenizer(text, verbose=False)["input_ids"])
    if n <= longest:
        own = n - sum(map(len, special_around(tokenizer)))
        return [TextWindow(0, 1, 0, len(text), 0, own - 1, own)]
    if not tokenizer.is_fast:
        raise ArgumentError(mistake("no_cut", n=n, longest=longest))
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ends = [end for _, end in found["offset_mapping"]]
    room = longest - sum(map(len, special_around(tokenizer)))
    for smaller in range(TRIES):
        borders = list(_borders(text, ends, max(1, room - smaller * (room // 16))))
        places = [0, *(ends[border - 1] for border in borders[1:-1]), len(text)]
        # By itself, a part may have a token more than in the text: another one where it begins.
        if all(len(ids) <= longest for ids in _read(tokenizer, text, places)):
            break
    pairs = zip(pairwise(places), pairwise(borders), strict=True)
    return [
        TextWindow(number, len(places) - 1, start, stop, first, end - 1, len(ends))
        for number, ((start, stop), (first, end)) in enumerate(pairs)
    ]


def _read(tokenizer: Any, text: str, places: Sequence[int]) -> Iterator[list[int]]:
    """The ids of each part of a text, with the special tokens around it."""
    for start, stop in pairwise(places):
        yield tokenizer(text[start:stop], verbose=False)["input_ids"]


def _borders(text: str, ends: Sequence[int], room: int) -> Iterator[int]:
    """Before which tokens windows of at most `room` tokens begin, and how many tokens there are.

    Args:
        ends: where each token ends, in characters.
    """
    start, n = 0, len(ends)
    yield start
    while start < n:
        # What is left is shared out evenly each time, so that the last window is no stump.
        stop = start + math.ceil((n - start) / math.ceil((n - start) / room))
        near = range(stop, (start + stop) // 2, -1)
        start = stop if stop == n else next(_good(text, ends, near), stop)
        yield start


def _good(text: str, ends: Sequence[int], borders: Sequence[int]) -> Iterator[int]:
    """The borders with a blank or mark at them; without one, those that cut no character."""
    whole = [at for at in borders if ends[at - 1] < ends[at]]
    yield from (at for at in whole if _after_mark(text, ends[at - 1]))
    yield from whole


def _after_mark(text: str, at: int) -> bool:
    """Whether a blank stands at a place in the text, or a mark of Chinese before it."""
    before = text[at - 1]
    mark = unicodedata.category(before)[0] == "P" and unicodedata.east_asian_width(before) in "WF"
    return mark or text[at].isspace() or before.isspace()
