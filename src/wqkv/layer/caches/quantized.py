"""Quantized: keys and values in 8 or 4 bits a number."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from wqkv.doors import door
from wqkv.errors import ArgumentError, describe, message
from wqkv.layer.caches.base import KeyPiece, check_count, refuse_gradients
from wqkv.layer.caches.buffered import Dynamic

_PARTS = ("codes", "low", "step")


@door
class Quantized(Dynamic):
    """x ~ low + code * step, code one of 2^bits levels, per position, head and group of channels.

    low is the least number of a group and step = (greatest - least) / (2^bits - 1), both float32
    (float64 for float64). So every number comes back within half a step, and its dtype's rounding.
    What a query sees is rounded, the newest keys too, so the result does not depend on the steps.

    Memory: bits / 8 + 8 / group bytes a number, in buffers that grow as those of Dynamic. Reading
    makes floats of all that is kept, once a call. A group with an inf or NaN comes back as NaN.
    Gradients: none; an append that would need one is an error.

    Args:
        bits: 8, or 4 (two numbers to a byte).
        group: how many neighbouring channels share low and step; None is a whole head.

    >>> cache = Quantized(bits=4, group=8)
    >>> k = v = torch.randn(2, 3, 5, 16)
    >>> cache.append(k, v)[0].k.shape
    torch.Size([2, 3, 5, 16])
    """

    _arguments = ("bits", "group")
    _counts = ("_length", "_made")
    _names = tuple(f"{name} {part}" for name in ("k", "v") for part in _PARTS)

    def __init__(self, bits: int = 8, group: int | None = None) -> None:
        super().__init__()
        if bits not in (4, 8):
            raise ArgumentError(f"`bits` is {bits!r}.\nPass 8 or 4.")
        self.bits, self.group = bits, None if group is None else check_count("group", group)
        self._made: dict[str, tuple[int, torch.dtype]] = {}  # d and dtype of k and v

    def append(self, k: Tensor, v: Tensor) -> tuple[KeyPiece, ...]:
        self._check(k, v)
        refuse_gradients("Quantized", k, v)
        came = {"k": k, "v": v}
        for name, x in came.items():
            if self.group is not None and x.shape[3] % self.group:
                raise ArgumentError(
                    message(
                        f"`{name}` has {x.shape[3]} channels, no multiple of the group of "
                        f"{self.group}.",
                        {name: x},
                        "Make the cache with a group that divides them, or None for all.",
                    )
                )
        self._made = {name: (x.shape[3], x.dtype) for name, x in came.items()}
        self._write(self._coded("k", k) | self._coded("v", v))
        return self.held()

    def held(self) -> tuple[KeyPiece, ...]:
        rows = self._rows()
        return (KeyPiece(self._read("k", rows), self._read("v", rows)),) if self._length else ()

    def _like(self, name: str) -> Tensor | None:
        if name not in self._made:
            return None
        d, dtype = self._made[name]
        codes = self._tensors[f"{name} codes"]
        return codes.new_empty((*codes.shape[:2], 0, d), dtype=dtype)

    def _coded(self, name: str, x: Tensor) -> dict[str, Tensor]:
        exact = x.detach().to(torch.promote_types(x.dtype, torch.float32))
        groups = self._grouped(exact, x.shape[3])
        least, greatest = groups.aminmax(dim=4, keepdim=True)
        step = (greatest - least) / (2**self.bits - 1)
        # a group of equal numbers has step 0, and 0 / 0 is the code 0
        codes = ((groups - least) / step).round().nan_to_num(0, 0, 0).flatten(3).to(torch.uint8)
        if self.bits == 4:
            codes = torch.nn.functional.pad(codes, (0, codes.shape[3] % 2))
            codes = codes[..., ::2] | codes[..., 1::2] << 4
        parts = codes, least.flatten(3), step.flatten(3)
        return {f"{name} {part}": y for part, y in zip(_PARTS, parts, strict=True)}

    def _read(self, name: str, rows: dict[str, Tensor]) -> Tensor:
        codes, low, step = (rows[f"{name} {part}"] for part in _PARTS)
        d, dtype = self._made[name]
        if self.bits == 4:
            codes = torch.stack((codes & 15, codes >> 4), dim=4).flatten(3)[..., :d]
        groups = self._grouped(codes, d) * step.unsqueeze(4) + low.unsqueeze(4)
        return groups.flatten(3).to(dtype)

    def _grouped(self, x: Tensor, d: int) -> Tensor:
        """Its d channels as (groups, channels); LatentAttention has values of none."""
        group = self.group or d or 1
        return torch.unflatten(x, 3, (d // group, group))

    @classmethod
    def _from(cls, state: dict[str, Any]) -> Self:
        made = super()._from(state)
        for name in made._made:
            codes, low, step = (made._tensors[f"{name} {part}"] for part in _PARTS)
            if low.shape != step.shape or low.shape[:3] != codes.shape[:3]:
                raise ValueError(f"codes {describe(codes)} with low {describe(low)}")
        return made
