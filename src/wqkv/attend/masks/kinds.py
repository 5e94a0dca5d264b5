"""Who may see whom, as values: True means "may attend" everywhere.

A mask speaks of absolute positions: the query at position i, the key at position j. It is combined
with `&`, `|` and `~`, drawn by `str()`, and answers from its structure, without building a matrix,
whether a rectangle of positions is all visible, all hidden or mixed. Only `dense()` builds it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from wqkv.attend.forms import tagged
from wqkv.attend.geometry import At, Rect, Sizes, as_tensor, is_whole
from wqkv.attend.masks.algebra import And, Full, Mask, Not, Or, Reach, either
from wqkv.attend.values import readable
from wqkv.doors import door
from wqkv.errors import ArgumentError, KindError, describe, message

__all__ = [
    "And",
    "Causal",
    "Chunked",
    "Dense",
    "Full",
    "Lengths",
    "Mask",
    "Not",
    "Or",
    "Prefix",
    "Segments",
    "Window",
]


def _span(low: int | None, high: int | None, rect: Rect) -> bool | None:
    """The answer of `low <= key - query <= high` for a rectangle."""
    least, most = rect.k0 - (rect.q1 - 1), rect.k1 - 1 - rect.q0
    if (low is not None and most < low) or (high is not None and least > high):
        return False
    return True if (low is None or least >= low) and (high is None or most <= high) else None


@door
@dataclass(frozen=True)
@tagged
class Causal(Mask):
    """A query at position i sees the keys at positions j <= i.

    >>> print(Causal())
    Causal()
    1 0 0 0 0 0
    1 1 0 0 0 0
    1 1 1 0 0 0
    1 1 1 1 0 0
    1 1 1 1 1 0
    1 1 1 1 1 1
    """

    by_position = True
    by_shift = True

    def visible(self, at: At) -> Tensor:
        return at.key_pos <= at.query_pos

    def region(self, rect: Rect) -> bool | None:
        return _span(None, 0, rect)

    def reach(self) -> Reach:
        return Reach(None, 0)


@door
@dataclass(frozen=True)
@tagged
class Window(Mask):
    """A query at i sees the keys i - before <= j <= i + after; None means no limit.

    Both count *other* positions: `Window(511, 0)` is what others call a causal window of 512.

    >>> print(Window(1, 1))
    Window(before=1, after=1)
    1 1 0 0 0 0
    1 1 1 0 0 0
    0 1 1 1 0 0
    0 0 1 1 1 0
    0 0 0 1 1 1
    0 0 0 0 1 1
    """

    before: int | None
    after: int | None
    by_position = True
    by_shift = True

    def __post_init__(self) -> None:
        for name in ("before", "after"):
            count = getattr(self, name)
            if count is not None and count < 0:
                raise ArgumentError(
                    f"Window's `{name}` is {count}, but it counts the other positions seen.\n"
                    "Pass 0 for none of them, or None for no limit."
                )

    def visible(self, at: At) -> Tensor:
        ahead = at.key_pos - at.query_pos
        seen = torch.ones_like(ahead, dtype=torch.bool)
        if self.before is not None:
            seen = seen & (ahead >= -self.before)
        if self.after is not None:
            seen = seen & (ahead <= self.after)
        return seen

    def region(self, rect: Rect) -> bool | None:
        return _span(*self.reach(), rect)

    def reach(self) -> Reach:
        return Reach(None if self.before is None else -self.before, self.after)


@door
@dataclass(frozen=True)
@tagged
class Chunked(Mask):
    """Chunks of `size` words: a query at i sees the keys j with j // size == i // size.

    >>> print(Chunked(3) & Causal())
    (Chunked(size=3) & Causal())
    1 0 0 0 0 0
    1 1 0 0 0 0
    1 1 1 0 0 0
    0 0 0 1 0 0
    0 0 0 1 1 0
    0 0 0 1 1 1
    """

    size: int
    by_position = True

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ArgumentError(f"Chunked's `size` is {self.size}.\nPass 1 word or more.")

    def visible(self, at: At) -> Tensor:
        return at.key_pos // self.size == at.query_pos // self.size

    def region(self, rect: Rect) -> bool | None:
        q0, q1, k0, k1 = ((end - i % 2) // self.size for i, end in enumerate(rect[1:]))
        if q1 < k0 or k1 < q0:
            return False
        return True if q0 == q1 == k0 == k1 else None


@door
class _Ends(Mask):
    """Keys before an end, one for all samples or one a sample: what Lengths and Prefix share."""

    ends: int | Tensor

    def _set(self, name: str, ends: int | Sequence[int] | Tensor) -> None:
        if isinstance(ends, int):
            object.__setattr__(self, "ends", ends)
        else:
            object.__setattr__(self, "ends", _integers(name, ends, dims=1))
        if self._host and min(self._host) < 0:  # torch.compile knows no min(default=...)
            raise ArgumentError(f"`{name}` has a length of {min(self._host)}.\nPass 0 or more.")

    @property
    def _host(self) -> list[int] | None:
        """The ends as numbers, if they can be read without waiting for a GPU."""
        if isinstance(self.ends, int):
            return [self.ends]
        return self._numbers if readable(self.ends) else None

    @cached_property
    def _numbers(self) -> list[int]:
        assert isinstance(self.ends, Tensor)
        return [int(number) for number in self.ends.tolist()]

    @property
    def per_sample(self) -> bool:  # type: ignore[override]
        return isinstance(self.ends, Tensor) and self._host is not None and len(self._host) > 1

    def _before(self, at: At) -> Tensor:
        if isinstance(self.ends, int):
            return at.key_pos < self.ends
        ends = self.ends.to(at.key_pos.device)
        return at.key_pos < ends[at.batch if len(ends) > 1 else torch.zeros_like(at.batch)]

    def _before_region(self, rect: Rect) -> bool | None:
        if self._host is None:
            return None
        ends = self._host if rect.sample is None else [self._host[rect.sample % len(self._host)]]
        if not ends or rect.k0 >= max(ends):
            return False
        return True if rect.k1 <= min(ends) else None

    def cuts(self, sample: int | None) -> Iterable[int]:
        ends = self._host or []
        return ends if sample is None or not ends else [ends[sample % len(ends)]]

    def check(self, sizes: Sizes) -> None:
        name, count = type(self).__name__, self._extent()[0]
        if sizes.batch is not None and count not in (1, sizes.batch):
            raise ArgumentError(
                f"{name} has {count} lengths for a batch of {sizes.batch}.\nPass one a sample."
            )
        if self._host and max(self._host) > sizes.key_len:
            raise ArgumentError(
                f"{name} has a length of {max(self._host)}, but there are {sizes.key_len} keys.\n"
                f"Pass lengths from 0 to {sizes.key_len}."
            )

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.ends,) if isinstance(self.ends, Tensor) else ()

    def _extent(self) -> tuple[int, int]:
        return (len(self.ends), 1) if isinstance(self.ends, Tensor) else (1, 1)

    def _lengths(self) -> tuple[int | None, int | None]:
        return None, max(self._host or [0]) or None

    def __repr__(self) -> str:
        shown = describe(self.ends) if self._host is None else self._host
        return f"{type(self).__name__}({shown})"


@door
class Lengths(_Ends):
    """Padding at the end: in sample b the keys at positions j < lengths[b] are visible.

    Left padding of p[b] words is `~Lengths(p)`. Numbers held on the CPU are planned with (hidden
    keys cost nothing); numbers held on a GPU are read there and nowhere else.

    Args:
        lengths: one int a sample, each from 0 to key_len.

    >>> print(Lengths([2, 3]))
    Lengths([2, 3])
    1 1 0
    1 1 0
    1 1 0
    """

    __match_args__ = ("ends",)

    def __init__(self, lengths: Sequence[int] | Tensor) -> None:
        self._set("lengths", lengths)

    def arguments(self) -> dict[str, Any]:
        return {"lengths": self.ends}

    def visible(self, at: At) -> Tensor:
        return self._before(at)

    def region(self, rect: Rect) -> bool | None:
        return self._before_region(rect)


@door
class Prefix(_Ends):
    """A prefix that all may see, causal after it: query i sees key j if j < length or j <= i.

    Args:
        length: an int, or one a sample.

    >>> print(Prefix(3) & Window(None, None))
    (Prefix([3]) & Window(before=None, after=None))
    1 1 1 0 0 0
    1 1 1 0 0 0
    1 1 1 0 0 0
    1 1 1 1 0 0
    1 1 1 1 1 0
    1 1 1 1 1 1
    """

    __match_args__ = ("ends",)

    by_position = True

    def __init__(self, length: int | Sequence[int] | Tensor) -> None:
        self._set("length", length)

    def arguments(self) -> dict[str, Any]:
        return {"length": self.ends}

    def visible(self, at: At) -> Tensor:
        return self._before(at) | (at.key_pos <= at.query_pos)

    def region(self, rect: Rect) -> bool | None:
        return either(self._before_region(rect), _span(None, 0, rect))

    def _lengths(self) -> tuple[int | None, int | None]:
        return None, None


@door
class Segments(Mask):
    """Packed documents: a query sees the keys that carry its own label.

    Args:
        labels: int (batch | 1, key_len); the key and the query at position i carry labels[:, i].
        query_labels: int (batch | 1, query_len), for queries that do not stand among the keys.

    Equal labels see each other wherever they stand, and a query that stands beyond the labels sees
    nothing; labels in runs are planned run by run.

    >>> print(Segments([[0, 0, 1, 1, 1]]))
    Segments(i64[1, 5] on cpu)
    1 1 0 0 0
    1 1 0 0 0
    0 0 1 1 1
    0 0 1 1 1
    0 0 1 1 1
    """

    __match_args__ = ("labels", "query_labels")

    def __init__(
        self,
        labels: Sequence[Sequence[int]] | Tensor,
        query_labels: Sequence[Sequence[int]] | Tensor | None = None,
    ) -> None:
        self.labels = _integers("labels", labels, dims=2)
        self.query_labels: Tensor | None = None
        if query_labels is not None:
            self.query_labels = _integers("query_labels", query_labels, dims=2)

    @property
    def by_position(self) -> bool:  # type: ignore[override]
        return self.query_labels is None

    @property
    def per_sample(self) -> bool:  # type: ignore[override]
        return len(self.labels) > 1 and self._runs is not None

    def visible(self, at: At) -> Tensor:
        labels = self.labels.to(at.key_pos.device)
        zero = torch.zeros_like(at.batch)
        keys = labels[at.batch if len(labels) > 1 else zero, at.key_pos]
        if self.query_labels is not None:
            own = self.query_labels.to(at.key_pos.device)
            return own[at.batch if len(own) > 1 else zero, at.row] == keys
        if labels.shape[1] == 0:  # nothing to look up, and nothing that a query could see
            return keys != keys
        place = at.query_pos.clamp(0, labels.shape[1] - 1)
        seen = labels[at.batch if len(labels) > 1 else zero, place] == keys
        return seen & (place == at.query_pos)

    @property
    def _runs(self) -> list[tuple[list[int], list[int]]] | None:
        """For each sample the starts of its runs (and the end), and all its labels."""
        return self._found_runs if self.query_labels is None and readable(self.labels) else None

    @cached_property
    def _found_runs(self) -> list[tuple[list[int], list[int]]]:
        found = []
        for labels in self.labels.tolist():
            borders = (i for i, (a, b) in enumerate(pairwise(labels), 1) if a != b)
            found.append(([0, *borders, len(labels)], labels))
        return found

    @cached_property
    def _rising(self) -> bool:
        return bool((self.labels.diff(dim=1) >= 0).all())

    def region(self, rect: Rect) -> bool | None:
        if self._runs is None or (rect.sample is None and len(self._runs) > 1):
            return None
        if rect.q0 < 0 or rect.q1 > self.labels.shape[1]:
            return None
        labels = self._runs[(rect.sample or 0) % len(self._runs)][1]
        if self._rising:  # the first and last label of a range are its least and greatest
            q_low, q_high = labels[rect.q0], labels[rect.q1 - 1]
            k_low, k_high = labels[rect.k0], labels[rect.k1 - 1]
        else:
            q, k = labels[rect.q0 : rect.q1], labels[rect.k0 : rect.k1]
            q_low, q_high, k_low, k_high = min(q), max(q), min(k), max(k)
        if q_high < k_low or k_high < q_low:
            return False
        return True if q_low == q_high == k_low == k_high else None

    def cuts(self, sample: int | None) -> Iterable[int]:
        if self._runs is None or (sample is None and len(self._runs) > 1):
            return ()
        return self._runs[(sample or 0) % len(self._runs)][0]

    def check(self, sizes: Sizes) -> None:
        for name, labels, length, what in (
            ("labels", self.labels, sizes.key_len, "keys"),
            ("query_labels", self.query_labels, sizes.query_len, "queries"),
        ):
            if labels is None:
                continue
            have, count, batch = len(labels), labels.shape[1], sizes.batch
            if count != length or (batch is not None and have not in (1, batch)):
                raise ArgumentError(
                    message(
                        f"Segments' `{name}` labels {count} positions in {have} samples; the call "
                        f"has {length} {what} and a batch of {'any' if batch is None else batch}.",
                        {name: labels},
                        f"Pass one label a position: (batch | 1, {length}).",
                    )
                )

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.labels,) if self.query_labels is None else (self.labels, self.query_labels)

    def _extent(self) -> tuple[int, int]:
        return max(len(labels) for labels in self.tensors()), 1

    def _lengths(self) -> tuple[int | None, int | None]:
        own = self.labels if self.query_labels is None else self.query_labels
        return own.shape[1], self.labels.shape[1]

    def __repr__(self) -> str:
        return f"Segments({', '.join(describe(tensor) for tensor in self.tensors())})"


@door
class Dense(Mask):
    """A stored matrix: bool, (query, key) or (batch | 1, head | 1, query | 1, key | 1).

    Its rows are the queries of the call, wherever they stand. A matrix on the CPU that leaves most
    rows empty gives a warning: several libraries use True for "hidden".

    >>> print(Dense(torch.tensor([[True, False], [True, True]])))
    Dense(bool[1, 1, 2, 2] on cpu)
    1 0
    1 1
    """

    __match_args__ = ("matrix",)

    def __init__(self, matrix: Tensor) -> None:
        if matrix.dtype != torch.bool:
            came: dict[str, object] = {"matrix": matrix}
            raise KindError(message("A mask is bool: True = may attend.", came, _hint(matrix)))
        if matrix.ndim not in (2, 4):
            raise ArgumentError(
                message(
                    f"A dense mask has 2 or 4 axes, not {matrix.ndim}.",
                    {"matrix": matrix},
                    "Pass (query, key) or (batch, head, query, key), with 1 where all are alike; "
                    "padding (batch, key) is `mask[:, None, None, :]`, or Lengths.",
                )
            )
        self.matrix = matrix[None, None] if matrix.ndim == 2 else matrix
        if readable(self.matrix) and self.matrix.numel():
            empty = ~self.matrix.any(dim=-1)
            if bool(empty.float().mean() > 0.5):
                _warn_empty(int(empty.sum()), empty.numel())

    def visible(self, at: At) -> Tensor:
        return at.cut(self.matrix.to(at.key_pos.device))

    def heads(self, start: int, stop: int) -> Mask:
        return self if self.matrix.shape[1] == 1 else Dense(self.matrix[:, start:stop])

    def region(self, rect: Rect) -> bool | None:
        return None

    def check(self, sizes: Sizes) -> None:
        pairs = zip(self.matrix.shape, sizes, strict=True)
        if any(size is not None and have not in (1, size) for have, size in pairs):
            shown = ", ".join("any" if size is None else str(size) for size in sizes)
            raise ArgumentError(
                message(
                    f"The mask does not fit the call: batch, heads, queries and keys are {shown}.",
                    {"mask": self.matrix},
                    "Each of its four sizes must be that number or 1.",
                )
            )

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.matrix,)

    def _extent(self) -> tuple[int, int]:
        return self.matrix.shape[0], self.matrix.shape[1]

    def _lengths(self) -> tuple[int | None, int | None]:
        query_len, key_len = self.matrix.shape[2:]
        return query_len if query_len != 1 else None, key_len if key_len != 1 else None

    def __repr__(self) -> str:
        return f"Dense({describe(self.matrix)})"


def _hint(matrix: Tensor) -> str:
    """What to do with something that should be a bool mask."""
    if not matrix.is_floating_point():
        return "Pass a bool tensor, such as `matrix.bool()`."
    if readable(matrix) and bool(((matrix == 0) | (matrix == 1)).all()):
        return "It holds only 0 and 1, which as a bias would hide nothing: pass `matrix.bool()`."
    return "A float that is added to the scores is a bias: pass it as `bias`."


def _warn_empty(empty: int, rows: int) -> None:
    warnings.warn(
        f"This mask leaves {empty} of {rows} queries without any key. "
        'In wqkv True means "may attend"; if yours has True for hidden words, pass `~mask`.',
        UserWarning,
        stacklevel=4,
    )


def _integers(name: str, values: object, dims: int) -> Tensor:
    """A copy, so that a mask stays what it was made."""
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
        axes, do = (
            ("1 axis", "Pass one number a sample.")
            if dims == 1
            else (f"{dims} axes", "Pass one label a position: (batch, length).")
        )
        raise ArgumentError(message(f"`{name}` has {axes}, not {tensor.ndim}.", {name: tensor}, do))
    return tensor
