"""What every rank does in the tests: attention over ranks beside that of one process."""

from __future__ import annotations

import copy
import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.utils.checkpoint import checkpoint

from wqkv import (
    ALiBi,
    Causal,
    Dense,
    DifferentialAttention,
    Dynamic,
    Full,
    Lengths,
    MultiheadAttention,
    Prefix,
    RoPE,
    Segments,
    T5Bias,
    Window,
    attention,
)
from wqkv.attend.call import request
from wqkv.attend.masks import Mask
from wqkv.attend.parallel import messages, traffic
from wqkv.attend.parallel.ranks import AllToAll, Ranks, Ring
from wqkv.errors import EngineError, WqkvError
from wqkv.layer.latent import LatentAttention
from wqkv.layer.norms import Norm, QKNorm, Temperature
from wqkv.layer.shard import shard_heads

B, HEADS, KV_HEADS, N, D_K, D_V = 2, 4, 2, 24, 6, 5
WAYS = [kind(None, layout) for kind in (Ring, AllToAll) for layout in ("contiguous", "zigzag")]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def masks() -> dict[str, Mask]:
    labels = torch.tensor([[0] * 7 + [1] * 17, [0] * 20 + [1] * 4])
    return {
        "full": Full(),
        "causal": Causal(),
        "window": Window(3, 0),
        "both sides": Window(2, 5),
        "lengths": Lengths([N - 5, 7]),
        "documents": Segments(labels),
        "causal documents": Segments(labels) & Causal(),
        "prefix": Prefix(5),
        "combined": ~Window(4, 4) | Causal(),
        "stored, one a head": Dense(random(B, HEADS, N, N) > -0.5),
    }


def rules() -> dict[str, dict[str, Any]]:
    return {
        "plain": {},
        "alibi": {"bias": ALiBi(torch.nn.Parameter(random(HEADS, seed=3).abs()))},
        "t5": {"bias": T5Bias(
            torch.nn.Parameter(random(8, HEADS, seed=4)), bidirectional=True, max_distance=9
        )},
        "stored": {"bias": random(1, HEADS, N, N, seed=5).requires_grad_()},
        "softcap": {"softcap": 2.0},
        "sinks": {"sinks": random(HEADS, seed=6).requires_grad_()},
        "later": {"query_offset": 3},
    }  # fmt: skip


def learned(rule: dict[str, Any]) -> list[Tensor]:
    tensors = [x for x in rule.values() if isinstance(x, Tensor)]
    if "bias" in rule and not tensors:
        tensors = list(rule["bias"].tensors())
    return [x for x in tensors if x.requires_grad]


def results(
    mask: Mask, rule: dict[str, Any], ranks: Ranks | None
) -> tuple[list[Tensor], list[Tensor]]:
    """Rows (out, lse, dq, dk, dv) of this rank, and the gradients of what is learned."""
    sizes = ((HEADS, D_K), (KV_HEADS, D_K), (KV_HEADS, D_V), (HEADS, D_V))
    tensors = [random(B, heads, N, d, seed=10 + i) for i, (heads, d) in enumerate(sizes)]
    up_lse = random(B, HEADS, N, seed=20)
    if ranks is not None:
        tensors, up_lse = [ranks.shard(x, 2) for x in tensors], ranks.shard(up_lse, 2)
    leaves, up = [x.clone().requires_grad_() for x in tensors[:3]], tensors[3]
    out, lse = attention(*leaves, mask=mask, **rule, mesh=ranks, return_lse=True)
    lse = lse.masked_fill(lse == -torch.inf, 0)
    grads = torch.autograd.grad([out, lse], [*leaves, *learned(rule)], [up, up_lse])
    return [out, lse, *grads[:3]], list(grads[3:])


def everything() -> dict[str, Any]:
    """All jobs that need nothing of their own, for processes are slow to begin."""
    from tests.parallel import costs, mapped  # which takes its cases from here

    jobs = (
        equal_one_process, other_lengths, layers, heads, torchs_heads, refused_heads, together,
        sent, complaints,
    )  # fmt: skip

    return {job.__name__: job() for job in (*jobs, mapped.maps, costs.costs)}


