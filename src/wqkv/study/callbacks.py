"""How slow work tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

#: Progress callback (done, total); raise from it to cancel the work.
Progress = Callable[[int, int], None]


def silent(done: int, total: int) -> None:
    """The progress callback that does nothing, for callers that ask for none."""
