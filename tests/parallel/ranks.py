"""Run a function on several ranks of gloo, on this machine, and collect what each returns."""

from __future__ import annotations

import gc
import os
import pickle
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.forks import FORKS


def run(
    size: int, job: Callable[..., Any], folder: Path, *args: Any, timeout_s: float = 60
) -> list[Any]:
    """What `job(*args)` returns on every rank (None: it ended); an exception is raised here."""
    arguments = (size, job, str(folder), args, timeout_s)
    mp.start_processes(_rank, arguments, nprocs=size, start_method=FORKS.get_start_method())
    files = [folder / f"rank{rank}" for rank in range(size)]
    return [pickle.loads(file.read_bytes()) if file.exists() else None for file in files]


def _rank(
    rank: int, size: int, job: Callable[..., Any], folder: str, args: Any, timeout_s: float
) -> None:
    torch.set_num_threads(1)
    gc.freeze()  # no collection searches what was imported before the fork
    store = dist.FileStore(f"{folder}/store", size)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=timeout_s)
    )
    try:
        result = job(*args)
        Path(folder, f"rank{rank}").write_bytes(pickle.dumps(result))
    finally:
        dist.destroy_process_group()
    sys.stderr.flush()
    os._exit(0)  # torch's own threads sometimes abort a process that Python takes apart
