"""Quantized, the quantized KV cache: keys and values in 8 or 4 bits per number."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from wqkv.doors import door
from wqkv.errors import ArgumentError, describe, message
from wqkv.layer.caches.base import KeyPiece, Saved, check_count, refuse_gradients
from wqkv.layer.caches.buffered import Dynamic

_PARTS = ("codes", "low", "step")


@door
class Quantized(Dynamic):
    """Keep x as code with x ~ low + code * step, per position, head and group of channels.

    code is an integer from 0 to 2^bits - 1, low is the least number of a group and
    step = (greatest - least) / (2^bits - 1), both float32 (float64 for float64). So every number
    comes back within half a step, and the rounding of its dtype. The newest keys too are read back
    from their codes, so the result does not depend on how a text is cut into calls.

    Memory: bits / 8 + 8 / group bytes per number, in buffers that grow as those of Dynamic. Each
    call makes floats of all that is kept. A group with an inf or NaN comes back as NaN.
    Gradients: none; an append that would need one is an error.

    Args:
        bits: 8, or 4 (two numbers to a byte).
        group: how many neighboring channels share low and step; None is all channels of a head.

    >>> cache = Quantized(bits=4, group=8)
    >>> k = v = torch.randn(2, 3, 5, 16)
    >>> cache.append(k, v)[0].k.shape
    torch.Size([2, 3, 5, 16])
    """

    _arguments = ("bits", "group")
    _counts = ("_length", "_widths_and_dtypes")
    _tensor_names = tuple(f"{name} {part}" for name in ("k", "v") for part in _PARTS)

    def __init__(self, bits: int = 8, group: int | None = None) -> None:
        super().__init__()
        if bits not in (4, 8):
            raise ArgumentError(f"`bits` is {bits!r}.\nPass 8 or 4.")
        self.bits, self.group = bits, None if group is None else check_count("group", group)
        self._widths_and_dtypes: dict[str, tuple[int, torch.dtype]] = {}  # of k and v, as they came

    def append(self, k: Tensor, v: Tensor) -> tuple[KeyPiece, ...]:
        self._check_new(k, v)
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
        self._widths_and_dtypes = {name: (x.shape[3], x.dtype) for name, x in came.items()}
        self._append_rows(self._quantize("k", k) | self._quantize("v", v))
        return self.held()

    def held(self) -> tuple[KeyPiece, ...]:
        rows = self._rows()
        return (
            (KeyPiece(self._dequantize("k", rows), self._dequantize("v", rows)),)
            if self._length
            else ()
        )

    def _like(self, name: str) -> Tensor | None:
        if name not in self._widths_and_dtypes:
            return None
        d, dtype = self._widths_and_dtypes[name]
        codes = self._tensors[f"{name} codes"]
        return codes.new_empty((*codes.shape[:2], 0, d), dtype=dtype)

    def _quantize(self, name: str, x: Tensor) -> dict[str, Tensor]:
        exact = x.detach().to(torch.promote_types(x.dtype, torch.float32))
        groups = self._split_groups(exact, x.shape[3])
        least, greatest = groups.aminmax(dim=4, keepdim=True)
        step = (greatest - least) / (2**self.bits - 1)
        # A group of equal numbers has step 0, and 0 / 0 is NaN: its code is 0.
        codes = ((groups - least) / step).round().nan_to_num(0, 0, 0).flatten(3).to(torch.uint8)
        if self.bits == 4:
            codes = torch.nn.functional.pad(codes, (0, codes.shape[3] % 2))
            codes = codes[..., ::2] | codes[..., 1::2] << 4  # two numbers per byte
        parts = codes, least.flatten(3), step.flatten(3)
        return {f"{name} {part}": y for part, y in zip(_PARTS, parts, strict=True)}

    def _dequantize(self, name: str, rows: dict[str, Tensor]) -> Tensor:
        codes, low, step = (rows[f"{name} {part}"] for part in _PARTS)
        d, dtype = self._widths_and_dtypes[name]
        if self.bits == 4:
            codes = torch.stack((codes & 15, codes >> 4), dim=4).flatten(3)[..., :d]
        groups = self._split_groups(codes, d) * step.unsqueeze(4) + low.unsqueeze(4)
        return groups.flatten(3).to(dtype)

    def _split_groups(self, x: Tensor, d: int) -> Tensor:
        """x with its d channels as (groups, channels); d is 0 for LatentAttention's values."""
        group = self.group or d or 1
        return torch.unflatten(x, 3, (d // group, group))

    @classmethod
    def _from_saved(cls, state: Saved) -> Self:
        made = super()._from_saved(state)
        for name in made._widths_and_dtypes:
            codes, low, step = (made._tensors[f"{name} {part}"] for part in _PARTS)
            if low.shape != step.shape or low.shape[:3] != codes.shape[:3]:
                raise ValueError(f"codes {describe(codes)} with low {describe(low)}")
        return made
