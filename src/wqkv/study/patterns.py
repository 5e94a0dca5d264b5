"""The patterns that a head may follow: which weights belong to each, and what score is enough.

A pattern is a rule for where a token looks, such as "the token before it". The score of a head is
the share of its weight that lies where the rule says, as a mean over tokens. It is exact: gathers
of chosen pairs (query, key) and two fused calls per layer.

An induction head, for example, puts more than SHARE of its weight on the tokens that followed
earlier occurrences of the same token, and at least LIFT times what equal weights would put there.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from wqkv.attend.masks.algebra import Mask
from wqkv.errors import ArgumentError, KindError, describe
from wqkv.maps.attention_map import AttentionMap

# The thresholds: what a score must reach before it gives the label.
#: A head has a pattern if more than this share of its weight lies on it: more than on all the rest.
SHARE = 0.5
#: The score must also be this many times what equal weights would give, because in a short text
#: equal weights alone put a large share on every pattern.
LIFT = 2.0
#: A head is uniform if its entropy reaches this share of the highest one, the log of the number of
#: visible tokens. Then 63 of 100 tokens (100 ** 0.9) count equally.
EVEN = 0.9
#: A pattern of few tokens gives its label from a smaller share, if it is this many times what the
#: head puts at the same distances elsewhere: a head that always looks at the next token looks at
#: the object of a verb, too.
SOME_SHARE, SOME_LIFT = 0.25, 3.0
#: The same for rare tokens, which have no distance: beside equal weights.
RARE_SHARE, RARE_LIFT = 0.2, 2.5

# What is counted.
#: The local pattern is this many tokens on each side, about a phrase.
NEAR = 3
#: A mean over fewer tokens is no score: with 3, one token alone would be a third of it.
FEWEST = 4
#: A token that occurs more often than this in one window (a comma, "the") does not count for
#: duplicate-token and induction: wherever one looks there is another of it. This also bounds the
#: number of pairs, to 64 per token.
COMMON = 64


class Threshold(NamedTuple):
    """What score is enough for the label of a pattern, and which patterns are asked before it."""

    share: float = SHARE
    lift: float = LIFT
    rank: int = 0  # a label comes from the lowest rank that has one


#: Every pattern. `_pattern_pairs` says which pairs (query, key) belong to it; of sinks
#: `sum_patterns` says it, and of RELATIONS whoever calls.
#: Sources: previous, next, separators, delimiters: Clark et al. 2019 (arXiv:1906.04341), who also
#: found objects that look at their verbs; rare tokens: Voita et al. 2019 (arXiv:1905.09418);
#: subwords: Correia et al. 2019 (arXiv:1909.00015); induction: Olsson et al. 2022.
PATTERNS = {
    "previous": Threshold(),
    "next": Threshold(),
    "first-token sink": Threshold(),
    "separator sink": Threshold(),
    "duplicate-token": Threshold(),
    "induction": Threshold(),
    "subword": Threshold(SOME_SHARE, SOME_LIFT, 1),
    "verb to object": Threshold(SOME_SHARE, SOME_LIFT, 1),
    "object to verb": Threshold(SOME_SHARE, SOME_LIFT, 1),
    "opening to closing": Threshold(SOME_SHARE, SOME_LIFT, 1),
    "closing to opening": Threshold(SOME_SHARE, SOME_LIFT, 1),
    "rare token": Threshold(RARE_SHARE, RARE_LIFT, 1),
    # A head with another pattern often has these too: a "previous" head is local as well.
    "local": Threshold(rank=2),
    "delimiter": Threshold(rank=3),
    "uniform": Threshold(EVEN, 0.0, 4),
}
#: The patterns of few tokens, whose pairs are known to who knows the text.
RELATIONS = tuple(name for name, one in PATTERNS.items() if one.lift == SOME_LIFT)


#: What any text can be asked, whatever is known of it.
SURVEYED = tuple(name for name in PATTERNS if name not in (*RELATIONS, "rare token"))


def passes(pattern: str, score: float, flat: float) -> bool:
    """Whether a score is enough for the label, where `flat` is what it is compared with."""
    needed = PATTERNS[pattern]
    if pattern == "uniform":
        return score >= needed.share
    return score > needed.share and score >= needed.lift * flat


TokenPair = tuple[int, int]  # the positions of (query, key)
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
    rare: Sequence[bool] | None = None,
    relations: Mapping[str, Sequence[TokenPair]] | None = None,
) -> PatternSums:
    """The sums from which `heads` (heads.py) takes means; its arguments are explained there."""
    n = len(tokens)
    special = [False] * n if special is None else special
    if separators is None:
        separators = [
            (mark and i > 0) or (isinstance(token, str) and not any(c.isalnum() for c in token))
            for i, (token, mark) in enumerate(zip(tokens, special, strict=False))
        ]
    rare = [False] * n if rare is None else rare
    marks = {"special": special, "separators": separators, "rare": rare}
    for name, marked in marks.items():
        if len(marked) != n:
            raise ArgumentError(f"`{name}` marks {len(marked)} of {n} tokens.\nPass one mark each.")
    is_special, is_separator, is_rare = (
        torch.tensor(list(marked), dtype=torch.bool, device="cpu") for marked in marks.values()
    )
    ordinary = ~is_special
    pairs = _pattern_pairs(tokens, ordinary.tolist())
    known = _relations(relations or {}, n)
    at_same_distance = {name: _elsewhere(of, ordinary) for name, of in known.items()}
    # Which keys belong to a pattern, whatever the query is.
    keys = {
        "first-token sink": torch.arange(n, device="cpu") == 0,
        "separator sink": is_separator,
        "delimiter": is_special | is_separator,
        "rare token": is_rare,
    }
    # Which queries count: what is looked at has no row of its own.
    counted = {name: ordinary & ~of for name, of in keys.items()}
    for name, (queries, _) in known.items():
        counted[name] = torch.zeros_like(ordinary).index_fill_(0, queries, True)
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
            highest = equal.lse[0].double().cpu()
            flats[rule] = _weight_on_patterns(equal, pairs | known, keys), highest
        flat, highest = flats[rule]
        entropy = m.entropy()[0].double().cpu()  # before the rest, because it makes `lse` too
        found = _weight_on_patterns(m, pairs | known, keys) | {"uniform": entropy / highest}
        compared = flat | {name: _means(m, of) for name, of in at_same_distance.items()}
        of_pattern = []
        for name in PATTERNS:
            none = torch.zeros_like(highest)
            # A row counts only where the mask shows it a key of the pattern (each has at least
            # 1 / n of equal weights), and for uniform where it shows at least two keys.
            possible = (
                highest > math.log(1.5) if name == "uniform" else flat.get(name, none) > 0.5 / n
            )
            rows = possible & counted.get(name, ordinary)
            parts = (found.get(name, none), compared.get(name, none), torch.ones_like(none))
            of_pattern.append(
                torch.stack([part.masked_fill(~rows, 0).sum(dim=-1) for part in parts])
            )
        sums.layers.append(torch.stack(of_pattern, dim=1))
    return sums


def _weight_on_patterns(
    m: AttentionMap, pairs: PatternPairs, keys: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The weight that every row puts on each pattern: (n_head, n), float64 on the CPU."""
    mass = m.times(torch.stack([*keys.values()], dim=1).float())[0].double().cpu()
    found = dict(zip(keys, mass.unbind(dim=-1), strict=True))
    for name, (queries, of) in pairs.items():
        weights = m.at(queries, of)[0].double().cpu()
        found[name] = weights.new_zeros(m.shape[1:3]).index_add_(1, queries, weights)
    return found


