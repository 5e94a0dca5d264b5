"""Attention that a test writes out by itself, and what a watch says of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from wqkv.record.faults import Faults
from wqkv.record.operators.listening import Listening
from wqkv.record.operators.told import Heard
from wqkv.record.watch import Seen, watch

BATCH, HEADS, N, M, D_K, D_V = 2, 3, 5, 7, 11, 13

#: What a block makes of q, k and v.
Way = Callable[[Tensor, Tensor, Tensor], Any]
#: What it makes of q and k: its weights, which meet v in a product.
Weights = Callable[[Tensor, Tensor], Tensor]


class Foreign(nn.Module):
    """A module without weights: one way to compute attention."""

    def __init__(self, way: Way, **attributes: Any) -> None:
        super().__init__()
        self.way = way
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Any:
        return self.way(q, k, v)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def qkv(
    batch: int = BATCH,
    heads: int = HEADS,
    n: int = N,
    m: int = M,
    kv_heads: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v, (batch, head, length, d)."""
    kv_heads = heads if kv_heads is None else kv_heads
    shapes = (batch, heads, n, D_K), (batch, kv_heads, m, D_K), (batch, kv_heads, m, D_V)
    q, k, v = (randn(*shape, seed=seed).to(dtype) for seed, shape in enumerate(shapes))
    return q, k, v


def heard_of(way: Way, *given: Tensor, **attributes: Any) -> list[Heard]:
    """What is heard at the operators of one way."""
    found: list[Heard] = []
    model, faults = Foreign(way, **attributes), Faults()
    mode = Listening(model, found.append, faults)
    mode.begin()
    try:
        model(*(given or qkv()))
    finally:
        mode.end()
    assert not faults
    return found


def seen_of(way: Way, *given: Tensor, **attributes: Any) -> Seen[Any]:
    """Watch a model that attends in one way. Its output must have the same bits as without it."""
    given = given or qkv()
    model = Foreign(way, **attributes)
    plain = model(*(x.clone() for x in given))
    with watch(model) as seen:
        out = model(*(x.clone() for x in given))
    assert not isinstance(out, Tensor) or torch.equal(out.nan_to_num(), plain.nan_to_num())
    return seen


def layer_of(way: Way, *given: Tensor, **attributes: Any) -> Any:
    """The only layer that a watch of one way has."""
    (layer,) = seen_of(way, *given, **attributes).layers
    return layer


def is_map(seen: Seen[Any], truth: Tensor) -> None:
    """Check that the map of the only layer is these weights, (batch, head, query, key)."""
    (layer,) = seen.layers
    assert layer.state in ("proved", "captured"), layer.reason
    torch.testing.assert_close(seen[0][:].double(), truth.double(), rtol=0, atol=1e-5)


def proved(weights: Weights, *given: Tensor) -> str:
    """Check a map that is proved by q, k and the rules; return its line of the report."""
    given = given or qkv()
    seen = seen_of(lambda q, k, v: weights(q, k) @ v, *given)
    is_map(seen, weights(*given[:2]))
    line: str = seen.report().splitlines()[1]
    assert seen.layers[0].state == "proved" and "computed again" not in line, line
    return line


def replayed(weights: Weights, *given: Tensor) -> str:
    """Check a map whose scores are computed again; return its line of the report."""
    given = given or qkv()
    seen = seen_of(lambda q, k, v: weights(q, k) @ v, *given)
    is_map(seen, weights(*given[:2]))
    line: str = seen.report().splitlines()[1]
    assert "scores computed again" in line, line
    return line


def missed(way: Way, *given: Tensor, **attributes: Any) -> str:
    """Check that the only layer is missed; return the reason."""
    layer = layer_of(way, *given, **attributes)
    assert layer.state == "missed"
    reason: str = layer.reason
    return reason
