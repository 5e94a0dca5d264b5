import json

import pytest

from tests.tiny import tiny_bert
from wqkv import cli
from wqkv.study import model as models

TEXT = "the lamp burned because the keeper lit the boat ."
LINE = {"text": TEXT, "from": "boat", "to": "lamp", "among": ["keeper"]}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    model = tiny_bert()
    monkeypatch.setattr(models, "open_model", lambda name, progress: model)


def run(capsys, *argv: str) -> tuple[int, str, str]:
    code = cli.main(["rate", *argv])
    return code, *capsys.readouterr()


def test_sentences_and_words(capsys):
    code, out, _ = run(capsys, TEXT, TEXT, "--from", "boat", "--to", "lamp")
    assert code == 0 and "of 2 sentences" in out and "This head is the best of 15" in out
    assert out.count(TEXT) == 2 and out.count("boat: ") == 2


def test_a_file_of_sentences(capsys, tmp_path):
    path = tmp_path / "a.jsonl"
    bare = {name: LINE[name] for name in ("text", "from", "to")}
    path.write_text(f"\ufeff{json.dumps(LINE)}\n\n{json.dumps(bare)}\n", "utf-8")
    code, out, _ = run(capsys, "--data", str(path), "--layer", "1", "--head", "2", "--json")
    found = json.loads(out)
    assert code == 0 and (found["layer"], found["head"], found["of"]) == (1, 2, 2)
    assert found["chosen"] is False and found["heldOut"] is None
    first, second = found["sentences"]
    assert first["candidates"] == ["lamp", "keeper"] and len(second["candidates"]) == 8
    assert first["hit"] == (first["weights"][0] > first["weights"][1])
    assert [rule["name"] for rule in found["rules"]] == ["first", "nearest", "before"]


def test_in_chinese(capsys):
    _, out, _ = run(capsys, TEXT, "--from", "boat", "--to", "lamp", "--lang", "zh")
    assert "不需要模型的规则" in out and "sentences" not in out


@pytest.mark.parametrize(
    "argv, message",
    [
        ([TEXT], "Pass TEXT with --from and --to, or --data"),
        ([TEXT, "--from", "boat"], "Pass TEXT with --from and --to, or --data"),
        ([TEXT, "--from", "boat", "--to", "lamp", "--data", "a"], "Pass TEXT with --from"),
        (["--data", "nothing.jsonl"], "nothing.jsonl: No such file"),
        ([TEXT, "--from", "boat", "--to", "zebra"], "There is no token 'zebra'"),
        (["a\udcff", "--from", "boat", "--to", "lamp"], r"sentence 'a\udcff' is not valid UTF-8"),
    ],
)
def test_wrong_calls(capsys, argv, message):
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "") and message in err


@pytest.mark.parametrize(
    "line, message",
    [
        (b"{", "Line 1 of 'a.jsonl' is no JSON."),
        (b"[]", "Line 1 of 'a.jsonl' is []. Give {\"text\""),
        (b'{"text": "a", "from": "b"}', "Line 1 of 'a.jsonl' is {"),
        (b'{"text": "a", "from": "b", "to": 3}', '"to": 3}. Give {"text"'),
        (b'{"text": "a", "from": "b", "to": "c", "also": "d"}', "Give"),
        (b"\xff", "'a.jsonl' is not text in UTF-8: byte 0xff at 0"),
        (b"\n", "There is no expectation"),
    ],
)
def test_wrong_lines(capsys, tmp_path, monkeypatch, line, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_bytes(line)
    code, out, err = run(capsys, "--data", "a.jsonl")
    assert (code, out) == (2, "") and message in err
