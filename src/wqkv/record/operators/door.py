"""The third door: attention that no interface tells of is heard at its operators.

What is heard in a forward waits until somebody asks, or until the next forward begins, because
reading masks and proving costs more than hearing. A tensor that was changed in place in between
refuses the map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from wqkv.attend.masks.algebra import Full
from wqkv.errors import WqkvError
from wqkv.maps.weights import aside
from wqkv.record.captured import CHANGED, CapturedCall, Refusal, check_numbers, not_understood
from wqkv.record.faults import Faults
from wqkv.record.follow import OTHER_TEXT, Continuation, agreed_step, begin, follow, go_on
from wqkv.record.inputs.moment import Moment
from wqkv.record.layer_runs import LayerRuns
from wqkv.record.operators.nodes import Leaf, close_all
from wqkv.record.operators.told import FusedCall, Heard, WrittenOut, tensors_in
from wqkv.record.operators.understand import call_of, replayed
from wqkv.record.read_mask import KnownMasks
from wqkv.record.run import Run

#: Why there is no map where a fault of ours stopped the reading.
READING_FAILED = (
    "wqkv failed while it read what was heard: a fault of wqkv, which the end of the report names"
)


class Returned(NamedTuple):
    """What an attention function has returned, (batch, query_len, n_head, d_v)."""

    output: torch.Tensor
    refused: str  # why its call could not be read

    def check(self, output: torch.Tensor) -> None:
        """Raise if it is not what was heard at its operators, (batch, n_head, query_len, d_v)."""
        ours, theirs = output.transpose(1, 2), self.output.detach()
        if ours.shape != theirs.shape or not torch.equal(ours.nan_to_num(), theirs.nan_to_num()):
            raise Refusal(self.refused)


class Waiting(NamedTuple):
    """An attention that was heard, and is read when its layer is asked."""

    layer: LayerRuns
    heard: Heard
    modules: Sequence[nn.Module]  # that ran, the innermost first
    cross: bool  # whether a module was given another text to look at
    batch: int | None  # samples of the forward
    returned: Returned | None  # by an attention function that could not be read
    moment: Moment | None  # the moment, to find what its positions are


class OperatorDoor:
    """What waits to be read, of one thread."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._waiting: list[Waiting] = []
        self._masks: KnownMasks = {}

    def add(self, one: Waiting) -> None:
        self._waiting.append(one)

    def close(self) -> None:
        """A forward ends. From here on nothing tells that a tensor is about to be changed."""
        if close_all(leaf for one in self._waiting for leaf in tensors_in(one.heard)):
            self.settle()

    def settle(self) -> None:
        """Read all that waits, in the order in which it ran."""
        waiting, self._waiting = self._waiting, []
        steps: list[tuple[Waiting, Continuation]] = []
        for one in waiting:
            one.layer.reason = READING_FAILED
            with self._faults:
                going = self._settle(one, partial(self._run, one))
                steps += [(one, going)] if going is not None else []
        every = [going for _, going in steps]
        for one, going in steps:
            with self._faults:
                self._settle(one, partial(_go_on, one, going, every))
        self._masks.clear()

    @staticmethod
    def _settle(one: Waiting, read: Callable[[], Run | Continuation]) -> Continuation | None:
        """Read a call into a run of its layer; return what has to wait for the other layers."""
        layer = one.layer
        try:
            leaves = tensors_in(one.heard)
            if any(leaf.is_stale for leaf in leaves):
                raise Refusal(CHANGED)
            for leaf in leaves:
                check_numbers(leaf.tensor)
            device = next((x.tensor.device for x in leaves), torch.device("cpu"))
            with aside(device):
                found = read()
        except Refusal as refusal:
            layer.reason = str(refusal)
            return None
        except WqkvError as error:
            layer.reason = not_understood(error)
            return None
        if isinstance(found, Continuation):
            return found
        layer.reason = None
        found.take(one.moment)
        if not layer.runs or found is not layer.runs[-1]:
            layer.runs.append(found)
        return None

    def _run(self, one: Waiting) -> Run | Continuation:
        """The run that a call begins, or how it may continue the layer's last one."""
        layer = one.layer
        found = call_of(one.heard, one.modules, self._masks)
        if isinstance(found, Run):
            if one.returned is not None:
                one.returned.check(found.first.output)
            found.release()
            found.notes = (*_because(one), *found.notes, *_about_windows(found.shape[0], one.batch))
            return found
        if one.returned is not None:
            one.returned.check(found.output)
        n, m = found.query.shape[2], found.key.shape[2]
        everything = found.readings[0].all
        last = layer.runs[-1] if layer.runs and layer.runs[-1].scores is None else None
        # One row at a time looks like a step of its own text, if nothing else tells.
        stays = last is not None and last.first.cross and m == last.key.len
        found = found._replace(
            # More queries than keys, or all keys seen where there are other numbers of them.
            cross=one.cross or stays or m < n or (everything and 1 < n != m),
            notes=(*_because(one), *found.notes, *_about_windows(found.query.shape[0], one.batch)),
        )
        if last is not None and last.kept and not found.finish:
            # Of another text's keys, nothing tells but the text itself whether they were stored.
            going = follow(last, found._replace(stored_keys=found.cross))
            if going is not None and last.first.cross and not found.cross:
                _take_back(last)
            if going is not None:
                return going._replace(call=found)
        return _begin(one, found)


