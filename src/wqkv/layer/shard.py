"""Share heads between ranks: WQ, WK, WV by columns, WO by rows, by torch's tensor parallelism."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import (
    DTensor,
    Partial,
    Placement,
    Replicate,
    Shard,
    distribute_module,
    distribute_tensor,
)
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    parallelize_module,
)

from wqkv.attend.bias import Bias
from wqkv.attend.parallel.agreement import agree, shown, together
from wqkv.attend.parallel.ranks import Ranks
from wqkv.errors import ArgumentError
from wqkv.layer.attention import MultiheadAttention


def shard_heads(layer: MultiheadAttention, mesh: DeviceMesh) -> MultiheadAttention:
    """Share a layer's heads between the ranks of a mesh, in place; input and output stay the same.

    WQ, WK, WV (and WG) keep the columns of this rank's heads, WO their rows; one all-reduce adds up
    the results. Without a WO each rank returns the context of its own heads. With fewer key heads
    than ranks, WK and WV stay whole on every rank, and each rank takes the key head that its
    queries read. `n_head` and `n_kv_head` become this rank's.

    Args:
        mesh: one-dimensional; its size divides n_head, and n_kv_head or is a multiple of it.

    Raises:
        ArgumentError, on every rank: the heads do not make equal shares, ranks share the layer's
            tokens already (`layer.mesh`), a part needs all heads together, or layers differ.

    Source: Shoeybi et al. 2019 (arXiv:1909.08053), section 3.
    """
    with together(mesh.get_group()):
        _check(layer, mesh.size())
        tensors = ", ".join(f"{name} {shown(x)}" for name, x in layer.named_parameters())
    agree(mesh.get_group(), {"asked": "shard_heads", "layer": shown(layer), "parameters": tensors})
    size, n_head, kv_heads = Ranks(mesh).size, layer.n_head, layer.n_kv_head
    columns: ParallelStyle = _KeyHead(kv_heads) if kv_heads < size else ColwiseParallel()
    plan: dict[str, ParallelStyle] = {"WQ": ColwiseParallel(), "WK": columns, "WV": columns}
    if layer.gate is not None:
        plan["WG"] = ColwiseParallel()
    if layer.WO is not None:
        plan["WO"] = RowwiseParallel()
    parallelize_module(layer, mesh, plan)
    for norm in filter(None, (layer.q_norm, layer.k_norm, layer.v_norm)):
        _share(norm, mesh, [Shard(0) if norm.norm.over == "each head" else Replicate()])
    _share(layer, mesh, [Shard(0)])  # the sinks, and the persistent keys and values
    layer.n_head, layer.n_kv_head = n_head // size, max(kv_heads // size, 1)
    return layer


def _check(layer: MultiheadAttention, size: int) -> None:
    """Raise unless the heads make equal shares, each of which can be computed alone."""
    n_head, kv_heads = layer.n_head, layer.n_kv_head
    if layer.mesh is not None:
        raise ArgumentError(
            f"Ranks share the tokens of this layer already: its mesh is {layer.mesh!r}.\n"
            "Set layer.mesh to None; Spread(ranks) shares the keys of a cache beside the heads."
        )
    if type(layer) is not MultiheadAttention or isinstance(layer.position, Bias):
        what = type(layer).__name__ if layer.position is None else type(layer.position).__name__
        raise ArgumentError(f"shard_heads does not know how to share the heads of {what}.")
    if n_head % size or (kv_heads % size and size % kv_heads):
        raise ArgumentError(
            f"{n_head} heads and {kv_heads} key heads make no equal shares for {size} ranks.\n"
            "Pass a mesh whose size divides the heads, and divides the key heads or is a multiple "
            "of them."
        )
    shared = kv_heads < size
    for name in ("q_norm", "k_norm", "v_norm"):
        norm = getattr(layer, name)
        over = "head" if norm is None else norm.norm.over
        if over == "projection" or (over == "each head" and shared and name != "q_norm"):
            raise ArgumentError(
                f"`{name}` is over {over!r}, and no rank has all that it needs.\n"
                "A norm over 'head' can be shared: each head alone, one weight for all."
            )
    if shared and layer.persistent:
        raise ArgumentError(
            f"The {kv_heads} heads of `persistent_k` make no equal shares for {size} ranks.\n"
            "Pass a mesh whose size divides the key heads."
        )


def _share(module: nn.Module, mesh: DeviceMesh, placements: list[Placement]) -> None:
    """Split a module's own parameters over the ranks, or repeat them, as the placements say."""
    for name, parameter in list(module.named_parameters(recurse=False)):
        shared = nn.Parameter(distribute_tensor(parameter.data, mesh, placements))
        module.register_parameter(name, shared)


class _KeyHead(ParallelStyle):
    """Keep the matrix whole on every rank; of its result each rank takes the head that it reads."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        whole = [Replicate()]
        head = device_mesh.get_local_rank() * self.heads // device_mesh.size()

        def share(name: str, part: nn.Module, mesh: DeviceMesh) -> None:
            _share(part, mesh, [Replicate()])

        def begin(module: nn.Module, inputs: Any, mesh: DeviceMesh) -> Any:
            return (DTensor.from_local(inputs[0], mesh, whole, run_check=False), *inputs[1:])

        def end(module: nn.Module, output: Any, mesh: DeviceMesh) -> Tensor:
            # A rank uses one head alone, so its gradient of the matrix is one part of the sum.
            local: Tensor = output.to_local(grad_placements=[Partial()])
            d = local.shape[-1] // self.heads
            return local[..., head * d : (head + 1) * d]

        return distribute_module(module, device_mesh, share, begin, end)  # type: ignore[arg-type]
