import pytest
from matplotlib import font_manager

from wqkv import fonts as fonts_module
from wqkv.fonts import drawable, fonts_for
from wqkv.sentences import LANGUAGES


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("猫ねネ한", "Noto Sans CJK SC"),
        ("قש", "Noto Sans Arabic, Noto Sans Hebrew"),
        ("हि", "Noto Sans Devanagari"),
        ("😀", "Noto Sans Symbols, Noto Emoji"),
    ],
)
def test_each_script_has_its_font(text, named):
    assert fonts_for(map(ord, text)) == named


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_language_is_drawn_where_a_font_has_its_letters(monkeypatch, lang):
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [])
    assert drawable(lang) == "en"
    monkeypatch.setattr(fonts_module, "LETTERS", {"en": "", "zh": "é"})  # which DejaVu Sans has
    assert drawable(lang) == lang
