"""LinkMap: a number for every link of a map, made of its weight, and never built.

P are the weights, g the gradient of a scalar L with respect to a head's output, o that output:

    contribution  P_ij ||v_j WO||                 how much the link adds (Kobayashi et al. 2020)
    split         P_ij v_j . (WO u)               what it adds along a direction u
    gradient      P_ij (g_i . v_j - g_i . o_i)    dL / dscore_ij
    effect        -gradient_ij / (1 - P_ij)       what removing the link does to L, to first order
                  -P_ij g_i . v_j                 what setting its value to 0 does, to first order
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from wqkv.doors import door
from wqkv.errors import ArgumentError
from wqkv.maps import statistics
from wqkv.maps.links import Links
from wqkv.maps.overlay import in_ink
from wqkv.maps.picks import Index, numbers, pick
from wqkv.maps.scales import Scale, scale_of
from wqkv.maps.tile_map import LIMIT, TileMap, check_limit

#: How a link is removed: its weight goes to the row's other keys ("renormalize"), or the weight
#: stays and the value that it carries is 0 ("zero").
How: TypeAlias = Literal["renormalize", "zero"]
HOWS: tuple[How, ...] = ("renormalize", "zero")


def check_how(how: str) -> None:
    """Raise unless it is one of HOWS."""
    if how not in HOWS:
        raise ArgumentError(
            f"`how` is {how!r}, the way a link is removed.\nPass {' or '.join(map(repr, HOWS))}."
        )


@door
class LinkMap(TileMap[Links]):
    """A number for every link, made of P_ij, indexed [batch, head, query, key], never built.

    The methods of an AttentionMap make one: `contributions`, `split`, `gradients`, `effects`. It is
    P_ij (R_i . C_j), of a vector R_i of the query and a vector C_j of the key; for `effects` with
    how="renormalize" this is divided by P_ij - 1. A tile costs as much as one of the weights, and
    one product more. A hidden link is 0.

    Dtype: all is computed in float32 (float64 for float64).

    Args:
        numbers: what computes them.
        what: what the numbers are, in words.
        limit: the most numbers that one tile may hold.

    >>> q = torch.randn(1, 2, 5, 8)
    >>> from wqkv import AttentionMap
    >>> AttentionMap(q, q).contributions(q, torch.randn(2, 8, 16))
    LinkMap[1, 2, 5, 5]: P_ij ||v_j WO||
    """

    def __init__(self, numbers: Links, what: str, limit: int = LIMIT) -> None:
        check_limit(limit)
        self._numbers, self.what, self.limit = numbers, what, limit

    def __repr__(self) -> str:
        return f"{type(self).__name__}{list(self.shape)}: {self.what}"

    def _scale(self, numbers: Sequence[Tensor]) -> Scale:
        return scale_of(numbers)

    def _scale_on(self, row: Tensor) -> Scale:
        return in_ink(scale_of([row]))

    def total(self) -> Tensor:
        """The sum over the keys of every row: (batch, n_head, query_len).

        It costs one call, as R_i . (P C)_i; for effects with how="renormalize" one pass over tiles,
        because these are not linear in P.
        """
        return self._rows(type(self._numbers).of_rows)

    def received(self) -> Tensor:
        """The sum over the queries of every key: (batch, n_head, key_len). It costs one pass."""
        return self._columns(type(self._numbers).of_keys)

    def thumbnail(
        self,
        n: int = 64,
        progress: Callable[[int, int], None] = lambda done, total: None,
        lengths: tuple[int, int] | None = None,
    ) -> Tensor:
        """Exact means of absolute values of n x n blocks: (batch, n_head, n, n).

        A side that is shorter than n has as many blocks as tokens. Absolute values, because signed
        numbers would cancel in a block. NaN counts as 0. It costs one pass over tiles.

        Args:
            progress: is called with (rows done, rows in all) after every block of rows.
            lengths: (query_len, key_len) of a larger map that this one begins; its rest is 0.

        Raises:
            ArgumentError: `n` below 1.
        """
        if n < 1:
            raise ArgumentError(f"`n` is {n}, the blocks of a side.\nPass 1 or more.")
        return self._columns(statistics.absolute_means, n, lengths or self.shape[2:], progress)


class EffectMap(LinkMap):
    """What removing each link of a call does to a scalar L, to first order; never built.

    `AttentionMap.effects` makes one, and says what is meant. A link that cannot be removed, because
    its row sees nothing else, is NaN, which `top` ranks last and the sums leave out.

    >>> q = torch.randn(1, 2, 5, 8)
    >>> from wqkv import AttentionMap, attention
    >>> effects = AttentionMap(q, q).effects(q, attention(q, q, q), torch.ones_like(q))
    >>> effects.top(3).queries.shape, effects.group([0, 4]).shape
    (torch.Size([1, 2, 3]), torch.Size([1, 2, 5]))
    """

    @door
    def group(self, keys: Index) -> Tensor:
        """What removing several keys J of a row together does to L: (batch, n_head, query_len).

        (m (g . o) - g . (P_J v_J)) / (1 - m), with m = sum_J P: single effects do not add up. A row
        that would lose every key is NaN. With how="zero" it is -g . (P_J v_J), the plain sum.

        It costs two calls; with how="zero" one.

        Args:
            keys: J, the same keys for every row: an int, a slice or a list of positions.

        Raises:
            ArgumentError: no such key.
        """
        picked, _ = pick(keys, self.shape[3], "key")
        chosen = torch.zeros(self.shape[3], dtype=torch.bool, device=self._numbers.device)
        chosen[numbers(picked, chosen.device)] = True
        return self._rows(type(self._numbers).of_some, chosen)
