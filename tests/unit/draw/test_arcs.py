import dataclasses
import re
import sys

import matplotlib
import pytest

from tests.unit.draw.whys import capitals, links, long, mary, similarity, translation
from wqkv.draw.arcs import AGAINST, FOR, PALE, save_png
from wqkv.effects.records import LinkEffect, Question
from wqkv.errors import ArgumentError, MissingExtraError


@pytest.fixture
def svg(tmp_path):
    """Draws a picture, and returns its source with texts that can be read."""

    def draw(found):
        with matplotlib.rc_context({"svg.fonttype": "none"}):
            save_png(found, tmp_path / "a.svg")
        return (tmp_path / "a.svg").read_text("utf-8")

    return draw


CURVE = re.compile(
    r'<path d="M ([\d.]+) ([\d.]+) \nC [^"]* ([\d.]+) ([\d.]+) \n" [^>]*style="fill: none; ([^"]*)"'
)


def curves(text):
    """(start, stop, color, width, dashed) of each arc, from thick to thin; y grows downward."""
    found = []
    for x, y, to_x, to_y, style in CURVE.findall(text):
        color = re.search(r"stroke: (#\w+)", style)[1]
        width = float(re.search(r"stroke-width: ([\d.]+)", style)[1])
        ends = ((float(x), float(y)), (float(to_x), float(to_y)))
        found.append((*ends, color, width, "stroke-dasharray" in style))
    return found


@pytest.mark.parametrize("make", [capitals, mary, long, translation, similarity])
def test_png(tmp_path, make):
    save_png(make(), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_arcs_say_sign_and_size(svg):
    found = curves(svg(capitals()))
    assert len(found) == 10
    assert [color for *_, color, _, _ in found].count(AGAINST) == 1
    assert [dashed for *_, dashed in found].count(True) == 3
    widths = [width for *_, width, _ in found]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] == 8.0 and widths[1] == pytest.approx(0.8 + 7.2 * 2.28 / 11.34, abs=1e-5)
    assert {color for *_, color, _, _ in curves(svg(similarity()))} == {FOR, PALE}


def test_arcs_go_from_query_to_key(svg):
    for (x, y), (to_x, to_y), *_ in curves(svg(capitals())):
        assert to_x < x and y == to_y  # also the token that looks at itself has two ends
    rows = "0 0 1 3 0.5 0.1 0.1 0.1\n0 0 3 2 0.5 0.1 0.1 0.1"
    right, left = curves(svg(similarity(links=links(rows))))
    assert right[1][0] > right[0][0] and left[1][0] < left[0][0]


def test_arcs_of_one_token_do_not_cross(svg):
    """All look back from the last token: the further, the further to the right they begin."""
    rows = "\n".join(f"0 0 13 {key} 0.5 0.1 {0.1 * key} 0.1" for key in (3, 11, 5, 7, 2))
    found = sorted(curves(svg(mary(links=links(rows), resting=()))), key=lambda one: one[1][0])
    starts = [start[0] for start, *_ in found]
    assert starts == sorted(starts, reverse=True) and len({*starts}) == 5


def test_two_texts_are_two_lines(svg):
    text = svg(translation())
    (cross, encoder, decoder) = curves(text)
    assert cross[0][1] < cross[1][1]  # from the upper line down to the lower one
    assert decoder[0][1] == decoder[1][1] < cross[0][1]
    assert encoder[0][1] == encoder[1][1] > cross[1][1]
    assert "The upper text was written, the lower one was read." in text
    assert ">encoder<" in text and ">Katze@2 -&gt; cat@1<" in text
    assert "upper text" not in svg(capitals())


def test_says_what_the_terminal_says(svg):
    text = svg(capitals())
    for said in (
        ">What does this answer of SmolLM2-135M-Instruct rest on?<",
        ">speaks for 'Madrid'<",
        ">speaks for 'Rome'<",
        ">goes to the first token<",
        ">is@18 -&gt; Spain@17<",
        ">-11.34<",
        ">! prediction too small<",
        ">The strongest links, by true effect:<",
        ">All 7 links of the first list removed together: 7.90 -&gt; -7.07, so 'Rome' wins.<",
        ">This is not a proof that nothing else matters.<",
    ):
        assert said in text
    assert "(&quot;renormalize&quot;).<" in text or '("renormalize").<' in text
    assert "goes to the first token" not in svg(similarity())
    assert "! marks" not in svg(similarity())


def test_only_links_to_the_first_token(svg):
    text = svg(capitals(links=(), together=None))
    assert len(curves(text)) == 3 and ">layer<" in text
    assert "strongest links" not in text and ">Links to the first token. Rem" in text


def test_only_what_was_removed_is_drawn(svg):
    assert len(curves(svg(capitals(resting=())))) == 7
    text = svg(capitals(links=(), resting=(), together=None))
    assert curves(text) == [] and ">layer<" not in text and ">Spain<" in text


def test_tokens_of_a_long_text_are_named_where_there_is_room(svg):
    side_by_side, upright, thin = svg(long(19)), svg(long(120)), svg(long(1009, count=3))
    assert "rotate(-90)" not in re.sub(r"rotate\(-0\)", "", side_by_side)
    assert upright.count(">extraordinarily<") == len([at for at in range(120) if at % 16 == 13])
    assert ">quick<" in upright and ">quick<" not in thin
    last = long(1009).tokens["text"][1008]
    assert f">{last}@1008<" in thin and ">the@0<" in thin


def test_tokens_that_are_no_formula_and_no_letter(svg):
    tokens = ("$x_$", "\n", "  ", "a$b$", "<")
    found = similarity(tokens={"text": tokens}, keys={"text": tokens})
    text = svg(dataclasses.replace(found, question=Question("function", "$y^2$", at=3)))
    for name in ("$x_$", r"\n", "'  '", "a$b$", "&lt;"):
        assert f">{name}<" in text
    assert ">$y^2$, for the token a$b$@3: 0.4312<" in text


def test_tokens_that_no_font_can_draw(svg, monkeypatch):
    monkeypatch.setattr(matplotlib.font_manager.fontManager, "ttflist", [])
    assert r">\u732b<" in svg(similarity())


def test_an_effect_that_is_not_there(svg):
    link = LinkEffect("text", 0, 0, 3, 2, 0.5, 0.1, 0.1, None, float("nan"))
    text = svg(capitals(links=(link,), resting=(), together=None))
    assert ">cannot be removed: a row has no other key<" in text
    assert [color for *_, color, _, _ in curves(text)] == [PALE]


def test_another_suffix(tmp_path):
    with pytest.raises(ArgumentError, match=r"a\.jpg' ends in '\.jpg'"):
        save_png(capitals(), tmp_path / "a.jpg")


def test_missing_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"matplotlib[\s\S]*pip install 'wqkv\[show\]'"):
        save_png(capitals(), tmp_path / "a.png")