def cases(size: int) -> list[tuple[str, Mask, str, dict[str, Any]]]:
    """Every mask plain, and every rule on two masks; on two ranks all of both."""
    return [
        (mask_name, mask, rule_name, rule)
        for mask_name, mask in masks().items()
        for rule_name, rule in rules().items()
        if size == 2 or rule_name == "plain" or mask_name in ("causal", "lengths")
    ]


def equal_one_process() -> list[tuple[str, float]]:
    """The largest difference from one process, case by case."""
    found = []
    for mask_name, mask, rule_name, rule in cases(dist.get_world_size()):
        whole, whole_learned = results(mask, rule, None)
        for ranks in WAYS:
            mine, mine_learned = results(mask, rule, ranks)
            for total in mine_learned:  # as any parameter's: every rank has its share
                dist.all_reduce(total)
            pairs = [*zip(mine, (ranks.shard(x, 2) for x in whole), strict=True)]
            pairs += zip(mine_learned, whole_learned, strict=True)
            worst = max(float((a - b).detach().abs().max()) for a, b in pairs)
            name = f"{mask_name}, {rule_name}, {type(ranks).__name__} {ranks.layout}"
            found.append((name, worst))
    return found


def other_lengths() -> list[float]:
    """Cross-attention, and a dtype of half precision."""
    q, k, v = random(B, HEADS, 8, D_K), random(B, HEADS, N, D_K), random(B, HEADS, N, D_V)
    found = []
    for dtype in (torch.float64, torch.bfloat16):
        q, k, v = (x.to(dtype) for x in (q, k, v))
        whole = attention(q, k, v, mask=Causal(), query_offset=N - 8)
        for ranks in WAYS:
            mine = (ranks.shard(x, 2) for x in (q, k, v))
            out = attention(*mine, mask=Causal(), query_offset=N - 8, mesh=ranks)
            found.append(float((out - ranks.shard(whole, 2)).abs().max()))
    return found


def layers() -> list[tuple[str, float]]:
    """Whole layers, rotary positions and temperature included."""
    x, found = random(B, N, 16), []
    torch.manual_seed(0)
    rest: dict[str, Any] = {"mask": Causal(), "dtype": torch.float64}
    made = [
        MultiheadAttention(16, 4, n_kv_head=2, position=RoPE(), gate="head", sinks=True, **rest),
        MultiheadAttention(
            16, 4, position=ALiBi(4), temperature=Temperature(5, 0.3), persistent=2, **rest
        ),
        LatentAttention(16, 4, rank=5, d_rope=2, **rest),
    ]
    for layer in made:
        whole = layer(x)
        grads = torch.autograd.grad(whole.square().sum(), list(layer.parameters()))
        for ranks in WAYS:
            layer.mesh = ranks
            mine = layer(ranks.shard(x))
            shares = torch.autograd.grad(mine.square().sum(), list(layer.parameters()))
            layer.mesh = None
            for share in shares:
                dist.all_reduce(share)
            worst = max(float((a - b).abs().max()) for a, b in zip(shares, grads, strict=True))
            worst = max(worst, float((mine - ranks.shard(whole)).abs().max()))
            found.append((f"{type(layer).__name__} {type(ranks).__name__}", worst))
    return found


def heads() -> list[tuple[str, float]]:
    """Layers whose heads the ranks share: outputs, inputs' gradients and every parameter's."""
    mesh, found = init_device_mesh("cpu", (dist.get_world_size(),)), []
    rest: dict[str, Any] = {"mask": Causal(), "dtype": torch.float64, "position": RoPE()}
    kinds: list[dict[str, Any]] = [
        {},
        {
            "n_kv_head": 4,
            "sinks": True,
            "gate": "channel",
            "norm": QKNorm(bias=True),
            "persistent": 3,
        },
        {"n_kv_head": 1, "norm": QKNorm("layer"), "v_norm": Norm(), "bias": ["WK", "WO"]},
        {"norm": QKNorm(over="each head"), "gate": "head", "bias": False},
        {"WO": False},
    ]
    for kind in kinds:
        torch.manual_seed(0)
        layer = MultiheadAttention(16, 8, **kind, **rest)
        for i, parameter in enumerate(layer.parameters()):
            parameter.data += 0.3 * random(*parameter.shape, seed=i)
        x = random(B, N, 16).requires_grad_()
        whole = layer(x)
        grads = torch.autograd.grad(whole.square().sum(), [x, *layer.parameters()])
        names = [name for name, _ in layer.named_parameters()]
        shared = shard_heads(layer, mesh)
        out = shared(x)
        if layer.WO is None:  # every rank has its heads' part
            whole = whole.chunk(mesh.size(), dim=2)[mesh.get_local_rank()]
        parameters = dict(shared.named_parameters())
        out.square().sum().backward()
        pairs = [(out, whole), (x.grad, grads[0])]
        pairs += [
            (parameters[name].grad.full_tensor(), grad)
            for name, grad in zip(names, grads[1:], strict=True)
        ]
        found.append((str(kind), max(float((a - b).detach().abs().max()) for a, b in pairs)))
    return found


