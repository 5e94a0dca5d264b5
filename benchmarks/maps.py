"""python -m benchmarks.maps [--memory] [--save]: what it costs to look.

One thread, processor time, medians, everything in turn; results are compared before they are timed.
Peers that are installed run beside ours. With --memory also: what `watch` adds to a model of
SmolLM2's shape (four of its layers) at 32,768 tokens, each run in a process of its own. The last
line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from benchmarks import contest, peers, report
from wqkv import AttentionMap, Causal, Full, attention, watch
from wqkv.attend.masks.algebra import Mask

HEADS, D = 8, 64


def medians(*functions: Callable[[], object], repeats: int = 7) -> list[float]:
    """Processor seconds of each, run in turn."""
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(repeats + 1):
        for function, found in zip(functions, times, strict=True):
            begun = time.process_time()
            function()
            if turn:
                found.append(time.process_time() - begun)
    return [sorted(found)[repeats // 2] for found in times]


def statistics(length: int, mask: Mask) -> dict[str, float]:
    """Entropy and received weight, a thumbnail and a tile, in fused calls or matrix products."""
    q, k = torch.randn(2, 1, HEADS, length, D).unbind()
    hidden = ~mask.dense(length, length)

    def dense() -> tuple[torch.Tensor, torch.Tensor]:
        weights = (q @ k.mT * D**-0.5).masked_fill(hidden, -torch.inf).softmax(-1)
        return torch.special.entr(weights).sum(-1), weights.sum(2)

    def ours() -> tuple[torch.Tensor, torch.Tensor]:
        m = AttentionMap(q, k, mask=mask)
        return m.entropy(), m.received()

    for a, b in zip(ours(), dense(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    m = AttentionMap(q, k, mask=mask)
    assert m.lse is not None
    tile = slice(length - 512, length)
    hides = torch.zeros(512, 512).masked_fill(hidden[0, 0, -512:, -512:], -torch.inf)
    call, both, whole, small, product, part, bare = medians(
        lambda: attention(q, k, k, mask=mask, return_lse=True),
        ours,
        dense,
        lambda: m.thumbnail(64),
        lambda: q[0, :, tile] @ k[0, :, tile].mT,
        lambda: m[0, :, tile, tile],
        lambda: (q[0, :, tile] @ k[0, :, tile].mT).add_(hides).exp2_(),
    )
    return {
        "entropy + received / fused call": both / call,
        "entropy + received / dense": both / whole,
        "thumbnail(64) / fused call": small / call,
        "tile 512 x 512 / its matrix product": part / product,
        "matrix product, + mask, exp2 / matrix product": bare / product,  # the floor of a tile
    }


def against(length: int) -> dict[str, float]:
    """`watch`, proofs included, with entropy and received, in times and memory of each peer."""
    ready, absent = peers.contestants(length)
    for name, why in absent.items():
        print(f"absent: {name}, {why}", flush=True)
    found = {c.name: contest.measured(c, None) for c in ready}
    ours, memory = found["ours"]
    for name, (theirs, _) in found.items():
        off = contest.difference(theirs, ours)
        assert off <= contest.TOLERANCE, f"{name} is off by {off:.1e}"
    times = contest.race(ready, None, budget_s=5, least=1, most=7)
    rows = {"ms": times["ours"].median * 1e3, "peak MiB": memory.peak / 2**20}
    for name in [name for name in found if name != "ours"]:
        rows[f"time / {name}"] = times["ours"].median / times[name].median
        rows[f"peak memory / {name}"] = memory.peak / found[name][1].peak
    return rows


def million() -> dict[str, float]:
    """Seconds for a row and a tile of a map over 1,000,000 keys (one head)."""
    n = 1_000_000
    q, k = torch.randn(2, 1, 1, n, D).unbind()
    m = AttentionMap(q, k, mask=Causal())
    known = AttentionMap(q, k, mask=Causal(), lse=torch.full((1, 1, n), 14.0))
    row, tile = medians(lambda: m[0, 0, n - 1], lambda: known[0, 0, n - 512 :, n - 512 :])
    return {"row of 1,000,000 keys, seconds": row, "tile 512 x 512 of it, seconds": tile}


TARGETS = {
    "entropy + received / fused call": 2.2,
    "entropy + received / dense": 0.35,
    "thumbnail(64) / fused call": 1.3,
    "tile 512 x 512 / its matrix product": 1.5,
    "row of 1,000,000 keys, seconds": 0.3,
    "tile 512 x 512 of it, seconds": 0.3,
    "watch at 32,768: extra memory / q and k held": 3.0,
}


def one_run(length: int, watched: bool) -> dict[str, int]:
    """One forward of the model, in this process: its peak memory, and the bytes of q and k held."""
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=128,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=4,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=length,
        attn_implementation="sdpa",
    )
    model, ids = AutoModel.from_config(config).eval(), torch.randint(0, 128, (1, length))
    with torch.no_grad():
        if watched:
            with watch(model, layers=[0, 1]) as seen:
                model(ids, use_cache=False)
            print(seen.report(), file=sys.stderr)
        else:
            model(ids, use_cache=False)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"peak": peak, "held": 2 * (9 + 3) * 64 * length * 4}


def memory(length: int = 32_768) -> dict[str, float]:
    runs = []
    for watched in ("0", "1"):
        code = (
            "from benchmarks.maps import *; torch.set_num_threads(1); "
            f"print(json.dumps(one_run({length}, {watched})))"
        )
        done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"watched={watched}: peak {runs[-1]['peak'] / 2**20:.0f} MiB", flush=True)
    extra = runs[1]["peak"] - runs[0]["peak"]
    return {"watch at 32,768: extra memory / q and k held": extra / runs[1]["held"]}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.maps")
    parser.add_argument("--memory", action="store_true", help="the model at 32,768 tokens, minutes")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, dict[str, float]] = {}
    for name, run in {
        "2048 causal": lambda: statistics(2048, Causal()),
        "2048 full": lambda: statistics(2048, Full()),
        "4096 causal": lambda: statistics(4096, Causal()),
        "1,000,000 keys": million,
        "watch 256": lambda: against(256),
        "watch 2048": lambda: against(2048),
        **({"watch": memory} if options.memory else {}),
    }.items():
        rows[name] = run()
        for what, value in rows[name].items():
            most = TARGETS.get(what)
            verdict = f"<= {most}  {'pass' if value <= most else 'FAIL'}" if most else ""
            print(f"{name:<15} {what:<45} {value:8.3f} {verdict}", flush=True)
    report.record("maps", {"targets": TARGETS, "rows": rows}, save=options.save)
    return 0


if __name__ == "__main__":
    sys.exit(main())
