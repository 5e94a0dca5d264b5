"""What one worker of a survey does: read a chunk of documents, and write its part.

A worker runs in this process, or as an actor of Ray Data, which restarts actors that have died.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch

from wqkv.corpus.documents import Chunk, FileRange, digest, read
from wqkv.corpus.reader import Reader
from wqkv.corpus.sums import dump
from wqkv.errors import ArgumentError, WqkvError, need
from wqkv.files import written_whole
from wqkv.sentences.errors import mistake
from wqkv.study.model import OpenModel, open_model

#: Changes whenever the same documents would give another part. 3: it counts what is unread.
FORMAT = 4
#: Ray Data tells its progress block by block; it holds at most so many blocks.
BLOCKS = 10_000


@dataclass(frozen=True)
class Recipe:
    """What all parts of a survey are made with, and the folder they lie in."""

    model: str | None  # as in `open_model`
    fingerprint: str  # of that model
    field: str
    folder: str

    @property
    def key(self) -> str:
        """All that a part depends on besides its documents; it goes into the chunks' names."""
        return f"{FORMAT} {self.fingerprint} {self.field}"

    def path(self, chunk: str, data: bytes) -> Path:
        """Return the path of the part of a chunk that holds these bytes."""
        checksum = hashlib.sha256(chunk.encode() + data).hexdigest()[:32]
        return Path(self.folder) / f"{chunk}.{checksum}.parquet"

    def parts(self, chunks: Iterable[Chunk]) -> tuple[dict[str, Path], list[Path]]:
        """Return the whole parts by their chunks' names, and the damaged parts of these chunks.

        A part is damaged if its bytes do not have the checksum in its name. Parts of other chunks
        (of other documents, models or formats) are left alone.
        """
        wanted, whole, damaged = {chunk.name for chunk in chunks}, {}, []
        for path in sorted(Path(self.folder).glob("*.parquet")):
            if (chunk := path.name.partition(".")[0]) not in wanted:
                continue
            if path == self.path(chunk, path.read_bytes()):
                whole[chunk] = path
            else:
                damaged.append(path)
        return whole, damaged


class Counts(NamedTuple):
    """How many documents and tokens a part has."""

    documents: int
    tokens: int


class Worker:
    """Makes parts with a model that is opened once.

    Args:
        model: the opened model; None opens it when the first part is made, as actors do.
    """

    def __init__(self, recipe: Recipe, model: OpenModel | None = None) -> None:
        self.recipe = recipe
        self._model = model

    @cached_property
    def reader(self) -> Reader:
        """The reader, whose model is checked to be the one that the command opened."""
        if self._model is None:
            torch.set_num_threads(1)
            self._model = open_model(self.recipe.model)
            ours, theirs = fingerprint(self._model), self.recipe.fingerprint
            if ours != theirs:
                raise ArgumentError(
                    mistake("models_differ", model=self._model.name, ours=ours, theirs=theirs)
                )
        return Reader(self._model)

    def make(self, chunk: Chunk) -> Counts:
        """Read a chunk, and write its part."""
        documents = read(chunk, self.recipe.field)
        if digest(documents, self.recipe.key) != chunk.name:
            files = ", ".join(dict.fromkeys(part.file for part in chunk.ranges))
            raise ArgumentError(mistake("data_changed", files=files))
        tally = self.reader.tally(documents, self.recipe.field)
        data = dump(tally)
        write_whole(self.recipe.path(chunk.name, data), data)
        return Counts(chunk.documents, tally.tokens)

    def __call__(self, rows: Mapping[str, Sequence[str]]) -> dict[str, list[int] | list[str]]:
        """Make the part of one row of Ray Data, which passes and takes rows as columns.

        An error goes back as text: raised here, it would reach the user inside Ray's own traceback.
        """
        name, ranges = json.loads(rows["chunk"][0])
        try:
            made = self.make(Chunk(name, tuple(FileRange(*part) for part in ranges)))
        except (WqkvError, OSError) as error:
            return {"documents": [0], "tokens": [0], "error": [str(error)]}
        return {"documents": [made.documents], "tokens": [made.tokens], "error": [""]}


def fingerprint(model: OpenModel) -> str:
    """Return a digest of a model's weights, its vocabulary and its configuration."""
    found = hashlib.sha256()
    known = {name: value for name, value in model.config.to_dict().items() if name[0] != "_"}
    known.pop("transformers_version", None)
    found.update(json.dumps(known, sort_keys=True, default=str).encode())
    found.update(json.dumps(sorted(model.tokenizer.get_vocab().items())).encode())
    for name, weights in sorted(model.model.state_dict().items()):
        found.update(name.encode())
        found.update(weights.contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()[:32]


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, at whatever moment the process dies."""
    with written_whole(path) as unfinished:
        unfinished.write_bytes(data)


# Ray


def make_on_ray(
    recipe: Recipe, chunks: Sequence[Chunk], workers: int, address: str | None
) -> Iterator[Counts]:
    """Make the parts of some chunks on actors of Ray Data, and yield what each part has.

    Args:
        address: of a running Ray cluster; None starts one on this machine, and ends it.
    """
    ray, data = need_ray()
    ours = not ray.is_initialized()
    if ours:
        # Keyword arguments of ray.init, left out if a running cluster is joined: it has its own.
        own: dict[str, Any] = {
            "num_cpus": workers,
            "include_dashboard": False,
            "object_store_memory": 2**27,
        }
        with _stderr_of_libraries_closed():
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level="ERROR",
                **(own if address is None else {}),
            )
    try:
        data.DataContext.get_current().enable_progress_bars = False
        rows = [{"chunk": json.dumps(chunk)} for chunk in chunks]
        dataset = data.from_items(rows, override_num_blocks=min(len(rows), BLOCKS))
        done = dataset.map_batches(
            Worker,
            fn_constructor_args=(recipe,),
            batch_size=1,
            num_cpus=1,
            compute=data.ActorPoolStrategy(size=min(workers, len(chunks))),
        )
        for row in done.iter_rows():
            if row["error"]:
                raise ArgumentError(row["error"])
            yield Counts(row["documents"], row["tokens"])
    finally:
        if ours:
            ray.shutdown()


@contextmanager
def _stderr_of_libraries_closed() -> Iterator[None]:
    """Send what C++ writes to stderr to nowhere: ray prints there that a log level was set."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def need_ray() -> tuple[Any, Any]:
    """Return ray and ray.data, which have no types.

    Ray sends no statistics anywhere, and its own log lines stay in its files.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    purpose = mistake("workers")
    ray, data = need("ray", "survey", purpose), need("ray.data", "survey", purpose)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray, data
