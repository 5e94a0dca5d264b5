"""Stories made by hand: random tensors of distinct prime sizes, consistent where drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from wqkv.maps.proof import Proof
from wqkv.study.one_token import TokenStory
from wqkv.study.tokens import Unread

torch.set_num_threads(1)

WORDS = ("[CLS]", "the", "animal", "didn", "'", "t", "cross", "it", "was", "tired", "[SEP]")


def make(
    tokens: Sequence[str] = WORDS, token: int = 7, causal: bool = False, **changes: Any
) -> TokenStory:
    """A story of n tokens in which x has 53 numbers, q and k have 17 and v has 13."""
    torch.manual_seed(3)
    n, d_model, d_k, d_v = len(tokens), 53, 17, 13
    scores = torch.randn(n, n) * 2
    if causal:
        scores = scores.masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), float("-inf"))
    weights = scores.softmax(dim=-1)
    values, WO = torch.randn(n, d_v), torch.randn(d_v, d_model)
    context = weights[token] @ values
    story = TokenStory(
        model="tiny-model", family="bert", sentence=" ".join(tokens), tokens=tuple(tokens),
        special=tuple(w in ("[CLS]", "[SEP]") for w in tokens), unread=Unread(n),
        n_layer=5, n_head=3, n_kv_head=3, d_model=d_model, d_k=d_k, layer=2, head=1, token=token,
        mask="Causal()" if causal else "Full()", position="", scale=d_k**-0.5,
        x=torch.randn(d_model), q=torch.randn(d_k), k=torch.randn(d_k), v=values[token],
        scores=scores[token], weights=weights[token], context=context, share=context @ WO,
        output=torch.randn(d_model), map=weights, proof=Proof(1.9e-7, 2.3, 4.1e-6, 11),
    )  # fmt: skip
    return dataclasses.replace(story, **changes)
