"""Where an output comes from, against the product of the layers' matrices."""

import re

import pytest
import torch

from wqkv.errors import ArgumentError
from wqkv.maps.attention_map import AttentionMap
from wqkv.maps.rollout import rollout

B, N = 3, 5


def layer(seed, query_len=N, key_len=N):
    generator = torch.Generator().manual_seed(seed)
    q, k = (
        torch.randn(B, 2, n, 7, generator=generator, dtype=torch.float64)
        for n in (query_len, key_len)
    )
    return AttentionMap(q, k)


def test_by_hand():
    layers = [layer(seed) for seed in range(3)]
    vector = torch.eye(N, dtype=torch.float64)[3]
    for residual in (0.5, 0.2):
        steps = [residual * torch.eye(N) + (1 - residual) * m[:].mean(1) for m in layers]
        product = steps[2] @ steps[1] @ steps[0]
        torch.testing.assert_close(rollout(layers, vector, residual), product[:, 3])
    assert rollout([], vector) is vector


@pytest.mark.parametrize(
    ("layers", "numbers", "says"),
    [
        ([layer(0, 13, 17)], 13, "Map 0 has 13 queries and 17 keys, and 13 numbers"),
        ([layer(0)] * 2, 3, "Map 1 has 5 queries and 5 keys, and 3 numbers"),
    ],
)
def test_other_words(layers, numbers, says):
    with pytest.raises(ArgumentError, match=re.escape(says)):
        rollout(layers, torch.ones(numbers))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"residual": 1.5}, "`residual` is 1.5, the share that passes a layer by."),
        ({"vector": torch.ones(N).long()}, "`vector` is no vector of floats.\n  vector: i64[5]"),
        ({"vector": torch.tensor(1.0)}, "`vector` is no vector of floats.\n  vector: f32[]"),
    ],
)
def test_what_cannot_flow(given, says):
    with pytest.raises(ArgumentError, match=re.escape(says)):
        rollout(**{"maps": [layer(0)], "vector": torch.ones(N)} | given)
