import io
import json
import sys
from types import SimpleNamespace
from typing import get_args, get_type_hints

import pytest

from tests.unit.draw.whys import capitals
from wqkv import cli
from wqkv.commands.why import BYS, CAPITALS, HOWS
from wqkv.effects.records import GroupEffect, Question, Why
from wqkv.errors import ArgumentError
from wqkv.study import opening


@pytest.fixture
def asked(monkeypatch):
    """A stand-in for the model and the computation; what was asked of them."""
    said = []

    def open_of_texts(name, progress):
        progress("reading")
        said.append(name)
        return SimpleNamespace(name="tiny-model")

    def why(model, text, answer, against, at, *, target, how, by, budget, progress):
        progress(1, 7)
        said.append((text, answer, against, at, target, how, by, budget))
        if answer == "stop":
            raise KeyboardInterrupt
        if answer == "nothing":
            raise ArgumentError("`answer` is 'nothing', which has no token.\nPass at least one.")
        if answer == "A dog.":
            return capitals(question=Question("similarity", "cosine with 'A dog.'", "A dog."))
        return capitals(how=how)

    monkeypatch.setattr(opening, "open_of_texts", open_of_texts)
    monkeypatch.setitem(sys.modules, "wqkv.effects.why", SimpleNamespace(why=why))
    return said


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run(capsys, *argv):
    code = cli.main(["why", *argv])
    out, err = capsys.readouterr()
    return code, out, err


def test_asks_what_is_given(capsys, asked):
    code, out, err = run(
        capsys, "One.", "--answer", " a", "--against", " b", "--model", "somewhere"
    )
    assert (code, err) == (0, "")
    assert asked == ["somewhere", ("One.", " a", " b", -1, None, "renormalize", [], 200)]
    assert out.startswith("What does this answer of SmolLM2-135M-Instruct rest on?\n")
    assert out.endswith("This is not a proof that nothing else matters.\n") and "\x1b" not in out
    many = ("--at", "-3", "--how", "zero", "--by", "head", "--by", "span", "--budget", "17")
    code, out, _ = run(capsys, "One.", "--target", "Eins.", *many)
    assert asked[2:] == [None, ("One.", None, None, -3, "Eins.", "zero", ["head", "span"], 17)]
    assert '("zero")' in " ".join(out.split())


def test_reads_stdin_or_a_file(capsys, asked, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Two.\nThree."))
    assert run(capsys, "-")[0] == 0
    (tmp_path / "猫.txt").write_text("\ufeffFour.\n", "utf-8")
    assert run(capsys, "--text", str(tmp_path / "猫.txt"))[0] == 0
    assert [one[0] for one in asked[1::2]] == ["Two.\nThree.", "Four.\n"]


def test_writes_files_too(capsys, asked, tmp_path):
    table, picture = tmp_path / "a.csv", tmp_path / "a.PNG"
    code, out, err = run(capsys, "One.", "--json", "--csv", str(table), "--png", str(picture))
    assert (code, err) == (0, f"wqkv: wrote {table}\nwqkv: wrote {picture}\n")
    assert json.loads(out)["links"][0]["true"] == -11.34
    assert len(table.read_text("utf-8").splitlines()) == 1 + 7 + 3 + 2
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "The strongest links" in run(capsys, "One.", "--csv", str(table))[1]


def test_says_what_the_packaged_model_is_asked(capsys, asked):
    code, _, err = run(capsys, "A cat.", "--answer", "A dog.")
    assert code == 0 and err == (
        "wqkv: SmolLM2-135M-Instruct predicts no next token, so the number says how alike two "
        "texts are. For a next token, name a causal model with --model.\n"
    )
    assert run(capsys, "A cat.", "--answer", "A dog.", "--model", "mine")[2] == ""


def test_ctrl_c(capsys, asked):
    assert run(capsys, "One.", "--answer", "stop") == (130, "", "wqkv: interrupted\n")


def test_what_the_computation_refuses(capsys, asked):
    said = "wqkv: `answer` is 'nothing', which has no token. Pass at least one.\n"
    assert run(capsys, "One.", "--answer", "nothing") == (2, "", said)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], f'No text was given. Call wqkv why "{CAPITALS}", or wqkv why - to read standard in'),
        (["One.", "--text", "text.txt"], "There is a TEXT and --text text.txt. Pass one of them."),
        (["--text", "gone.txt"], "gone.txt: No such file or directory"),
        ([" "], "Text 1 of 1 is empty. Pass at least one word."),
        (["-"], "Standard input is empty. Pass at least one word."),
        (["\udcff"], r"The text '\udcff' is not valid UTF-8."),
        (["One.", "--answer", "\udcff"], r"The answer '\udcff' is not valid UTF-8."),
        (["One.", "--against", "\udcff"], r"The rival '\udcff' is not valid UTF-8."),
        (["One.", "--target", "\udcff"], r"The target '\udcff' is not valid UTF-8."),
        (["One.", "--how", "x"], "argument --how: invalid choice: 'x'"),
        (["One.", "--by", "layer"], "argument --by: invalid choice: 'layer'"),
        (["One.", "--at", "x"], "argument --at: invalid int value: 'x'; see wqkv why --help"),
        (["One.", "--budget", "x"], "argument --budget: invalid int value: 'x'"),
        (["One.", "--csv", "a.txt"], "The table 'a.txt' needs a name ending in .csv."),
        (["One.", "--png", "a.svg"], "The image 'a.svg' needs a name ending in .png."),
        (["One.", "--csv", "gone/a.csv"], "The folder 'gone' of 'gone/a.csv' is not there."),
        (["One.", "--png", "folder.png"], "'folder.png' is a folder. Pass the name of a file."),
        (["One.", "--ans", "a"], "unrecognized arguments: --ans a"),
    ],
)
def test_mistakes_before_the_model_opens(capsys, asked, monkeypatch, tmp_path, argv, message):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "text.txt").write_text("One.")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n \n"))
    code, out, err = run(capsys, *argv)
    assert (code, out, asked) == (2, "", [])
    assert err.startswith("wqkv: ") and message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(("module", "argv"), [("rich", []), ("matplotlib", ["--png", "a.png"])])
def test_missing_extra(capsys, asked, monkeypatch, module, argv):
    monkeypatch.setitem(sys.modules, module, None)
    code, _, err = run(capsys, "One.", *argv)
    assert (code, asked) == (2, [])
    assert f"needs the package `{module}`" in err
    assert "pip install 'wqkv[show]'" in err


@pytest.mark.parametrize(("no_color", "moves"), [("", True), ("1", False)])
def test_bar_on_a_terminal(capsys, asked, monkeypatch, no_color, moves):
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    assert cli.main(["why", "One.", "--json"]) == 0
    assert ("asking tiny-model" in terminal.getvalue()) == moves
    assert ("1 of 7 steps" in terminal.getvalue()) == moves
    json.loads(capsys.readouterr().out)


def test_choices_are_those_of_the_records():
    assert get_args(get_type_hints(Why)["how"]) == HOWS
    assert get_args(get_type_hints(GroupEffect)["by"]) == BYS


def test_help_says_what_the_answer_is(capsys):
    code, out, _ = run(capsys, "--help")
    out = " ".join(out.split())
    assert code == 0
    assert f'wqkv why "{CAPITALS}" --model HuggingFaceTB/SmolLM2-135M-Instruct' in out
    assert '--answer " Madrid" --against " Rome"' in out
    assert "the other text, and the number is their cosine similarity" in out
    cli.main(["--help"])
    assert "\n    why " in capsys.readouterr().out
