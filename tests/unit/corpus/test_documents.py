"""Documents in files, and the chunks they are cut into."""

import json
import os
import re

import pytest

from wqkv.corpus import documents as corpus
from wqkv.corpus.documents import Chunk, Document, chunks, digest, read, text_of
from wqkv.errors import ArgumentError

pa = pytest.importorskip("pyarrow", reason="the survey needs the extra `survey`")
pq = pytest.importorskip("pyarrow.parquet", reason="the survey needs the extra `survey`")


def lines(path, *texts):
    path.write_bytes(b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts))
    return path


def texts(every, field="text"):
    """(name, text) of every document, chunk by chunk."""
    return [[(one.number, text_of(one, field)[0]) for one in read(chunk, field)] for chunk in every]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"text": "Hello."}', ""),
        (b'\xef\xbb\xbf{"text": "Hello."}', ""),  # a mark that some programs begin files with
        (b"Hello.", "not JSON: Expecting value: line 1 column 1 (char 0)"),
        (b"[" * 100_000, "not JSON: maximum recursion depth exceeded"),
        (b'["Hello."]', "not a JSON object: list"),
        (b'{"body": "Hello.", "id": 3}', "no field 'text' among 'body', 'id'"),
        (b"{}", "no field 'text' among none"),
        (b'{"text": 3}', "its 'text' is int, not text"),
        (b'{"text": null}', "its 'text' is NoneType, not text"),
        (b'{"text": " \\n"}', "empty"),
        (b'{"text": "H\xffllo"}', "not UTF-8: byte 0xff at 11"),
        (b'{"text": "\\ud83d"}', "not Unicode: half of a surrogate pair"),
        (b'{"text": "\\ud83d\\ude00 Hello."}', ""),
    ],
)
def test_a_line(line, problem):
    text, found = text_of(Document("a.jsonl", 7, line), "text")
    assert found.startswith(problem) and bool(found) == bool(problem)
    assert text.endswith("Hello.") == (not problem)


def test_lines_keep_their_numbers(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\n{"text": "one"}\n \n\n{"text": "two"}\nthree\n{"text": "four"}')
    every = list(chunks([path], documents=2))
    assert [chunk.documents for chunk in every] == [2, 2]
    assert texts(every) == [[(2, "one"), (5, "two")], [(6, ""), (7, "four")]]


def test_a_chunk_holds_no_more_than_it_may(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "BYTES", 100)
    path = lines(tmp_path / "a.jsonl", *["x" * n for n in (31, 37, 200, 5, 5, 5, 5, 5)])
    every = list(chunks([path], documents=3))
    assert [chunk.documents for chunk in every] == [2, 1, 3, 2]
    assert [len(text) for part in texts(every) for _, text in part] == [31, 37, 200, 5, 5, 5, 5, 5]


def test_a_folder_of_everything(tmp_path):
    (tmp_path / "b/c").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/config").write_text("hidden")
    (tmp_path / "b/c/z.txt").write_bytes(b"\xef\xbb\xbfnine")
    (tmp_path / "b/a.md").write_text("two")
    (tmp_path / "b/bad.txt").write_bytes(b"\xff\xfe")
    lines(tmp_path / "a.jsonl", "one", "more")
    pq.write_table(pa.table({"text": ["three", "four"]}), tmp_path / "t.parquet")
    every = list(chunks([tmp_path], documents=100))
    assert len(every) == 1 and every[0].documents == 7
    found = [
        (one.file.removeprefix(f"{tmp_path}/"), one.number, *text_of(one, "text"))
        for one in read(every[0], "text")
    ]
    assert found == [
        ("a.jsonl", 1, "one", ""),
        ("a.jsonl", 2, "more", ""),
        ("b/a.md", 0, "two", ""),
        ("b/bad.txt", 0, "", "not UTF-8: byte 0xff at 0"),
        ("b/c/z.txt", 0, "nine", ""),
        ("t.parquet", 1, "three", ""),
        ("t.parquet", 2, "four", ""),
    ]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["one", None, "three", "", "five"]),
        pa.array(["one", None, "three", "", "five"]).dictionary_encode(),
        pa.array(["one", None, "three", "", "five"], pa.string_view()),
        pa.array([b"one", None, b"three", b"", b"five"], pa.large_binary()),
    ],
    ids=["string", "dictionary", "view", "binary"],
)
def test_rows_of_a_table(tmp_path, column):
    table = pa.table({"id": range(5), "body": column})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=2)
    every = list(chunks([tmp_path / "t.parquet"], "body", documents=3))
    assert texts(every, "body") == [[(1, "one"), (2, ""), (3, "three")], [(4, ""), (5, "five")]]
    problems = [text_of(one, "body")[1] for chunk in every for one in read(chunk, "body")]
    assert problems == ["", "its 'body' is NoneType, not text", "", "empty", ""]


