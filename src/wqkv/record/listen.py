"""What one thread runs of a watched model, as the hooks and the attention interface tell it."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wqkv.errors import WqkvError
from wqkv.maps.weights import aside
from wqkv.record.arguments import read
from wqkv.record.captured import Asked, Refusal, Run
from wqkv.record.follow import Going, Options, Step, begin, follow, go_on, repeat, settle
from wqkv.record.modules import (
    Kind,
    attention_like,
    bound,
    device,
    goes_on,
    kind,
    reads_others,
)
from wqkv.upstream.of_torch import plain_name


class Watched:
    """What is known of a model before it runs, and what is wanted of it."""

    def __init__(self, model: nn.Module, wanted: list[int] | None, keep: str) -> None:
        self.model, self.wanted, self.keep = model, wanted, keep
        self.names = {module: plain_name(name) for name, module in model.named_modules()}
        self.like = attention_like(model)


class LayerRuns:
    """One attention layer and what was recorded of it."""

    def __init__(self, name: str, module: nn.Module, kind: Kind | None, wanted: bool) -> None:
        self.name, self.module, self.wanted = name, module, wanted
        self.known = kind
        self.runs: list[Run] = []
        self.reason: str | None = None  # why the last call was not recorded
        self.unseen = 0  # compiled calls since the last that was seen

    @property
    def kind(self) -> Kind:
        """As its name says, or else its mask."""
        if self.known is not None or not self.runs:
            return self.known or "encoder"
        pattern = self.runs[-1].pattern
        return "decoder" if pattern is not None and pattern.after == 0 else "encoder"

    def why(self) -> str | None:
        """Why there is no map; None if there is one."""
        if not self.wanted:
            return "it was not asked for: see `layers`"
        if self.reason is not None:
            return self.reason
        if not self.runs:
            return "it does not use the attention interface"
        if self.unseen:
            return (
                f"it ran compiled and unseen after what was seen, {self.unseen} times: "
                "`runs` has what came before"
            )
        return self.runs[-1].refused


class _Frame(NamedTuple):
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    goes_on: bool


class _Waiting(NamedTuple):
    """A call whose place in its run is known when all layers of the step have been heard."""

    layer: LayerRuns
    asked: Asked
    going: Going | None  # None: another call within the same forward


class Listener:
    """The forwards of one thread, one after the other."""

    def __init__(self, watched: Watched) -> None:
        self.watched, self.name = watched, threading.current_thread().name
        self.layers: dict[tuple[nn.Module, int], LayerRuns] = {}
        self.unseen = 0  # forwards that ran compiled
        self.passed: set[nn.Module] = set()  # what compiled code has run of the model
        self.text: Tensor | None = None  # the token ids of the last text, (batch, length)
        self._visits: Counter[nn.Module] = Counter()
        self._calls: Counter[nn.Module] = Counter()
        self._stack: list[_Frame] = []
        self._masks: dict[Any, Any] = {}
        self._waiting: list[_Waiting] = []
        self._options: defaultdict[tuple[int, int, int], list[Options]] = defaultdict(list)
        self._steps: dict[tuple[int, int, int], Step | None] = {}
        self._heard: list[LayerRuns] = []

    # One forward

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A module begins."""
        if not self._stack:  # a forward begins
            self._visits.clear()
        self._stack.append(_Frame(module, args, kwargs, goes_on(module, args, kwargs)))
        self._visits[module] += 1
        self._calls[module] = 0
        if module in self.watched.like:
            self._layer(module)

    def leave(self, module: nn.Module, output: Any) -> None:
        """A module ends, or failed: then there is no output."""
        frame = None
        while self._stack and (frame := self._stack.pop()).module is not module:
            pass
        layer = self.layers.get((module, max(self._visits[module] - 1, 0)))
        if layer is not None and layer.runs and not self._calls[module] and output is not None:
            layer.reason = "a later call of it did not use the attention interface"
        run = layer.runs[-1] if layer is not None and layer.runs else None
        if self.watched.keep == "statistics" and run is not None and run.kept:
            with aside(run.key.data.device):
                run.reduce()
        if not self._stack and frame is not None:
            self._finish(frame)

    def _finish(self, frame: _Frame) -> None:
        """The forward ends: record what had to wait for all its layers."""
        self._steps = {sizes: settle(layers) for sizes, layers in self._options.items()}
        for layer, asked, going in self._waiting:
            self._record(layer, asked, going)
        self.text = self._read_text(frame)
        self._forget()

    def stop(self) -> None:
        """The watch ends, or an exception went past the hooks."""
        self._stack.clear()
        self._forget()

    def _forget(self) -> None:
        for one in (self._masks, self._waiting, self._options, self._steps, self._heard):
            one.clear()

    def _layer(self, module: nn.Module) -> LayerRuns:
        key, watched = (module, max(self._visits[module] - 1, 0)), self.watched
        if key not in self.layers:
            number, name = len(self.layers), watched.names[module]
            wanted = watched.wanted is None or number in watched.wanted
            known = kind(name, module)
            if key[1]:
                name = f"{name} (run {key[1] + 1})"
            self.layers[key] = LayerRuns(name, module, known, wanted)
        return self.layers[key]

    # One call

    def take(
        self, rule: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> None:
        """Record one call of a model's attention function."""
        layer = self._layer(module)
        count, self._calls[module] = self._calls[module], self._calls[module] + 1
        layer.unseen = 0
        if not layer.wanted or (count and layer.reason is not None):
            return
        frame = next((one for one in reversed(self._stack) if one.module is module), None)
        given = bound(module, frame.args, frame.kwargs) if frame is not None else {}
        cross = layer.kind == "cross" or reads_others(given)
        if cross:
            layer.known = "cross"
        layer.reason = None
        with aside(device(module, args, kwargs)):
            try:
                later = frame is not None and frame.goes_on
                asked = read(rule, module, args, kwargs, out, self._masks, cross, later)
            except Refusal as refusal:
                layer.reason = str(refusal)
                return
            going = follow(layer.runs[-1], asked) if layer.runs and not count else None
            if going is not None:
                self._options[going.sizes].append(going.options)
            if going is not None and (going.plain or not self._stack):
                self._steps[going.sizes] = settle([going.options])
            elif going is not None or (count and any(one.layer is layer for one in self._waiting)):
                asked = asked._replace(output=asked.output.clone())  # the model may write over it
                self._waiting.append(_Waiting(layer, asked, going))
                return
        self._record(layer, asked, going, first=not count)

    def _record(
        self, layer: LayerRuns, asked: Asked, going: Going | None, first: bool = False
    ) -> None:
        """Take a call into a run of its layer, or begin one with the first call of a forward."""
        with aside(asked.key.device):
            try:
                if going is not None:
                    run, new = go_on(going, self._steps[going.sizes])
                elif first or not layer.runs:
                    run, new = begin(asked), True
                else:
                    repeat(layer.runs[-1], asked)
                    return
            except Refusal as refusal:
                layer.reason = str(refusal)
                return
            except WqkvError as error:
                layer.reason = "its call is not understood: " + str(error).partition("\n")[0]
                return
        if new:
            layer.runs.append(run)
        self._heard.append(layer)

    # The text

    def _read_text(self, frame: _Frame) -> Tensor | None:
        """The token ids that each sample holds now; None if they are not all known."""
        given = bound(frame.module, frame.args, frame.kwargs)
        ids = next((given[n] for n in ("decoder_input_ids", "input_ids") if n in given), None)
        if not isinstance(ids, Tensor) or ids.ndim != 2:
            return None
        batch, n = ids.shape
        text = self.text
        step = None if text is None else self._steps.get((batch, len(text), n))
        if text is not None and step is not None:
            kept = text[:, : text.shape[1] - step.cut]
            return None if step.order is None else torch.cat((kept[step.order], ids), dim=1)
        runs = [layer.runs[-1] for layer in self._heard if layer.kind != "cross"]
        fresh = any(run.end == n for run in runs if run.kept and len(run.query.data) == batch)
        return ids.detach().clone() if fresh else None

    # Compiled code

    def pass_by(self, modules: set[nn.Module]) -> None:
        """Compiled code that holds these modules was called."""
        if not self._stack:  # inside a forward it is a part of it
            self.unseen, self.text = self.unseen + 1, None
        self.passed |= modules
        for layer in self.layers.values():
            layer.unseen += layer.module in modules
