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
from wqkv.attend.engines import reference
from wqkv.attend.geometry import At
from wqkv.attend.masks.algebra import Mask
from wqkv.attend.masks.dense import Entries
from wqkv.errors import WqkvError, describe
from wqkv.maps.proof import Proof, sum_rounding, weight_rounding
from wqkv.maps.weights import BLOCK
from wqkv.record.captured import CapturedCall, Refusal

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
    n, m = call.query.shape[2], call.key.shape[2]
    m = min(m, key_len - at.first_key)  # a static cache has room behind the text
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
        why = "its call is not understood: " + " ".join(str(error).splitlines()[:1])
        raise Refusal(why) from error
    if value.shape[:3] != (len(key), key.shape[1], m):
        raise Refusal(f"its values are {describe(value)} for the keys {describe(key)}")
    step = max(1, BLOCK // max(1, ours.sizes[0] * ours.sizes[1] * m))
    if call.finish is not None:
        return check(_prove_whole(ours, value, call.output, mask, at, step, call.finish))
    parts = _sampled_rows(len(key), n).to(key.device).split(step)
    proof = reduce(
        Proof.plus, (_prove_rows(ours, value, call.output, mask, rows, at) for rows in parts)
    )
    return check(proof)


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
    position, row, first_key = at
    batch, n_head, _, m = call.sizes
    device = rows.device
    some = rows.view(1, 1, -1, 1)
    keys = torch.arange(m, device=device).view(1, 1, 1, -1)
    samples = torch.arange(batch, device=device).view(-1, 1, 1, 1)
    heads = torch.arange(n_head, device=device).view(1, -1, 1, 1)
    here = At(samples, heads, some, some, keys)  # as this call counts: its bias needs it
    shown = At(samples, heads, some + row, some + position, keys + first_key)
    fixed = replace(call.rules, mask=Entries(mask.visible(shown)))
    part = replace(call, query=call.query[:, :, rows], rules=fixed)
    steps = reference.steps(replace(part, value=part.key[..., :0]), here)
    return steps.weights, steps.scores


def _prove_whole(
    call: Call,
    value: Tensor,
    output: Tensor,
    mask: Mask,
    at: Placement,
    step: int,
    finish: Callable[[Tensor], Tensor],
) -> Proof:
    """Compare what the model made of all heads, such as WO or a whole layer, with its own."""
    batch, n_head, n, _ = call.sizes
    v = value.detach().to(reference.exact(call.query))
    v = v.repeat_interleave(n_head // value.shape[1], dim=1)
    pieces, seen = [], []
    for rows in torch.arange(n, device=value.device).split(step):
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


def _prove_rows(
    call: Call, value: Tensor, output: Tensor, mask: Mask, rows: Tensor, at: Placement
) -> Proof:
    """Compare P V with the output on some rows.

    If scores are off by up to e_ij = c (1 + |s_ij|), row i of the output is off by at most
    sum_j P_ij e_ij |v_j| + (sum_j P_ij e_ij) (sum_j P_ij |v_j|).
    """
    n_head = call.sizes[1]
    P, score = _weights(call, mask, rows, at)
    v = value.detach().to(P.dtype).repeat_interleave(n_head // value.shape[1], dim=1)
    theirs = output[:, :, rows].to(P.dtype)
    sees = score != -torch.inf  # NaN counts as seen, so that the proof fails
    filled = sees.any(dim=-1)
    e = P * (1 + score.masked_fill(~sees, 0).abs())
    allowed = e @ v.abs() + e.sum(dim=-1, keepdim=True) * (P @ v.abs())
    c = weight_rounding(call.query, value, output)
    tolerance = (allowed * c + torch.finfo(P.dtype).tiny)[filled]
    empty = int((~filled).any(dim=1).sum())
    if not tolerance.numel():
        return Proof(0.0, 0.0, 0.0, 0, empty)
    compared = int(filled.any(dim=1).sum())
    proof = Proof.compare((P @ v)[filled], theirs[filled], tolerance, compared)
    return replace(proof, empty=empty)