def test_tables_that_cannot_be_read(tmp_path):
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    raw = pa.Array.from_buffers(pa.string(), 2, [None, *_bytes(b"ok\xff")])
    pq.write_table(pa.table({"text": raw}), tmp_path / "raw.parquet")
    pq.write_table(pa.table({"text": [3, 5]}), tmp_path / "int.parquet")
    (every,) = chunks([tmp_path], documents=100)
    found = [(one.number, *text_of(one, "text")) for one in read(every, "text")]
    assert [(number, text) for number, text, _ in found] == [
        (0, ""),
        (1, ""),
        (2, ""),
        (1, "ok"),
        (2, ""),
    ]
    assert found[0][2].startswith("not Parquet: ")
    assert [problem for _, _, problem in found[1:]] == [
        "its 'text' is int, not text",
        "its 'text' is int, not text",
        "",
        "not UTF-8: byte 0xff at 0",
    ]
    pq.write_table(pa.table({"id": [3], "body": ["x"]}), tmp_path / "int.parquet")
    says = "has no column 'text': it has id, body.\nName the column of the text with --field."
    with pytest.raises(ArgumentError, match=re.escape(says)):
        list(chunks([tmp_path / "int.parquet"]))


def _bytes(data):
    """The buffers of two strings, the last byte being the second."""
    ends = pa.array([0, len(data) - 1, len(data)], pa.int32()).buffers()[1]
    return ends, pa.py_buffer(data)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    """As root, who tests in containers, every file may be read."""
    path = tmp_path / "a.txt"
    path.write_text("secret")
    (chunk,) = chunks([path])

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "read_bytes", refuse)
    (document,) = read(chunk, "text")
    assert text_of(document, "text") == ("", "not readable: Permission denied")


def spoil(path, at, data=b"\xff" * 30):
    """Write over some bytes of a file."""
    held = bytearray(path.read_bytes())
    held[at : at + len(data)] = data
    path.write_bytes(held)


def every(path, documents):
    """The documents of a file, cut into chunks."""
    return [one for chunk in chunks([path], documents=documents) for one in read(chunk, "text")]


PAGED = {"use_dictionary": False, "data_page_size": 512, "write_batch_size": 16}


