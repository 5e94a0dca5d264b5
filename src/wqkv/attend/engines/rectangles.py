"""Rectangles of a call, computed and merged, forward and backward: what fused and tiled share.

Each rectangle is one kernel call, or, where the kernels cannot (softcap, dropout, a learned bias,
another device), the reference on it. Nothing larger than a rectangle's mask or scores is held.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from wqkv.attend.algebra import Mask
from wqkv.attend.call import Call
from wqkv.attend.engines import kernels, reference
from wqkv.attend.engines.plan import Piece, memory
from wqkv.attend.masks import Causal
from wqkv.attend.merge import logaddexp
from wqkv.attend.places import Rect
from wqkv.errors import EngineError


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


def compute(call: Call, pieces: Sequence[Piece], *, by_kernel: bool) -> tuple[Tensor, Tensor]:
    """out and lse of a call without its sinks, differentiable."""
    if not torch.is_grad_enabled():  # autograd's books cost as much as a short call
        out, lse = forward(call, pieces, by_kernel=by_kernel)
        return out.to(call.query.dtype), lse
    rules = call.bias.tensors() if call.bias is not None else ()
    result: tuple[Tensor, Tensor] = _Rectangles.apply(  # type: ignore[no-untyped-call]
        call, pieces, by_kernel, call.query, call.key, call.value, *rules
    )
    return result


class _Rectangles(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        call: Call,
        pieces: Sequence[Piece],
        by_kernel: bool,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *rules: Tensor,
    ) -> tuple[Tensor, Tensor]:
        ctx.by_kernel, ctx.random = by_kernel, random_state(call)
        out, lse = forward(call, pieces, by_kernel=by_kernel)
        ctx.save_for_backward(q, k, v, out, lse)
        out = out.to(q.dtype)
        ctx.call, ctx.pieces = call, pieces
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> Any:
        if torch.is_grad_enabled():  # create_graph=True: silence here would be a wrong derivative
            raise EngineError(
                "The kernels have no second derivative, which create_graph=True asks for.\n"
                "Pass engine='reference', which has all of them."
            )
        q, k, v, out, lse = ctx.saved_tensors
        call = replace(ctx.call, query=q, key=k, value=v)
        grads = backward(
            call,
            ctx.pieces,
            out,
            lse,
            grad_out,
            grad_lse,
            by_kernel=ctx.by_kernel,
            random=ctx.random,
        )
        missing = len(ctx.needs_input_grad) - 3 - len(grads)
        return None, None, None, *grads, *[None] * missing


def backward(
    call: Call,
    pieces: Sequence[Piece],
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor | None,
    grad_lse: Tensor | None,
    *,
    by_kernel: bool,
    random: Tensor | None,
) -> list[Tensor]:
    """dq, dk, dv, and by the reference also the gradient of the bias."""
    grad_out = torch.zeros_like(out) if grad_out is None else grad_out
    if by_kernel:
        return backward_by_kernel(call, pieces, out, lse, grad_out, grad_lse)
    with repeated(call, random):
        return backward_by_reference(call, pieces, out, lse, grad_out, grad_lse)


def random_state(call: Call) -> Tensor | None:
    """The state of the random numbers before dropout, so that the backward pass can repeat it."""
    if call.dropout_p == 0:
        return None
    device = call.query.device
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


@contextmanager
def repeated(call: Call, state: Tensor | None) -> Iterator[None]:
    """Inside, random numbers come again as after `state`; outside they go on as before."""
    if state is None:
        yield
        return
    device = call.query.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        if device.type == "cuda":
            torch.cuda.set_rng_state(state, device)
        else:
            torch.set_rng_state(state)
        yield


def forward(call: Call, pieces: Sequence[Piece], *, by_kernel: bool) -> tuple[Tensor, Tensor]:
    """out (batch, n_head, query_len, d_v), in `kept` precision, and lse: computed and merged."""
    if by_kernel and _is_whole(call, pieces):
        return _whole(call, pieces[0])
    q, k, v = call.query, call.key, call.value
    batch, n_head, query_len, _ = call.sizes
    exact = reference.exact(q)
    # (batch, length, head, d) in memory, so that joining the heads afterwards copies nothing
    out = q.new_empty((batch, query_len, n_head, v.shape[3]), dtype=exact).transpose(1, 2)
    lse = q.new_empty((batch, n_head, query_len), dtype=exact)
    if _rows_reached(pieces, batch) < batch * query_len:
        out.zero_()
        lse.fill_(-torch.inf)
    tiles = _Tiles(call)
    q, k, v = _for_kernel(q, k, v) if by_kernel else (q.to(exact), k.to(exact), v.to(exact))
    for piece in pieces:
        rows, keys = _where(piece.rect)
        if by_kernel:
            part = _kernel(q[rows], k[keys], v[keys], *tiles.get(piece), call.scale)
            part = part[0][..., : out.shape[3]], part[1]
        else:
            cut = replace(call, query=q[rows], key=k[keys], value=v[keys], sinks=None)
            steps = reference.steps(cut, call.places(piece.rect))
            part = steps.out, steps.lse
        if piece.fresh:
            out[rows], lse[rows] = part
        else:
            merge_into(out[rows], lse[rows], *part)
    return out.to(kept(call.query)), lse


def kept(q: Tensor) -> torch.dtype:
    """What the output is kept in for the backward pass, which would else carry its rounding."""
    return reference.exact(q) if q.device.type == "cpu" else q.dtype


def _whole(call: Call, piece: Piece) -> tuple[Tensor, Tensor]:
    """The whole call as one kernel call."""
    q, k, v = _for_kernel(call.query, call.key, call.value)
    causal = piece.mixed and _is_causal(call)
    tile, empty = (None, None) if causal else _Tiles(call).get(piece)
    batch, n_head, query_len, width = q.shape
    alike = not causal and (tile is None or tile.shape[1] == 1)  # the heads of a group see the same
    fold = query_len == 1 and call.group > 1 and alike
    if fold:  # they stand as so many queries of one head; a causal one would see one key more each
        q = q.reshape(batch, -1, call.group, width)
        empty = None if empty is None else empty.expand(-1, 1, call.group)
    out, lse = _kernel(q, k, v, tile, empty, call.scale, causal)
    if fold:
        out, lse = out.reshape(batch, n_head, 1, width), lse.reshape(batch, n_head, 1)
    return out[..., : call.value.shape[3]], lse


def _kernel(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tile: Tensor | None,
    empty: Tensor | None,
    scale: float,
    causal: bool = False,
) -> tuple[Tensor, Tensor]:
    out, lse = kernels.forward(q, k, v, tile, causal, scale)
    if empty is not None:  # where nothing is seen, the kernels leave NaN or an lse of 0
        out, lse = out.masked_fill(empty.unsqueeze(-1), 0), lse.masked_fill(empty, -torch.inf)
    return out, lse


def backward_by_kernel(
    call: Call,
    pieces: Sequence[Piece],
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor,
    grad_lse: Tensor | None,
) -> list[Tensor]:
    """dq, dk, dv: each rectangle's share, by the kernels' backward with the merged out and lse."""
    lse = lse.masked_fill(lse == -torch.inf, 0)  # exp(-inf - 0) = 0, where exp(-inf + inf) is NaN
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
    tiles = _Tiles(call)
    whole = _is_whole(call, pieces)
    totals = [] if whole else [_zeros_like(x) for x in (q, k, v)]
    for piece in pieces:
        rows, keys = _where(piece.rect)
        causal = whole and piece.mixed and _is_causal(call)
        shares = kernels.backward(
            grad_out[rows],
            q[rows],
            k[keys],
            v[keys],
            out[rows],
            lse[rows],
            None if causal else tiles.get(piece)[0],
            causal,
            call.scale,
        )
        if whole:
            totals = list(shares)
        else:
            for total, where, part in zip(totals, (rows, keys, keys), shares, strict=True):
                total[where] += part
    like = (call.query, call.key, call.value)
    return [x[..., : y.shape[3]].to(y.dtype) for x, y in zip(totals, like, strict=True)]


def backward_by_reference(
    call: Call,
    pieces: Sequence[Piece],
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor,
    grad_lse: Tensor | None,
) -> list[Tensor]:
    """dq, dk, dv and the gradients of the bias: every rectangle's scores are computed again.

    dscore = P (dP - sum(dout out) + dlse), with P = exp(score - lse) and dP = dout v^T.
    """
    exact = reference.exact(call.query)
    lse = lse.masked_fill(lse == -torch.inf, 0)
    grad_out = grad_out.to(exact)
    delta = (grad_out * out).sum(dim=-1)
    if grad_lse is not None:
        delta = delta - grad_lse
    group, rules = call.group, () if call.bias is None else call.bias.tensors()
    dq, dk, dv = (_zeros_like(x) for x in (call.query, call.key, call.value))
    d_rules = [torch.zeros_like(tensor, dtype=exact) for tensor in rules]
    for piece in pieces:
        rows, keys = _where(piece.rect)
        q, k, v = call.query[rows].to(exact), call.key[keys].to(exact), call.value[keys].to(exact)
        cut, at = replace(call, query=q, key=k, value=v), call.places(piece.rect)
        score = reference.scores(cut, at)
        P = (score - lse[rows].unsqueeze(-1)).exp()
        dP = grad_out[rows] @ _repeat(v, group).transpose(-2, -1)
        kept = F.dropout(torch.ones_like(P), call.dropout_p) if call.dropout_p > 0 else None
        d_score = P * ((dP if kept is None else dP * kept) - delta[rows].unsqueeze(-1))
        if call.bias is not None:
            call.bias.add_gradient(d_rules[0], at, d_score)
        if call.softcap is not None:
            d_score = d_score * (1 - torch.tanh(reference.products(cut) / call.softcap) ** 2)
        d_score = d_score * call.scale
        dq[rows] += d_score @ _repeat(k, group)
        dk[keys] += _gather(d_score.transpose(-2, -1) @ q, group)
        P = P if kept is None else P * kept
        dv[keys] += _gather(P.transpose(-2, -1) @ grad_out[rows], group)
    like = (call.query, call.key, call.value, *rules)
    return [x.to(y.dtype) for x, y in zip((dq, dk, dv, *d_rules), like, strict=True)]


def _repeat(x: Tensor, group: int) -> Tensor:
    """The key head of every query head."""
    return x.repeat_interleave(group, dim=1)


def _gather(x: Tensor, group: int) -> Tensor:
    """The sum over the query heads of every key head."""
    return x if group == 1 else x.unflatten(1, (-1, group)).sum(dim=2)


class _Tiles:
    """The float masks of a call's rectangles; what depends on key - query alone is made once."""

    def __init__(self, call: Call) -> None:
        self.call = call

    def get(self, piece: Piece) -> tuple[Tensor | None, Tensor | None]:
        """What is added to the scores, and which rows see nothing; None where there is none."""
        call, offset = self.call, self.call.query_offset
        if not piece.mixed and call.bias is None:
            return None, None
        sample, q0, q1, k0, k1 = piece.rect
        if call.bias is not None or isinstance(offset, Tensor):
            return self._make(piece, call.mask)
        mask = call.mask.within(Rect(sample, q0 + offset, q1 + offset, k0, k1))
        if not mask.by_shift:
            return self._make(piece, mask)
        kept = memory(mask)
        key = (q0 + offset - k0, q1 - q0, k1 - k0, reference.exact(call.query), call.query.device)
        found: tuple[Tensor | None, Tensor | None] | None = kept.get(key)
        if found is None:
            found = self._make(piece, mask)
            if type(found[0]) is Tensor:  # a fake one holds nothing, and would be found for ever
                if len(kept) >= 128:
                    kept.clear()
                kept[key] = found
        return found

    def _make(self, piece: Piece, mask: Mask) -> tuple[Tensor, Tensor | None]:
        call, at = self.call, self.call.places(piece.rect)
        width = piece.rect.k1 - piece.rect.k0
        tile, empty = None, None
        if call.bias is not None:
            tile = call.bias.tile(at, reference.exact(call.query)).detach()
            tile = tile.expand(*tile.shape[:3], width)
        if piece.mixed:
            visible = mask.visible(at)
            visible = visible.expand(*visible.shape[:3], width)
            if tile is None:
                tile = torch.zeros(
                    visible.shape, dtype=reference.exact(call.query), device=visible.device
                )
                empty = ~visible.any(dim=-1)
            tile = tile.masked_fill(~visible, -torch.inf)
        assert tile is not None
        if empty is None:  # a bias may hide too
            empty = (tile == -torch.inf).all(dim=-1)
        if empty.device.type == "cpu" and not bool(empty.any()):
            empty = None
        return tile.contiguous(), empty


def merge_into(out: Tensor, lse: Tensor, new_out: Tensor, new_lse: Tensor) -> None:
    """F1 in place, with out a + (b - a) w; w = exp(new_lse - both) is 0 where both are empty."""
    out.lerp_(new_out.to(out.dtype), torch.sigmoid(new_lse - lse).nan_to_num_(0.0).unsqueeze(-1))
    lse.copy_(logaddexp(lse, new_lse))


def _where(rect: Rect) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """A rectangle's rows and keys, as indices of (batch, head, length)."""
    samples = slice(None) if rect.sample is None else slice(rect.sample, rect.sample + 1)
    return (samples, slice(None), slice(rect.q0, rect.q1)), (
        samples,
        slice(None),
        slice(rect.k0, rect.k1),
    )


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

    They hide before they scale: by 0 or less, -inf becomes NaN or inf.
    """
    offset = call.query_offset
    plain = call.bias is None and isinstance(call.mask, Causal)
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


def _zeros_like(x: Tensor) -> Tensor:
    """Zeros laid out as (batch, length, head, d), like the projections they go to."""
    b, h, n, d = x.shape
    return x.new_zeros((b, n, h, d), dtype=reference.exact(x)).transpose(1, 2)
