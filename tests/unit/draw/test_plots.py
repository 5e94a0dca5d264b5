import matplotlib
import pytest
from matplotlib import font_manager
from rich.cells import cell_len

from tests.unit.draw.stories import make
from wqkv.draw import plots
from wqkv.draw.plots import drawable, save_map, wrapped
from wqkv.errors import ArgumentError, MissingExtraError
from wqkv.maps.proof import Proof
from wqkv.sentences import LANGUAGES

SCRIPTS = (
    "猫が",
    "한국",
    "हिन्दी",
    "😀",
    "$x_$",
    "$",
    "a\nb",
    "\U000f1234",
    "it",
    "\\frac",
    "y" * 40,
)


@pytest.fixture
def readable_svg():
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        yield


@pytest.mark.parametrize(
    ("suffix", "start"),
    [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF"), (".PNG", b"\x89PNG")],
)
def test_writes_the_format_of_the_suffix(tmp_path, suffix, start):
    save_map(make(), tmp_path / f"map{suffix}")
    assert (tmp_path / f"map{suffix}").read_bytes().startswith(start)


@pytest.mark.parametrize(
    ("name", "what"), [("map.jpg", r"map\.jpg' ends in '\.jpg'"), ("map", "map' has no suffix")]
)
def test_another_suffix(tmp_path, name, what):
    with pytest.raises(
        ArgumentError, match=rf"{what}\. Pass a name ending in \.png, \.svg or \.pdf"
    ):
        save_map(make(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_names_words_and_head(tmp_path, readable_svg):
    save_map(make(), tmp_path / "map.svg")
    text = (tmp_path / "map.svg").read_text("utf-8")
    assert "tiny-model, layer 2, head 1" in text
    assert text.count(">animal<") == 2
    assert "FAILED" not in text


def test_many_words_are_thinned(tmp_path, readable_svg):
    save_map(make([f"w{i}" for i in range(211)], token=101), tmp_path / "map.svg")
    text = (tmp_path / "map.svg").read_text("utf-8")
    assert "(1 in 4 is named)" in text
    assert text.count(">w101<") == 2
    assert ">w102<" not in text


def test_failed_proof(tmp_path, readable_svg):
    save_map(make(proof=Proof(0.5, 2.3, 4.1e-6, 11)), tmp_path / "map.svg")
    assert "FAILED ITS PROOF" in (tmp_path / "map.svg").read_text("utf-8")


def test_every_script_without_warnings(tmp_path):
    save_map(make(SCRIPTS, token=8), tmp_path / "map.png")


def test_words_that_no_font_can_draw(tmp_path, readable_svg, monkeypatch):
    class Bitmaps:
        name, style, weight, fname = "A Sans", "normal", 400, __file__

    monkeypatch.setattr(font_manager.fontManager, "ttflist", [Bitmaps])
    save_map(make(SCRIPTS, token=8), tmp_path / "map.svg")
    text = (tmp_path / "map.svg").read_text("utf-8")
    assert r">\u732b\u304c<" in text
    assert ">$x_$<" in text
    assert r">a\nb<" in text


def test_a_font_that_can_draw_is_found(tmp_path, readable_svg):
    from matplotlib.ft2font import FT2Font

    fonts = font_manager.fontManager.ttflist
    if not any("CJK" in f.name and FT2Font(f.fname).get_char_index(ord("猫")) for f in fonts):
        pytest.skip("no CJK font is installed")
    save_map(make(SCRIPTS, token=8), tmp_path / "map.svg")
    assert ">猫が<" in (tmp_path / "map.svg").read_text("utf-8")


def test_missing_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"matplotlib[\s\S]*pip install 'wqkv\[show\]'"):
        save_map(make(), tmp_path / "map.png")


def test_a_story_without_its_map(tmp_path):
    with pytest.raises(ArgumentError, match=r"The story has no map\.\nMake it with `tell`"):
        save_map(make(map=None), tmp_path / "map.png")


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_language_is_drawn_where_a_font_has_its_letters(monkeypatch, lang):
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [])
    assert drawable(lang) == "en"
    monkeypatch.setattr(plots, "LETTERS", {"en": "", "zh": "é"})  # which DejaVu Sans has
    assert drawable(lang) == lang


def test_lines_of_a_picture_are_wrapped():
    text = "所有层和头共 51,030 条连接（renormalize），其中 200 条。"
    lines = wrapped(text, 24)
    assert max(map(cell_len, lines)) <= 24
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert not any(line[0] in "，。）" for line in lines)
