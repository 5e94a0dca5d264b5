"""Calls of FlexAttention that nobody compiled."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from tests.written import BATCH, M, N, is_map, missed, qkv, seen_of

pytestmark = [
    pytest.mark.compile,  # it calls the compiler also where it runs as written
    pytest.mark.filterwarnings("ignore:flex_attention called without:UserWarning"),
]

HALF = torch.tensor(0.5)
DISTANCE = torch.arange(M)[None] - torch.arange(N)[:, None]


def scores(q, k):
    return q @ k.mT * q.shape[-1] ** -0.5


@pytest.mark.parametrize("mod", [None, lambda s, b, h, i, j: s, lambda s, b, h, i, j: s * 1.0])
def test_scores_that_no_function_changes(mod):
    q, k, v = qkv()
    seen = seen_of(lambda q, k, v: flex_attention(q, k, v, mod), q, k, v)
    is_map(seen, scores(q, k).softmax(-1))
    assert "computed again" not in seen.report() and "cache" not in seen.report()


@pytest.mark.parametrize(
    ("mod", "truth"),
    [
        (lambda s, b, h, i, j: s + 0.5 * (j - i), lambda s: s + 0.5 * DISTANCE),
        (lambda s, b, h, i, j: s * HALF, lambda s: s * HALF),
        (lambda s, b, h, i, j: torch.where(b == 1, s + j, s), lambda s: torch.cat(
            (s[:1], s[1:] + torch.arange(M)))),
        (lambda s, b, h, i, j: torch.where(h == 2, -s, s), lambda s: torch.cat(
            (s[:, :2], -s[:, 2:]), 1)),
        (lambda s, b, h, i, j: 2 * torch.tanh(s / 2), lambda s: 2 * torch.tanh(s / 2)),
        (lambda s, b, h, i, j: torch.where(j <= i, s, -torch.inf),
         lambda s: s.masked_fill(DISTANCE > 0, -torch.inf)),
    ],
)  # fmt: skip
def test_scores_that_a_function_changes(mod, truth):
    q, k, v = qkv()
    seen = seen_of(lambda q, k, v: flex_attention(q, k, v, mod), q, k, v)
    is_map(seen, truth(scores(q, k)).softmax(-1))
    assert "scores computed again" in seen.report() and seen.layers[0].state == "proved"


def test_grouped_heads():
    q, k, v = qkv(heads=6, kv_heads=3)
    truth = scores(q, k.repeat_interleave(2, 1))
    for mod, change in ((None, 0), (lambda s, b, h, i, j: s + h * j, 1)):
        seen = seen_of(lambda q, k, v, m=mod: flex_attention(q, k, v, m, enable_gqa=True), q, k, v)
        more = torch.arange(6).view(-1, 1, 1) * torch.arange(M) * change
        is_map(seen, (truth + more).softmax(-1))


def test_a_mask():
    q, k, v = qkv(n=N, m=N)
    shown = create_block_mask(lambda b, h, i, j: (i >= j) & (j >= b), BATCH, None, N, N, "cpu")
    hidden = (DISTANCE[:, :N] > 0) | (torch.arange(N) < torch.arange(BATCH).view(-1, 1, 1, 1))
    for mod, change in ((None, 0.0), (lambda s, b, h, i, j: s + 0.5 * (j - i), 0.5)):
        seen = seen_of(lambda q, k, v, m=mod: flex_attention(q, k, v, m, shown), q, k, v)
        s = scores(q, k) + change * DISTANCE[:, :N]
        is_map(seen, s.masked_fill(hidden, -torch.inf).softmax(-1).nan_to_num())


def test_a_function_that_changes_a_row_that_was_not_looked_at():
    """The proof sees it."""

    def way(q, k, v):
        return flex_attention(q, k, v, lambda s, b, h, i, j: torch.where(i == 3, -s, s))

    assert missed(way, *qkv(n=37, m=37)).startswith("its proof failed: ")
