"""A survey in one process: what is read, what is kept, and what is made again."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from tests.survey.corpora import BROKEN, LINES
from wqkv.corpus import survey as surveyed
from wqkv.corpus import worker
from wqkv.corpus.measures import MEASURES
from wqkv.corpus.sums import load
from wqkv.corpus.survey import survey
from wqkv.corpus.worker import Recipe, Worker, fingerprint
from wqkv.errors import ArgumentError, MissingExtraError
from wqkv.study import heads, tokens
from wqkv.study.model import open_model
from wqkv.study.patterns import RELATIONS, SURVEYED

pa = pytest.importorskip("pyarrow", reason="the survey needs the extra `survey`")
pc = pytest.importorskip("pyarrow.compute", reason="the survey needs the extra `survey`")
pq = pytest.importorskip("pyarrow.parquet", reason="the survey needs the extra `survey`")
TABLES = ("heads", "examples", "skipped")


def tables(out):
    return {name: (Path(out) / f"{name}.parquet").read_bytes() for name in TABLES}


def test_what_was_read(whole, data):
    tally = whole.tally
    assert tally.documents == LINES - len(BROKEN)
    assert tally.windows > tally.documents  # texts of more than 53 tokens were cut
    assert [(one.file, one.number, one.reason) for one in tally.skipped] == [
        (data, number, reason) for number, (_, reason) in BROKEN.items()
    ]
    assert tally.heads == tuple((layer, head) for layer in range(2) for head in range(6))
    assert whole.pace.documents == LINES and whole.pace.tokens == tally.tokens
    assert whole.model == "model" and whole.heads.source == data


def test_the_sums_are_those_of_heads(whole, data, opened):
    """Over all documents, each read by itself, without batches, chunks and Parquet."""
    texts = [
        json.loads(text)["text"]
        for number, text in enumerate(Path(data).read_bytes().splitlines(), 1)
        if number not in BROKEN
    ]
    alone = heads.read(opened, texts)
    assert whole.heads.tokens == alone.tokens
    for ours, theirs in zip(whole.heads.all, alone.all, strict=True):
        assert ours.label == theirs.label or theirs.label in (*RELATIONS, "rare token")
        for name in SURVEYED:
            score = theirs.scores[name]
            assert (score is None) == (ours.scores[name] is None)
            if score is not None:
                assert ours.scores[name].tokens == score.tokens
                assert ours.scores[name].value == pytest.approx(score.value, rel=1e-5)


def test_the_tables(whole, folder):
    rows = pq.read_table(folder / "whole/heads.parquet").to_pylist()
    assert len(rows) == 2 * 6 * len(MEASURES)
    for row, known in zip(rows, whole.tally.measures, strict=True):
        assert (row["layer"], row["head"], row["measure"]) == known[:3]
        assert (row["tokens"], row["mean"], row["variance"]) == known[3:6]
        assert sum(row["histogram"]) == row["tokens"]
        assert row["label"] == whole.heads[row["layer"]][row["head"]].label
    links = pq.read_table(folder / "whole/examples.parquet").to_pylist()
    assert {(row["layer"], row["head"]) for row in links} == {*whole.tally.heads}
    assert {row["rank"] for row in links} == {1, 2, 3, 4, 5}
    skipped = pq.read_table(folder / "whole/skipped.parquet").to_pylist()
    assert [row["document"].rpartition(":")[2] for row in skipped] == [*map(str, BROKEN)]


def test_examples_are_where_they_say(whole, opened, data):
    """The words of every example, looked up in the map of its document."""
    texts = Path(data).read_bytes().splitlines()
    seen = 0
    for (layer, head), row in zip(whole.tally.heads, whole.tally.examples, strict=True):
        assert len({one.number for one in row}) == len(row)  # one a document
        assert [one.weight for one in row] == sorted((one.weight for one in row), reverse=True)
        for one in row:
            text = json.loads(texts[one.number - 1])["text"]
            query, key = (one.text[slice(*span)] for span in (one.query, one.key))
            assert one.text.split(" ... ")[0] in text
            best = -1.0
            for ids, _, _ in tokens.windows(opened.tokenizer, text, opened.longest):
                words = opened.tokenizer.convert_ids_to_tokens(ids)
                m = heads.record_maps(opened, ids)[layer][0, head]
                pairs = [
                    (i, j)
                    for i, w in enumerate(words)
                    if w == query
                    for j, k in enumerate(words)
                    if k == key and j
                ]
                best = max([best, *(float(m[i, j]) for i, j in pairs)])
            assert one.weight == pytest.approx(best, rel=1e-5)
            seen += 1
    assert seen == 12 * 5


def test_a_part_is_not_made_again(whole, folder, name, data, monkeypatch):
    made = []
    monkeypatch.setattr(Worker, "make", lambda self, chunk: made.append(chunk))
    again = survey(name, [data], folder / "whole", documents=7)
    assert made == [] and again.pace.documents == 0
    assert again.tally.measures == whole.tally.measures


def test_it_goes_on_where_it_was(whole, folder, name, data, tmp_path):
    """Some parts gone, some unfinished, and one of another corpus."""
    survey(name, [data], tmp_path, documents=7)
    parts = sorted((tmp_path / "parts").iterdir())
    assert len(parts) == 5
    for path in parts[::2]:
        path.unlink()
    kept = [load(path) for path in parts[1::2]]
    had = sum(tally.documents + len(tally.skipped) for tally in kept)
    (tmp_path / "parts/.x.parquet.y.tmp").write_bytes(b"half")
    (tmp_path / f"parts/{'0' * 32}.parquet").write_bytes(b"of another corpus")
    (tmp_path / "heads.parquet").unlink()
    told = []
    found = survey(name, [data], tmp_path, documents=7, progress=lambda *at: told.append(at))
    assert found.pace.documents == LINES - had
    assert told[0] == (had, LINES) and told[-1] == (LINES, LINES) and len(told) == 4
    assert tables(tmp_path) == tables(folder / "whole")
    assert not [*(tmp_path / "parts").glob("*.tmp")]


def test_parts_of_an_older_format_are_left_alone(whole, folder, name, data, tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "FORMAT", worker.FORMAT - 1)
    survey(name, [data], tmp_path, documents=7)
    older = {path.name: path.read_bytes() for path in (tmp_path / "parts").iterdir()}
    monkeypatch.undo()
    found = survey(name, [data], tmp_path, documents=7)
    assert found.pace.documents == LINES and found.damaged == ()
    there = {path.name: path.read_bytes() for path in (tmp_path / "parts").iterdir()}
    assert older.items() <= there.items() and len(there) == 2 * len(older)
    assert tables(tmp_path) == tables(folder / "whole")


def test_what_a_part_depends_on(folder, name, data, tmp_path):
    """Another text, another field, another model: other parts."""
    opened = open_model(name)
    first = fingerprint(opened)
    assert fingerprint(open_model(name)) == first
    with torch.no_grad():
        next(opened.model.parameters())[3, 5] += 1e-6
    assert fingerprint(opened) != first
    wider = open_model(name)
    wider.config.rms_norm_eps *= 2
    assert fingerprint(wider) != first
    renamed = open_model(name)
    renamed.tokenizer.add_tokens(["lighthouse"])
    assert fingerprint(renamed) != first
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"text": "the keeper", "body": "a storm in the night"}))
    fields = [
        survey(name, [other], tmp_path / "out", field=field).tally for field in ("text", "body")
    ]
    assert [tally.tokens for tally in fields] == [3, 6]
    assert len([*(tmp_path / "out/parts").iterdir()]) == 2


def shortened(path, other):
    path.write_bytes(path.read_bytes()[:-7])


def a_page_is_damaged(path, other):
    held = bytearray(path.read_bytes())
    held[60:90] = b"\xff" * 30
    path.write_bytes(held)


def emptied(path, other):
    path.write_bytes(b"")


def of_somebody_else(path, other):
    pq.write_table(pq.read_table(other).select(["layer"]), path)


def another_part(path, other):
    path.write_bytes(other.read_bytes())


def one_number_altered(path, other):
    table = pq.read_table(path)
    at = table.schema.get_field_index("total")
    altered = table.set_column(at, "total", pc.add(table["total"], 1.0))
    pq.write_table(altered, path, compression="zstd")


def without_a_checksum(path, other):
    """Name a part as earlier versions did, which had no checksum."""
    path.rename(path.with_name(f"{path.name.partition('.')[0]}.parquet"))


@pytest.mark.parametrize(
    "harm",
    [
        shortened,
        a_page_is_damaged,
        emptied,
        of_somebody_else,
        another_part,
        one_number_altered,
        without_a_checksum,
    ],
)
def test_a_damaged_part_is_made_again(whole, folder, name, data, tmp_path, harm):
    shutil.copytree(folder / "whole", tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out/parts").iterdir()}
    path, other = sorted((tmp_path / "out/parts").iterdir())[2:4]
    part = load(path)
    harm(path, other)
    (there,) = {one.name for one in (tmp_path / "out/parts").iterdir()} - {*before} or {path.name}
    found = survey(name, [data], tmp_path / "out", documents=7)
    assert found.damaged == (str(tmp_path / "out/parts" / there),)
    assert found.pace.documents == part.documents + len(part.skipped)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out/parts").iterdir()} == before
    assert tables(tmp_path / "out") == tables(folder / "whole")
    assert survey(name, [data], tmp_path / "out", documents=7).damaged == ()


@pytest.mark.parametrize("harm", [shortened, lambda path, other: path.unlink()])
def test_a_part_that_is_damaged_meanwhile(name, data, tmp_path, harm):
    def told(done, total):
        if done == total:
            harm(*sorted((tmp_path / "parts").iterdir())[:2])

    says = r"The part [0-9a-f]{32} was changed or removed while the survey ran\.\nRun the command"
    with pytest.raises(ArgumentError, match=says):
        survey(name, [data], tmp_path, documents=7, progress=told)


def test_a_part_that_is_none(name, data, tmp_path):
    """It has a name and a checksum as parts have, and was not made here."""
    survey(name, [data], tmp_path, documents=7)
    path = sorted((tmp_path / "parts").iterdir())[2]
    of_somebody_else(path, path)
    recipe = Recipe(name, "", "text", str(tmp_path / "parts"))
    path = path.rename(recipe.path(path.name.partition(".")[0], path.read_bytes()))
    with pytest.raises(
        ArgumentError, match=rf"The part {path.name} is not a part \(\w+: .*\nRemove '"
    ):
        survey(name, [data], tmp_path, documents=7)


def test_a_damaged_corpus(name, tmp_path):
    """A page that cannot be read costs its documents, and not the survey."""
    (tmp_path / "fine.jsonl").write_text('{"text": "the lamp and the sea"}\n')
    rot = tmp_path / "rot.parquet"
    pq.write_table(pa.table({"text": [f"the lamp {i}" for i in range(20)]}), rot)
    a_page_is_damaged(rot, None)
    found = survey(name, [tmp_path], tmp_path / "out", documents=7)
    assert found.tally.documents == 1
    assert [(one.file, one.number) for one in found.tally.skipped] == [
        (str(rot), number) for number in range(1, 21)
    ]
    assert {one.reason.partition(":")[0] for one in found.tally.skipped} == {"damaged Parquet"}


def test_nothing_that_can_be_read(name, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"body": "the lamp"}\n\n{"body": "the sea"}\n')
    says = (
        f"None of 2 documents could be read; the first is {path}:1: no field 'text' among 'body'."
    )
    with pytest.raises(ArgumentError, match=re.escape(says)):
        survey(name, [path], tmp_path / "out")


def test_mistakes(name, data, tmp_path, monkeypatch):
    with pytest.raises(ArgumentError, match=r"`workers` is 0.\nPass 1 or more"):
        survey(name, [data], tmp_path, workers=0)
    with pytest.raises(ArgumentError, match="`documents` is -3"):
        survey(name, [data], tmp_path, documents=-3)

    def absent(module, extra, purpose):
        raise MissingExtraError(f"{purpose} needs {module}: pip install 'wqkv[{extra}]'")

    monkeypatch.setattr(surveyed, "need", absent)
    monkeypatch.setattr(worker, "need", absent)
    with pytest.raises(MissingExtraError, match=r"A survey needs pyarrow.parquet.*wqkv\[survey\]"):
        survey(name, [data], tmp_path)
    with pytest.raises(MissingExtraError, match=r"several workers needs ray: .*wqkv\[survey\]"):
        worker.need_ray()


def test_threads_are_as_they_were(whole):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with surveyed._one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
