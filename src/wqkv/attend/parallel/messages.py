"""Tensors sent to other ranks and received from them, by plain point-to-point calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from wqkv.errors import EngineError

P = ParamSpec("P")
R = TypeVar("R")


def untraced(run: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function that sends messages, so that torch.compile calls it as it is.

    torch.compiler.disable as the decorator would import torch's compiler together with wqkv, which
    takes two seconds.
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
    """Send one tensor to every rank, and return the one that each rank sent, in the ranks' order.

    Args:
        sends: by rank; this rank's own is returned as it is.
        shapes: of what comes, by rank.
    """
    mine, x = group.rank(), sends[0]
    others = [rank for rank in range(group.size()) if rank != mine]
    came = swap(
        group, {i: [sends[i]] for i in others}, {i: [shapes[i]] for i in others}, x.dtype, x.device
    )()
    return [sends[mine] if i == mine else came[i][0] for i in range(group.size())]


def swap(
    group: ProcessGroup,
    sends: dict[int, list[Tensor]],
    shapes: Mapping[int, Sequence[Sequence[int]]],
    dtype: torch.dtype,
    device: torch.device,
) -> Callable[[], dict[int, list[Tensor]]]:
    """Begin to send tensors and to receive others; return a function that waits for what comes.

    Args:
        sends: what each rank is sent. All tensors for a rank go as one message.
        shapes: of what each rank sends.
    """
    ops, buffers = [], {}
    for rank, tensors in sends.items():
        flat = [x.reshape(-1) for x in tensors if x.numel()]
        if flat:  # both sides know the sizes, so an empty message is not sent
            ops.append(dist.P2POp(dist.isend, torch.cat(flat), group=group, group_peer=rank))
    for rank, wanted in shapes.items():
        sizes = [torch.Size(shape).numel() for shape in wanted]
        buffers[rank] = torch.empty(sum(sizes), dtype=dtype, device=device), sizes
        if sum(sizes):
            ops.append(dist.P2POp(dist.irecv, buffers[rank][0], group=group, group_peer=rank))
    works = _communicate(group, lambda: dist.batch_isend_irecv(ops)) if ops else []

    def wait() -> dict[int, list[Tensor]]:
        for work in works:
            _communicate(group, work.wait)
        return {
            rank: [part.view(shape) for part, shape in zip(
                buffer.split(sizes), shapes[rank], strict=True
            )]
            for rank, (buffer, sizes) in buffers.items()
        }  # fmt: skip

    return wait


def total(group: ProcessGroup, x: Tensor) -> Tensor:
    """Add up every rank's tensor of this shape, in place; all ranks get the same bits."""
    if x.numel():
        _communicate(group, lambda: dist.all_reduce(x, group=group))
    return x


def gathered(group: ProcessGroup, x: Tensor) -> list[Tensor]:
    """Every rank's tensor of this shape, in the ranks' order, by one collective."""
    # clones of x, because torch's fake groups, which send nothing, leave them as they are
    parts = [x.clone() for _ in range(group.size())]
    _communicate(group, lambda: dist.all_gather(parts, x, group=group))
    return parts


def gathered_texts(group: ProcessGroup, text: str) -> list[str]:
    """Every rank's text, in the ranks' order."""
    texts = [""] * group.size()
    _communicate(group, lambda: dist.all_gather_object(texts, text, group=group))
    return texts


def _communicate(group: ProcessGroup, do: Callable[[], R]) -> R:
    """Return do(), or raise an error of ours in one sentence if another rank is gone."""
    try:
        return do()
    except RuntimeError as error:
        reason = next(iter(str(error).splitlines()), "")[:200]
        raise EngineError(
            f"Rank {group.rank()} of {group.size()} lost its connection: another has ended, or "
            f"does not answer ({reason})."
        ) from error
