"""Several calls of a layer as one run: where a call stands among the tokens, and what follows.

A layer alone cannot always tell. Beams whose kept keys are alike, or keys without positions, leave
several readings; so all layers of a step say what they allow, and `settle` takes what all allow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from wqkv.record.captured import Asked, Reading, Refusal, Rows, Run, mask_of
from wqkv.record.mask_pattern import agrees, extend, recognise
from wqkv.record.prove_call import Standing, prove


class Choice(NamedTuple):
    """Which samples may go on, as the kept keys say, and whether it matters which does."""

    matches: Tensor  # bool (samples of the call, of the run): the kept keys are the same
    alike: Tensor  # bool (samples of the run, of the run): all keys are the same


#: What a call allows, by how many rows its cache may have been cut back (0: it grows).
Options = dict[int, Choice]
#: The one option of keys that belong to another text: they stay, whatever was cut back.
ANY = -1


class Going(NamedTuple):
    """A call that may go on with a run."""

    run: Run
    asked: Asked
    past: int  # how many of the call's keys it has kept
    options: Options

    @property
    def sizes(self) -> tuple[int, int, int]:
        """What layers of one step have in common."""
        return len(self.asked.key), len(self.run.key.data), self.asked.query.shape[2]

    @property
    def plain(self) -> bool:
        """Whether there is nothing to choose: one sample, one option."""
        return self.sizes[:2] == (1, 1) and len(self.options) == 1 and ANY not in self.options


class Step(NamedTuple):
    """What a step of a text does, in all layers: it keeps some rows, and some samples go on."""

    cut: int
    order: Tensor | None  # the old sample of each new one; None if it cannot be known


def record(run: Run | None, asked: Asked) -> tuple[Run, bool]:
    """Take one call into a run, or begin the next one: (the run, whether it is a new one)."""
    going = None if run is None else follow(run, asked)
    return (begin(asked), True) if going is None else go_on(going, settle([going.options]))


def follow(run: Run, asked: Asked) -> Going | None:
    """What the keys of a call say of how it goes on with a run; None if it does not."""
    key, query, had = asked.key, asked.query, run.key.len
    n, m = query.shape[2], key.shape[2]
    sizes = (key.shape[1], key.shape[3], query.shape[1], query.shape[3])
    ours = (*run.key.data.shape[1::2], *run.query.data.shape[1::2])
    if sizes != ours:  # so too where q and k were let go
        return None
    found: Options = {}
    if asked.cross:
        past = m
        if asked.goes_on:
            found[ANY] = _choice(key, run.key.data, run.key.data)
    else:
        past = had if m >= had + n else m - n  # a growing cache or a static one; or one that is cut
        for first in _firsts(run, key, past) if past > 0 else ():
            whole = run.key.data[:, :, : first + past]
            found[had - first - past] = _choice(key[:, :, :past], whole[:, :, first:], whole)
    options = {cut: one for cut, one in found.items() if bool(one.matches.any(dim=1).all())}
    return Going(run, asked, past, options) if options else None


def _choice(key: Tensor, kept: Tensor, whole: Tensor) -> Choice:
    matches = _matches(key, kept)
    if bool((matches.sum(dim=1) > 1).any()):
        return Choice(matches, _matches(whole, whole))
    return Choice(matches, torch.eye(len(whole), dtype=torch.bool, device="cpu"))


def _firsts(run: Run, key: Tensor, past: int) -> Iterator[int]:
    """Where the first of the kept keys may stand in the run."""
    ours, last = run.key.data, run.key.len - past
    if not last:
        yield 0
        return
    probe = _bits(ours[:, 0, : last + 1, 0]) == _bits(key[0, 0, 0, 0])
    yield from probe.any(dim=0).nonzero().flatten().tolist()


def _matches(key: Tensor, ours: Tensor) -> Tensor:
    """Which samples of `key` are bit for bit which of `ours`: bool (sample, sample)."""
    key, ours = _bits(key), _bits(ours)
    last = (key[:, None, :, -1] == ours[None, :, :, -1]).flatten(2).all(dim=2)
    found = last.cpu()  # the layers of a model may stand on several devices
    for new, old in found.nonzero().tolist():
        found[new, old] = torch.equal(key[new], ours[old])
    return found


def _bits(x: Tensor) -> Tensor:
    """A tensor's bits, which are equal where NaN is the same NaN."""
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return x.view(whole[x.itemsize])


