"""One text as one model read it: every number of every head, computed when it is asked for.

Nothing is N x N: a row is one query against all keys, a tile its own small product, and what is
summed over a whole map is a fused call.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from wqkv.attend.engines import reference
from wqkv.doors import door
from wqkv.errors import ArgumentError
from wqkv.maps.attention_map import AttentionMap
from wqkv.study.answers import Blocks, Cell, Column, Distances, Grid, Link, Proof, Row, Term
from wqkv.study.heads import Heads
from wqkv.study.model import (
    SAMPLED_ROWS,
    OpenModel,
    Part,
    Reading,
    Step,
    Tokens,
    in_range,
    spaced,
)
from wqkv.study.opened_layer import OpenLayer
from wqkv.study.sweep import Sweep, sweep

#: Up to this many rows of a layer are all proved; of more, SAMPLED_ROWS.
ALL_ROWS = 1024
#: How many bytes of q, k and v are kept, in whole layers and at least one.
KEPT = 2**29
#: So many of a head's strongest links are known.
LINKS = 256

#: What one head is summed up as, and the unit of that number.
STATISTICS = {
    "entropy": "nats",  # of a row's weights, mean over all rows
    "received": "of 1",  # by the word that is looked at most, mean over all rows
    "distance": "tokens",  # from the word that looks to what it looks at
    "sink": "of 1",  # the weight on the first word and a learned sink, mean over all rows
    "label": "of 1",  # the score of the pattern that the head follows
}


def _silent(done: int, total: int) -> None:
    """Nobody is told."""


@door
class View:
    """A text as a model read it, layer by layer and head by head; all count from 0.

    Its n words look at m words: at themselves, or at those of the text `reading.source`. What a
    layer needs is computed from the model's own hidden states when it is first asked for, and kept,
    up to KEPT bytes. Several threads may ask at once.
    """

    def __init__(self, model: Part, reading: Reading) -> None:
        self.model, self.reading = model, reading
        self._layers: OrderedDict[int, OpenLayer] = OrderedDict()
        self._proofs: dict[int, Proof] = {}
        self._lock = threading.Lock()

    @classmethod
    def read(
        cls,
        model: OpenModel,
        text: str | Tokens,
        each: Callable[[View, int], None] = lambda view, layer: None,
    ) -> View:
        """A text, read by a model; every layer is proved as soon as the model has run it.

        Args:
            each: is given the view and the number of the layer that is proved; may raise, which
                ends the reading.
        """
        views: list[View] = []

        def proved(reading: Reading) -> None:
            views[:] = views or [cls(model, reading)]
            layer = len(reading.outputs) - 1
            views[0].proof(layer)
            each(views[0], layer)

        tokens = model.tokens(text) if isinstance(text, str) else text
        reading = model.run(tokens, each=proved)
        views[0].reading = reading
        return views[0]

    @property
    def n(self) -> int:
        """How many words there are."""
        return len(self.reading.tokens)

    @property
    def keys(self) -> Tokens:
        """The words that are looked at."""
        return self.reading.source or self.reading

    @property
    def m(self) -> int:
        """How many words are looked at."""
        return len(self.keys.tokens)

    @property
    def statistics(self) -> tuple[str, ...]:
        """Those of STATISTICS that there are; between two texts nothing is near or far."""
        between = self.reading.source is not None
        return tuple(s for s in STATISTICS if not between or s not in ("distance", "label"))

    @property
    def bytes(self) -> int:
        """What the hidden states, the model's outputs and the layers that are kept take."""
        final = [] if self.reading.final is None else [self.reading.final]
        tensors = [*self.reading.inputs, *self.reading.outputs, *final]
        with self._lock:
            opened = sum(layer.bytes for layer in self._layers.values())
        return opened + sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def layer(self, layer: int) -> OpenLayer:
        """A layer with this text in it."""
        ours = self.model.layer(layer)
        with self._lock:
            opened = self._layers.get(layer)
            if opened is None:
                source = self.reading.source
                opened = OpenLayer(
                    ours, self.reading.inputs[layer], None if source is None else source.final
                )
                self._layers[layer] = opened
            self._layers.move_to_end(layer)
            while len(self._layers) > 1 and sum(o.bytes for o in self._layers.values()) > KEPT:
                self._layers.popitem(last=False)
            return opened

    def map(self, layer: int, head: int) -> AttentionMap:
        """The map of one head: [1, 1, n, m]."""
        return self.checked(layer, head).map(head)

    # Cells, rows, columns, tiles

    @torch.no_grad()
    def cell(self, layer: int, head: int, i: int, j: int) -> Cell:
        """How the weight from word i to word j comes about."""
        opened = self.checked(layer, head, i, key=j)
        call, at, steps = opened.row(head, i)
        q, k = call.query[0, 0, 0].double(), call.key[0, 0, j].double()
        products = q * k
        dot = products.sum()
        capped = reference.capped(call, dot * call.scale)
        here = at._replace(key_pos=torch.tensor(j, device="cpu").view(1, 1, 1, 1))
        bias = None if call.bias is None else float(call.bias.tile(here, dot.dtype))
        hidden = not bool(call.mask.visible(here).all())
        return Cell(
            terms=tuple(map(Term, q.tolist(), k.tolist(), products.tolist())),
            dot=float(dot),
            scale=call.scale,
            scaled=float(dot) * call.scale,
            softcap=call.softcap,
            capped=None if call.softcap is None else float(capped),
            bias=bias,
            score=-math.inf if hidden else float(capped) + (bias or 0.0),
            sink=None if call.sinks is None else float(call.sinks),
            lse=float(steps.lse),
            weight=float(steps.weights[0, 0, 0, j]),
            hidden=hidden,
        )

    def row(self, layer: int, head: int, i: int) -> Row:
        """Where word i looks."""
        opened = self.checked(layer, head, i)
        call, _, steps = opened.row(head, i)
        weights, lse = steps.weights[0, 0, 0], steps.lse[0, 0, 0]
        output = opened.gated(head, i, steps.out[0, 0, 0]) @ opened.WO(head)
        kept = bool((self.reading.rows == i).any())
        return Row(
            weights=weights,
            effects=weights * opened.pushed(head, i),
            sink=None if call.sinks is None else float((call.sinks[0] - lse).exp()),
            lse=float(lse),
            output=float(output.norm()),
            residual=self._prove(layer, torch.tensor([i], device="cpu")) if kept else None,
        )

    def column(self, layer: int, head: int, j: int) -> Column:
        """Who looks at word j. The first column of a head costs one pass over its map."""
        weights = self.checked(layer, head, key=j).map(head)[0, 0, :, j]
        return Column(weights, float(weights.double().sum()))

    def tile(self, layer: int, head: int, q0: int, q1: int, k0: int, k1: int) -> Tensor:
        """The weights from words q0 to q1 - 1 to words k0 to k1 - 1."""
        opened = self.checked(layer, head)
        for start, stop, count in ((q0, q1, self.n), (k0, k1, self.m)):
            if not 0 <= start < stop <= count:
                raise ArgumentError(
                    f"There are no words {start} to {stop}: the text has {count}.\n"
                    f"Pass 0 <= start < stop <= {count}."
                )
        return opened.map(head)[0, 0, q0:q1, k0:k1]

    # One head as a whole: each a pass or more over its map

    def thumbnail(self, layer: int, head: int | None, size: int = 64) -> Blocks:
        """Exact means of size x size blocks, (blocks, blocks); of all heads (n_head, ...)."""
        opened = self.checked(layer, head or 0)
        values = (opened.whole if head is None else opened.map(head)).thumbnail(size)[0]
        rows, keys = (
            edges(count, blocks)
            for count, blocks in zip((self.n, self.m), values.shape[1:], strict=True)
        )
        return Blocks(rows, keys, values if head is None else values[0])

    def sweep(self, layer: int, head: int, step: Step = _silent) -> Sweep:
        """What one pass over the map of a head finds; it is kept."""
        opened = self.checked(layer, head)
        if head not in opened.sweeps:
            opened.sweeps[head] = sweep(opened.map(head), LINKS, step)
        return opened.sweeps[head]

    def received(self, layer: int, head: int, step: Step = _silent) -> Tensor:
        """The weight that every word receives, from all words together: (m,)."""
        return self.sweep(layer, head, step).received

    def distances(self, layer: int, head: int, step: Step = _silent) -> Distances:
        """How far a head looks, in steps of a factor 2; a mean over all words."""
        self._has("distance")
        found = self.sweep(layer, head, step).by_distance / self.n
        steps = [0, *(2**b for b in range((self.n - 1).bit_length())), self.n]
        mass = torch.stack([found[a:b].sum() for a, b in pairwise(steps)])
        return Distances(
            tuple(steps), mass, float(found @ torch.arange(self.n, device="cpu").double())
        )

    def links(self, layer: int, head: int, k: int = 20, step: Step = _silent) -> tuple[Link, ...]:
        """The k strongest links, at most LINKS, the strongest first; weights of 0 are no links."""
        if not 1 <= k <= LINKS:
            raise ArgumentError(f"`k` is {k}, how many links to list.\nPass 1 to {LINKS}.")
        found = [part[:k].tolist() for part in self.sweep(layer, head, step).links]
        return tuple(Link(i, j, weight) for i, j, weight in zip(*found, strict=True) if weight)

    # All heads

    def grid(self, statistic: str, step: Step = _silent) -> Grid:
        """One number a head, see STATISTICS; without the labels, which are a matter of the model.

        `step` is told how many layers are done.
        """
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
        self._has(statistic)
        rows, count = [], self.model.sizes["n_layer"]
        for layer in range(count):
            step(layer, count)
            rows.append(measure[statistic](self.layer(layer)))
        step(count, count)
        values = torch.stack(rows)
        most = {"entropy": math.log(max(self.m, 2)), "distance": max(1.0, float(values.max()))}
        return Grid(statistic, STATISTICS[statistic], 0.0, most.get(statistic, 1.0), values)

    def _has(self, statistic: str) -> None:
        if statistic not in self.statistics:
            raise ArgumentError(
                f"There is no {statistic} between two texts: no word of one is near to or far from "
                f"a word of the other.\nAsk for one of: {', '.join(self.statistics)}."
            )

    # Proof

    def proof(self, layer: int) -> Proof:
        """The proof of a layer: all rows of a short text, some of a long one."""
        if layer not in self._proofs:
            in_range("layer", layer, self.model.sizes["n_layer"])
            rows = self.reading.rows
            if len(rows) > ALL_ROWS:
                rows = rows[spaced(len(rows), SAMPLED_ROWS)]
            self._proofs[layer] = self._prove(layer, rows)
        return self._proofs[layer]

    def _prove(self, layer: int, rows: Tensor) -> Proof:
        own = self.reading.outputs[layer][0, torch.searchsorted(self.reading.rows, rows)]
        ours, off = self.layer(layer).output(rows)
        size, d_model = float(own.abs().max()), own.shape[1]
        # The same sums in another order: d_model products, each rounded by half a last digit.
        tolerance = d_model * 2**-24 * size + off
        return Proof(float((ours - own).abs().max()), size, tolerance, len(rows))

    def checked(self, layer: int, head: int, token: int = 0, key: int = 0) -> OpenLayer:
        """A layer, after a look at the numbers that it is asked about."""
        in_range("layer", layer, self.model.sizes["n_layer"])
        in_range("head", head, self.model.sizes["n_head"])
        for number, count in ((token, self.n), (key, self.m)):
            if not 0 <= number < count:
                raise ArgumentError(
                    f"There is no word {number}: the text has {count} words, 0 to {count - 1}."
                )
        return self.layer(layer)


def edges(n: int, blocks: int) -> tuple[int, ...]:
    """Where each of so many blocks of n words begins, and the last one's end."""
    return tuple(-(-block * n // blocks) for block in range(blocks + 1))


def labelled(found: Heads) -> Grid:
    """What every head does, as the grid of the statistic "label"."""
    values = [[math.nan if h.score is None else h.score for h in layer] for layer in found.table]
    return Grid(
        "label", STATISTICS["label"], 0.0, 1.0, torch.tensor(values, device="cpu"),
        labels=tuple(tuple(head.label for head in layer) for layer in found.table),
        evidence=tuple(tuple(head.evidence for head in layer) for layer in found.table),
    )  # fmt: skip
