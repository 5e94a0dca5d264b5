"""The two doors that are watched: where a model gets its attention function, and compiled code.

Both are of the whole process, so they open once for all watches; each takes what is its own.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from typing import Any, Protocol

import torch

from wqkv.upstream import of_torch
from wqkv.upstream import of_transformers as upstream


class Watch(Protocol):
    """What is told of every call."""

    def _heard(
        self, rule: str, module: object, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> None:
        """An attention function was called for a module."""

    def _passed_by(self, function: Any) -> None:
        """A compiled function was called: it runs no hook."""


_ACTIVE: list[Watch] = []
_ORIGINAL: list[Any] = []
_LOCK = threading.Lock()


def install(watch: Watch) -> None:
    """Tell a watch of every call, until it is uninstalled."""
    interface = upstream.AttentionInterface
    with _LOCK:
        if not _ACTIVE:
            asked, compiled = interface.__dict__["get_interface"], of_torch.on_compiled_call()
            _ORIGINAL[:] = asked, compiled
            interface.get_interface = _interface(asked)
            of_torch.set_on_compiled_call(_callback(compiled))
        _ACTIVE.append(watch)


def uninstall(watch: Watch) -> None:
    """Tell it no more."""
    interface = upstream.AttentionInterface
    with _LOCK:
        _ACTIVE.remove(watch)
        if not _ACTIVE:
            interface.get_interface, compiled = _ORIGINAL
            of_torch.set_on_compiled_call(compiled)


# The attention interface


def _interface(original: Any) -> Any:
    @functools.wraps(original)
    def get_interface(self: Any, attn_implementation: Any, default: Any) -> Any:
        function = original(self, attn_implementation, default)
        if torch.compiler.is_compiling():
            return function
        return _listening(function, _rule(str(attn_implementation), function is default))

    return get_interface


def _rule(name: str, is_default: bool) -> str:
    """By whose rules a missing mask is read."""
    if is_default:
        return "eager"
    if name == "wqkv":  # ours follows sdpa
        return "sdpa"
    return next((rule for rule in ("sdpa", "flash", "flex") if rule in name), "other")


def _listening(function: Callable[..., Any], rule: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(module: Any, *args: Any, **kwargs: Any) -> Any:
        out = function(module, *args, **kwargs)
        for watch in tuple(_ACTIVE):
            watch._heard(rule, module, args, kwargs, out)
        return out

    return call


# Compiled code


def _callback(original: Any) -> Any:
    """torch asks this in each call of a compiled function, before it runs what it has compiled.

    Hooks of a model that was compiled before never run, and in what is compiled now they are
    traced, where counting would be a change that compiles again. So the caller's frame is looked
    at, which is the only one that knows the function.
    """

    @functools.wraps(original)
    def callback_from_stance(callback: Any) -> Any:
        found = original(callback)
        function = sys._getframe(1).f_locals.get("fn")
        if function is not None and found is not None:  # None: it will run uncompiled
            for watch in tuple(_ACTIVE):
                watch._passed_by(function)
        return found

    return callback_from_stance
