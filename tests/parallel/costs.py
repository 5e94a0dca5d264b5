"""What every rank computes, sends and holds, for the cost model."""

from __future__ import annotations

import torch.distributed as dist

from benchmarks.ranks import Work, measured

WORK = Work(2048, n_head=8, n_kv_head=2, d=64)


def costs() -> dict[str, dict[str, float]]:
    return measured(WORK, dist.get_world_size(), repeats=1)
