"""AttentionMap: one layer's weights, indexed like an array and never built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from wqkv.attend.bias import Bias
from wqkv.attend.call import Call, request
from wqkv.attend.masks.algebra import Mask
from wqkv.attend.rope import RoPE
from wqkv.attend.rules import FULL, Rules
from wqkv.doors import door
from wqkv.errors import ArgumentError, KindError, describe, message, need
from wqkv.maps import links, pictures, row_statistics, statistics
from wqkv.maps.link_map import EffectMap, How, LinkMap, check_how
from wqkv.maps.links import Links
from wqkv.maps.picks import Index, pick
from wqkv.maps.row_statistics import Coverage
from wqkv.maps.tile_map import LIMIT, TileMap, check_limit, computed_aside
from wqkv.maps.weights import Weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@door
class AttentionMap(TileMap[Weights]):
    """P = softmax(q k^T * scale), indexed like an array [batch, head, query, key], never built.

    P[i, j] = exp(score(i, j) - lse_i), so a tile costs its own small matrix product. A row sums to
    1; to less where a sink takes a part, to 0 where nothing may be seen.

    Dtype: all is computed in float32 (float64 for float64), whatever q and k are.

    Args:
        query: (batch, n_head, query_len, d_k); the rest is as in `attention`.
        key: (batch, n_kv_head, key_len, d_k).
        lse: the logsumexp of every row, if it is known: (batch, n_head, query_len). It may count
            more keys than these, whose weights are then a part of the row.
        limit: the most weights that one tile may hold.

    Raises:
        ArgumentError: a tile over the limit (with the size in GiB), an index out of range.

    >>> import torch
    >>> q = torch.randn(1, 2, 5, 8)
    >>> m = AttentionMap(q, q)
    >>> m
    AttentionMap[1, 2, 5, 5] of query f32[1, 2, 5, 8] on cpu, mask Full()
    >>> m[0, 1, 3].shape, m[0, :, 1:3, [0, 4]].shape
    (torch.Size([5]), torch.Size([2, 2, 2]))
    """

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        *,
        mask: Mask | Tensor = FULL,
        bias: Bias | Tensor | None = None,
        scale: float | None = None,
        softcap: float | None = None,
        sinks: Tensor | None = None,
        query_offset: int | Tensor | None = None,
        lse: Tensor | None = None,
        limit: int = LIMIT,
    ) -> None:
        call = request(
            query.detach(), key.detach(), key.detach(), mask=mask, bias=bias, scale=scale,
            softcap=softcap, sinks=sinks, query_offset=query_offset,
        )  # fmt: skip
        self._look_at(call, lse, limit)

    def _look_at(self, call: Call, lse: Tensor | None, limit: int) -> None:
        """Make this the map of a call."""
        check_limit(limit)
        query = call.query
        if lse is not None and not lse.is_floating_point():
            raise KindError(message("`lse` holds floats.", {"lse": lse}, "Cast it."))
        if lse is not None and lse.shape != query.shape[:3]:
            raise ArgumentError(
                message(
                    f"`lse` has shape {tuple(lse.shape)}, not {tuple(query.shape[:3])}.",
                    {"lse": lse, "query": query},
                    "Pass (batch, n_head, query_len).",
                )
            )
        self._numbers, self.limit = Weights(call, lse), limit
        # whether it is known where the queries stand among the keys
        self._placed = call.rules.query_offset is not None or call.sizes[2] == call.sizes[3]

    @property
    def mask(self) -> Mask:
        """Who may see whom."""
        return self._numbers.given.rules.mask

    @property
    def lse(self) -> Tensor:
        """The logsumexp of every row of scores (and its sink): (batch, n_head, query_len)."""
        return self._rows(lambda P: P.lse)

    def __repr__(self) -> str:
        query = describe(self._numbers.given.query)
        return f"AttentionMap{list(self.shape)} of query {query}, mask {self.mask!r}"

    def plot(self, size: int = 64) -> Figure:
        """The weights of every head of the first sample, as a matplotlib figure.

        A map with more than `size` queries or keys is drawn in size x size blocks, exactly: each
        cell is the weight that a block's queries, in the mean, give to a block's keys together. The
        colors go from 0 to 1 in every figure, by the square root.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        need("matplotlib", "show", "A plot")
        means, (queries, keys) = self.thumbnail(size)[0], self._sides(0)
        found = [pictures.of_means(f"head {h}", one, queries, keys) for h, one in enumerate(means)]
        return pictures.figure(repr(self), found)

    def flat(self) -> AttentionMap:
        """The map with equal weights for all keys that a row may see; `lse` is ln(their number).

        A pattern is measured against it: `m.mass(keys) / m.flat().mass(keys)`.
        """
        call = self._numbers.given
        batch, n_head, query_len, key_len = self.shape
        nothing = call.query.new_zeros((1, 1, 1, 1), dtype=self._numbers.dtype)
        q, k = (nothing.expand(batch, n_head, n, 1) for n in (query_len, key_len))
        rules = Rules(mask=call.rules.mask, query_offset=call.rules.query_offset)
        return map_of(Call(q, k, k, rules), limit=self.limit)._with(self._axes)

    # Statistics: no N x N

    def times(self, X: Tensor) -> Tensor:
        """P X (batch, n_head, query_len, c); X is (key_len, c) or (batch, n_kv_head, ...)."""
        return self._rows(statistics.times, X)

    def t_times(self, Y: Tensor) -> Tensor:
        """P^T Y (batch, n_head, key_len, c); Y is (query_len, c) or (batch, n_head, ...)."""
        return self._columns(statistics.t_times, Y)

    def received(self) -> Tensor:
        """The weight that every key receives, P^T 1: (batch, n_head, key_len)."""
        return self._columns(statistics.received)

    def entropy(self) -> Tensor:
        """-sum_j P_ij ln P_ij of every row, in nats: (batch, n_head, query_len).

        A sink's part does not count.
        """
        return self._rows(statistics.entropy)

    def mass(self, keys: Index) -> Tensor:
        """The weight that every row puts on chosen keys: (batch, n_head, query_len)."""
        return self._rows(statistics.mass, pick(keys, self.shape[3], "key")[0])

    def mean_distance(self) -> Tensor:
        """How far each query looks in the mean: sum_j P_ij |i - j|, (batch, n_head, query_len).

        It is exact to about 1e-6 of the length.

        Raises:
            ArgumentError: it is not known where the queries stand among the keys.
        """
        _, _, query_len, key_len = self.shape
        if not self._placed:
            raise ArgumentError(
                f"Where do {query_len} queries stand among {key_len} keys? A distance needs it.\n"
                f"Make the map with query_offset=0 (the first query at the first key), "
                f"{key_len - query_len} (the last at the last), or another position."
            )
        return self._rows(statistics.mean_distance)

    def effective(self) -> Tensor:
        """1 / sum_j P_ij^2, how many keys a row looks at: (batch, n_head, query_len).

        n equal weights count as n keys. An empty row has 0. Where a sink takes a part of the row,
        it can be more than there are keys. To 1e-5 of the largest. It costs one call, as
        exp(2 lse - lse of all scores doubled); with softcap or a bias one pass over tiles.

        Source: Hill 1973 (doi:10.2307/1934352), the diversity number of order 2.
        """
        return self._rows(row_statistics.effective)

    def coverage(self, share: float) -> Coverage:
        """How many keys hold a share of each row, at least and at most: (batch, n_head, query_len).

        Let n be how many of a row's heaviest keys it takes to reach `share` of what the row gives
        to its keys, where a sink's part does not count. Then least <= n <= most, rounding included.
        Keys are counted by ln P in bins of 0.1, so that n is known to less than 5 % (2 % in the
        mean). It costs one pass over tiles, about 2 calls.

        Args:
            share: above 0 and below 1, such as 0.5, 0.9, 0.95 or 0.99.

        Raises:
            ArgumentError: a share that cannot be.

        >>> import torch
        >>> q = torch.zeros(1, 2, 5, 8)
        >>> AttentionMap(q, q).coverage(0.5).most[0, 0]
        tensor([3, 3, 3, 3, 3])
        """
        if not 0 < share < 1:
            raise ArgumentError(
                f"`share` is {share}, how much of each row some keys hold.\n"
                "Pass a number above 0 and below 1."
            )
        bounds = self._rows(row_statistics.coverage, float(share))
        return Coverage(*bounds.round().long().unbind(dim=-1))

    def frequencies(self, rope: RoPE) -> Tensor:
        """scale q_if . (P K)_if: a row's mean score, split over the pairs of channels f of RoPE.

        (batch, n_head, query_len, pairs); q and k of this map are those that `rope` has rotated.
        Where it turns only `d` of the channels, one more number at the end is that of all others.
        The sum over the last axis is scale sum_j P_ij q_i . k_j, the mean of the scores before a
        bias. To 1e-5 of the largest |score|. It costs one call.

        Raises:
            ArgumentError: a map with softcap, whose scores are no sum; channels that do not fit.

        Source: Su et al. 2021 (arXiv:2104.09864), eq. 16: a score is a sum over pairs.

        >>> import torch
        >>> from wqkv import RoPE
        >>> q = torch.randn(1, 2, 5, 8)
        >>> AttentionMap(q, q).frequencies(RoPE()).shape
        torch.Size([1, 2, 5, 4])
        """
        return self._rows(row_statistics.frequencies, rope)

    def largest(self) -> Tensor:
        """max_ij scale q_i . k_j over visible pairs, before softcap and bias: (batch, n_head).

        -inf where nothing is visible. QK-clip watches it. It costs one pass over tiles.

        Source: Kimi K2 (arXiv:2507.20534), section 2.1.
        """
        return self._largest()

    def kl(self, other: AttentionMap) -> Tensor:
        """sum_j P_ij (ln P_ij - ln P'_ij) of every row, in nats: (batch, n_head, query_len).

        P' are the weights of `other`. A sink counts as a key, and all keys that only a given lse
        counts as one more. It is infinite where `other` hides a key that this map sees, and 0 in an
        empty row. It is a difference of numbers of the size of lse: what is at or below
        1e-5 (1 + max |lse|) is rounding. It costs 2 to 3 calls if neither map has softcap, sinks, a
        bias or a given lse, and both have one mask; else one pass over the tiles of both.

        Raises:
            ArgumentError, KindError: a map of another shape or kind.

        Source: Kullback and Leibler 1951, section 2.
        """
        if type(other) is not type(self):
            raise KindError(
                f"This map is of the type {type(self).__name__}, and the other of the type "
                f"{type(other).__name__}.\nPass two of one type."
            )
        if other.shape != self.shape:
            raise ArgumentError(
                f"Two maps are compared link by link, and have shapes {list(self.shape)} and "
                f"{list(other.shape)}.\nPass a map of the same tokens, with as many heads."
            )
        return self._kl(other)

    def thumbnail(self, n: int = 64) -> Tensor:
        """Exact means of n x n blocks of the map: (batch, n_head, n, n), n at most the lengths."""
        return self._columns(statistics.thumbnail, n, 0, self.shape[2])

    def proof(self, value: Tensor, output: Tensor, rows: Index | None = None) -> float:
        """The largest difference between P V, made of the weights that are shown, and an output.

        Args:
            value: (batch, n_kv_head, key_len, d_v).
            output: (batch, n_head, query_len, d_v), the heads' outputs before WO.
            rows: the rows to check; None is all of them, in blocks.

        Raises:
            ArgumentError: a value or an output of another shape, no rows.
        """
        return self._proof(value, output, self._queries(rows))

    # Numbers of links

    def contributions(self, value: Tensor, WO: Tensor) -> LinkMap:
        """P_ij ||v_j WO_h|| of every link: how much a token adds to another through a head.

        Query heads that share v have norms of their own, because each has its own WO_h. Its
        `total()` is the sum over keys. To 1e-5 of the largest. It costs one product of width d_v
        for each head and key when it is made; then a tile costs as much as one of the weights.

        Args:
            value: (batch, n_kv_head, key_len, d_v).
            WO: (n_head, d_v, d_out), the rows of the output matrix that each head is multiplied by.

        Raises:
            ArgumentError, KindError: sizes that disagree, no floats.

        Source: Kobayashi et al. 2020 (arXiv:2004.10102), section 3.

        >>> import torch
        >>> q = torch.randn(1, 2, 5, 8)
        >>> AttentionMap(q, q).contributions(q, torch.randn(2, 8, 16)).total().shape
        torch.Size([1, 2, 5])
        """
        found = self._links("contributions", links.contributions, value, WO)
        return LinkMap(found, "P_ij ||v_j WO||", self.limit)._with(self._axes)

    def split(self, value: Tensor, WO: Tensor, direction: Tensor) -> LinkMap:
        """P_ij v_j . (WO_h u): what every link writes along a direction u, such as a logit's.

        It splits what a head writes exactly: `total()` is o_i . (WO_h u), where o is the output of
        the head, to 1e-5 of its largest number. A tile costs as much as one of the weights.

        Args:
            value: (batch, n_kv_head, key_len, d_v).
            WO: (n_head, d_v, d_out), the rows of the output matrix that each head is multiplied by.
            direction: u, (d_out,).

        Raises:
            ArgumentError, KindError: sizes that disagree, no floats.

        Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits", whose
        direct path from a source token to a logit it is.

        >>> import torch
        >>> q = torch.randn(1, 2, 5, 8)
        >>> AttentionMap(q, q).split(q, torch.randn(2, 8, 16), torch.randn(16))[0, 1].shape
        torch.Size([5, 5])
        """
        found = self._links("split", links.split, value, WO, direction)
        return LinkMap(found, "P_ij v_j . (WO u)", self.limit)._with(self._axes)

    def gradients(self, value: Tensor, output: Tensor, grad_output: Tensor) -> LinkMap:
        """The gradient of every score: dL / dscore_ij = P_ij (g_i . v_j - g_i . o_i).

        The score is the one after softcap and bias, L any scalar, o the output of a head, and
        g = dL / do its gradient, which autograd gives. Exact to 1e-5 of the largest. A tile costs
        as much as one of the weights, and one product of width d_v.

        Args:
            value: (batch, n_kv_head, key_len, d_v).
            output, grad_output: o and g, (batch, n_head, query_len, d_v), before WO and without
                dropout; `proof(value, output)` says whether o is what this map makes.

        Raises:
            ArgumentError, KindError: sizes that disagree, no floats, a call with dropout.

        >>> import torch
        >>> q = torch.randn(1, 2, 5, 8)
        >>> AttentionMap(q, q).gradients(q, q, torch.ones_like(q)).top(3).weights.shape
        torch.Size([1, 2, 3])
        """
        found = self._links("gradients", links.gradients, value, output, grad_output)
        return LinkMap(found, "dL / dscore_ij", self.limit)._with(self._axes)

    def effects(
        self, value: Tensor, output: Tensor, grad_output: Tensor, how: How = "renormalize"
    ) -> EffectMap:
        """What removing each link does to a scalar L, after - before, to first order.

        Removing link (i, j) changes the head's output by exactly P_ij / (1 - P_ij) (o_i - v_j),
        because its weight goes to the row's other keys and its sink; so L changes by about
        P_ij / (1 - P_ij) (g_i . o_i - g_i . v_j), which is -gradient_ij / (1 - P_ij). It is NaN
        where the row sees nothing else. With how="zero" the weight stays and the value is 0: the
        output changes by -P_ij v_j, and L by about -P_ij g_i . v_j.

        The change of the output is exact; that of L is to first order, which predicts light links
        well and heavy ones badly. Several keys together: `group`. To 1e-5 of the largest; if keys
        are counted by a given lse alone, to 1e-6 (1 + |lse|) / (1 - P), because only lse tells of
        them. A tile costs as much as one of the weights, and one product of width d_v. A link
        heavier than 3/4 also costs its whole row, which is computed again without it, because
        1 - P would have lost digits.

        Args:
            value, output, grad_output: as in `gradients`.
            how: "renormalize" or "zero".

        Raises:
            ArgumentError, KindError: as in `gradients`; an unknown `how`.

        >>> import torch
        >>> q = torch.randn(1, 2, 5, 8)
        >>> effects = AttentionMap(q, q).effects(q, q, torch.ones_like(q))
        >>> effects.at([4, 4], [0, 3]).shape
        torch.Size([1, 2, 2])
        """
        check_how(how)
        of = links.removals if how == "renormalize" else links.zeroings
        found = self._links("effects", of, value, output, grad_output)
        return EffectMap(found, f"effects of removal, {how}", self.limit)._with(self._axes)

    # How one process answers. SharedMap overrides these methods

    @computed_aside
    def _largest(self) -> Tensor:
        return row_statistics.largest(self._numbers)

    @computed_aside
    def _kl(self, other: AttentionMap) -> Tensor:
        other._numbers.check()
        return row_statistics.kl(self._numbers, other._numbers)

    @computed_aside
    def _links(self, name: str, of: Callable[..., Links], *args: Tensor) -> Links:
        """The numbers of links that a method makes, `of(weights, *args)`."""
        return of(self._numbers, *args)

    @computed_aside
    def _proof(self, value: Tensor, output: Tensor, queries: Tensor) -> float:
        return statistics.proof(self._numbers, value, output, queries)


def map_of(call: Call, lse: Tensor | None = None, limit: int = LIMIT) -> AttentionMap:
    """The map of a call, which was checked when it was made. The call's `value` is not read."""
    made = AttentionMap.__new__(AttentionMap)
    made._look_at(replace(call, query=call.query.detach(), key=call.key.detach()), lse, limit)
    return made
