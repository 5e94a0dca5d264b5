"""A race: every result is compared with ours and its memory taken, then all are timed in turn."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

#: ||theirs - ours|| / ||ours|| may be this much: one wrong number in a million is more.
TOLERANCE = 1e-5


@dataclass
class Contestant:
    """A call ready to run: `leaves` get gradients in training, of which `compared` are checked."""

    name: str
    run: Callable[[], Tensor]
    compared: Sequence[Tensor] = ()
    parameters: Sequence[Tensor] = ()
    notes: dict[str, float] = field(default_factory=dict)

    def step(self, up: Tensor | None) -> Tensor:
        """Forward without a graph, or with `up` as the output's gradient forward and backward."""
        if up is None:
            with torch.no_grad():
                return self.run()
        out = self.run()
        out.backward(up)
        return out.detach()

    def clear(self) -> None:
        for leaf in (*self.compared, *self.parameters):
            leaf.grad = None


class Times(NamedTuple):
    """Seconds of one call: of the processor, in all threads, and by the clock.

    One thread works, so they differ only by what else runs on the machine.
    """

    median: float
    least: float
    clock: float
    repeats: int


class Memory(NamedTuple):
    """Bytes that one call allocates, scratch of kernels included: at once, and in one piece."""

    peak: int
    largest: int


class Sizes(TorchDispatchMode):
    """Records the largest tensor that an operator returns, with its shape."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0
        self.largest: str = "none"

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, Tensor) and x.untyped_storage().nbytes() > self.bytes:
                self.bytes = x.untyped_storage().nbytes()
                dtype = str(x.dtype).removeprefix("torch.")
                self.largest = f"{dtype}{list(x.shape)} from {func}"
        return result


def measured(contestant: Contestant, up: Tensor | None) -> tuple[list[Tensor], Memory]:
    """The output and compared gradients of one call, and its memory."""
    contestant.clear()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        out = contestant.step(up)
    events: Any = seen.profiler.kineto_results.events()
    sizes = [
        e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()) if e.name() == "[memory]"
    ]
    held = peak = 0
    for size in sizes:
        held += size
        peak = max(peak, held)
    gradients = [x.grad for x in contestant.compared if x.grad is not None]
    assert len(gradients) == (0 if up is None else len(contestant.compared))
    return [out, *gradients], Memory(peak, max(sizes, default=0))


def largest_tensor(contestant: Contestant, up: Tensor | None) -> str:
    """The largest tensor of one call, and the operator that returned it."""
    contestant.clear()
    with Sizes() as sizes:
        contestant.step(up)
    return sizes.largest


def difference(theirs: Sequence[Tensor], ours: Sequence[Tensor]) -> float:
    """The largest relative difference; NaN if there is any."""
    if [x.shape for x in theirs] != [x.shape for x in ours]:
        return math.nan
    found = [
        float((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-30))
        for a, b in zip(theirs, ours, strict=True)
    ]
    return math.nan if any(map(math.isnan, found)) else max(found)


def race(
    contestants: Sequence[Contestant], up: Tensor | None, *, budget_s: float, least: int, most: int
) -> dict[str, Times]:
    """Seconds a call, one after the other, each round beginning with the next; gc off."""
    taken: dict[str, list[tuple[float, float]]] = {c.name: [] for c in contestants}
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        for turn in range(-1, most):  # turn -1 warms up
            if turn >= least and time.perf_counter() - start > budget_s:
                break
            shift = turn % len(contestants)
            for contestant in (*contestants[shift:], *contestants[:shift]):
                contestant.clear()
                begun, clock = time.process_time(), time.perf_counter()
                contestant.step(up)
                spent = time.process_time() - begun, time.perf_counter() - clock
                if turn >= 0:
                    taken[contestant.name].append(spent)
    finally:
        gc.enable()
    return {name: _times(spent) for name, spent in taken.items()}


def _times(spent: list[tuple[float, float]]) -> Times:
    busy, clock = zip(*spent, strict=True)
    return Times(statistics.median(busy), min(busy), statistics.median(clock), len(busy))
