"""One layer of a model with one text in it: q, k, v, and every head's weights, never N x N."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from wqkv.attend import engines
from wqkv.attend.bias import Bias
from wqkv.attend.call import Call, call_of
from wqkv.attend.engines import reference
from wqkv.attend.geometry import At
from wqkv.attend.partial import share
from wqkv.attend.rules import Rules
from wqkv.errors import ArgumentError
from wqkv.layer.attention import MultiheadAttention
from wqkv.layer.convert.huggingface import check_plain
from wqkv.maps.attention_map import AttentionMap, map_of
from wqkv.study.head_matrices import rows_of
from wqkv.study.sweep import Sweep

#: The weights of many rows are computed in blocks of about this many.
BLOCK = 2**22


class OpenLayer:
    """A layer's numbers for the hidden states x, (1, n, d_model), that a model put into it.

    `q` is (1, n_head, n, d_k), `k` and `v` are (1, n_kv_head, m, d), normed and rotated as they go
    into the scores. k and v are made of `source`, (1, m, d_model), or of x itself, where m is n.
    `positions` are those of RoPE where they are not 0 to n - 1: see `MultiheadAttention.forward`.
    """

    @torch.no_grad()
    def __init__(
        self,
        layer: MultiheadAttention,
        x: Tensor,
        source: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> None:
        if layer.maps_per_head != 1:
            raise ArgumentError(
                f"Each head of {type(layer).__name__} is a difference of {layer.maps_per_head} "
                "maps, and what is shown here has one.\nLook at it with its `map` and `trace`."
            )
        if layer.persistent:
            raise ArgumentError(
                f"{layer.persistent} of the keys are persistent, which are no tokens of the text.\n"
                "Look at the layer with its `map` and `trace`."
            )
        check_plain(layer)
        self.layer, self.x, self.positions = layer, x, positions
        self.q, self.k, self.v = layer.qkv(x, source, positions=positions)
        self._effects: dict[int, Tensor] = {}
        self._maps: dict[int, AttentionMap] = {}
        self.sweeps: dict[int, Sweep] = {}

    @property
    def bytes(self) -> int:
        return sum(part.numel() * part.element_size() for part in (self.q, self.k, self.v))

    @cached_property
    def whole(self) -> AttentionMap:
        """The map of all heads."""
        return map_of(self.call)

    def map(self, head: int) -> AttentionMap:
        """The map of one head, [1, 1, n, m]: its statistics cost one head."""
        if head not in self._maps:
            self._maps[head] = map_of(self.head_call(head))
        return self._maps[head]

    def head_call(self, head: int) -> Call:
        """What is asked of one head."""
        one, of_keys = self._at(head)
        q, k, v = self.q[:, one], self.k[:, of_keys], self.v[:, of_keys]
        return call_of(q, k, v, rules_of(self.layer, one))

    def value(self, head: int) -> Tensor:
        """The values of one head: (1, 1, m, d_v)."""
        return self.v[:, self._at(head)[1]]

    def sink(self) -> Tensor:
        """The weight on the first token and on a learned sink, mean over all rows: (n_head,)."""
        weight = self.whole.mass(0)
        if self.layer.sinks is not None:
            sinks = self.layer.sinks.detach().view(1, -1, 1)
            weight = weight + share(sinks, self.whole.lse)[..., 0]
        return weight[0].mean(dim=-1)

    @cached_property
    def call(self) -> Call:
        """What is asked of all heads."""
        return call_of(self.q, self.k, self.v, rules_of(self.layer))

    def engine(self) -> str:
        """The engine that our layer runs this text on."""
        return engines.name(engines.choose(self.call, self.layer.engine))

    @torch.no_grad()
    def row(self, head: int, i: int) -> tuple[Call, At, reference.Steps]:
        """Row i of one head, computed by the reference: its call, its positions, its steps."""
        one, of_keys = self._at(head)
        q, k, v = self.q[:, one, i : i + 1], self.k[:, of_keys], self.v[:, of_keys]
        call = call_of(q, k, v, rules_of(self.layer, one, i))
        at = call.places()
        return call, at, reference.steps(call, at)

    def rows(self, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Some rows of all heads, in blocks: (which rows, their weights (n_head, rows, m))."""
        for here in rows.split(max(1, BLOCK // (self.q.shape[1] * self.k.shape[2]))):
            yield here, self.whole.rows(here)[0]

    @torch.no_grad()
    def output(self, rows: Tensor) -> tuple[Tensor, float]:
        """What the layer adds to some tokens, made of their weights, and the weights' rounding.

        A weight exp(score - lse) is off by up to 2^-23 (1 + |lse|) of itself; through v and WO that
        is the second number, its largest over all tokens and channels: rule 1 of maps/proof.py.
        """
        parts, off = [], 0.0
        for here, weights in self.rows(rows):
            # Heads that share a v are multiplied by it together.
            by_key = weights.view(self.v.shape[1], -1, weights.shape[2])
            context, bulk = (
                (by_key @ v).view(1, *weights.shape[:2], -1) for v in (self.v[0], self.v[0].abs())
            )
            parts.append(self.layer._output(context.to(self.x.dtype), self.x[:, here])[0])
            bulk *= 1 + self._lse(here, weights)[..., None].abs()
            off = max(off, float((bulk.transpose(1, 2).flatten(2) @ self._WO.abs().T).max()))
        return torch.cat(parts), 2**-23 * off

    def _lse(self, rows: Tensor, weights: Tensor) -> Tensor:
        """The lse of some rows, as score - log(weight) of their strongest key: (1, n_head, rows).

        The map's own `lse` would cost one more pass over the whole map.
        """
        top, key = weights.max(dim=-1)
        kv = torch.arange(len(key), device="cpu") // (len(key) // self.k.shape[1])
        product = (self.q[0, :, rows] * self.k[0, kv[:, None], key]).sum(dim=-1) * self.call.scale
        some, head = rows.view(1, 1, -1, 1), torch.arange(len(key), device="cpu").view(1, -1, 1, 1)
        at = At(torch.zeros_like(head[:, :1]), head, some, some, key[None, ..., None])
        score = reference.apply_rules(self.call, product[None, ..., None], at)[..., 0]
        return (score - top.log()).masked_fill(top == 0, 0)  # a row that sees nothing

    # From the values of one head to the layer's output

    def WO(self, head: int) -> Tensor:
        """The rows of the paper's WO that belong to a head: (d_v, d_model)."""
        return self._WO.T[rows_of(self.layer, "WO", head)]

    @property
    def _WO(self) -> Tensor:
        assert self.layer.WO is not None
        return self.layer.WO.weight.detach()

    @torch.no_grad()
    def apply_gate(self, head: int, i: int | slice, values: Tensor) -> Tensor:
        """Values (..., d_v) of a head times the gate of token i, if the layer has one.

        For a slice of tokens each row of the values has the gate of its own token.
        """
        if self.layer.gate is None:
            return values
        gate = torch.sigmoid(self.layer.WG(self.x[0, i]))
        return values * torch.unflatten(gate, -1, (self.layer.n_head, -1))[..., head, :]

    def full_effects(self, head: int, i: int) -> Tensor:
        """|v_j WO|, what key token j would add to token i at weight 1: (m,)."""
        # Without a gate it is the same for all i, and kept.
        if self.layer.gate is not None or head not in self._effects:
            values = self.v[0, self._at(head)[1].start]
            self._effects[head] = (self.apply_gate(head, i, values) @ self.WO(head)).norm(dim=1)
        return self._effects[head]

    # Heads, and the keys that they share

    def _at(self, head: int) -> tuple[slice, slice]:
        """Which slice of q is a head's, and which of k and v."""
        kv = head // (self.q.shape[1] // self.k.shape[1])
        return slice(head, head + 1), slice(kv, kv + 1)


def rules_of(layer: MultiheadAttention, heads: slice = slice(None), query_offset: int = 0) -> Rules:
    """The rules of some heads of a layer, where the first query stands at `query_offset`."""
    bias = layer.position if isinstance(layer.position, Bias) else None
    return Rules(
        layer.mask,
        bias if bias is None or heads == slice(None) else bias.heads(heads.start, heads.stop),
        layer.scale,
        layer.softcap,
        None if layer.sinks is None else layer.sinks.detach()[heads],
        query_offset=query_offset,
    )
