"""How slow work tells how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

#: Progress callback (done, total); raise from it to cancel the work.
Progress = Callable[[int, int], None]


def silent(done: int, total: int) -> None:
    """The progress callback that does nothing, for callers that ask for none."""


class Stages:
    """Several stages of one work, each of so many steps: one progress callback counts them all.

    A stage that turns out to have fewer steps leaves the rest of them out.
    """

    def __init__(self, progress: Progress, steps: Sequence[int]) -> None:
        self._progress, self.total = progress, sum(steps)
        self._starts: Iterator[int] = accumulate(steps, initial=0)

    def next(self) -> Progress:
        """The progress callback of the next stage."""
        start = next(self._starts)
        return lambda done, total: self._progress(start + done, self.total)
