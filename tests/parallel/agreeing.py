"""What every rank does in the tests of agreement: calls that differ, errors, and the next call."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.utils.checkpoint import checkpoint

from tests.parallel.jobs import random
from wqkv import (
    ALiBi,
    Causal,
    Lengths,
    MultiheadAttention,
    Segments,
    SharedMap,
    Spread,
    T5Bias,
    Window,
    attention,
    shard_heads,
)
from wqkv.attend.bias import Bias
from wqkv.attend.engines import rectangles
from wqkv.attend.geometry import At
from wqkv.attend.parallel.ranks import AllToAll, Ranks, Ring
from wqkv.maps.attention_map import AttentionMap

B, HEADS, KV_HEADS, N, D_K, D_V = 2, 4, 2, 12, 6, 5
WAYS = {"Ring": Ring(), "AllToAll": AllToAll()}


def everything() -> dict[str, Any]:
    """All jobs, for processes are slow to begin."""
    jobs = (
        differing, local, backward, middle, derivatives, others, changed, kept, questions, steps
    )  # fmt: skip
    return {job.__name__: job() for job in jobs}


def mine() -> bool:
    """Whether this is the rank that does otherwise."""
    return dist.get_rank() == 1


def inputs(dtype: torch.dtype = torch.float64, batch: int = B, **sizes: int) -> list[Tensor]:
    """This rank's q, k and v."""
    n, heads, kv_heads = sizes.get("n", N), sizes.get("heads", HEADS), sizes.get("kv", KV_HEADS)
    d_k, d_v = sizes.get("d_k", D_K), sizes.get("d_v", D_V)
    shapes = (heads, d_k), (kv_heads, d_k), (kv_heads, d_v)
    whole = [random(batch, h, n, d, seed=i).to(dtype) for i, (h, d) in enumerate(shapes)]
    return [Ranks().shard(x, 2).clone() for x in whole]


def _whole() -> list[Tensor]:
    """q, k and v of all ranks."""
    shapes = (HEADS, D_K), (KV_HEADS, D_K), (KV_HEADS, D_V)
    return [random(B, h, N, d, seed=i) for i, (h, d) in enumerate(shapes)]