def settle(layers: Sequence[Options]) -> Step | None:
    """The step that all layers allow; None if there is none, or more than one.

    How far a cache was cut back, and which samples are alike, is told by the layers that look at
    their own text: samples that are alike in all of them are the same text so far.
    """
    own = [options for options in layers if ANY not in options]
    steps = []
    for cut in set.intersection(*map(set, own)) if own else {0}:
        each = [options[ANY if ANY in options else cut] for options in layers]
        matches = reduce(torch.logical_and, (one.matches for one in each))
        each_alike = [options[cut].alike for options in own]
        alike = reduce(
            torch.logical_and, each_alike or [torch.eye(matches.shape[1], device="cpu").bool()]
        )
        if bool(matches.any(dim=1).all()):
            steps.append(Step(cut, _chosen(matches, alike)))
    return steps[0] if len(steps) == 1 else None


def _chosen(matches: Tensor, alike: Tensor) -> Tensor | None:
    """One old sample for each new one: itself where it may be; None where it matters which."""
    order = matches.int().argmax(dim=1)
    if bool((matches & ~alike[order]).any()):
        return None
    if matches.shape[0] == matches.shape[1]:
        order = torch.where(matches.diagonal(), torch.arange(len(order), device="cpu"), order)
    return order


def go_on(going: Going, step: Step | None) -> tuple[Run, bool]:
    """Take a call into its run as its step says, or begin another where it does not fit."""
    run, asked = going.run, going.asked
    if step is None:
        return begin(asked, why="its layers do not agree on one way to go on"), True
    position = run.end - step.cut
    first_key = 0 if asked.cross else position - going.past
    try:
        _extend(run, asked, step.order, position, first_key)
    except Refusal as refusal:
        return begin(asked, Standing(position, 0, first_key), str(refusal)), True
    return run, False


def repeat(run: Run, asked: Asked) -> None:
    """Take another call within the same forward of a layer.

    With the same q and k (differential attention) it is proved, and nothing more; with others
    that see themselves alone (the pictures of a batch, one by one) it is the next document.

    Raises:
        Refusal: it is neither, or its proof fails.
    """
    n, m = asked.query.shape[2], asked.key.shape[2]
    held = min(m, run.key.len)
    old = run.query.len - n
    if (
        old >= 0
        and torch.equal(run.query.data[:, :, old:], asked.query)
        and torch.equal(run.key.data[:, :, run.key.len - held :], asked.key[:, :, :held])
    ):
        at = Standing(run.start + old, old, run.key.len - held)
        proof = prove(asked, run.mask(), at, run.key.len)
        run.add(replace(proof, rows=0, empty=0))  # they are counted already
    elif _stands_alone(run, asked):
        _join(run, asked)
    else:
        raise Refusal("it asks the interface several times in a forward, with different words")


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
    """Take a call into a run as its next document."""
    assert run.pattern is not None
    had, n = run.key.len, asked.key.shape[2]
    starts = run.pattern.starts
    if starts is None:
        starts = torch.zeros((1, had), dtype=torch.long, device=asked.key.device)
    new = torch.full((1, n), had, dtype=torch.long, device=asked.key.device)
    pattern = replace(run.pattern, starts=torch.cat((starts, new), dim=1))
    run.add(prove(asked, pattern.mask(), Standing(had, had, had), had + n))
    run.pattern = pattern
    run.query.append(asked.query)
    run.key.append(asked.key)


# A new run


def begin(asked: Asked, at: Standing | None = None, why: str = "") -> Run:
    """A run whose first rows are this call's; `at` says where they stand, if that is known."""
    runs = []
    for reading in asked.readings:
        run = _read(asked, reading, at)
        run.began = why
        if run.refused is None:
            return run
        runs.append(run)
    return runs[-1]


