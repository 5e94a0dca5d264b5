"""The documents of a corpus, in chunks that are named by what they hold.

A chunk says where its documents stand, so that any worker can read them again; the same documents
have the same name, whoever cuts them and in which run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from wqkv.errors import ArgumentError, need

#: A chunk holds this many documents; fewer if they hold more bytes. A killed run loses at most the
#: chunks at work.
DOCUMENTS, BYTES = 128, 2**18
LINES, ROWS = (".jsonl", ".ndjson"), ".parquet"


class Document(NamedTuple):
    """One document as it lies in a file: bytes, or why there are none."""

    file: str
    number: int  # its line or row, from 1; 0 is the file itself
    data: bytes | None
    problem: str = ""


class Piece(NamedTuple):
    """Documents that stand side by side in one file."""

    path: str
    file: str  # as it is called
    start: int  # bytes of lines, or rows
    stop: int
    first: int  # the number of the first line or row; 0 is a file that is one document
    documents: int


class Chunk(NamedTuple):
    """Documents that are read together; `name` is a digest of what they hold."""

    name: str
    pieces: tuple[Piece, ...]

    @property
    def documents(self) -> int:
        """How many there are."""
        return sum(piece.documents for piece in self.pieces)


def chunks(
    data: Sequence[str | Path], field: str = "text", *, key: str = "", documents: int = DOCUMENTS
) -> Iterator[Chunk]:
    """The chunks of some files and folders, in order.

    .jsonl holds a document a line and .parquet one a row; any other file is one document. Of a
    folder everything is read but hidden files, sorted by path.

    Args:
        field: the field or column of the text.
        key: what else goes into the names.
        documents: how many a chunk holds at most.

    Raises:
        ArgumentError: nothing there to read, a table without the column.
    """
    held: list[Piece] = []
    count = size = 0
    for piece, length in _pieces(data, field, documents):
        full = count + piece.documents > documents or size + length > BYTES
        if held and full:
            yield _named(held, field, key)
            held, count, size = [], 0, 0
        held, count, size = [*held, piece], count + piece.documents, size + length
    if not held:
        raise ArgumentError(f"There is no document in {', '.join(map(str, data)) or 'nothing'}.")
    yield _named(held, field, key)


def read(chunk: Chunk, field: str) -> list[Document]:
    """The documents of a chunk as they lie there."""
    return [document for piece in chunk.pieces for document in _read(piece, field)]


def text_of(document: Document, field: str) -> tuple[str, str]:
    """(its text, ""), or ("", what is wrong with it).

    >>> text_of(Document("a.jsonl", 1, b'{"text": "Hello."}'), "text")
    ('Hello.', '')
    >>> text_of(Document("a.jsonl", 2, b'{"body": "Hello."}'), "text")
    ('', "no field 'text' among 'body'")
    """
    if document.data is None:
        return "", document.problem
    try:
        text: Any = document.data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return "", f"not UTF-8: byte 0x{document.data[error.start]:02x} at {error.start}"
    if document.file.lower().endswith(LINES):
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            return "", f"not JSON: {error}"
        if not isinstance(record, dict):
            return "", f"not a JSON object: {type(record).__name__}"
        if field not in record:
            return "", f"no field {field!r} among {', '.join(map(repr, record)) or 'none'}"[:200]
        text = record[field]
        if not isinstance(text, str):
            return "", f"its {field!r} is {type(text).__name__}, not text"
        if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
            return "", "not Unicode: half of a surrogate pair"
    return (text, "") if text.strip() else ("", "empty")


# Files


def _pieces(data: Sequence[str | Path], field: str, documents: int) -> Iterator[tuple[Piece, int]]:
    """Pieces of at most so many documents, and their bytes as far as they are known."""
    for path, file in _files(data):
        try:
            if file.lower().endswith(LINES):
                yield from _lines(path, file, documents)
            elif file.lower().endswith(ROWS):
                yield from _rows(path, file, field, documents)
            else:
                yield Piece(str(path), file, 0, 0, 0, 1), path.stat().st_size
        except OSError:  # read once more when it is its turn, and named then
            yield Piece(str(path), file, 0, 0, 0, 1), 0


def _files(data: Sequence[str | Path]) -> Iterator[tuple[Path, str]]:
    """Each file, whole path, and how it is called: as it was given."""
    for given in data:
        path = Path(given)
        if not path.exists():
            raise ArgumentError(f"There is no file or folder {str(given)!r}.")
        for inner in [path] if path.is_file() else sorted(path.rglob("*")):
            hidden = any(part.startswith(".") for part in inner.relative_to(path).parts)
            if inner.is_file() and not hidden:
                # A name may hold bytes that are no UTF-8.
                name = inner.as_posix().encode("utf-8", "backslashreplace").decode()
                yield inner.resolve(), name


def _lines(path: Path, file: str, documents: int) -> Iterator[tuple[Piece, int]]:
    start = end = count = 0
    first = number = 1
    with path.open("rb") as lines:
        for line in lines:
            if count and (count == documents or end - start + len(line) > BYTES):
                yield Piece(str(path), file, start, end, first, count), end - start
                start, first, count = end, number, 0
            end += len(line)
            number += 1
            count += bool(line.strip())
    if count:
        yield Piece(str(path), file, start, end, first, count), end - start


def _rows(path: Path, file: str, field: str, documents: int) -> Iterator[tuple[Piece, int]]:
    parquet, _ = _parquet()
    with _damage():
        schema, total = parquet.read_schema(path), parquet.read_metadata(path).num_rows
    if field not in schema.names:
        raise ArgumentError(
            f"{file} has no column {field!r}: it has {', '.join(schema.names)}.\n"
            "Name the column of the text with --field."
        )
    for start in range(0, total, documents):
        stop = min(start + documents, total)
        yield Piece(str(path), file, start, stop, start + 1, stop - start), 0


def _read(piece: Piece, field: str) -> Iterator[Document]:
    path, file = Path(piece.path), piece.file
    try:
        if file.lower().endswith(ROWS):
            yield from _cells(piece, field)
        elif file.lower().endswith(LINES):
            with path.open("rb") as lines:
                lines.seek(piece.start)
                data = lines.read(piece.stop - piece.start)
            for number, line in enumerate(data.split(b"\n"), piece.first):
                if line.strip():
                    yield Document(file, number, line)
        else:
            yield Document(file, 0, path.read_bytes())
    except OSError as error:
        kind = "not readable" if error.errno else "not Parquet"
        yield Document(file, piece.first, None, f"{kind}: {error.strerror or error}"[:200])


def _cells(piece: Piece, field: str) -> Iterator[Document]:
    """The rows of a piece; those that a damaged page holds, or hides, with what is wrong."""
    changed = Path(piece.path).stat().st_mtime_ns  # what is kept of a file is not of a later one
    groups = _starts(piece.path, changed)
    for group, start in enumerate(groups[:-1]):
        a, b = max(piece.start, start), min(piece.stop, groups[group + 1])
        if a < b:
            cells, damage = _group(piece.path, changed, field, group)
            found: list[Any] = cells.slice(a - start, b - a).to_pylist()
            for number, cell in enumerate(found, a + 1):
                problem = f"its {field!r} is {type(cell).__name__}, not text"
                text = (cell, "") if isinstance(cell, bytes) else (None, problem)
                yield Document(piece.file, number, *text)
            for number in range(a + len(found) + 1, b + 1):
                yield Document(piece.file, number, None, f"damaged Parquet: {damage}"[:200])


@lru_cache(maxsize=2)
def _starts(path: str, changed: int) -> list[int]:
    """The first row of every row group, and the end."""
    with _damage():
        metadata = _parquet()[0].read_metadata(path)
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return [0, *accumulate(sizes)]


@lru_cache(maxsize=2)  # chunks are shorter than row groups
def _group(path: str, changed: int, field: str, group: int) -> tuple[Any, str]:
    """The cells of a row group up to a damaged page, and what is wrong with that."""
    with _damage():
        file = _parquet()[0].ParquetFile(path, page_checksum_verification=True)
    try:
        with _damage():
            cells = file.read_row_group(group, [field]).column(0)
            return _bytes(cells), "fewer rows than it says"
    except OSError as error:
        if error.errno:
            raise
        return _bytes(_before(file, field, group)), str(error)


def _before(file: Any, field: str, group: int) -> Any:
    """The cells before a damaged page, read one by one: a batch that reaches into it is lost."""
    found = []
    with suppress(OSError), _damage():
        for batch in file.iter_batches(1, row_groups=[group], columns=[field]):
            found.append(batch.column(0))
    arrow: Any = need("pyarrow", "survey", "Reading Parquet")
    return arrow.chunked_array(found, None if found else arrow.binary())


def _bytes(cells: Any) -> Any:
    """Texts as bytes, since nobody has checked that they are UTF-8."""
    arrow = _parquet()[1]
    if isinstance(cells.type, arrow.DictionaryType):
        cells = cells.cast(cells.type.value_type)
    text = cells.type in (arrow.string(), arrow.large_string(), arrow.string_view())
    return cells.cast(arrow.large_binary()) if text else cells


@contextmanager
def _damage() -> Iterator[None]:
    """Raise what pyarrow finds wrong with a file as OSError, as it does itself for some of it."""
    try:
        yield
    except (_parquet()[1].ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise OSError(str(error).partition("\n")[0]) from error


def _parquet() -> tuple[Any, Any]:
    purpose = "Reading and writing Parquet"
    return need("pyarrow.parquet", "survey", purpose), need("pyarrow.lib", "survey", purpose)


# Chunks


def _named(pieces: list[Piece], field: str, key: str) -> Chunk:
    chunk = Chunk("", tuple(pieces))
    return chunk._replace(name=digest(read(chunk, field), key))


def digest(documents: Iterable[Document], key: str) -> str:
    """32 hexadecimal digits that stand for documents and for whatever else `key` says."""
    found = hashlib.sha256(key.encode())
    for document in documents:
        data = document.problem.encode() if document.data is None else document.data
        found.update(f"\n{document.file}:{document.number}:{len(data)}\n".encode())
        found.update(data)
    return found.hexdigest()[:32]
