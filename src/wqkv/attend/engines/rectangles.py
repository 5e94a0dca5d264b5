"""Rectangles of a call, computed and merged, forward and backward: what fused and tiled share.

Each rectangle is one kernel call, or, where the kernels cannot (softcap, dropout, a learned bias,
another device), the reference on it. Nothing larger than a rectangle's mask or scores is held.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from wqkv.attend.call import Call, unrounded
from wqkv.attend.engines import by_reference, kernels, reference
from wqkv.attend.engines.plan import Piece
from wqkv.attend.engines.tiles import Tile, Tiles
from wqkv.attend.geometry import slices
from wqkv.attend.masks import Causal
from wqkv.attend.partial import logaddexp


def kernel_reasons(call: Call) -> list[str]:
    """Why the kernels cannot compute the rectangles of this call, so that the reference does."""
    reasons = kernels.reasons_against(call.query.device, call.query.dtype)
    if call.softcap is not None:
        reasons.append("the kernels have no softcap")
    if call.dropout_p > 0:
        reasons.append("the kernels have no dropout that a backward pass can repeat")
    if call.wants_grad(rules=True):
        reasons.append("the kernels have no gradient for a bias")
    return reasons


def empty_reasons(call: Call) -> list[str]:
    """Sizes of 0, for which there is nothing to cut."""
    names = ("batch", "n_head", "query_len", "key_len", "d_k", "d_v")
    sizes = (*call.sizes, call.query.shape[3], call.value.shape[3])
    return [f"{name} is 0" for name, size in zip(names, sizes, strict=True) if size == 0]


def forward(call: Call, pieces: Sequence[Piece], *, by_kernel: bool) -> tuple[Tensor, Tensor]:
    """out (batch, n_head, query_len, d_v), in `kept` precision, and lse: computed and merged."""
    with unrounded(call.query.device):
        if by_kernel and _is_whole(call, pieces):
            out, lse = _whole(call, pieces[0])
        else:
            out, lse = _merged(call, pieces, by_kernel)
        extreme = by_reference.extreme_rows(call, lse)
        if extreme is not None:
            for number, piece in enumerate(by_reference.row_pieces(call, extreme), len(pieces)):
                rows, _ = slices(piece.rect)
                here, (row_out, row_lse) = extreme[rows], by_reference.forward(call, piece, number)
                out[rows] = torch.where(here.unsqueeze(-1), row_out.to(out.dtype), out[rows])
                lse[rows] = torch.where(here, row_lse, lse[rows])
        return out.to(kept(call.query)), lse


def backward(
    call: Call,
    pieces: Sequence[Piece],
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor | None,
    grad_lse: Tensor | None,
    *,
    by_kernel: bool,
) -> list[Tensor]:
    """dq, dk, dv, and by the reference also the gradient of the bias."""
    grad_out = torch.zeros_like(out) if grad_out is None else grad_out
    rules = () if by_kernel or call.bias is None else call.bias.tensors()
    like = (call.query, call.key, call.value, *rules)
    with unrounded(call.query.device):
        if not by_kernel:
            grads = by_reference.backward(call, pieces, out, lse, grad_out, grad_lse)
        else:
            extreme = by_reference.extreme_rows(call, lse)
            grads = _by_kernel(call, pieces, out, lse, extreme, grad_out, grad_lse)
            if extreme is not None:
                rest = by_reference.backward(call, (), out, lse, grad_out, grad_lse)
                grads = [a + b for a, b in zip(grads, rest, strict=False)]
        return [x.to(y.dtype) for x, y in zip(grads, like, strict=True)]


def _merged(call: Call, pieces: Sequence[Piece], by_kernel: bool) -> tuple[Tensor, Tensor]:
    """The rectangles one by one, merged."""
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
    """What the output is kept in for the backward pass, which would else carry its rounding."""
    return reference.exact(q) if q.device.type == "cpu" else q.dtype


def _whole(call: Call, piece: Piece) -> tuple[Tensor, Tensor]:
    """The whole call as one kernel call."""
    q, k, v = _for_kernel(call.query, call.key, call.value)
    causal = piece.mixed and _is_causal(call)
    tile = Tile() if causal else Tiles(call).get(piece)
    out, lse = _kernel(q, k, v, tile, call.scale, causal)
    return out[..., : call.value.shape[3]], lse


def _kernel(
    q: Tensor, k: Tensor, v: Tensor, tile: Tile, scale: float, causal: bool = False
) -> tuple[Tensor, Tensor]:
    if tile.visible is not None:
        k, v = reference.cleared(k, tile.visible), reference.cleared(v, tile.visible)
    batch, n_head, query_len, width = q.shape
    alike = not causal and (tile.added is None or tile.added.shape[1] == 1)
    # The heads of a group, if they see the same, stand as so many queries of one head; by the
    # kernel's own causal mask each would see one key more.
    fold = query_len == 1 and n_head > k.shape[1] and alike
    if fold:
        q = q.reshape(batch, k.shape[1], -1, width)
    out, lse = kernels.forward(q, k, v, tile.added, causal, scale)
    if fold:
        out, lse = out.reshape(batch, n_head, 1, width), lse.reshape(batch, n_head, 1)
    if tile.empty is not None:  # where nothing is seen, the kernels leave NaN or an lse of 0
        out = out.masked_fill(tile.empty.unsqueeze(-1), 0)
        lse = lse.masked_fill(tile.empty, -torch.inf)
    return out, lse


def _by_kernel(
    call: Call,
    pieces: Sequence[Piece],
    out: Tensor,
    lse: Tensor,
    extreme: Tensor | None,
    grad_out: Tensor,
    grad_lse: Tensor | None,
) -> list[Tensor]:
    """dq, dk, dv: each rectangle's share, by the kernels' backward with the merged out and lse.

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
    whole = _is_whole(call, pieces)
    totals = [] if whole else [by_reference.zeros_like(x) for x in (q, k, v)]
    for piece in pieces:
        rows, keys = slices(piece.rect)
        causal = whole and piece.mixed and _is_causal(call)
        tile, key, value = Tile() if causal else tiles.get(piece), k[keys], v[keys]
        if tile.visible is not None:
            key, value = (reference.cleared(x, tile.visible) for x in (key, value))
        shares = kernels.backward(
            grad_out[rows], q[rows], key, value, out[rows], lse[rows],
            tile.added, causal, call.scale,
        )  # fmt: skip
        if whole:
            totals = list(shares)
        else:
            for total, where, part in zip(totals, (rows, keys, keys), shares, strict=True):
                total[where] += part
    like = (call.query, call.key, call.value)
    return [x[..., : y.shape[3]] for x, y in zip(totals, like, strict=True)]


