"""What every rank does in the tests of Spread: decoding over ranks beside that of one process."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from tests.parallel.jobs import random
from wqkv import (
    ALiBi,
    Causal,
    Chunked,
    DifferentialAttention,
    Dynamic,
    KVCache,
    LatentAttention,
    Lengths,
    MultiheadAttention,
    RoPE,
    Segments,
    Spread,
    T5Bias,
    Temperature,
    Window,
    shard_heads,
)
from wqkv.attend.parallel import messages
from wqkv.attend.parallel.ranks import Ranks
from wqkv.errors import WqkvError

B, N, D_MODEL, HEADS = 2, 23, 16, 4
CUTS = [(23,), (1,) * 23, (7, 1, 1, 11, 3), (2, 5, 9, 1, 6)]
#: 1 and 3 give every rank many pieces, 5 a last one that is not full, 29 nothing to all but one.
BLOCKS = (1, 3, 5, 29)


def everything() -> dict[str, Any]:
    """All jobs that need nothing of their own, for processes are slow to begin."""
    jobs = (
        steps, half, masks_of_a_call, generation, with_heads, samples, shares, sent, complaints
    )  # fmt: skip
    with torch.no_grad():
        return {job.__name__: job() for job in jobs}


def layers() -> dict[str, MultiheadAttention]:
    torch.manual_seed(0)
    rest: dict[str, Any] = {"mask": Causal(), "dtype": torch.float64}
    made: dict[str, MultiheadAttention] = {
        "grouped": MultiheadAttention(D_MODEL, 4, n_kv_head=2, position=RoPE(), **rest),
        "one key head": MultiheadAttention(D_MODEL, 4, n_kv_head=1, d_k=6, d_v=5, **rest),
        "sinks": MultiheadAttention(D_MODEL, 4, sinks=True, **rest),
        "window": MultiheadAttention(
            D_MODEL, 4, sinks=True, position=RoPE(), **rest | {"mask": Window(4, 0)}
        ),
        "chunks": MultiheadAttention(D_MODEL, 4, **rest | {"mask": Chunked(7) & Causal()}),
        "alibi": MultiheadAttention(D_MODEL, 4, position=ALiBi(4), **rest),
        "t5": MultiheadAttention(
            D_MODEL, 4, position=T5Bias(random(8, 4, seed=4), bidirectional=False), **rest
        ),
        "rest": MultiheadAttention(
            D_MODEL, 4, softcap=2.0, gate="head", temperature=Temperature(5, 0.3), **rest
        ),
        "latent": LatentAttention(D_MODEL, 4, rank=5, d_rope=2, **rest),
        "latent, made": LatentAttention(D_MODEL, 4, rank=64, d_rope=2, **rest),
        "differential": DifferentialAttention(D_MODEL, 4, start=0.5, **rest),
    }
    for layer in made.values():
        for i, parameter in enumerate(layer.parameters()):
            parameter.data += 0.3 * random(*parameter.shape, seed=i)
    return made


def stepped(layer: MultiheadAttention, x: Tensor, cache: KVCache, cuts: Sequence[int]) -> Tensor:
    return torch.cat([layer(some, cache=cache) for some in x.split(cuts, dim=1)], dim=1)


def gap(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max())


def steps() -> dict[str, tuple[float, Tensor]]:
    """The largest difference from one pass in one process, and this rank's result."""
    x, found = random(B, N, D_MODEL), {}
    for name, layer in layers().items():
        whole = layer(x)
        for cuts, block in ways(name):
            out = stepped(layer, x, Spread(block=block), cuts)
            found[f"{name}, {cuts}, {block}"] = gap(out, whole), out
    return found


def ways(name: str) -> list[tuple[Sequence[int], int]]:
    """Every cut with every block for one layer; each once for the others."""
    return list(product(CUTS, BLOCKS) if name == "window" else zip(CUTS, BLOCKS, strict=True))


