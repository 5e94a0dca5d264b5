"""What a head does: a label for every head of a model, with its scores and its evidence.

A pattern is a rule for where a token looks, such as "the token before it". The score of a pattern
is the share of a head's weight that lies where the rule says, as a mean over tokens. It is exact:
gathers of chosen pairs (query, key) and two fused calls per layer. A head that passes the
thresholds of no pattern is "unclassified".

An induction head, for example, puts more than SHARE of its weight on the tokens that followed
earlier occurrences of the same token, and at least LIFT times what equal weights would put there.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypedDict, cast

import torch
from torch import Tensor

from wqkv.attend.masks.algebra import Mask
from wqkv.doors import door
from wqkv.errors import ArgumentError, KindError, describe
from wqkv.maps.attention_map import AttentionMap
from wqkv.record.watch import watch
from wqkv.study.answers import STATISTICS, HeadGrid
from wqkv.study.callbacks import Progress, silent
from wqkv.study.model import OpenModel
from wqkv.study.tokens import TokenWindow, windows
from wqkv.study.view import View

# The thresholds: what a score must reach before it gives the label.
#: A head has a pattern if more than this share of its weight lies on it: more than on all the rest.
SHARE = 0.5
#: The score must also be this many times what equal weights would give, because in a short text
#: equal weights alone put a large share on every pattern.
LIFT = 2.0
#: A head is uniform if its entropy reaches this share of the highest one, the log of the number of
#: visible tokens. Then 63 of 100 tokens (100 ** 0.9) count equally.
EVEN = 0.9

# What is counted.
#: The local pattern is this many tokens on each side, about a phrase.
NEAR = 3
#: A mean over fewer tokens is no score: with 3, one token alone would be a third of it.
FEWEST = 4
#: A token that occurs more often than this in one window (a comma, "the") does not count for
#: duplicate-token and induction: wherever one looks there is another of it. This also bounds the
#: number of pairs, to 64 per token.
COMMON = 64

#: Every pattern, and the words that end its evidence: "puts 0.81 of its weight ...". Which pairs
#: (query, key) belong to it is said in `_pattern_pairs`, and for sinks in `sum_patterns`.
PATTERNS = {
    "previous": "on the previous token",
    "next": "on the next token",
    "first-token sink": "on the first token",
    "separator sink": "on separators: punctuation, closing special tokens",
    "duplicate-token": "on other places of the same token",
    "induction": "on the token that followed the same token before",
    "local": f"on tokens at most {NEAR} places away",
    "uniform": "of the highest entropy",
}
#: A head with another pattern often has these too (a "previous" head is local as well), so they
#: give the label only where no other pattern does, in this order.
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


class ScoreFacts(TypedDict):
    """The numbers of a score as they are written in a sentence."""

    value: str
    flat: str
    tokens: str


@dataclass(frozen=True)
class Score:
    """The mean of one pattern for one head."""

    value: float  # the share of the weight; for uniform, of the highest entropy
    flat: float  # what equal weights over the visible tokens would give
    tokens: int  # over how many tokens the mean is taken

    @property
    def facts(self) -> ScoreFacts:
        """Its numbers as they are written in a sentence."""
        flat = f"{self.flat:.2f}" if self.flat >= 0.005 else f"{self.flat:.1g}"
        return {"value": f"{self.value:.2f}", "flat": flat, "tokens": f"{self.tokens:,}"}


@dataclass(frozen=True)
class Head:
    """One head: its label, the score that gave it, a sentence of evidence, and every score.

    `score` is None for an unclassified head; a pattern is None in `scores` where it cannot be seen
    (the next token in a causal model) or where it is a mean over fewer than FEWEST tokens.
    """

    layer: int
    head: int
    label: str
    score: float | None
    evidence: str
    scores: dict[str, Score | None]

    @property
    def pattern(self) -> str | None:
        """The pattern of the evidence: the label, or for an unclassified head the highest score."""
        if self.label != UNCLASSIFIED:
            return self.label
        known = {name: score.value for name, score in self.scores.items() if score is not None}
        known.pop("uniform", None)  # a share of the entropy, which no share of weight compares with
        return max(known, key=known.__getitem__, default=None)


@door
@dataclass(frozen=True)
class Heads:
    """Every head of a model, by layer: `heads[18][6]` is head 6 of layer 18.

    `tokens` is over how many tokens the scores are taken, `source` says what was read.

    >>> maps = [AttentionMap(torch.zeros(1, 2, 7, 8), torch.zeros(1, 2, 7, 8))]
    >>> found = heads(maps, "one two three four five six seven".split())
    >>> found
    Heads of 1 layer x 2 heads over 7 tokens: 2 uniform
    >>> found[0][1].evidence
    'reaches 1.00 of the highest entropy (mean of 7 tokens)'
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
        return f"Heads of {self.size} over {self.tokens} tokens: {counts or 'none'}"


