"""Whether a call continues the run before it or begins another: where it stands, what it follows.

One layer cannot always tell. If the kept keys of several beams are equal, or keys carry no
position, several answers are possible. So every layer of a forward (one call of the whole model)
says what its keys allow, and `agreed_step` takes the answer that all layers allow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import NamedTuple

import torch
from torch import Tensor

from wqkv.maps.proof import Proof
from wqkv.record.captured import CHANGED, CapturedCall, MaskReading, Refusal
from wqkv.record.mask_pattern import Pattern, agrees, extend, recognize
from wqkv.record.operators.nodes import Leaf
from wqkv.record.prove_call import Placement, prove
from wqkv.record.run import GrowingTensor, Run, mask_of
from wqkv.upstream.of_torch import version

#: Keeps a tensor as it is now: it is copied before the model writes into it.
Keep = Callable[[Tensor], Leaf]


class SampleMatch(NamedTuple):
    """Which samples of a run each sample of a call may continue, and whether the choice matters."""

    matches: Tensor  # bool (samples of the call, of the run): the kept keys are the same
    alike: Tensor  # bool (samples of the run, of the run): all keys are the same


#: What the keys of a call allow, by how many rows its cache may have been cut back (0: it grows).
Options = dict[int, SampleMatch]
#: The number of rows that stands for cross-attention in Options: its keys belong to another text,
#: and stay however far the cache was cut back.
OTHER_TEXT = -1


class Continuation(NamedTuple):
    """A call that may continue a run."""

    run: Run
    call: CapturedCall
    past: int  # how many of the call's keys were kept from earlier calls
    options: Options

    @property
    def sizes(self) -> tuple[int, int, int]:
        """What the layers of one forward have in common: both batches, and query_len."""
        return len(self.call.key), len(self.run.key.data), self.call.query.shape[2]

    @property
    def plain(self) -> bool:
        """Whether there is nothing to choose: one sample, one option."""
        one = self.sizes[:2] == (1, 1) and len(self.options) == 1
        return one and OTHER_TEXT not in self.options


class TextStep(NamedTuple):
    """How a step continues the text in all layers: the rows it drops and the samples it keeps."""

    cut: int  # how many rows it loses at its end
    order: Tensor | None  # the old sample of each new one; None if it cannot be known


def follow(run: Run, call: CapturedCall) -> Continuation | None:
    """Compare the keys of a call with those of a run; None if it does not continue the run."""
    key, query, had = call.key, call.query, run.key.len
    n, m = query.shape[2], key.shape[2]
    sizes = (key.shape[1], key.shape[3], query.shape[1], query.shape[3])
    ours = (*run.key.data.shape[1::2], *run.query.data.shape[1::2])
    if sizes != ours:  # they differ too if q and k of the run were released
        return None
    found: Options = {}
    if call.cross:
        past = m
        if call.stored_keys:
            found[OTHER_TEXT] = _compare(key, run.key.data, run.key.data)
    else:
        # A static cache is longer than the text, and one that was cut back is shorter.
        past = had if m >= had + n else m - n
        for first in _places_of_first_key(run, key, past) if past > 0 else ():
            whole = run.key.data[:, :, : first + past]
            found[had - first - past] = _compare(key[:, :, :past], whole[:, :, first:], whole)
    options = {cut: one for cut, one in found.items() if bool(one.matches.any(dim=1).all())}
    return Continuation(run, call, past, options) if options else None


def _compare(key: Tensor, kept: Tensor, whole: Tensor) -> SampleMatch:
    matches = _equal_samples(key, kept)
    if bool((matches.sum(dim=1) > 1).any()):
        return SampleMatch(matches, _equal_samples(whole, whole))
    return SampleMatch(matches, torch.eye(len(whole), dtype=torch.bool, device="cpu"))


def _places_of_first_key(run: Run, key: Tensor, past: int) -> Iterator[int]:
    """Where in the run the first of `past` kept keys may stand, by one number of it."""
    ours, last = run.key.data, run.key.len - past
    if not last:
        yield 0
        return
    probe = _bits(ours[:, 0, : last + 1, 0]) == _bits(key[0, 0, 0, 0])
    yield from probe.any(dim=0).nonzero().flatten().tolist()


def _equal_samples(key: Tensor, ours: Tensor) -> Tensor:
    """Which samples of `key` are bit for bit which of `ours`: bool (samples, samples)."""
    key, ours = _bits(key), _bits(ours)
    # First the last position alone, which nearly always decides.
    last = (key[:, None, :, -1] == ours[None, :, :, -1]).flatten(2).all(dim=2)
    found = last.cpu()  # the layers of a model may stand on several devices
    for new, old in found.nonzero().tolist():
        found[new, old] = torch.equal(key[new], ours[old])
    return found


def _bits(x: Tensor) -> Tensor:
    """The bits of a tensor as integers, because NaN is not equal to itself."""
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return x.view(whole[x.itemsize])


def agreed_step(layers: Sequence[Options]) -> TextStep | None:
    """The step that all layers allow; None if there is none, or more than one.

    How far a cache was cut back, and which samples are alike, is told by the layers that look at
    their own text: samples that are alike in all of them are the same text so far.
    """
    own = [options for options in layers if OTHER_TEXT not in options]
    steps = []
    for cut in set.intersection(*map(set, own)) if own else {0}:
        each = [options[OTHER_TEXT if OTHER_TEXT in options else cut] for options in layers]
        matches = reduce(torch.logical_and, (one.matches for one in each))
        each_alike = [options[cut].alike for options in own]
        alike = reduce(
            torch.logical_and, each_alike or [torch.eye(matches.shape[1], device="cpu").bool()]
        )
        if bool(matches.any(dim=1).all()):
            steps.append(TextStep(cut, _choose_samples(matches, alike)))
    return steps[0] if len(steps) == 1 else None


def _choose_samples(matches: Tensor, alike: Tensor) -> Tensor | None:
    """Choose an old sample for each new one, if possible the same; None if the choice matters."""
    order = matches.int().argmax(dim=1)
    if bool((matches & ~alike[order]).any()):
        return None
    if matches.shape[0] == matches.shape[1]:
        order = torch.where(matches.diagonal(), torch.arange(len(order), device="cpu"), order)
    return order


def go_on(going: Continuation, step: TextStep | None) -> Run:
    """Take a call into its run as the step says, or begin another run where it does not fit."""
    run, call = going.run, going.call
    if step is None:
        return begin(call, why="its layers do not agree on one way to go on")
    position = run.end - step.cut
    first_key = 0 if call.cross else position - going.past
    try:
        _extend(run, call, step.order, position, first_key)
    except Refusal as refusal:
        return begin(call, Placement(position, 0, first_key), str(refusal))
    return run


def repeat(run: Run, call: CapturedCall) -> None:
    """Take another call within the same forward of a layer.

    A call with the same q and k (differential attention) is proved, and adds nothing else. A call
    with others that look at themselves alone (the pictures of a batch, one by one) is the next
    document of the run.

    Raises:
        Refusal: it is neither, or its proof fails; then the run is as it was.
    """
    n, m = call.query.shape[2], call.key.shape[2]
    held = min(m, run.key.len)
    old = run.query.len - n
    if (
        old >= 0
        and torch.equal(run.query.data[:, :, old:], call.query)
        and torch.equal(run.key.data[:, :, run.key.len - held :], call.key[:, :, :held])
    ):
        at = Placement(run.start + old, old, run.key.len - held)
        proof = prove(call, run.mask(), at, run.key.len)
        run.add(replace(proof, rows=0, empty=0))  # its rows were counted with the first call
    elif _is_document(run, call):
        _add_document(run, call)
    else:
        raise Refusal("it asks the interface several times in a forward, with different tokens")


def _is_document(run: Run, call: CapturedCall) -> bool:
    """Whether neither the run nor the call can see each other: square, full, and of one shape."""
    pattern, square = run.pattern, run.key.len == run.query.len
    if pattern is None or call.cross or run.bias or call.bias is not None or run.start:
        return False
    plain = (pattern.before, pattern.after, pattern.left, pattern.right, pattern.prefix)
    whole = call.query.shape[2] == call.key.shape[2]
    shapes = call.query.shape[:2] + call.key.shape[:2]
    same = shapes == run.query.data.shape[:2] + run.key.data.shape[:2]
    return plain == (None,) * 5 and square and whole and same and call.readings[0].all


def _add_document(run: Run, call: CapturedCall) -> None:
    assert run.pattern is not None
    had, n = run.key.len, call.key.shape[2]
    starts = run.pattern.starts
    if starts is None:
        starts = torch.zeros((1, had), dtype=torch.long, device=call.key.device)
    new = torch.full((1, n), had, dtype=torch.long, device=call.key.device)
    pattern = replace(run.pattern, starts=torch.cat((starts, new), dim=1))
    proof = prove(call, pattern.mask(), Placement(had, had, had), had + n)
    run.pattern = pattern
    run.query.append(call.query)
    run.key.append(call.key)
    run.add(proof)


# A new run


def begin(
    call: CapturedCall, at: Placement | None = None, why: str = "", keep: Keep | None = None
) -> Run:
    """Begin a run with a call: by the first reading of its mask whose proof holds.

    Args:
        at: where the call stands; None if that is not known.
        why: why it does not continue the run before it.
        keep: keeps a tensor as it is now. With it the proof of a call that can be read in one way
            waits until somebody asks.
    """
    keep = keep if len(call.readings) == 1 and call.backward is None else None
    for reading in call.readings:
        run = _begin_by(call, reading, at, keep)
        run.began = why
        if run.refused is None:
            break
    return run


def _begin_by(
    call: CapturedCall, reading: MaskReading, at: Placement | None, keep: Keep | None
) -> Run:
    n, m = call.query.shape[2], call.key.shape[2]
    visible, length, pattern = reading.visible, m, reading.pattern
    known = at is not None
    if at is not None and not call.cross:
        length = at.position + n - at.first_key
        if m > length and visible.used() > length:  # steps went by unseen
            at = None
    if at is None:
        if not call.cross and m > n:
            # Of a static cache, the keys that some row sees; the room behind them is not the text.
            length = n if reading.first else max(n, visible.used())
        at = Placement(0 if call.cross else max(length - n, 0))
    visible = visible.cut(length)
    if at.first_key:
        visible, pattern = visible.shifted(at.first_key), None
    if pattern is None:
        causal = call.causal and not call.cross
        window = None if call.cross else call.window
        pattern = recognize(visible, at.position, causal=causal, window=window)
    key, value = (_placed(x, length, at.first_key) for x in (call.key, call.value))
    run = Run(
        first=call,
        key=GrowingTensor(key, copy=not at.first_key),  # a cache may be written over
        query=GrowingTensor(call.query, copy=False),
        start=at.position,
        start_known=known or not (call.stored_keys if call.cross else at.position),
        pattern=pattern,
        dense=[] if pattern is not None else [visible.whole()],
        bias=_bias_rows(call, length, at.first_key),
        backward=call.backward,
        notes=call.notes,
    )
    if call.backward is not None:
        call.backward.keep(value, call.output)
    wait = keep is not None and not at.first_key
    run.unproved = (
        _later(run, call, at, keep) if keep is not None and wait
        else partial(prove, call, run.mask(), at, run.key.len)
    )  # fmt: skip
    if not wait:
        run.prove()
    run.release()
    return run


def _later(run: Run, call: CapturedCall, at: Placement, keep: Keep) -> Callable[[], Proof]:
    """The proof of a call, made of what its run keeps and of v and the output as they are now."""
    value = call.value[:, :, : run.key.len].clone()  # a cache may be written over
    kept = keep(value), keep(call.output)
    run.leaves = kept
    call = call._replace(query=run.query.data, key=run.key.data, readings=[])

    def make() -> Proof:
        changed = any(version(x) != then for x, then in run.made_of)
        if changed or any(leaf.is_stale for leaf in kept):
            raise Refusal(CHANGED)
        whole = call._replace(value=kept[0].tensor, output=kept[1].tensor)
        return prove(whole, run.mask(), at, run.key.len)

    return make


def _placed(x: Tensor, length: int, first_key: int) -> Tensor:
    """The first `length` keys or values, after those before them, which no row sees: 0."""
    x = x[:, :, :length]
    if not first_key:
        return x
    return torch.cat((x.new_zeros((*x.shape[:2], first_key, x.shape[3])), x), dim=2)


# The next call of a run


def _closed(pattern: Pattern, rows: int, position: int) -> Pattern:
    """The pattern of a run that goes on: its rows see none of the keys that come now.

    Rows that look ahead saw all keys that there were.
    """
    ahead = (pattern.before, pattern.after, pattern.prefix) == (None, None, None)
    if not ahead or pattern.starts is not None:
        return pattern
    return replace(pattern, after=0) if rows == 1 else replace(pattern, prefix=(position,))


def _extend(
    run: Run, call: CapturedCall, order: Tensor | None, position: int, first_key: int
) -> None:
    """Take the rows of a call into a run.

    Args:
        order: which sample of the run each sample of the call continues.
        position: where the call's first query stands in the text.
        first_key: where its first key stands.

    Raises:
        Refusal: they do not fit; the run is as it was.
    """
    if order is None:
        raise Refusal(
            "samples whose kept keys are alike differ before them, so which goes on is not known"
        )
    n, m = call.query.shape[2], call.key.shape[2]
    cut, pattern = position < run.end, run.pattern
    if position <= run.start:
        raise Refusal("its cache was cut back to before the first row that was seen")
    if cut and (run.dense or run.bias or (pattern and pattern.starts is not None)):
        raise Refusal("its cache was cut back, and its mask or bias is stored row by row")
    key_len = run.key.len if call.cross else position + n
    length = key_len - first_key
    visible = call.readings[0].visible
    if m > length and visible.used() > length:
        raise Refusal(f"its cache of {m} holds keys after position {key_len} that are seen")
    visible = visible.cut(length)
    if bool(run.bias) != (call.bias is not None):
        raise Refusal("a later step has a bias and the first has none, or the other way round")
    dense, bias = ([x if len(x) == 1 else x[order] for x in rows] for rows in (run.dense, run.bias))
    if pattern is None:
        dense.append(_add_hidden_keys(visible.rows(0, n), first_key))
    else:
        pattern = pattern.select(order)
        if call.cross:
            extended = pattern if agrees(pattern.mask(), visible, position) else None
        else:
            closed = _closed(pattern, position - run.start, position)
            extended = extend(closed, visible, position, first_key)
        if extended is None:
            raise Refusal(f"the mask of a later step is not what {pattern.mask()!r} says there")
        pattern = extended
    if len(bias) == 1:  # that of the first call may be one row for all its queries
        bias = [bias[0].expand(-1, -1, run.query.len, -1)]
    bias += _bias_rows(call, length, first_key, n)
    at = Placement(position, position - run.start, first_key)
    proof = prove(call, mask_of(pattern, dense, key_len), at, key_len)
    # Nothing was changed until here, so that a refused call leaves the run as it was.
    if not torch.equal(order, torch.arange(len(run.key.data), device="cpu")):
        run.select(order)
    run.crop(position - run.start)
    run.query.append(call.query)
    if not call.cross:
        run.key.crop(position)
        run.key.append(call.key[:, :, length - n : length])
    run.pattern, run.dense, run.bias = pattern, dense, bias
    run.add(proof)


def _bias_rows(
    call: CapturedCall, length: int, first_key: int, query_len: int = -1
) -> list[Tensor]:
    """The rows of a stored bias, as a map reads them; one for all queries may be repeated."""
    if call.bias is None:
        return []
    bias = call.bias[..., :length] if call.bias.shape[3] > 1 else call.bias
    return [_add_hidden_keys(bias.detach().expand(-1, -1, query_len, -1), first_key)]


def _add_hidden_keys(rows: Tensor, count: int) -> Tensor:
    """Put `count` keys before the first, which no row sees (False), or with a bias of 0."""
    return torch.nn.functional.pad(rows, (count, 0)) if count else rows