def half() -> dict[str, tuple[float, float]]:
    """The error of Spread and that of Dynamic, both against float64."""
    found = {}
    for dtype in (torch.bfloat16, torch.float16):
        for name, layer in layers().items():
            if name in ("grouped", "sinks", "alibi", "latent"):
                low, x = layer.to(dtype), random(B, N, D_MODEL).to(dtype)
                exact = copy.deepcopy(low).double()(x.double())
                errors = [
                    gap(stepped(low, x, cache, (7, 1, 1, 11, 3)), exact)
                    for cache in (Spread(block=3), Dynamic())
                ]
                found[f"{name} {dtype}"] = errors[0], errors[1]
    return found


def masks_of_a_call() -> list[float]:
    """Padding, documents and a stored matrix, which are over all keys so far."""
    layer, x, found = layers()["grouped"], random(B, N, D_MODEL), []
    labels, seen = torch.arange(N).view(1, -1) // 6, random(B, 1, N, N, seed=1) > -1
    for block in BLOCKS:
        for kind in range(3):
            caches = Spread(block=block), Dynamic()
            for a, b in ((0, 9), (9, 10), (10, 17), (17, N)):
                mask = (Lengths([b, min(b, 8)]), Segments(labels[:, :b]), seen[:, :, a:b, :b])[kind]
                ours, theirs = (layer(x[:, a:b], cache=one, mask=mask) for one in caches)
                found.append(gap(ours, theirs))
    return found


