"""What can go wrong, and how a tensor is named in a message.

WqkvError
├── ArgumentError (ValueError)       a value that cannot be: sizes that disagree, an unknown name
├── KindError (TypeError)            a value of the wrong kind: integers for floats, two dtypes
├── EngineError (RuntimeError)       no engine can run the call; the message lists every reason
├── MissedError (LookupError)        a layer whose attention was not captured, or failed its proof
├── MissingExtraError (ImportError)  an optional package is not installed; gives the pip line
└── UpstreamError (ImportError)      the installed torch or transformers lacks a name that is used
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import ModuleType

import torch
from torch import nn

from wqkv.sentences.errors import mistake


class WqkvError(Exception):
    """Base of every error that wqkv raises on purpose: `except wqkv.WqkvError` catches them all.

    The message says what is wrong, what came (a line per argument), and what to do.
    """


class ArgumentError(WqkvError, ValueError):
    """An argument has a value that cannot be, or that disagrees with another argument.

    >>> from wqkv import Window
    >>> Window(-1, 0)
    Traceback (most recent call last):
    wqkv.errors.ArgumentError: Window's `before` is -1, but it counts the other positions seen.
    Pass 0 for none of them, or None for no limit.
    """


class KindError(WqkvError, TypeError):
    """An argument is of the wrong kind: another type or dtype than its annotation allows.

    >>> from wqkv import Chunked
    >>> Chunked(2.5)
    Traceback (most recent call last):
    wqkv.errors.KindError: `size` is an int, not float 2.5.
    Pass one to Chunked(size=...).
    """


class EngineError(WqkvError, RuntimeError):
    """No engine can run the call; the message gives each engine's reasons, as `explain` does."""


class MissedError(WqkvError, LookupError):
    """The attention of a layer was not captured, or failed its proof; the message says which."""


class MissingExtraError(WqkvError, ImportError):
    """An optional package is not installed; the message gives the pip line that installs it."""


class UpstreamError(WqkvError, ImportError):
    """The installed torch or transformers lacks a name that wqkv uses; another version has it."""


#: How the kinds of dtypes are written: torch.float32 is f32.
_SHORT = {"float": "f", "bfloat": "bf", "int": "i", "uint": "u", "complex": "c"}


def describe(value: object) -> str:
    """Describe a tensor as `f32[2, 8, 17, 64] on cpu`, and anything else by its type and value."""
    if isinstance(value, torch.Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        kind = dtype.rstrip("0123456789")
        dtype = _SHORT.get(kind, kind) + dtype[len(kind) :]
        # `shape` may fail for a nested tensor, because its samples have sizes of their own
        shape = (value.size(0), "...") if value.is_nested else value.shape
        return f"{dtype}[{', '.join(str(size) for size in shape)}] on {value.device}"
    if isinstance(value, nn.Module):  # its repr has a line for each module inside
        return f"nn.Module {type(value).__name__}"
    text = " ".join(line.strip() for line in repr(value).splitlines())
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


# Keyword arguments of any function: they are only described.
def message(what: str, came: Mapping[str, object], do: str) -> str:
    """An error in three parts: what is wrong, what came (one line per argument), what to do.

    Args:
        came: the arguments by name, of any kind, because they are only described.
    """
    width = max((len(name) for name in came), default=0) + 1
    lines = [f"  {name + ':':<{width}} {describe(value)}" for name, value in came.items()]
    return "\n".join([what, *lines, do])


def watch_instead(
    why: str, *make: str, model: str = "model", call: str = "model(x)"
) -> ArgumentError:
    """The error for a model that cannot be opened: why, and the Python that watches it instead.

    Args:
        make: the lines of Python that make the model; none if whoever asks holds it.
        model: what is watched.
        call: what runs it.
    """
    lines = [*make, f"with wqkv.watch({model}) as seen:", f"    {call}", "print(seen.report())"]
    python = "\n".join(f"    {line}" for line in lines)
    return ArgumentError(mistake("watch_instead", why=why, python=python))


def need_device(device: torch.device | str) -> torch.device:
    """Return the device, or raise if no tensor can be made on it."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # torch without CUDA fails an assert
        reason = next(iter(str(error).splitlines()), "")[:200]
        raise ArgumentError(
            f"`device` is {str(device)!r}: {reason}\nPass a device of this machine, such as 'cpu'."
        ) from error


def need(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional package, or raise with the pip line that installs it."""
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingExtraError(
            mistake("extra", purpose=purpose, package=package, error=error, extra=extra)
        ) from error