def said(do: Callable[[], Any]) -> str:
    try:
        do()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def fine(way: Ranks) -> float:
    """How far the next call, forward and backward, is from one process."""
    whole = [x.requires_grad_() for x in _whole()]
    leaves = [x.requires_grad_() for x in inputs()]
    out, truth = attention(*leaves, mask=Causal(), mesh=way), attention(*whole, mask=Causal())
    grads = torch.autograd.grad(out.square().sum(), leaves)
    right = torch.autograd.grad(truth.square().sum(), whole)
    pairs = zip((out, *grads), (way.shard(x, 2) for x in (truth, *right)), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def differences() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """What one rank passes otherwise: sizes of its tensors, and rules."""
    labels = torch.arange(N).view(1, -1) // 5
    table = random(8, HEADS, seed=4)
    return {
        "dtype": ({"dtype": torch.float32}, {}),
        "batch": ({"batch": B + 1}, {}),
        "heads": ({"heads": 2 * HEADS}, {}),
        "kv_heads": ({"kv": HEADS}, {}),
        "d_k": ({"d_k": D_K + 1}, {}),
        "d_v": ({"d_v": D_V + 1}, {}),
        "length": ({"n": 2 * N}, {}),
        "mask": ({}, {"mask": Window(3, 0)}),
        "labels": ({}, {"mask": Segments(labels + (labels == 2) * 1)}),
        "matrix": ({}, {"mask": torch.arange(N) < torch.arange(1, N + 1).view(-1, 1) + 1}),
        "lengths": ({}, {"mask": Lengths([5, 7])}),
        "bias": ({}, {"bias": T5Bias(table, bidirectional=True)}),
        "slopes": ({}, {"bias": ALiBi(random(HEADS, seed=3).abs() + 1)}),
        "scale": ({}, {"scale": 0.5}),
        "softcap": ({}, {"softcap": 3.0}),
        "sinks": ({}, {"sinks": random(HEADS, seed=9)}),
        "query_offset": ({}, {"query_offset": torch.tensor([3, 4])}),
        "gradients": ({"grad": 1}, {}),
    }


def usual(name: str) -> dict[str, Any]:
    """The rules of the other ranks."""
    labels = torch.arange(N).view(1, -1) // 5
    masks: dict[str, Any] = {
        "labels": Segments(labels),
        "matrix": torch.arange(N) < torch.arange(1, N + 1).view(-1, 1),
        "lengths": Lengths([5, 6]),
    }
    rules: dict[str, Any] = {"mask": masks.get(name, Causal())}
    if name == "slopes":
        rules["bias"] = ALiBi(random(HEADS, seed=3).abs())
    if name == "sinks":
        rules["sinks"] = random(HEADS, seed=8)
    return rules


def differing() -> dict[str, tuple[str, float]]:
    """What is said of calls that differ, and how far off the next call is."""
    found = {}
    for way_name, way in WAYS.items():
        for name, (sizes, rules) in differences().items():
            sizes, grad = dict(sizes), bool(sizes.get("grad")) and mine()
            sizes.pop("grad", None)
            call = inputs(**(sizes if mine() else {})), usual(name) | (rules if mine() else {})
            call[0][0].requires_grad_(grad)
            text = said(lambda call=call, way=way: attention(*call[0], **call[1], mesh=way))
            found[f"{way_name} {name}"] = text, fine(way)
    other = Ring(None, "zigzag") if mine() else Ring()
    found["layout"] = said(lambda: attention(*inputs(n=2 * N), mesh=other)), fine(Ring())
    other = AllToAll() if mine() else Ring()
    found["way"] = said(lambda: attention(*inputs(), mesh=other)), fine(Ring())
    return found


def local() -> dict[str, tuple[str, float]]:
    """An error that one rank alone meets before anything is sent."""
    q, k, v = inputs()
    layer = MultiheadAttention(8, 2, mask=Causal(), mesh=Ring())
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    wrong: dict[str, Callable[[], Any]] = {
        "axes": lambda: attention(q[0] if mine() else q, k, v, mesh=Ring()),
        "keys": lambda: attention(q, k, v[:, :, :1] if mine() else v, mesh=AllToAll()),
        "mask": lambda: attention(
            q, k, v, mask=Lengths([99, 1] if mine() else [1, 1]), mesh=Ring()
        ),
        "kind": lambda: attention(q, k, v, scale="x" if mine() else 1.0, mesh=Ring()),
        "layer's kind": lambda: layer(torch.zeros(1, 3, 8), mask=3 if mine() else None),
        "map's kind": lambda: SharedMap.tokens(Ring(), q, k, mask="x" if mine() else Causal()),
        "layer": lambda: layer(torch.zeros(1, 3, 7 if mine() else 8)),
        "layer's map": lambda: layer.map(torch.zeros(1, 3, 7 if mine() else 8)),
        "map": lambda: SharedMap.tokens(
            Ring(), q[:, :, :1] if mine() else q, k, mask=Causal()
        ),
        "heads": lambda: SharedMap.heads(q if mine() else AttentionMap(q, k)),
        "shard": lambda: shard_heads(MultiheadAttention(24, 3 if mine() else 8), mesh),
        "shards": lambda: shard_heads(MultiheadAttention(16, 4 if mine() else 8), mesh),
        "spread": lambda: _step(torch.zeros(1, 1, 7 if mine() else 8)),
    }  # fmt: skip
    return {name: (said(do), fine(Ring())) for name, do in wrong.items()}


@torch.no_grad()
def _step(x: Tensor, cache: Spread | None = None) -> Tensor:
    layer = MultiheadAttention(8, 2, mask=Causal())
    return layer(x, cache=Spread() if cache is None else cache)


def backward() -> dict[str, tuple[str, float]]:
    """An error of one rank alone as the backward pass begins."""
    found = {}
    for name, way in WAYS.items():
        matrix = torch.ones(N, N, dtype=torch.bool).tril()
        leaves = [x.requires_grad_() for x in inputs()]
        out = attention(*leaves, mask=matrix, mesh=way)
        if mine():
            matrix.zero_()
        found[f"{name} changed"] = said(out.sum().backward), fine(way)
        out, lse = attention(*leaves, mask=Causal(), mesh=way, return_lse=True)
        loss = out.sum() + (lse.sum() if mine() else 0)
        found[f"{name} lse"] = said(loss.backward), fine(way)
    return found


@contextmanager
def broken(name: str) -> Iterator[None]:
    """The engines fail on one rank, after messages have been sent."""
    plain = getattr(rectangles, name)

    def fail(*args: Any, **rest: Any) -> None:
        raise MemoryError("no room")

    setattr(rectangles, name, fail if mine() else plain)
    try:
        yield
    finally:
        setattr(rectangles, name, plain)


def middle() -> dict[str, tuple[str, float]]:
    """An error between a send and a receive."""
    found = {}
    for name, way in WAYS.items():
        leaves = [x.requires_grad_() for x in inputs()]
        out = attention(*leaves, mask=Causal(), mesh=way)
        with broken("forward"):
            text = said(lambda way=way, x=leaves: attention(*x, mask=Causal(), mesh=way))
        found[f"{name} forward"] = text, fine(way)
        with broken("backward"):
            text = said(out.sum().backward)
        found[f"{name} backward"] = text, fine(way)
    return found


def derivatives() -> dict[str, tuple[float, str, str]]:
    """The first derivative by create_graph and torch.func; what is said of others."""
    found = {}
    for name, way in WAYS.items():
        leaves = [x.requires_grad_() for x in inputs()]
        sinks, slopes = random(HEADS, seed=8), random(HEADS, seed=3).abs()

        def loss(*x: Tensor, way: Ranks = way) -> Tensor:
            q, k, v, sinks, slopes = x
            rest: dict[str, Any] = {"softcap": 3.0, "bias": ALiBi(slopes), "sinks": sinks}
            return attention(q, k, v, mask=Lengths([N, 7]), mesh=way, **rest).square().sum()

        given = [*leaves, sinks.requires_grad_(), slopes.requires_grad_()]
        right = torch.autograd.grad(loss(*given), given)
        first = torch.autograd.grad(loss(*given), given, create_graph=True)
        plain = [x.detach() for x in given]
        by_func = torch.func.grad(loss, argnums=tuple(range(5)))(*plain)
        worst = max(
            float((a - b).detach().abs().max())
            for some in (first, by_func)
            for a, b in zip(some, right, strict=True)
        )
        second = said(lambda x=first, y=leaves: torch.autograd.grad(x[0].sum(), y[0]))
        forward = said(lambda f=loss, x=tuple(plain): torch.func.jvp(f, x, x))
        found[name] = worst, second, forward
    return found


class Near(Bias):
    """A bias of someone else's: what it learns is in a module, or it learns nothing."""

    def __init__(self, module: nn.Linear, *, learns: bool) -> None:
        self.module, self.learns = module, learns

    def tile(self, at: At, dtype: torch.dtype | None = None) -> Tensor:
        return self.module.weight * (at.key_pos - at.query_pos).abs()

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.module.weight,) if self.learns else ()

    def add_gradient(self, total: Tensor, at: At, d_tile: Tensor) -> None:
        total += (d_tile * (at.key_pos - at.query_pos).abs()).sum()

    def heads(self, start: int, stop: int) -> Bias:
        return self