def _read(asked: Asked, reading: Reading, at: Standing | None) -> Run:
    n, m = asked.query.shape[2], asked.key.shape[2]
    visible, length, pattern = reading.visible, m, reading.pattern
    known = at is not None
    if at is not None and not asked.cross:
        length = at.position + n - at.first_key
        if m > length and visible.used() > length:  # steps went by unseen
            at = None
    if at is None:
        if not asked.cross and m > n:
            length = n if reading.first else max(n, visible.used())
        at = Standing(0 if asked.cross else max(length - n, 0))
    visible = visible.cut(length)
    if at.first_key:
        visible, pattern = visible.shifted(at.first_key), None
    if pattern is None:
        causal = asked.causal and not asked.cross
        window = None if asked.cross else asked.window
        pattern = recognise(visible, at.position, causal=causal, window=window)
    key = Rows(asked.key[:, :, :length], copy=not at.first_key)
    if at.first_key:  # the keys before it are not known, and no row sees them
        gone = asked.key.new_zeros((*asked.key.shape[:2], at.first_key, asked.key.shape[3]))
        key = Rows(torch.cat((gone, asked.key[:, :, :length]), dim=2), copy=False)
    query = Rows(asked.query, copy=False)
    dense = [] if pattern is not None else [visible.whole()]
    run = Run(asked, key, query, at.position, pattern, dense, _biases(asked, length, at))
    run.found = known or not (asked.goes_on if asked.cross else at.position)
    try:
        run.proof = prove(asked, run.mask(), at, run.key.len)
    except Refusal as refusal:
        run.refused = str(refusal)
    run.let_go()
    return run


def _biases(asked: Asked, length: int, at: Standing) -> list[Tensor]:
    """The rows of a stored bias, as a map will read them."""
    if asked.bias is None:
        return []
    bias = asked.bias[..., :length] if asked.bias.shape[3] > 1 else asked.bias
    return [_shifted(bias.detach(), at.first_key)]


# The next call of a run


def _extend(run: Run, asked: Asked, order: Tensor | None, position: int, first_key: int) -> None:
    """Take the rows of a call into a run.

    Raises:
        Refusal: they do not fit, and the run is as it was.
    """
    if order is None:
        raise Refusal(
            "samples whose kept keys are alike differ before them, so which goes on is not known"
        )
    n, m = asked.query.shape[2], asked.key.shape[2]
    cut, pattern = position < run.end, run.pattern
    if position <= run.start:
        raise Refusal("its cache was cut back to before the first row that was seen")
    if cut and (run.dense or run.bias or (pattern and pattern.starts is not None)):
        raise Refusal("its cache was cut back, and its mask or bias is stored row by row")
    key_len = run.key.len if asked.cross else position + n
    length = key_len - first_key
    visible = asked.readings[0].visible
    if m > length and visible.used() > length:
        raise Refusal(f"its cache of {m} holds keys after position {key_len} that are seen")
    visible = visible.cut(length)
    if bool(run.bias) != (asked.bias is not None):
        raise Refusal("a later step has a bias and the first has none, or the other way round")
    pieces = [[x if len(x) == 1 else x[order] for x in held] for held in (run.dense, run.bias)]
    dense, bias = pieces
    if pattern is None:
        dense.append(_shifted(visible.rows(0, n), first_key))
    else:
        pattern = pattern.select(order)
        if asked.cross:
            grown = pattern if agrees(pattern.mask(), visible, position) else None
        else:
            grown = extend(pattern, visible, position, first_key, position)
        if grown is None:
            raise Refusal(f"the mask of a later step is not what {pattern.mask()!r} says there")
        pattern = grown
    if asked.bias is not None:
        part = asked.bias[..., :length] if asked.bias.shape[3] > 1 else asked.bias
        bias.append(_shifted(part.detach().expand(-1, -1, n, -1), first_key))
    at = Standing(position, position - run.start, first_key)
    proof = prove(asked, mask_of(pattern, dense, key_len), at, key_len)
    same = torch.equal(order, torch.arange(len(run.key.data), device="cpu"))
    for rows in () if same else (run.key, run.query):
        rows.select(order)
    run.query.crop(position - run.start)
    run.query.append(asked.query)
    if not asked.cross:
        run.key.crop(position)
        run.key.append(asked.key[:, :, length - n : length])
    run.pattern, run.dense, run.bias = pattern, dense, bias
    run.add(proof)


def _shifted(rows: Tensor, first_key: int) -> Tensor:
    return torch.nn.functional.pad(rows, (first_key, 0)) if first_key else rows
