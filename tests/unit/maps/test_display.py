import math

import pytest

from wqkv.maps import display


@pytest.mark.parametrize("stops", [display.LIGHT, display.DARK])
def test_color(stops):
    assert [display.color(level, stops) for level in (0.0, 0.5, 1.0)] == list(stops)
    levels = [display.color(level / 255, stops) for level in range(256)]
    brightness = [sum(one) for one in levels]
    assert brightness == sorted(brightness, reverse=stops is display.LIGHT)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (-4.2149, "-4.21"),
        (-0.001, "0.00"),
        (31415.9, "3.1e+04"),
        (-math.inf, "-inf"),
        (math.nan, "nan"),
    ],
)
def test_number(value, shown):
    assert display.number(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.6774, "0.677"), (0.0, "0.000"), (0.0005, "0.001"), (4.2e-6, "4.2e-06"), (math.nan, "nan")],
)
def test_weight(value, shown):
    assert display.weight(value) == shown


@pytest.mark.parametrize(
    ("token", "encoding", "shown"),
    [
        ("[CLS]", "utf-8", "[CLS]"),
        ("", "utf-8", "''"),
        ("  ", "utf-8", "'  '"),
        ("a\n\tb", "utf-8", r"a\n\tb"),
        ("\x1b[31m", "utf-8", r"\x1b[31m"),
        ("\u202eabc", "utf-8", r"\u202eabc"),
        ("\ud800", "utf-8", r"\ud800"),
        ("猫", "utf-8", "猫"),
        ("猫é", "latin-1", r"\u732bé"),
    ],
)
def test_visible(token, encoding, shown):
    assert display.visible(token, encoding) == shown
