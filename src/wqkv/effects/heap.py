"""Memory that was freed goes back to the system, between the blocks of a long text."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache


def give_back() -> None:
    """Give free memory of the C library's heap back to the system, where it is glibc's.

    What a block keeps lies between what it frees. glibc keeps such holes, and the next block's
    tensors do not fit into them: at 1,200 tokens of a small model they grew faster than what was
    kept. Tensors on other devices are not concerned.
    """
    _trim()(0)


@cache
def _trim() -> Callable[[int], object]:
    found = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    return found or (lambda pad: None)
