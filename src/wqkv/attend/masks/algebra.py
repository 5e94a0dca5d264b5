"""The interface of every mask, Full, and what `a & b`, `a | b`, `~a` and `a.part(...)` make."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from wqkv.attend.forms import Form, tagged
from wqkv.attend.geometry import At, Rect, Sizes, check_offset, places
from wqkv.doors import door
from wqkv.errors import ArgumentError, KindError, describe


class Reach(NamedTuple):
    """Bounds of key position - query position for visible pairs; None is no bound."""

    low: int | None
    high: int | None

    def region(self, rect: Rect) -> bool | None:
        """Whether low <= key position - query position <= high in a rectangle; see Mask.region."""
        least, most = rect.k0 - (rect.q1 - 1), rect.k1 - 1 - rect.q0
        low, high = self
        if (low is not None and most < low) or (high is not None and least > high):
            return False
        return True if (low is None or least >= low) and (high is None or most <= high) else None


@door
class Mask(Form):
    """Who may see whom, as a value: True means "may attend" everywhere.

    A mask answers from its structure: whether a rectangle of positions is all visible, all hidden
    or mixed (`region`), and which pairs of a small box are visible (`visible`). So a mask of any
    length costs no memory; `dense` alone writes the matrix out. `str(mask)` draws it.

    A mask of your own derives from this class and has at least `visible` and `region`.

    >>> from wqkv import Causal, Window
    >>> Causal() & ~Window(1, 0)
    (Causal() & ~Window(before=1, after=0))
    >>> print((Causal() & ~Window(1, 0)).dense(4, 4)[0, 0].int())
    tensor([[0, 0, 0, 0],
            [0, 0, 0, 0],
            [1, 0, 0, 0],
            [1, 1, 0, 0]], dtype=torch.int32)
    """

    #: How an error names what an argument of this type takes.
    said = "a mask such as Causal()"

    #: Whether the answer depends on where the queries stand.
    by_position = False
    #: Whether the answer is a function of key position - query position alone.
    by_shift = False
    #: Whether the samples differ in numbers that are on the CPU, so that each is planned alone.
    per_sample = False

    def visible(self, at: At) -> Tensor:
        """Bool, broadcastable to (batch, head, query, key): may the query see the key?"""
        raise NotImplementedError

    def region(self, rect: Rect) -> bool | None:
        """True: every query sees every key; False: none sees any; None: mixed or unknown."""
        raise NotImplementedError

    def within(self, rect: Rect) -> Mask:
        """A mask that hides the same pairs in this rectangle; a simpler one where there is one."""
        return self

    def cuts(self, sample: int | None) -> Iterable[int]:
        """Positions at which a plan should cut: borders of documents, ends of samples."""
        return ()

    def reach(self) -> Reach:
        """Bounds of key position - query position outside of which no pair is visible."""
        return Reach(None, None)

    def check(self, sizes: Sizes) -> None:
        """Raise if the mask does not fit a call of these sizes. Never reads a GPU's memory."""

    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors that the mask is made of."""
        return ()

    def __and__(self, other: Mask) -> Mask:
        if isinstance(self, Full):  # nothing to add: a plain mask is planned faster than an And
            return _checked(other)
        return self if isinstance(other, Full) else And(self, _checked(other))

    def __or__(self, other: Mask) -> Mask:
        return Or(self, _checked(other))

    def __invert__(self) -> Mask:
        return self.inner if isinstance(self, Not) else Not(self)

    def part(self, start: int, key_len: int, row: int = 0, query_len: int | None = None) -> Mask:
        """The same mask for its keys from position `start` on and its rows from `row` on.

        Args:
            key_len, query_len: how many keys and rows the whole mask has; a query_len of None is
                that of the call.

        In the part, key 0 and position 0 are those at `start` of the whole mask.

        >>> from wqkv import Lengths
        >>> Lengths([2, 3]).part(1, 3).dense(1, 2).int()[:, 0, 0]
        tensor([[1, 0],
                [1, 1]], dtype=torch.int32)
        """
        if not 0 <= start <= key_len or row < 0 or (query_len or 0) < 0:
            raise ArgumentError(
                f"There is no part from key {start} of {key_len} and from row {row} on.\n"
                "Pass a start from 0 to key_len, and a row from 0."
            )
        return self if self.by_shift else PartMask(self, start, key_len, row, query_len)

    def heads(self, start: int, stop: int) -> Mask:
        """The same mask for its heads start to stop - 1."""
        return self

    def dense(self, query_len: int, key_len: int, query_offset: int | Tensor = 0) -> Tensor:
        """Write the matrix out: bool (batch | 1, head | 1, query_len, key_len).

        >>> Full().dense(2, 3).int()
        tensor([[[[1, 1, 1],
                  [1, 1, 1]]]], dtype=torch.int32)
        """
        if min(query_len, key_len) < 0:
            raise ArgumentError(
                f"There is no matrix of {query_len} queries and {key_len} keys.\nPass 0 or more."
            )
        self.check(Sizes(None, None, query_len, key_len))
        batch, n_head = self._extent()
        if isinstance(query_offset, Tensor):
            batch = max(batch, query_offset.numel())
            query_offset = check_offset(query_offset, batch, None)
        return self._matrix(batch, n_head, query_len, key_len, query_offset)

    def _matrix(
        self, batch: int, n_head: int, query_len: int, key_len: int, query_offset: int | Tensor = 0
    ) -> Tensor:
        device = next((tensor.device for tensor in self.tensors()), None)
        box = (slice(0, batch), n_head, slice(0, query_len), slice(0, key_len))
        visible = self.visible(places(box, query_offset, device))
        return visible.expand(batch, n_head, query_len, key_len)

    def _extent(self) -> tuple[int, int]:
        """The batch and n_head that the mask is made for; 1 where it is alike for all."""
        return 1, 1

    def _own_lengths(self) -> tuple[int | None, int | None]:
        """The query_len and key_len that the mask is made for; None means any."""
        return None, None

    def __str__(self) -> str:
        query_len, key_len = self._own_lengths()
        if key_len is None:
            key_len = 6 if query_len is None else query_len
        query_len = key_len if query_len is None else query_len
        # the first sample and head, and at most 24 x 24 numbers, which fit a terminal
        rows = self._matrix(1, 1, min(query_len, 24), min(key_len, 24))[0, 0].int().tolist()
        return "\n".join([repr(self), *(" ".join(map(str, row)) for row in rows)])


def _checked(value: object) -> Mask:
    if not isinstance(value, Mask):
        raise KindError(f"A mask combines with a mask, not with {describe(value)}.")
    return value


@door
@dataclass(frozen=True)
@tagged
class Full(Mask):
    """Every query sees every key.

    >>> print(Full())
    Full()
    1 1 1 1 1 1
    1 1 1 1 1 1
    1 1 1 1 1 1
    1 1 1 1 1 1
    1 1 1 1 1 1
    1 1 1 1 1 1
    """

    by_shift = True

    def visible(self, at: At) -> Tensor:
        return torch.ones((1, 1, 1, 1), dtype=torch.bool, device=at.key_pos.device)

    def region(self, rect: Rect) -> bool | None:
        return True


def either(a: bool | None, b: bool | None) -> bool | None:
    """`a or b`, where None is unknown."""
    if a is True or b is True:
        return True
    return False if a is False and b is False else None


def opposite(a: bool | None) -> bool | None:
    """`not a`, where None is unknown."""
    return None if a is None else not a


class _Compound(Mask):
    """What And, Or, Not and PartMask share: a mask made of other masks, its `parts`."""

    def __init__(self, *parts: Mask) -> None:
        self.parts = parts

    @classmethod
    def _of_fields(cls, values: list[Any]) -> Self:
        return cls(*values)

    @property
    def by_position(self) -> bool:  # type: ignore[override]
        return any(part.by_position for part in self.parts)

    @property
    def by_shift(self) -> bool:  # type: ignore[override]
        return all(part.by_shift for part in self.parts)

    @property
    def per_sample(self) -> bool:  # type: ignore[override]
        return any(part.per_sample for part in self.parts)

    def cuts(self, sample: int | None) -> Iterable[int]:
        return [cut for part in self.parts for cut in part.cuts(sample)]

    def check(self, sizes: Sizes) -> None:
        for part in self.parts:
            part.check(sizes)

    def heads(self, start: int, stop: int) -> Mask:
        return type(self)(*(part.heads(start, stop) for part in self.parts))

    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(tensor for part in self.parts for tensor in part.tensors())

    def _extent(self) -> tuple[int, int]:
        batches, heads = zip(*(part._extent() for part in self.parts), strict=True)
        return max(batches), max(heads)

    def _own_lengths(self) -> tuple[int | None, int | None]:
        query_lens, key_lens = (
            [length for length in lengths if length is not None]  # 0 is a length too
            for lengths in zip(*(part._own_lengths() for part in self.parts), strict=True)
        )
        return min(query_lens, default=None), min(key_lens, default=None)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Compound) and type(other) is type(self) and self.parts == other.parts
        )

    def __hash__(self) -> int:
        return hash((type(self), self.parts))


class And(_Compound):
    """Visible where both masks are: written `a & b`."""

    __match_args__ = ("a", "b")

    def __init__(self, a: Mask, b: Mask) -> None:
        super().__init__(a, b)
        self.a, self.b = a, b

    def visible(self, at: At) -> Tensor:
        return self.a.visible(at) & self.b.visible(at)

    def region(self, rect: Rect) -> bool | None:
        return opposite(either(opposite(self.a.region(rect)), opposite(self.b.region(rect))))

    def within(self, rect: Rect) -> Mask:
        if self.a.region(rect) is True:
            return self.b.within(rect)
        return self.a.within(rect) if self.b.region(rect) is True else self

    def reach(self) -> Reach:
        lows, highs = zip(self.a.reach(), self.b.reach(), strict=True)
        return Reach(
            max((n for n in lows if n is not None), default=None),
            min((n for n in highs if n is not None), default=None),
        )

    def __repr__(self) -> str:
        return f"({self.a!r} & {self.b!r})"


class Or(_Compound):
    """Visible where at least one of two masks is: written `a | b`."""

    __match_args__ = ("a", "b")

    def __init__(self, a: Mask, b: Mask) -> None:
        super().__init__(a, b)
        self.a, self.b = a, b

    def visible(self, at: At) -> Tensor:
        return self.a.visible(at) | self.b.visible(at)

    def region(self, rect: Rect) -> bool | None:
        return either(self.a.region(rect), self.b.region(rect))

    def within(self, rect: Rect) -> Mask:
        if self.a.region(rect) is False:
            return self.b.within(rect)
        return self.a.within(rect) if self.b.region(rect) is False else self

    def reach(self) -> Reach:
        (a_low, a_high), (b_low, b_high) = self.a.reach(), self.b.reach()
        return Reach(
            None if a_low is None or b_low is None else min(a_low, b_low),
            None if a_high is None or b_high is None else max(a_high, b_high),
        )

    def __repr__(self) -> str:
        return f"({self.a!r} | {self.b!r})"


class Not(_Compound):
    """Visible where another mask is not: written `~a`."""

    __match_args__ = ("inner",)

    def __init__(self, inner: Mask) -> None:
        super().__init__(inner)
        self.inner = inner

    def visible(self, at: At) -> Tensor:
        return ~self.inner.visible(at)

    def region(self, rect: Rect) -> bool | None:
        return opposite(self.inner.region(rect))

    def __repr__(self) -> str:
        return f"~{self.inner!r}"


class PartMask(_Compound):
    """Some keys and rows of another mask, as `Mask.part` makes it."""

    __match_args__ = ("inner", "start", "key_len", "row", "query_len")

    def __init__(
        self, inner: Mask, start: int, key_len: int, row: int = 0, query_len: int | None = None
    ) -> None:
        super().__init__(inner)
        self.inner, self.start, self.key_len = inner, start, key_len
        self.row, self.query_len = row, query_len

    def visible(self, at: At) -> Tensor:
        return self.inner.visible(at.moved(self.start, self.row))

    def region(self, rect: Rect) -> bool | None:
        sample, *ends = rect
        return self.inner.region(Rect(sample, *(end + self.start for end in ends)))

    def reach(self) -> Reach:
        return self.inner.reach()

    def cuts(self, sample: int | None) -> Iterable[int]:
        return [cut - self.start for cut in self.inner.cuts(sample)]

    def check(self, sizes: Sizes) -> None:
        query_len = sizes.query_len if self.query_len is None else self.query_len
        self.inner.check(sizes._replace(query_len=query_len, key_len=self.key_len))

    def heads(self, start: int, stop: int) -> Mask:
        inner = self.inner.heads(start, stop)
        return PartMask(inner, self.start, self.key_len, self.row, self.query_len)

    def _own_lengths(self) -> tuple[int | None, int | None]:
        query_len, key_len = self.inner._own_lengths()
        return query_len, None if key_len is None else key_len - self.start

    def _numbers(self) -> tuple[int | None, ...]:
        return self.start, self.key_len, self.row, self.query_len

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, PartMask)
            and self.parts == other.parts
            and self._numbers() == other._numbers()
        )

    def __hash__(self) -> int:
        return hash((PartMask, self.parts, self._numbers()))

    def __repr__(self) -> str:
        where = (self.start, self.key_len, *((self.row, self.query_len) if self.row else ()))
        return f"{self.inner!r}.part({', '.join(map(str, where))})"
