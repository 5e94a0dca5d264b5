"""Tensors sent to other ranks and received from them, by plain point-to-point calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from wqkv.errors import EngineError

P = ParamSpec("P")
R = TypeVar("R")


def untraced(run: Callable[P, R]) -> Callable[P, R]:
    """A function that sends, of which torch.compile makes no graph.

    torch.compiler.disable alone would import torch's compiler, two seconds, with wqkv.
    """

    @wraps(run)
    def plain(*args: P.args, **rest: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            result: R = torch.compiler.disable(run)(*args, **rest)
            return result
        return run(*args, **rest)

    return plain


def exchange(
    group: ProcessGroup, sends: Sequence[Tensor], shapes: Sequence[Sequence[int]]
) -> list[Tensor]:
    """One tensor to every rank, and one from each."""
    mine, x = group.rank(), sends[0]
    others = [rank for rank in range(group.size()) if rank != mine]
    came = swap(
        group, {i: [sends[i]] for i in others}, {i: [shapes[i]] for i in others}, x.dtype, x.device
    )()
    return [sends[mine] if i == mine else came[i][0] for i in range(group.size())]


def swap(
    group: ProcessGroup,
    sends: dict[int, list[Tensor]],
    shapes: dict[int, list[Any]],
    dtype: torch.dtype,
    device: torch.device,
) -> Callable[[], dict[int, list[Tensor]]]:
    """Begin to send tensors to ranks and to receive some; what it returns waits for them."""
    ops, buffers = [], {}
    for rank, tensors in sends.items():
        flat = [x.reshape(-1) for x in tensors if x.numel()]
        if flat:  # an empty message is known to be empty on both sides
            ops.append(
                (rank, dist.P2POp(dist.isend, torch.cat(flat), group=group, group_peer=rank))
            )
    for rank, wanted in shapes.items():
        sizes = [torch.Size(shape).numel() for shape in wanted]
        buffers[rank] = torch.empty(sum(sizes), dtype=dtype, device=device), sizes
        if sum(sizes):
            op = dist.P2POp(dist.irecv, buffers[rank][0], group=group, group_peer=rank)
            ops.append((rank, op))
    works = _told(group, lambda: dist.batch_isend_irecv([op for _, op in ops])) if ops else []

    def wait() -> dict[int, list[Tensor]]:
        for work in works:
            _told(group, work.wait)
        return {
            rank: [part.view(shape) for part, shape in zip(
                buffer.split(sizes), shapes[rank], strict=True
            )]
            for rank, (buffer, sizes) in buffers.items()
        }  # fmt: skip

    return wait


def total(group: ProcessGroup, x: Tensor) -> Tensor:
    """The sum of every rank's tensor of this shape, in its place; the same bits on every rank."""
    if x.numel():
        _told(group, lambda: dist.all_reduce(x, group=group))
    return x


def gathered(group: ProcessGroup, x: Tensor) -> list[Tensor]:
    """Every rank's tensor of one shape, by one collective."""
    parts = [x.clone() for _ in range(group.size())]  # torch's fake groups leave them as they are
    _told(group, lambda: dist.all_gather(parts, x, group=group))
    return parts


def gathered_texts(group: ProcessGroup, text: str) -> list[str]:
    """Every rank's text."""
    texts = [""] * group.size()
    _told(group, lambda: dist.all_gather_object(texts, text, group=group))
    return texts


def _told(group: ProcessGroup, do: Callable[[], Any]) -> Any:
    """What `do` returns; that a rank is gone is said in one sentence."""
    try:
        return do()
    except RuntimeError as error:
        reason = next(iter(str(error).splitlines()), "")[:200]
        raise EngineError(
            f"Rank {group.rank()} of {group.size()} lost its connection: another has ended, or "
            f"does not answer ({reason})."
        ) from error
