"""load_recording(path): what `Seen.save` wrote, which answers as the Seen did that was saved."""

from __future__ import annotations

import threading
from os import PathLike
from typing import Any, Self

import torch

from wqkv.doors import door
from wqkv.errors import ArgumentError, need_device
from wqkv.record.kept import KeptLayer, KeptModel, KeptThread, read_recording
from wqkv.record.watch import Layer, Seen


@door
def load_recording(
    path: str | PathLike[str], device: torch.device | str = "cpu"
) -> Seen[Any]:  # of AttentionMap or of Statistics, as the file says
    """Read a recording that `Seen.save` wrote, on any machine: torch and safetensors are enough.

    It is asked as what `watch` returns, and answers with the same bits on a like machine. A map is
    read from the file when it is asked for, so the file stays where it is. It is never unpickled,
    and of damaged numbers no map is made.

    Args:
        device: where the maps compute.

    Raises:
        ArgumentError: no such file, one that is damaged or no recording, or one of a later format;
            a device that is not there.
        MissingExtraError: safetensors is not installed.

    >>> from tempfile import TemporaryDirectory
    >>> from torch import nn
    >>> from wqkv import watch
    >>> layer = nn.TransformerEncoderLayer(24, 4, batch_first=True).eval()
    >>> with torch.no_grad(), watch(layer) as seen:
    ...     _ = layer(torch.randn(1, 5, 24))
    >>> with TemporaryDirectory() as folder:
    ...     seen.save(f"{folder}/seen.safetensors")
    ...     load_recording(f"{folder}/seen.safetensors")[0].entropy().shape
    torch.Size([1, 4, 5])
    """
    return Recording(read_recording(path, need_device(device)))


class Recording(Seen[Any]):
    """A recording out of a file: it answers what the Seen answered that was saved."""

    # What `Seen` asks of its threads and layers, the kept ones answer too.

    def __init__(self, kept: KeptModel) -> None:
        self._file = kept
        self._listeners = [*kept.threads]  # type: ignore[list-item]
        self._only, self._thread, self._exit = None, threading.local(), None

    def __enter__(self) -> Self:
        raise ArgumentError(
            f"This is a recording of {self._name} out of a file, which cannot go on.\n"
            "Call `watch` for another."
        )

    @property
    def _name(self) -> str:
        return self._file.name

    @property
    def _gradients(self) -> bool:
        return self._file.values

    @property
    def _all(self) -> list[KeptLayer]:  # type: ignore[override]
        return [*self._as_kept().layers]

    @property
    def layers(self) -> list[Layer]:
        return [Layer(one.name, one.kind, one.state, one.reason) for one in self._all]

    def _why(self, one: KeptLayer) -> str | None:  # type: ignore[override]
        return one.reason if one.state in ("missed", "not asked for") else None

    def report(self) -> str:
        if self._listener is not None:
            return self._as_kept().report
        return "\n".join(f"thread {one.name}:\n{one.report}" for one in self._file.threads)

    def _as_kept(self) -> KeptThread:
        return self._here  # type: ignore[return-value]
