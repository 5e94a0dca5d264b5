"""Scores of patterns by their definitions, token by token, and what score is enough."""

import math

import pytest
import torch

from tests.unit.study.test_heads import SPECIAL, WORDS, N, made
from wqkv import Causal
from wqkv.maps.attention_map import AttentionMap
from wqkv.study.heads import heads
from wqkv.study.patterns import passes


@pytest.mark.parametrize("marks", [SPECIAL, [False] * N], ids=["special", "none special"])
@pytest.mark.parametrize("causal", [False, True])
def test_scores_token_by_token(causal, marks):
    """Every score by its definition, with plain loops over the matrix."""
    draw = torch.Generator().manual_seed(3)
    q, k = (torch.randn(1, 5, N, 7, generator=draw, dtype=torch.float64) for _ in range(2))
    rules = {"mask": Causal()} if causal else {}
    m = AttentionMap(2 * q, k, **rules)
    P, ordinary = m[0], [i for i in range(N) if not marks[i]]
    seen = [range(i + 1) if causal else range(N) for i in range(N)]
    apart = [i for i in range(N) if i and (marks[i] or WORDS[i] in ",.")]
    same = {i: [j for j in ordinary if WORDS[j] == WORDS[i] and j != i] for i in ordinary}
    keys = {
        "previous": {i: [i - 1] for i in ordinary if i - 1 in ordinary},
        "next": {i: [i + 1] for i in ordinary if i + 1 in ordinary},
        "first-token sink": {i: [0] for i in ordinary if i},
        "separator sink": {i: apart for i in ordinary if i not in apart},
        "duplicate-token": same,
        "induction": {
            i: [j + 1 for j in same[i] if j + 1 < i and j + 1 in ordinary] for i in ordinary
        },
        "local": {i: [j for j in ordinary if abs(i - j) <= 3] for i in ordinary},
    }
    row = heads([m], WORDS, marks)[0]
    for name, of in keys.items():
        of = {i: [j for j in js if j in seen[i]] for i, js in of.items()}
        rows = [i for i, js in of.items() if js]
        for head in row:
            score = head.scores[name]
            if len(rows) < 4:
                assert score is None, name
                continue
            mean = sum(P[head.head, i, of[i]].sum() for i in rows) / len(rows)
            flat = sum(len(of[i]) / len(seen[i]) for i in rows) / len(rows)
            assert score.tokens == len(rows), name
            assert (score.value, score.flat) == pytest.approx((float(mean), flat)), name
    entropy = torch.special.entr(P).sum(-1)
    for head in row:
        rows = [i for i in ordinary if len(seen[i]) > 1]
        ratio = [float(entropy[head.head, i]) / math.log(len(seen[i])) for i in rows]
        assert head.scores["uniform"].value == pytest.approx(sum(ratio) / len(rows))
    assert (row[0].scores["next"] is None) == causal


def test_half_of_the_weight_is_not_enough_in_a_short_text():
    """In 3 visible tokens a third lies on each anyway."""
    words = list("abcdef")
    weights = torch.zeros(2, 6, 6)
    for i in range(6):
        weights[0, i, max(i - 1, 0) : i + 1] = 0.5  # half on the previous token, half on itself
        weights[1, i, : i + 1] = 1 / (i + 1)
    row = heads([made(weights, mask=Causal())], words)[0]
    assert row[0].scores["previous"].value == pytest.approx(0.5)
    assert row[0].label == "unclassified"  # local has weight 1, and equal weights put 0.9 there
    assert row[0].scores["local"].flat == pytest.approx((1 + 1 + 1 + 1 + 4 / 5 + 4 / 6) / 6)
    assert row[1].label == "uniform"


def test_a_token_that_is_everywhere_is_no_duplicate():
    for count, rows in ((64, 64), (65, None)):
        words = ["the"] * count + [f"w{i}" for i in range(7)]
        n = len(words)
        row = heads([made(torch.full((1, n, n), 1 / n))], words)[0]
        score = row[0].scores["duplicate-token"]
        assert (score.tokens if score else None) == rows


@pytest.mark.parametrize(
    ("pattern", "score", "flat", "enough"),
    [
        ("previous", 0.5, 0.1, False),  # no more than on all the rest
        ("previous", 0.51, 0.1, True),
        ("previous", 0.51, 0.26, False),  # less than twice what equal weights give
        ("uniform", 0.9, 1.0, True),
        ("uniform", 0.89, 1.0, False),
    ],
)
def test_what_score_is_enough(pattern, score, flat, enough):
    assert passes(pattern, score, flat) == enough
