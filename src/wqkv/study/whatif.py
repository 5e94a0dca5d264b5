"""What if: heads switched off, words changed, words added; the model runs again and is compared."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wqkv.doors import door
from wqkv.errors import ArgumentError, describe
from wqkv.study.model import OpenModel, Reading, Step, Tokens, blank, trim
from wqkv.study.view import View
from wqkv.upstream.of_transformers import quiet

#: So many of the likeliest next words are named.
LIKELIEST = 8


class Next(NamedTuple):
    """A word that may come next; two that are no whole character may read alike: \ufffd."""

    token: str
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
    tokens: tuple[str, ...]
    view: View | None


class Said(NamedTuple):
    """One word of a generation: which, at what position, and what else it could have been.

    A word that is drawn, or that the model's `generation_config` favors, need not be in `top`.
    """

    position: int
    token: str
    probability: float
    top: tuple[Next, ...]
    id: int


@dataclass(frozen=True)
class Generated:
    """What a model wrote: a step a word, and the whole text as it reads it."""

    steps: tuple[Said, ...]
    view: View


@door
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
    tokens: Tokens = model.tokens(edited(old, edits)) if edits else old
    if off:
        new = model.run(tokens, off, lambda reading: each(view, len(reading.outputs) - 1))
    else:
        changed = View.read(model, tokens, each)
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
        tokens=new.tokens,
        view=changed,
    )


def edited(tokens: Tokens, edits: Mapping[int, str]) -> str:
    """A text with other words in place of some."""
    text, end = tokens.sentence, len(tokens.sentence)
    for number in sorted(edits, reverse=True):
        if not 0 <= number < len(tokens.tokens):
            raise ArgumentError(
                f"There is no word {number}: the text has {len(tokens.tokens)} words, "
                f"0 to {len(tokens.tokens) - 1}."
            )
        start, stop = tokens.spans[number]
        if start == stop:
            raise ArgumentError(
                f"Word {number}, {tokens.tokens[number]!r}, does not stand in the text.\n"
                "Change one that does."
            )
        text, end = text[:start] + edits[number] + text[min(stop, end) :], start
    return text


@door
def generate(
    view: View,
    count: int,
    step: Step = lambda done, total: None,
    each: Callable[[View, int], None] = lambda view, layer: None,
    seed: int | None = None,
    **options: Any,
) -> Generated:
    """Let the model write on with its own `generate`: at most `count` words.

    The probabilities that are told are the model's own, before any option changes them.

    Args:
        step: is told how many words are written, after every layer; may raise, which ends it.
        each: see `View.read`.
        seed: draws the words at random, the same ones for the same seed; None takes each time the
            likeliest. Both follow the model's `generation_config`.
        options: what else transformers' `generate` takes, such as temperature=0.7, top_k=50 and
            top_p=0.9 (with a seed), cache_implementation="static", or a `logits_processor`.

    Raises:
        ArgumentError: the model has no head for the next word, no room is left, or an option that
            is set here.
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
    speaker: Any = model.speaker
    ids, pen = torch.tensor([reading.ids], device="cpu"), _Pen(model, view.n)
    own = speaker.generation_config.eos_token_id
    ends = {*model.tokenizer.all_special_ids, *(own if isinstance(own, list) else [own])} - {None}
    set_here: dict[str, Any] = {
        "attention_mask": torch.ones_like(ids),
        "do_sample": seed is not None,
        "eos_token_id": sorted(ends) or None,
        "max_new_tokens": min(count, longest - view.n),
        "num_beams": 1,
        "num_return_sequences": 1,
        "pad_token_id": min(ends, default=None),
        "streamer": pen,
    }
    if model.first:  # generate counts from 0
        set_here["position_ids"] = torch.arange(view.n, device="cpu")[None] + model.first
    if twice := sorted(set_here.keys() & options.keys()):
        raise ArgumentError(
            f"`{twice[0]}` is {describe(options[twice[0]])}, which `generate` sets by itself.\n"
            "Leave it out: `count` says how many words are written, `seed` that they are drawn."
        )
    step(0, count)
    with (
        quiet(),
        torch.random.fork_rng(devices=[], enabled=seed is not None),
        model.told(lambda _: step(len(pen.steps), count)),
        pen.listening(),
    ):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        speaker.generate(ids, **set_here, **options)
    whole = [*reading.ids, *pen.ids]
    tokens = continued(model.tokenizer, reading, whole)
    return Generated(tuple(pen.steps), View.read(model, tokens, each))


class _Pen:
    """A streamer of `generate` that keeps each word with what else it could have been."""

    def __init__(self, model: OpenModel, start: int) -> None:
        self.model, self.start = model, start
        self.steps: list[Said] = []
        self.ids: list[int] = []
        self._logits: Tensor | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Keep the logits of the last word that the model has read."""

        def heard(module: nn.Module, args: Any, said: Any) -> None:
            self._logits = said.logits[0, -1].detach().to(torch.float32, copy=True)

        assert self.model.speaker is not None
        hook = self.model.speaker.register_forward_hook(heard)
        try:
            yield
        finally:
            hook.remove()

    def put(self, ids: Tensor) -> None:
        """The next word; or the text before it, which comes first."""
        if self._logits is None:
            return
        id, top = int(ids), _likeliest(self.model, self._logits)
        chance = float(self._logits.softmax(dim=0)[id])
        token = self.model.tokenizer.decode([id])
        self.steps.append(Said(self.start + len(self.ids), token, chance, top, id))
        self.ids.append(id)

    def end(self) -> None:
        """Nothing is left to write."""


def _whole(view: View, what: str) -> OpenModel:
    """The model of a view, if it reads and writes one text."""
    if not isinstance(view.model, OpenModel):
        raise ArgumentError(
            f"{what} is for models of one text, and {view.model.name} reads one and writes another."
            "\nOpen it again with another text, or another target."
        )
    return view.model


def continued(tokenizer: Any, tokens: Tokens, ids: list[int]) -> Tokens:
    """Words that go on with more of them, written as the tokenizer writes them after the last."""
    new, last, decode = ids[len(tokens.ids) :], tokens.ids[-1], tokenizer.decode
    known, begin = set(tokenizer.all_special_ids), len(tokens.sentence)
    special = [id in known for id in new]
    pieces = [  # a model may have more rows than its tokenizer has pieces
        piece or str(id)
        for piece, id in zip(tokenizer.convert_ids_to_tokens(new), new, strict=True)
    ]
    told, text, ends = [last], tokens.sentence, [begin]
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
    return Tokens(
        text,
        (*tokens.tokens, *shown),
        (*tokens.special, *special),
        (*tokens.spans, *spans),
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


def _shared(old: Tokens, new: Tokens) -> Places:
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
