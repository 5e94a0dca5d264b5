"""What is added to the scores: ALiBi and T5Bias, which depend on distance, or a stored tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor

from wqkv.attend.forms import Form, parts
from wqkv.attend.geometry import At, is_whole
from wqkv.doors import door
from wqkv.errors import ArgumentError, KindError, describe, message


@door
class Bias(Form):
    """What is added to the scores, as a value: score(i, j) = scale * q_i . k_j + bias(i, j).

    It is computed tile by tile and never written out as a whole. A bias of your own derives from
    this class and has `tile`, `tensors` and `heads`; for a gradient `add_gradient` too.

    >>> ALiBi(8).heads(0, 2)
    ALiBi(f32[2] on cpu)
    """

    #: How an error names what an argument of this type takes.
    said = "a bias such as ALiBi(8)"

    #: Whether the bias depends on where the queries stand.
    by_position = True

    def tile(self, at: At, dtype: torch.dtype | None = None) -> Tensor:
        """The bias of the pairs `at`, broadcastable to (batch, head, query, key).

        It is computed in `dtype`, that of the scores; None is the dtype of the bias's own tensor.
        """
        raise NotImplementedError

    def tensors(self) -> tuple[Tensor, ...]:
        """The one tensor that the bias is made of, which may be learned."""
        raise NotImplementedError

    def _with_tensor(self, tensor: Tensor) -> Bias:
        """The same bias made of another tensor, such as the present value of a parameter.

        The fields are not checked again.
        """
        if parts(type(self)) is not None:
            fields = self.arguments().values()
            return self._of_fields([tensor if isinstance(x, Tensor) else x for x in fields])
        # a class of somebody else may keep its tensor in any attribute: replace it there
        made, (own,) = copy(self), self.tensors()
        for name, value in vars(self).items():
            if value is own:
                object.__setattr__(made, name, tensor)
        return made

    def add_gradient(self, total: Tensor, at: At, d_tile: Tensor) -> None:
        """Add to `total` the gradient of the bias's tensor, from `d_tile`, that of a tile."""
        raise NotImplementedError

    def heads(self, start: int, stop: int) -> Bias:
        """The same bias for its heads start to stop - 1."""
        raise NotImplementedError

    def part(self, start: int, row: int) -> Bias:
        """The same bias for its keys from position `start` on and its rows from `row` on."""
        return self  # a bias by distance stays the same if queries and keys are shifted alike

    def check(self, sizes: tuple[int, int, int, int]) -> None:
        """Raise if the bias does not fit a call of (batch, n_head, query_len, key_len)."""

    def _check_heads(self, have: int, sizes: tuple[int, int, int, int]) -> None:
        if have not in (1, sizes[1]):
            raise ArgumentError(
                f"{type(self).__name__} is made for {have} heads, and the call has {sizes[1]}.\n"
                "Pass one number per head."
            )


class StoredBias(Bias):
    """A stored float tensor (batch | 1, head | 1, query | 1, key | 1).

    Its rows are the queries of the call, whatever their positions. `attention` makes one of the
    tensor that it is given as `bias`.
    """

    __match_args__ = ("values",)
    by_position = False

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def tile(self, at: At, dtype: torch.dtype | None = None) -> Tensor:
        return at.cut(self.values).to(dtype or self.values.dtype)

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.values,)

    def heads(self, start: int, stop: int) -> Bias:
        return self if self.values.shape[1] == 1 else StoredBias(self.values[:, start:stop])

    def part(self, start: int, row: int) -> Bias:
        return _PartBias(self, start, row)

    def add_gradient(self, total: Tensor, at: At, d_tile: Tensor) -> None:
        part = at.cut(total)
        part += d_tile.sum_to_size(part.shape)

    def check(self, sizes: tuple[int, int, int, int]) -> None:
        if any(have not in (1, size) for have, size in zip(self.values.shape, sizes, strict=True)):
            raise ArgumentError(
                message(
                    "The bias does not fit the call: batch, heads, queries and keys are "
                    f"{', '.join(map(str, sizes))}.",
                    {"bias": self.values},
                    "Each of its four sizes must be that number or 1.",
                )
            )


