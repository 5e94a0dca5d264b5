"""Rectangles by the reference, where no kernel can: softcap, dropout, a learned bias.

The scores of one rectangle are held at a time. The backward pass is written out, because autograd
does not record inside an operator. It computes the scores again, and draws the same dropout again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from wqkv.attend.call import Call
from wqkv.attend.engines import reference
from wqkv.attend.engines.plan import Piece
from wqkv.attend.geometry import Rect, slices

#: Extreme rows are computed whole, in blocks of at most this many scores.
SCORES = 2**22


def forward(call: Call, piece: Piece, number: int) -> tuple[Tensor, Tensor]:
    """out and lse of one rectangle. Its number in the plan sets its dropout apart from others'."""
    cut = _cut(call, piece)
    steps = reference.steps(cut, call.places(piece.rect), _dropout(cut, number))
    return steps.out, steps.lse


def backward(
    call: Call,
    pieces: Sequence[Piece],
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor,
    grad_lse: Tensor | None,
) -> list[Tensor]:
    """dq, dk, dv and the gradient of the bias, in the dtype of the scores.

    dscore = P (dP - sum(dout out) + dlse), with P = exp(score - lse) and dP = dout v^T.
    Without pieces it computes the extreme rows alone, which are whole rows.
    """
    exact = reference.exact(call.query)
    grad_out = grad_out.to(exact)
    delta = (grad_out * out).sum(dim=-1)
    if grad_lse is not None:
        delta = delta - grad_lse
    extreme = extreme_rows(call, lse)
    group, rules = call.group, () if call.rules.bias is None else call.rules.bias.tensors()
    dq, dk, dv = (zero_gradient(x) for x in (call.query, call.key, call.value))
    d_rules = [torch.zeros_like(tensor, dtype=exact) for tensor in rules]
    for number, piece, P in _weights(call, pieces, lse, extreme):
        rows, keys = slices(piece.rect)
        at, cut = call.places(piece.rect), _cut(call, piece)
        cut = reference.without_unseen(cut, at)
        dP = grad_out[rows] @ reference.repeat_heads(cut.value, group).transpose(-2, -1)
        kept = _dropout(cut, number)
        d_score = P * ((dP if kept is None else dP * kept) - delta[rows].unsqueeze(-1))
        if call.rules.bias is not None:
            call.rules.bias.add_gradient(d_rules[0], at, d_score)
        if call.rules.softcap is not None:
            d_score = d_score * (1 - torch.tanh(reference.products(cut) / call.rules.softcap) ** 2)
        d_score = d_score * call.scale
        dq[rows] += d_score @ reference.repeat_heads(cut.key, group)
        dk[keys] += reference.sum_heads(d_score.transpose(-2, -1) @ cut.query, group)
        P = P if kept is None else P * kept
        dv[keys] += reference.sum_heads(P.transpose(-2, -1) @ grad_out[rows], group)
    return [dq, dk, dv, *d_rules]


def _weights(
    call: Call, pieces: Sequence[Piece], lse: Tensor, extreme: Tensor | None
) -> Iterator[tuple[int, Piece, Tensor]]:
    """Yield the number of every rectangle, the rectangle itself, and its weights P.

    Extreme rows (see `extreme_rows`) are 0 there; they follow as rectangles of their own, which
    are numbered after all others.
    """
    lse = without_rows(lse, extreme)
    for number, piece in enumerate(pieces):
        rows, _ = slices(piece.rect)
        score = reference.scores(_cut(call, piece), call.places(piece.rect))
        yield number, piece, (score - lse[rows].unsqueeze(-1)).exp()
    if extreme is not None:
        for number, piece in enumerate(row_pieces(call, extreme), len(pieces)):
            rows, _ = slices(piece.rect)
            P = reference.steps(_cut(call, piece), call.places(piece.rect), None).weights
            yield number, piece, P.masked_fill(~extreme[rows].unsqueeze(-1), 0)


