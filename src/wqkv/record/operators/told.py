"""What is told of an attention that was heard at its operators, by references alone."""

from __future__ import annotations

from typing import NamedTuple

from wqkv.record.operators.nodes import Applied, Argument, Leaf, Node, all_nodes, leaves
from wqkv.record.operators.trails import OutputTrail


class WrittenOut(NamedTuple):
    """Weights that met v in a matrix product, as it was heard."""

    weights: Node
    value: Leaf
    weights_first: bool  # P V; else V^T P^T
    output: Leaf
    trail: OutputTrail  # what the model made of the output shows its heads


class FusedCall(NamedTuple):
    """One call of a kernel that computes a whole attention, and what it returned."""

    applied: Applied
    outputs: tuple[Argument, ...]


class Heard(NamedTuple):
    """One attention that was heard: how, or why it cannot be followed."""

    how: WrittenOut | FusedCall | None
    lost: str = ""
    at: object = None  # what `place` returned there, if it is told of only when the forward ends


def tensors_in(heard: Heard) -> list[Leaf]:
    """Everything that is kept by reference for an attention that was heard."""
    match heard.how:
        case WrittenOut(weights=weights, value=value, output=output):
            before = leaves([one.args for one in all_nodes(weights)])
            return [*(one for one in before if isinstance(one, Leaf)), value, output]
        case FusedCall(applied=applied, outputs=outputs):
            given = (applied.args, applied.kwargs, outputs)
            return [one for one in leaves(given) if isinstance(one, Leaf)]
    return []
