"""Which rectangles of a call are worth computing: a mask's structure, cut into fused calls.

Two ideas. A rectangle that is all visible is one kernel call without a mask; one that is all hidden
is none. And a range of queries is halved only as long as that leaves out hidden keys, so that long
visible stretches stay large: a causal square is one big rectangle and two smaller squares.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from torch import Tensor

from wqkv.attend.call import Call
from wqkv.attend.geometry import Rect
from wqkv.attend.masks.algebra import Full, Mask
from wqkv.upstream.of_torch import version

#: Blocks of queries are not halved below this; smaller ones cost more in calls than they leave out.
ROWS = 128
#: A visible stretch of keys this long is worth a call of its own.
WIDE = 512


class Piece(NamedTuple):
    """One rectangle to compute. Here q0 and q1 count the rows of the call, wherever they stand."""

    rect: Rect
    mixed: bool  # some of its pairs are hidden
    fresh: bool  # no piece before it has touched these rows


def whole(call: Call) -> list[Piece]:
    """The call as one rectangle."""
    _, _, query_len, key_len = call.sizes
    first, mixed = call.query_offset, not isinstance(call.mask, Full)
    if mixed and call.mask.by_shift and isinstance(first, int):
        seen = call.mask.region(Rect(None, first, first + query_len, 0, key_len))
        mixed = seen is not True  # a word that sees all before it needs no mask
    k0, k1 = 0, key_len
    if mixed and isinstance(first, int):
        k0, k1 = _within_reach(call.mask, first, first + query_len, 0, key_len)
        k0, k1 = (k0, k1) if k0 < k1 else (0, key_len)
    return [Piece(Rect(None, 0, query_len, k0, k1), mixed, True)]


def _within_reach(mask: Mask, q0: int, q1: int, k0: int, k1: int) -> tuple[int, int]:
    """The keys from k0 to k1 that queries from q0 to q1 can see at most."""
    low, high = mask.reach()
    return (
        k0 if low is None else max(k0, q0 + low),
        k1 if high is None else min(k1, q1 + high),
    )


def plan(call: Call, wide: int | None = WIDE) -> list[Piece]:
    """The rectangles of a call, disjoint, together all that is visible.

    With `wide` None all rectangles of a query share one range of queries, in order; otherwise early
    rectangles may span the ranges of later ones.
    """
    batch, _, query_len, key_len = call.sizes
    offset = call.query_offset
    offsets: list[int] | None = None
    if isinstance(offset, Tensor) and call.mask.by_position:
        if offset.device.type != "cpu":  # where the queries stand is known on the device only
            return [
                Piece(Rect(None, i, min(i + ROWS, query_len), 0, key_len), True, True)
                for i in range(0, query_len, ROWS)
            ]
        offsets = offset.tolist()
    start = offset if isinstance(offset, int) else 0
    samples: Sequence[int | None] = (
        range(batch) if call.mask.per_sample or offsets is not None else [None]
    )
    pieces: list[Piece] = []
    for sample in samples:
        first = start if offsets is None or sample is None else offsets[sample]
        pieces += _cached(call.mask, sample, first, first + query_len, key_len, wide)
    return pieces


def pieces_of(call: Call, one: bool, by_kernel: bool) -> list[Piece]:
    """The rectangles of a call: the call as one, or a plan for the kernels or the reference."""
    # Where the reference computes them, rectangles stay small: it holds the scores of one.
    return whole(call) if one else plan(call) if by_kernel else plan(call, wide=None)


_values: dict[Mask, dict[Any, Any]] = {}
_things: WeakKeyDictionary[Mask, tuple[tuple[int, ...], dict[Any, Any]]] = WeakKeyDictionary()


def memory(mask: Mask) -> dict[Any, Any]:
    """Where what follows from a mask is kept: equal values share it.

    A stored matrix may be changed in place; what followed from it before is then forgotten.
    """
    if tensors := mask.tensors():
        now = tuple(version(tensor) for tensor in tensors)
        then, kept = _things.get(mask, (now, {}))
        if then != now:
            kept = {}
        _things[mask] = now, kept
        return kept
    if mask not in _values and len(_values) >= 64:
        _values.clear()
    return _values.setdefault(mask, {})


def _cached(
    mask: Mask, sample: int | None, q0: int, q1: int, key_len: int, wide: int | None
) -> list[Piece]:
    plans = memory(mask)
    key = (sample, q0, q1, key_len, wide, ROWS)
    if key not in plans:
        if len(plans) >= 128:
            plans.clear()
        cuts = sorted(set(mask.cuts(sample)))
        plans[key] = [
            piece._replace(rect=piece.rect._replace(q0=piece.rect.q0 - q0, q1=piece.rect.q1 - q0))
            for piece in _cover(mask, cuts, sample, q0, q1, [(0, key_len)], wide, True)
        ]
    kept: list[Piece] = plans[key]
    return kept


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
    leaf = q1 - q0 <= ROWS
    grain = ROWS if leaf or wide is None else wide
    found = [
        span for k0, k1 in keys for span in _spans(mask, cuts, Rect(sample, q0, q1, k0, k1), grain)
    ]
    if leaf or not any(mixed for _, _, mixed in found):
        for k0, k1, mixed in _joined(found):
            rect = Rect(sample, q0, q1, *_within_reach(mask, q0, q1, k0, k1))
            yield Piece(rect, mixed, fresh)
            fresh = False
        return
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


def _spans(mask: Mask, cuts: list[int], rect: Rect, grain: int) -> Iterator[tuple[int, int, bool]]:
    """The stretches of keys that these queries see: (start, end, whether mixed), in order."""
    seen = mask.region(rect)
    if seen is False or rect.k0 == rect.k1:
        return
    width = rect.k1 - rect.k0
    middle, border = _middle(cuts, rect.k0, rect.k1)
    if seen or (width <= grain and not (border and width > ROWS // 2)):
        yield rect.k0, rect.k1, not seen
        return
    last: tuple[int, int, bool] | None = None
    for part in (rect._replace(k1=middle), rect._replace(k0=middle)):
        for span in _spans(mask, cuts, part, grain):
            if last and last[1] == span[0] and last[2] == span[2]:
                last = (last[0], span[1], span[2])
                continue
            if last:
                yield last
            last = span
    if last:
        yield last


def _joined(spans: list[tuple[int, int, bool]]) -> Iterator[tuple[int, int, bool]]:
    """Neighbouring short stretches as one: a masked call costs less than two calls and a merge."""
    last: tuple[int, int, bool] | None = None
    for k0, k1, mixed in spans:
        if last and last[1] == k0 and k1 - last[0] <= 2 * WIDE:
            last = (last[0], k1, last[2] or mixed)
            continue
        if last:
            yield last
        last = (k0, k1, mixed)
    if last:
        yield last


def _middle(cuts: list[int], start: int, end: int) -> tuple[int, bool]:
    """Where to halve a range, at the nearest border or a round number, and whether at a border."""
    half = (start + end) // 2
    near = bisect_left(cuts, half)
    inside = [cut for cut in cuts[max(0, near - 1) : near + 1] if start < cut < end]
    if inside:
        return min(inside, key=lambda cut: abs(cut - half)), True
    if end - start > 2 * ROWS:
        half = start + -(-(half - start) // ROWS) * ROWS
    return half, False
