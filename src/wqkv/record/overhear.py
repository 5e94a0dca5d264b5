"""How a running model is overheard: where it gets its attention function, and in compiled code.

Both places belong to the whole process, so each is changed once for all watches; every watch takes
the calls of its own model. `answered` lets a caller answer the calls in place of the function; no
watch is told of these.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias

import torch
from torch import nn

from wqkv.attend import heard
from wqkv.record.arguments import OverheardCall
from wqkv.record.read_mask import Convention
from wqkv.upstream import of_torch
from wqkv.upstream import of_transformers as upstream


class Subscriber(Protocol):
    """Whoever is told of every call, of any model."""

    def _asks(self, module: nn.Module) -> None:
        """An attention function begins."""

    def _heard(self, call: OverheardCall) -> None:
        """An attention function was called, and has ended."""

    def _compiled_called(self, function: object) -> None:
        """A compiled function was called, whose modules run no hooks."""


#: Answers a call in place of the attention function, which then does not run: it is given the
#: module, the arguments by place and by name (keyword arguments of foreign code), and returns None
#: for calls that are not its own.
Answer: TypeAlias = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], object]

_SUBSCRIBERS: list[Subscriber] = []
_ANSWERS: list[Answer] = []
_ORIGINAL: list[Any] = []  # get_interface (None without transformers), and what torch asks
_LOCK = threading.Lock()


def install(subscriber: Subscriber) -> None:
    """Tell a subscriber of every call, until it is uninstalled."""
    with _LOCK:
        _change_places()
        _SUBSCRIBERS.append(subscriber)


def uninstall(subscriber: Subscriber) -> None:
    """Tell a subscriber no more calls. After the last one both places are as they were."""
    with _LOCK:
        _SUBSCRIBERS.remove(subscriber)
        _restore_places()


@contextmanager
def answered(by: Answer) -> Iterator[None]:
    """Context in which `by` answers the calls of attention functions, of any model and thread."""
    with _LOCK:
        _change_places()
        _ANSWERS.append(by)
    try:
        yield
    finally:
        with _LOCK:
            _ANSWERS.remove(by)
            _restore_places()


def _change_places() -> None:
    """Change both places, if nobody has yet."""
    if _SUBSCRIBERS or _ANSWERS:
        return
    on_compiled = of_torch.on_compiled_call()
    _ORIGINAL[:] = None, on_compiled
    of_torch.set_on_compiled_call(_overheard_compiled(on_compiled))
    if sys.modules.get("transformers") is not None:  # else no model of it runs
        interface = upstream.AttentionInterface
        get_interface = _ORIGINAL[0] = interface.__dict__["get_interface"]
        interface.get_interface = _overheard_interface(get_interface)


def _restore_places() -> None:
    """Put both places back, if nobody needs them."""
    if _SUBSCRIBERS or _ANSWERS:
        return
    get_interface, on_compiled = _ORIGINAL
    of_torch.set_on_compiled_call(on_compiled)
    if get_interface is not None:
        upstream.AttentionInterface.get_interface = get_interface


# The attention interface


def _overheard_interface(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def get_interface(self: Any, attn_implementation: Any, default: Any) -> Any:
        function = original(self, attn_implementation, default)
        if torch.compiler.is_compiling():
            return function
        return _overheard(function, _convention(str(attn_implementation), function is default))

    return get_interface


def _convention(name: str, is_default: bool) -> Convention:
    """The kind of an attention function, by its registered name."""
    if is_default:
        return "eager"
    if "sdpa" in name or name == "wqkv":  # ours follows sdpa
        return "sdpa"
    if "flash" in name:
        return "flash"
    return "flex" if "flex" in name else "other"


def _overheard(function: Callable[..., Any], convention: Convention) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(module: Any, *args: Any, **kwargs: Any) -> Any:
        for by in tuple(_ANSWERS):
            # No subscriber is told: the model did not ask its function.
            with heard.inside():
                answer = by(module, args, kwargs)
            if answer is not None:
                return answer
        told = tuple(_SUBSCRIBERS) if isinstance(module, nn.Module) else ()
        for subscriber in told:
            subscriber._asks(module)
        out = function(module, *args, **kwargs)
        for subscriber in told:
            subscriber._heard(OverheardCall(convention, module, args, kwargs, out))
        return out

    return call


# Compiled code


def _overheard_compiled(original: Callable[..., Any]) -> Callable[..., Any]:
    """torch asks this in each call of a compiled function, before it runs what it has compiled.

    Hooks of a model that was compiled before never run, and in what is compiled now they are
    traced, where counting would be a change that compiles again. So the caller's frame is looked
    at, because no other place knows the function.
    """

    @functools.wraps(original)
    def callback_from_stance(callback: Any) -> Any:
        found = original(callback)
        function = sys._getframe(1).f_locals.get("fn")
        if function is not None and found is not None:  # None: it will run uncompiled
            for subscriber in tuple(_SUBSCRIBERS):
                subscriber._compiled_called(function)
        return found

    return callback_from_stance
