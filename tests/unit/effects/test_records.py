"""What a link's numbers say about each other."""

import math
from dataclasses import replace

import pytest

from wqkv.effects.records import LARGE_CHANGE, LARGE_MOVE, LinkEffect

LINK = LinkEffect("text", 2, 3, 7, 5, weight=0.11, predicted=-2.0, change=0.13)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, ""),
        ({"change": LARGE_CHANGE}, ""),
        ({"change": LARGE_CHANGE * 1.01}, "large local change"),
        ({"change": math.nan}, "large local change"),  # a hidden state of length 0
        ({"block": -2.0}, ""),
        ({"block": -2.0 * (1 - LARGE_MOVE * 0.99)}, ""),
        ({"block": -2.0 * (1 - LARGE_MOVE * 1.01)}, "its own block says otherwise"),
        ({"block": -2.0 / (1 - LARGE_MOVE * 1.01)}, "its own block says otherwise"),
        ({"block": 2.0}, "its own block says otherwise"),
        ({"block": 2.0, "change": 1.0}, "large local change"),
        ({"predicted": 0.0, "block": 0.0}, ""),
    ],
)
def test_warning(given, says):
    assert replace(LINK, **given).warning == says


@pytest.mark.parametrize(
    ("true", "says"),
    [
        (None, ""),
        (math.nan, ""),
        (-2.0, ""),
        (-1.34, ""),
        (-1.33, "prediction too large"),
        (-3.99, ""),
        (-4.01, "prediction too small"),
        (0.1, "wrong sign"),
        (11.0, "wrong sign"),
        (0.0, "prediction too large"),
    ],
)
def test_miss(true, says):
    assert replace(LINK, true=true).miss == says
