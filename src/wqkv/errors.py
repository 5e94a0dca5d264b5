"""What can go wrong, and how a tensor is named in a message.

WqkvError
├── ArgumentError (ValueError)       a value that cannot be: sizes that disagree, a missing word
├── KindError (TypeError)            a thing of the wrong kind: integers for floats, two dtypes
├── EngineError (RuntimeError)       no engine can run the call; lists every reason
├── MissedError (LookupError)        a layer whose attention was not captured, or failed its proof
├── MissingExtraError (ImportError)  an optional package is not installed; gives the pip line
└── UpstreamError (ImportError)      the installed torch or transformers lacks a name that is used
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import torch


class WqkvError(Exception):
    """Everything that wqkv raises for a user's mistake."""


class ArgumentError(WqkvError, ValueError):
    """A value that cannot be."""


class KindError(WqkvError, TypeError):
    """A thing of the wrong kind."""


class EngineError(WqkvError, RuntimeError):
    """No engine can run the call."""


class MissedError(WqkvError, LookupError):
    """A layer whose attention was not captured, or failed its proof."""


class MissingExtraError(WqkvError, ImportError):
    """An optional package is not installed."""


class UpstreamError(WqkvError, ImportError):
    """The installed torch or transformers lacks a name that wqkv uses."""


_SHORT = {"float": "f", "bfloat": "bf", "int": "i", "uint": "u", "complex": "c"}


def describe(value: object) -> str:
    """A tensor as `f32[2, 8, 17, 64] on cpu`; anything else by its type and value."""
    if isinstance(value, torch.Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        kind = dtype.rstrip("0123456789")
        dtype = _SHORT.get(kind, kind) + dtype[len(kind) :]
        # a nested tensor may have no shape: its samples have sizes of their own
        shape = (value.size(0), "...") if value.is_nested else value.shape
        return f"{dtype}[{', '.join(str(size) for size in shape)}] on {value.device}"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def message(what: str, came: dict[str, object], do: str) -> str:
    """An error in three parts: what is wrong, what came (one line an argument), what to do."""
    width = max((len(name) for name in came), default=0) + 1
    lines = [f"  {name + ':':<{width}} {describe(value)}" for name, value in came.items()]
    return "\n".join([what, *lines, do])


def need_device(device: torch.device | str) -> torch.device:
    """A device, or an error where no tensor can be made on it."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # torch asserts that it has CUDA
        reason = next(iter(str(error).splitlines()), "")[:200]
        raise ArgumentError(
            f"`device` is {str(device)!r}: {reason}\nPass a device of this machine, such as 'cpu'."
        ) from error


def need(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional package, or say which pip line brings it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{purpose} needs the package `{module.partition('.')[0]}`: {error}.\n"
            f"Install it with: pip install 'wqkv[{extra}]'"
        ) from error
