"""What if: heads switched off, words changed, words added; the model runs again and is compared."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wqkv.errors import ArgumentError
from wqkv.look.models import OpenModel, Reading, Step, Words, blank, trim
from wqkv.look.view import View

#: So many of the likeliest next words are named.
LIKELIEST = 8


class Next(NamedTuple):
    """A word that may come next; two that are no whole character may read alike: \ufffd."""

    word: str
    probability: float
    id: int


@dataclass(frozen=True)
class Change:
    """A text before and after a change.

    `before` and `after` are the likeliest next words of a model that says them; of another model
    `similarity` is the cosine of the two texts' vectors, which are means over all words. `change`
    is |after - before| / |before| of what the last layer hands on, `layers` the same of every
    layer's attention output, over the words that both texts share. `view` is the changed text where
    no head is off.
    """

    before: tuple[Next, ...] | None
    after: tuple[Next, ...] | None
    similarity: float | None
    change: float
    layers: tuple[float, ...]
    words: tuple[str, ...]
    view: View | None


class Said(NamedTuple):
    """One word of a generation: which, at what position, and what else it could have been."""

    position: int
    word: str
    probability: float
    top: tuple[Next, ...]


@dataclass(frozen=True)
class Generated:
    """What a model wrote: a step a word, and the whole text as it reads it."""

    steps: tuple[Said, ...]
    view: View


def what_if(
    view: View,
    off: Collection[tuple[int, int]] = (),
    edits: Mapping[int, str] | None = None,
    each: Callable[[View, int], None] = lambda view, layer: None,
) -> Change:
    """Run the model again with heads switched off and words changed.

    Args:
        off: (layer, head); the context of these heads is 0 before WO.
        edits: what stands in place of some words, by their number.
        each: see `View.read`.

    Raises:
        ArgumentError: a word that does not stand in the text, or no change at all.
    """
    model, old, changed = _whole(view, "What if"), view.reading, None
    for layer, head in off:
        view.checked(layer, head)
    if not (off or edits):
        raise ArgumentError("Nothing is changed.\nName a head to switch off, or a word to change.")
    words: Words = model.words(edited(old, edits)) if edits else old
    if off:
        new = model.run(words, off, lambda reading: each(view, len(reading.outputs) - 1))
    else:
        changed = View.read(model, words, each)
        new = changed.reading
    assert old.final is not None and new.final is not None
    shared = _shared(old, new)
    kept = _kept(old, new, shared)
    speaks = old.logits is not None and new.logits is not None
    a, b = old.final[0].mean(dim=0), new.final[0].mean(dim=0)
    return Change(
        before=None if old.logits is None else _likeliest(model, old.logits),
        after=None if new.logits is None else _likeliest(model, new.logits),
        similarity=None if speaks else float(torch.cosine_similarity(a, b, dim=0)),
        change=_relative(old.final, new.final, shared),
        layers=tuple(_relative(a, b, kept) for a, b in zip(old.outputs, new.outputs, strict=True)),
        words=new.words,
        view=changed,
    )


def edited(words: Words, edits: Mapping[int, str]) -> str:
    """A text with other words in place of some."""
    text, end = words.sentence, len(words.sentence)
    for number in sorted(edits, reverse=True):
        if not 0 <= number < len(words.words):
            raise ArgumentError(
                f"There is no word {number}: the text has {len(words.words)} words, "
                f"0 to {len(words.words) - 1}."
            )
        start, stop = words.spans[number]
        if start == stop:
            raise ArgumentError(
                f"Word {number}, {words.words[number]!r}, does not stand in the text.\n"
                "Change one that does."
            )
        text, end = text[:start] + edits[number] + text[min(stop, end) :], start
    return text


def generate(
    view: View,
    count: int,
    step: Step = lambda done, total: None,
    each: Callable[[View, int], None] = lambda view, layer: None,
) -> Generated:
    """Let the model write on: at most `count` words, each the likeliest.

    Args:
        step: is told how many words are written, after every layer; may raise, which ends it.
        each: see `View.read`.

    Raises:
        ArgumentError: the model has no head for the next word, or no room is left.
    """
    model, reading = _whole(view, "Writing on"), view.reading
    if model.speaker is None:
        raise ArgumentError(
            f"{model.name} says no next word.\nOpen a causal language model, such as a Llama."
        )
    longest = model.longest or view.n + count
    if count < 1 or view.n >= longest:
        raise ArgumentError(
            f"There is no room for {count} more words: the text has {view.n}, "
            f"and {model.name} takes {longest}."
        )
    steps: list[Said] = []
    ids = list(reading.ids)
    given, past = torch.tensor([ids]), None
    ends = set(model.tokenizer.all_special_ids)
    step(0, count)
    with torch.no_grad(), model.told(lambda _: step(len(steps), count)):
        while len(steps) < count and len(ids) < longest:
            said: Any = model.called(given, past_key_values=past, use_cache=True)
            logits = said.logits[0, -1]
            id, top = int(logits.argmax()), _likeliest(model, logits)
            steps.append(Said(len(ids), top[0].word, top[0].probability, top))
            ids.append(id)
            given, past = torch.tensor([[id]]), said.past_key_values
            if id in ends:
                break
    return Generated(tuple(steps), View.read(model, continued(model.tokenizer, reading, ids), each))


def _whole(view: View, what: str) -> OpenModel:
    """The model of a view, if it reads and writes one text."""
    if not isinstance(view.model, OpenModel):
        raise ArgumentError(
            f"{what} is for models of one text, and {view.model.name} reads one and writes another."
            "\nOpen it again with another text, or another target."
        )
    return view.model


def continued(tokenizer: Any, words: Words, ids: list[int]) -> Words:
    """Words that go on with more of them, written as the tokenizer writes them after the last."""
    new, last, decode = ids[len(words.ids) :], words.ids[-1], tokenizer.decode
    known, begin = set(tokenizer.all_special_ids), len(words.sentence)
    special = [id in known for id in new]
    pieces = [  # a model may have more rows than its tokenizer has pieces
        piece or str(id)
        for piece, id in zip(tokenizer.convert_ids_to_tokens(new), new, strict=True)
    ]
    told, text, ends = [last], words.sentence, [begin]
    for id, mark in zip(new, special, strict=True):
        if not mark:
            told.append(id)
            text = text[:begin] + decode(told)[len(decode([last])) :]
        # the first pieces of a character are written \ufffd, until its last one comes
        ends.append(max(ends[-1], len(text.rstrip("\ufffd"))))
    ends[-1] = len(text)
    spans = []
    for at, (piece, mark) in enumerate(zip(pieces, special, strict=True)):
        start, stop = ends[at], next((end for end in ends[at + 1 :] if end > ends[at]), ends[at])
        spans.append((0, 0) if mark or blank(piece) else trim(text, start, stop))
    shown = [text[a:b] or piece for (a, b), piece in zip(spans, pieces, strict=True)]
    return Words(
        text,
        (*words.words, *shown),
        (*words.special, *special),
        (*words.spans, *spans),
        tuple(ids),
    )


def _likeliest(model: OpenModel, logits: Tensor) -> tuple[Next, ...]:
    found = logits.float().softmax(dim=0).topk(min(LIKELIEST, len(logits)))
    pairs = zip(found.indices.tolist(), found.values.tolist(), strict=True)
    return tuple(Next(model.tokenizer.decode([id]), chance, id) for id, chance in pairs)


Places = tuple[list[int], list[int]]  # of the same words in two texts


def _relative(before: Tensor, after: Tensor, at: Places) -> float:
    """|after - before| / |before| of some rows; NaN where there are none."""
    a, b = before[0, at[0]], after[0, at[1]]
    return float((b - a).norm() / a.norm())


def _shared(old: Words, new: Words) -> Places:
    """Where the words stand that both texts begin and end with."""
    n, m = len(old.ids), len(new.ids)
    first = _alike(old.ids, new.ids)
    last = min(_alike(old.ids[::-1], new.ids[::-1]), min(n, m) - first)
    return [*range(first), *range(n - last, n)], [*range(first), *range(m - last, m)]


def _alike(a: Sequence[int], b: Sequence[int]) -> int:
    """How many items two sequences begin with alike."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((at for at, (x, y) in pairs if x != y), min(len(a), len(b)))


def _kept(old: Reading, new: Reading, shared: Places) -> Places:
    """Where the shared words stand among those whose outputs were kept in both."""
    before, after = ({row: at for at, row in enumerate(r.rows.tolist())} for r in (old, new))
    both = [
        (before[i], after[j]) for i, j in zip(*shared, strict=True) if i in before and j in after
    ]
    return [i for i, _ in both], [j for _, j in both]