def extreme_rows(call: Call, lse: Tensor) -> Tensor | None:
    """Find the rows whose lse is too large to hold the number of keys; None if there are none.

    A bias of finfo.min or -1e9 on a padding row makes one: ln(n) is rounded away beside such a
    number, so that exp(score - lse) would be 1 for each of n equal keys, and not 1 / n. In float32
    an lse of 8,000 still holds it to 1e-3. Extreme rows are computed whole, by the reference.
    """
    if call.rules.bias is None or lse.is_meta:
        return None
    limit = 2**-10 / torch.finfo(lse.dtype).eps
    found = (lse.abs() > limit) & lse.isfinite()
    return found if bool(found.any()) else None


def row_pieces(call: Call, rows: Tensor) -> list[Piece]:
    """Cut whole rows, which are True for any head of any sample, into rectangles."""
    batch, n_head, _, key_len = call.sizes
    most = max(1, SCORES // max(1, batch * n_head * key_len))
    pieces: list[Piece] = []
    for row in rows.flatten(0, 1).any(dim=0).nonzero().flatten().tolist():
        last = pieces[-1].rect if pieces else None
        if last is not None and last.q1 == row and last.q1 - last.q0 < most:
            pieces[-1] = pieces[-1]._replace(rect=last._replace(q1=row + 1))
        else:
            pieces.append(Piece(Rect(None, row, row + 1, 0, key_len), True, False))
    return pieces


def without_rows(lse: Tensor, rows: Tensor | None) -> Tensor:
    """Change lse so that exp(score - lse) is 0 in empty rows and in `rows`, never NaN."""
    lse = lse.masked_fill(lse == -torch.inf, 0)  # exp(-inf - 0) = 0, where exp(-inf + inf) is NaN
    return lse if rows is None else lse.masked_fill(rows, torch.inf)


def _cut(call: Call, piece: Piece) -> Call:
    """Make a rectangle a call of its own, in the dtype of the scores and without sinks."""
    rows, keys = slices(piece.rect)
    exact = reference.exact(call.query)
    q, k, v = call.query[rows].to(exact), call.key[keys].to(exact), call.value[keys].to(exact)
    return replace(call, query=q, key=k, value=v, rules=call.rules.without_sinks())


def _dropout(cut: Call, number: int) -> Tensor | None:
    """What dropout multiplies the weights of a rectangle by: 0, or 1 / (1 - p); None without it.

    The seed of the call and the number of the rectangle draw the same in both passes.
    """
    if cut.seed is None:
        return None
    device, keep = cut.query.device, 1 - cut.rules.dropout_p
    generator = torch.Generator(device).manual_seed(int(cut.seed) + number)
    factors = torch.empty(cut.sizes, dtype=cut.query.dtype, device=device)
    return factors.bernoulli_(keep, generator=generator).div_(keep)


def dropout_of_rows(call: Call, pieces: Sequence[Piece], rows: Tensor) -> Tensor:
    """What dropout multiplied some rows of the weights by: (batch, n_head, rows, key_len).

    One rectangle is drawn at a time; pairs outside all of them are 0.
    """
    batch, n_head, _, key_len = call.sizes
    found = call.query.new_zeros(
        (batch, n_head, len(rows), key_len), dtype=reference.exact(call.query)
    )
    for number, piece in enumerate(pieces):
        sample, q0, q1, k0, k1 = piece.rect
        here = ((rows >= q0) & (rows < q1)).nonzero().flatten()
        factors = _dropout(_cut(call, piece), number) if len(here) else None
        if factors is not None:
            samples = slice(None) if sample is None else slice(sample, sample + 1)
            found[samples, :, here, k0:k1] = factors[:, :, rows[here] - q0]
    return found


def zero_gradient(x: Tensor) -> Tensor:
    """Zeros of the shape of x (batch, head, length, d), to which its gradient is added.

    In memory they lie as (batch, length, head, d), because the projection that receives them is
    fastest so.
    """
    b, h, n, d = x.shape
    return x.new_zeros((b, n, h, d), dtype=reference.exact(x)).transpose(1, 2)
