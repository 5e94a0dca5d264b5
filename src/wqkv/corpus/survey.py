"""What a model's heads do over a whole corpus. A run that was killed resumes where it was.

Each chunk of documents becomes one part: a Parquet file with the tally of the chunk. A part depends
on the chunk and the model alone, its name holds a digest of both and its own checksum, and it gets
that name only when it is whole. A run makes the parts that are missing or damaged, and adds all
parts up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch

from wqkv.corpus.documents import DOCUMENTS, chunks, document_name
from wqkv.corpus.sums import Columns, Tally, load, merge, parquet
from wqkv.corpus.worker import (
    Counts,
    Recipe,
    Worker,
    fingerprint,
    make_on_ray,
    need_ray,
    write_whole,
)
from wqkv.errors import ArgumentError, need
from wqkv.sentences.errors import mistake
from wqkv.study.heads import Heads
from wqkv.study.model import open_model


class Pace(NamedTuple):
    """How much one run read, and in how many seconds. Parts of earlier runs do not count."""

    documents: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Survey:
    """What was found in a corpus: sums over all tokens, and the label of every head from them."""

    model: str
    source: str
    tally: Tally
    pace: Pace
    damaged: tuple[str, ...] = ()  # the parts that were made again

    @cached_property
    def heads(self) -> Heads:
        """Every head with its label, its scores and its evidence."""
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

    A part that is there already is not made again, unless it was damaged or altered, which its
    checksum tells. Every worker computes with one thread, so the number of workers does not change
    the numbers.

    Args:
        model: as in `open_model`.
        data: files and folders, as in `documents.chunks`; `field` too.
        workers: 1 works in this process; more are actors of Ray Data.
        address: of a Ray cluster whose machines all see the model, the data and `out`.
        documents: how many a part holds at most.
        progress: is called with the number of documents that are done, and of all.

    Raises:
        ArgumentError: no documents, none that can be read, no such model.
        MissingExtraError: transformers, pyarrow, or for more workers ray, is not installed.
    """
    for name, number in (("workers", workers), ("documents", documents)):
        if number < 1:
            raise ArgumentError(mistake("too_few", name=name, number=number))
    need("pyarrow.parquet", "survey", mistake("survey"))
    alone = workers == 1 and address is None
    if not alone:
        need_ray()  # before the model is opened, which may take minutes
    opened = open_model(model)
    folder = Path(out).resolve() / "parts"
    folder.mkdir(parents=True, exist_ok=True)
    local = None if model is None else Path(model).expanduser()
    if local is not None and local.exists():
        model = str(local.resolve())  # workers may run in another folder
    recipe = Recipe(model, fingerprint(opened), field, str(folder))
    every = list(chunks(data, field, key=recipe.key, documents=documents))
    parts, damaged = recipe.parts(every)
    for path in damaged:
        path.unlink()
    missing = [chunk for chunk in every if chunk.name not in parts]
    total = sum(chunk.documents for chunk in every)
    done = total - sum(chunk.documents for chunk in missing)
    progress(done, total)
    begun, tokens = time.monotonic(), 0
    made: Iterable[Counts] = map(Worker(recipe, opened).make, missing)
    if not alone and missing:
        made = make_on_ray(recipe, missing, workers, address)
    with _one_thread():
        for one in made:
            done, tokens = done + one.documents, tokens + one.tokens
            progress(done, total)
    pace = Pace(sum(chunk.documents for chunk in missing), tokens, time.monotonic() - begun)
    for left in folder.glob("*.tmp"):  # of runs that were killed
        left.unlink(missing_ok=True)
    parts, _ = recipe.parts(every)
    for chunk in every:
        if chunk.name not in parts:
            raise ArgumentError(mistake("part_gone", part=chunk.name))
    tally = merge(_load_part(parts[chunk.name]) for chunk in every)
    if not tally.heads:
        file, number, reason = tally.skipped[0]
        name = document_name(file, number)
        raise ArgumentError(mistake("none_read", count=total, name=name, reason=reason))
    again = tuple(str(Path(out, "parts", path.name)) for path in damaged)
    found = Survey(opened.name, ", ".join(map(str, data)), tally, pace, again)
    for table, columns in _tables(found).items():
        write_whole(folder.parent / f"{table}.parquet", parquet(columns))
    return found


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _load_part(path: Path) -> Tally:
    try:
        return load(path)
    except Exception as error:  # a file with a right checksum that is no part may raise anything
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise ArgumentError(
            mistake("not_a_part", part=path.name, reason=reason, path=str(path))
        ) from error


# Results


def _tables(found: Survey) -> dict[str, Columns]:
    """The columns of the three result files, by the files' names."""
    tally, labels = found.tally, {(x.layer, x.head): x.label for x in found.heads.all}
    measures = [(*one, labels[one.layer, one.head]) for one in tally.measures]
    names = ("layer", "head", "measure", "tokens", "mean", "variance", "equal_weights", "histogram")
    links = [
        (*place, rank, x.weight, document_name(x.file, x.number), x.text, x.query, x.key)
        for place, examples in zip(tally.heads, tally.examples, strict=True)
        for rank, x in enumerate(examples, 1)
    ]
    skipped = [(document_name(one.file, one.number), one.reason) for one in tally.skipped]
    return {
        "heads": _columns((*names, "label"), measures),
        "examples": _columns(
            ("layer", "head", "rank", "weight", "document", "text", "query", "key"), links
        ),
        "skipped": _columns(("document", "reason"), skipped),
    }


def _columns(names: Sequence[str], rows: Sequence[Sequence[object]]) -> Columns:
    return {name: [row[at] for row in rows] for at, name in enumerate(names)}
