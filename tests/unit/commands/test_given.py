"""wqkv.commands.given."""

import argparse

import pytest

from wqkv.commands.given import add_language, locale_language

NAMES = ("LC_ALL", "LC_MESSAGES", "LANG")


@pytest.mark.parametrize(
    ("values", "lang"),
    [
        (("", "", ""), "en"),
        (("", "", "zh_CN.UTF-8"), "zh"),
        (("", "", "C.UTF-8"), "en"),
        (("", "", "de_DE.UTF-8"), "en"),  # a language that we do not speak
        (("", "zh_TW.UTF-8", "en_US.UTF-8"), "zh"),
        (("C.UTF-8", "zh_CN.UTF-8", "zh_CN.UTF-8"), "en"),  # the first that is set decides
        (("zh_SG", "en_US.UTF-8", "en_US.UTF-8"), "zh"),
    ],
)
def test_the_locale_decides_which_language_a_command_speaks(
    monkeypatch: pytest.MonkeyPatch, values: tuple[str, ...], lang: str
) -> None:
    for name, value in zip(NAMES, values, strict=True):
        monkeypatch.setenv(name, value)
    assert locale_language() == lang
    parser = argparse.ArgumentParser()
    add_language(parser)
    assert parser.parse_args([]).lang == lang


def test_lang_is_stronger_than_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    parser = argparse.ArgumentParser()
    add_language(parser)
    assert parser.parse_args(["--lang", "en"]).lang == "en"
