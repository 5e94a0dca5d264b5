import html
import re

import matplotlib
import pytest
import torch
from matplotlib import font_manager
from rich.cells import cell_len

from tests.unit.draw.stories import make
from wqkv.draw.matrix import scale_ends, side_by_side, write_sum
from wqkv.draw.plots import save_story, wrapped
from wqkv.errors import ArgumentError, MissingExtraError
from wqkv.maps.proof import Proof
from wqkv.sentences import translated
from wqkv.study.one_token import SourceText

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
    save_story(make(), tmp_path / f"map{suffix}")
    assert (tmp_path / f"map{suffix}").read_bytes().startswith(start)


@pytest.mark.parametrize(
    ("name", "what"), [("map.jpg", r"map\.jpg' ends in '\.jpg'"), ("map", "map' has no suffix")]
)
def test_another_suffix(tmp_path, name, what):
    with pytest.raises(
        ArgumentError, match=rf"{what}\. Pass a name ending in \.png, \.svg or \.pdf"
    ):
        save_story(make(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_names_words_and_head(tmp_path, readable_svg):
    save_story(make(), tmp_path / "map.svg")
    text = (tmp_path / "map.svg").read_text("utf-8")
    assert "tiny-model, layer 2 of 0 to 4, head 1 of 0 to 2" in text
    assert f">{make().sentence}<" in text
    assert "PROOF HOLDS: our output and tiny-model" in text
    assert text.count(">animal<") == 2
    assert "FAILED" not in text


def test_many_words_are_thinned(tmp_path, readable_svg):
    save_story(make([f"w{i}" for i in range(211)], token=101), tmp_path / "map.svg")
    text = (tmp_path / "map.svg").read_text("utf-8")
    assert "(1 in 4 is named)" in text
    assert text.count(">w101<") == 2
    assert ">w102<" not in text


def test_failed_proof(tmp_path, readable_svg):
    save_story(make(proof=Proof(0.5, 2.3, 4.1e-6, 11)), tmp_path / "map.svg")
    assert "FAILED ITS PROOF" in (tmp_path / "map.svg").read_text("utf-8")


def test_every_script_without_warnings(tmp_path):
    save_story(make(SCRIPTS, token=8), tmp_path / "map.png")


def test_words_that_no_font_can_draw(tmp_path, readable_svg, monkeypatch):
    class Bitmaps:
        name, style, weight, fname = "A Sans", "normal", 400, __file__

    monkeypatch.setattr(font_manager.fontManager, "ttflist", [Bitmaps])
    save_story(make(SCRIPTS, token=8), tmp_path / "map.svg")
    text = (tmp_path / "map.svg").read_text("utf-8")
    assert r">\u732b\u304c<" in text
    assert ">$x_$<" in text
    assert r">a\nb<" in text


def test_a_font_that_can_draw_is_found(tmp_path, readable_svg):
    from matplotlib.ft2font import FT2Font

    fonts = font_manager.fontManager.ttflist
    if not any("CJK" in f.name and FT2Font(f.fname).get_char_index(ord("猫")) for f in fonts):
        pytest.skip("no CJK font is installed")
    save_story(make(SCRIPTS, token=8), tmp_path / "map.svg")
    assert ">猫が<" in (tmp_path / "map.svg").read_text("utf-8")


def test_missing_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"matplotlib[\s\S]*pip install 'wqkv\[show\]'"):
        save_story(make(), tmp_path / "map.png")


def test_a_story_without_its_map(tmp_path):
    with pytest.raises(
        ArgumentError, match=r"The story has no map\.\nMake it with `clearest_story`"
    ):
        save_story(make(map=None), tmp_path / "map.png")


def test_the_matrices_are_drawn_and_one_column_is_worked_out(tmp_path, readable_svg):
    story = make()
    save_story(story, tmp_path / "map.svg")
    text = html.unescape((tmp_path / "map.svg").read_text("utf-8"))
    for name in (
        "WQ  53 x 17",
        "WK  53 x 17",
        "WV  53 x 13",
        "WO  13 x 53",
        "= q, the query",
        "= share",
    ):
        assert f">{name}<" in text
    group = side_by_side(story)[0]
    end, *_ = scale_ends(group)
    assert f">{end.end:g}<" in text and f">-{end.end:g}<" in text
    told = write_sum(group[0])
    shown = " ".join(re.findall(r"<text[^>]*>([^<]*)<", text))
    assert told.says in shown
    written = re.search(r"q\[13\] = (.*?) = ([0-9.]+)", shown)
    assert written[2] == told.lines[-1][1] == f"{story.q[13]:.3f}"
    assert "5.032 (the other 50 terms)" in written[1]


def test_two_texts_have_two_rows_of_matrices(tmp_path, readable_svg):
    source = SourceText(("ein", "Tier"), (False, False), 1, torch.randn(53))
    save_story(make(source=source), tmp_path / "map.svg")
    text = html.unescape((tmp_path / "map.svg").read_text("utf-8"))
    assert text.count(">y<") == 1 and text.count("y times this column and its bias") == 0
    assert "of WK is marked: y times this column gives" in text


def test_without_matrices_the_map_alone(tmp_path, readable_svg):
    save_story(make(matrices=None), tmp_path / "map.svg")
    shown = re.findall(r"<text[^>]*>([^<]*)<", (tmp_path / "map.svg").read_text("utf-8"))
    assert "to this word" in shown and not any("WQ" in text for text in shown)


def test_missing_fonts_are_named(tmp_path, readable_svg, monkeypatch):
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [])
    notes = save_story(make(["猫", "한", "it"], token=2), tmp_path / "map.svg", "zh")
    assert tuple(translated(note, "zh") for note in notes) == (
        "这里没有中文字体：图中文字改用英文；请安装 Noto Sans CJK SC",
        "这里没有字体含有 猫 한：图中写的是它们的编码；请安装含有它们的字体（Noto Sans CJK SC）",
    )
    assert ">to this word<" in (tmp_path / "map.svg").read_text("utf-8")
    assert save_story(make(), tmp_path / "map.svg", "en") == ()


def test_all_is_said_in_chinese(tmp_path, readable_svg):
    story = make([f"{i}" for i in range(71)], token=3)
    if save_story(story, tmp_path / "map.svg", "zh"):
        pytest.skip("no CJK font is installed")
    shown = re.findall(r"<text[^>]*>([^<]*)<", (tmp_path / "map.svg").read_text("utf-8"))
    found = {*re.findall(r"[a-z]{4,}", " ".join(shown))}
    assert found <= {"tiny", "model", "context", "share", "query", "value", "token"}
    assert any("证明成立" in text for text in shown)


def test_lines_of_a_picture_are_wrapped():
    text = "所有层和头共 51,030 条连接（renormalize），其中 200 条。"
    lines = wrapped(text, 24)
    assert max(map(cell_len, lines)) <= 24
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert not any(line[0] in "，。）" for line in lines)