def _begin(one: Waiting, call: CapturedCall) -> Run:
    """A run that begins with a call."""
    n, m = call.query.shape[2], call.key.shape[2]
    if n == 1 < m and call.readings[0].all:
        call = call._replace(cross=True)  # a query of its own, such as a pooling one
    run = begin(call)
    no_cache = run.pattern is None or isinstance(run.pattern.mask(), Full)
    if no_cache and 1 < n < m and not call.cross:
        # Such a mask is that of neighbors in blocks, or of another text.
        run = begin(call._replace(cross=True))
    if run.refused is not None and isinstance(one.heard.how, WrittenOut):
        return replayed(one.heard.how, one.modules, run.refused)
    return run


def _take_back(run: Run) -> None:
    """Read a single row that sees all keys as a step of its own text, which the next step shows.

    Where a watch begins in the midst of a generation, such a row looked like a query of its own.
    """
    plain = run.pattern is not None and isinstance(run.pattern.mask(), Full)
    if plain and run.query.len == 1 < run.key.len:
        run.first = run.first._replace(cross=False)
        run.start, run.start_known = run.key.len - 1, False


def _go_on(one: Waiting, going: Continuation, every: Sequence[Continuation]) -> Run:
    """Continue a run as all layers of the forward allow.

    Cross-attention with the same keys is a step only if the text that asks is continued too: a
    denoising loop asks the same text about another picture each time.
    """
    each = [other.options for other in every if other.sizes == going.sizes]
    step = agreed_step(each) if any(OTHER_TEXT not in options for options in each) else None
    if step is None and going.call.cross:
        return _begin(one, going.call)
    return go_on(going, step or agreed_step([going.options]))


def _because(one: Waiting) -> list[str]:
    """Why a layer that asks an attention function is heard at its operators."""
    if one.returned is None:
        return []
    return [f"heard at its operators, because {one.returned.refused}"]


def _about_windows(size: int, batch: int | None) -> list[str]:
    """What to say of a first axis that is longer than the samples that the model was given."""
    if not batch or size <= batch or size % batch:
        return []
    samples = "the sample" if batch == 1 else f"each of {batch} samples"
    return [f"axis 0 is {size // batch} parts of {samples}, such as windows"]


def batch_of(args: Iterable[object]) -> int | None:
    """The number of samples that a model was given: the first size of its first tensor."""
    found = next((x for x in args if isinstance(x, torch.Tensor) and x.ndim), None)
    return None if found is None else found.shape[0]


def is_joint(heard: Heard, length: int) -> bool:
    """Whether all of two texts together look at all of them, as in SD3 and Flux."""
    match heard.how:
        case WrittenOut(weights=weights):
            return weights.shape.count(length) > 1
        case FusedCall(applied=applied):
            given = [one.tensor for one in applied.args[:2] if isinstance(one, Leaf)]
            return [x.shape[-2] for x in given if x.ndim > 1] == [length, length]
    return False
