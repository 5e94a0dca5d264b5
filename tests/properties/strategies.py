"""What the properties are drawn from: masks of any kind, and inputs in float64."""

from __future__ import annotations

from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.conformance.test_fuzz import random_mask
from wqkv import Dense
from wqkv.attend import engines
from wqkv.attend.call import request
from wqkv.attend.masks import Mask

BATCH, HEADS, D_K, D_V = 2, 3, 5, 7
lengths = st.integers(1, 23)
seeds = st.integers(0, 2**32 - 1)
engine_names = st.sampled_from([engines.name(module) for module in engines.PREFERENCE])


class Masks(NamedTuple):
    """Some masks for one call, and the sizes of the call."""

    masks: list[Mask]
    query_len: int
    key_len: int
    query_offset: int

    def dense(self, mask: Mask) -> Tensor:
        seen = mask.dense(self.query_len, self.key_len, self.query_offset)
        return seen.expand(BATCH, HEADS, -1, -1)


@st.composite
def masks(draw: st.DrawFn, count: int = 1, depth: int = 2, longest: int = 23) -> Masks:
    query_len, key_len = draw(st.integers(1, longest)), draw(st.integers(1, longest))
    offset = draw(st.integers(-query_len, key_len))
    sizes = (BATCH, HEADS, query_len, key_len)
    pick = draw(st.randoms(use_true_random=False))
    made = [random_mask(pick, sizes, offset, draw(st.integers(0, depth))) for _ in range(count)]
    return Masks(made, query_len, key_len, offset)


def normal(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Leaves of these shapes."""
    random = torch.Generator().manual_seed(seed)
    return [
        torch.randn(shape, generator=random, dtype=torch.float64).requires_grad_()
        for shape in shapes
    ]


def qkv(seed: int, query_len: int, key_len: int, n_kv_head: int = HEADS) -> list[Tensor]:
    return normal(
        seed,
        (BATCH, HEADS, query_len, D_K),
        (BATCH, n_kv_head, key_len, D_K),
        (BATCH, n_kv_head, key_len, D_V),
    )


def close(a: Tensor, b: Tensor) -> None:
    """Up to the rounding of float64."""
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


def stored(seen: Tensor) -> Mask:
    """As a Dense, which warns of many empty rows: then as what hides them."""
    return Dense(seen) if seen.any(dim=-1).float().mean() >= 0.5 else ~Dense(~seen)


def able(engine: str, *tensors: Tensor, **rules: object) -> str:
    """This engine, or "auto" for a call that it refuses."""
    given = {"bias": None, "scale": None, "softcap": None, "sinks": None, "dropout_p": 0.0}
    call = request(*tensors, **{**given, "query_offset": None, **rules})  # type: ignore[arg-type]
    modules = {engines.name(module): module for module in engines.PREFERENCE}
    return "auto" if modules[engine].reasons_against(call) else engine