@door
def heads(
    maps: Iterable[AttentionMap],
    tokens: Sequence[Hashable],
    special: Sequence[bool] | None = None,
    separators: Sequence[bool] | None = None,
) -> Heads:
    """Label every head by where its weight lies, each score a mean over the tokens of one text.

    Special tokens have no score of their own, and looking at one counts for the sinks alone. A
    pattern gives its label if it has more than SHARE of the weight, and at least LIFT times what
    equal weights would put there (uniform: EVEN of the highest entropy).

    Args:
        maps: one per layer, of one text read whole: (1, n_head, n, n).
        tokens: n strings or ids; equal ones are the same token.
        special: n, True for [CLS], <s> and their like; None is none.
        separators: n, True where a separator stands; None is special tokens after the first, and
            strings without a letter or digit.

    Raises:
        ArgumentError: a map that is not (1, n_head, n, n), marks that are not n.

    Source: previous-token, duplicate-token and induction heads: Elhage et al. 2021 and Olsson et
    al. 2022 (arXiv:2209.11895); sinks: Clark et al. 2019 (arXiv:1906.04341), section 3.2, and Xiao
    et al. 2023 (arXiv:2309.17453).
    """
    return label_sums(sum_patterns(maps, tokens, special, separators))


# A model that reads something for it


def probe(model: OpenModel, n: int = 40, seed: int = 0, progress: Progress = silent) -> Heads:
    """The heads of a causal model over n random tokens read twice: the test for induction.

    In the second half only the first half can tell what comes next, because it is random.
    `progress` counts layers.
    """
    if n < FEWEST:
        raise ArgumentError(f"`n` is {n}, how many random tokens to read.\nPass {FEWEST} or more.")
    special = set(model.tokenizer.all_special_ids)
    count = min(len(model.tokenizer), model.config.vocab_size)  # each may have more than the other
    usable = torch.tensor([i for i in range(count) if i not in special], device="cpu")
    random = torch.Generator().manual_seed(seed)
    ids = usable[torch.randint(len(usable), (n,), generator=random, device="cpu")].tolist() * 2
    none = [False] * len(ids)
    source = f"{n} random tokens, read twice (seed {seed})"
    return _label_windows(model, [TokenWindow(ids, none, none)], source, progress)


def read(
    model: OpenModel, texts: Sequence[str], source: str = "", progress: Progress = silent
) -> Heads:
    """The heads of a model over texts of any length: means over all tokens of all windows.

    A text longer than the model takes (or than LONGEST_WINDOW) is cut into windows of nearly equal
    length, each read for itself, with the special tokens that the tokenizer puts around a text.
    `progress` counts layers.
    """
    cut = [window for text in texts for window in windows(model.tokenizer, text, model.longest)]
    if len(cut) > len(texts):
        longest = max(len(window.ids) for window in cut)
        source += f" in {len(cut)} windows of at most {longest}, weighted by their tokens"
    return _label_windows(model, cut, source, progress)


def label_model(model: OpenModel, progress: Progress = silent) -> Heads:
    """The heads of a model where no text is given: a causal one is probed, another reads TEXT."""
    if model.layer(0).mask.by_position:
        return probe(model, progress=progress)
    return read(model, [TEXT], "a built-in text", progress)


