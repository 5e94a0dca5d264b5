"""Several calls of a layer as one run: where a call stands among the words, and what follows."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from wqkv.look.proofs import prove
from wqkv.look.recognise import agrees, extend, recognise
from wqkv.look.records import Asked, Reading, Rows, Run


def record(run: Run | None, asked: Asked) -> tuple[Run, bool]:
    """Take one call into a run, or begin the next one: (the run, whether it is a new one)."""
    follows = None if run is None or not run.kept or run.refused else _follow(run, asked)
    if run is None or follows is None:
        return _begin(asked), True
    _go_on(run, asked, *follows)
    return run, False


def repeat(run: Run, asked: Asked) -> None:
    """Another call within the same forward of a layer.

    With the same q and k (differential attention) it is proved, and nothing more; with others
    that see themselves alone (the pictures of a batch, one by one) it is the next document.
    """
    n, m = asked.query.shape[2], asked.key.shape[2]
    held = min(m, run.key.len)
    old = run.query.len - n
    if (
        old >= 0
        and torch.equal(run.query.data[:, :, old:], asked.query)
        and torch.equal(run.key.data[:, :, run.key.len - held :], asked.key[:, :, :held])
    ):
        rows, empty = run.rows, run.empty
        prove(run, asked, run.start + old, run.key.len - held)
        run.rows, run.empty = rows, empty
    elif _stands_alone(run, asked):
        _join(run, asked)
    else:
        run.refused = "it asks the interface several times in a forward, with different words"


def _stands_alone(run: Run, asked: Asked) -> bool:
    pattern, square = run.pattern, run.key.len == run.query.len
    if pattern is None or asked.cross or run.bias or asked.bias is not None or run.start:
        return False
    plain = (pattern.before, pattern.after, pattern.left, pattern.right, pattern.prefix)
    whole = asked.query.shape[2] == asked.key.shape[2]
    shapes = asked.query.shape[:2] + asked.key.shape[:2]
    same = shapes == run.query.data.shape[:2] + run.key.data.shape[:2]
    return plain == (None,) * 5 and square and whole and same and asked.readings[0].all


def _join(run: Run, asked: Asked) -> None:
    assert run.pattern is not None
    had, n = run.key.len, asked.key.shape[2]
    starts = run.pattern.starts
    if starts is None:
        starts = torch.zeros((1, had), dtype=torch.long, device=asked.key.device)
    new = torch.full((1, n), had, dtype=torch.long, device=asked.key.device)
    run.pattern = replace(run.pattern, starts=torch.cat((starts, new), dim=1))
    run.query.append(asked.query)
    run.key.append(asked.key)
    prove(run, asked, had, had)


# Where a call stands


def _follow(run: Run, asked: Asked) -> tuple[int, int] | None:
    """(how many of the run's keys stay, the position of key 0 of the call), if it goes on."""
    key, had = asked.key, run.key.len
    n, m = asked.query.shape[2], key.shape[2]
    if key.shape[1::2] != run.key.data.shape[1::2] or len(key) != len(run.key.data):
        return None
    if asked.query.shape[1::2] != run.query.data.shape[1::2]:
        return None
    if asked.cross:
        same = asked.goes_on and m == had and torch.equal(key, run.key.data)
        return (had, 0) if same else None
    if m >= had + n:  # a growing cache, or a static one
        return (had, 0) if _same(run, key[:, :, :had], 0, had) else None
    past = m - n
    if past < 1:
        return None
    if _same(run, key[:, :, :past], had - past, had):  # a window: the oldest keys are gone
        return had, had - past
    if past >= run.start and _same(run, key[:, :, :past], 0, past):  # a cache that was cut
        return past, 0
    return None


def _same(run: Run, key: Tensor, start: int, stop: int) -> bool:
    """Whether these are the run's keys; a beam search changes the order of its samples."""
    ours = run.key.data[:, :, start:stop]
    if torch.equal(ours, key):
        return True
    if len(key) == 1 or stop == start:
        return False
    order = []
    for sample in key:
        found = [b for b, own in enumerate(ours) if torch.equal(own, sample)]
        whole = run.key.data[found, :, :stop]
        if not found or not bool((whole == whole[:1]).all()):  # a window may hide a difference
            return False
        order.append(found[0])
    _reorder(run, torch.tensor(order, device=key.device))
    return True


def _reorder(run: Run, order: Tensor) -> None:
    run.key.select(order)
    run.query.select(order)
    for pieces in (run.dense, run.bias):
        pieces[:] = [piece if len(piece) == 1 else piece[order] for piece in pieces]
    if run.pattern is not None:
        picks = order.tolist()

        def pick(ends: tuple[int, ...] | None) -> tuple[int, ...] | None:
            return ends if ends is None or len(ends) == 1 else tuple(ends[b] for b in picks)

        old = run.pattern
        starts = old.starts if old.starts is None or len(old.starts) == 1 else old.starts[order]
        run.pattern = replace(
            old, left=pick(old.left), right=pick(old.right), prefix=pick(old.prefix), starts=starts
        )


# A new run


def _begin(asked: Asked) -> Run:
    runs = []
    for reading in asked.readings:
        run = _read(asked, reading)
        if run.refused is None:
            return run
        runs.append(run)
    return runs[-1]


def _read(asked: Asked, reading: Reading) -> Run:
    n, m = asked.query.shape[2], asked.key.shape[2]
    visible, length, pattern = reading.visible, m, reading.pattern
    if not asked.cross and m > n:
        length = n if reading.first else max(n, visible.used())
        visible = visible.cut(length)
    start = 0 if asked.cross else length - n
    if start < 0:
        start = 0
    if pattern is None:
        causal = asked.causal and not asked.cross
        pattern = recognise(
            visible, start, causal=causal, window=None if asked.cross else asked.window
        )
    run = Run(
        asked,
        Rows(asked.key[:, :, :length], copy=True),
        Rows(asked.query, copy=False),
        start,
        pattern,
    )
    if pattern is None:
        run.dense.append(visible.whole())
    _add_bias(run, asked, length)
    prove(run, asked, start, 0)
    run.let_go()
    return run


def _add_bias(run: Run, asked: Asked, length: int) -> None:
    if asked.bias is not None:
        bias = asked.bias[..., :length] if asked.bias.shape[3] > 1 else asked.bias
        run.bias.append(bias.detach())


# The next call of a run


def _go_on(run: Run, asked: Asked, stays: int, first_key: int) -> None:
    n, m = asked.query.shape[2], asked.key.shape[2]
    if stays < run.key.len:
        run.key.crop(stays)
        run.query.crop(stays - run.start)
        if run.dense or run.bias or (run.pattern and run.pattern.starts is not None):
            run.refused = "its cache was cut back, and its mask or bias is stored row by row"
            return
    had = run.key.len
    position = run.start + run.query.len
    new = 0 if asked.cross else n
    length = had + new - first_key
    visible = asked.readings[0].visible
    assert length <= m, "`_follow` counts from the keys of the call"
    if m > length and visible.used() > length:
        run.refused = f"its cache of {m} holds keys after position {had + new} that are seen"
        return
    visible = visible.cut(length)
    if bool(run.bias) != (asked.bias is not None):
        run.refused = "a later step has a bias and the first has none, or the other way round"
        return
    if run.pattern is not None:
        if asked.cross:
            same = agrees(run.pattern.mask(), visible, position)
            grown = run.pattern if same else None
        else:
            grown = extend(run.pattern, visible, position, first_key, had)
        if grown is None:
            run.refused = f"the mask of a later step is not what {run.mask()!r} says there"
            return
        run.pattern = grown
    else:
        run.dense.append(_shifted(visible.rows(0, n), first_key))
    if asked.bias is not None:
        cut = asked.bias[..., :length] if asked.bias.shape[3] > 1 else asked.bias
        run.bias.append(_shifted(cut.detach().expand(-1, -1, n, -1), first_key))
    run.query.append(asked.query)
    if new:
        run.key.append(asked.key[:, :, length - n : length])
    prove(run, asked, position, first_key)


def _shifted(rows: Tensor, first_key: int) -> Tensor:
    return torch.nn.functional.pad(rows, (first_key, 0)) if first_key else rows
