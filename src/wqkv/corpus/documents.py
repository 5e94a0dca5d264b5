"""The documents of a corpus, in chunks that are named by what they hold.

A chunk says where its documents stand, so that any worker can read them again. Its name is a digest
of the documents, so equal documents have equal names, in whichever run and process.
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
from wqkv.sentences.errors import mistake

#: How many documents a chunk holds at most. A killed run loses at most one chunk of each worker.
DOCUMENTS = 128
#: How many bytes a chunk holds at most, if it has more than one document.
BYTES = 2**18
#: The suffixes of files with one document per line, and of files with one per row.
LINES, ROWS = (".jsonl", ".ndjson"), ".parquet"


class Document(NamedTuple):
    """One document as it lies in a file: its bytes, or None and the reason."""

    file: str  # as it was named on the command line
    number: int  # its line or row, from 1; 0 is the file itself
    data: bytes | None
    problem: str = ""


class FileRange(NamedTuple):
    """Documents that stand side by side in one file."""

    path: str  # absolute
    file: str  # as it was named on the command line
    start: int  # in bytes for a file of lines, in rows for Parquet
    stop: int
    first: int  # the number of the first line or row; 0 is a file that is one document
    documents: int


class Chunk(NamedTuple):
    """Documents that are read together; `name` is a digest of what they hold."""

    name: str
    ranges: tuple[FileRange, ...]

    @property
    def documents(self) -> int:
        """How many documents it has."""
        return sum(part.documents for part in self.ranges)


def chunks(
    data: Sequence[str | Path], field: str = "text", *, key: str = "", documents: int = DOCUMENTS
) -> Iterator[Chunk]:
    """Yield the documents of files and folders as chunks, in order.

    A .jsonl or .ndjson file holds one document per line, a .parquet file one per row; any other
    file is one document. A folder stands for all its files but hidden ones, sorted by path.

    Args:
        field: the field of a line, or the column of a row, that holds the text.
        key: a text that goes into the chunks' names beside their documents.
        documents: how many a chunk holds at most.

    Raises:
        ArgumentError: there is nothing to read, or a table lacks the column.
    """
    held: list[FileRange] = []
    count = size = 0
    for part, length in _ranges(data, field, documents):
        full = count + part.documents > documents or size + length > BYTES
        if held and full:
            yield _chunk(held, field, key)
            held, count, size = [], 0, 0
        held, count, size = [*held, part], count + part.documents, size + length
    if not held:
        given = ", ".join(map(str, data)) or mistake("nothing")
        raise ArgumentError(mistake("no_document", data=given))
    yield _chunk(held, field, key)


def read(chunk: Chunk, field: str) -> list[Document]:
    """Read the documents of a chunk from their files."""
    return [document for part in chunk.ranges for document in _read(part, field)]


def text_of(document: Document, field: str) -> tuple[str, str]:
    """Return (its text, ""), or ("", what is wrong with it).

    >>> text_of(Document("a.jsonl", 1, b'{"text": "Hello."}'), "text")
    ('Hello.', '')
    >>> text_of(Document("a.jsonl", 2, b'{"body": "Hello."}'), "text")
    ('', "no field 'text' among 'body'")
    """
    if document.data is None:
        return "", document.problem
    try:
        text = document.data.decode("utf-8-sig")
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
        value = record[field]
        if not isinstance(value, str):
            return "", f"its {field!r} is {type(value).__name__}, not text"
        text = value
        if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
            return "", "not Unicode: half of a surrogate pair"
    return (text, "") if text.strip() else ("", "empty")


def document_name(file: str, number: int) -> str:
    """Return how a document is called: `docs.jsonl:17`, or its file if that is one document."""
    return f"{file}:{number}" if number else file


# Files


def _ranges(
    data: Sequence[str | Path], field: str, documents: int
) -> Iterator[tuple[FileRange, int]]:
    """Yield ranges of at most so many documents, each with its bytes, or 0 if they are unknown."""
    for path, file in _files(data):
        try:
            if file.lower().endswith(LINES):
                yield from _line_ranges(path, file, documents)
            elif file.lower().endswith(ROWS):
                yield from _row_ranges(path, file, field, documents)
            else:
                yield FileRange(str(path), file, 0, 0, 0, 1), path.stat().st_size
        except OSError:  # `read` meets the same error again, and names the file as skipped then
            yield FileRange(str(path), file, 0, 0, 0, 1), 0


def _files(data: Sequence[str | Path]) -> Iterator[tuple[Path, str]]:
    """Yield the absolute path of every file, and its name as it was given."""
    for given in data:
        path = Path(given)
        if not path.exists():
            raise ArgumentError(mistake("no_path", path=str(given)))
        for inner in [path] if path.is_file() else sorted(path.rglob("*")):
            hidden = any(part.startswith(".") for part in inner.relative_to(path).parts)
            if inner.is_file() and not hidden:
                # A file's name may hold bytes that are not UTF-8.
                name = inner.as_posix().encode("utf-8", "backslashreplace").decode()
                yield inner.resolve(), name


def _line_ranges(path: Path, file: str, documents: int) -> Iterator[tuple[FileRange, int]]:
    start = end = count = 0
    first = number = 1
    with path.open("rb") as lines:
        for line in lines:
            if count and (count == documents or end - start + len(line) > BYTES):
                yield FileRange(str(path), file, start, end, first, count), end - start
                start, first, count = end, number, 0
            end += len(line)
            number += 1
            count += bool(line.strip())
    if count:
        yield FileRange(str(path), file, start, end, first, count), end - start


def _row_ranges(
    path: Path, file: str, field: str, documents: int
) -> Iterator[tuple[FileRange, int]]:
    parquet, _ = _parquet()
    with _damage():
        schema, total = parquet.read_schema(path), parquet.read_metadata(path).num_rows
    if field not in schema.names:
        columns = ", ".join(schema.names)
        raise ArgumentError(mistake("no_column", file=file, field=field, columns=columns))
    for start in range(0, total, documents):
        stop = min(start + documents, total)
        yield FileRange(str(path), file, start, stop, start + 1, stop - start), 0


def _read(part: FileRange, field: str) -> Iterator[Document]:
    path, file = Path(part.path), part.file
    try:
        if file.lower().endswith(ROWS):
            yield from _row_documents(part, field)
        elif file.lower().endswith(LINES):
            with path.open("rb") as lines:
                lines.seek(part.start)
                data = lines.read(part.stop - part.start)
            for number, line in enumerate(data.split(b"\n"), part.first):
                if line.strip():
                    yield Document(file, number, line)
        else:
            yield Document(file, 0, path.read_bytes())
    except OSError as error:
        # `_damage` turns what pyarrow finds wrong into an OSError without a number.
        kind = "not readable" if error.errno else "not Parquet"
        yield Document(file, part.first, None, f"{kind}: {error.strerror or error}"[:200])


def _row_documents(part: FileRange, field: str) -> Iterator[Document]:
    """Yield the rows of a range. Rows in a damaged page, or after it in its group, have a problem.

    A page is what Parquet compresses as a whole; a row group is many pages of each column.
    """
    changed = Path(part.path).stat().st_mtime_ns  # a part of the caches' keys, see `_cells`
    starts = _group_starts(part.path, changed)
    for group, start in enumerate(starts[:-1]):
        a, b = max(part.start, start), min(part.stop, starts[group + 1])
        if a < b:
            cells, damage = _cells(part.path, changed, field, group)
            found: list[object] = cells.slice(a - start, b - a).to_pylist()
            for number, cell in enumerate(found, a + 1):
                problem = f"its {field!r} is {type(cell).__name__}, not text"
                text = (cell, "") if isinstance(cell, bytes) else (None, problem)
                yield Document(part.file, number, *text)
            for number in range(a + len(found) + 1, b + 1):
                yield Document(part.file, number, None, f"damaged Parquet: {damage}"[:200])


@lru_cache(maxsize=2)
def _group_starts(path: str, changed: int) -> list[int]:
    """The first row of every row group, and the number of rows."""
    with _damage():
        metadata = _parquet()[0].read_metadata(path)
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return [0, *accumulate(sizes)]


# Typed as Any below: pyarrow has no types.


@lru_cache(maxsize=2)  # a row group holds several chunks, which are read one after the other
def _cells(path: str, changed: int, field: str, group: int) -> tuple[Any, str]:
    """The cells of a row group up to a damaged page, and what is wrong with that page.

    `changed` is the time of the file's last change: a cell that is cached is not read from a file
    that was written since.
    """
    with _damage():
        file = _parquet()[0].ParquetFile(path, page_checksum_verification=True)
    try:
        with _damage():
            cells = file.read_row_group(group, [field]).column(0)
            return _as_bytes(cells), "fewer rows than it says"
    except OSError as error:
        if error.errno:
            raise
        return _as_bytes(_cells_before_damage(file, field, group)), str(error)


def _cells_before_damage(file: Any, field: str, group: int) -> Any:
    """The cells before a damaged page, read one by one: pyarrow gives nothing of a larger batch."""
    found = []
    with suppress(OSError), _damage():
        for batch in file.iter_batches(1, row_groups=[group], columns=[field]):
            found.append(batch.column(0))
    arrow: Any = need("pyarrow", "survey", mistake("parquet"))
    return arrow.chunked_array(found, None if found else arrow.binary())


def _as_bytes(cells: Any) -> Any:
    """Texts as bytes, because pyarrow has not checked that they are UTF-8."""
    arrow = _parquet()[1]
    if isinstance(cells.type, arrow.DictionaryType):
        cells = cells.cast(cells.type.value_type)
    text = cells.type in (arrow.string(), arrow.large_string(), arrow.string_view())
    return cells.cast(arrow.large_binary()) if text else cells


@contextmanager
def _damage() -> Iterator[None]:
    """Raise what pyarrow finds wrong with a file as an OSError without a number, in one line."""
    try:
        yield
    except (_parquet()[1].ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise OSError(str(error).partition("\n")[0]) from error


def _parquet() -> tuple[Any, Any]:
    purpose = mistake("parquet")
    return need("pyarrow.parquet", "survey", purpose), need("pyarrow.lib", "survey", purpose)


# Chunks


def _chunk(ranges: list[FileRange], field: str, key: str) -> Chunk:
    chunk = Chunk("", tuple(ranges))
    return chunk._replace(name=digest(read(chunk, field), key))


def digest(documents: Iterable[Document], key: str) -> str:
    """Return 32 hexadecimal digits that differ where the documents or `key` do."""
    found = hashlib.sha256(key.encode())
    for document in documents:
        data = document.problem.encode() if document.data is None else document.data
        found.update(f"\n{document.file}:{document.number}:{len(data)}\n".encode())
        found.update(data)
    return found.hexdigest()[:32]