def others() -> dict[str, float]:
    """How far rules of someone else's are from one process, outputs and gradients."""
    module, found = nn.Linear(1, 1, bias=False, dtype=torch.float64), {}
    module.weight.data.fill_(-0.3)
    for name, way in WAYS.items():
        bias = Near(module, learns=True)
        whole = attention(*_whole(), bias=bias, mask=Causal())
        mine = attention(*inputs(), bias=bias, mask=Causal(), mesh=way)
        (right,) = torch.autograd.grad(whole.square().sum(), module.weight)
        (share,) = torch.autograd.grad(mine.square().sum(), module.weight)
        dist.all_reduce(share)
        fixed = attention(*inputs(), bias=Near(module, learns=False), mask=Causal(), mesh=way)
        pairs = (mine, way.shard(whole, 2)), (fixed, mine), (share, right)
        found[name] = max(float((a - b).detach().abs().max()) for a, b in pairs)
    return found


def changed() -> dict[str, tuple[str, float]]:
    """Changed in place on every rank between forward and backward: an error, or no difference."""
    found = {}
    for name, way in WAYS.items():
        right = _gradients(way)
        for what in ("query", "key", "value", "mask", "bias", "query_offset", "sinks"):
            grads: list[Tensor] = []
            text = said(lambda way=way, what=what, to=grads: to.append(_gradients(way, what)))
            off = max((float((x - right).abs().max()) for x in grads), default=0.0)
            found[f"{name} {what}"] = text, off
    return found