@pytest.mark.parametrize("compression", ["snappy", "zstd", "none"])
def test_a_damaged_page(tmp_path, compression):
    """The rows before it are read, and so are the other row groups, however chunks are cut."""
    path, rows = tmp_path / f"{compression}.parquet", [f"the cat number {i}" for i in range(300)]
    table = pa.table({"text": rows, "other": rows})
    checked = {"write_page_checksum": True, "row_group_size": 100, "compression": compression}
    pq.write_table(table, path, **PAGED, **checked)
    group = pq.read_metadata(path).row_group(1).column(0)
    spoil(path, group.data_page_offset + group.total_compressed_size * 2 // 3)
    for documents in (7, 128):
        found = [
            one for chunk in chunks([path], documents=documents) for one in read(chunk, "text")
        ]
        assert [one.number for one in found] == [*range(1, 301)]
        lost = [one.number for one in found if one.data is None]
        assert lost == [*range(lost[0], 201)] and 116 < lost[0] < 184
        assert {text_of(one, "text")[1].partition(":")[0] for one in found} == {
            "",
            "damaged Parquet",
        }
        assert [one.data.decode() for one in found if one.data] == rows[: lost[0] - 1] + rows[200:]
    assert [text for _, text in texts(chunks([path], "other", documents=300), "other")[0]] == rows


@pytest.mark.parametrize("where", ["dictionary", "header", "everything"])
def test_a_row_group_of_which_nothing_is_left(tmp_path, where):
    path = tmp_path / f"{where}.parquet"
    pq.write_table(pa.table({"text": [f"row {i % 11}" for i in range(30)]}), path)
    column = pq.read_metadata(path).row_group(0).column(0)
    start, length = column.dictionary_page_offset, column.total_compressed_size
    spoil(
        path,
        start + 25 if where == "dictionary" else start,
        b"\xff" * (length if where == "everything" else 15),
    )
    found = every(path, 7)
    assert [one.number for one in found] == [*range(1, 31)]
    assert all(one.problem.startswith("damaged Parquet: ") and one.data is None for one in found)
    assert all(len(one.problem) <= 200 and "\n" not in one.problem for one in found)


def test_a_file_that_was_replaced(tmp_path):
    """Also within one process, where the last row groups are kept."""
    path = tmp_path / "a.parquet"
    for second, text in enumerate(("one", "two")):
        pq.write_table(pa.table({"text": [text]}), path)
        os.utime(path, (second, second))
        assert [one.data for one in every(path, 7)] == [text.encode()]


def test_a_damaged_schema(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a"]}), path)
    held = path.read_bytes()
    start = held.index(b"ARROW:schema") + 20
    spoil(path, start, b"!" * 40)
    (document,) = every(path, 7)
    assert document.number == 0 and document.problem.startswith("not Parquet: ")


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.txt"])
def test_files_that_cannot_be_read(tmp_path, monkeypatch, name):
    """Each costs itself, and not the others."""
    path = tmp_path / name
    pq.write_table(pa.table({"text": ["secret"]}), tmp_path / "a.parquet")
    lines(tmp_path / "a.jsonl", "secret")
    (tmp_path / "a.txt").write_text("secret")
    lines(tmp_path / "b.jsonl", "public")

    def refuse(*given, **rest):
        if str(given[0]).endswith(name):
            raise PermissionError(13, "Permission denied")
        return known(*given, **rest)

    owner, what = (pq, "read_schema") if name == "a.parquet" else (type(path), "open")
    known = getattr(owner, what)
    for part in ("read_metadata",) if owner is pq else ("read_bytes",):
        monkeypatch.setattr(owner, part, refuse)
    monkeypatch.setattr(owner, what, refuse)
    (chunk,) = chunks([path, tmp_path / "b.jsonl"])
    first, second = read(chunk, "text")
    assert (first.number, first.problem) == (0, "not readable: Permission denied")
    assert text_of(second, "text") == ("public", "")


def test_names_say_what_is_in_it(tmp_path):
    path = lines(tmp_path / "a.jsonl", "one", "two", "three")

    def names(**rest):
        return [chunk.name for chunk in chunks([path], documents=2, **rest)]

    first = names()
    assert names() == first and len({*first}) == 2 and {len(name) for name in first} == {32}
    assert not {*names(key="another model")} & {*first}
    lines(path, "one", "two", "3")
    assert names()[0] == first[0] and names()[1] != first[1]
    moved = lines(tmp_path / "b.jsonl", "one", "two", "three")
    assert next(chunks([moved], documents=2)).name != first[0]
    # what is one document and what is two is not the same
    two, one = [Document("a", 0, b"x"), Document("a", 0, b"y")], [Document("a", 0, b"xy")]
    assert digest(two, "") != digest(one, "") != digest([Document("a", 0, None, "xy")], "k")


def test_the_workers_read_what_was_named(tmp_path):
    path = lines(tmp_path / "a.jsonl", *map(str, range(7)))
    for chunk in chunks([path], key="k", documents=3):
        sent = json.loads(json.dumps(chunk))
        again = Chunk(sent[0], tuple(corpus.FileRange(*part) for part in sent[1]))
        assert again == chunk and digest(read(again, "text"), "k") == chunk.name


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["gone.jsonl"], "There is no file or folder 'gone.jsonl'."),
        ([], "There is no document in nothing."),
        (["empty.jsonl", "folder"], "There is no document in empty.jsonl, folder."),
    ],
)
def test_nothing_to_read(tmp_path, monkeypatch, given, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(ArgumentError, match=re.escape(says)):
        list(chunks(given))
