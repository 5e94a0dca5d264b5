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
from collections.abc import Hashable, Iterable, Sequence
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

# What is counted.
#: The local pattern is this many tokens on each side, about a phrase.
NEAR = 3
#: A mean over fewer tokens is no score: with 3, one token alone would be a third of it.
FEWEST = 4
#: A token that occurs more often than this in one window (a comma, "the") does not count for
#: duplicate-token and induction: wherever one looks there is another of it. This also bounds the
#: number of pairs, to 64 per token.
COMMON = 64

#: Every pattern, and how the sentence of its evidence ends: "puts 0.81 of its weight ...".
#: `_pattern_pairs` says which pairs (query, key) belong to it; of sinks `sum_patterns` says it.
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


def passes(pattern: str, score: float, flat: float) -> bool:
    """Whether a score is enough for the label, where equal weights would give `flat`."""
    if pattern == "uniform":
        return score >= EVEN
    return score > SHARE and score >= LIFT * flat


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
    """The sums from which `heads` (heads.py) takes means; its arguments are explained there."""
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
