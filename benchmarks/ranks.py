"""python -m benchmarks.ranks [--length N] [--save] [--gpus]: attention over processes.

Causal attention over 1, 2 and 4 processes of this machine (gloo, one thread each), by the clock,
beside what the cost model of docs/scale.md says for them. --gpus prints the model for GPUs instead.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from benchmarks import contest, report
from tests.parallel import ranks
from wqkv import AllToAll, Causal, Ring, attention
from wqkv.attend.call import request
from wqkv.attend.parallel import messages, traffic
from wqkv.attend.parallel.ranks import Ranks

REPEATS = 5
WAYS: dict[str, type[Ranks]] = {"Ring": Ring, "AllToAll": AllToAll}


@dataclass(frozen=True)
class Work:
    """One causal forward pass of one layer's attention over a text."""

    length: int
    n_head: int
    n_kv_head: int
    d: int
    size_of: int = 4  # bytes a number

    @property
    def flops(self) -> float:
        """Two products of d multiplications and additions, for each pair of tokens that see."""
        return 4 * self.n_head * self.d * self.length * (self.length + 1) / 2


@dataclass(frozen=True)
class Machine:
    """One rank: what it computes and sends in a second."""

    flops: float
    sent: float  # bytes, one way


class Cost(NamedTuple):
    """What the busiest rank does."""

    flops: float
    sent: int
    memory: int
    seconds: float


def cost(work: Work, size: int, way: str, machine: Machine) -> Cost:
    """The model of docs/scale.md. A ring sends while it computes; heads travel before and after."""
    share, e = work.length // size, work.size_of
    heads, kv = work.n_head, work.n_kv_head
    pair = 2 * work.d * e  # bytes of a key and its value, or of a query and its result
    held = share * (heads + kv) * pair
    flops = work.flops / size
    if way == "Ring":
        sent = (size - 1) * share * kv * pair
        memory = held + share * heads * (work.d + 1) * 4  # the merged result, float32, and its lse
        memory += min(2, size - 1) * share * kv * pair  # keys that are here, keys on their way
        return Cost(flops, sent, memory, max(flops / machine.flops, sent / machine.sent))
    own = max(kv // size, 1)
    sent = (size - 1) * share * (heads // size + own) * pair
    memory = held + (work.length * (heads // size + own) * pair if size > 1 else 0)
    return Cost(flops, sent, memory, flops / machine.flops + sent / machine.sent)


# Measured on this machine


def spawned(work: Work, size: int) -> dict[str, Any]:
    """Each way on so many processes: seconds of the slowest, bytes and memory of the busiest."""
    with tempfile.TemporaryDirectory() as folder:
        found = ranks.run(size, measured, Path(folder), work, size)
    return {
        way: {name: max(one[way][name] for one in found) for name in found[0][way]}
        for way in found[0]
    }


def measured(work: Work, size: int, repeats: int = REPEATS) -> dict[str, dict[str, float]]:
    """What this rank says of each way, and of its link to the next."""
    torch.manual_seed(3)
    share, group = work.length // size, dist.group.WORLD
    assert group is not None
    q, k, v = (
        torch.randn(1, heads, share, work.d) for heads in (work.n_head, *[work.n_kv_head] * 2)
    )
    found = {}
    for name, kind in WAYS.items():
        mesh = kind(None, "zigzag" if size > 1 else "contiguous")
        run = contest.Contestant(
            name, lambda mesh=mesh: attention(q, k, v, mask=Causal(), mesh=mesh)
        )
        run.step(None)
        _, memory = contest.measured(run, None)
        call = request(q, k, v, mask=Causal(), ranks=size)
        found[name] = {
            "seconds": _seconds(lambda run=run: run.step(None), repeats),
            "sent_bytes": traffic(call, mesh)[name],
            "held_bytes": sum(x.nbytes for x in (q, k, v)) + memory.peak,
        }
    if size > 1:
        part, (before, after) = k.flatten(), ((dist.get_rank() + step) % size for step in (-1, 1))
        sends, shapes = {after: [part]}, {before: [part.shape]}

        def send() -> None:
            messages.swap(group, sends, shapes, part.dtype, part.device)()

        found["link"] = {"bytes_a_second": part.nbytes / _seconds(send, repeats)}
    return found


def _seconds(work: Any, repeats: int) -> float:
    """The median by the clock, all ranks beginning together."""
    taken = []
    for turn in range(repeats + 1):
        dist.barrier()
        begun = time.perf_counter()
        work()
        if turn:
            taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


# The model for GPUs

#: bfloat16: half of the 989 TFLOP/s of an H100 (NVIDIA's data sheet, without sparsity); NVLink's
#: 450 GB/s one way within 8 GPUs, 400 Gbit/s a GPU between such machines.
NEAR, FAR = Machine(989e12 / 2, 450e9), Machine(989e12 / 2, 50e9)
GPUS = (8, 16, 32, 64, 128, 256, 512, 1024)
LONG = Work(2**20, n_head=32, n_kv_head=8, d=128, size_of=2)


def gpus() -> list[dict[str, float | str]]:
    """Compute what the cost model says of one layer's attention: forward, 2^20 tokens."""
    rows: list[dict[str, float | str]] = []
    for size in GPUS:
        for way in WAYS:
            if way == "AllToAll" and size > LONG.n_head:
                continue  # no head for every rank
            found = cost(LONG, size, way, NEAR if size <= 8 else FAR)
            rows.append({"GPUs": size, "way": way, **found._asdict()})
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ranks")
    parser.add_argument("--length", type=int, default=8192, help="tokens of the text (8192)")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/")
    parser.add_argument("--gpus", action="store_true", help="print the model for GPUs, and end")
    options = parser.parse_args(argv)
    if options.gpus:
        rows = gpus()
        for row in rows:
            print(
                f"{row['GPUs']:>5} {row['way']:<9} {float(row['flops']) / 1e12:8.1f} TFLOP "
                f"{float(row['sent']) / 2**20:8.0f} MiB sent {float(row['memory']) / 2**20:8.0f} "
                f"MiB held {float(row['seconds']) * 1e3:8.1f} ms"
            )
        print(json.dumps({"work": asdict(LONG), "rows": rows}))
        return 0
    work, cores = Work(options.length, n_head=8, n_kv_head=2, d=64), os.cpu_count() or 1
    rows, speed = [], 0.0
    for size in (1, 2, 4):
        found = spawned(work, size)
        if size == 1:
            speed = work.flops / found["Ring"]["seconds"]
        link = found.pop("link", {"bytes_a_second": float("inf")})["bytes_a_second"]
        machine = Machine(speed / max(1, size / cores), link)
        for way, row in found.items():
            said = cost(work, size, way, machine)
            rows.append({"processes": size, "way": way, **row, "model": said._asdict()})
            print(
                f"{size} {way:<9} {row['seconds']:7.3f} s (model {said.seconds:7.3f})  "
                f"{row['sent_bytes'] / 2**20:6.2f} MiB sent (model {said.sent / 2**20:6.2f})  "
                f"{row['held_bytes'] / 2**20:6.2f} MiB held (model {said.memory / 2**20:6.2f})",
                flush=True,
            )
    whole = {"work": asdict(work), "cores": cores, "rows": rows}
    report.record("ranks", whole, save=options.save)
    return 0


if __name__ == "__main__":
    sys.exit(main())