def label_heads(view: View, progress: Progress = silent) -> Heads:
    """The heads of the model of a view: `label_model` if it reads one text.

    Of a model of two texts it is what the heads of this part do in the text of the view, because
    no text of random tokens would make such a model write the same again.
    """
    if isinstance(view.model, OpenModel):
        return label_model(view.model, progress)
    view.check_statistic("label")  # "cross" has no labels: its patterns are within one text
    maps = (view.layer(i).whole for i in range(view.model.sizes.n_layer))
    return heads(maps, view.reading.tokens, view.reading.special)


def label_grid(found: Heads) -> HeadGrid:
    """What every head does, as the grid of the statistic "label"."""
    values = [[math.nan if h.score is None else h.score for h in layer] for layer in found.table]
    return HeadGrid(
        "label", STATISTICS["label"], 0.0, 1.0, torch.tensor(values, device="cpu"),
        labels=tuple(tuple(head.label for head in layer) for layer in found.table),
        evidence=tuple(tuple(head.evidence for head in layer) for layer in found.table),
    )  # fmt: skip


def _label_windows(
    model: OpenModel, windows: Sequence[TokenWindow], source: str, progress: Progress
) -> Heads:
    """The heads over windows; `progress` counts the layers of all windows."""
    done, total = 0, len(windows) * model.sizes.n_layer
    sums: PatternSums | None = None

    def maps(ids: list[int]) -> Iterator[AttentionMap]:
        nonlocal done
        for one in record_maps(model, ids):
            yield one
            done += 1
            progress(done, total)

    for ids, special, separators in windows:
        more = sum_patterns(maps(ids), ids, special, separators)
        sums = more if sums is None else sums.plus(more)
    if sums is None or not sums.tokens:
        raise ArgumentError(f"{model.name} sees no token in the text.")
    return label_sums(sums, source)


def record_maps(model: OpenModel, ids: Sequence[int]) -> Sequence[AttentionMap]:
    """The map of every layer for one text given as ids, recorded and proved while the model runs.

    Raises:
        MissedError: a layer could not be recorded, or its proof failed.
    """
    with torch.no_grad(), watch(model.model) as seen:
        model.model(input_ids=torch.tensor([list(ids)], device="cpu"))
    return cast(Sequence[AttentionMap], seen)


# Counting

PatternPairs = dict[str, tuple[Tensor, Tensor]]  # by pattern: the queries and keys of its pairs


class PatternSums(NamedTuple):
    """Sums over tokens, from which the means are made, so that those of several windows add up.

    Per layer, pattern and head there are three: the sum of the head's values, of the values that
    equal weights would have, and of 1 (the number of tokens).
    """

    layers: list[Tensor]  # per layer (3, pattern, n_head), float64
    tokens: int

    def plus(self, other: PatternSums) -> PatternSums:
        layers = [a + b for a, b in zip(self.layers, other.layers, strict=True)]
        return PatternSums(layers, self.tokens + other.tokens)