WHOLE_KEYS = {"WQ": ColwiseParallel, "WO": RowwiseParallel}
BY_COLUMNS = WHOLE_KEYS | {"WK": ColwiseParallel, "WV": ColwiseParallel}


def cut_by_torch(layer: MultiheadAttention, plan: dict[str, Any]) -> MultiheadAttention:
    """A layer whose matrices alone are shared, by torch's own tensor parallelism."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    parallelize_module(layer, mesh, {name: style() for name, style in plan.items()})
    return layer


def torchs_heads() -> list[tuple[str, float]]:
    """Outputs, gradients, steps and maps of layers whose matrices torch shares."""
    found, size, rank = [], dist.get_world_size(), dist.get_rank()
    rest: dict[str, Any] = {"mask": Causal(), "dtype": torch.float64, "position": RoPE()}
    gated = BY_COLUMNS | {"WG": ColwiseParallel}
    learned: list[tuple[Any, dict[str, Any], dict[str, Any]]] = [
        (MultiheadAttention, BY_COLUMNS, {"n_head": 8}),
        (MultiheadAttention, BY_COLUMNS, {"n_head": 12, "n_kv_head": 4, "d_k": 6, "d_v": 5}),
        (MultiheadAttention, gated, {"n_head": 4, "gate": "channel"}),
        (MultiheadAttention, gated, {"n_head": 8, "gate": "head", "v_norm": Norm(weight=False)}),
    ]
    # here something is whole on every rank, and would learn a part
    run: list[tuple[Any, dict[str, Any], dict[str, Any]]] = [
        (MultiheadAttention, BY_COLUMNS, {"n_head": 4, "norm": QKNorm(), "v_norm": Norm()}),
        (MultiheadAttention, WHOLE_KEYS, {"n_head": 4, "n_kv_head": 1, "persistent": 3}),
        (LatentAttention, BY_COLUMNS, {"n_head": 4, "rank": 5, "d_rope": 2}),
    ]
    for kind, plan, given in learned + run:
        torch.manual_seed(0)
        layer = kind(16, **given, **rest)
        x = random(B, N, 16).requires_grad_()
        whole, maps = layer(x), layer.map(x)[:]
        grads = torch.autograd.grad(whole.square().sum(), [x, *layer.parameters()])
        names = [name for name, _ in layer.named_parameters()]
        shared, pairs = cut_by_torch(layer, plan), []
        if (kind, plan, given) in learned:
            out = shared(x)
            out.square().sum().backward()
            pairs = [(out, whole), (x.grad, grads[0])]
            pairs += [
                (shared.get_parameter(name).grad.full_tensor(), grad)
                for name, grad in zip(names, grads[1:], strict=True)
            ]
        with torch.no_grad():
            cache = Dynamic()
            steps = [shared(part, cache=cache) for part in x.split([N - 2, 1, 1], dim=1)]
            pairs += [(shared(x), whole), (torch.cat(steps, dim=1), whole)]
            pairs.append((shared.map(x)[:], maps.chunk(size, dim=1)[rank]))
        worst = max(float((a - b).detach().abs().max()) for a, b in pairs)
        found.append((f"{kind.__name__} {given}", worst))
    return found


def refused_heads() -> list[str]:
    """What is said of layers of which the matrices alone do not make a share."""
    rest: dict[str, Any] = {"dtype": torch.float64, "n_head": 4}
    learns = 3  # the last ones
    layers: list[tuple[MultiheadAttention, dict[str, Any]]] = [
        (MultiheadAttention(16, **rest, sinks=True), BY_COLUMNS),
        (MultiheadAttention(16, **rest, position=ALiBi(4)), BY_COLUMNS),
        (MultiheadAttention(16, **rest, norm=QKNorm(over="each head")), BY_COLUMNS),
        (MultiheadAttention(16, **rest, norm=QKNorm(over="projection")), BY_COLUMNS),
        (MultiheadAttention(16, **rest, v_norm=Norm(over="projection", weight=False)), BY_COLUMNS),
        (MultiheadAttention(16, **rest, gate="head"), BY_COLUMNS),
        (MultiheadAttention(16, **rest, persistent=1), BY_COLUMNS),
        (MultiheadAttention(16, n_head=3, d_k=6, dtype=torch.float64), BY_COLUMNS),
        (MultiheadAttention(16, **rest, n_kv_head=1, d_k=6), BY_COLUMNS),
        (MultiheadAttention(16, **rest), WHOLE_KEYS),
        (MultiheadAttention(16, n_head=8, n_kv_head=2, dtype=torch.float64), WHOLE_KEYS),
        (DifferentialAttention(16, **rest, start=0.5), BY_COLUMNS),
        (LatentAttention(16, **rest, rank=5, d_rope=2), WHOLE_KEYS),
        (MultiheadAttention(16, **rest, n_kv_head=1), WHOLE_KEYS),
        (MultiheadAttention(16, **rest, norm=QKNorm()), BY_COLUMNS),
        (LatentAttention(16, **rest, rank=5, d_rope=2), BY_COLUMNS),
    ]
    found = []
    for i, (layer, plan) in enumerate(layers):
        try:
            with torch.set_grad_enabled(i >= len(layers) - learns):
                cut_by_torch(layer, plan)(random(B, N, 16))
            found.append("nothing")
        except WqkvError as error:
            found.append(str(error))
    one = MultiheadAttention(16, 4, n_kv_head=1, persistent=2)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    return [*found, _said(lambda: shard_heads(one, mesh))]


class Block(nn.Module):
    """A small model: two layers over words, and something that is not attention."""

    def __init__(self) -> None:
        super().__init__()
        rest: dict[str, Any] = {"mask": Causal(), "position": RoPE(), "dtype": torch.float64}
        self.layers = nn.ModuleList(MultiheadAttention(16, 8, n_kv_head=4, **rest) for _ in "ab")
        self.last = nn.Linear(16, 16, dtype=torch.float64)
        self.again = False  # whether activations are computed again in the backward pass

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + (checkpoint(layer, x, use_reentrant=False) if self.again else layer(x))
        result: Tensor = self.last(x)
        return result


def together() -> list[tuple[str, float]]:
    """The ring with FSDP2, activation checkpointing and torch.compile, against one process."""
    found, x, size = [], random(B, N, 16), dist.get_world_size()
    mesh = init_device_mesh("cpu", (size,))
    torch.manual_seed(0)
    plain = Block()
    whole = plain(x)
    grads = torch.autograd.grad(whole.square().sum(), list(plain.parameters()))
    for name in ("plain", "again", "fsdp", "fsdp, again", "compiled"):
        model = copy.deepcopy(plain)
        model.again = "again" in name
        model.layers[0].mesh = Ring(mesh, "zigzag")
        model.layers[1].mesh = AllToAll(mesh, "zigzag")
        run: Any = model
        if "fsdp" in name:
            for layer in model.layers:
                fully_shard(layer, mesh=mesh)
            fully_shard(model, mesh=mesh)
        if "compiled" in name:
            run = torch.compile(model, backend="aot_eager")
        out = run(Ring(mesh, "zigzag").shard(x))
        out.square().sum().backward()
        mine: list[Tensor] = []
        for parameter in model.parameters():
            grad: Any = parameter.grad
            if "fsdp" in name:  # which gives the mean over the ranks
                mine.append(grad.full_tensor() * size)
            else:
                dist.all_reduce(grad)
                mine.append(grad)
        pairs = [*zip(mine, grads, strict=True), (out, Ring(mesh, "zigzag").shard(whole))]
        found.append((name, max(float((a - b).detach().abs().max()) for a, b in pairs)))
    return found


def save_heads(folder: str) -> None:
    """Layers whose heads are shared, written by torch's distributed checkpoints."""
    dcp.save(_shared_heads(seed=0).state_dict(), checkpoint_id=folder)


