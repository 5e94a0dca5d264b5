"""What a model's heads do over a whole corpus, so that a run that was killed goes on.

Each chunk of documents becomes one part: a Parquet file that is a function of the chunk and the
model alone, named by what it was made of and by its own checksum, and renamed into place when it is
whole. A run makes the parts that are missing or damaged, by itself or with Ray Data, and adds all
parts up.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch

from wqkv.corpus.documents import DOCUMENTS, Chunk, Piece, chunks, digest, read
from wqkv.corpus.sums import Tally, dump, load, merge, parquet
from wqkv.corpus.worker import Reader
from wqkv.errors import ArgumentError, WqkvError, need
from wqkv.study.heads import Heads
from wqkv.study.model import OpenModel, open_model

#: Changes whenever the same documents would give another part.
FORMAT = 1
#: Ray Data is told of progress block by block, and holds so many at most.
BLOCKS = 10_000


class Pace(NamedTuple):
    """What one run made."""

    documents: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Survey:
    """What was found in a corpus: sums over all words, and the label of every head from them."""

    model: str
    source: str
    tally: Tally
    pace: Pace
    damaged: tuple[str, ...] = ()  # the parts that were made again

    @cached_property
    def heads(self) -> Heads:
        return self.tally.label(self.source)


def survey(
    model: str | None,
    data: Sequence[str | Path],
    out: str | Path,
    *,
    field: str = "text",
    workers: int = 1,
    address: str | None = None,
    documents: int = DOCUMENTS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Survey:
    """Read a corpus with a model, and write what its heads do into a folder: heads.parquet,
    examples.parquet, skipped.parquet.

    A part that is there already is not made again, unless it is damaged or altered, which its
    checksum says. Every worker computes with one thread, so that their number does not change the
    numbers.

    Args:
        model: as in `open_model`.
        data: files and folders, as in `corpus.chunks`; `field` too.
        workers: 1 works in this process; more are actors of Ray Data.
        address: of a Ray cluster whose machines all see the model, the data and `out`.
        documents: how many a part holds at most.
        progress: is told how many documents are done, of how many.

    Raises:
        ArgumentError: no documents, none that can be read, no such model.
        MissingExtraError: transformers, pyarrow, or for more workers ray, is not installed.
    """
    for name, number in (("workers", workers), ("documents", documents)):
        if number < 1:
            raise ArgumentError(f"`{name}` is {number}.\nPass 1 or more.")
    need("pyarrow.parquet", "survey", "A survey")
    alone = workers == 1 and address is None
    if not alone:
        _ray()
    opened = open_model(model)
    where, folder = Path(out).resolve(), Path(out).resolve() / "parts"
    folder.mkdir(parents=True, exist_ok=True)
    local = None if model is None else Path(model).expanduser()
    if local is not None and local.exists():
        model = str(local.resolve())
    job = Job(model, f"{FORMAT} {fingerprint(opened)} {field}", field, str(folder))
    every = list(chunks(data, field, key=job.key, documents=documents))
    parts, damaged = job.parts(every)
    for path in damaged:
        path.unlink()
    missing = [chunk for chunk in every if chunk.name not in parts]
    total = sum(chunk.documents for chunk in every)
    done = total - sum(chunk.documents for chunk in missing)
    progress(done, total)
    begun, tokens = time.monotonic(), 0
    made: Iterable[Made] = map(Worker(job, opened).make, missing)
    if not alone and missing:
        made = _on_ray(job, missing, workers, address)
    with _one_thread():
        for one in made:
            done, tokens = done + one.documents, tokens + one.tokens
            progress(done, total)
    pace = Pace(sum(chunk.documents for chunk in missing), tokens, time.monotonic() - begun)
    for left in folder.glob("*.tmp"):  # of runs that were killed
        left.unlink(missing_ok=True)
    parts, _ = job.parts(every)
    for chunk in every:
        if chunk.name not in parts:
            raise ArgumentError(
                f"The part {chunk.name} was changed or removed while the survey ran.\n"
                "Run the command again."
            )
    tally = merge(_loaded(parts[chunk.name]) for chunk in every)
    again = tuple(str(Path(out, "parts", path.name)) for path in damaged)
    found = Survey(opened.name, ", ".join(map(str, data)), tally, pace, again)
    if not tally.heads:
        file, number, reason = tally.skipped[0]
        raise ArgumentError(
            f"None of {total} documents could be read; the first is "
            f"{named(file, number)}: {reason}."
        )
    for table, columns in _tables(found).items():
        write(where / f"{table}.parquet", parquet(columns))
    return found


@dataclass(frozen=True)
class Job:
    """What every worker is told."""

    model: str | None
    key: str  # all that a part depends on besides its documents
    field: str
    folder: str

    def path(self, chunk: str, data: bytes) -> Path:
        """Where the part of a chunk is that holds these bytes."""
        checksum = hashlib.sha256(chunk.encode() + data).hexdigest()[:32]
        return Path(self.folder) / f"{chunk}.{checksum}.parquet"

    def parts(self, chunks: Iterable[Chunk]) -> tuple[dict[str, Path], list[Path]]:
        """The part of each chunk that has one, and the parts of these that were not written so."""
        wanted, whole, damaged = {chunk.name for chunk in chunks}, {}, []
        for path in sorted(Path(self.folder).glob("*.parquet")):
            if (chunk := path.name.partition(".")[0]) not in wanted:
                continue
            if path == self.path(chunk, path.read_bytes()):
                whole[chunk] = path
            else:
                damaged.append(path)
        return whole, damaged


class Made(NamedTuple):
    """One part that was made."""

    documents: int
    tokens: int


class Worker:
    """Makes parts, with a model that is opened once."""

    def __init__(self, job: Job, model: OpenModel | None = None) -> None:
        self.job = job
        self._model = model

    @cached_property
    def reader(self) -> Reader:
        """The model, checked to be the one that the command opened."""
        if self._model is None:
            torch.set_num_threads(1)
            self._model = open_model(self.job.model)
            ours, theirs = fingerprint(self._model), self.job.key.split()[1]
            if ours != theirs:
                raise ArgumentError(
                    f"The model {self._model.name} differs between machines: its digest is {ours} "
                    f"for a worker and {theirs} for the command."
                )
        return Reader(self._model)

    def make(self, chunk: Chunk) -> Made:
        """Read a chunk, and write its part."""
        documents = read(chunk, self.job.field)
        if digest(documents, self.job.key) != chunk.name:
            files = ", ".join(dict.fromkeys(piece.file for piece in chunk.pieces))
            raise ArgumentError(f"{files} changed while it was read.\nRun the command again.")
        tally = self.reader.tally(documents, self.job.field)
        data = dump(tally)
        write(self.job.path(chunk.name, data), data)
        return Made(chunk.documents, tally.tokens)

    def __call__(self, rows: dict[str, Any]) -> dict[str, list[Any]]:
        """One row of Ray Data: a chunk in, what was made of it out."""
        name, pieces = json.loads(rows["chunk"][0])
        try:
            made = self.make(Chunk(name, tuple(Piece(*piece) for piece in pieces)))
        except (WqkvError, OSError) as error:
            return {"documents": [0], "tokens": [0], "error": [str(error)]}
        return {"documents": [made.documents], "tokens": [made.tokens], "error": [""]}


def fingerprint(model: OpenModel) -> str:
    """A digest of a model's numbers, its words, and its sizes."""
    found = hashlib.sha256()
    known = {name: value for name, value in model.config.to_dict().items() if name[0] != "_"}
    known.pop("transformers_version", None)
    found.update(json.dumps(known, sort_keys=True, default=str).encode())
    found.update(json.dumps(sorted(model.tokenizer.get_vocab().items())).encode())
    for name, weights in sorted(model.model.state_dict().items()):
        found.update(name.encode())
        found.update(weights.contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()[:32]


def write(path: Path, data: bytes) -> None:
    """A file that is there whole or not at all."""
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    with unfinished.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def named(file: str, number: int) -> str:
    """A document: `docs.jsonl:17`, or the file that is one."""
    return f"{file}:{number}" if number else file


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _loaded(path: Path) -> Tally:
    try:
        return load(path)
    except Exception as error:  # whatever a file raises that has a checksum and is no part
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise ArgumentError(
            f"The part {path.name} is no part ({reason}).\nRemove {str(path)!r}, and run again."
        ) from error


def _tables(found: Survey) -> dict[str, dict[str, list[Any]]]:
    """The three results as columns."""
    tally, labels = found.tally, {(x.layer, x.head): x.label for x in found.heads.all}
    rows = [(*row, labels[row.layer, row.head]) for row in tally.rows]
    names = ("layer", "head", "measure", "tokens", "mean", "variance", "equal_weights", "histogram")
    links = [
        (*place, rank, one.weight, named(one.file, one.number), one.text, one.query, one.key)
        for place, examples in zip(tally.heads, tally.examples, strict=True)
        for rank, one in enumerate(examples, 1)
    ]
    skipped = [(named(one.file, one.number), one.reason) for one in tally.skipped]
    return {
        "heads": _columns((*names, "label"), rows),
        "examples": _columns(
            ("layer", "head", "rank", "weight", "document", "text", "query", "key"), links
        ),
        "skipped": _columns(("document", "reason"), skipped),
    }


def _columns(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, list[Any]]:
    return {name: [row[at] for row in rows] for at, name in enumerate(names)}


# Ray


def _on_ray(job: Job, missing: list[Chunk], workers: int, address: str | None) -> Iterator[Made]:
    """The same on actors of Ray Data, which restarts those that die."""
    ray, data = _ray()
    ours = not ray.is_initialized()
    if ours:
        own: dict[str, Any] = {
            "num_cpus": workers,
            "include_dashboard": False,
            "object_store_memory": 2**27,
        }
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        with _silent():
            ray.init(address=address, **quiet, **(own if address is None else {}))
    try:
        data.DataContext.get_current().enable_progress_bars = False
        rows = [{"chunk": json.dumps(chunk)} for chunk in missing]
        dataset = data.from_items(rows, override_num_blocks=min(len(rows), BLOCKS))
        done = dataset.map_batches(
            Worker,
            fn_constructor_args=(job,),
            batch_size=1,
            num_cpus=1,
            compute=data.ActorPoolStrategy(size=min(workers, len(missing))),
        )
        for row in done.iter_rows():
            if row["error"]:
                raise ArgumentError(row["error"])
            yield Made(row["documents"], row["tokens"])
    finally:
        if ours:
            ray.shutdown()


@contextmanager
def _silent() -> Iterator[None]:
    """Without what ray's own C++ prints as it starts: that a log level was set."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _ray() -> tuple[Any, Any]:
    """ray and ray.data. Nothing is sent anywhere, and ray's own log lines stay in its files."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    purpose = "A survey with several workers"
    ray, data = need("ray", "survey", purpose), need("ray.data", "survey", purpose)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray, data
