"""One text as one model read it: every number of every head, computed when it is asked for.

Nothing is N x N: a row is one query against all keys, a tile its own small product, and what is
summed over a whole map is a fused call.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from wqkv.attend.engines import reference
from wqkv.attend.masks.dense import Entries
from wqkv.attend.rope import RoPE
from wqkv.doors import door
from wqkv.errors import ArgumentError
from wqkv.maps.attention_map import AttentionMap
from wqkv.maps.link_map import How, LinkMap, check_how
from wqkv.maps.proof import Proof, sum_rounding
from wqkv.study.answers import (
    STATISTICS,
    BlockMeans,
    Distances,
    HeadGrid,
    ScoreTerm,
    WeightCell,
    WeightColumn,
    WeightLink,
    WeightRow,
)
from wqkv.study.callbacks import Progress, silent
from wqkv.study.head_matrices import HeadMatrices, head_matrices, plain_layer
from wqkv.study.opened_layer import OpenLayer
from wqkv.study.part import SAMPLED_ROWS, ModelPart, TextReading, in_range, spaced
from wqkv.study.stream import Stream, StreamRecord, record_stream
from wqkv.study.sweep import Sweep, sweep
from wqkv.study.tokens import NOTHING_UNREAD, TokenizedText, Unread

#: A text of up to this many tokens is proved in all rows of a layer, a longer one in SAMPLED_ROWS.
ALL_ROWS = 1024
#: How many bytes of q, k and v are kept, in whole layers and at least one.
KEPT_BYTES = 2**29
#: How many of a head's strongest links a sweep finds.
LINKS = 256

#: Is called with a view and the number of the layer that was just proved; raise from it to cancel.
EachLayer = Callable[["View", int], None]


@door
class View:
    """A text as a model read it, layer by layer and head by head; all count from 0.

    Its n tokens look at m tokens: at themselves, or at those of the text `reading.source`. A
    layer's q, k and v are computed from the model's own hidden states when they are first asked
    for, and kept, up to KEPT_BYTES. Several threads may ask at once.
    """

    def __init__(self, model: ModelPart, reading: TextReading) -> None:
        self.model, self.reading = model, reading
        self._layers: OrderedDict[int, OpenLayer] = OrderedDict()
        self._proofs: dict[int, Proof] = {}
        self._stream: StreamRecord | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        sizes, looked = self.model.sizes, f" that look at {self.m}" if self.reading.source else ""
        heads = f"{sizes.n_layer} layers of {sizes.n_head} heads"
        return (
            f"View of {self.n} tokens{looked}, read by {self.model.name}: {heads}; "
            "wqkv.open(model, text) shows them"
        )

    @property
    def n(self) -> int:
        """How many tokens the text has."""
        return len(self.reading.tokens)

    @property
    def keys(self) -> TokenizedText:
        """The text whose tokens are looked at: the keys."""
        return self.reading.source or self.reading

    @property
    def m(self) -> int:
        """How many tokens are looked at."""
        return len(self.keys.tokens)

    @property
    def unread(self) -> Unread:
        """How much of the text, and of the one that it looks at, the model cannot read."""
        source = self.reading.source
        return self.reading.unread.plus(NOTHING_UNREAD if source is None else source.unread)

    @property
    def statistics(self) -> tuple[str, ...]:
        """Those of STATISTICS that this text has.

        Between two texts, and between cells of a picture, no token is before or behind another.
        """
        if self.reading.source is None and not self.reading.pictures:
            return tuple(STATISTICS)
        return tuple(s for s in STATISTICS if s not in ("distance", "label"))

    @property
    def bytes(self) -> int:
        """How much memory the hidden states, the model's outputs and the kept layers take."""
        final = [] if self.reading.final is None else [self.reading.final]
        tensors = [*self.reading.inputs, *self.reading.outputs, *final]
        with self._lock:
            opened = sum(layer.bytes for layer in self._layers.values())
            opened += 0 if self._stream is None else self._stream.bytes
        return opened + sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def layer(self, layer: int) -> OpenLayer:
        """A layer with the q, k and v of this text."""
        ours = self.model.layer(layer)
        with self._lock:
            opened = self._layers.get(layer)
            if opened is None:
                source = self.reading.source
                opened = OpenLayer(
                    ours,
                    self.reading.inputs[layer],
                    None if source is None else source.final,
                    self.reading.positions if isinstance(ours.position, RoPE) else None,
                )
                self._layers[layer] = opened
            self._layers.move_to_end(layer)
            # The layer that was asked for longest ago is dropped first.
            while (
                len(self._layers) > 1 and sum(o.bytes for o in self._layers.values()) > KEPT_BYTES
            ):
                self._layers.popitem(last=False)
            return opened

    def map(self, layer: int, head: int) -> AttentionMap:
        """The map of one head: [1, 1, n, m]; it knows what its tokens are."""
        found = self.checked_layer(layer, head).map(head)
        return found.on(self.keys.axes, self.reading.axes)

    def matrices(self, layer: int, head: int) -> HeadMatrices:
        """WQ, WK, WV and WO of one head, with their biases: q = x WQ + bQ, share = context WO.

        Heads: those that share a k and a v have the same WK and WV. Dtype: the model's own. Some
        models do more to x WQ + bQ before it is q; `to_q`, `to_k`, `to_v` and `to_context` of the
        record name it. WQ is (d_model, d_k), and so are WK, and WV with d_v; WO is (d_v, d_model).

        Raises:
            ArgumentError: no such layer or head; the heads do not have one WQ, WK, WV and WO each
                (latent attention), or a part of the layer computes more than its weight says.

        Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.2.2.

        >>> from transformers import GPT2Config, GPT2Model
        >>> from wqkv.study.model import OpenModel
        >>> config = GPT2Config(n_layer=2, n_embd=24, n_head=3)
        >>> model = OpenModel(GPT2Model(config).eval(), None, "tiny-gpt2")
        >>> found = model.view(TokenizedText.of_ids([3, 4, 5])).matrices(1, 2)
        >>> found.WQ.shape, found.WO.shape, found.bV.shape
        (torch.Size([24, 8]), torch.Size([8, 24]), torch.Size([8]))
        """
        in_range("layer", layer, self.model.sizes.n_layer)
        in_range("head", head, self.model.sizes.n_head)
        return head_matrices(plain_layer(self.model, layer), head)

    # Cells, rows, columns, tiles

    @torch.no_grad()
    def cell(self, layer: int, head: int, i: int, j: int) -> WeightCell:
        """How the weight that token i puts on token j comes about."""
        opened = self.checked_layer(layer, head, i, key=j)
        call, at, steps = opened.row(head, i)
        q, k = call.query[0, 0, 0].double(), call.key[0, 0, j].double()
        products = q * k
        dot = products.sum()
        capped = reference.capped(call, dot * call.scale)
        here = at._replace(key_pos=torch.tensor(j, device="cpu").view(1, 1, 1, 1))
        bias = None if call.rules.bias is None else float(call.rules.bias.tile(here, dot.dtype))
        hidden = not bool(call.rules.mask.visible(here).all())
        return WeightCell(
            terms=tuple(map(ScoreTerm, q.tolist(), k.tolist(), products.tolist())),
            dot=float(dot),
            scale=call.scale,
            scaled=float(dot) * call.scale,
            softcap=call.rules.softcap,
            capped=None if call.rules.softcap is None else float(capped),
            bias=bias,
            score=-math.inf if hidden else float(capped) + (bias or 0.0),
            sink=None if call.rules.sinks is None else float(call.rules.sinks),
            lse=float(steps.lse),
            weight=float(steps.weights[0, 0, 0, j]),
            hidden=hidden,
        )

    def row(self, layer: int, head: int, i: int) -> WeightRow:
        """The weights that token i puts on all keys, and what each adds to it."""
        opened = self.checked_layer(layer, head, i)
        _, _, steps = opened.row(head, i)
        kept = bool((self.reading.rows == i).any())
        residual = self._prove(layer, torch.tensor([i], device="cpu")) if kept else None
        found = _row(opened, head, i, steps, opened.full_effects(head, i))
        return replace(found, residual=residual)

    @torch.no_grad()
    def row_without(
        self, layer: int, head: int, i: int, j: int, how: How = "renormalize"
    ) -> WeightRow:
        """The row of token i with its link to key token j removed, computed again; not proved.

        Args:
            how: "renormalize": its weight goes to the other keys. "zero": the weights stay, and
                what token j brings is 0.

        Raises:
            ArgumentError: nothing else is in the row; an unknown `how`.
        """
        check_how(how)
        opened = self.checked_layer(layer, head, i, key=j)
        call, at, steps = opened.row(head, i)
        others = (torch.arange(self.m, device="cpu") != j).view(1, 1, 1, -1)
        full = opened.full_effects(head, i) * others.flatten()
        before = steps.out[0, 0, 0]
        if how == "zero":
            brought = steps.weights[..., j, None] * call.value[:, :, j, None]
            steps = steps._replace(out=steps.out - brought)
        else:
            less = replace(call, rules=replace(call.rules, mask=call.rules.mask & Entries(others)))
            steps = reference.steps(less, at)
            if float(steps.lse) == -math.inf:
                raise ArgumentError(
                    f"Token {i} sees token {j} alone in head {head} of layer {layer}: there is no "
                    'row without it.\nPass how="zero", or another link.'
                )
        changed = opened.apply_gate(head, i, steps.out[0, 0, 0] - before) @ opened.WO(head)
        return replace(_row(opened, head, i, steps, full), changed=float(changed.norm()))

    def column(self, layer: int, head: int, j: int) -> WeightColumn:
        """The weights that all tokens put on token j.

        The first column of a head costs one pass over its map, which every column needs.
        """
        weights = self.checked_layer(layer, head, key=j).map(head)[0, 0, :, j]
        return WeightColumn(weights, float(weights.double().sum()))

    def contributions(self, layer: int, head: int) -> LinkMap:
        """How much each token adds to another through a head, P_ij |v_j WO|: [1, 1, n, m].

        Raises:
            ArgumentError: the layer's output has a gate, which each token sets for itself.
        """
        opened = self.checked_layer(layer, head)
        if opened.layer.gate is not None:
            raise ArgumentError(
                f"The output of layer {layer} has a gate, so that what a token adds is no product "
                "of its weight.\nLook at single rows: `row` has the contributions as `effects`."
            )
        return opened.map(head).contributions(opened.value(head), opened.WO(head)[None])

    def tile(self, layer: int, head: int, q0: int, q1: int, k0: int, k1: int) -> Tensor:
        """The weights that tokens q0 to q1 - 1 put on tokens k0 to k1 - 1."""
        rows, keys = self.checked_rectangle(q0, q1, k0, k1)
        return self.map(layer, head)[0, 0, rows, keys]

    def checked_rectangle(self, q0: int, q1: int, k0: int, k1: int) -> tuple[slice, slice]:
        """Query tokens q0 to q1 - 1 and key tokens k0 to k1 - 1 as slices, if all are there."""
        for start, stop, count in ((q0, q1, self.n), (k0, k1, self.m)):
            if not 0 <= start < stop <= count:
                raise ArgumentError(
                    f"There are no tokens {start} to {stop}: the text has {count}.\n"
                    f"Pass 0 <= start < stop <= {count}."
                )
        return slice(q0, q1), slice(k0, k1)

    # One head as a whole: each of these costs a pass or more over its map

    def thumbnail(self, layer: int, head: int | None, size: int = 64) -> BlockMeans:
        """The map of one head as means of size x size blocks; None is all heads of the layer."""
        opened = self.checked_layer(layer, head or 0)
        values = (opened.whole if head is None else opened.map(head)).thumbnail(size)[0]
        return block_means(self.n, self.m, values if head is None else values[0])

    def sweep(self, layer: int, head: int, progress: Progress = silent) -> Sweep:
        """The result of one pass over the map of a head; it is kept."""
        opened = self.checked_layer(layer, head)
        if head not in opened.sweeps:
            opened.sweeps[head] = sweep(opened.map(head), LINKS, progress)
        return opened.sweeps[head]

    def received(self, layer: int, head: int, progress: Progress = silent) -> Tensor:
        """The weight that every key token receives from all query tokens together: (m,)."""
        return self.sweep(layer, head, progress).received

    def distances(self, layer: int, head: int, progress: Progress = silent) -> Distances:
        """How far a head looks, in steps of a factor 2; a mean over all tokens."""
        self.check_statistic("distance")
        found = self.sweep(layer, head, progress).by_distance / self.n
        bounds = [0, *(2**b for b in range((self.n - 1).bit_length())), self.n]
        mass = torch.stack([found[a:b].sum() for a, b in pairwise(bounds)])
        return Distances(
            tuple(bounds), mass, float(found @ torch.arange(self.n, device="cpu").double())
        )

    def links(
        self, layer: int, head: int, k: int = 20, progress: Progress = silent
    ) -> tuple[WeightLink, ...]:
        """The k strongest links, at most LINKS, the strongest first; weights of 0 are no links."""
        if not 1 <= k <= LINKS:
            raise ArgumentError(f"`k` is {k}, how many links to list.\nPass 1 to {LINKS}.")
        found = [part[:k].tolist() for part in self.sweep(layer, head, progress).links]
        return tuple(
            WeightLink(i, j, weight) for i, j, weight in zip(*found, strict=True) if weight
        )

    # All heads

    def grid(self, statistic: str, progress: Progress = silent) -> HeadGrid:
        """One number per head, see STATISTICS; "label" is not among them, see `heads.label_grid`.

        `progress` counts layers.
        """
        # Each is one number per head of a layer: (n_head,).
        measure: dict[str, Callable[[OpenLayer], Tensor]] = {
            "entropy": lambda one: one.whole.entropy()[0].mean(dim=-1),
            "received": lambda one: one.whole.received()[0].amax(dim=-1) / self.n,
            "distance": lambda one: one.whole.mean_distance()[0].mean(dim=-1),
            "sink": OpenLayer.sink,
        }
        if statistic not in measure:
            raise ArgumentError(
                f"There is no statistic {statistic!r}.\nPass one of: {', '.join(measure)}."
            )
        self.check_statistic(statistic)
        rows, count = [], self.model.sizes.n_layer
        for layer in range(count):
            progress(layer, count)
            rows.append(measure[statistic](self.layer(layer)))
        progress(count, count)
        values = torch.stack(rows)
        high = {"entropy": math.log(max(self.m, 2)), "distance": max(1.0, float(values.max()))}
        return HeadGrid(statistic, STATISTICS[statistic], 0.0, high.get(statistic, 1.0), values)

    def check_statistic(self, statistic: str) -> None:
        """Raise if this is one of STATISTICS that only a text which looks at itself has."""
        if statistic not in self.statistics:
            raise ArgumentError(
                f"There is no {statistic} between two texts: no token of one is near to or far "
                f"from a token of the other.\nAsk for one of: {', '.join(self.statistics)}."
            )

    # All layers

    def stream(self, token: int) -> Stream:
        """What a token carries through all layers, and what each attention and MLP adds to it.

        The model runs once more for this; of a text that is not long it is then known for all
        tokens. Of a decoder that looks at another text, ask the view of its "cross" attention.

        Raises:
            ArgumentError: no such token, or layers that do not hand on the states of one text.
        """
        self.checked_layer(0, 0, token)
        kept = self._stream
        if kept is None or token not in kept.rows:
            kept = self._stream = record_stream(self.model, self.reading, token)
        return kept.stream(token)

    # Proof

    def proof(self, layer: int) -> Proof:
        """The proof of a layer: all rows of a short text, some of a long one."""
        if layer not in self._proofs:
            in_range("layer", layer, self.model.sizes.n_layer)
            rows = self.reading.rows
            if len(rows) > ALL_ROWS:
                rows = rows[spaced(len(rows), SAMPLED_ROWS)]
            self._proofs[layer] = self._prove(layer, rows)
        return self._proofs[layer]

    def _prove(self, layer: int, rows: Tensor) -> Proof:
        own = self.reading.outputs[layer][0, torch.searchsorted(self.reading.rows, rows)]
        ours, off = self.layer(layer).output(rows)
        return Proof.compare(ours, own, sum_rounding(own) + off, len(rows))

    def checked_layer(self, layer: int, head: int, token: int = 0, key: int = 0) -> OpenLayer:
        """The layer, if it, the head, the query token and the key token are all there."""
        in_range("layer", layer, self.model.sizes.n_layer)
        in_range("head", head, self.model.sizes.n_head)
        for number, count in ((token, self.n), (key, self.m)):
            if not 0 <= number < count:
                raise ArgumentError(
                    f"There is no token {number}: the text has {count} tokens, 0 to {count - 1}."
                )
        return self.layer(layer)


def _row(opened: OpenLayer, head: int, i: int, steps: reference.Steps, full: Tensor) -> WeightRow:
    """A row of a head without a proof; `full` is what each key would add at weight 1."""
    weights, lse, sinks = steps.weights[0, 0, 0], steps.lse[0, 0, 0], opened.layer.sinks
    output = opened.apply_gate(head, i, steps.out[0, 0, 0]) @ opened.WO(head)
    return WeightRow(
        weights=weights,
        effects=weights * full,
        sink=None if sinks is None else float((sinks.detach()[head] - lse).exp()),
        lse=float(lse),
        output=float(output.norm()),
        residual=None,
    )


def block_means(n: int, m: int, values: Tensor) -> BlockMeans:
    """Means of the blocks of n x m tokens, (..., rows, keys), with where each block begins."""
    rows, keys = (
        edges(count, blocks) for count, blocks in zip((n, m), values.shape[-2:], strict=True)
    )
    return BlockMeans(rows, keys, values)


def edges(n: int, blocks: int) -> tuple[int, ...]:
    """Where each of `blocks` blocks of n tokens begins, and where the last one ends."""
    return tuple(-(-block * n // blocks) for block in range(blocks + 1))