def load_heads(folder: str) -> float:
    """The difference from the layer that was written, on another number of ranks."""
    torch.manual_seed(0)
    x, whole = random(B, N, 16), MultiheadAttention(16, 8, n_kv_head=2, sinks=True).double()
    layer = _shared_heads(seed=1)
    state = layer.state_dict()
    dcp.load(state, checkpoint_id=folder)
    layer.load_state_dict(state)
    return float((layer(x) - whole(x)).detach().abs().max())


def _shared_heads(seed: int) -> MultiheadAttention:
    torch.manual_seed(seed)
    layer = MultiheadAttention(16, 8, n_kv_head=2, sinks=True).double()
    return shard_heads(layer, init_device_mesh("cpu", (dist.get_world_size(),)))


def sent() -> dict[str, tuple[int, int]]:
    """The bytes this rank sends forward, and those that `traffic` gives for the busiest."""
    counted, plain = [0], dist.P2POp

    class Counted(plain):  # type: ignore[misc, valid-type]
        def __init__(self, op: Any, tensor: Tensor, **rest: Any) -> None:
            counted[0] += tensor.numel() * tensor.element_size() if op is dist.isend else 0
            super().__init__(op, tensor, **rest)

        def __new__(cls, *args: Any, **rest: Any) -> Any:
            return object.__new__(cls)

    messages.dist.P2POp = Counted  # type: ignore[misc]
    found = {}
    try:
        for name, mask in masks().items():
            for ranks in WAYS:
                heads, d = (HEADS, KV_HEADS, KV_HEADS), (D_K, D_K, D_V)
                q, k, v = (
                    ranks.shard(random(B, h, N, n), 2) for h, n in zip(heads, d, strict=True)
                )
                counted[0] = 0
                attention(q, k, v, mask=mask, mesh=ranks)
                call = request(q, k, v, mask=mask, ranks=ranks.size)
                way = type(ranks).__name__
                said = traffic(call, ranks)[way]
                if way == "AllToAll":  # lse travels too: one number a query and head
                    said += (ranks.size - 1) * B * HEADS // ranks.size * (N // ranks.size) * 8
                found[f"{name} {way} {ranks.layout}"] = counted[0], said
    finally:
        messages.dist.P2POp = plain  # type: ignore[misc]
    return found


