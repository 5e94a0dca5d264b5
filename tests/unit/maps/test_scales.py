import math
from itertools import pairwise

import pytest
import torch

from wqkv.maps.display import LIGHT
from wqkv.maps.png import BLUE, ORANGE
from wqkv.maps.scales import WEIGHTS, Scale, of_keys, scale_of, signed, up_to

ALL = [WEIGHTS, up_to(7.5), of_keys(1), of_keys(2), of_keys(197), of_keys(65536), signed(0.03)]


@pytest.mark.parametrize("scale", ALL)
def test_the_legend_goes_from_end_to_end(scale):
    levels = [level for level, _ in scale.marks()]
    assert levels[0] == pytest.approx(0) and levels[-1] == pytest.approx(1)
    assert all(b - a > 0.05 for a, b in pairwise(levels))


@pytest.mark.parametrize("scale", ALL)
def test_the_more_the_higher_and_nothing_is_off_the_scale(scale):
    (low, _), (high, _) = scale.ticks[0], scale.ticks[-1]
    levels = scale.levels(torch.linspace(low, high, 101))
    assert (levels.diff() >= 0).all() and levels[-1] > levels[0]
    odd = scale.levels(torch.tensor([math.inf, -math.inf, math.nan]))
    assert odd[:2].tolist() == [1, 0] and odd[2].isnan()


@pytest.mark.parametrize("n", [2, 11, 197, 65536])
def test_an_even_head_is_pale_and_one_key_is_full_at_any_length(n):
    even, sharp = of_keys(n).levels(torch.tensor([1 / n, 1.0]))
    assert even == pytest.approx(math.log(2) / math.log(1 + n)) and sharp == 1
    assert f"even (1/{n})" in [name for _, name in of_keys(n).ticks]


def test_marks_that_are_too_near_are_left_out():
    named = [[name for _, name in of_keys(n).marks()] for n in (11, 90, 65536)]
    assert named == [
        ["0", "even (1/11)", "1"],
        ["0", "even (1/90)", "0.1", "1"],
        ["0", "even (1/65536)", "0.01", "0.1", "1"],
    ]


def test_colors_go_from_the_first_stop_to_the_last():
    colors = WEIGHTS.colors()
    assert (colors[0], colors[127], colors[-1]) == LIGHT
    assert (signed(1).colors()[0], signed(1).colors()[-1]) == (ORANGE, BLUE)


def ends(scale: Scale) -> list[float]:
    return [value for value, _ in scale.ticks][:: len(scale.ticks) - 1]


def test_any_numbers_have_a_scale():
    assert ends(scale_of([torch.tensor([0.5, 3.0]), torch.tensor([2.0])])) == [0, 3]
    assert ends(scale_of([torch.tensor([0.5, math.nan]), torch.tensor([-2.0])])) == [-2, 2]
    assert ends(scale_of([])) == ends(scale_of([torch.zeros(3)])) == [0, 1]
