"""The proof of one recorded call: the output that the shown weights give, beside the model's own.

`prove` makes it while a layer is recorded. maps/proof.py says when a proof fails.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from wqkv.attend.call import Call, request
from wqkv.attend.engines import reference, tiled
from wqkv.attend.engines.by_reference import dropout_of_rows
from wqkv.attend.geometry import At
from wqkv.attend.heard import HeardCall
from wqkv.attend.masks.algebra import Mask
from wqkv.attend.masks.dense import Entries
from wqkv.attend.partial import logaddexp, share
from wqkv.attend.rules import Rules
from wqkv.errors import WqkvError, describe
from wqkv.maps.proof import Proof, sum_rounding, weight_rounding
from wqkv.maps.weights import BLOCK
from wqkv.record.captured import CapturedCall, Refusal, not_understood

#: If a batch has at most ALL_ROWS rows, all are proved. Of a larger one SAMPLED_ROWS are, but at
#: least FEWEST of each sample.
ALL_ROWS, SAMPLED_ROWS, FEWEST = 512, 64, 4


class Placement(NamedTuple):
    """Where a call stands in its run."""

    position: int  # of its first query in the text
    row: int = 0  # of its first query in the run's map
    first_key: int = 0  # the position of its first key


def prove(call: CapturedCall, mask: Mask, at: Placement, key_len: int) -> Proof:
    """Compare the weights of a call, as a map of `key_len` keys will show them, with its output.

    Raises:
        Refusal: the call is not understood, or the proof fails.
    """
    if call.proof is not None:
        return check(call.proof())
    m = min(call.key.shape[2], key_len - at.first_key)  # a static cache has room behind the text
    key, value = call.key[:, :, :m], call.value[:, :, :m]
    bias = call.bias
    if bias is not None and bias.shape[3] > 1:
        bias = bias[..., :m]
    try:
        ours = request(
            call.query.detach(),
            key.detach(),
            key.detach(),
            bias=bias,
            scale=call.scale,
            softcap=call.softcap,
            sinks=call.sinks,
        )
    except WqkvError as error:
        raise Refusal(not_understood(error)) from error
    if value.shape[:3] != (len(key), key.shape[1], m):
        raise Refusal(f"its values are {describe(value)} for the keys {describe(key)}")
    if call.finish is not None:
        return check(_prove_whole(ours, value, call.output, mask, at, call.finish))

    def proof_of(rows: Tensor) -> Proof:
        P, score = _weights(ours, mask, rows, at)
        return _compare(P, score, value, call.output[:, :, rows], c)

    c = weight_rounding(call.query, value, call.output)
    return _over_rows(ours, proof_of)


def prove_heard(heard: HeardCall, rules: Rules, row: int = 0) -> Proof:
    """Compare the weights of a call of our own attention, as a map shows them, with its output.

    Dropout is drawn again by the seed of the call.

    Args:
        rules: those of the map, in which the call's first query is row number `row`.

    Raises:
        Refusal: the proof fails.
    """
    shown = [replace(heard.call, rules=rules), *map(_without_dropout, heard.beside)]
    pieces = None if heard.call.seed is None else tiled.plan(heard.call).pieces

    def proof_of(rows: Tensor) -> Proof:
        steps, q = [], heard.call.query.detach()[:, :, rows]
        for one in shown:
            key = one.key.detach()
            part = replace(one, query=q, key=key, value=key[..., :0])
            steps.append(reference.steps(part, _places(part, rows, one.query_offset + row, row)))
        lse = reduce(logaddexp, (one.lse for one in steps))
        P = torch.cat([one.weights * share(one.lse, lse) for one in steps], dim=-1)
        if pieces is not None:
            P = P * dropout_of_rows(heard.call, pieces, rows)
        scores = torch.cat([one.scores for one in steps], dim=-1)
        return _compare(P, scores, value, heard.out.detach()[:, :, rows], c)

    value = torch.cat([one.value.detach() for one in shown], dim=2)
    c = weight_rounding(heard.call.query, value, heard.out)
    return _over_rows(shown[0], proof_of)


def _without_dropout(call: Call) -> Call:
    return replace(call, rules=replace(call.rules, dropout_p=0.0))


def _places(call: Call, rows: Tensor, position: int | Tensor, row: int, first_key: int = 0) -> At:
    """The places of some rows of a call, and of all of its keys; the rest is as in Placement."""
    batch, n_head, _, m = call.sizes
    device = rows.device
    if isinstance(position, Tensor):  # one per sample
        position = position.to(device).view(-1, 1, 1, 1)
    some = rows.view(1, 1, -1, 1)
    samples = torch.arange(batch, device=device).view(-1, 1, 1, 1)
    heads = torch.arange(n_head, device=device).view(1, -1, 1, 1)
    keys = torch.arange(m, device=device).view(1, 1, 1, -1)
    return At(samples, heads, some + row, some + position, keys + first_key)


def _over_rows(call: Call, proof_of: Callable[[Tensor], Proof]) -> Proof:
    """The proof of the rows of a call that are proved, by some at a time.

    Raises:
        Refusal: it fails.
    """
    rows = _sampled_rows(len(call.query), call.query.shape[2]).to(call.key.device)
    return check(reduce(Proof.plus, map(proof_of, rows.split(_step(call)))))


def _step(call: Call) -> int:
    """How many rows are computed in one go."""
    batch, n_head, _, m = call.sizes
    return max(1, BLOCK // max(1, batch * n_head * m))


def check(proof: Proof) -> Proof:
    """Return a proof that holds.

    Raises:
        Refusal: it fails.
    """
    if not proof.holds:
        raise Refusal(
            "its proof failed: the rebuilt output differs from the model's by "
            f"{proof.difference:.1e}, {proof.share:.1f} times what rounding allows"
        )
    return proof


def _sampled_rows(batch: int, query_len: int) -> Tensor:
    """The rows that are proved of every sample, evenly spaced."""
    if batch * query_len <= ALL_ROWS:
        return torch.arange(query_len, device="cpu")
    count = min(query_len, max(SAMPLED_ROWS // batch, FEWEST))
    places = torch.linspace(0, query_len - 1, count, dtype=torch.float64, device="cpu")
    return places.round().long()


def _weights(call: Call, mask: Mask, rows: Tensor, at: Placement) -> tuple[Tensor, Tensor]:
    """The weights and scores of some rows, as the map will show them."""
    here = _places(call, rows, 0, 0)  # as this call counts: its bias needs it
    shown = _places(call, rows, *at)
    fixed = replace(call.rules, mask=Entries(mask.visible(shown)))
    part = replace(call, query=call.query[:, :, rows], value=call.key[..., :0], rules=fixed)
    steps = reference.steps(part, here)
    return steps.weights, steps.scores


def _prove_whole(
    call: Call,
    value: Tensor,
    output: Tensor,
    mask: Mask,
    at: Placement,
    finish: Callable[[Tensor], Tensor],
) -> Proof:
    """Compare what the model made of all heads, such as WO or a whole layer, with its own."""
    batch, n_head, n, _ = call.sizes
    v = value.detach().to(reference.exact(call.query))
    v = v.repeat_interleave(n_head // value.shape[1], dim=1)
    pieces, seen = [], []
    for rows in torch.arange(n, device=value.device).split(_step(call)):
        P, score = _weights(call, mask, rows, at)
        pieces.append(P @ v)
        seen.append((score != -torch.inf).any(dim=-1)[:, 0])
    context = torch.cat(pieces, dim=2).transpose(1, 2).flatten(2)
    filled = torch.cat(seen, dim=1)
    if output.shape[:2] != (batch, n):  # of samples side by side the second axis may be theirs
        output = output.transpose(0, 1)
    theirs = output.to(context.dtype)
    made = finish(context)
    compared = filled & theirs.any(dim=-1)  # rows of padding were never computed: they are 0
    if not bool(compared.any()):
        return Proof(0.0, 0.0, 0.0, 0, int((~filled).sum()))
    tolerance = sum_rounding(theirs if output.dtype == theirs.dtype else output)
    return replace(
        Proof.compare(made[compared], theirs[compared], tolerance, int(compared.sum())),
        empty=int((~filled).sum()),
    )


def _compare(P: Tensor, score: Tensor, value: Tensor, output: Tensor, c: float) -> Proof:
    """Compare P V with the output on some rows.

    If scores are off by up to e_ij = c (1 + |s_ij|), row i of the output is off by at most
    sum_j P_ij e_ij |v_j| + (sum_j P_ij e_ij) (sum_j P_ij |v_j|).
    """
    v = reference.repeat_heads(value.detach().to(P.dtype), P.shape[1] // value.shape[1])
    theirs = output.to(P.dtype)
    sees = score != -torch.inf  # NaN counts as seen, so that the proof fails
    filled = sees.any(dim=-1)
    v = v.masked_fill(~sees.any(dim=2).unsqueeze(-1), 0)  # 0 * NaN is NaN, and padding may hold it
    e = P * (1 + score.masked_fill(~sees, 0).abs())
    allowed = e @ v.abs() + e.sum(dim=-1, keepdim=True) * (P @ v.abs())
    tolerance = (allowed * c + torch.finfo(P.dtype).tiny)[filled]
    empty = int((~filled).any(dim=1).sum())
    if not tolerance.numel():
        return Proof(0.0, 0.0, 0.0, 0, empty)
    compared = int(filled.any(dim=1).sum())
    proof = Proof.compare((P @ v)[filled], theirs[filled], tolerance, compared)
    return replace(proof, empty=empty)
