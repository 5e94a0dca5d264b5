"""How the mask of one call is read: who sees whom, row by row and, if it is known, as a pattern.

Kinds of attention functions differ in what a missing mask means (`Convention`). A mask that is
given as a matrix is read here, and recognized as a pattern in mask_pattern.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from wqkv.attend.masks.algebra import Mask
from wqkv.record.captured import MaskReading, Refusal
from wqkv.record.mask_pattern import (
    Pattern,
    documents,
    of_function,
    of_padding,
    of_tensor,
    pattern_of,
    rows_of,
)

#: The kind of attention function by whose conventions a missing mask is read.
Convention = Literal["eager", "sdpa", "flash", "flex", "other"]


class MaskArguments(NamedTuple):
    """What one call says about who sees whom."""

    convention: Convention
    mask: object  # a tensor, a BlockMask of FlexAttention, or a value on its way to wqkv
    causal: bool
    window: int | None  # how many keys a query sees, its own included
    cross: bool  # the keys belong to another text
    batch: int
    query_len: int
    key_len: int
    device: torch.device
    cu_seq_lens_q: object  # cumulative lengths of packed documents: 0, n, n + m, ...
    cu_seq_lens_k: object
    position_ids: object


class KnownMask(NamedTuple):
    """A mask that was read, and what a float mask adds to the scores beside hiding keys."""

    owner: object  # held, so that its id or its memory is not given to another mask
    reading: MaskReading
    bias: Tensor | None = None


#: The masks of one forward, by what tells them apart: its layers share them.
KnownMasks = dict[tuple[object, ...], KnownMask]


def read_mask(call: MaskArguments, known: KnownMasks) -> tuple[list[MaskReading], Tensor | None]:
    """The ways to read a call's mask, the likeliest first, and what it adds to the scores.

    Raises:
        Refusal: it is not understood.
    """
    mask, n, m = call.mask, call.query_len, call.key_len
    if mask is None or (isinstance(mask, Tensor) and mask.ndim == 2 and call.convention == "flash"):
        return _missing(call), None
    key: tuple[object, ...]
    requested: Any = getattr(mask, "requested", None)  # the mask as a value: see carried_mask.py
    if isinstance(getattr(requested, "mask", None), Mask):
        key = ("requested", id(requested), n, m)
        if key not in known:
            # Without a cache its positions are those of the text: no need to go through its rows.
            pattern = pattern_of(requested.mask) if n == m and requested.offset == 0 else None
            rows = rows_of(requested.mask, n, m, requested.offset, call.device)
            known[key] = KnownMask(requested, MaskReading(rows, pattern))
    elif not isinstance(mask, Tensor):
        mask_mod = getattr(mask, "mask_mod", None)
        if mask_mod is None:
            raise Refusal(f"its mask is a {type(mask).__name__}, which is not understood")
        key = (id(mask), n, m)
        if key not in known:
            rows = of_function(mask_mod, call.batch, n, m, call.device)
            known[key] = KnownMask(mask, MaskReading(rows))
    else:
        matrix = _matrix(mask, call)
        key = (matrix.data_ptr(), tuple(matrix.shape), matrix.stride(), matrix.dtype, n, m)
        if key not in known:
            rows, bias = of_tensor(matrix, n, m)
            known[key] = KnownMask(matrix, MaskReading(rows), bias)
    return [known[key].reading], known[key].bias


def _matrix(mask: Tensor, call: MaskArguments) -> Tensor:
    """A mask as a matrix (batch | 1, n_head | 1, query_len | 1, key_len)."""
    is_integer = not mask.is_floating_point() and mask.dtype != torch.bool
    if mask.ndim not in (2, 3, 4) or is_integer:
        raise Refusal(f"its mask is {mask.dtype} with {mask.ndim} axes, which is not understood")
    n, m = call.query_len, call.key_len
    mask = mask.detach()
    mask = mask[(None,) * (4 - mask.ndim)]
    if mask.shape[3] > m > 1:  # made for the longest cache of several layers
        mask = mask[..., :m]
    for size, have in zip((call.batch, n, m), (mask.shape[0], *mask.shape[2:]), strict=True):
        if have not in (1, size):
            raise Refusal(f"its mask {tuple(mask.shape)} does not fit {n} queries and {m} keys")
    if mask.shape[3] == 1 < m:
        mask = mask.expand(-1, -1, -1, m)
    return mask


def _missing(call: MaskArguments) -> list[MaskReading]:
    """How a call without a matrix is read, the likeliest reading first."""
    n, m, window = call.query_len, call.key_len, call.window
    everything = rows_of(Pattern().mask(), n, m, 0, call.device)
    full = MaskReading(everything, Pattern(), all=True)
    if call.cross:
        return [full]
    if call.convention == "flash":
        return [_flash(call)]
    before = window - 1 if window is not None and m <= window else None
    if call.causal and n == 1:  # one query that sees all keys stands at the last
        return [MaskReading(everything, Pattern(before, 0))]
    if not call.causal or call.convention in ("eager", "flex"):
        return [full]
    # sdpa's own causal mask starts at the upper left corner: the queries stand at the first keys.
    rows = rows_of(Pattern(after=0).mask(), n, m, 0, call.device)
    first = MaskReading(rows, Pattern(before, 0), first=True)
    return [first] if call.convention == "sdpa" else [first, full]


def _flash(call: MaskArguments) -> MaskReading:
    """Causal from the lower right corner, with a window, padding (batch, key) and documents."""
    n, m, window, mask = call.query_len, call.key_len, call.window, call.mask
    pattern = Pattern(after=0) if call.causal else Pattern()
    if window is not None and (call.causal or m > window):
        pattern = replace(pattern, before=window - 1, after=0 if call.causal else window - 1)
    if isinstance(mask, Tensor):
        padding = of_padding(mask[:, -m:])
        if padding is None:
            raise Refusal("its mask (batch, key) hides every key")
        pattern = replace(pattern, left=padding.left, right=padding.right)
    ends_q, ends_k, positions = call.cu_seq_lens_q, call.cu_seq_lens_k, call.position_ids
    if ends_q is not None:
        if not isinstance(ends_q, Tensor) or not isinstance(ends_k, Tensor) or n != m:
            raise Refusal("its documents differ between queries and keys")
        if not torch.equal(ends_q, ends_k):
            raise Refusal("its documents differ between queries and keys")
        pattern = replace(pattern, starts=documents(ends_q).to(call.device))
    elif mask is None and isinstance(positions, Tensor) and positions.shape == (1, n) and n == m:
        begins = (positions[0] == positions.min()).nonzero().flatten()
        if len(begins) > 1:  # each document counts from its first token
            ends = torch.cat((begins, begins.new_tensor([n])))
            pattern = replace(pattern, starts=documents(ends).to(call.device))
    return MaskReading(rows_of(pattern.mask(), n, m, m - n, call.device), pattern)
