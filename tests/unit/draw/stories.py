"""Stories made by hand: random tensors of distinct prime sizes, consistent where drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from wqkv.maps.proof import Proof
from wqkv.study.head_matrices import HeadMatrices
from wqkv.study.one_token import TokenStory
from wqkv.study.tokens import Unread

torch.set_num_threads(1)

WORDS = ("[CLS]", "the", "animal", "didn", "'", "t", "cross", "it", "was", "tired", "[SEP]")


def make(
    tokens: Sequence[str] = WORDS, token: int = 7, causal: bool = False, **changes: Any
) -> TokenStory:
    """A story of n tokens in which x has 53 numbers (or is given), q and k have 17 and v has 13."""
    torch.manual_seed(3)
    x = changes.pop("x", None)
    x = torch.randn(53) if x is None else x
    n, d_model, d_k, d_v = len(tokens), len(x), 17, 13
    scores = torch.randn(n, n) * 2
    if causal:
        scores = scores.masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), float("-inf"))
    weights = scores.softmax(dim=-1)
    values, WO = torch.randn(n, d_v), torch.randn(d_v, d_model)
    context = weights[token] @ values
    WQ, WK = torch.randn(d_model, d_k), torch.randn(d_model, d_k)
    WV, bQ = torch.randn(d_model, d_v), torch.randn(d_k)
    bV = values[token] - x @ WV  # so that v is what the other tokens look at too
    matrices = HeadMatrices(WQ, WK, WV, WO, bQ, None, bV, None, (), (), (), ())
    story = TokenStory(
        model="tiny-model", family="bert", sentence=" ".join(tokens), tokens=tuple(tokens),
        special=tuple(w in ("[CLS]", "[SEP]") for w in tokens), unread=Unread(n),
        n_layer=5, n_head=3, n_kv_head=3, d_model=d_model, d_k=d_k, layer=2, head=1, token=token,
        mask="Causal()" if causal else "Full()", position="", scale=d_k**-0.5, softcap=None,
        x=x, q=x @ WQ + bQ, k=x @ WK, v=values[token], scores=scores[token],
        weights=weights[token], context=context, gated=context, share=context @ WO,
        output=torch.randn(d_model), matrices=matrices, map=weights,
        proof=Proof(1.9e-7, 2.3, 4.1e-6, 11),
    )  # fmt: skip
    return dataclasses.replace(story, **changes)