def sum_patterns(
    maps: Iterable[AttentionMap],
    tokens: Sequence[Hashable],
    special: Sequence[bool] | None = None,
    separators: Sequence[bool] | None = None,
) -> PatternSums:
    """The sums that `heads` makes its means of; see there."""
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
    ordinary = ~torch.tensor(list(special), dtype=torch.bool, device="cpu")
    pairs = _pattern_pairs(tokens, ordinary.tolist())
    sinks = torch.zeros(n, 2, device="cpu")  # which keys are: the first token, a separator
    sinks[:1, 0] = 1
    sinks[torch.tensor(list(separators), dtype=torch.bool, device="cpu"), 1] = 1
    counted = {  # a sink's own row does not count
        "first-token sink": ordinary & (torch.arange(n, device="cpu") > 0),
        "separator sink": ordinary & (sinks[:, 1] == 0),
    }
    sums = PatternSums([], int(ordinary.sum()))
    # What equal weights give, and the highest entropies: most models have one mask for all layers.
    flats: dict[tuple[Mask, int], tuple[dict[str, Tensor], Tensor]] = {}
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
            # With all scores 0, lse is the log of how many keys are visible: the highest entropy.
            flats[rule] = _weight_on_patterns(equal, pairs, sinks), equal.lse[0].double().cpu()
        flat, highest = flats[rule]
        entropy = m.entropy()[0].double().cpu()  # before the rest, because it makes `lse` too
        found = _weight_on_patterns(m, pairs, sinks) | {"uniform": entropy / highest}
        of_pattern = []
        for name in PATTERNS:
            equal_share = flat.get(name, torch.zeros_like(highest))
            # A row counts only where the mask shows it a key of the pattern (each has at least
            # 1 / n of equal weights), and for uniform where it shows at least two keys.
            possible = highest > math.log(1.5) if name == "uniform" else equal_share > 0.5 / n
            rows = possible & counted.get(name, ordinary)
            parts = (found[name], equal_share, torch.ones_like(equal_share))
            of_pattern.append(
                torch.stack([part.masked_fill(~rows, 0).sum(dim=-1) for part in parts])
            )
        sums.layers.append(torch.stack(of_pattern, dim=1))
    return sums


def _weight_on_patterns(m: AttentionMap, pairs: PatternPairs, sinks: Tensor) -> dict[str, Tensor]:
    """The weight that every row puts on each pattern: (n_head, n), float64 on the CPU."""
    mass = m.times(sinks)[0].double().cpu()
    found = {"first-token sink": mass[..., 0], "separator sink": mass[..., 1]}
    for name, (queries, keys) in pairs.items():
        weights = m.at(queries, keys)[0].double().cpu()
        found[name] = weights.new_zeros(m.shape[1:3]).index_add_(1, queries, weights)
    return found


def _pattern_pairs(tokens: Sequence[Hashable], ordinary: list[bool]) -> PatternPairs:
    """The pairs (query, key) whose weights make up each pattern, between ordinary tokens alone."""
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
        # Token i looks at the token behind an earlier occurrence j of itself.
        "induction": [(i, j + 1) for at in again for i in at for j in at if j + 1 < i],
    }
    result: PatternPairs = {}
    for name, found in pairs.items():
        kept = [(i, j) for i, j in found if 0 <= j < n and ordinary[i] and ordinary[j]]
        both = torch.tensor(kept, dtype=torch.long, device="cpu").view(-1, 2)
        result[name] = both[:, 0], both[:, 1]
    return result


# Labels


def label_sums(sums: PatternSums, source: str = "") -> Heads:
    """The label of every head, from the sums over its tokens."""
    table = []
    for layer, of_layer in enumerate(sums.layers):
        row = []
        for head, numbers in enumerate(of_layer.permute(2, 1, 0).tolist()):
            scores = {
                name: Score(value / rows, flat / rows, round(rows)) if rows >= FEWEST else None
                for name, (value, flat, rows) in zip(PATTERNS, numbers, strict=True)
            }
            row.append(_label_head(layer, head, scores))
        table.append(tuple(row))
    return Heads(tuple(table), sums.tokens, source)


def _label_head(layer: int, head: int, scores: dict[str, Score | None]) -> Head:
    """The strongest pattern that passes gives the label; those of WIDER come after all others."""
    known = {name: score for name, score in scores.items() if score is not None}
    ranked = sorted(known, key=lambda one: -known[one].value)
    for name in sorted(ranked, key=lambda one: WIDER.index(one) if one in WIDER else -1):
        if _passes(name, known[name]):
            return Head(layer, head, name, known[name].value, _evidence(name, known[name]), scores)
    none = Head(layer, head, UNCLASSIFIED, None, "has too few tokens to tell", scores)
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
    says = "puts {value} of its weight {on} (mean of {tokens} tokens; equal weights: {flat})"
    if name == "uniform":
        says = "reaches {value} {on} (mean of {tokens} tokens)"
    return says.format(on=PATTERNS[name], **score.facts)
