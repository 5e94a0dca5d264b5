"""Which of the next tokens may be drawn: temperature, then top-k, then top-p."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wqkv.errors import ArgumentError


@dataclass(frozen=True)
class NextTokens:
    """The probabilities of the next token, (vocabulary,), before and after they are filtered.

    `kept` tokens may be drawn. After the temperature they `held` a share of the probability, and
    are divided by it, so that they add up to 1.
    """

    before: Tensor
    after: Tensor
    kept: int
    held: float


def filtered(logits: Tensor, temperature: float, top_k: int, top_p: float) -> NextTokens:
    """Filter the logits of one token, (vocabulary,), as transformers' `generate` does.

    First all are divided by the temperature. Then only the top_k largest stay (all of them where
    it is 0; of tokens that are as large as the last one, all stay). Then only the fewest of the
    largest stay whose probabilities add up to at least top_p, and always one.

    Source: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", section 3.1;
    transformers, generation/logits_process.py.

    >>> found = filtered(torch.tensor([2.0, 1.0, 0.0]), temperature=1.0, top_k=2, top_p=1.0)
    >>> found.kept, [round(one, 3) for one in found.after.tolist()], round(found.held, 3)
    (2, [0.731, 0.269, 0.0], 0.91)
    """
    tempered = logits / temperature
    scores = tempered
    if top_k:
        least = scores.topk(min(top_k, len(scores))).values[-1]
        scores = scores.masked_fill(scores < least, -torch.inf)
    if top_p < 1:
        rising, order = scores.sort()
        cut = rising.softmax(dim=0).cumsum(dim=0) <= 1 - top_p
        cut[-1] = False
        scores = scores.masked_fill(cut.scatter(0, order, cut), -torch.inf)
    stay = scores > -torch.inf
    return NextTokens(
        before=logits.softmax(dim=0),
        after=scores.softmax(dim=0),
        kept=int(stay.sum()),
        held=float(tempered.softmax(dim=0)[stay].sum()),
    )


def check_sampling(
    temperature: float | None = None, top_k: int | None = None, top_p: float | None = None
) -> None:
    """Raise an `ArgumentError` for a value that no token could be drawn with; None is left out."""
    if temperature is not None and not 0 < temperature < math.inf:
        raise ArgumentError(
            f"`temperature` is {temperature}, and the logits are divided by it.\n"
            "Pass a number above 0, or leave out the seed to get the likeliest token each time."
        )
    if top_k is not None and top_k < 0:
        raise ArgumentError(f"`top_k` is {top_k}.\nPass how many tokens may be drawn; 0 is all.")
    if top_p is not None and not 0 < top_p <= 1:
        raise ArgumentError(
            f"`top_p` is {top_p}, and the tokens that stay add up to it.\n"
            "Pass a number above 0 and up to 1; 1 keeps all tokens."
        )
