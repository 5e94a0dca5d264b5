"""wqkv.open: the page of a text, with a still picture beside it."""

import re

import pytest

import wqkv
from tests.tiny import READ, TARGET, text, tiny_llama, tiny_t5
from wqkv.errors import ArgumentError
from wqkv.explorer import inline


def test_a_model_that_is_open():
    page = wqkv.open(tiny_llama(layers=1), text(5), lang="zh")
    assert re.fullmatch(
        r"tiny-llama 读入 6 个词元：第 0 层第 \d 头；.save\('page.html'\) 把页面写成文件",
        repr(page),
    )
    assert "lang=zh" in page.html and '"layers": ["H4sI' in page.html
    assert "wqkv.open_model" not in page.html  # nobody knows how it was opened
    assert "`model` is the one that wqkv.open was given" in page.html
    assert page.picture.startswith(b"\x89PNG")


def test_where_it_begins():
    page = wqkv.open(tiny_llama(layers=2), text(5), at=(1, 3, 2))
    assert "layer=1&amp;head=3&amp;token=2" in page.html and "layer 1, head 3;" in repr(page)
    with pytest.raises(ArgumentError, match="There is no head 6: the model has 6 heads"):
        wqkv.open(tiny_llama(layers=1), text(5), at=(0, 6, 0))


def test_a_model_by_its_name(monkeypatch):
    monkeypatch.setattr(inline, "open_any", lambda name: tiny_llama(layers=1))
    assert "wqkv.open_model('a/b')" in wqkv.open("a/b", text(5)).html
    assert "wqkv.open_model()" in wqkv.open(None, text(5)).html


def test_the_still_picture_speaks_the_language(monkeypatch):
    spoken = []

    def drawn(story, path, lang):
        spoken.append(lang)
        path.write_bytes(b"PNG")

    monkeypatch.setattr(inline, "save_story", drawn)
    for lang in ("zh", "en"):
        assert wqkv.open(tiny_llama(layers=1), text(5), lang=lang).picture == b"PNG"
    assert spoken == ["zh", "en"]


def test_two_texts_have_no_still_picture():
    page = wqkv.open(tiny_t5(), READ, TARGET)
    assert page.picture is None and TARGET in page.html


def test_without_matplotlib(monkeypatch):
    monkeypatch.setattr(inline, "find_spec", lambda name: None)
    assert wqkv.open(tiny_llama(layers=1), text(5)).picture is None


def test_a_language_that_is_not_there():
    with pytest.raises(ArgumentError, match=r"does not speak 'fr'\.\nPass one of: en, zh\."):
        wqkv.open(tiny_llama(layers=1), text(5), lang="fr")


def test_the_star_leaves_it_out():
    given: dict[str, object] = {}
    exec("from wqkv import *", given)
    assert "what_if" in given and "open" not in given