class _PartBias(Bias):
    """Some keys and rows of a stored bias."""

    by_position = False

    def __init__(self, inner: StoredBias, start: int, row: int) -> None:
        self.inner, self.start, self.row = inner, start, row

    def tile(self, at: At, dtype: torch.dtype | None = None) -> Tensor:
        return self.inner.tile(at.moved(self.start, self.row), dtype)

    def tensors(self) -> tuple[Tensor, ...]:
        return self.inner.tensors()

    def add_gradient(self, total: Tensor, at: At, d_tile: Tensor) -> None:
        self.inner.add_gradient(total, at.moved(self.start, self.row), d_tile)


@door
class ALiBi(Bias):
    """Linear bias: bias(i, j) = -slope * |i - j|, with one slope per head.

    Args:
        slopes: (n_head,) or a sequence. An int n means the slopes of the paper for n heads:
            2^(-8h / n), h = 1..n. Where n is no power of two, they are those of the next lower
            power, then every other one of the next higher.

    Raises:
        ArgumentError: slopes that are not finite, or not one per head.

    Source: Press et al. 2022 (arXiv:2108.12409), section 3.

    >>> ALiBi(8).slopes
    tensor([0.5000, 0.2500, 0.1250, 0.0625, 0.0312, 0.0156, 0.0078, 0.0039])
    """

    __match_args__ = ("slopes",)

    def __init__(self, slopes: int | Sequence[float] | Tensor) -> None:
        if isinstance(slopes, int):
            if slopes < 1:
                raise ArgumentError(f"ALiBi for {slopes} heads: pass 1 or more.")
            low = 2 ** int(math.log2(slopes))
            numbers = [2 ** (-8 * h / low) for h in range(1, low + 1)]
            numbers += [2 ** (-8 * h / (2 * low)) for h in range(1, 2 * low + 1, 2)][: slopes - low]
            slopes = numbers
        if not isinstance(slopes, Tensor):
            if not all(map(math.isfinite, slopes)):
                raise ArgumentError(f"ALiBi has slopes {list(slopes)}.\nPass finite numbers.")
            slopes = torch.tensor(slopes, dtype=torch.float32, device="cpu")
        self.slopes = slopes
        if self.slopes.ndim != 1 or not len(self.slopes) or not self.slopes.is_floating_point():
            raise ArgumentError(
                message(
                    "ALiBi takes one slope per head.", {"slopes": self.slopes}, "Pass (n_head,)."
                )
            )

    def tile(self, at: At, dtype: torch.dtype | None = None) -> Tensor:
        # at least float32: in a half dtype slope * distance would be rounded at short distances
        dtype = dtype or torch.promote_types(self.slopes.dtype, torch.float32)
        slopes = self.slopes.to(at.head.device, dtype)
        slope = slopes[at.head if len(slopes) > 1 else torch.zeros_like(at.head)]
        return -slope * (at.key_pos - at.query_pos).abs()

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.slopes,)

    def heads(self, start: int, stop: int) -> Bias:
        return self if len(self.slopes) == 1 else ALiBi(self.slopes[start:stop])

    def add_gradient(self, total: Tensor, at: At, d_tile: Tensor) -> None:
        # the derivative of -slope * distance by the slope is -distance
        by_head = (d_tile * (at.key_pos - at.query_pos).abs()).sum(dim=(0, 2, 3))
        total -= by_head.sum_to_size(total.shape)

    def check(self, sizes: tuple[int, int, int, int]) -> None:
        self._check_heads(len(self.slopes), sizes)

    def __repr__(self) -> str:
        return f"ALiBi({describe(self.slopes)})"