def complaints() -> list[str]:
    """What a rank hears of calls that cannot be."""
    q = random(B, dist.get_world_size() + 1, 7, 4)

    def hear(**rest: Any) -> str:
        try:
            attention(q, q, q, **rest)
        except WqkvError as error:
            return f"{type(error).__name__}: {error}"
        return "nothing"

    return [
        hear(mesh=Ring(None, "zigzag"), mask=Lengths([1, 99])),
        hear(mesh=Ring(None), dropout_p=0.5),
        hear(mesh=AllToAll(None)),
        hear(mesh=Ranks(None), dropout_p=0.5),
        _said(lambda: Ranks(None, "spiral")),
        _said(lambda: Ring().spans(7)),
        _said(lambda: _with_cache()),
        _said(lambda: _mapped()),
    ]


def _with_cache() -> None:
    from wqkv import Dynamic

    layer = MultiheadAttention(8, 2, mesh=Ring())
    layer(torch.zeros(1, 2, 8), cache=Dynamic())


def _mapped() -> None:
    layer = MultiheadAttention(8, 2, persistent=2, mesh=Ring())
    layer.map(torch.zeros(1, 2, 8))


def _said(do: Any) -> str:
    try:
        do()
    except WqkvError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def one_dies() -> str:
    """The last rank ends in the middle of a ring; the others hear of it."""
    ranks = Ring()
    q = torch.randn(1, 2, 64, 8)
    attention(q, q, q, mesh=ranks)
    if ranks.rank == ranks.size - 1:
        os._exit(0)
    try:
        for _ in range(3):
            attention(q, q, q, mesh=ranks)
    except EngineError as error:
        return str(error)
    return "nothing"
