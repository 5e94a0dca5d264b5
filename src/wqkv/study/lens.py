"""The logit lens: what a model would answer if it ended after an earlier layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from wqkv.doors import door
from wqkv.errors import ArgumentError
from wqkv.study.generate import NextToken, likeliest, one_text_model
from wqkv.study.stream import blocks_of
from wqkv.study.view import View


@door
@torch.no_grad()
def logit_lens(view: View, token: int) -> tuple[tuple[NextToken, ...], ...]:
    """The likeliest answers at a token if the model ended after each layer: softmax(head(norm(x))).

    The answer is the token that comes next, or, of a model for masked tokens, the one that stands
    there. That after the last layer is the model's own. The others read a state in the middle of
    the model by the norm and the head that were trained for the last one, so that they say how near
    a state already is to an answer, not what the model "thinks" there.

    Raises:
        ArgumentError: no such token; the model has no such head, or writes a second text.

    Source: nostalgebraist, "interpreting GPT: the logit lens" (2020).
    """
    model = one_text_model(view, "The logit lens")
    head: Any = model.speaker if model.speaker is not None else model.filler
    if head is None:
        raise ArgumentError(
            f"{model.name} has no head that answers with tokens.\n"
            "Open a causal language model, or one with a head for masked tokens."
        )
    states = view.stream(token).states[1:, None]  # each as a text of one token

    # All that stands behind the layers is the model's own code.
    def answer(module: nn.Module, args: tuple[Any, ...], out: Any) -> Any:
        return (states, *out[1:]) if isinstance(out, tuple) else states

    hook = blocks_of(model)[-1].register_forward_hook(answer)
    try:
        ids = torch.tensor([[view.reading.ids[token]]], device="cpu").expand(len(states), 1)
        logits = head(input_ids=ids).logits[:, -1]
    finally:
        hook.remove()
    return tuple(likeliest(model, one) for one in logits)
