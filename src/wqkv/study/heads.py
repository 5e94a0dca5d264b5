"""What a head does: a label for every head of a model, with its scores and its evidence.

Each score is the share of a head's weight that lies on one pattern, as a mean over words: gathers
of chosen pairs and two fused calls a layer, exact. A head that fits no pattern is "unclassified".
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple, cast

import torch
from torch import Tensor

from wqkv.attend.masks.algebra import Mask
from wqkv.doors import door
from wqkv.errors import ArgumentError, KindError, describe
from wqkv.maps.attention_map import AttentionMap
from wqkv.record.watch import watch
from wqkv.study.model import OpenModel

# The thresholds, in one place.
#: More than half of the weight lies on the pattern: more than on all else together.
SHARE = 0.5
#: It is also twice what equal weights would put there: in a short text half is soon reached.
LIFT = 2.0
#: Entropy over its highest value, the log of the number of visible words. With 0.9, out of 100
#: words as many as 63 (100 ** 0.9) count equally.
EVEN = 0.9
#: A word's neighbourhood: so many words on each side, about a phrase.
NEAR = 3
#: A mean over fewer words than this is no score: with 3 words one stands for a third of it.
FEWEST = 4
#: A word that occurs more often in one window (a comma, "the") is a duplicate wherever one looks,
#: so it does not count for duplicate-token and induction. It also bounds the pairs: 64 a word.
COMMON = 64
#: The longest window, whatever the model takes: the maps of all layers are held at once.
WINDOW = 8192

#: Every pattern, and how its evidence ends. The strongest that passes gives the label.
PATTERNS = {
    "previous": "on the previous word",
    "next": "on the next word",
    "first-token sink": "on the first token",
    "separator sink": "on separators: punctuation, closing special words",
    "duplicate-token": "on other places of the same word",
    "induction": "on the word that followed the same word before",
    "local": f"on words at most {NEAR} places away",
    "uniform": "of the highest entropy",
}
#: Those that others may imply: they give the label where no other does, in this order.
WIDER = ("local", "uniform")
UNCLASSIFIED = "unclassified"
LABELS = (*PATTERNS, UNCLASSIFIED)

#: What a model that is not causal reads where no text is given.
TEXT = (
    "The keeper of the lighthouse lit the lamp every evening. When the storm came, the keeper "
    "climbed the stairs twice, because the wind had put out the lamp. From the village, people "
    "watched the light and knew that the harbour was safe. In the morning a fisherman brought him "
    "bread, and the keeper told him what the wind had done that night, slowly, as if the storm "
    "were an old friend who talks too much."
)


@dataclass(frozen=True)
class Score:
    """The mean of one pattern for one head."""

    value: float  # the share of the weight; for uniform, of the highest entropy
    flat: float  # what equal weights over the visible words would give
    tokens: int  # over how many tokens the mean is taken

    @property
    def facts(self) -> dict[str, str]:
        """Its numbers as they are written in a sentence."""
        flat = f"{self.flat:.2f}" if self.flat >= 0.005 else f"{self.flat:.1g}"
        return {"value": f"{self.value:.2f}", "flat": flat, "tokens": f"{self.tokens:,}"}


@dataclass(frozen=True)
class Head:
    """One head: its label, the score that gave it, a sentence of evidence, and every score.

    `score` is None for an unclassified head; a pattern is None in `scores` where it cannot be seen
    (the next word in a causal model) or where it is over fewer than FEWEST words.
    """

    layer: int
    head: int
    label: str
    score: float | None
    evidence: str
    scores: dict[str, Score | None]

    @property
    def pattern(self) -> str | None:
        """What the evidence is about: the label, or of an unclassified head the nearest."""
        if self.label != UNCLASSIFIED:
            return self.label
        known = {name: score.value for name, score in self.scores.items() if score is not None}
        known.pop("uniform", None)
        return max(known, key=known.__getitem__, default=None)


@door
@dataclass(frozen=True)
class Heads:
    """Every head of a model, by layer: `heads[18][6]`; `source` says what was read.

    >>> maps = [AttentionMap(torch.zeros(1, 2, 7, 8), torch.zeros(1, 2, 7, 8))]
    >>> found = heads(maps, "one two three four five six seven".split())
    >>> found
    Heads of 1 layer x 2 heads over 7 words: 2 uniform
    >>> found[0][1].evidence
    'reaches 1.00 of the highest entropy (mean of 7 words)'
    """

    table: tuple[tuple[Head, ...], ...]
    tokens: int
    source: str = ""

    @door
    def __getitem__(self, layer: int) -> tuple[Head, ...]:
        return self.table[layer]

    @property
    def all(self) -> list[Head]:
        """The heads of all layers, in order."""
        return [head for layer in self.table for head in layer]

    @property
    def size(self) -> str:
        """`6 layers x 12 heads`."""
        layers, n_head = len(self.table), max((len(layer) for layer in self.table), default=0)
        return f"{layers} layer{'s' * (layers != 1)} x {n_head} head{'s' * (n_head != 1)}"

    def labelled(self, label: str) -> list[Head]:
        """The heads with a label, the strongest first."""
        found = [head for head in self.all if head.label == label]
        return sorted(found, key=lambda head: -(head.score or 0))

    def __repr__(self) -> str:
        found = ((len(self.labelled(label)), label) for label in LABELS)
        counts = ", ".join(f"{count} {label}" for count, label in found if count)
        return f"Heads of {self.size} over {self.tokens} words: {counts or 'none'}"


@door
def heads(
    maps: Iterable[AttentionMap],
    tokens: Sequence[Hashable],
    special: Sequence[bool] | None = None,
    separators: Sequence[bool] | None = None,
) -> Heads:
    """Label every head by where its weight lies, each score a mean over the words of one text.

    Scores are taken over words that are not special; the neighbours that count are such words too,
    sinks may be special. A pattern gives its label from SHARE of the weight and LIFT times what
    equal weights would put there (uniform: EVEN of the highest entropy).

    Args:
        maps: one a layer, of one text read whole: (1, n_head, n, n).
        tokens: n, equal where the words are the same: strings or ids.
        special: n, True for [CLS], <s> and their like; None is none.
        separators: n, True where a separator stands; None is the special words after the first,
            and strings without a letter or digit.

    Raises:
        ArgumentError: a map that is not (1, n_head, n, n), marks that are not n.

    Source: previous-token, duplicate-token and induction heads: Elhage et al. 2021 and Olsson et
    al. 2022 (arXiv:2209.11895); sinks: Clark et al. 2019 (arXiv:1906.04341), section 3.2, and Xiao
    et al. 2023 (arXiv:2309.17453).
    """
    return label(count(maps, tokens, special, separators))


Progress = Callable[[int, int], None] | None  # is told how many layers are done, of how many


def probe(model: OpenModel, n: int = 40, seed: int = 0, progress: Progress = None) -> Heads:
    """The heads of a causal model over n random words read twice: the test for induction."""
    if n < FEWEST:
        raise ArgumentError(f"`n` is {n}, how many random words to read.\nPass {FEWEST} or more.")
    special = set(model.tokenizer.all_special_ids)
    count = min(len(model.tokenizer), model.config.vocab_size)
    usable = torch.tensor([i for i in range(count) if i not in special], device="cpu")
    random = torch.Generator().manual_seed(seed)
    ids = usable[torch.randint(len(usable), (n,), generator=random, device="cpu")].tolist() * 2
    none = [False] * len(ids)
    source = f"{n} random words, read twice (seed {seed})"
    return _over(model, [(ids, none, none)], source, progress)


def read(
    model: OpenModel, texts: Sequence[str], source: str = "", progress: Progress = None
) -> Heads:
    """The heads of a model over texts of any length: means over all words of all windows.

    A text longer than the model takes (or than WINDOW) is cut into windows of nearly equal length,
    each read for itself, with the special words that the tokenizer puts around a text.
    """
    parts = [window for text in texts for window in windows(model, text)]
    if len(parts) > len(texts):
        longest = max(len(ids) for ids, _, _ in parts)
        source += f" in {len(parts)} windows of at most {longest}, weighted by their words"
    return _over(model, parts, source, progress)


def maps_of(model: OpenModel, ids: Sequence[int]) -> Sequence[AttentionMap]:
    """The map of every layer for one text given as ids, recorded and proved while the model runs.

    Raises:
        MissedError: a layer could not be recorded, or its proof failed.
    """
    with torch.no_grad(), watch(model.model) as seen:
        model.model(input_ids=torch.tensor([list(ids)], device="cpu"))
    return cast(Sequence[AttentionMap], seen)


# Counting

Pairs = dict[str, tuple[Tensor, Tensor]]  # of each pattern: queries and keys


class Tally(NamedTuple):
    """Sums over words, so that windows add up: of the values, of those of equal weights, of 1."""

    layers: list[Tensor]  # each (3, pattern, n_head), float64
    tokens: int

    def plus(self, other: Tally) -> Tally:
        layers = [a + b for a, b in zip(self.layers, other.layers, strict=True)]
        return Tally(layers, self.tokens + other.tokens)


def count(
    maps: Iterable[AttentionMap],
    tokens: Sequence[Hashable],
    special: Sequence[bool] | None = None,
    separators: Sequence[bool] | None = None,
) -> Tally:
    """The sums that `heads` takes its means of."""
    n = len(tokens)
    special = [False] * n if special is None else special
    if separators is None:
        separators = [
            (mark and i > 0) or (isinstance(token, str) and not any(c.isalnum() for c in token))
            for i, (token, mark) in enumerate(zip(tokens, special, strict=False))
        ]
    for name, marks in (("special", special), ("separators", separators)):
        if len(marks) != n:
            raise ArgumentError(f"`{name}` marks {len(marks)} of {n} tokens.\nPass one mark each.")
    word = ~torch.tensor(list(special), dtype=torch.bool, device="cpu")
    pairs = _pairs(tokens, word.tolist())
    sinks = torch.zeros(n, 2, device="cpu")
    sinks[:1, 0] = 1
    sinks[torch.tensor(list(separators), dtype=torch.bool, device="cpu"), 1] = 1
    asks = {  # a sink does not look at itself
        "first-token sink": word & (torch.arange(n, device="cpu") > 0),
        "separator sink": word & (sinks[:, 1] == 0),
    }
    tally = Tally([], int(word.sum()))
    flats: dict[tuple[Mask, int], tuple[dict[str, Tensor], Tensor]] = {}  # mostly one for all
    for layer, m in enumerate(maps):
        if not isinstance(m, AttentionMap):
            raise KindError(f"`maps` holds AttentionMaps, not {describe(m)}.")
        if m.shape[0] != 1 or m.shape[2:] != (n, n):
            raise ArgumentError(
                f"Map {layer} is {list(m.shape)}, and there are {n} tokens.\n"
                f"Pass maps of one text read whole: [1, n_head, {n}, {n}]."
            )
        rule = m.mask, m.shape[1]
        if rule not in flats:
            equal = m.flat()
            flats[rule] = _rows(equal, pairs, sinks), equal.lse[0].double().cpu()
        flat, most = flats[rule]
        entropy = m.entropy()[0].double().cpu()  # first: lse comes with it
        found = _rows(m, pairs, sinks) | {"uniform": entropy / most}
        sums = []
        for name in PATTERNS:
            other = flat.get(name, torch.zeros_like(most))
            seen = most > math.log(1.5) if name == "uniform" else other > 0.5 / n
            rows = seen & asks.get(name, word)  # uniform: two visible words; else what is asked for
            parts = (found[name], other, torch.ones_like(other))
            sums.append(torch.stack([part.masked_fill(~rows, 0).sum(dim=-1) for part in parts]))
        tally.layers.append(torch.stack(sums, dim=1))
    return tally


def _rows(m: AttentionMap, pairs: Pairs, sinks: Tensor) -> dict[str, Tensor]:
    """The weight that every row puts on each pattern: (n_head, n), float64 on the CPU."""
    mass = m.times(sinks)[0].double().cpu()
    found = {"first-token sink": mass[..., 0], "separator sink": mass[..., 1]}
    for name, (queries, keys) in pairs.items():
        weights = m.at(queries, keys)[0].double().cpu()
        found[name] = weights.new_zeros(m.shape[1:3]).index_add_(1, queries, weights)
    return found


def _pairs(tokens: Sequence[Hashable], word: list[bool]) -> Pairs:
    """The pairs (query, key) of words whose weights make up each pattern."""
    n = len(tokens)
    places: dict[Hashable, list[int]] = defaultdict(list)
    for i, token in enumerate(tokens):
        places[token].append(i)
    again = [at for at in places.values() if 1 < len(at) <= COMMON]
    pairs = {
        "previous": [(i, i - 1) for i in range(n)],
        "next": [(i, i + 1) for i in range(n)],
        "local": [(i, i + step) for i in range(n) for step in range(-NEAR, NEAR + 1)],
        "duplicate-token": [(i, j) for at in again for i in at for j in at if i != j],
        "induction": [(i, j + 1) for at in again for i in at for j in at if j + 1 < i],
    }
    result: Pairs = {}
    for name, found in pairs.items():
        kept = [(i, j) for i, j in found if 0 <= j < n and word[i] and word[j]]
        both = torch.tensor(kept, dtype=torch.long, device="cpu").view(-1, 2)
        result[name] = both[:, 0], both[:, 1]
    return result


# Labels


def label(tally: Tally, source: str = "") -> Heads:
    """The label of every head, from the sums over its words."""
    table = []
    for layer, sums in enumerate(tally.layers):
        row = []
        for head, numbers in enumerate(sums.permute(2, 1, 0).tolist()):
            scores = {
                name: Score(value / rows, flat / rows, round(rows)) if rows >= FEWEST else None
                for name, (value, flat, rows) in zip(PATTERNS, numbers, strict=True)
            }
            row.append(_head(layer, head, scores))
        table.append(tuple(row))
    return Heads(tuple(table), tally.tokens, source)


def _head(layer: int, head: int, scores: dict[str, Score | None]) -> Head:
    known = {name: score for name, score in scores.items() if score is not None}
    ranked = sorted(known, key=lambda one: -known[one].value)
    for name in sorted(ranked, key=lambda one: WIDER.index(one) if one in WIDER else -1):
        if _passes(name, known[name]):
            return Head(layer, head, name, known[name].value, _evidence(name, known[name]), scores)
    none = Head(layer, head, UNCLASSIFIED, None, "has too few words to tell", scores)
    if none.pattern is None:
        return none
    evidence = _evidence(none.pattern, known[none.pattern])
    nearest = f"fits no pattern; the nearest is {none.pattern}: {evidence}"
    return replace(none, evidence=nearest)


def _passes(name: str, score: Score) -> bool:
    """Whether a score is enough for the label."""
    if name == "uniform":
        return score.value >= EVEN
    return score.value > SHARE and score.value >= LIFT * score.flat


def _evidence(name: str, score: Score) -> str:
    says = "puts {value} of its weight {on} (mean of {tokens} words; equal weights: {flat})"
    if name == "uniform":
        says = "reaches {value} {on} (mean of {tokens} words)"
    return says.format(on=PATTERNS[name], **score.facts)


# Reading

Window = tuple[list[int], list[bool], list[bool]]  # ids; which are special; which are separators


def _over(model: OpenModel, parts: Sequence[Window], source: str, progress: Progress) -> Heads:
    """The heads over windows, telling the progress after every layer."""
    done, total = 0, len(parts) * model.sizes["n_layer"]
    tally: Tally | None = None

    def maps(ids: list[int]) -> Iterator[AttentionMap]:
        nonlocal done
        for one in maps_of(model, ids):
            yield one
            done += 1
            if progress is not None:
                progress(done, total)

    for ids, special, separators in parts:
        part = count(maps(ids), ids, special, separators)
        tally = part if tally is None else tally.plus(part)
    if tally is None or not tally.tokens:
        raise ArgumentError(f"{model.name} sees no word in the text.")
    return label(tally, source)


def around(model: OpenModel) -> tuple[list[int], list[int]]:
    """The special words that the tokenizer puts before and after a text."""
    found = model.tokenizer("a", return_special_tokens_mask=True)
    words = [at for at, mark in enumerate(found["special_tokens_mask"]) if not mark]
    return found["input_ids"][: words[0]], found["input_ids"][words[-1] + 1 :]


def windows(model: OpenModel, text: str) -> list[Window]:
    """A text cut so that each window fits the model: into parts of nearly equal length."""
    if not text.strip():
        raise ArgumentError("The text is empty. Give at least one word.")
    tokenizer = model.tokenizer
    before, after = around(model)
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    room = min(model.longest or WINDOW, WINDOW) - len(before) - len(after)
    pieces = max(1, math.ceil(len(ids) / room))
    special = set(tokenizer.all_special_ids)
    texts = {i: tokenizer.decode([i]) for i in {*ids} - special}
    # A piece of a character, which has no text of its own, is no separator.
    blank = {i for i, text in texts.items() if not any(c.isalnum() or c == "\ufffd" for c in text)}
    cut = []
    for a, b in pairwise(len(ids) * piece // pieces for piece in range(pieces + 1)):
        window = [*before, *ids[a:b], *after]
        parts = [at > 0 if i in special else i in blank for at, i in enumerate(window)]
        cut.append((window, [i in special for i in window], parts))
    return cut
