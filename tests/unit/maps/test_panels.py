"""Lines of tokens, and pictures in gray. Where the ink lies is tested with the overlays."""

import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from wqkv.maps.panels import LINE, OnToken, draw_tokens, gray, token_lines
from wqkv.maps.scales import of_keys

FONT = {"parse_math": False}


@pytest.mark.parametrize("wide", [40.0, 130.0, 1000.0])
def test_tokens_stand_in_lines_in_their_order(wide):
    tokens = [OnToken("a" * (i % 11) + "猫" * (i % 3), i / 50) for i in range(50)]
    lines = token_lines(tokens, wide)
    assert [token for line in lines for _, _, token in line] == tokens
    for line in lines:
        ends = [at + needs for at, needs, _ in line]
        assert line[0][0] == 0 and ends[-1] <= max(wide, line[0][1])
        assert all(at > end for (at, _, _), end in zip(line[1:], ends, strict=False))
    assert len(lines) > 1 or wide == 1000


def test_each_token_is_shaded_by_its_number():
    panel, scale = Figure().subplots(), of_keys(11)
    tokens = [OnToken("none", 0.0), OnToken("all", 1.0), OnToken("here", None)]
    draw_tokens(panel, token_lines(tokens, 500), 500, scale, {ord("n"): "?"}, FONT)
    pale, full = panel.patches  # what has no number has no ground
    assert pale.get_facecolor()[:3] == (1, 1, 1)
    assert full.get_facecolor()[:3] == pytest.approx(to_rgb("#1450dc"))
    named = [(text.get_text(), text.get_color()) for text in panel.texts]
    assert named == [
        ("?o?e", "black"),
        ("0.000", "#666666"),
        ("all", "white"),
        ("1.000", "#666666"),
        ("here", "#666666"),
    ]
    assert panel.get_ylim() == (LINE, 0)


def test_a_picture_of_one_color_is_pale():
    assert gray(torch.full((3, 2, 2), 0.3)).unique().tolist() == pytest.approx([0.968])
    ends = gray(torch.tensor([0.1, 0.4]).expand(3, 1, 2))
    assert [float(end) for end in ends.aminmax()] == pytest.approx([0.6, 1.0])
