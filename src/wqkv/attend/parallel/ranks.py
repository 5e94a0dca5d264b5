"""Which ranks share the words of a text, and who holds which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh

from wqkv.attend.parallel import messages
from wqkv.attend.parallel.agreement import agree, shown
from wqkv.doors import door
from wqkv.errors import ArgumentError, message

Span = tuple[int, int]


@door
@dataclass(frozen=True)
class Ranks:
    """Which ranks share the words, and how they are laid out.

    Args:
        mesh: a one-dimensional DeviceMesh or a ProcessGroup; None is all ranks.
        layout: "contiguous" gives rank r the r-th part of the text; "zigzag" cuts it into twice as
            many parts and gives rank r the r-th and the r-th from behind, so that causal work is
            even.
    """

    mesh: DeviceMesh | ProcessGroup | None = None
    layout: Literal["contiguous", "zigzag"] = "contiguous"

    def __post_init__(self) -> None:
        if self.layout not in ("contiguous", "zigzag"):
            raise ArgumentError(f"`layout` is {self.layout!r}.\nPass 'contiguous' or 'zigzag'.")
        if isinstance(self.mesh, DeviceMesh) and self.mesh.ndim != 1:
            raise ArgumentError(
                f"The mesh has {self.mesh.ndim} dimensions.\nPass one of them, such as mesh['sp']."
            )

    def __deepcopy__(self, memo: object) -> Self:  # processes have no copy
        return self

    @property
    def group(self) -> ProcessGroup:
        if isinstance(self.mesh, DeviceMesh):
            return self.mesh.get_group()
        group = dist.group.WORLD if self.mesh is None else self.mesh
        if group is None:
            raise ArgumentError(
                "There are no ranks yet.\nCall torch.distributed.init_process_group first."
            )
        return group

    @property
    def size(self) -> int:
        return self.group.size()

    @property
    def rank(self) -> int:
        return self.group.rank()

    def spans(self, total: int, rank: int | None = None) -> list[Span]:
        """The positions that a rank (None: this one) holds of a text of `total` words."""
        rank, parts = self.rank if rank is None else rank, self.size
        if self.layout == "zigzag":
            parts *= 2
        if total < 0 or total % parts:
            raise ArgumentError(
                f"{total} words do not make {parts} equal parts ({self.layout}, {self.size} ranks)."
                f"\nPad the text to {total + -total % parts}, and hide the padding with Lengths."
            )
        step = total // parts
        held = [rank] if self.layout == "contiguous" else [rank, parts - 1 - rank]
        return [(i * step, (i + 1) * step) for i in held]

    def positions(self, n: int, device: torch.device | None = None) -> Tensor:
        """The positions of this rank's n words, (n,)."""
        spans = self.spans(n * self.size)
        return torch.cat([torch.arange(a, b, device=device) for a, b in spans])

    def shard(self, x: Tensor, dim: int = 1) -> Tensor:
        """This rank's words of a tensor that holds all."""
        _check_axis(x, dim)
        return torch.cat([x.narrow(dim, a, b - a) for a, b in self.spans(x.shape[dim])], dim)

    def gather(self, x: Tensor, dim: int = 1) -> Tensor:
        """All words, on every rank, of tensors that hold each rank's; without a gradient."""
        _check_axis(x, dim)
        agree(self.group, {"asked": "the words of all ranks", "x": shown(x), "dim": str(dim)})
        return self.in_order(self.every(x.detach()), dim)

    def every(self, x: Tensor) -> list[Tensor]:
        """Each rank's tensor of this shape, in the ranks' order; without a gradient."""
        return messages.exchange(self.group, [x] * self.size, [x.shape] * self.size)

    def in_order(self, parts: Sequence[Tensor], dim: int) -> Tensor:
        """Every rank's words, as they follow in the text."""
        if len(parts) != self.size:
            raise ArgumentError(
                f"{len(parts)} parts came from {self.size} ranks.\nPass one a rank."
            )
        _check_axis(parts[0], dim)
        total = parts[0].shape[dim] * self.size
        found: list[tuple[int, Tensor]] = []
        for rank, part in enumerate(parts):
            first = 0
            for a, b in self.spans(total, rank):
                found.append((a, part.narrow(dim, first, b - a)))
                first += b - a
        return torch.cat([part for _, part in sorted(found, key=lambda pair: pair[0])], dim)


def _check_axis(x: Tensor, dim: int) -> None:
    if not -x.ndim <= dim < x.ndim:
        came: dict[str, object] = {"x": x}
        raise ArgumentError(message(f"`x` has no axis {dim}.", came, "Pass the axis of the words."))


class Ring(Ranks):
    """Keys travel: a rank sends each other the keys that it may see."""


class AllToAll(Ranks):
    """Heads travel: a rank gets all words of its share of the heads."""
