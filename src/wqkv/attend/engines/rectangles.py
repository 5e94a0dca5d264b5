"""The rectangles of a plan, computed and merged, forward and backward: what fused and tiled share.

Each rectangle is one kernel call, or, where the kernels cannot (softcap, dropout, a learned bias,
another device), the reference on it. Nothing larger than a rectangle's mask or scores is held.

F1 (merging) and F2 (the backward pass splits the same way) are facts that DESIGN.md states.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from wqkv.attend.call import Call, unrounded
from wqkv.attend.engines import by_reference, kernels, reference
from wqkv.attend.engines.plan import Method, Piece, Plan
from wqkv.attend.engines.tiles import CAUSAL, Tile, Tiles
from wqkv.attend.geometry import slices
from wqkv.attend.partial import logaddexp


def kernel_reasons(call: Call) -> list[str]:
    """Why the kernels cannot compute the rectangles of this call, so that the reference does."""
    reasons = kernels.reasons_against(call.query.device, call.query.dtype)
    if call.rules.softcap is not None:
        reasons.append("the kernels have no softcap")
    if call.rules.dropout_p > 0:
        reasons.append("the kernels have no dropout that a backward pass can repeat")
    if call.wants_bias_grad():
        reasons.append("the kernels have no gradient for a bias")
    return reasons


def method(call: Call) -> Method:
    """How the rectangles of a call are computed: by the kernels, where they can."""
    return "reference" if kernel_reasons(call) else "kernel calls"


def empty_reasons(call: Call) -> list[str]:
    """Name the sizes that are 0. A call with one has no rectangles, so the reference runs it."""
    names = ("batch", "n_head", "query_len", "key_len", "d_k", "d_v")
    sizes = (*call.sizes, call.query.shape[3], call.value.shape[3])
    return [f"{name} is 0" for name, size in zip(names, sizes, strict=True) if size == 0]


def forward(call: Call, plan: Plan) -> tuple[Tensor, Tensor]:
    """Compute the rectangles of a plan and merge them.

    Returns:
        out (batch, n_head, query_len, d_v) in the dtype `kept`, and lse (batch, n_head, query_len).
    """
    with unrounded(call.query.device):
        if plan.kernel != "reference" and plan.is_one(call):
            out, lse = _whole(call, plan)
        else:
            out, lse = _merged(call, plan)
        extreme = by_reference.extreme_rows(call, lse)
        if extreme is not None:  # rare: the lse of these rows cannot be merged, so start again
            again = by_reference.row_pieces(call, extreme)
            for number, piece in enumerate(again, len(plan.pieces)):
                rows, _ = slices(piece.rect)
                here, (row_out, row_lse) = extreme[rows], by_reference.forward(call, piece, number)
                out[rows] = torch.where(here.unsqueeze(-1), row_out.to(out.dtype), out[rows])
                lse[rows] = torch.where(here, row_lse, lse[rows])
        return out.to(kept(call.query)), lse


def backward(
    call: Call,
    plan: Plan,
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor | None,
    grad_lse: Tensor | None,
) -> list[Tensor]:
    """dq, dk and dv; where the plan says the reference, also the gradient of the bias (F2).

    out and lse are those that `forward` gave with the same plan.
    """
    grad_out = torch.zeros_like(out) if grad_out is None else grad_out
    like = [call.query, call.key, call.value]
    with unrounded(call.query.device):
        if plan.kernel == "reference":
            like += () if call.rules.bias is None else call.rules.bias.tensors()
            grads = by_reference.backward(call, plan.pieces, out, lse, grad_out, grad_lse)
        else:
            extreme = by_reference.extreme_rows(call, lse)
            grads = _by_kernel(call, plan, out, lse, extreme, grad_out, grad_lse)
            if extreme is not None:
                rest = by_reference.backward(call, (), out, lse, grad_out, grad_lse)
                grads = [a + b for a, b in zip(grads, rest, strict=False)]
        return [x.to(y.dtype) for x, y in zip(grads, like, strict=True)]


def _merged(call: Call, plan: Plan) -> tuple[Tensor, Tensor]:
    """Compute the rectangles one by one, each merged into the rows that it sees (F1)."""
    pieces, by_kernel = plan.pieces, plan.kernel != "reference"
    q, k, v = call.query, call.key, call.value
    batch, n_head, query_len, _ = call.sizes
    exact = reference.exact(q)
    # (batch, length, head, d) in memory, so that joining the heads afterwards copies nothing
    out = q.new_empty((batch, query_len, n_head, v.shape[3]), dtype=exact).transpose(1, 2)
    lse = q.new_empty((batch, n_head, query_len), dtype=exact)
    if _rows_reached(pieces, batch) < batch * query_len:
        out.zero_()
        lse.fill_(-torch.inf)
    tiles = Tiles(call)
    if by_kernel:
        q, k, v = _for_kernel(q, k, v)
    for number, piece in enumerate(pieces):
        rows, keys = slices(piece.rect)
        if by_kernel:
            part = _kernel(q[rows], k[keys], v[keys], tiles.get(piece), call.scale)
            part = part[0][..., : out.shape[3]], part[1]
        else:
            part = by_reference.forward(call, piece, number)
        if piece.fresh:
            out[rows], lse[rows] = part
        else:
            merge_into(out[rows], lse[rows], *part)
    return out, lse


def kept(q: Tensor) -> torch.dtype:
    """The dtype of out between both passes: float32 for half inputs, so that it is not rounded.

    On a GPU it is the dtype of the inputs, because the kernels there take one dtype for all.
    """
    return reference.exact(q) if q.device.type == "cpu" else q.dtype


def _whole(call: Call, plan: Plan) -> tuple[Tensor, Tensor]:
    """Compute a plan of one rectangle, which is the whole call, as one kernel call."""
    q, k, v = _for_kernel(call.query, call.key, call.value)
    tile = CAUSAL if plan.kernel == "causal kernel" else Tiles(call).get(plan.pieces[0])
    out, lse = _kernel(q, k, v, tile, call.scale)
    return out[..., : call.value.shape[3]], lse


def _kernel(q: Tensor, k: Tensor, v: Tensor, tile: Tile, scale: float) -> tuple[Tensor, Tensor]:
    """Call the kernel for one rectangle, and put right what it leaves wrong."""
    if tile.visible is not None:
        k, v = reference.cleared(k, tile.visible), reference.cleared(v, tile.visible)
    batch, n_head, query_len, width = q.shape
    alike = not tile.causal and (tile.added is None or tile.added.shape[1] == 1)
    # With one query, the heads that share a key head become queries of that head, which is faster.
    # All of them must see the same keys. Under the kernel's own causal mask they would not: each
    # next query sees one key more.
    fold = query_len == 1 and n_head > k.shape[1] and alike
    if fold:
        q = q.reshape(batch, k.shape[1], -1, width)
    out, lse = kernels.forward(q, k, v, tile.added, tile.causal, scale)
    if fold:
        out, lse = out.reshape(batch, n_head, 1, width), lse.reshape(batch, n_head, 1)
    if tile.empty is not None:  # the kernels leave NaN, or an lse of 0, in a row that sees nothing
        out = out.masked_fill(tile.empty.unsqueeze(-1), 0)
        lse = lse.masked_fill(tile.empty, -torch.inf)
    return out, lse


def _by_kernel(
    call: Call,
    plan: Plan,
    out: Tensor,
    lse: Tensor,
    extreme: Tensor | None,
    grad_out: Tensor,
    grad_lse: Tensor | None,
) -> list[Tensor]:
    """dq, dk, dv: the sum of all rectangles' shares, each by the kernels' backward (F2).

    The extreme rows are left out: their weights are taken to be 0.
    """
    lse = by_reference.without_rows(lse, extreme)
    q, k, v = call.query, call.key, call.value
    if grad_lse is not None:
        # dscore = P (dP - sum(dout out) + dlse): one more channel with dout 1, out -dlse, v 0
        grad_out = F.pad(grad_out, (0, 1), value=1.0)
        out = torch.cat((out, -grad_lse.unsqueeze(-1).to(out.dtype)), dim=-1)
        v = F.pad(v, (0, 1))
        width = -(-max(q.shape[3], v.shape[3]) // 8) * 8
        q, k, v = (F.pad(x, (0, width - x.shape[3])) for x in (q, k, v))
    q, k, v = _for_kernel(q, k, v)
    grad_out, out = (_to_width(x, q.shape[3]) for x in (grad_out, out))
    tiles = Tiles(call)
    whole = plan.is_one(call)
    totals = [] if whole else [by_reference.zero_gradient(x) for x in (q, k, v)]
    for piece in plan.pieces:
        rows, keys = slices(piece.rect)
        tile = CAUSAL if plan.kernel == "causal kernel" else tiles.get(piece)
        key, value = k[keys], v[keys]
        if tile.visible is not None:
            key, value = (reference.cleared(x, tile.visible) for x in (key, value))
        shares = kernels.backward(
            grad_out[rows], q[rows], key, value, out[rows], lse[rows],
            tile.added, tile.causal, call.scale,
        )  # fmt: skip
        if whole:
            totals = list(shares)
        else:
            for total, where, part in zip(totals, (rows, keys, keys), shares, strict=True):
                total[where] += part
    like = (call.query, call.key, call.value)
    return [x[..., : y.shape[3]] for x, y in zip(totals, like, strict=True)]


def _rows_reached(pieces: Sequence[Piece], batch: int) -> int:
    """How many rows lie in at least one rectangle; all other rows see nothing."""
    return sum(
        (piece.rect.q1 - piece.rect.q0) * (batch if piece.rect.sample is None else 1)
        for piece in pieces
        if piece.fresh
    )


def _for_kernel(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pad q, k and v to one last size, which the kernels want.

    Zeros change neither q k^T nor the channels that v has.
    """
    width = max(q.shape[3], v.shape[3])
    return _to_width(q, width), _to_width(k, width), _to_width(v, width)


def _to_width(x: Tensor, width: int) -> Tensor:
    """Zero-pad the last axis to `width` and make it unit-stride: the kernels misread others.

    Half precision goes through float32 on the CPU, because its kernel rounds the weights to half
    before it multiplies them with the values, and is no faster.
    """
    if x.device.type == "cpu":
        x = x.to(reference.exact(x))
    if x.shape[3] != width:
        x = F.pad(x, (0, width - x.shape[3]))  # which keeps the order of the strides
    return x if x.stride(3) == 1 else x.contiguous()


def merge_into(out: Tensor, lse: Tensor, new_out: Tensor, new_lse: Tensor) -> None:
    """Merge a new part into out and lse, in place (F1).

    out + (new_out - out) w, where the new part's share w = exp(new_lse - lse of both) is
    sigmoid(new_lse - lse). Two empty parts give NaN there (-inf + inf), which becomes 0.
    """
    out.lerp_(new_out.to(out.dtype), torch.sigmoid(new_lse - lse).nan_to_num_(0.0).unsqueeze(-1))
    lse.copy_(logaddexp(lse, new_lse))