class Model(nn.Module):
    """Words in, the next one's logits out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        rest: dict[str, Any] = {"mask": Causal(), "position": RoPE(), "n_kv_head": 2}
        self.embed, self.last = nn.Embedding(31, D_MODEL), nn.Linear(D_MODEL, 31)
        self.layers = nn.ModuleList(
            MultiheadAttention(D_MODEL, 4, sinks=True, **rest) for _ in range(3)
        )

    def generate(self, words: Tensor, caches: Sequence[KVCache], n: int) -> Tensor:
        new = words
        for _ in range(n):
            x = self.embed(new)
            for layer, cache in zip(self.layers, caches, strict=True):
                x = x + layer(x, cache=cache)
            new = self.last(x[:, -1:]).argmax(-1)
            words = torch.cat((words, new), dim=1)
        return words


def generation() -> tuple[list[list[int]], list[list[int]]]:
    """What is generated greedily by ranks in pairs, and by one process."""
    model = Model().double()
    mesh = init_device_mesh("cpu", (dist.get_world_size() // 2, 2), mesh_dim_names=("copy", "half"))
    pair = Ranks(mesh["half"])
    words = torch.arange(10).view(2, 5)
    ours = model.generate(words, [Spread(pair, block=4) for _ in model.layers], 30)
    return ours.tolist(), model.generate(words, [Dynamic() for _ in model.layers], 30).tolist()


def with_heads() -> float:
    """The heads over one axis of a mesh and the words over the other."""
    layer, x = layers()["window"], random(B, N, D_MODEL)
    mesh = init_device_mesh("cpu", (dist.get_world_size() // 2, 2), mesh_dim_names=("heads", "w"))
    whole = layer(x)
    shared = shard_heads(layer, mesh["heads"])
    return gap(stepped(shared, x, Spread(Ranks(mesh["w"]), 3), (7, 1, 1, 11, 3)), whole)


def samples() -> list[float]:
    """The same done to a Spread and to a Dynamic: after each, three words more."""
    layer, found = layers()["window"], []
    for block in BLOCKS:
        ours: Any = Spread(Ranks(dist.group.WORLD), block)
        theirs: Any = Dynamic()
        for i, do in enumerate(
            (
                lambda cache: cache,
                lambda cache: cache.reorder([1, 0, 1]),
                lambda cache: cache.rewind(4),
                lambda cache: cache.merge(cache.split()[::-1]),
                lambda cache: cache.split()[1],
                copy.deepcopy,
                lambda cache: cache.rewind(0),
            )
        ):
            ours, theirs = (do(cache) or cache for cache in (ours, theirs))
            batch = theirs._batch or B
            for n in (1, 2):
                x = random(batch, n, D_MODEL, seed=10 * i + n)
                found.append(gap(layer(x, cache=ours), layer(x, cache=theirs)))
    return found


def shares() -> dict[int, list[int]]:
    """How many keys this rank keeps after every word, in its pieces."""
    layer, x, found = layers()["grouped"], random(B, N, D_MODEL), {}
    for block in BLOCKS:
        cache, found[block] = Spread(block=block), []
        for word in x.split(1, dim=1):
            layer(word, cache=cache)
            found[block].append(sum(piece.k.shape[2] for piece in cache.held()))
    return found


@contextmanager
def counted() -> Iterator[list[int]]:
    """Counts the bytes that are sent to other ranks."""
    total, plain = [0], messages.swap

    def swap(group: Any, sends: dict[int, list[Tensor]], *rest: Any) -> Any:
        parts = [x for tensors in sends.values() for x in tensors]
        total[0] += sum(x.numel() * x.element_size() for x in parts)
        return plain(group, sends, *rest)

    messages.swap = swap
    try:
        yield total
    finally:
        messages.swap = plain


def sent() -> dict[str, tuple[int, int]]:
    """The bytes of a prefill of 7 words and of one word more, and those of the docstring."""
    others, found, made = dist.get_world_size() - 1, {}, layers()
    for name, widths in (("one key head", (5, 5)), ("window", (4, 4)), ("latent", (2, 5 + 2))):
        for dtype, size in ((torch.float64, 8), (torch.float32, 4), (torch.bfloat16, 4)):
            layer, cache = made[name].to(dtype), Spread(block=2)
            for query_len, d_v in zip((7, 1), widths, strict=True):
                with counted() as total:
                    layer(random(B, query_len, D_MODEL).to(dtype), cache=cache)
                said = others * B * HEADS * query_len * (d_v + 1) * size
                found[f"{name} {dtype} {query_len}"] = total[0], said
    return found


def complaints() -> list[str]:
    """What a rank hears if gradients are asked for, of the keys or of the queries alone."""
    layer = layers()["grouped"]
    heard = []
    for some in (layer.parameters(), layer.WQ.parameters()):
        layer.requires_grad_(False)
        for parameter in some:
            parameter.requires_grad_()
        with torch.enable_grad():
            heard.append(said(lambda: layer(random(B, 3, D_MODEL), cache=Spread())))
    return heard


def said(do: Any) -> str:
    try:
        do()
    except WqkvError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


@torch.no_grad()
def save(folder: str) -> tuple[float, str, str]:
    layer, cache = layers()["grouped"], Spread(block=3)
    layer(random(B, N, D_MODEL), cache=cache)
    cache.save(Path(folder, f"rank{cache.rank}"))
    dist.barrier()
    return load(folder)


@torch.no_grad()
def load(folder: str) -> tuple[float, str, str]:
    """The difference from one process that goes on; what is heard of another rank's file."""
    layer, rank, size = layers()["grouped"], dist.get_rank(), dist.get_world_size()
    mine, other = (Path(folder, f"rank{i}") for i in (rank, (rank + 1) % size))
    wrong = said(lambda: Spread.load(other))
    heard = said(lambda: Spread.load(mine))
    if heard != "nothing":
        return math.nan, heard, wrong
    x = random(B, N + 4, D_MODEL)
    past, rest = random(B, N, D_MODEL), x[:, N:]
    one = Dynamic()
    layer(past, cache=one)
    cache = Spread.load(mine, ranks=Ranks(dist.group.WORLD))
    return gap(layer(rest, cache=cache), layer(rest, cache=one)), heard, wrong
