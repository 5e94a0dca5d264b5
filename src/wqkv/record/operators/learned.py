"""Which memory holds the weights of a running model, so that a product with one makes no scores.

Weights may come and go while a model runs, as where they are offloaded or sharded, and may be made
anew for each call: cast by autocast, dequantized, normed, pruned.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from wqkv.upstream import of_torch

#: Operators that make one weight of another. No other counts: a learned query is made of weights
#: alone too, by a projection.
_REMADE = frozenset(("_to_copy", "clone", "mul", "div", "add", "sub", "_weight_norm_interface"))


class Learned:
    """The memory of a model's parameters, and of what was made of them number by number."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        # Each is held weakly, and as long as it is held its number belongs to no other memory.
        self._weights: dict[int, of_torch.StorageRef] = {}
        self._buffers: dict[int, of_torch.StorageRef] = {}

    def learn(self) -> None:
        """Look up the parameters and buffers that the model has now."""
        self._weights = {n: one for n, one in self._weights.items() if not one.expired()}
        for known, found in (
            (self._weights, self._model.parameters()),
            (self._buffers, self._model.buffers()),
        ):
            for x in found:
                for part in of_torch.parts_of(x):
                    _add(known, part)

    def __bool__(self) -> bool:
        return bool(self._weights)

    def holds(self, x: Tensor) -> bool:
        """Whether a tensor is a weight, or a view of one."""
        return of_torch.storage_number(x) in self._weights

    def owns(self, x: Tensor) -> bool:
        """Whether a tensor is a weight or a buffer, or a view of one."""
        return self.holds(x) or of_torch.storage_number(x) in self._buffers

    def among(self, a: Tensor, b: Tensor) -> bool:
        """Whether one of two factors is a weight."""
        if self.holds(a) or self.holds(b):
            return True
        if a.ndim != 2:  # as a projection's are; q and k seldom have two axes
            return False
        self.learn()
        return self.holds(a) or self.holds(b)

    def remade(self, name: str, args: tuple[Any, ...], out: Any) -> None:
        """Note what an operator has made, if it is a weight."""
        if name not in _REMADE or not self._weights:
            return
        size = 0
        for x in _tensors(args):
            if self.holds(x):
                if of_torch.is_repeated(x):  # for each sample, as a learned query is
                    return
                size = max(size, x.numel())
            elif not self.owns(x):
                return
        for x in _tensors(out if isinstance(out, tuple) else (out,)):
            if x.numel() == size:
                _add(self._weights, x)


def _add(known: dict[int, of_torch.StorageRef], x: Tensor) -> None:
    number = of_torch.storage_number(x)
    if number not in known and (found := of_torch.storage_ref(x)) is not None:
        known[number] = found


def _tensors(given: tuple[Any, ...]) -> Iterator[Tensor]:
    return (x for x in given if isinstance(x, Tensor))
