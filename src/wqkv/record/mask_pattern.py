"""Where a mask is recognized: a model passes a matrix, and a mask such as Window is made of it.

The matrix is looked at in blocks of rows. From a few of its rows and columns a pattern is guessed
(padding, a window, documents, a prefix), and taken only if every entry agrees with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from wqkv.attend.geometry import places
from wqkv.attend.masks import And, Causal, Full, Lengths, Mask, Not, Prefix, Segments, Window

#: A float mask hides with numbers at or below this one (-1e4, -1e9, the least float, -inf).
HIDDEN = -1e4
#: Entries of a mask that are looked at in one go.
BLOCK = 2**22


@dataclass
class Found:
    """What was found out about a mask, kept because all layers of a model ask the same."""

    matrices: dict[int, Tensor] = field(default_factory=dict)  # by key_len
    used: dict[int, int] = field(default_factory=dict)  # by key_len
    # by (key_len, position, causal, window), as `recognize` is asked
    patterns: dict[tuple[int, int, bool, int | None], Pattern | None] = field(default_factory=dict)


class Visible:
    """Who sees whom in one call, as the model says it: bool blocks of rows, made when asked.

    `ask(a, b)` gives the rows a <= i < b, (batch | 1, n_head | 1, rows | 1, key_len).
    """

    def __init__(
        self,
        query_len: int,
        key_len: int,
        ask: Callable[[int, int], Tensor],
        found: Found | None = None,
    ) -> None:
        self.query_len, self.key_len, self._ask = query_len, key_len, ask
        self.found = Found() if found is None else found

    def rows(self, start: int, stop: int) -> Tensor:
        return self._ask(start, stop)[..., : self.key_len]

    def row(self, i: int) -> Tensor:
        """Row i for every sample: (batch | 1, key_len); of the first head."""
        return self.rows(i, i + 1)[:, 0, 0]

    def cut(self, key_len: int) -> Visible:
        """The first `key_len` keys alone."""
        return Visible(self.query_len, key_len, self._ask, self.found)

    def shifted(self, count: int) -> Visible:
        """The same with `count` more keys before the first, which no row sees."""

        def ask(start: int, stop: int) -> Tensor:
            return torch.nn.functional.pad(self.rows(start, stop), (count, 0))

        return Visible(self.query_len, self.key_len + count, ask) if count else self

    def whole(self) -> Tensor:
        """All rows, as one matrix."""
        if self.key_len not in self.found.matrices:
            self.found.matrices[self.key_len] = self.rows(0, self.query_len)
        return self.found.matrices[self.key_len]

    def blocks(self) -> Iterator[tuple[int, int, Tensor]]:
        step = max(1, BLOCK // max(1, self.key_len))
        for start in range(0, self.query_len, step):
            stop = min(start + step, self.query_len)
            yield start, stop, self.rows(start, stop)

    def used(self) -> int:
        """How many keys there are up to the last that any row sees."""
        if self.key_len not in self.found.used:
            seen = torch.zeros(self.key_len, dtype=torch.bool, device="cpu")
            for _, _, block in self.blocks():
                seen |= block.any(dim=0).any(dim=0).any(dim=0).cpu()
            last = int(seen.nonzero().max()) if bool(seen.any()) else -1
            self.found.used[self.key_len] = last + 1
        return self.found.used[self.key_len]


@dataclass(frozen=True, eq=False)
class Pattern:
    """A mask made of a window, padding, documents and a prefix, in absolute positions."""

    before: int | None = None
    after: int | None = None
    left: tuple[int, ...] | None = None  # per sample, how many keys at the beginning are padding
    right: tuple[int, ...] | None = None  # per sample, where the padding at the end begins
    starts: Tensor | None = None  # (batch | 1, key_len): where each position's document starts
    prefix: tuple[int, ...] | None = None  # per sample, how many first tokens all rows see

    def mask(self) -> Mask:
        span: Mask = Full()
        if self.prefix is not None:
            span = Prefix(list(self.prefix))
        elif (self.before, self.after) == (None, 0):
            span = Causal()
        elif self.before is not None or self.after is not None:
            span = Window(self.before, self.after)
        if self.starts is not None:
            span = span & Segments(self.starts)
        if self.left is not None:
            span = span & ~Lengths(list(self.left))
        if self.right is not None:
            span = span & Lengths(list(self.right))
        return span

    def select(self, order: Tensor) -> Pattern:
        """The pattern of the samples `order`."""

        def pick(ends: tuple[int, ...] | None) -> tuple[int, ...] | None:
            return ends if ends is None or len(ends) == 1 else tuple(ends[b] for b in order)

        starts = self.starts
        if starts is not None and len(starts) > 1:
            starts = starts[order]
        left, right, prefix = pick(self.left), pick(self.right), pick(self.prefix)
        return replace(self, left=left, right=right, prefix=prefix, starts=starts)


def pattern_of(mask: Mask) -> Pattern | None:
    """The pattern of a mask value, by its parts; None if it has a part that is no pattern."""
    match mask:
        case Full():
            return Pattern()
        case Causal():
            return Pattern(after=0)
        case Window(before=before, after=after):
            return Pattern(before, after)
        case Lengths():
            return Pattern(right=_numbers(mask))
        case Not(inner=Lengths() as inner):
            return Pattern(left=_numbers(inner))
        case Prefix():
            return Pattern(prefix=_numbers(mask))
        case Segments(query_labels=None):
            return _side_by_side(mask.labels)
        case And(a=a, b=b):
            found = [pattern_of(a), pattern_of(b)]
            sides = [{k: v for k, v in vars(one).items() if v is not None} for one in found if one]
            # If both sides set the same field, such as `after`, one of the values would be lost.
            if len(sides) == 2 and not sides[0].keys() & sides[1].keys():
                return Pattern(**sides[0], **sides[1])
    return None


def _numbers(mask: Lengths | Prefix) -> tuple[int, ...]:
    ends = mask.ends
    return tuple(ends.tolist()) if isinstance(ends, Tensor) else (ends,)


def _side_by_side(labels: Tensor) -> Pattern | None:
    """The pattern of documents that stand side by side; None if one is interrupted by another."""
    begins = torch.ones_like(labels, dtype=torch.bool)
    begins[:, 1:] = labels.diff(dim=1) != 0
    if any(int(new.sum()) != len(row.unique()) for new, row in zip(begins, labels, strict=True)):
        return None
    place = torch.arange(labels.shape[1], device=labels.device)
    return Pattern(starts=torch.where(begins, place, 0).cummax(dim=1).values)


def agrees(mask: Mask, visible: Visible, position: int, first_key: int = 0) -> bool:
    """Whether a mask value agrees with every row; query 0 stands at `position`."""
    for start, stop, block in visible.blocks():
        batch, n_head = block.shape[:2]
        keys = slice(first_key, first_key + visible.key_len)
        box = (slice(0, batch), n_head, slice(start, stop), keys)
        if bool((mask.visible(places(box, position, block.device)) != block).any()):
            return False
    return True


def rows_of(
    mask: Mask, query_len: int, key_len: int, position: int, device: torch.device
) -> Visible:
    """The rows of a mask value in a call whose query 0 stands at `position`."""

    def ask(start: int, stop: int) -> Tensor:
        batch = max(1, mask._extent()[0])
        box = (slice(0, batch), 1, slice(start, stop), slice(0, key_len))
        seen = mask.visible(places(box, position, device))
        return seen.expand(batch, 1, stop - start, key_len)

    return Visible(query_len, key_len, ask)


def recognize(
    visible: Visible, position: int, *, causal: bool = False, window: int | None = None
) -> Pattern | None:
    """The pattern of a call whose query 0 stands at `position`; None if it has none.

    `causal` and `window` (a count of keys, the query's own included) decide where the matrix has
    too few rows to tell.
    """
    key = (visible.key_len, position, causal, window)
    patterns = visible.found.patterns
    if key not in patterns:
        patterns[key] = _guess(visible, position, causal, window)
    return patterns[key]


def _guess(visible: Visible, position: int, causal: bool, window: int | None) -> Pattern | None:
    """The first pattern, the simplest first, that agrees with every entry."""
    found = _ends(visible)
    if found is None:
        return None
    left, right, starts = found
    padding = Pattern(
        left=tuple(left) if any(left) else None,
        right=tuple(right) if min(right) < visible.key_len else None,
    )
    span = _span(visible, position, left, right, causal, window)
    # Documents and a prefix need rows and keys that are the same tokens.
    square = position == 0 and visible.query_len == visible.key_len
    candidates = [replace(padding, before=span[0], after=span[1])]
    if square and visible.query_len > 1:
        after = 0 if span[1] == 0 else None
        candidates.append(replace(padding, after=after, starts=starts))
        candidates.append(replace(padding, prefix=_prefix(visible, left, right)))
    return next((one for one in candidates if agrees(one.mask(), visible, position)), None)


def _ends(visible: Visible) -> tuple[list[int], list[int], Tensor] | None:
    """Where each sample's visible keys begin and end, and each row's first visible key.

    None for a mask that differs between heads.
    """
    columns: Tensor | None = None
    firsts = []
    for _, _, block in visible.blocks():
        if block.shape[1] > 1 and bool((block != block[:, :1]).any()):
            return None
        seen = block[:, 0].any(dim=1)
        columns = seen if columns is None else columns | seen
        firsts.append(block[:, 0].int().argmax(dim=-1))
    if columns is None:
        return None
    right = columns.shape[1] - columns.flip(1).int().argmax(dim=-1)
    return _first_seen(columns).tolist(), right.tolist(), torch.cat(firsts, dim=1)


def _first_seen(seen: Tensor) -> Tensor:
    """Where each sample's visible keys begin; at the end where there are none, as after padding."""
    return torch.where(seen.any(dim=-1), seen.int().argmax(dim=-1), seen.shape[1])


def _span(
    visible: Visible,
    position: int,
    left: list[int],
    right: list[int],
    causal: bool,
    window: int | None,
) -> tuple[int | None, int | None]:
    """How many keys before and after its own a query sees: (before, after), None for all.

    It is read from two rows of the longest sample, the first and the last whose own key is no
    padding.
    """
    sample = max(range(len(left)), key=lambda b: right[b] - left[b])
    first, end = left[sample], right[sample]
    low = min(max(first - position, 0), visible.query_len - 1)
    high = min(max(end - 1 - position, 0), visible.query_len - 1)
    top, bottom = visible.row(low)[sample].nonzero(), visible.row(high)[sample].nonzero()
    before, after = None, None
    if len(top):  # the first row may end before the last key: it sees so many keys after its own
        reach = int(top.max())
        ahead = reach - (position + low)
        if (reach < end - 1 and ahead >= 0) or (causal and ahead == 0):
            after = ahead
    if len(bottom):  # the last row may begin after the first key: so many before its own
        start, at = int(bottom.min()), position + high
        if first < start <= at:
            before = at - start
        elif window is not None and after == 0 and at - (window - 1) <= first:
            before = window - 1  # the text is too short to show it
    return before, after


def _prefix(visible: Visible, left: list[int], right: list[int]) -> tuple[int, ...]:
    """Per sample, how many keys are seen by its first row that is not padding."""
    ends = []
    for sample, (first, end) in enumerate(zip(left, right, strict=True)):
        seen = visible.row(min(first, visible.query_len - 1))[sample].nonzero()
        ends.append(min(int(seen.max()) + 1 if len(seen) else 0, end))
    return tuple(ends)


def extend(pattern: Pattern, visible: Visible, position: int, first_key: int) -> Pattern | None:
    """Extend the pattern of a run to the rows of its next call; None if no pattern holds for all.

    The run had `position` keys, and the first new row stands there. Keys before `first_key` are
    seen by no new row. New rows may be the first to show a window or a border of documents, and may
    be the first that are no padding.
    """
    end = first_key + visible.key_len
    rows, columns = [], []
    for start, stop, block in visible.blocks():
        seen, row = block[:, 0], torch.arange(start, stop, device=block.device) + position
        first = seen.int().argmax(dim=-1) + first_key
        rows.append(torch.where(seen.any(dim=-1), first, row))  # a row that sees no key: its own
        columns.append(seen.any(dim=1))
    firsts = torch.cat(rows, dim=1)
    if pattern.left is not None and position in pattern.left:  # samples of padding alone so far
        begins = _first_seen(torch.stack(columns).any(dim=0)) + first_key
        pairs = zip(pattern.left, begins.expand(len(pattern.left)).tolist(), strict=True)
        pattern = replace(
            pattern, left=tuple(new if old == position else old for old, new in pairs)
        )
    tries = []
    if pattern.starts is not None:
        tries.append(_grown(pattern, pattern.starts, firsts))
    else:
        tries.append(pattern)
        if (pattern.before, pattern.after, pattern.prefix) == (None, 0, None):
            before = position + visible.query_len - 1 - int(firsts[:, -1].min())
            if position - 1 - before <= min(pattern.left or (0,)):  # the window hid no earlier key
                tries.append(replace(pattern, before=before))
            zero = firsts.new_zeros((1, position))
            tries.append(_grown(pattern, zero, firsts))
    for one in tries:
        mask = one.mask()
        if agrees(mask, visible, position, first_key) and _hides(
            mask, visible, position, first_key
        ):
            return one if one.starts is None or one.starts.shape[1] == end else None
    return None


def _grown(pattern: Pattern, starts: Tensor, firsts: Tensor) -> Pattern:
    """The pattern with documents: known `starts`, and the first key that each new row sees."""
    batch = max(len(starts), len(firsts))
    both = (starts.expand(batch, -1), firsts.to(starts.device).expand(batch, -1))
    return replace(pattern, starts=torch.cat(both, dim=1))


def _hides(mask: Mask, visible: Visible, position: int, first_key: int) -> bool:
    """Whether the mask value hides the keys that a sliding-window cache has dropped."""
    if not first_key:
        return True
    device = visible.row(0).device
    batch = max(1, mask._extent()[0])
    box = (slice(0, batch), 1, slice(0, visible.query_len), slice(0, first_key))
    return not bool(mask.visible(places(box, position, device)).any())


def of_tensor(mask: Tensor, query_len: int, key_len: int) -> tuple[Visible, Tensor | None]:
    """The rows of a stored mask, and the mask again if it also adds other numbers to the scores."""

    def ask(start: int, stop: int) -> Tensor:
        block = mask if mask.shape[2] == 1 else mask[:, :, start:stop]
        seen = block if block.dtype == torch.bool else block > HIDDEN
        return seen.expand(-1, -1, stop - start, -1)

    visible = Visible(query_len, key_len, ask)
    if mask.dtype == torch.bool:
        return visible, None
    step = max(1, BLOCK // max(1, key_len))
    blocks = (mask[:, :, a : a + step] for a in range(0, mask.shape[2], step))
    plain = all(bool(((block == 0) | (block <= HIDDEN)).all()) for block in blocks)
    return visible, None if plain else mask


def of_function(
    mask_mod: Callable[..., Any], batch: int, query_len: int, key_len: int, device: torch.device
) -> Visible:
    """The rows of FlexAttention's function of (batch, head, query, key)."""

    def ask(start: int, stop: int) -> Tensor:
        at = places((slice(0, batch), 1, slice(start, stop), slice(0, key_len)), 0, device)
        seen: Tensor = mask_mod(at.batch, at.head, at.row, at.key_pos)
        return seen.expand(batch, 1, stop - start, key_len)

    return Visible(query_len, key_len, ask)


def of_padding(mask: Tensor) -> Pattern | None:
    """The padding in a mask (batch, key_len) of 0 and 1; None if it is neither left nor right."""
    visible = Visible(1, mask.shape[1], lambda start, stop: mask[:, None, None].bool())
    return recognize(visible, 0) if bool(mask.any()) else None


def documents(bounds: Tensor) -> Tensor:
    """Where each position's document starts, from cumulative lengths (0, n, n + m, ...)."""
    numbers = bounds.tolist()
    starts = [a for a, b in pairwise(numbers) for _ in range(b - a)]
    return torch.tensor([starts], device="cpu")
