"""Files that are there whole or not at all, at whatever moment the process dies."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a path to write to; what is there gets the name `path` when the context ends well.

    If it ends with an error, a file that had the name before stays as it was.
    """
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield unfinished
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())  # else the new name could reach the disk before the bytes
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
