"""An attention that was heard at its operators becomes a call that a run can be made of.

It is *proved* if one product of q and k and the rules of attention give the model's own output. It
is *captured* if more enters its scores, such as terms of another product, or heads are mixed: then
what the model did is computed again and compared, and the map shows the softmax that it took.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wqkv.maps.proof import Proof
from wqkv.record.captured import CapturedCall, Refusal
from wqkv.record.mask_pattern import HIDDEN
from wqkv.record.operators.assemble import assembled
from wqkv.record.operators.laid_out import LaidOut
from wqkv.record.operators.layout import Unreadable
from wqkv.record.operators.nodes import (
    LAYOUTS,
    Leaf,
    Node,
    all_nodes,
    hides,
    leaves,
    softmax_input,
)
from wqkv.record.operators.replay import Replayed, compare, replay
from wqkv.record.operators.scores import read
from wqkv.record.operators.told import FusedCall, Heard, WrittenOut
from wqkv.record.operators.whole_calls import read_fused
from wqkv.record.prove_call import check
from wqkv.record.read_mask import KnownMasks
from wqkv.record.run import Run, Scored, replayed_run


def call_of(heard: Heard, modules: Sequence[nn.Module], known: KnownMasks) -> CapturedCall | Run:
    """What a map is made of; a run of its own where the scores can only be computed again.

    Args:
        modules: those that ran, the innermost first: they say how many heads there are.
        known: the masks that were read before; new ones are added.

    Raises:
        Refusal: it cannot be shown.
    """
    how = heard.how
    if how is None:
        raise Refusal(heard.lost)
    if isinstance(how, FusedCall):
        return read_fused(how, known)
    if how.weights.numel == 0:
        raise Refusal(f"it has no weights: their shape is {list(how.weights.shape)}")
    try:
        scores = read(how.weights)
        if (sink := sink_behind(how)) is not None:
            call = assembled(scores, how._replace(output=sink.output), modules, known)
            return call._replace(sinks=sink.sinks.flatten().expand(call.query.shape[1]))
        call = assembled(scores, how, modules, known)
    except Unreadable as error:
        return replayed(how, modules, str(error))
    except RecursionError:
        return replayed(how, modules, "it has too many steps to be read")
    notes = [*scores.after, *_large_terms(how), *_scaled(how)]
    if scores.after:  # its output is that of other weights: those that came after the softmax
        call = _with_replayed_proof(call, how)
    return call._replace(notes=tuple(notes))


def _with_replayed_proof(call: CapturedCall, how: WrittenOut) -> CapturedCall:
    """The same call, proved by what the model did to the weights after the softmax."""
    rows = call.query.shape[0] * call.query.shape[2]

    def proof() -> Proof:
        return replace(compare(replay(how), how), rows=rows)

    return call._replace(proof=proof)


def replayed(how: WrittenOut, modules: Sequence[nn.Module], why: str) -> Run:
    """A run whose scores are computed again each time that they are asked for.

    Args:
        why: why the formula of attention does not give them.

    Raises:
        Refusal: they cannot be computed again, or do not give the model's own output.
    """
    found = replay(how)
    proof = check(compare(found, how))
    weights = how.weights
    notes = (*_changed_after(weights), *_scaled(how))
    more = len(weights.products) > 1 or bool(weights.odd) or bool(notes)
    reason = f"its scores are computed again as the model did, because {why}" if more else ""

    laid_out = LaidOut(how, modules, found)
    matrix, output = laid_out.scores(found), laid_out.output()
    batch, n_head, n = matrix.shape[:3]
    if output.shape[:3] != matrix.shape[:3]:
        raise Refusal(
            f"a part of its weights met v, or several heads of v: {list(matrix.shape[:3])} of its "
            f"scores, {list(output.shape[:3])} of its output, (batch, head, query)"
        )
    if not _over_keys(found, how):
        raise Refusal("its softmax was not taken over the keys that v has")

    def scores() -> Scored:
        again = replay(how)
        return Scored(laid_out.scores(again), again.first)

    proof = replace(proof, rows=batch * n)
    shape = (batch, n_head, n, laid_out.key_len)
    run = replayed_run(shape, scores, proof, reason, output)
    run.notes = (*notes, *_cut_keys(found, how, laid_out.key_len))
    return run


def _cut_keys(found: Replayed, how: WrittenOut, key_len: int) -> tuple[str, ...]:
    """A note if some keys have weights and no v, so that the map leaves them out.

    Sinks have no v either. They are joined to the scores by `cat`, and need no note.
    """
    m = found.scores.shape[-1]
    if m == key_len or any(one.name == "cat" for one in all_nodes(how.weights)):
        return ()
    return (f"shown are the {key_len} keys that met v, of {m}",)


def _over_keys(found: Replayed, how: WrittenOut) -> bool:
    """Whether weights sum to what their softmax gave along the keys of v, if none was changed."""
    dropped = any(one.name == "native_dropout" for one in all_nodes(how.weights))
    if dropped or _changed_after(how.weights):
        return True  # then the sums tell nothing
    keys = how.value.tensor.shape[-2 if how.weights_first else -1]
    P = found.scores.softmax(dim=-1)[..., found.first : found.first + keys]
    sums = found.weights.sum(dim=-1 if how.weights_first else -2)
    ours, theirs = (x.flatten().nan_to_num().sort().values for x in (P.sum(dim=-1), sums))
    return ours.shape == theirs.shape and torch.allclose(ours, theirs)


def _scaled(how: WrittenOut) -> list[str]:
    """What to say of an output that is multiplied by something that its own scores have made."""
    if how.trail.factor is None:
        return []
    return [
        "its output was multiplied by something that its scores have made, such as a sink's share: "
        "these are the weights before"
    ]


class SinkBehind(NamedTuple):
    """Sinks whose part is taken from an output, and what is left of it."""

    sinks: Tensor
    output: Leaf


def sink_behind(how: WrittenOut) -> SinkBehind | None:
    """Sinks whose part is taken from the output: o sigmoid(lse - sink), per head; None if not so.

    With them the weights sum to sigmoid(lse - sink), as a softmax does that has them among the
    keys.
    """
    factor, product = how.trail.factor, how.trail.product
    if factor is None or product is None:
        return None
    whole, left = how.output.tensor, product.tensor
    if left.shape not in (whole.shape, how.trail.shape):
        return None
    factor = unmoved(factor)
    difference = unmoved(factor.first()) if factor.name == "sigmoid" else None
    if difference is None or difference.name != "sub" or difference.kwargs:
        return None
    lse, sink = difference.args
    if not isinstance(lse, Node) or not isinstance(sink, Leaf):
        return None
    lse = unmoved(lse)
    scores = [softmax_input(one)[0] for one in how.weights.softmaxes]
    same = len(scores) == 1 and unmoved(lse.first()) is unmoved(scores[0])
    if lse.name != "logsumexp" or not same:
        return None
    return SinkBehind(sink.tensor.detach(), Leaf(left.reshape(whole.shape)))


def unmoved(node: Node) -> Node:
    """The Node before those that only move numbers."""
    while node.name in LAYOUTS and isinstance(node.first(), Node):
        node = node.first()
    return node


#: Operators that leave weights as they are where these are numbers, and where no dropout is on.
_KEEPS = frozenset(("nan_to_num", "dropout", "native_dropout"))


def _changed_after(weights: Node) -> tuple[str, ...]:
    """What to say of weights that other operators changed between their softmax and v.

    Those that the formula knows are named too, because it did not give the model's output.
    """
    later = [one.name for one in all_nodes(weights) if one.is_weights and one not in one.softmaxes]
    changed = [name for name in later if name not in LAYOUTS | _KEEPS]
    return (
        (f"shown is its softmax, which `{changed[0]}` changed before it met v",) if changed else ()
    )


def _large_terms(how: WrittenOut) -> list[str]:
    """What to say of a term as large as the scores that is neither a weight nor a mask.

    It was made in the call, perhaps of q or k by another road: the weights are right, and whether
    the term is independent of q and k is not known.
    """
    size = min(one.numel for one in how.weights.softmaxes)
    for node in all_nodes(how.weights):
        for leaf in leaves(node.args):
            if not isinstance(leaf, Leaf) or node in node.products:
                continue
            x = leaf.tensor
            if leaf.learned or not x.is_floating_point() or x.numel() < size:
                continue
            if node.name in ("add", "sub", "rsub", "baddbmm") and not hides(x, HIDDEN):
                return ["with a term as large as the scores, which was made in the call"]
    return []
