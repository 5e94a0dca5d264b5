"""Who hears the calls of attention(): nobody, or the watches that are on (record/watching.py).

A call is heard once, as a whole: what it calls itself, such as attention to one of several pieces
of its keys, is `inside` it. Calls that a graph is made of are not heard.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from wqkv.attend.call import Call

#: Why a rank makes no map of a call whose keys ranks share: it would have to wait for the others.
SHARED = (
    "its tokens are shared by ranks, and this one has only its own: where the layer has a mesh, "
    "`layer.map`, asked on every rank, is the map of the whole text"
)


class HeardCall(NamedTuple):
    """One call, and what it returned: one softmax over the keys of `call` and of `beside`."""

    call: Call
    out: Tensor  # (batch, n_head, query_len, d_v), the tensor itself that its caller gets
    beside: tuple[Call, ...] = ()  # the same queries and other keys, which its map does not show


class Ear(Protocol):
    """Whoever is told of the calls."""

    def _called(self, heard: HeardCall) -> None:
        """A call was made, by any thread."""

    def _called_unheard(self, why: str) -> None:
        """A call was made of which no map can be made here, and why."""


class _Here(threading.local):
    inside = False


_EARS: tuple[Ear, ...] = ()
_LOCK = threading.Lock()
_HERE = _Here()


def listened() -> bool:
    """Whether somebody is to be told of the call that this thread makes now."""
    # First whether it compiles: a graph that had looked at the ears would be made again for each
    # watch.
    return not torch.compiler.is_compiling() and bool(_EARS) and not _HERE.inside


def is_inside() -> bool:
    """Whether this thread runs what is heard as a whole, so that its parts are not heard again."""
    return _HERE.inside


@contextmanager
def inside() -> Iterator[None]:
    """Context of one call that is heard as a whole, or in another way."""
    before, _HERE.inside = _HERE.inside, True
    try:
        yield
    finally:
        _HERE.inside = before


@contextmanager
def told(ear: Ear) -> Iterator[None]:
    """Context in which an ear is told of every call, of any model and thread."""
    global _EARS
    with _LOCK:
        _EARS = (*_EARS, ear)
    try:
        yield
    finally:
        with _LOCK:
            _EARS = tuple(one for one in _EARS if one is not ear)


def tell(heard: HeardCall) -> None:
    """Tell the ears of a call."""
    for ear in _EARS:
        ear._called(heard)


def tell_unheard(why: str) -> None:
    """Tell the ears that there was a call, and why no map of it can be made here."""
    for ear in _EARS:
        ear._called_unheard(why)
