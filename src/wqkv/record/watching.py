"""Watching: the hooks of one watch, and what each thread runs of its model."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Literal, Self

import torch
from torch import nn

from wqkv.attend import heard
from wqkv.attend.heard import HeardCall
from wqkv.doors import door
from wqkv.errors import ArgumentError, KindError, describe
from wqkv.record.arguments import OverheardCall
from wqkv.record.listen import Listener
from wqkv.record.modules import ModuleCall, compiled, reached
from wqkv.record.overhear import install, uninstall
from wqkv.record.run_again import in_backward, repeated, repeated_own
from wqkv.record.watched_model import WatchedModel
from wqkv.upstream import of_torch
from wqkv.wrappers import stand_in, unwrapped


@door
class Watching:
    """A watch of a model, while it is on: a context manager, which can be entered once."""

    def __init__(
        self,
        model: nn.Module,
        layers: Iterable[int] | None,
        keep: Literal["all", "statistics"],
        gradients: bool = False,
        processor: Any = None,  # a tokenizer or processor of any library
    ) -> None:
        if keep not in ("all", "statistics"):
            raise ArgumentError(f"`keep` is {keep!r}.\nPass 'all' or 'statistics'.")
        if gradients and keep == "statistics":
            raise ArgumentError(
                "`gradients` is True, and `keep` is 'statistics': an effect needs q and k.\n"
                "Pass keep='all', or no gradients."
            )
        wanted = None if layers is None else list(layers)
        for number in wanted or ():
            if not isinstance(number, int) or isinstance(number, bool):
                raise KindError(
                    f"`layers` holds {describe(number)}, which is no number of a layer.\n"
                    "Pass whole numbers, such as layers=[0, 3]."
                )
            if number < 0:
                raise ArgumentError(
                    f"`layers` holds {number}, and layers are numbered from 0.\nPass 0 or more."
                )
        self._watched = WatchedModel(unwrapped(model), wanted, keep, gradients, processor)
        self._watched.follow(stand_in(model))
        self._compiled = compiled(model)
        self._copies = len(model.device_ids) if isinstance(model, nn.DataParallel) else 0
        self._thread = threading.local()
        self._listeners: list[Listener] = []
        self._only: Listener | None = None
        self._reached: dict[int, tuple[object, set[nn.Module]]] = {}
        self._other_compiled = 0  # calls of compiled functions that may run any model
        self._other_repeated = 0  # calls in a backward pass that repeat none that was seen
        self._exit: ExitStack | None = None
        self._ended = False

    # Begin and end

    def __enter__(self) -> Self:
        if self._exit is not None:
            raise ArgumentError("This watch is on already.\nCall `watch` again for another.")
        if self._ended:
            raise ArgumentError("This watch has ended.\nCall `watch` again for another.")
        with ExitStack() as stack:
            # Hooks of all modules, because a module may look at its own: with one of these
            # nn.TransformerEncoderLayer takes another path, which gives other bits.
            hooks = of_torch.hooked(self._watched.followed, self._enter, self._leave)
            stack.enter_context(hooks)
            stack.enter_context(heard.told(self))
            install(self)
            stack.callback(uninstall, self)
            self._exit = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        stack, self._exit, self._ended = self._exit, None, True
        if stack is not None:
            stack.close()
        self._reached.clear()
        for listener in self._listeners:
            with listener.faults:
                listener.stop()

    # Hooks, as torch calls them, with the keyword arguments of each model's own code.
    def _enter(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> None:
        # First of all whether it compiles: whatever follows would be traced.
        if torch.compiler.is_compiling() or module not in self._watched.followed:
            return
        if in_backward():
            for listener in tuple(self._listeners):
                listener.run_again(module)
            return
        listener = self._running()
        with listener.faults:
            listener.refresh()
            listener.enter(ModuleCall(module, args, kwargs or {}))

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        if torch.compiler.is_compiling() or module not in self._watched.followed or in_backward():
            return
        listener = self._running()
        with listener.faults:
            listener.refresh()
            listener.leave(module, args, output)

    def _running(self) -> Listener:
        """The listener of the thread that runs."""
        listener: Listener | None = getattr(self._thread, "listener", None)
        if listener is None:
            listener = self._thread.listener = Listener(self._watched)
            self._listeners.append(listener)
        return listener

    def _asks(self, module: nn.Module) -> None:
        """An attention function begins: see `overhear.Subscriber`."""
        if module in self._watched.names and not in_backward():
            self._running().ask()

    def _heard(self, call: OverheardCall) -> None:
        """An attention function was called, by any model: see `overhear.Subscriber`."""
        if call.module not in self._watched.names:
            return
        if not in_backward():
            listener = self._running()
            with listener.faults:
                listener.take(call)
        elif self._watched.keep == "all":  # statistics keep nothing that could be compared
            layers = (layer for one in self._listeners for layer in tuple(one.layers.values()))
            for listener in self._listeners[:1]:
                with listener.faults:
                    self._other_repeated += not repeated(layers, call)

    def _called(self, call: HeardCall) -> None:
        """Our own attention was called, by any model: see `heard.Ear`."""
        listener: Listener | None = getattr(self._thread, "listener", None)
        if in_backward():
            if self._watched.keep == "all":
                for one in self._listeners:
                    one.settle()
                layers = (layer for one in self._listeners for layer in tuple(one.layers.values()))
                self._other_repeated += not repeated_own(layers, call)
        elif listener is not None:
            with listener.faults:
                listener.take_own(call)

    def _called_unheard(self, why: str) -> None:
        """Our own attention was called, and no map can be made of it: see `heard.Ear`."""
        listener: Listener | None = getattr(self._thread, "listener", None)
        if listener is not None and not in_backward():
            listener.miss_own(why)

    def _compiled_called(self, function: object) -> None:
        """A compiled function was called, that may run any model: see `overhear.Subscriber`."""
        if of_torch.is_flex_itself(function):
            return  # it is heard as an attention
        key = id(function)  # its id, because a callable may have no hash
        if key not in self._reached:
            self._reached[key] = function, reached(function, self._watched.model)
        listener: Listener | None = getattr(self._thread, "listener", None)
        if listener is not None:
            listener.pass_by_part()
        if modules := self._reached[key][1]:
            self._running().pass_by(modules)
        else:
            self._other_compiled += 1
