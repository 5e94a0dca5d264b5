"""Find what the queries and the keys of a run are, by what the model was given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, reduce
from typing import TypeAlias

import torch
from torch import Tensor

from wqkv.maps.axis import UNKNOWN, Axes, Axis, Parts
from wqkv.record.inputs.joined import read_joined
from wqkv.record.inputs.latents import read_latents
from wqkv.record.inputs.merge_order import read_merge_order
from wqkv.record.inputs.moment import OTHER_TEXTS, CallSizes, HasAxes, Moment, RunCall, Running
from wqkv.record.inputs.patches import read_patches
from wqkv.record.inputs.shifted import read_windows
from wqkv.record.inputs.sound import read_sound
from wqkv.record.inputs.text import read_text

#: Says what the positions of a call are; None if it does not know. It explains every position, or
#: says nothing: a wrong axis is worse than none. UNKNOWN says that no other reader knows either.
Reader: TypeAlias = Callable[[Moment, CallSizes], Axes | None]
#: The readers, in the order in which they are asked.
READERS: tuple[Reader, ...] = (
    read_windows,
    read_merge_order,
    read_latents,
    read_sound,
    read_joined,
    read_text,
    read_patches,
)


def find_axes(
    pieces: Sequence[RunCall], shape: tuple[int, int, int, int], cross: bool, start: int
) -> Axes:
    """What the positions of a run are, found when somebody asks.

    Args:
        pieces: its calls.
        shape: (batch, n_head, query_len, key_len).
        start: the position of its first query, if it looks at its own text.
    """
    batch, _, query_len, key_len = shape
    if not pieces:
        return UNKNOWN
    alone = len(pieces) == 1 and not start

    @cache
    def read() -> list[Axes | None]:
        # of a step of a generation only the new queries are asked about
        return [
            _read(one.moment, CallSizes(one.batch, one.query_len, key_len, cross or not alone))
            for one in pieces
        ]

    @cache
    def queries() -> Sequence[Parts] | None:
        each = [
            _chosen(None if axes is None else axes.queries(), one, batch)
            for axes, one in zip(read(), pieces, strict=True)
        ]
        return _joined(each, query_len)

    @cache
    def keys() -> Sequence[Parts] | None:
        first = read()[0]
        if first is UNKNOWN:
            return None
        found = None if first is None else _chosen(first.keys(), pieces[0], batch)
        if found is not None and _fits(found, key_len):
            return found
        if cross:
            return _earlier(pieces[0].moment, batch, key_len)
        own = queries()
        if own is None or not start:
            return own if own is not None and _fits(own, key_len) else None
        return _joined([[(Axis(start),)] * batch, own], key_len)

    return Axes(queries, keys)


def _read(moment: Moment, sizes: CallSizes) -> Axes | None:
    """What the first reader that knows says."""
    if moment.changed:
        return None
    found = (reader(moment, sizes) for reader in READERS)
    return next((axes for axes in found if axes is not None), None)


def _chosen(found: Sequence[Parts] | None, piece: RunCall, batch: int) -> Sequence[Parts] | None:
    """The samples of a call that the run has now."""
    if found is None:
        return None
    if piece.kept < piece.query_len:
        found = [_cut(parts, piece.kept) for parts in found]
    if piece.order is not None:
        return [found[at] for at in piece.order.tolist()]
    return found if len(found) == batch else None


def _cut(parts: Parts, length: int) -> Parts:
    """The first positions of a text; of a picture or a sound that is cut the names alone."""
    made: list[Axis] = []
    for part in parts:
        if length > 0:
            whole = len(part) <= length
            made.append(part if whole else Axis([part.label(at) for at in range(length)]))
        length -= len(part)
    return tuple(made)


def _fits(samples: Sequence[Parts], length: int) -> bool:
    return all(sum(map(len, parts)) == length for parts in samples)


def _joined(each: Sequence[Sequence[Parts] | None], length: int) -> Sequence[Parts] | None:
    """The axes of calls one behind the other; None where one is not known."""
    known = [one for one in each if one is not None]
    if len(known) < len(each) or len({len(one) for one in known}) != 1:
        return None
    found = [reduce(_behind, parts) for parts in zip(*known, strict=True)]
    return found if _fits(found, length) else None


def _behind(first: Parts, then: Parts) -> Parts:
    """Axes one behind the other; a text that goes on from one call to the next is one."""
    if not first or not then or not _is_text(first[-1]) or not _is_text(then[0]):
        return first + then
    return (*first[:-1], Axis(first[-1].labels + then[0].labels), *then[1:])


def _is_text(axis: Axis) -> bool:
    return axis.grid is None and axis.seconds is None and axis.places is axis.source is None


def _earlier(moment: Moment, batch: int, key_len: int) -> Sequence[Parts] | None:
    """What another tower has read earlier, such as the encoder's text, whose positions are keys.

    That is what ran between two calls of the decoder. If several towers ran there, or one of them
    several times, it is not known which of them is meant, unless all have read the same.
    """
    tower = _given_another(moment)
    before = [
        (run, run.pieces[0].moment)
        for layer in tuple(moment.layers.values())
        for run in layer.runs
        if run.pieces and _number(run) < moment.number
    ]
    others = [
        run
        for run, then in before
        if run.shape[2] == key_len
        and (run.shape[0] in (1, batch) or _is_repeated(then, moment, run.shape[0], batch))
        and not _is_of(then, tower, moment.source)
        and _may_be_seen(then, moment, tower)
    ]
    last = max(map(_number, others), default=0)
    own = [_number(run) for run, then in before if tower and _is_of(then, tower, None)]
    since = max((number for number in own if number < last), default=0)
    found = [run.axes().queries() for run in others if _number(run) > since]
    first = found[0] if found else None
    if first is None or batch % len(first) or not all(_alike(first, one) for one in found):
        return None
    if any(shape[1] == key_len for shape in moment.before.moved if len(shape) == 3):
        return None
    if not all(_in_order(axis) for parts in first for axis in parts):
        return None
    copies = batch // len(first)
    return [first[sample // copies] for sample in range(batch)]


def _is_repeated(then: Moment, now: Moment, few: int, batch: int) -> bool:
    """Whether `generate` of transformers repeats each sample of an encoder, as for its beams."""
    model = now.modules[0].module
    by_transformers = type(model).__module__.startswith("transformers.")
    return by_transformers and then.modules[0].module is not model and batch % few == 0


def _alike(some: Sequence[Parts], others: Sequence[Parts] | None) -> bool:
    """Whether two runs have read the same."""
    if others is None or list(map(len, some)) != list(map(len, others)):
        return False
    return all(
        (one.labels, one.grid, one.seconds) == (other.labels, other.grid, other.seconds)
        and _shows(one, other)
        for pair in zip(some, others, strict=True)
        for one, other in zip(*pair, strict=True)
    )


def _shows(one: Axis, other: Axis) -> bool:
    """Whether two axes have the same source."""
    a, b = (x.source[0] if isinstance(x.source, tuple) else x.source for x in (one, other))
    return a is b or (isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b))


def _may_be_seen(then: Moment, now: Moment, tower: Running | None) -> bool:
    """Whether an attention of `then` may have made what a decoder is given now.

    What the watched model was given was made in a forward before: by a part of the model, because
    what the whole model returns is made by its decoder.
    """
    outer, given = now.modules[0], {} if tower is None else tower.given
    if then.modules[0] is outer:
        return not any(isinstance(given.get(name), Tensor) for name in OTHER_TEXTS)
    return then.modules[0].module is not outer.module


def _in_order(axis: Axis) -> bool:
    """Whether each position is padding or stands on the cell of its number, unlike in windows."""
    if axis.places is None:
        return True
    return all(place in (at, -1) for at, place in enumerate(axis.places.tolist()))


def _number(run: HasAxes) -> int:
    return run.pieces[0].moment.number


def _given_another(moment: Moment) -> Running | None:
    """The outermost module that was given another text to look at, such as a decoder."""
    given = (
        one
        for one in moment.modules
        if any(one.given.get(name) is not None for name in OTHER_TEXTS)
    )
    return next(given, None)


def _is_of(moment: Moment, tower: Running | None, source: Running | None) -> bool:
    """Whether an attention ran inside a tower; where no module was told of another text, whether
    it was a part of the module that was given the source.
    """
    if tower is not None:
        return any(one.module is tower.module for one in moment.modules)
    own = moment.source
    return (own and own.module) is (source and source.module)