@door
class T5Bias(Bias):
    """Learned bias: bias(i, j) = table[bucket(j - i), head].

    A bucket is a range of distances, and the table has one number per bucket and head. In one half
    of the buckets each holds a single small distance. In the other half the ranges grow
    logarithmically up to max_distance, and the last bucket also holds all larger distances. If
    `bidirectional`, keys after the query have half of all buckets, and keys before it the rest.

    Args:
        table: float (n_bucket, n_head), usually a learned parameter.

    Raises:
        ArgumentError: a table of another shape, or a max_distance that its buckets hold exactly.

    Source: Raffel et al. 2020 (arXiv:1910.10683), section 2.1.

    >>> T5Bias(torch.zeros(32, 8), bidirectional=True).bucket(torch.tensor([-200, -1, 0, 1, 9]))
    tensor([15,  1,  0, 17, 24])
    """

    __match_args__ = ("table", "bidirectional", "max_distance")

    def __init__(self, table: Tensor, *, bidirectional: bool, max_distance: int = 128) -> None:
        if table.ndim != 2 or not table.is_floating_point():
            raise ArgumentError(
                message(
                    "T5Bias takes a table (n_bucket, n_head).",
                    {"table": table},
                    "Pass a 2-D float.",
                )
            )
        if table.shape[0] < 4 or table.shape[0] % 4:
            raise ArgumentError(f"T5Bias has {table.shape[0]} buckets.\nPass a multiple of 4.")
        if max_distance <= table.shape[0] // 2:
            raise ArgumentError(
                f"T5Bias has max_distance {max_distance} for {table.shape[0]} buckets.\n"
                f"Pass more than {table.shape[0] // 2}, the most distances they hold exactly."
            )
        self.table, self.bidirectional, self.max_distance = table, bidirectional, max_distance

    def bucket(self, ahead: Tensor) -> Tensor:
        """The bucket of each distance `ahead`, which is key position - query position."""
        if not is_whole(ahead):
            raise KindError(
                message("A distance is a whole number.", {"ahead": ahead}, "Pass integers.")
            )
        n = self.table.shape[0]
        if self.bidirectional:
            n //= 2
            offset = (ahead > 0) * n
            distance = ahead.abs()
        else:
            offset = torch.zeros_like(ahead)
            distance = (-ahead).clamp(min=0)
        exact = n // 2
        # in float32, as in the published models, because rounding decides about the borders
        growth = torch.log(distance.clamp(min=1).float() / exact)
        growth = growth / math.log(self.max_distance / exact)
        far = (exact + (growth * (n - exact)).to(ahead.dtype)).clamp(max=n - 1)
        return offset + torch.where(distance < exact, distance, far)

    def tile(self, at: At, dtype: torch.dtype | None = None) -> Tensor:
        buckets = self.bucket(at.key_pos - at.query_pos)
        table = self.table.to(buckets.device, dtype or self.table.dtype)
        return table[buckets, at.head if table.shape[1] > 1 else torch.zeros_like(at.head)]

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.table,)

    def heads(self, start: int, stop: int) -> Bias:
        if self.table.shape[1] == 1:
            return self
        return self._with_tensor(self.table[:, start:stop])

    def add_gradient(self, total: Tensor, at: At, d_tile: Tensor) -> None:
        buckets = self.bucket(at.key_pos - at.query_pos)
        # (batch | 1, head, query, key) -> one row of n_head numbers per pair, added by bucket
        by_head = d_tile.sum_to_size(buckets.shape[0], *d_tile.shape[1:]).permute(0, 2, 3, 1)
        by_head = by_head.flatten(0, 2)
        total.index_add_(0, buckets.flatten(), by_head.sum_to_size(len(by_head), total.shape[1]))

    def check(self, sizes: tuple[int, int, int, int]) -> None:
        self._check_heads(self.table.shape[1], sizes)

    def __repr__(self) -> str:
        rest = f"bidirectional={self.bidirectional}, max_distance={self.max_distance}"
        return f"T5Bias({describe(self.table)}, {rest})"
