"""Plan: which rectangles of a call are computed, and what computes each of them.

Two ideas. A rectangle that is all visible is one kernel call without a mask, and one that is all
hidden is no call. And a range of queries is halved only as long as that leaves out hidden keys, so
that visible rectangles stay large: a causal square is one big rectangle and two smaller squares.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from torch import Tensor

from wqkv.attend.call import Call
from wqkv.attend.engines.memory import Memory
from wqkv.attend.geometry import Rect
from wqkv.attend.masks import Causal
from wqkv.attend.masks.algebra import Full, Mask

#: Blocks of queries are not halved below this; smaller ones cost more in calls than they leave out.
ROWS = 128
#: A visible stretch of keys this long is worth a call of its own.
WIDE = 512


class Piece(NamedTuple):
    """One rectangle to compute. In its `rect`, q0 and q1 count rows of the call, not positions."""

    rect: Rect
    mixed: bool  # some of its pairs are hidden
    fresh: bool  # no piece before it has touched these rows


#: What computes the rectangles. Plans of one rectangle alone use the kernels' own causal mask.
Kernel = Literal["kernel", "causal kernel", "reference", "FlexAttention"]

#: How a call is cut: one kernel call for all of it, a kernel call for each rectangle, or, where
#: no kernel can, smaller rectangles for the reference, which holds the scores of one.
Method = Literal["one kernel call", "kernel calls", "reference"]


class Plan(NamedTuple):
    """Which rectangles of a call are computed, and what computes each of them."""

    pieces: Sequence[Piece]
    kernel: Kernel

    def is_one(self, call: Call) -> bool:
        """Whether all of the call is one rectangle, so that nothing has to be merged."""
        batch, _, query_len, key_len = call.sizes
        if len(self.pieces) != 1:
            return False
        rect = self.pieces[0].rect
        return (rect.sample is None or batch == 1) and rect[1:] == (0, query_len, 0, key_len)

    def describe(self, call: Call) -> str:
        """How many rectangles, what computes them, and how much of the whole they are."""
        batch, _, query_len, key_len = call.sizes
        pairs = 0
        for (sample, q0, q1, k0, k1), _, _ in self.pieces:
            pairs += (q1 - q0) * (k1 - k0) * (batch if sample is None else 1)
        part = pairs / max(1, batch * query_len * key_len)
        count = len(self.pieces)
        shape = "1 rectangle" if count == 1 else f"{count} rectangles"
        return f"{shape} by the {self.kernel}, {part:.0%} of all pairs"


def make_plan(call: Call, method: Method) -> Plan:
    """Cut a call by a method. The numbers of its mask and offset are read."""
    if method == "reference":
        return Plan(visible_pieces(call, wide=None), "reference")
    pieces = whole(call) if method == "one kernel call" else visible_pieces(call)
    plan = Plan(pieces, "kernel")
    if _is_causal(call) and plan.is_one(call) and pieces[0].mixed:
        return Plan(pieces, "causal kernel")
    return plan


def one_piece(call: Call, kernel: Kernel) -> Plan:
    """The plan of an engine that computes all pairs in one piece, visible or hidden."""
    _, _, query_len, key_len = call.sizes
    mixed = not isinstance(call.rules.mask, Full)
    return Plan((Piece(Rect(None, 0, query_len, 0, key_len), mixed, True),), kernel)


def _is_causal(call: Call) -> bool:
    """Whether the call's mask is the kernels' own causal mask, which is aligned at the upper left.

    They hide before they scale, so that a scale of 0 or less would make NaN or inf of -inf, and
    they read keys that stand after all queries.
    """
    rules, offset, (_, _, query_len, key_len) = call.rules, call.query_offset, call.sizes
    plain = rules.bias is None and isinstance(rules.mask, Causal) and query_len >= key_len
    return plain and call.scale > 0 and isinstance(offset, int) and offset == 0


def whole(call: Call) -> list[Piece]:
    """The call as one rectangle, without the keys that its mask puts out of reach."""
    _, _, query_len, key_len = call.sizes
    mask, first = call.rules.mask, call.query_offset
    mixed = not isinstance(mask, Full)
    if mixed and mask.by_shift and isinstance(first, int):
        seen = mask.region(Rect(None, first, first + query_len, 0, key_len))
        mixed = seen is not True  # one token that sees all keys needs no mask
    k0, k1 = 0, key_len
    if mixed and isinstance(first, int):
        k0, k1 = _within_reach(mask, first, first + query_len, 0, key_len)
        k0, k1 = (k0, k1) if k0 < k1 else (0, key_len)
    return [Piece(Rect(None, 0, query_len, k0, k1), mixed, True)]


def _within_reach(mask: Mask, q0: int, q1: int, k0: int, k1: int) -> tuple[int, int]:
    """Cut the range of keys k0 to k1 to what queries at positions q0 to q1 can see at most."""
    low, high = mask.reach()
    return (
        k0 if low is None else max(k0, q0 + low),
        k1 if high is None else min(k1, q1 + high),
    )


def visible_pieces(call: Call, wide: int | None = WIDE) -> list[Piece]:
    """Cut a call into disjoint rectangles that hold every visible pair.

    Args:
        wide: a visible stretch of at least so many keys becomes a rectangle of its own, with all
            queries that see it. None: all rectangles that hold a query have the same queries, and
            follow in the order of their keys.
    """
    batch, _, query_len, key_len = call.sizes
    mask, offset = call.rules.mask, call.query_offset
    offsets: list[int] | None = None
    if isinstance(offset, Tensor) and mask.by_position:
        if offset.device.type != "cpu":  # where the queries stand is known on the device only
            return [
                Piece(Rect(None, i, min(i + ROWS, query_len), 0, key_len), True, True)
                for i in range(0, query_len, ROWS)
            ]
        offsets = offset.tolist()
    start = offset if isinstance(offset, int) else 0
    samples: Sequence[int | None] = (
        range(batch) if mask.per_sample or offsets is not None else [None]
    )
    pieces: list[Piece] = []
    for sample in samples:
        first = start if offsets is None or sample is None else offsets[sample]
        pieces += _cached(mask, sample, first, first + query_len, key_len, wide)
    return pieces


#: Plans made before, by (sample, first and last query, key_len, wide, ROWS).
_pieces: Memory[tuple[int | None, int, int, int, int | None, int], list[Piece]] = Memory()


def _cached(
    mask: Mask, sample: int | None, q0: int, q1: int, key_len: int, wide: int | None
) -> list[Piece]:
    """Plan the rectangles for the queries at positions q0 to q1 - 1; their rows count from 0."""

    def make() -> list[Piece]:
        cuts = sorted(set(mask.cuts(sample)))
        return [
            piece._replace(rect=piece.rect._replace(q0=piece.rect.q0 - q0, q1=piece.rect.q1 - q0))
            for piece in _cover(mask, cuts, sample, q0, q1, [(0, key_len)], wide, True)
        ]

    return _pieces.get(mask, (sample, q0, q1, key_len, wide, ROWS), make)


class _Stretch(NamedTuple):
    """Neighboring keys k0 <= j < k1 that some queries see."""

    k0: int
    k1: int
    mixed: bool  # some of the pairs are hidden


def _cover(
    mask: Mask,
    cuts: list[int],
    sample: int | None,
    q0: int,
    q1: int,
    keys: list[tuple[int, int]],
    wide: int | None,
    fresh: bool,
) -> Iterator[Piece]:
    """Plan the rectangles for the queries at positions q0 to q1 - 1 and some ranges of keys.

    `cuts` are the positions where the mask changes, such as the borders of documents.
    """
    leaf = q1 - q0 <= ROWS
    grain = ROWS if leaf or wide is None else wide
    found = [s for k0, k1 in keys for s in _seen(mask, cuts, Rect(sample, q0, q1, k0, k1), grain)]
    if leaf or not any(stretch.mixed for stretch in found):
        for k0, k1, mixed in _joined(found):
            rect = Rect(sample, q0, q1, *_within_reach(mask, q0, q1, k0, k1))
            yield Piece(rect, mixed, fresh)
            fresh = False
        return
    # Wide visible stretches stand as they are; what is left is cut for each half of the queries.
    rest: list[tuple[int, int]] = []
    for k0, k1, mixed in found:
        if not mixed and wide is not None and k1 - k0 >= wide:
            yield Piece(Rect(sample, q0, q1, k0, k1), False, fresh)
            fresh = False
        elif rest and rest[-1][1] == k0:
            rest[-1] = (rest[-1][0], k1)
        else:
            rest.append((k0, k1))
    middle, _ = _middle(cuts, q0, q1)
    yield from _cover(mask, cuts, sample, q0, middle, rest, wide, fresh)
    yield from _cover(mask, cuts, sample, middle, q1, rest, wide, fresh)


def _seen(mask: Mask, cuts: list[int], rect: Rect, grain: int) -> Iterator[_Stretch]:
    """The stretches of keys that the queries of a rectangle see, in order.

    A mixed stretch is halved down to `grain` keys, or half of ROWS where a border is inside.
    """
    seen = mask.region(rect)
    if seen is False or rect.k0 == rect.k1:
        return
    width = rect.k1 - rect.k0
    middle, border = _middle(cuts, rect.k0, rect.k1)
    if seen or (width <= grain and not (border and width > ROWS // 2)):
        yield _Stretch(rect.k0, rect.k1, not seen)
        return
    last: _Stretch | None = None
    for half in (rect._replace(k1=middle), rect._replace(k0=middle)):
        for one in _seen(mask, cuts, half, grain):
            if last and last.k1 == one.k0 and last.mixed == one.mixed:
                last = last._replace(k1=one.k1)
                continue
            if last:
                yield last
            last = one
    if last:
        yield last


def _joined(stretches: list[_Stretch]) -> Iterator[_Stretch]:
    """Join short stretches side by side: one masked call costs less than two calls and a merge."""
    last: _Stretch | None = None
    for one in stretches:
        if last and last.k1 == one.k0 and one.k1 - last.k0 <= 2 * WIDE:
            last = _Stretch(last.k0, one.k1, last.mixed or one.mixed)
            continue
        if last:
            yield last
        last = one
    if last:
        yield last


def _middle(cuts: list[int], start: int, end: int) -> tuple[int, bool]:
    """Where to halve a range, and whether the mask changes there.

    It is the cut nearest to the middle; without one inside, a multiple of ROWS after `start`.
    """
    half = (start + end) // 2
    near = bisect_left(cuts, half)
    inside = [cut for cut in cuts[max(0, near - 1) : near + 1] if start < cut < end]
    if inside:
        return min(inside, key=lambda cut: abs(cut - half)), True
    if end - start > 2 * ROWS:
        half = start + -(-(half - start) // ROWS) * ROWS
    return half, False
