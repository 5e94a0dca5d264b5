"""One layer of a model with one text in it: q, k, v, and every head's weights, never N x N."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from wqkv.attend import engines
from wqkv.attend.bias import Bias
from wqkv.attend.call import Call, request
from wqkv.attend.engines import reference
from wqkv.attend.geometry import At
from wqkv.attend.partial import share
from wqkv.errors import ArgumentError
from wqkv.layer.attention import MultiheadAttention
from wqkv.layer.convert.huggingface import check_plain
from wqkv.maps.attention_map import AttentionMap
from wqkv.study.sweep import Sweep

#: Rows are gone through in blocks of about this many weights.
BLOCK = 2**22


class OpenLayer:
    """A layer's numbers for the hidden states x, (1, n, d_model), that a model put into it.

    `q` is (1, n_head, n, d_k), `k` and `v` are (1, n_kv_head, m, d), as they go into the scores;
    they are made of `source`, (1, m, d_model), or of x itself, where m is n.
    """

    @torch.no_grad()
    def __init__(self, layer: MultiheadAttention, x: Tensor, source: Tensor | None = None) -> None:
        if layer.maps_per_head != 1:
            raise ArgumentError(
                f"Each head of {type(layer).__name__} is a difference of {layer.maps_per_head} "
                "maps, and what is shown here has one.\nLook at it with its `map` and `trace`."
            )
        if layer.persistent:
            raise ArgumentError(
                f"{layer.persistent} of the keys are persistent, which are no words of the text.\n"
                "Look at the layer with its `map` and `trace`."
            )
        check_plain(layer)
        self.layer, self.x = layer, x
        self.q, self.k, self.v = layer.qkv(x, source)
        self._pushed: dict[int, Tensor] = {}
        self._maps: dict[int, AttentionMap] = {}
        self.sweeps: dict[int, Sweep] = {}

    @property
    def bytes(self) -> int:
        return sum(part.numel() * part.element_size() for part in (self.q, self.k, self.v))

    @cached_property
    def whole(self) -> AttentionMap:
        """The map of all heads."""
        return AttentionMap(self.q, self.k, query_offset=0, **self._rules(slice(None)))

    def map(self, head: int) -> AttentionMap:
        """The map of one head, [1, 1, n, m]: its statistics cost one head."""
        if head not in self._maps:
            one, of_keys = self._at(head)
            self._maps[head] = AttentionMap(
                self.q[:, one], self.k[:, of_keys], query_offset=0, **self._rules(one)
            )
        return self._maps[head]

    def sink(self) -> Tensor:
        """The weight on the first word and on a learned sink, mean over all rows: (n_head,)."""
        weight = self.whole.mass(0)
        if self.layer.sinks is not None:
            sinks = self.layer.sinks.detach().view(1, -1, 1)
            weight = weight + share(sinks, self.whole.lse)[..., 0]
        return weight[0].mean(dim=-1)

    @cached_property
    def call(self) -> Call:
        """What is asked of all heads."""
        return request(self.q, self.k, self.v, query_offset=0, **self._rules(slice(None)))

    def engine(self) -> str:
        """The engine that our layer runs this text on."""
        return engines.name(engines.choose(self.call, self.layer.engine))

    @torch.no_grad()
    def row(self, head: int, i: int) -> tuple[Call, At, reference.Steps]:
        """One row of one head as the specification has it: its call, its places, its steps."""
        one, of_keys = self._at(head)
        q, k, v = self.q[:, one, i : i + 1], self.k[:, of_keys], self.v[:, of_keys]
        call = request(q, k, v, query_offset=i, **self._rules(one))
        at = call.places()
        return call, at, reference.steps(call, at)

    def rows(self, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Some rows of all heads, in parts: (which rows, their weights (n_head, rows, m))."""
        for here in rows.split(max(1, BLOCK // (self.q.shape[1] * self.k.shape[2]))):
            yield here, self.whole.rows(here)[0]

    @torch.no_grad()
    def output(self, rows: Tensor) -> tuple[Tensor, float]:
        """What the layer adds to some words, made of their weights, and the weights' rounding.

        A weight exp(score - lse) is off by up to 2^-23 (1 + |lse|) of itself; through v and WO that
        is the second number, its largest over all words and channels.
        """
        parts, off = [], 0.0
        for here, weights in self.rows(rows):
            by_key = weights.view(self.v.shape[1], -1, weights.shape[2])  # heads that share a v
            context, bulk = (
                (by_key @ v).view(1, *weights.shape[:2], -1) for v in (self.v[0], self.v[0].abs())
            )
            parts.append(self.layer._output(context.to(self.x.dtype), self.x[:, here])[0])
            bulk *= 1 + self._lse(here, weights)[..., None].abs()
            off = max(off, float((bulk.transpose(1, 2).flatten(2) @ self._WO.abs().T).max()))
        return torch.cat(parts), 2**-23 * off

    def _lse(self, rows: Tensor, weights: Tensor) -> Tensor:
        """The lse of some rows, score - log(weight) of the strongest: (1, n_head, rows).

        The map's own `lse` would be one more pass over all of it.
        """
        top, key = weights.max(dim=-1)
        kv = torch.arange(len(key), device="cpu") // (len(key) // self.k.shape[1])
        product = (self.q[0, :, rows] * self.k[0, kv[:, None], key]).sum(dim=-1) * self.call.scale
        some, head = rows.view(1, 1, -1, 1), torch.arange(len(key), device="cpu").view(1, -1, 1, 1)
        at = At(torch.zeros_like(head[:, :1]), head, some, some, key[None, ..., None])
        score = reference.rules(self.call, product[None, ..., None], at)[..., 0]
        return (score - top.log()).masked_fill(top == 0, 0)  # a row that sees nothing

    # One head's way out

    def WO(self, head: int) -> Tensor:
        """The rows of the paper's WO that belong to a head: (d_v, d_model)."""
        return torch.unflatten(self._WO.T, 0, (-1, self.layer.d_v))[head]

    @property
    def _WO(self) -> Tensor:
        assert self.layer.WO is not None
        matrix: Tensor = self.layer.WO.weight  # type: ignore[assignment]
        return matrix.detach()

    @torch.no_grad()
    def gated(self, head: int, i: int, values: Tensor) -> Tensor:
        """Values (..., d_v) of a head after the gate of word i, if the layer has one."""
        if self.layer.gate is None:
            return values
        gate = torch.sigmoid(self.layer.WG(self.x[0, i]))
        return values * torch.unflatten(gate, 0, (self.layer.n_head, -1))[head]

    def pushed(self, head: int, i: int) -> Tensor:
        """|v_j WO| of every word j, after the gate of word i: (m,)."""
        if self.layer.gate is not None or head not in self._pushed:
            values = self.v[0, self._at(head)[1].start]
            self._pushed[head] = (self.gated(head, i, values) @ self.WO(head)).norm(dim=1)
        return self._pushed[head]

    # Calls

    def _at(self, head: int) -> tuple[slice, slice]:
        """Where a head stands, and the keys that it reads."""
        kv = head // (self.q.shape[1] // self.k.shape[1])
        return slice(head, head + 1), slice(kv, kv + 1)

    def _rules(self, heads: slice) -> dict[str, Any]:
        """What `attention` is asked for besides q, k and v."""
        layer, all = self.layer, heads == slice(None)
        bias = layer.position if isinstance(layer.position, Bias) else None
        return {
            "mask": layer.mask,
            "bias": bias if bias is None or all else bias.heads(heads.start, heads.stop),
            "scale": layer.scale,
            "softcap": layer.softcap,
            "sinks": None if layer.sinks is None else layer.sinks.detach()[heads],
        }
