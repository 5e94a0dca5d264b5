"""The proof of a layer: P V, of the weights that will be shown, against the model's own output."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from wqkv.attend.algebra import Mask
from wqkv.attend.call import Call, request
from wqkv.attend.engines import reference
from wqkv.attend.places import At
from wqkv.errors import WqkvError, describe
from wqkv.look.records import Asked, Run
from wqkv.maps.weights import BLOCK

#: Up to this many rows of a batch are all proved; of more, this many are sampled, but no fewer of
#: each sample than FEWEST.
ALL_ROWS, SAMPLED_ROWS, FEWEST = 512, 64, 4


class Proof(NamedTuple):
    """|P V - output|: the largest share of the allowed difference, and what it is made of."""

    error: float
    share: float
    rows: int
    empty: int


def prove(run: Run, asked: Asked, position: int, first_key: int) -> None:
    """Compare the weights of this call, as they will be shown, with the model's output."""
    n, m = asked.query.shape[2], asked.key.shape[2]
    m = min(m, run.key.len - first_key)
    key, value = asked.key[:, :, :m], asked.value[:, :, :m]
    bias = asked.bias
    if bias is not None and bias.shape[3] > 1:
        bias = bias[..., :m]
    try:
        call = request(
            asked.query.detach(),
            key.detach(),
            key.detach(),
            bias=bias,
            scale=asked.scale,
            softcap=asked.softcap,
            sinks=asked.sinks,
        )
    except WqkvError as error:
        run.refused = "its call is not understood: " + " ".join(str(error).splitlines()[:1])
        return
    if value.shape[:3] != (len(key), key.shape[1], m):
        run.refused = f"its values are {describe(value)} for the keys {describe(key)}"
        return
    mask = run.mask()
    picked = torch.arange(n, device="cpu")
    if len(key) * n > ALL_ROWS:
        count = min(n, max(SAMPLED_ROWS // len(key), FEWEST))
        picked = torch.linspace(0, n - 1, count, dtype=torch.float64, device="cpu").round().long()
    row = position - run.start  # where this call's rows lie among those of the run
    step = max(1, BLOCK // max(1, call.sizes[0] * call.sizes[1] * m))
    for rows in picked.to(key.device).split(step):
        proof = _prove_rows(call, value, asked.output, mask, rows, (row, position, first_key))
        run.error = max(run.error, proof.error)
        run.share = max(run.share, proof.share)
        run.rows += proof.rows
        run.empty += proof.empty
    if run.share > 1:
        run.refused = (
            f"its proof failed: the rebuilt output differs from the model's by {run.error:.1e}, "
            f"{run.share:.1f} times what rounding allows"
        )


def _prove_rows(
    call: Call, value: Tensor, output: Tensor, mask: Mask, rows: Tensor, at: tuple[int, int, int]
) -> Proof:
    """|P V - output| on some rows against what rounding allows there.

    If scores are off by up to e_ij = c eps (1 + |s_ij|), row i of the output is off by at most
    sum_j P_ij e_ij |v_j| + (sum_j P_ij e_ij) (sum_j P_ij |v_j|).
    """
    row, position, first_key = at
    batch, n_head, _, m = call.sizes
    device = rows.device
    some = rows.view(1, 1, -1, 1)
    keys = torch.arange(m, device=device).view(1, 1, 1, -1)
    samples = torch.arange(batch, device=device).view(-1, 1, 1, 1)
    heads = torch.arange(n_head, device=device).view(1, -1, 1, 1)
    here = At(samples, heads, some, some, keys)  # as this call counts, for its bias
    shown = At(samples, heads, some + row, some + position, keys + first_key)
    part = replace(call, query=call.query[:, :, rows], mask=_Fixed(mask.visible(shown)))
    steps = reference.steps(replace(part, value=part.key[..., :0]), here)
    P, score = steps.weights, steps.scores
    v = value.detach().to(P.dtype).repeat_interleave(n_head // value.shape[1], dim=1)
    theirs = output[:, :, rows].to(P.dtype)
    sees = score != -torch.inf  # NaN is seen, and fails
    filled = sees.any(dim=-1)
    e = P * (1 + score.masked_fill(~sees, 0).abs())
    allowed = e @ v.abs() + e.sum(dim=-1, keepdim=True) * (P @ v.abs())
    allowed = allowed * _unit(call, value, output) + torch.finfo(P.dtype).tiny
    difference = (P @ v - theirs).abs()
    share = (difference / allowed)[filled]
    error = difference[filled]
    empty = int((~filled).any(dim=1).sum())
    if not share.numel():
        return Proof(0.0, 0.0, 0, empty)
    worst, largest = float(error.max()), float(share.max())
    if math.isnan(worst) or math.isnan(largest):
        worst = largest = math.inf
    return Proof(worst, largest, int(filled.any(dim=1).sum()), empty)


class _Fixed(Mask):
    """The entries at the places that are asked about, and no others."""

    def __init__(self, seen: Tensor) -> None:
        self._seen = seen

    def visible(self, at: At) -> Tensor:
        return self._seen


def _unit(call: Call, value: Tensor, output: Tensor) -> float:
    """What one rounding is worth in the dtype that computed, with some room."""
    eps = max(torch.finfo(x.dtype).eps for x in (call.query, value, output))
    if call.query.is_cuda and eps < 1e-6 and torch.get_float32_matmul_precision() != "highest":
        eps = 2**-10
    return eps * (2 if eps > 1e-4 else 32)
