"""Rules: what turns the products q k^T into weights; all of a call that is not q, k or v.

How the queries are aligned with the keys, if query_len is not key_len, is the `query_offset` here;
`fit` raises if it is missing and matters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wqkv.attend.bias import Bias, StoredBias
from wqkv.attend.geometry import Sizes, check_offset
from wqkv.attend.masks import Dense
from wqkv.attend.masks.algebra import Full, Mask
from wqkv.attend.values import readable
from wqkv.errors import ArgumentError, KindError, message

#: The mask that hides nothing, as the default of functions.
FULL = Full()


@dataclass(frozen=True, eq=False)
class Rules:
    """Mask, bias, scale, softcap, sinks, dropout and the place of the first query.

    `attention` says what each of them does. A number that cannot be is an error here; `fit` checks
    what depends on the sizes of q and k, once, when a `Call` is made.
    """

    mask: Mask  # without a default, because torch.compile cannot trace that of a dataclass
    bias: Bias | None = None
    scale: float | None = None  # None: 1 / sqrt(d_k)
    softcap: float | None = None
    sinks: Tensor | None = None  # (n_head,)
    dropout_p: float = 0.0
    query_offset: int | Tensor | None = None  # a tensor has one per sample; None: not said

    def __post_init__(self) -> None:
        if self.scale is not None and not abs(self.scale) < math.inf:
            raise ArgumentError(f"`scale` is {self.scale}.\nPass a finite number.")
        if self.softcap is not None and not 0 < self.softcap < math.inf:
            raise ArgumentError(
                f"`softcap` is {self.softcap}; the scores are capped at plus and minus it.\n"
                "Pass > 0 or None."
            )
        if not 0 <= self.dropout_p < 1:
            raise ArgumentError(
                f"`dropout_p` is {self.dropout_p}, the share of weights to drop.\n"
                "Pass 0 <= dropout_p < 1."
            )

    def fit(self, query: Tensor, query_len: int, key_len: int) -> Rules:
        """Raise unless the rules fit a query (batch, n_head, ...) in a text of these lengths.

        Returns:
            The same rules, with `query_offset` as (batch,) where it is a tensor.
        """
        batch, n_head = query.shape[:2]
        self.mask.check(Sizes(batch, n_head, query_len, key_len))
        if self.bias is not None:
            self.bias.check((batch, n_head, query_len, key_len))
        if self.sinks is not None:
            _check_sinks(self.sinks, query)
        offset = self.query_offset
        if offset is None:
            if query_len != key_len and self.by_position:
                raise _unplaced(query_len, key_len)
            return self
        fitting = check_offset(offset, batch, query.device)
        return self if fitting is offset else replace(self, query_offset=fitting)

    def without_sinks(self) -> Rules:
        """The rules of one piece of the keys: sinks are merged once, after all pieces."""
        return self if self.sinks is None else replace(self, sinks=None)

    @property
    def by_position(self) -> bool:
        """Whether the result depends on where the queries stand among the keys."""
        return self.mask.by_position or (self.bias is not None and self.bias.by_position)

    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors that the rules are made of."""
        others = (self.sinks, self.query_offset)
        return (
            *self.mask.tensors(),
            *(() if self.bias is None else self.bias.tensors()),
            *(x for x in others if isinstance(x, Tensor)),
        )


def as_mask(mask: Mask | Tensor) -> Mask:
    """Return a bool tensor as a dense mask; a mask is returned unchanged."""
    return Dense(mask) if isinstance(mask, Tensor) else mask


def as_bias(bias: Bias | Tensor | None) -> Bias | None:
    """Return a float tensor as a bias of the scores; a bias or None is returned unchanged."""
    if not isinstance(bias, Tensor):
        return bias
    if not bias.is_floating_point():
        do = "Pass a bool tensor as `mask`." if bias.dtype == torch.bool else "Cast it to a float."
        raise KindError(
            message("A bias is a float that is added to the scores.", {"bias": bias}, do)
        )
    if bias.ndim not in (2, 4):
        raise ArgumentError(
            message(
                f"A bias has 2 or 4 axes, not {bias.ndim}.",
                {"bias": bias},
                "Pass (query, key) or (batch, head, query, key), with 1 where all are alike.",
            )
        )
    return StoredBias(bias[None, None] if bias.ndim == 2 else bias)


def _check_sinks(sinks: Tensor, query: Tensor) -> None:
    n_head = query.shape[1]
    came = {"sinks": sinks, "query": query}
    if not sinks.is_floating_point():
        raise KindError(
            message(
                "`sinks` holds one float logit per head.", came, f"Pass a float tensor ({n_head},)."
            )
        )
    if sinks.shape != (n_head,):
        raise ArgumentError(
            message(
                f"`sinks` has shape {tuple(sinks.shape)} for {n_head} heads.",
                came,
                f"Pass ({n_head},).",
            )
        )
    if sinks.device != query.device:
        raise ArgumentError(
            message("`sinks` is on another device.", came, f"Pass `sinks.to('{query.device}')`.")
        )
    if readable(sinks) and bool(sinks.isnan().any()):
        heads = sinks.isnan().nonzero().flatten().tolist()
        raise ArgumentError(
            message(f"`sinks` is NaN for head {heads}.", came, "Pass a number per head.")
        )


def _unplaced(query_len: int, key_len: int) -> ArgumentError:
    return ArgumentError(
        f"Where do {query_len} queries stand among {key_len} keys? "
        "The mask or bias depends on it.\n"
        "  query_offset=0: the first query at the first key (upper left)\n"
        f"  query_offset={key_len - query_len}: the last query at the last key "
        "(lower right, as with a cache)\n"
        "Pass one of them, or another position."
    )