def _gradients(way: Ranks, change: str = "") -> Tensor:
    """All gradients in one, where one input is set to 0 before the backward pass."""
    leaves = [x.requires_grad_() for x in inputs()]
    given: dict[str, Any] = {
        **{name: x * 1 for name, x in zip(("query", "key", "value"), leaves, strict=True)},
        "mask": random(1, 1, N, N, seed=7) > -1,
        "bias": random(1, HEADS, N, N, seed=5),
        "query_offset": torch.tensor([0, 1]),
        "sinks": random(HEADS, seed=8),
    }
    out = attention(**given, mesh=way)
    if change:
        with torch.no_grad():
            given[change].zero_()
    grads = torch.autograd.grad(out.square().sum(), leaves)
    return torch.cat([grad.flatten() for grad in grads])


def kept() -> dict[str, list[int]]:
    """How many tensors of the sizes of q, k, v live on: checkpointed, and after 5 backward passes.

    First of this rank's tokens and all heads, then of all tokens and this rank's heads.
    """
    found, size = {}, dist.get_world_size()
    shapes = (1, HEADS, N // size, 7), (1, HEADS // size, N, 7)

    def alive() -> int:
        gc.collect()
        tensors = (thing for thing in gc.get_objects() if isinstance(thing, Tensor))
        return sum(tuple(x.shape) in shapes for x in tensors)

    for name, way in WAYS.items():
        x = random(1, N // size, HEADS * 7)

        def run(x: Tensor, way: Ranks = way) -> Tensor:
            q, k, v = (x.unflatten(-1, (HEADS, 7)).transpose(1, 2) * i for i in (1.0, 2.0, 3.0))
            rest: dict[str, Any] = {"bias": ALiBi(HEADS), "sinks": torch.zeros(HEADS)}
            labels = Segments(torch.arange(N).view(1, -1) // 5)
            return attention(q, k, v, mask=labels, mesh=way, **rest).sum(1)

        before, outs = alive(), []
        out = checkpoint(run, x.clone().requires_grad_(), use_reentrant=False)
        counts = [alive() - before]
        out.sum().backward()
        for _ in range(5):
            out = run(x.clone().requires_grad_())
            out.sum().backward()
            outs.append(out)
        found[name] = [*counts, alive() - before]
    return found


def questions() -> dict[str, tuple[str, float]]:
    """Ranks that ask one map for different things."""
    q, k, _ = inputs()
    m = SharedMap.tokens(Ring(), q, k, mask=Causal())
    n = dist.get_rank()
    asked: dict[str, Callable[[], Any]] = {
        "rows": lambda: m[0, 0, n],
        "kinds": lambda: m.entropy() if mine() else m.mean_distance(),
        "keys": lambda: m.mass([0, n + 1]),
        "links": lambda: m.top(1, [n]),
        "pairs": lambda: m.at([1, 1], [0, n]),
        "columns": lambda: m.times(torch.ones(N, 1 + n, dtype=torch.float64)),
        "blocks": lambda: m.thumbnail(2 + n),
        "gather": lambda: Ring().gather(q[:, : 1 + n], 2),
    }
    return {name: (said(do), fine(Ring())) for name, do in asked.items()}


@torch.no_grad()
def steps() -> dict[str, str]:
    """Spread caches of which the ranks do not keep the same."""
    x, n = torch.zeros(1, 3, 8), dist.get_rank()
    cache = Spread()
    _step(x, cache)
    if mine():
        cache.rewind(2)
    found = {"lengths": said(lambda: _step(x, cache))}
    found["blocks"] = said(lambda: _step(x, Spread(block=1 + n)))
    found["tokens"] = said(lambda: _step(x[:, : 1 + n], Spread()))
    return found
