"""Norm, QKNorm and Temperature as values, and Normalize, the module of a norm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wqkv.attend.engines import reference
from wqkv.attend.forms import Form, tagged
from wqkv.attend.geometry import is_whole
from wqkv.doors import door
from wqkv.errors import ArgumentError, KindError, message

KINDS = ("rms", "layer", "l2")
OVER = ("head", "each head", "projection")


@door
@dataclass(frozen=True)
@tagged
class Norm(Form):
    """Scale a vector: "rms" x / sqrt(mean(x^2) + eps), "layer", or "l2" x / max(|x|, eps).

    Args:
        kind: "rms", "layer" (which first subtracts the mean), or "l2".
        over: what is scaled, and the shape of its weight. "head": each head alone, one weight (d,)
            for all; "each head": each head alone, a weight per head (n_head, d); "projection": all
            heads together, (n_head * d,).
        weight, bias: whether learned numbers multiply the result, and are added to it.

    Source: Zhang and Sennrich 2019 (arXiv:1910.07467); Ba et al. 2016 (arXiv:1607.06450).
    """

    kind: Literal["rms", "layer", "l2"] = "rms"
    over: Literal["head", "each head", "projection"] = "head"
    eps: float = 1e-6
    weight: bool = True
    bias: bool = False

    def __post_init__(self) -> None:
        for name, known in (("kind", KINDS), ("over", OVER)):
            if getattr(self, name) not in known:
                raise ArgumentError(
                    f"A norm's `{name}` is {getattr(self, name)!r}.\n"
                    f"Pass one of: {', '.join(map(repr, known))}."
                )
        if not 0 <= self.eps < math.inf:
            raise ArgumentError(f"A norm's `eps` is {self.eps}.\nPass a number from 0.")


@door
@dataclass(frozen=True)
@tagged
class QKNorm(Norm):
    """A norm of q and k, before the position rotates them or after it.

    Source: Henry et al. 2020 (arXiv:2010.04245); Dehghani et al. 2023 (arXiv:2302.05442).
    """

    after_position: bool = False


class Normalize(nn.Module):
    """A norm with its weights; takes (batch, length, n_head, d), or (batch, length, d)."""

    @door
    def __init__(
        self,
        norm: Norm,
        n_head: int,
        d: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.norm, self.n_head = norm, n_head
        shape = {"head": (d,), "each head": (n_head, d), "projection": (n_head * d,)}[norm.over]
        self.register_parameter("weight", None)
        self.register_parameter("bias", None)
        if norm.weight:
            self.weight = nn.Parameter(torch.ones(shape, device=device, dtype=dtype))
        if norm.bias:
            self.bias = nn.Parameter(torch.zeros(shape, device=device, dtype=dtype))

    def forward(self, heads: Tensor) -> Tensor:
        # In float32 (float64 for float64), and rounded once: under autocast the weights are float32
        # and `heads` is half, and a product of the two would be of another dtype than v.
        x = heads.to(reference.exact(heads))
        x = x.flatten(2) if self.norm.over == "projection" else x
        weight, bias = (
            None if part is None else local_shard(part).to(x.dtype)
            for part in (self.weight, self.bias)
        )
        size = x.shape[-1:]
        self._check_heads(heads, weight if bias is None else bias)
        # torch's kernels take a weight of the shape `size`; one per head is multiplied afterwards
        inside = weight if self.norm.over != "each head" else None
        if self.norm.kind == "rms":
            x = F.rms_norm(x, size, inside, self.norm.eps)
        elif self.norm.kind == "layer":
            x = F.layer_norm(x, size, inside, None, self.norm.eps)
        else:
            x, inside = F.normalize(x, dim=-1, eps=self.norm.eps), None
        if weight is not None and inside is None:
            x = x * weight
        if bias is not None:
            x = x + bias
        return x.view_as(heads).to(heads.dtype)

    def _check_heads(self, heads: Tensor, learned: Tensor | None) -> None:
        """Raise if the norm needs heads that are missing here because other ranks have them."""
        n = heads.shape[2] if heads.ndim == 4 else 1
        have = self.n_head
        if self.norm.over == "head":
            return
        if self.norm.over == "each head":
            have = n if learned is None else len(learned)
        if n != have:
            raise ArgumentError(
                message(
                    f"The norm is over {self.norm.over!r} of {have} heads, and there are {n}.",
                    {"heads": heads},
                    "Share the layer with `shard_heads`, or keep its matrices whole.",
                )
            )

    def extra_repr(self) -> str:
        return repr(self.norm)


def local_shard(parameter: Tensor | None) -> Any:  # Any: None for None, a tensor for a tensor
    """This rank's part of a parameter that ranks share (`shard_heads`); any other as it is.

    The gradient of a parameter that every rank has whole is summed over the ranks.
    """
    if parameter is None or not hasattr(parameter, "to_local"):
        return parameter
    from torch.distributed.tensor import Partial

    grads = [Partial() if p.is_replicate() else p for p in parameter.placements]  # type: ignore[attr-defined]
    return parameter.to_local(grad_placements=grads)


@door
@dataclass(frozen=True)
@tagged
class Temperature(Form):
    """Multiply a query by 1 + by * ln(1 + floor((position + shift) / every)).

    Negative positions, before the text, are multiplied by 1, as its beginning is.

    Source: the Llama 4 release, which sharpens the layers without RoPE beyond `every` tokens.
    """

    every: int
    by: float
    shift: int = 0

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ArgumentError(
                f"Temperature's `every` is {self.every}, a number of tokens.\nPass 1 or more."
            )
        if not math.isfinite(self.by):
            raise ArgumentError(f"Temperature's `by` is {self.by}.\nPass a finite number.")

    def at(self, position: Tensor, dtype: torch.dtype) -> Tensor:
        """The factor of each position."""
        if not is_whole(position):
            came = {"position": position}
            raise KindError(message("A position is a whole number.", came, "Pass integers."))
        steps = torch.div(position + self.shift, self.every, rounding_mode="floor").to(dtype)
        return torch.log1p(steps.clamp(min=0)) * self.by + 1