def _rows_reached(pieces: Sequence[Piece], batch: int) -> int:
    """How many rows see anything."""
    return sum(
        (piece.rect.q1 - piece.rect.q0) * (batch if piece.rect.sample is None else 1)
        for piece in pieces
        if piece.fresh
    )


def _is_whole(call: Call, pieces: Sequence[Piece]) -> bool:
    batch, _, query_len, key_len = call.sizes
    if len(pieces) != 1 or not (pieces[0].rect.sample is None or batch == 1):
        return False
    return pieces[0].rect[1:] == (0, query_len, 0, key_len)


def _is_causal(call: Call) -> bool:
    """Whether the kernels' own causal mask, aligned at the upper left, is meant.

    They hide before they scale, so that a scale of 0 or less would make NaN or inf of -inf, and
    they read keys that stand after all queries.
    """
    offset, (_, _, query_len, key_len) = call.query_offset, call.sizes
    plain = call.bias is None and isinstance(call.mask, Causal) and query_len >= key_len
    return plain and call.scale > 0 and isinstance(offset, int) and offset == 0


def _for_kernel(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The kernels want one last size: zeros change neither q k^T nor the channels of v."""
    width = max(q.shape[3], v.shape[3])
    return _to_width(q, width), _to_width(k, width), _to_width(v, width)


def _to_width(x: Tensor, width: int) -> Tensor:
    """With zeros up to `width`, and its numbers side by side: the kernels misread other strides.

    Half precision goes through float32 on the CPU: its kernel rounds the weights to half
    before they meet the values, and is no faster.
    """
    if x.device.type == "cpu":
        x = x.to(reference.exact(x))
    if x.shape[3] != width:
        x = F.pad(x, (0, width - x.shape[3]))  # which keeps the order of the strides
    return x if x.stride(3) == 1 else x.contiguous()


def merge_into(out: Tensor, lse: Tensor, new_out: Tensor, new_lse: Tensor) -> None:
    """F1 in place, with out a + (b - a) w; w = exp(new_lse - both) is 0 where both are empty."""
    out.lerp_(new_out.to(out.dtype), torch.sigmoid(new_lse - lse).nan_to_num_(0.0).unsqueeze(-1))
    lse.copy_(logaddexp(lse, new_lse))
