"""The command, which kills itself where it writes a file.

It dies in the file of a given number, counted from 1. WHERE is `half`, with half of the file's
bytes on the disk, or `whole`, before the file gets its name.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import torch

from wqkv.cli import main

sync = os.fsync  # what every file that is written goes through, before it gets its name


def die(descriptor: int, where: str) -> NoReturn:
    if where == "half":
        os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("killed, and alive")


def dying(where: str, number: int) -> Callable[[int], None]:
    """Dies with file number so and so, from 1."""
    count = 0

    def fsync(descriptor: int) -> None:
        nonlocal count
        count += 1
        if count == number:
            die(descriptor, where)
        sync(descriptor)

    return fsync


def worker() -> None:
    """In every worker of ray: each says that it works, and one dies in mid-write."""
    folder = Path(os.environ["WQKV_DOOM"])

    def fsync(descriptor: int) -> None:
        (folder / str(os.getpid())).touch()
        try:
            (folder / "doom").unlink()
        except FileNotFoundError:
            sync(descriptor)
        else:
            die(descriptor, "half")

    os.fsync = fsync


def command(arguments: list[str], where: str = "whole", number: int = 0) -> None:
    """Run in a process of its own, and of its own group; number 0 is never reached."""
    os.setsid()
    torch.set_num_threads(1)
    os.fsync = dying(where, number)
    sys.exit(main(arguments))
