"""Masks with an end, for all samples or per sample: Lengths (padding) and Prefix."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from wqkv.attend.geometry import At, Rect, Sizes, whole_numbers
from wqkv.attend.masks.algebra import Mask, Reach, either
from wqkv.attend.values import readable
from wqkv.doors import door
from wqkv.errors import ArgumentError, describe


@door
class _Ends(Mask):
    """What Lengths and Prefix share: in sample b the keys at positions j < ends[b]."""

    @property
    def ends(self) -> int | Tensor:
        """One end for all samples, or (batch,)."""
        raise NotImplementedError

    @property
    def _known_ends(self) -> list[int] | None:
        """The ends as numbers; None where reading them would wait for a GPU, or be traced."""
        if isinstance(self.ends, int):
            return [self.ends]
        return self._numbers if readable(self.ends) else None

    @cached_property
    def _numbers(self) -> list[int]:
        assert isinstance(self.ends, Tensor)
        return [int(number) for number in self.ends.tolist()]

    @property
    def per_sample(self) -> bool:  # type: ignore[override]
        return isinstance(self.ends, Tensor) and len(self._known_ends or ()) > 1

    def _before_end(self, at: At) -> Tensor:
        if isinstance(self.ends, int):
            return at.key_pos < self.ends
        ends = self.ends.to(at.key_pos.device)
        return at.key_pos < ends[at.batch if len(ends) > 1 else torch.zeros_like(at.batch)]

    def _before_end_region(self, rect: Rect) -> bool | None:
        ends = self._known_ends
        if ends is None:
            return None
        if ends and rect.sample is not None:
            ends = [ends[rect.sample % len(ends)]]  # one number may stand for all samples
        if not ends or rect.k0 >= max(ends):
            return False
        return True if rect.k1 <= min(ends) else None

    def cuts(self, sample: int | None) -> Iterable[int]:
        ends = self._known_ends or []
        return ends if sample is None or not ends else [ends[sample % len(ends)]]

    def check(self, sizes: Sizes) -> None:
        name, count = type(self).__name__, self._extent()[0]
        if sizes.batch is not None and count not in (1, sizes.batch):
            raise ArgumentError(
                f"{name} has {count} lengths for a batch of {sizes.batch}.\n"
                "Pass one length per sample."
            )
        if self._known_ends and max(self._known_ends) > sizes.key_len:
            raise ArgumentError(
                f"{name} has a length of {max(self._known_ends)}, "
                f"but there are {sizes.key_len} keys.\nPass lengths from 0 to {sizes.key_len}."
            )

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.ends,) if isinstance(self.ends, Tensor) else ()

    def _extent(self) -> tuple[int, int]:
        return (len(self.ends), 1) if isinstance(self.ends, Tensor) else (1, 1)

    def _own_lengths(self) -> tuple[int | None, int | None]:
        return None, max(self._known_ends or [0]) or None

    def __repr__(self) -> str:
        shown = describe(self.ends) if self._known_ends is None else self._known_ends
        return f"{type(self).__name__}({shown})"


@door
class Lengths(_Ends):
    """Padding at the end: in sample b the keys at positions j < lengths[b] are visible.

    Left padding of p[b] tokens is `~Lengths(p)`. Lengths on the CPU are read when a call is
    planned, so hidden keys cost nothing; lengths on a GPU are read by its kernels alone.

    Args:
        lengths: one int per sample, each from 0 to key_len.

    >>> print(Lengths([2, 3]))
    Lengths([2, 3])
    1 1 0
    1 1 0
    1 1 0
    """

    __match_args__ = ("lengths",)

    def __init__(self, lengths: Sequence[int] | Tensor) -> None:
        self.lengths = _ends("lengths", lengths)

    @property
    def ends(self) -> int | Tensor:
        return self.lengths

    def visible(self, at: At) -> Tensor:
        return self._before_end(at)

    def region(self, rect: Rect) -> bool | None:
        return self._before_end_region(rect)


@door
class Prefix(_Ends):
    """A prefix that all may see, causal after it: query i sees key j if j < length or j <= i.

    Args:
        length: an int, or one per sample.

    >>> print(Prefix(3))
    Prefix([3])
    1 1 1 0 0 0
    1 1 1 0 0 0
    1 1 1 0 0 0
    1 1 1 1 0 0
    1 1 1 1 1 0
    1 1 1 1 1 1
    """

    __match_args__ = ("length",)

    by_position = True

    def __init__(self, length: int | Sequence[int] | Tensor) -> None:
        self.length = _ends("length", length)

    @property
    def ends(self) -> int | Tensor:
        return self.length

    def visible(self, at: At) -> Tensor:
        return self._before_end(at) | (at.key_pos <= at.query_pos)

    def region(self, rect: Rect) -> bool | None:
        return either(self._before_end_region(rect), Reach(None, 0).region(rect))

    def _own_lengths(self) -> tuple[int | None, int | None]:
        return None, None


def _ends(name: str, given: int | Sequence[int] | Tensor) -> int | Tensor:
    """Return an int unchanged and a sequence as a tensor (batch,); raise below 0."""
    ends = given
    if not isinstance(ends, int):
        ends = whole_numbers(name, ends, 1, "Pass one length per sample.")
    numbers = [ends] if isinstance(ends, int) else ends.tolist() if readable(ends) else []
    if numbers and min(numbers) < 0:  # torch.compile knows no min(default=...)
        raise ArgumentError(f"`{name}` has a length of {min(numbers)}.\nPass 0 or more.")
    return ends
