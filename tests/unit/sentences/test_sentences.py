"""Every sentence stands in both languages, with the same places for numbers."""

import pkgutil
import re
from importlib import import_module
from string import Formatter

import pytest

from wqkv import sentences
from wqkv.sentences import LANGUAGES, in_language

#: Every list of sentences of the room, by module and name.
LISTS = {
    f"{module.name}.{name}": found
    for module in pkgutil.iter_modules(sentences.__path__)
    for name, found in vars(import_module(f"wqkv.sentences.{module.name}")).items()
    if name.isupper() and isinstance(next(iter(found.values())), tuple)
}


def places(sentence: str) -> set[str]:
    """The names of the numbers that are filled into a sentence."""
    return {field for _, field, _, _ in Formatter().parse(sentence) if field}


@pytest.mark.parametrize("name", LISTS)
def test_both_languages_have_the_same_places(name):
    for key, both in LISTS[name].items():
        assert len(both) == len(LANGUAGES), key
        assert places(both[0]) == places(both[1]), key


@pytest.mark.parametrize("name", LISTS)
def test_chinese_is_chinese(name):
    """What is a sentence in English, and no formula or name, has a Chinese character."""
    for key, (en, zh) in LISTS[name].items():
        if len(re.sub(r"\{.*?\}", "", en).split()) > 3:
            assert any("\u4e00" <= c <= "\u9fff" for c in zh), key


def test_a_language_is_chosen():
    both = {"word": ("word", "词")}
    assert [in_language(both, lang) for lang in LANGUAGES] == [{"word": "word"}, {"word": "词"}]
    with pytest.raises(ValueError, match="not in tuple"):
        in_language(both, "fr")