def _relations(given: Mapping[str, Sequence[TokenPair]], n: int) -> PatternPairs:
    """The pairs that were given, checked."""
    for name, of in given.items():
        if name not in RELATIONS:
            raise ArgumentError(
                f"`relations` has {name!r}, which is no relation.\nPass some of: "
                f"{', '.join(RELATIONS)}."
            )
        if wrong := next((pair for pair in of if not all(0 <= at < n for at in pair)), None):
            raise ArgumentError(
                f"`relations` has the pair {wrong} in {name!r}, and there are {n} tokens.\n"
                f"Pass positions from 0 to {n - 1}."
            )
    return {name: _as_tensors(of) for name, of in given.items() if of}


def _as_tensors(pairs: Sequence[TokenPair]) -> tuple[Tensor, Tensor]:
    both = torch.tensor(list(pairs), dtype=torch.long, device="cpu").view(-1, 2)
    return both[:, 0], both[:, 1]


class _Elsewhere(NamedTuple):
    """Other pairs of ordinary tokens, as far apart as the pairs of a relation."""

    queries: Tensor
    keys: Tensor
    of: Tensor  # which distance each pair has, by its number
    distances: Tensor  # per pair of the relation, the number of its distance
    rows: Tensor  # per pair of the relation, its query


def _elsewhere(pairs: tuple[Tensor, Tensor], ordinary: Tensor) -> _Elsewhere:
    queries, keys = pairs
    n = len(ordinary)
    distances, number = (keys - queries).unique(return_inverse=True)
    related = {*zip(queries.tolist(), keys.tolist(), strict=True)}
    others = []
    for at, distance in enumerate(distances.tolist()):
        fitting = [
            (i, i + distance, at)
            for i in range(max(0, -distance), min(n, n - distance))
            if ordinary[i] and ordinary[i + distance] and (i, i + distance) not in related
        ]
        others += fitting[:: max(1, len(fitting) // COMMON)]
    found = torch.tensor(others, dtype=torch.long, device="cpu").view(-1, 3)
    return _Elsewhere(found[:, 0], found[:, 1], found[:, 2], number, queries)


def _means(m: AttentionMap, other: _Elsewhere) -> Tensor:
    """What the head puts at the same distances elsewhere, summed per row: (n_head, n)."""
    weights = m.at(other.queries, other.keys)[0].double().cpu()
    count = int(other.distances.max()) + 1
    sums = weights.new_zeros(len(weights), count).index_add_(1, other.of, weights)
    counts = torch.bincount(other.of, minlength=count).clamp(min=1)
    mean = (sums / counts)[:, other.distances]
    return mean.new_zeros(m.shape[1:3]).index_add_(1, other.rows, mean)


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
    return {
        name: _as_tensors([(i, j) for i, j in found if 0 <= j < n and ordinary[i] and ordinary[j]])
        for name, found in pairs.items()
    }
