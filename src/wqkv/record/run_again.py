"""Calls in a backward pass, where gradient checkpointing runs a layer again: they begin no run."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from wqkv.attend.heard import HeardCall
from wqkv.maps.weights import aside
from wqkv.record.arguments import OverheardCall, output_of, read_tensors
from wqkv.record.captured import Refusal
from wqkv.record.layer_runs import LayerRuns
from wqkv.record.own import OwnRun
from wqkv.record.run import Run
from wqkv.upstream import of_torch


def in_backward() -> bool:
    """Whether this thread runs a backward pass: what runs in it, checkpointing computes again.

    On a GPU that thread is autograd's own, so it must not become one of those that ran the model.
    """
    return bool(of_torch.backward_number() >= 0)


def repeated(layers: Iterable[LayerRuns], overheard: OverheardCall) -> bool:
    """Find the run that a call repeats while a backward pass runs, as gradient checkpointing does.

    It begins no run. If the forward itself ran without gradients (reentrant checkpointing), this
    call's output is the one whose gradient is heard.

    Returns:
        whether it repeats one, or belongs to a layer of which none was recorded.
    """
    layers = [layer for layer in layers if layer.module is overheard.module]
    if not any(run.refused is None for layer in layers for run in layer.runs):
        return True
    with aside(overheard.device):
        try:
            query, key, _, _ = read_tensors(overheard)
        except Refusal:
            return False
        runs = (run for layer in layers for run in layer.runs)
        return _repeated(runs, query, key, output_of(overheard.out))


def repeated_own(layers: Iterable[LayerRuns], heard: HeardCall) -> bool:
    """`repeated` of a call of our own attention, of which it is not known which module made it."""
    runs = [run for layer in layers for run in layer.runs if isinstance(run, OwnRun)]
    with aside(heard.call.query.device):
        return not runs or _repeated(runs, heard.call.query, heard.call.key, heard.out)


def _repeated(runs: Iterable[Run], query: Tensor, key: Tensor, output: Tensor) -> bool:
    found = [
        run for run in runs if torch.equal(run.query.data, query) and torch.equal(run.key.data, key)
    ]
    waiting = [run.backward for run in found if run.backward and run.backward.waits]
    for run in found:
        run.again = True
    for backward in waiting:
        backward.mixed |= len(waiting) > 1
        backward.hear(output)
    return bool(found)
