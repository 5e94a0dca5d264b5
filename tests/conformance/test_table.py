"""Every engine on every case: outputs, lse and gradients against the specification in float64.

The measure is the reference in the same dtype; empty buffers are full of NaN; and engines that are
wrong on purpose show that the table can fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conformance.cases import INPUTS, TABLE, Case
from wqkv import Causal, Lengths, MultiheadAttention, Partial, RoPE, T5Bias, Window, attention
from wqkv.attend import engines
from wqkv.attend.call import Call
from wqkv.attend.engines import reference, tiled
from wqkv.attend.masks import Dense
from wqkv.errors import EngineError

#: Units in the last place that an engine may round away beyond what the reference does.
ROUNDING = 16.0


def results(
    engine: str,
    case: Case,
    dtype: torch.dtype,
    *,
    through: tuple[str, ...] = ("out", "lse"),
    **options: Any,
) -> dict[str, Tensor]:
    """out, lse, and the gradient of every leaf through `through`, by name."""
    inputs = case.make(dtype, **options)
    part: Partial = attention(**inputs.arguments, engine=engine, return_lse=True)
    found = {"out": part.out, "lse": part.lse}
    wanted = {name: leaf for name, leaf in inputs.leaves.items() if leaf.requires_grad}
    if not wanted or not torch.is_grad_enabled():
        return found
    ends = [found[end] for end in through]
    random = torch.Generator().manual_seed(7)
    ups = [torch.randn(end.shape, generator=random, dtype=torch.float64) for end in ends]
    # rounded alike for every dtype that they are held in
    ups = [up.to(dtype).to(end.dtype) for up, end in zip(ups, ends, strict=True)]
    gradients = torch.autograd.grad(ends, list(wanted.values()), ups, allow_unused=True)
    for (name, leaf), gradient in zip(wanted.items(), gradients, strict=True):
        zero = torch.zeros_like(leaf) if gradient is None else gradient
        found[f"gradient of {name}"] = zero
    return {name: tensor.detach() for name, tensor in found.items()}


def allowed(exact: Tensor, same: Tensor, dtype: torch.dtype) -> float:
    """What an engine may be off by: 2 |same - exact| + ROUNDING eps max(|exact|, 1).

    `same` is the reference in the engine's dtype. What cancels in a gradient is of the size of the
    inputs, which is 1.
    """
    if exact.numel() == 0:
        return 0.0
    size = max(float(exact.abs().max()), 1.0)
    off = float((same.to(exact.dtype) - exact).abs().max())
    eps = torch.finfo(same.dtype).eps
    if same.dtype != dtype:  # an lse, float32; for half inputs the kernels take a shorter exp
        eps = 2.0**-16
    return 2 * off + ROUNDING * eps * size


def differences(
    ours: dict[str, Tensor], same: dict[str, Tensor], exact: dict[str, Tensor]
) -> list[str]:
    """Where an engine's results are not the reference's, beyond rounding."""
    if ours.keys() != same.keys():
        return [f"answers {list(ours)}, not {list(same)}"]
    wrong, dtype = [], ours["out"].dtype
    for name, got in ours.items():
        like, truth = same[name], exact[name]
        if (got.shape, got.dtype) != (like.shape, like.dtype):
            came, want = (f"{x.dtype}{list(x.shape)}" for x in (got, like))
            wrong.append(f"{name} is {came}, not {want}")
            continue
        if bool(got.isnan().any()):
            wrong.append(f"{name} has {int(got.isnan().sum())} NaN of {got.numel()}")
            continue
        endless = truth.isinf()
        if not torch.equal(got.to(truth.dtype)[endless], truth[endless]):
            wrong.append(f"{name} is not -inf everywhere the reference is")
            continue
        limit = allowed(truth[~endless], like[~endless], dtype)
        off = (got.to(truth.dtype) - truth)[~endless].abs()
        if off.numel() and not float(off.max()) <= limit:
            wrong.append(f"{name} is off by {float(off.max()):.3g}, allowed {limit:.3g}")
    return wrong


@lru_cache(maxsize=64)
def expected(
    case: Case, dtype: torch.dtype, **options: Any
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The reference in this dtype, and in float64 with the same numbers."""
    same = results("reference", case, dtype, **options)
    return same, results("reference", case, dtype, held=torch.float64, **options)


def judged(engine: str, case: Case, dtype: torch.dtype, **options: Any) -> list[str]:
    return differences(results(engine, case, dtype, **options), *expected(case, dtype, **options))
