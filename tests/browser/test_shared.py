"""What Python and the page both do: numbers and tokens as text, and colors, over many values."""

import re
import sys
import unicodedata
from importlib.resources import files

import torch

from wqkv.draw import steps
from wqkv.maps.display import DARK, LIGHT, color, visible

PAGE = files("wqkv.explorer") / "page"


def values() -> list[float]:
    """Numbers of all sizes, exact halves of a last digit, and the edges of each form."""
    draw = torch.Generator().manual_seed(7)
    found = (torch.randn(3000, generator=draw) * 10 ** torch.linspace(-9, 6, 3000)).tolist()
    found += [sign * k / 2**n for n in range(1, 9) for k in range(1, 40, 2) for sign in (1, -1)]
    edges = [
        0.0,
        1.0,
        0.0005,
        0.00049999,
        9999.994,
        9999.996,
        10500.0,
        -11500.0,
        1e-12,
        -1e-12,
        2.675,
    ]
    return found + edges


def characters() -> list[str]:
    """A string of each character that Python knows; not those that a later Unicode may have."""
    known = (chr(i) for i in range(sys.maxunicode + 1) if not 0xD800 <= i < 0xE000)
    return [one for one in known if unicodedata.category(one) not in ("Cn", "Co")]


def run(page, file: str, call: str, given):
    """What a function of the page's module makes of many values."""
    script = f"given => import('./page/parts/{file}').then(all => given.map(one => {call}))"
    return page.evaluate(script, given)


def test_numbers(open_page):
    page, given = open_page(), values()
    assert run(page, "format.js", "all.number(one)", given) == [steps.number(x) for x in given]
    sizes = [abs(x) for x in given]
    assert run(page, "format.js", "all.weight(one)", sizes) == [steps.weight(x) for x in sizes]
    assert run(page, "format.js", "all.power(one)", given) == [f"{x:.1e}" for x in given]
    assert run(page, "format.js", "all.fixed(one, 3)", given) == [f"{x:.3f}" for x in given]
    counts = [round(x) for x in sizes]
    assert run(page, "format.js", "all.count(one)", counts) == [f"{x:,}" for x in counts]


def test_tokens(open_page):
    page, given = open_page(), characters()
    assert run(page, "format.js", "all.visible(one)", given) == [visible(c) for c in given]
    given = ["", " ", "  ", "it", "a b", "\n", "ö" * 20, "ö" * 21, "\u202e" * 4, "\U0001f600" * 21]
    shown = run(page, "format.js", "all.label(one)", given)
    assert shown == [steps.label([token], 0) for token in given]


def test_colors(open_page):
    levels = [i / 255 for i in range(256)] + [i / 1020 for i in range(1021)]
    for theme, stops in (("light", LIGHT), ("dark", DARK)):
        page = open_page(f"theme={theme}")
        ramp = run(page, "color.js", "all.ramp(one)", levels)
        assert ramp == [list(color(x, stops)) for x in levels]
        tints = run(page, "color.js", "all.tint(one)", levels)
        assert tints == [list(color(x**0.5, stops)) for x in levels]


def test_themes():
    """The page and `wqkv see --html` have the colors of one family, each on its own ground."""
    ours = (PAGE / "style/frame.css").read_text("utf-8")
    story = (files("wqkv.draw") / "pages/story.css").read_text("utf-8")
    light, dark = (
        dict(re.findall(r"--(\w+):(#\w+)", part)) for part in story.split("@media", 2)[:2]
    )
    assert light.keys() == dark.keys()
    for name, value in light.items():
        found = re.search(rf"--{name}: light-dark\((#\w+), (#\w+)\)", ours)
        assert found is not None and found.groups() == (value, dark[name]), name
