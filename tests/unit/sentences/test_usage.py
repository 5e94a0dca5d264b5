"""What argparse and the system say, in Chinese: each sentence is made by them."""

import errno
import os

import pytest

from wqkv.cli import main
from wqkv.sentences import LANGUAGES, translated
from wqkv.sentences.usage import ARGPARSE, SYSTEM, said_by_argparse, said_by_system

#: A command line for each sentence of argparse.
MISTAKES = {
    "unknown": (["see", "--odd", "--lay"], "无法识别的参数：--odd --lay；用法见 wqkv --help"),
    "required": (["survey"], "缺少必需的参数：--data, --out；用法见 wqkv survey --help"),
    "argument": (["heads", "--model"], "参数 --model：需要一个值；用法见 wqkv heads --help"),
    "choice": (["why", "A", "--how", "x"], "参数 --how：没有 'x' 这个选项（可选："),
    "int": (["see", "A", "--layer", "x"], "参数 --layer：'x' 不是整数；"),
    "one": (["open", "--port"], "参数 --port：需要一个值；"),
    "some": (["survey", "--data"], "参数 --data：至少需要一个值；"),
    "explicit": (["heads", "--json=3"], "参数 --json：不接受值 '3'；"),
}  # fmt: skip


def test_every_sentence_of_argparse_is_made():
    assert MISTAKES.keys() == ARGPARSE.keys()


@pytest.mark.parametrize("name", MISTAKES)
def test_argparse_speaks_chinese(capsys, monkeypatch, name):
    argv, said = MISTAKES[name]
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"wqkv: {said}") and err.count("\n") == 1


def test_the_language_is_known_where_the_rest_is_wrong(capsys):
    assert main(["heads", "--lang", "zh", "--odd"]) == 2
    assert capsys.readouterr().err == "wqkv: 无法识别的参数：--odd；用法见 wqkv --help\n"
    assert main(["heads", "--lang", "fr"]) == 2
    assert capsys.readouterr().err.startswith("wqkv: argument --lang: invalid choice: 'fr'")


@pytest.mark.parametrize("name", SYSTEM)
def test_the_system_says_this(name):
    """The English is the system's own, or its Chinese would never be found."""
    number = getattr(errno, name)
    assert os.strerror(number) == SYSTEM[name][0]
    assert translated(said_by_system(os.strerror(number)), "zh") == SYSTEM[name][1]


def test_other_sentences_stay_as_they_are():
    for said in (said_by_argparse, said_by_system):
        assert [translated(said("of another program"), lang) for lang in LANGUAGES] == [
            "of another program"
        ] * 2
