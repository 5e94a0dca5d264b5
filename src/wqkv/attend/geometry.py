"""Places in a call: its sizes, rectangles of positions, and the tensors that stand for them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from wqkv.errors import ArgumentError, KindError, message


class Sizes(NamedTuple):
    """The sizes of one call; a batch or n_head of None stands for any."""

    batch: int | None
    n_head: int | None
    query_len: int
    key_len: int


class Rect(NamedTuple):
    """Queries at positions q0 <= i < q1 and keys at k0 <= j < k1 of a sample (None: all)."""

    sample: int | None
    q0: int
    q1: int
    k0: int
    k1: int


class At(NamedTuple):
    """Integer tensors which broadcast to (batch, head, query, key): the places asked about.

    `row` counts the queries of the call from 0, `query_pos` says where they stand; `box` gives the
    same places as slices (batch, row, key) when they are a box, so that a stored matrix can be cut,
    not gathered.
    """

    batch: Tensor
    head: Tensor
    row: Tensor
    query_pos: Tensor
    key_pos: Tensor
    box: tuple[slice, slice, slice] | None = None

    def moved(self, by: int, rows: int) -> At:
        """The same places where positions are counted from `by` before, and rows from `rows`."""
        box = self.box
        if box is not None:
            samples, lines, keys = box
            box = samples, _later(lines, rows), _later(keys, by)
        return At(
            self.batch, self.head, self.row + rows, self.query_pos + by, self.key_pos + by, box
        )

    def cut(self, stored: Tensor) -> Tensor:
        """The entries of a tensor (batch | 1, head | 1, query | 1, key | 1) at these places."""
        b, h, q, k = stored.shape
        if self.box is not None:
            picks = (self.box[0], slice(None), self.box[1], self.box[2])
            wide = zip(picks, (b, 1, q, k), strict=True)
            return stored[tuple(pick if size != 1 else slice(None) for pick, size in wide)]
        zero = torch.zeros_like(self.batch)
        return stored[
            self.batch if b > 1 else zero,
            self.head if h > 1 else zero,
            self.row if q > 1 else zero,
            self.key_pos if k > 1 else zero,
        ]


def slices(rect: Rect) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """A rectangle's rows and keys, as indices of (batch, head, length)."""
    samples = slice(None) if rect.sample is None else slice(rect.sample, rect.sample + 1)
    rows, keys = slice(rect.q0, rect.q1), slice(rect.k0, rect.k1)
    return (samples, slice(None), rows), (samples, slice(None), keys)


def as_tensor(values: object) -> Tensor:
    """A tensor as it is, and plain numbers on the CPU, whatever the default device is.

    On the meta device, where dry runs and large models are made, numbers would be lost.
    """
    if isinstance(values, Tensor):
        return values
    return torch.as_tensor(values, device="cpu")


def is_whole(x: Tensor) -> bool:
    """Whether a tensor holds whole numbers."""
    return not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool)


def check_held(name: str, x: Tensor, device: torch.device | None = None) -> None:
    """Raise where numbers are needed (on a device), and the tensor holds none: it is on meta."""
    if x.is_meta and (device is None or device.type != "meta"):
        do = "Pass one that holds numbers."
        raise ArgumentError(
            message(f"`{name}` is on meta, and its numbers are read.", {name: x}, do)
        )


def check_offset(
    given: int | Tensor, batch: int | None, device: torch.device | None
) -> int | Tensor:
    """Where the first query stands, an int or (batch,), if it can be that."""
    if not isinstance(given, Tensor):
        return given
    came: dict[str, object] = {"query_offset": given}
    if not is_whole(given):
        raise KindError(message("`query_offset` counts positions.", came, "Pass integers."))
    if given.ndim == 0:
        given = given.expand(1)
    if given.ndim != 1 or len(given) not in (1, batch):
        raise ArgumentError(
            message(
                f"`query_offset` has shape {tuple(given.shape)} for a batch of {batch}.",
                came,
                "Pass an int, or one integer a sample.",
            )
        )
    check_held("query_offset", given, device)
    return given.expand(batch or 0)


def _later(part: slice, by: int) -> slice:
    return slice(part.start + by, part.stop + by)


def places(
    sizes: tuple[slice, int, slice, slice],
    query_offset: int | Tensor,
    device: torch.device | None = None,
) -> At:
    """The places of a box: samples, all heads, rows (at `query_offset` + row), keys."""
    batch, n_head, rows, keys = sizes

    def line(part: slice, dim: int) -> Tensor:
        shape = [1, 1, 1, 1]
        shape[dim] = -1
        return torch.arange(part.start, part.stop, device=device).view(shape)

    b, q, k = line(batch, 0), line(rows, 2), line(keys, 3)
    offset = query_offset
    if isinstance(offset, Tensor):
        offset = offset.to(q.device)[batch].view(-1, 1, 1, 1)
    return At(b, line(slice(0, n_head), 1), q, q + offset, k, (batch, rows, keys))
