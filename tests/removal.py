"""The truth of a removal: a transformers model really run with links, heads or tokens taken out.

Independent of wqkv: the model gets an attention function of its own, which writes the N x N scores
out and adds -inf to those of removed links.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

NAME = "removal_truth"


@dataclass
class Taken:
    """What is taken out: (number of the attention among all calls of the model, head, i, j)."""

    links: Iterable[tuple[int, int, int, int]] = ()
    zeroed: Iterable[tuple[int, int, int, int]] = ()
    heads: Iterable[tuple[int, int]] = ()
    tokens: Iterable[tuple[int, int, int, bool]] = ()  # (call, first, last, whether they see it)
    kept: list[tuple[Tensor, Tensor, Tensor]] | None = (
        None  # of each call: weights with the sink's, v, output
    )
    calls: Counter[str] = field(default_factory=Counter)


_TAKEN: list[Taken] = []


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    taken = _TAKEN[-1]
    number, taken.calls["all"] = taken.calls["all"], taken.calls["all"] + 1
    group = query.shape[1] // key.shape[1]
    k, v = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    scores = query @ k.mT * (query.shape[3] ** -0.5 if scaling is None else scaling)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if position_bias is not None:
        scores = scores + position_bias
    if attention_mask is not None:
        scores = scores + attention_mask[..., : k.shape[2]]
    scores = scores.clone()
    for call, head, i, j in taken.links:
        if call == number:
            scores[:, head, i, j] = -torch.inf
    for call, first, last, own in taken.tokens:
        if call == number:
            rows = torch.arange(scores.shape[2])
            rows = rows[(rows < first) | (rows > last)] if own else rows
            scores[:, :, rows, first : last + 1] = -torch.inf
    if s_aux is not None:
        sink = s_aux.view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        whole = torch.cat((scores, sink), dim=-1).softmax(-1)
    else:
        whole = torch.nn.functional.pad(scores.softmax(-1), (0, 1))
    weights = whole[..., :-1].clone()
    for call, head, i, j in taken.zeroed:
        if call == number:
            weights[:, head, i, j] = 0
    out = weights @ v
    if taken.kept is not None:
        out.retain_grad()
        taken.kept.append((whole, v, out))
    for call, head in taken.heads:
        if call == number:
            out[:, head] = 0
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, eager_mask)


@contextmanager
def taken_out(model: Any, **what: Any) -> Iterator[None]:
    """Context in which a model runs without what is named: the keyword arguments of `Taken`."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    _TAKEN.append(Taken(**what))
    try:
        yield
    finally:
        _TAKEN.pop()
        model.set_attn_implementation(before)
