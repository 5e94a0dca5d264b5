"""What one thread runs of a watched model, as the hooks and the attention interface tell it.

A forward is one call of the whole model; the modules that run at a moment are a stack. The calls of
a layer's attention function within it become runs (see run.py). Where several layers must agree how
a text goes on, their calls wait for the end of the forward.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from types import CodeType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wqkv.attend.heard import HeardCall
from wqkv.errors import WqkvError
from wqkv.maps.weights import aside
from wqkv.record.arguments import OverheardCall, output_of, read_call
from wqkv.record.backward import Backward
from wqkv.record.captured import TRANSFORMED, CapturedCall, Refusal, not_understood, why_untold
from wqkv.record.faults import Faults
from wqkv.record.follow import (
    Continuation,
    Options,
    TextStep,
    agreed_step,
    begin,
    follow,
    go_on,
    repeat,
)
from wqkv.record.inputs.before import Ran
from wqkv.record.inputs.moment import (
    Moment,
    Running,
    is_convolution,
    running,
)
from wqkv.record.layer_runs import LayerRuns
from wqkv.record.modules import ModuleCall, ended_by, kind_of
from wqkv.record.operators.door import OperatorDoor, Returned, Waiting, batch_of, is_joint
from wqkv.record.operators.listening import Listening
from wqkv.record.operators.nodes import close_all, leaves
from wqkv.record.operators.told import FusedCall, Heard, WrittenOut, tensors_in
from wqkv.record.own import OwnDoor
from wqkv.record.read_mask import KnownMasks
from wqkv.record.run import Run
from wqkv.record.texts import sample_with
from wqkv.record.watched_model import WatchedModel
from wqkv.record.write_path import WritePath
from wqkv.upstream import of_torch


class _Frame(NamedTuple):
    """A module that runs now."""

    call: ModuleCall
    stored_keys: bool  # asked when it begins, because it stores keys itself
    visit: int  # how often it began before, in this forward
    untold: str | None  # why nothing that it computes can be kept
    inputs: list[Running]  # what is kept of what it was given, once an attention in it has run


class _WaitingCall(NamedTuple):
    """A call that is recorded when all layers of the forward have been heard."""

    layer: LayerRuns
    call: CapturedCall
    going: Continuation | None  # None: another call of the layer within the same forward


#: Layers with these sizes take the same step: see `Continuation.sizes`.
Sizes = tuple[int, int, int]


class Listener:
    """The forwards of one thread, one after the other."""

    def __init__(self, watched: WatchedModel) -> None:
        self.watched, self.name = watched, threading.current_thread().name
        # The keys are (module, visit, number of the attention). A forward may run a module several
        # times: each of these visits is a layer, and so is each attention that a visit computes.
        self.layers: dict[tuple[nn.Module, int, int], LayerRuns] = {}
        self.unseen = 0  # forwards that ran compiled
        self.forwards = 0  # that were followed
        self.failed = ""  # the exception that has ended the last of them
        self.passed: set[nn.Module] = set()  # what compiled code has run of the model
        self.text: Tensor | None = None  # the token ids of the last text, (batch, length)
        self.path = WritePath(watched.model) if watched.gradients else None
        # the rest is about the forward that runs now
        self._stack: list[_Frame] = []
        self._learns = False  # whether gradients were on when it began
        self._visits: Counter[nn.Module] = Counter()  # how often each module began
        self._calls: Counter[nn.Module] = Counter()  # attention functions called since it began
        self._masks: KnownMasks = {}
        self._waiting: list[_WaitingCall] = []
        self._options: defaultdict[Sizes, list[Options]] = defaultdict(list)
        self._steps: dict[Sizes, TextStep | None] = {}
        self._recorded: list[LayerRuns] = []
        self._given: set[int] = set()  # the ids of the tensors that the model was given
        self._ran = Ran()
        self._moments = 0  # at which an attention ran, in all forwards
        # Runs whose proofs are not made yet. Beside each stands what was heard at its operators,
        # which is read instead if the proof fails.
        self._unproved: list[tuple[Run, Waiting | None]] = []
        self.faults = Faults()
        # what is heard at operators, and how much of it each call of a module has had
        self._mode = Listening(
            watched.model, self._heard, self.faults, self._place, self._ran.operator
        )
        self._door, self._own = OperatorDoor(self.faults), OwnDoor()
        self._counts: Counter[tuple[nn.Module, int]] = Counter()
        self._asked: list[list[Heard]] = []  # attention functions that run now, and what they ran

    # One forward

    def refresh(self) -> None:
        """A module begins or ends: the model may have turned autocast on or off."""
        self._mode.refresh()

    def enter(self, call: ModuleCall) -> None:
        """A module begins."""
        module = call.module
        if self._stack and module is self._stack[0].call.module and _depth(module) == 1:
            self._abandon()
        begins, untold = not self._stack, why_untold()
        if begins:
            if untold is None:
                self.settle()
                self.forwards, self.failed = self.forwards + 1, ""
            self._visits.clear()
            self._counts.clear()
            self._learns = torch.is_grad_enabled()
            given = [x for x in leaves((call.args, call.kwargs)) if isinstance(x, Tensor)]
            self._given = {id(x) for x in given}
            self._ran.begin(given)
        self._stack.append(_Frame(call, call.finds_stored_keys(), self._visits[module], untold, []))
        self._visits[module] += 1
        self._calls[module] = 0
        alone = untold and module is self.watched.model and not self.watched.like
        if alone or module in self.watched.like:
            layer = self._layer(module)
            layer.reason = untold or layer.reason
        if self.path is not None and untold is None:
            with self._mode.paused():
                self.path.enter(call)
        if begins and untold is None:
            self._mode.begin()

    def _abandon(self) -> None:
        """A forward has ended without its hooks, as by KeyboardInterrupt."""
        self._stack.clear()
        self._mode.end()
        self._mode.forget()
        self._forget()

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        """A module has ended. If it has failed, `output` is None."""
        frames = [n for n, one in enumerate(self._stack) if one.call.module is module]
        if frames and self._stack[frames[-1]].untold:
            del self._stack[frames[-1] :]
            return
        if self._stack and self._stack[0].call.module is module:
            self._mode.end()
            failed = sys.exc_info()[0] if output is None else None
            self.failed = "" if failed is None else failed.__name__
        if self.path is None and self.watched.keep == "all":
            self._leave(module, args, output)
            return
        with self._mode.paused():  # some of what follows computes
            self._leave(module, args, output)

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        if is_convolution(module) and isinstance(output, Tensor) and args:
            self._ran.convolution(module, self.watched.names[module], args[0], output)
        if self.path is not None:
            self.path.leave(module, args, output)
        frame = None
        while self._stack and (frame := self._stack.pop()).call.module is not module:
            pass  # drop modules inside it that failed, whose end was never told
        layer = self.layers.get((module, max(self._visits[module] - 1, 0), 0))
        heard = self._calls[module] or self._counts[module, max(self._visits[module] - 1, 0)]
        if layer is not None and layer.runs and not heard and output is not None:
            layer.reason = "no attention was heard in a later call of it"
        if self.watched.keep == "statistics" and layer is not None:
            self._close()
            self.settle()
            self._reduce(layer)
        if not self._stack and frame is not None:
            self._finish(frame.call)

    @staticmethod
    def _reduce(layer: LayerRuns) -> None:
        """Keep the statistics of a layer's last run alone."""
        run = layer.runs[-1] if layer.runs else None
        if run is not None and run.kept:
            with aside(run.key.data.device):
                run.reduce()

    def _finish(self, forward: ModuleCall) -> None:
        """The forward ends: record what had to wait for all its layers."""
        self._steps = {sizes: agreed_step(layers) for sizes, layers in self._options.items()}
        for waiting in self._waiting:
            self._record(*waiting)
        self.text = self._read_text(forward.token_ids)
        self._close()
        self._mode.forget()
        self._forget()

    def stop(self) -> None:
        """The watch ends, or an exception went past the hooks."""
        self._mode.close()
        self._close()
        self._mode.forget()
        self._stack.clear()
        self._forget()

    def _close(self) -> None:
        """The forward ends: from here on nothing tells that a tensor is about to be changed."""
        waiting = [one.heard for _, one in self._unproved if one is not None]
        close_all(leaf for heard in waiting for leaf in tensors_in(heard))
        now = close_all(leaf for run, _ in self._unproved for leaf in run.leaves)
        self._door.close()
        self._own.close()
        if now:
            self._prove()

    def _prove(self) -> None:
        """Make the proofs that wait; where one fails, what was heard at its operators is taken."""
        unproved, self._unproved = self._unproved, []
        for run, waiting in unproved:
            with aside(run.key.data.device):
                run.prove()
            if run.refused is not None and waiting is not None:
                returned = waiting.returned
                assert returned is not None
                returned = returned._replace(refused=run.refused)
                self._door.add(waiting._replace(returned=returned))

    def settle(self) -> None:
        """Read what waits: proofs, calls of our own attention, and what was heard at operators."""
        self._prove()
        self._door.settle()
        self._own.settle()

    def _forget(self) -> None:
        for one in (self._masks, self._waiting, self._options, self._steps, self._recorded):
            one.clear()
        self._asked.clear()  # those that have failed
        if self.path is not None:
            self.path.forget()

    def _layer(self, module: nn.Module, visit: int | None = None, count: int = 0) -> LayerRuns:
        """The layer of a module in a visit, the present one by default.

        Args:
            count: how many attentions were heard in this visit before.
        """
        visit = max(self._visits[module] - 1, 0) if visit is None else visit
        key, watched = (module, visit, count), self.watched
        if key not in self.layers:
            number, name = len(self.layers), watched.names[module]
            wanted = watched.wanted is None or number in watched.wanted
            known = kind_of(name, module)
            name = name or type(module).__name__
            name += f" (run {visit + 1})" if visit else ""
            name += f" (attention {count + 1})" if count else ""
            self.layers[key] = LayerRuns(name, module, known, wanted)
        return self.layers[key]

    def run_again(self, module: nn.Module) -> None:
        """A module runs once more in a backward pass, which is not heard at its operators."""
        for layer in tuple(self.layers.values()):
            layer.again |= layer.at_operators and layer.module is module

    # Operators

    def _heard(self, heard: Heard) -> None:
        """An attention was heard at its operators."""
        if self._stack:
            module, why = self._stack[-1].call.module, self._stack[-1].untold
            if not _is_flex(heard) and _calls(module, of_torch.runs_compiled):
                return  # its memory is used again by what follows, which no operator tells
            if _calls(module, of_torch.runs_mapped):
                why = TRANSFORMED  # which axis is which, no operator tells
            if why is not None:
                self._layer(module).reason = why
                return
        if self._asked and heard.at is None:
            self._asked[-1].append(heard)
        elif isinstance(heard.at, _Frame):
            key = heard.at.call.module, heard.at.visit
            # what its attention functions computed are attentions of their own
            count = self._counts[key] + self._calls[heard.at.call.module]
            self._layer(*key, count).reason = heard.lost
            self._counts[key] += 1
        elif self._stack:
            key = self._stack[-1].call.module, self._stack[-1].visit
            waiting = self._waiting_for(heard, self._counts[key])
            self._counts[key] += 1
            waiting.layer.unseen = 0
            self._add(waiting)

    def _place(self) -> _Frame | None:
        """The module that runs now; None while another door hears what it runs."""
        return self._stack[-1] if self._stack and not self._asked else None

    def _add(self, waiting: Waiting) -> None:
        """Let an attention wait until somebody asks."""
        layer = waiting.layer
        layer.at_operators, layer.again = True, False
        if layer.wanted:
            self._door.add(waiting)

    def _waiting_for(self, heard: Heard, count: int, returned: Returned | None = None) -> Waiting:
        """What is read when somebody asks: an attention of the innermost module that runs.

        Args:
            count: how many attentions were heard in this module before.
            returned: what an attention function has made of it, which could not be read.
        """
        modules = [frame.call.module for frame in reversed(self._stack)]
        frame = self._stack[-1]
        layer = self._layer(frame.call.module, frame.visit, count)
        other = frame.call.reads_other_text and not is_joint(heard, frame.call.joint_len)
        cross = layer.known_kind == "cross" or other
        if cross:
            layer.known_kind = "cross"
        given = self._stack[0].call
        batch = batch_of((*given.args, *given.kwargs.values()))
        if isinstance(heard.how, WrittenOut):
            heard.how.trail.batch = batch
        moment = self._moment() if layer.wanted else None
        return Waiting(layer, heard, modules, cross, batch, returned, moment)

    def _moment(self) -> Moment | None:
        """Keep which modules run now and what they were given; None under keep="statistics".

        What the positions of an attention are is found from it later, when somebody asks.
        """
        if self.watched.keep != "all":
            return None
        for frame in self._stack:
            if not frame.inputs:
                call = frame.call
                name = self.watched.names[call.module]
                frame.inputs.append(running(call.module, name, call.given(), self._given))
        self._moments += 1
        modules = tuple(frame.inputs[0] for frame in self._stack)
        ran, processor = self._ran, self.watched.processor
        return Moment(self._moments, modules, ran.convolved(), self.layers, processor, ran.others())

    # One call

    def ask(self) -> None:
        """An attention function begins."""
        self._asked.append([])

    def take(self, overheard: OverheardCall) -> None:
        """Record one call of a layer's attention function, or note why it cannot be recorded.

        What was heard at its operators is another way to know it, if it cannot be read.
        """
        heard = self._asked.pop() if self._asked else []
        with self._mode.paused():
            self._take(overheard)
        layer = self._layer(overheard.module)
        run = layer.runs[-1] if layer.runs else None
        waits = run is not None and layer.reason is None and run.unproved is not None
        refused = layer.reason or (run.refused if run is not None else None)
        waiting = None
        # One attention was heard while the function ran: then it is what the function computed.
        alone = len(heard) == 1 and bool(self._stack) and not self._asked
        if (refused or waits) and alone and layer.wanted:
            count = max(self._calls[overheard.module] - 1, 0)
            returned = Returned(output_of(overheard.out), refused or "")
            waiting = self._waiting_for(heard[0], count if refused else 0, returned)
        if run is not None and waits:
            self._unproved.append((run, waiting))
        elif waiting is not None:
            layer.reason = None
            self._add(waiting)

    def _take(self, overheard: OverheardCall) -> None:
        module = overheard.module
        layer = self._layer(module)
        count, self._calls[module] = self._calls[module], self._calls[module] + 1
        layer.unseen = 0
        if not layer.wanted or (count and layer.reason is not None):
            return
        frame = next((one for one in reversed(self._stack) if one.call.module is module), None)
        if frame is not None and frame.call.reads_other_text:
            layer.known_kind = "cross"
        layer.reason = None
        with aside(overheard.device):
            try:
                stored_keys = frame is not None and frame.stored_keys
                call = read_call(overheard, self._masks, layer.known_kind == "cross", stored_keys)
            except Refusal as refusal:
                layer.reason = str(refusal)
                return
            if self.path is not None:
                self.path.heads(module, output_of(overheard.out))
                backward = Backward(output_of(overheard.out), self._learns)
                call = call._replace(backward=backward)
            call = call._replace(moment=self._moment())
            going = follow(layer.runs[-1], call) if layer.runs and not count else None
            if going is not None:
                self._options[going.sizes].append(going.options)
            if going is not None and (going.plain or not self._stack):
                self._steps[going.sizes] = agreed_step([going.options])
            elif going is not None or (count and any(one.layer is layer for one in self._waiting)):
                call = call._replace(output=call.output.clone())  # the model may write over it
                self._waiting.append(_WaitingCall(layer, call, going))
                return
        self._record(layer, call, going, first=not count)

    def _record(
        self, layer: LayerRuns, call: CapturedCall, going: Continuation | None, first: bool = False
    ) -> None:
        """Take a call into a run of its layer, or begin one with the first call of a forward."""
        with aside(call.key.device):
            try:
                if going is not None:
                    run = go_on(going, self._steps[going.sizes])
                elif first or not layer.runs:
                    run = begin(call, keep=self._mode.keep)
                    if run.start and layer.runs and layer.runs[-1].kept:
                        run.began = (
                            "it reads earlier keys that the run before it does not have, as where "
                            "a cache is quantized, or belongs to another text"
                        )
                else:
                    repeat(layer.runs[-1], call)
                    layer.runs[-1].take(call.moment)
                    return
            except Refusal as refusal:
                layer.reason = str(refusal)
                return
            except WqkvError as error:
                layer.reason = not_understood(error)
                return
        run.take(call.moment)
        if going is None or run is not going.run:
            layer.runs.append(run)
        self._recorded.append(layer)

    # One call of our own attention

    def take_own(self, heard: HeardCall) -> None:
        """Record a call that the module made which runs now."""
        layer, backward = self._own_layer(), None
        if layer is None or not layer.wanted:
            return
        with self._mode.paused():
            if self.path is not None:
                self.path.heads(layer.module, heard.out.transpose(1, 2))
                backward = Backward(heard.out, self._learns, head_axis=1)
            self._own.add(layer, heard, backward, self._mode.keep, self._moment())
            if self.watched.keep == "statistics":
                self._own.close()
                self._own.settle()
                self._reduce(layer)

    def miss_own(self, why: str) -> None:
        """Note why there is no map of a call that the module made which runs now."""
        layer = self._own_layer()
        if layer is not None:
            layer.reason = why

    def _own_layer(self) -> LayerRuns | None:
        """The layer of the next call of the module that runs now.

        None if none runs, or if it is told of as an attention function of transformers.
        """
        if self._asked or not self._stack:
            return None
        frame = self._stack[-1]
        key = frame.call.module, frame.visit
        layer = self._layer(*key, self._counts[key])
        self._counts[key] += 1
        layer.unseen = 0
        if frame.call.reads_other_keys:
            layer.known_kind = "cross"
        return layer

    # The text

    def _read_text(self, ids: Tensor | None) -> Tensor | None:
        """The token ids that each sample holds now; None if they are not all known."""
        if ids is None:
            return None
        batch, n = ids.shape
        text = self.text
        step = None if text is None else self._steps.get((batch, len(text), n))
        if text is not None and step is not None:
            kept = text[:, : text.shape[1] - step.cut]
            return None if step.order is None else torch.cat((kept[step.order], ids), dim=1)
        runs = [layer.runs[-1] for layer in self._recorded if layer.kind != "cross"]
        fresh = any(run.end == n for run in runs if run.kept and len(run.query.data) == batch)
        return ids.detach().clone() if fresh else None

    def sample_of(self, ids: list[int]) -> int:
        """Which sample of the last text holds these token ids: see `Seen.sample_of`.

        Raises:
            MissedError: none does, or it is not known which.
        """
        runs = [one.runs[-1] for one in self.layers.values() if one.kind == "cross" and one.runs]
        sources = [run.key.data for run in runs if run.kept]
        return sample_with(ids, self.text, ended_by(self.watched.model), sources)

    # Compiled code

    def pass_by_part(self) -> None:
        """The module that runs has called compiled code, which may be its attention."""
        if self._stack:
            self.passed.add(self._stack[-1].call.module)

    def pass_by(self, modules: set[nn.Module]) -> None:
        """Compiled code that may run these modules was called."""
        if not self._stack:  # inside a forward it is a part of it
            self.unseen, self.text = self.unseen + 1, None
        self.passed |= modules
        for layer in self.layers.values():
            layer.unseen += layer.module in modules


def _is_flex(heard: Heard) -> bool:
    """Whether it is FlexAttention, which compiles itself also where nobody compiles the model."""
    return isinstance(heard.how, FusedCall) and heard.how.applied.name == "flex_attention"


def _calls(module: nn.Module, kind: Callable[[CodeType], bool]) -> bool:
    """Whether a function of a kind runs now that a module has called."""
    frame = sys._getframe(1)
    while (caller := frame.f_back) is not None:
        frame = caller
        if kind(frame.f_code):
            return True
        if frame.f_code.co_name == "_call_impl" and frame.f_locals.get("self") is module:
            break
    return False


def _depth(module: nn.Module) -> int:
    """How many calls of a module run now: more than one if it calls itself."""
    count, frame = 0, sys._getframe(1)
    while (caller := frame.f_back) is not None:
        frame = caller
        count += frame.f_code.co_name == "_call_impl" and frame.f_locals.get("self") is module
    return count
