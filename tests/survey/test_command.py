"""`wqkv survey` as it is typed, in one process."""

import pytest

from tests.survey.corpora import BROKEN, LINES, corpus, model
from wqkv import cli

pytest.importorskip("pyarrow", reason="the survey needs the extra `survey`")


@pytest.fixture(scope="module")
def name(tmp_path_factory):
    return model(tmp_path_factory.mktemp("command") / "model")


def run(capsys, *argv):
    code = cli.main(["survey", *map(str, argv)])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_corpus(capsys, name, tmp_path):
    data, out = corpus(tmp_path / "docs.jsonl"), tmp_path / "out"
    rest = ("--data", data, "--out", out, "--workers", 1, "--part", 7)
    code, printed, err = run(capsys, name, *rest)
    assert (code, err) == (0, f"wqkv: wrote {out / 'survey.html'}\n")
    assert printed.startswith("model, 2 layers x 6 heads, over ")
    assert f"read: {LINES - len(BROKEN)} documents in " in printed
    assert printed.count("skipped: 1 ") == len(BROKEN) and " a second (29 documents" in printed
    assert sorted(path.name for path in out.iterdir()) == [
        "examples.parquet",
        "heads.parquet",
        "parts",
        "skipped.parquet",
        "survey.html",
    ]
    first = (out / "survey.html").read_bytes()
    part = min((out / "parts").iterdir())
    part.write_bytes(b"")
    says = f"wqkv: {part} was damaged or altered, and was made again\nwqkv: wrote "
    code, _, err = run(capsys, name, *rest)
    assert code == 0 and err.startswith(says)
    code, printed, _ = run(capsys, name, *rest)
    assert code == 0 and " a second" not in printed  # nothing was left to do
    assert (out / "survey.html").read_bytes() == first


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--out", "out"], "the following arguments are required: --data"),
        (["--data", "gone.jsonl", "--out", "out", "--workers", "1"], "folder 'gone.jsonl'."),
        (["--data", "gone.jsonl", "--out", "out", "--workers", "0"], "`workers` is 0. Pass 1 or"),
        (["--data", "a.jsonl", "--out", "a.jsonl", "--workers", "1"], "a.jsonl/parts: Not a dir"),
    ],
)
def test_mistakes(capsys, monkeypatch, name, tmp_path, argv, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text("{}")
    code, out, err = run(capsys, name, *argv)
    assert (code, out) == (2, "")
    assert err.startswith("wqkv: ") and says in err and err.count("\n") == 1
