"""Which ranks share the tokens of a text, and which tokens each rank holds."""

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

#: A range of positions, from the first number up to the second, which is not in it.
Span = tuple[int, int]


@door
@dataclass(frozen=True)
class Ranks:
    """Which ranks share the tokens of a text, and which tokens each rank holds.

    Passed as `mesh` it takes the cheaper way of Ring and AllToAll; these two name their way.

    Args:
        mesh: a one-dimensional DeviceMesh or a ProcessGroup; None is all ranks.
        layout: "contiguous" gives rank r the r-th part of the text; "zigzag" cuts it into twice as
            many parts and gives rank r the r-th and the r-th from behind, so that under a causal
            mask all ranks compute equally much.

    Raises:
        ArgumentError: another layout, or a mesh of several dimensions.

    >>> Ranks(layout="zigzag")
    Ranks(mesh=None, layout='zigzag')
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

    def __deepcopy__(self, memo: object) -> Self:  # a process group cannot be copied
        return self

    @property
    def group(self) -> ProcessGroup:
        """The process group of the ranks.

        Raises:
            ArgumentError: torch.distributed is not initialized.
        """
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
        """How many ranks there are."""
        return self.group.size()

    @property
    def rank(self) -> int:
        """The number of this rank, from 0."""
        return self.group.rank()

    def spans(self, total: int, rank: int | None = None) -> list[Span]:
        """The positions that a rank (None: this one) holds of a text of `total` tokens."""
        rank, parts = self.rank if rank is None else rank, self.size
        if self.layout == "zigzag":
            parts *= 2
        if total < 0 or total % parts:
            raise ArgumentError(
                f"{total} tokens do not make {parts} equal parts "
                f"({self.layout}, {self.size} ranks).\n"
                f"Pad the text to {total + -total % parts}, and hide the padding with Lengths."
            )
        step = total // parts
        held = [rank] if self.layout == "contiguous" else [rank, parts - 1 - rank]
        return [(i * step, (i + 1) * step) for i in held]

    def positions(self, n: int, device: torch.device | None = None) -> Tensor:
        """The positions of this rank's n tokens in the whole text, (n,)."""
        spans = self.spans(n * self.size)
        return torch.cat([torch.arange(a, b, device=device) for a, b in spans])

    def shard(self, x: Tensor, dim: int = 1) -> Tensor:
        """This rank's tokens, along `dim`, of a tensor that holds all tokens."""
        _check_axis(x, dim)
        return torch.cat([x.narrow(dim, a, b - a) for a, b in self.spans(x.shape[dim])], dim)

    def gather(self, x: Tensor, dim: int = 1) -> Tensor:
        """All tokens, along `dim`, of tensors that hold each rank's; it carries no gradient.

        Every rank must call it.
        """
        _check_axis(x, dim)
        agree(self.group, {"asked": "the tokens of all ranks", "x": shown(x), "dim": str(dim)})
        return self.in_order(self.every(x.detach()), dim)

    def every(self, x: Tensor) -> list[Tensor]:
        """Each rank's tensor of this shape, in the ranks' order; they carry no gradient.

        Every rank must call it.
        """
        return messages.exchange(self.group, [x] * self.size, [x.shape] * self.size)

    def in_order(self, parts: Sequence[Tensor], dim: int) -> Tensor:
        """Join the tensors of all ranks, each with its rank's tokens, in the order of the text."""
        if len(parts) != self.size:
            raise ArgumentError(
                f"{len(parts)} parts came from {self.size} ranks.\nPass one per rank."
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
        do = "Pass the axis of the tokens."
        raise ArgumentError(message(f"`x` has no axis {dim}.", {"x": x}, do))


class Ring(Ranks):
    """Keys travel: a rank sends each other rank the keys that it may see.

    Source: Liu et al. 2023 (arXiv:2310.01889); here (out, lse) of the pieces merge.

    >>> Ring(layout="zigzag")
    Ring(mesh=None, layout='zigzag')
    """


class AllToAll(Ranks):
    """Heads travel: a rank gets all tokens of its share of the heads.

    Source: Jacobs et al. 2023 (arXiv:2309.14509), section 3.

    >>> AllToAll()
    AllToAll(mesh=None, layout='contiguous')
    """
