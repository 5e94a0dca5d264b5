"""One attention layer of a watched model, and the runs that were recorded of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

from torch import nn

from wqkv.record.modules import AttentionKind
from wqkv.record.run import Run

#: What is known of a layer.
Of = TypeVar("Of")
#: Why there is no map of a module that is named attention and ran.
UNHEARD = "no attention was heard in it: no softmax over a product of q and k met v in a product"

#: What became of a layer. See `Layer`.
State = Literal["proved", "captured", "missed", "not asked for"]


class LayerRuns:
    """One attention layer, and the runs that were recorded of it."""

    def __init__(
        self, name: str, module: nn.Module, known: AttentionKind | None, wanted: bool
    ) -> None:
        self.name, self.module, self.known_kind, self.wanted = name, module, known, wanted
        self.runs: list[Run] = []
        self.reason: str | None = None  # why the last call was not recorded
        self.unseen = 0  # compiled calls since the last that was seen
        self.at_operators = False  # whether it is heard at its operators
        self.again = False  # whether its module ran once more since then, in a backward pass

    @property
    def kind(self) -> AttentionKind:
        """What the layer looks at, as its names say, or, if they do not, as its mask says."""
        if self.known_kind is not None or not self.runs:
            return self.known_kind or "encoder"
        return "decoder" if self.runs[-1].causal else "encoder"

    def state(self, compiled: bool = False) -> State:
        """What became of it; see `why_missed`."""
        if self.why_missed(compiled) is None:
            return "captured" if self.runs[-1].captured else "proved"
        return "missed" if self.wanted else "not asked for"

    def why_missed(self, compiled: bool = False) -> str | None:
        """Why there is no map; None if there is one.

        Args:
            compiled: whether the layer runs compiled now.
        """
        if not self.wanted:
            return "it was not asked for: see `layers`"
        if compiled and not self.runs:
            return "it runs compiled, out of sight"
        if self.reason is not None:
            return self.reason
        if not self.runs:
            return UNHEARD
        if self.unseen:
            return (
                f"it ran compiled and unseen after what was seen (calls: {self.unseen}): "
                "`runs` has what came before"
            )
        return self.runs[-1].refused


def numbered(layers: Sequence[Of], layer: int) -> Of:
    """The layer of a number, which may count from the end as -1."""
    if not -len(layers) <= layer < len(layers):
        last = len(layers) - 1
        none = f"{len(layers)} ran, 0 to {last}" if layers else "no attention was heard"
        raise IndexError(f"There is no layer {layer}: {none}.")
    return layers[layer]
