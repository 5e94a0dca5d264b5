"""Places in a call: its sizes, rectangles of positions, and tensors of positions and labels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from wqkv.errors import ArgumentError, KindError, message


class Sizes(NamedTuple):
    """The sizes of one call; a batch or n_head of None means any."""

    batch: int | None
    n_head: int | None
    query_len: int
    key_len: int


class Rect(NamedTuple):
    """Queries at positions q0 <= i < q1 and keys at k0 <= j < k1, of one sample or of all (None).

    >>> Rect(None, q0=2, q1=4, k0=0, k1=3)  # the queries at 2 and 3, the keys at 0, 1 and 2
    Rect(sample=None, q0=2, q1=4, k0=0, k1=3)
    """

    sample: int | None
    q0: int
    q1: int
    k0: int
    k1: int


class At(NamedTuple):
    """The pairs that a mask or bias is asked about.

    All are integer tensors, which broadcast to (batch, head, query, key).

    `row` counts the queries of the call from 0, `query_pos` and `key_pos` are absolute positions.
    Where the pairs form a box, `box` holds its slices (batch, row, key), so that a stored matrix is
    sliced and not gathered.
    """

    batch: Tensor
    head: Tensor
    row: Tensor
    query_pos: Tensor
    key_pos: Tensor
    box: tuple[slice, slice, slice] | None = None

    def moved(self, by: int, rows: int) -> At:
        """The same pairs, counted as in the whole mask of which a part begins at `by` and `rows`.

        Adds `by` to the positions and `rows` to the rows; see `Mask.part`.
        """
        box = self.box
        if box is not None:
            samples, lines, keys = box
            box = samples, _shifted(lines, rows), _shifted(keys, by)
        return At(
            self.batch, self.head, self.row + rows, self.query_pos + by, self.key_pos + by, box
        )

    def cut(self, stored: Tensor) -> Tensor:
        """The entries of a tensor (batch | 1, head | 1, query | 1, key | 1) at these pairs."""
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
    """Indices of a rectangle's queries and of its keys, for tensors (batch, head, length, ...)."""
    samples = slice(None) if rect.sample is None else slice(rect.sample, rect.sample + 1)
    rows, keys = slice(rect.q0, rect.q1), slice(rect.k0, rect.k1)
    return (samples, slice(None), rows), (samples, slice(None), keys)


def as_tensor(values: object) -> Tensor:
    """A tensor as it is, or plain numbers as a tensor on the CPU, whatever the default device is.

    Dry runs and large models are made with meta as the default device, which would lose the
    numbers.
    """
    if isinstance(values, Tensor):
        return values
    return torch.as_tensor(values, device="cpu")


def is_whole(x: Tensor) -> bool:
    """Whether a tensor holds whole numbers."""
    return not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool)


def whole_numbers(name: str, values: object, dims: int, do: str) -> Tensor:
    """A copy of whole numbers as a tensor of `dims` axes, or an error that ends with advice, `do`.

    A copy, because a mask must not change when its caller's tensor does.
    """
    try:
        tensor = as_tensor(values).clone()
    except (TypeError, ValueError, RuntimeError) as error:  # rows of different lengths
        raise ArgumentError(
            f"`{name}` makes no tensor: {error}.\nPass rows of one length."
        ) from None
    if tensor.numel() == 0 and not isinstance(values, Tensor):
        tensor = tensor.long()  # torch reads an empty list as floats
    if not is_whole(tensor):
        raise KindError(
            message(
                f"`{name}` holds whole numbers.", {name: tensor}, "Pass an integer tensor or list."
            )
        )
    if tensor.ndim != dims:
        axes = "1 axis" if dims == 1 else f"{dims} axes"
        raise ArgumentError(message(f"`{name}` has {axes}, not {tensor.ndim}.", {name: tensor}, do))
    return tensor


def check_held(name: str, x: Tensor, device: torch.device | None = None) -> None:
    """Raise if a tensor is on meta and so holds no numbers, which a call on `device` needs."""
    if x.is_meta and (device is None or device.type != "meta"):
        do = "Pass one that holds numbers."
        raise ArgumentError(
            message(f"`{name}` is on meta, and its numbers are read.", {name: x}, do)
        )


def check_offset(
    given: int | Tensor, batch: int | None, device: torch.device | None
) -> int | Tensor:
    """The position of the first query, an int or (batch,); raise if it cannot be one."""
    if not isinstance(given, Tensor):
        return given
    came = {"query_offset": given}
    if not is_whole(given):
        raise KindError(message("`query_offset` counts positions.", came, "Pass integers."))
    if given.ndim == 0:
        given = given.expand(1)
    if given.ndim != 1 or len(given) not in (1, batch):
        raise ArgumentError(
            message(
                f"`query_offset` has shape {tuple(given.shape)} for a batch of {batch}.",
                came,
                "Pass an int, or one integer per sample.",
            )
        )
    check_held("query_offset", given, device)
    return given.expand(batch or 0)


def _shifted(part: slice, by: int) -> slice:
    return slice(part.start + by, part.stop + by)


def places(
    sizes: tuple[slice, int, slice, slice],
    query_offset: int | Tensor,
    device: torch.device | None = None,
) -> At:
    """All pairs of a box of (samples, n_head, rows, keys); row r stands at `query_offset` + r."""
    batch, n_head, rows, keys = sizes

    def along(dim: int, part: slice) -> Tensor:
        shape = [1, 1, 1, 1]
        shape[dim] = -1
        return torch.arange(part.start, part.stop, device=device).view(shape)

    row = along(2, rows)
    offset = query_offset
    if isinstance(offset, Tensor):
        offset = offset.to(row.device)[batch].view(-1, 1, 1, 1)
    return At(
        batch=along(0, batch),
        head=along(1, slice(0, n_head)),
        row=row,
        query_pos=row + offset,
        key_pos=along(3, keys),
        box=(batch, rows, keys),
    )
