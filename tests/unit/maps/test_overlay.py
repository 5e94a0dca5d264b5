"""Overlays: where the ink lies, what the figure says of it, and what is left out of it."""

import sys

import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle
from PIL import Image

from wqkv import AttentionMap, Axis, overlay
from wqkv.errors import MissingExtraError
from wqkv.maps.scales import of_keys

ROWS, COLUMNS, HEIGHT, WIDTH = 3, 5, 33, 70
CELLS = ROWS * COLUMNS


def picture() -> torch.Tensor:
    return torch.rand(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))


def all_on(at: int, n: int) -> torch.Tensor:
    weights = torch.zeros(n)
    weights[at] = 1
    return weights


def panels(figure):
    return [axes for axes in figure.axes if axes.images and axes.get_title()]


def pixels(panel) -> torch.Tensor:
    return torch.from_numpy(np.asarray(panel.images[0].get_array()))


def inked(panel) -> torch.Tensor:
    """Which pixels have a color: all others are gray."""
    return pixels(panel).amax(-1) - pixels(panel).amin(-1) > 0.02


def texts(figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def says(figure) -> str:
    return figure.get_supxlabel().replace("\n", " ")


# Where the ink lies

BEFORE = {
    "none": (),
    "[CLS]": (Axis(["[CLS]"]),),
    "registers": (Axis(["[CLS]", "reg 1", "reg 2"]),),
}
SOURCES = {
    "a tensor": picture(),
    "one channel": picture()[:1],
    "an array": picture().movedim(0, -1).numpy(),
    "normalized": picture() * 4 - 2,
    "Pillow": Image.fromarray((picture().movedim(0, -1) * 255).byte().numpy()),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
def test_the_ink_lies_on_the_cell_and_nowhere_else(before, source):
    axis = Axis(CELLS, grid=(ROWS, COLUMNS), source=source)
    first = sum(map(len, before))
    figure = overlay(all_on(first + 2 * COLUMNS + 3, first + CELLS), (*before, axis))
    (panel,) = panels(figure)
    expected = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    expected[22:33, 42:56] = True
    assert torch.equal(inked(panel), expected)


def test_a_position_may_stand_on_any_cell():
    places = torch.tensor([7, -1, 0])
    axis = Axis(CELLS, grid=(ROWS, COLUMNS), source=picture(), places=places)
    figure = overlay(all_on(0, 3), axis)
    (panel,) = panels(figure)
    assert inked(panel)[11:22, 28:42].all() and not inked(panel)[:11].any()
    # where no position stands the picture is faded
    assert pixels(panel)[22:].min() > 0.85 > pixels(panel)[:11, :14].min()
    assert "faded: without a number" in says(figure)


def test_windows_of_one_picture_are_one_picture():
    source, cells = picture(), torch.arange(CELLS)

    def windows(*places: torch.Tensor) -> list[Axis]:
        return [Axis(CELLS, grid=(ROWS, COLUMNS), source=source, places=p) for p in places]

    weights = torch.stack([all_on(0, 7), all_on(3, 7)])
    (panel,) = panels(overlay(weights, windows(cells[:14:2], cells[1:14:2])))
    assert inked(panel)[:11, :14].all() and inked(panel)[11:22, 28:42].all()
    # what stands on one cell twice cannot be drawn as one
    assert len(panels(overlay(weights, windows(cells[:7], cells[6:13])))) == 2


def test_smooth_is_stated_and_has_its_peak_in_the_middle_of_the_cell():
    axis = Axis(CELLS, grid=(ROWS, COLUMNS), source=torch.zeros(3, 30, 50))
    figures = [overlay(all_on(7, CELLS), axis, smooth=smooth) for smooth in (False, True)]
    flat, smooth = (pixels(panels(figure)[0]) for figure in figures)
    assert len(flat.flatten(0, 1).unique(dim=0)) == 2
    blueness = smooth[..., 2] - smooth[..., 0]
    assert blueness[14:16, 24:26].min() == blueness.max()
    assert (blueness[15, 5:25].diff() >= 0).all() and blueness[15, 12] == 0
    assert "one color for each cell" in says(figures[0])
    assert "bilinear between the centers" in says(figures[1])


def test_without_a_picture_the_cells_lie_on_a_plain_ground():
    (panel,) = panels(overlay(all_on(7, CELLS), Axis(CELLS, grid=(ROWS, COLUMNS))))
    ink = inked(panel)
    assert ink.float().mean() == pytest.approx(1 / CELLS)
    assert ink[ink.shape[0] // 2, ink.shape[1] // 2]


def test_a_large_picture_is_drawn_smaller():
    axis = Axis(4, grid=(2, 2), source=torch.rand(1, 1500, 3000))
    (panel,) = panels(overlay(all_on(1, 4), axis))
    assert pixels(panel).shape == (512, 1024, 3)
    assert inked(panel)[:256, 512:].all() and not inked(panel)[:, :512].any()


@pytest.mark.parametrize("light", [0.02, 0.5, 1.0])
def test_dark_and_bright_pictures_leave_room_for_the_ink(light):
    source = torch.rand(3, 20, 20) * light
    source[:, 5, 15], source[:, 6, 15] = 0, light
    axis = Axis(4, grid=(2, 2), source=source)
    shown = pixels(panels(overlay(all_on(0, 4), axis))[0])[:, 10:]
    assert shown.min() == pytest.approx(0.6, abs=0.01) and shown.max() == pytest.approx(1)


# Scales


def test_one_scale_for_every_head():
    axis = Axis(CELLS, grid=(ROWS, COLUMNS), source=torch.zeros(1, HEIGHT, WIDTH))
    even, sharp = torch.full((CELLS,), 1 / CELLS), torch.zeros(CELLS)
    sharp[3], sharp[4] = 1 - 1 / CELLS, 1 / CELLS
    pale, full = (pixels(panels(overlay(w, axis))[0]) for w in (even, sharp))
    assert len(pale.flatten(0, 1).unique(dim=0)) == 1  # an even head is even
    assert torch.equal(pale[0, -1], full[0, -1])  # and the same weight has the same color
    legend = overlay(even, axis).axes[-1]
    named = [text.get_text() for text in legend.get_xticklabels()]
    assert named == [name for _, name in of_keys(CELLS).marks()] and f"even (1/{CELLS})" in named


def test_signed_numbers_are_orange_and_blue():
    axis = Axis(CELLS, grid=(ROWS, COLUMNS), source=picture())
    numbers = torch.zeros(CELLS)
    numbers[0], numbers[1], numbers[2] = -0.4, 0.4, torch.nan
    figure = overlay(numbers, axis)
    shown = pixels(panels(figure)[0])
    assert (shown[:11, :14, 0] > shown[:11, :14, 2]).all()
    assert (shown[:11, 14:28, 0] < shown[:11, 14:28, 2]).all()
    assert not inked(panels(figure)[0])[:, 28:].any()
    assert "0.4 is the largest size" in says(figure)


def test_other_numbers_go_up_to_the_largest():
    figure = overlay(torch.tensor([0.5, 7.0, 2.0]), Axis(["a", "b", "c"]))
    assert "from 0 to 7, by the square root" in says(figure)
    assert texts(figure) == ["a", "0.500", "b", "7.00", "c", "2.00"]
    # numbers of several samples are no weights of one query
    both = overlay(torch.tensor([[0.25, 0.0], [0.0, 0.5]]), [Axis(["a", "b"]), Axis(["c", "d"])])
    assert "from 0 to 0.5, by the square root" in says(both)


# Queries


def asked_map(queries: tuple[Axis, ...], keys: tuple[Axis, ...]) -> AttentionMap:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 2, sum(map(len, x)), 4, generator=generator) for x in (queries, keys))
    return AttentionMap(q, k, query_offset=0).on(queries=queries, keys=keys)


def framed(panel) -> list[tuple[float, ...]]:
    return [
        (*patch.get_xy(), patch.get_width(), patch.get_height())
        for patch in panel.patches
        if isinstance(patch, Rectangle)
    ]


def test_the_querys_own_cell_is_framed_on_its_own_picture():
    first, other = (Axis(CELLS, grid=(ROWS, COLUMNS), source=picture()) for _ in range(2))
    parts = (Axis(["look"]), first, Axis(["and"]), other)
    m = asked_map(parts, parts)
    figure = m.overlay(2 + CELLS + 7, 1)
    one, two = panels(figure)
    assert framed(one) == [] and framed(two) == [(27.5, 10.5, 14, 11)]
    assert "framed: the query" in says(figure)
    assert figure.get_suptitle() == "1,2, head 1"
    assert [framed(panel) for panel in panels(m.overlay("and", 0))] == [[], []]
    # the weights are those of the query
    weight = float(m[0, 1, 2 + CELLS + 7, 0])
    assert texts(figure)[:2] == ["look", f"{weight:.3f}"]


def test_a_query_stands_where_its_axis_says():
    source = picture()
    queries, keys = (
        Axis(CELLS, grid=(ROWS, COLUMNS), source=source, places=torch.arange(CELLS).flip(0))
        for _ in range(2)
    )
    m = asked_map((queries,), (keys,))
    assert framed(panels(m.overlay(0, 0))[0]) == [(55.5, 21.5, 14, 11)]
    assert framed(panels(m.overlay((0, 0), 0))[0]) == [(-0.5, -0.5, 14, 11)]
    # on another grid of the same picture there is no such cell
    coarse = Axis(1, grid=(1, 1), source=source)
    assert framed(panels(asked_map((queries,), (coarse,)).overlay(0, 0))[0]) == []


def test_weights_have_their_scale_and_effects_another():
    axis = (Axis(CELLS, grid=(ROWS, COLUMNS), source=picture()),)
    m = asked_map(axis, axis)
    assert "by log(1 + n w)" in says(m.overlay(3, 0))
    v = torch.randn(1, 2, CELLS, 4, generator=torch.Generator().manual_seed(0))
    effects = m.effects(v, torch.zeros_like(v), torch.ones_like(v))
    assert effects[0, 0, 3].min() < 0 < effects[0, 0, 3].max()
    top = effects[0, 0, 3].abs().max()
    assert f"{top:.3g} is the largest size" in says(effects.overlay(3, 0))
    # what links add is no share of anything, however small it is
    adds = m.contributions(v, torch.full((2, 4, 3), 1e-3))
    assert f"from 0 to {adds[0, 0, 3].max():.3g}" in says(adds.overlay(3, 0))


# Several pictures, frames, tokens and sounds


def test_each_picture_is_a_panel_and_the_tokens_stand_below():
    parts = (
        Axis(["[CLS]", "Look", " at"]),
        Axis(4, grid=(2, 2), source=picture()),
        Axis(["and"]),
        Axis(2, grid=(1, 2), source=picture()),
        Axis(["$x_$"]),
    )
    figure = overlay(all_on(4, 11), parts, title="$")
    assert [panel.get_title() for panel in panels(figure)] == ["picture 1", "picture 2"]
    shown = texts(figure)
    assert shown == [
        *("[CLS]", "0.000", "Look", "0.000", " at", "0.000", "[picture 1]"),
        *("and", "0.000", "[picture 2]", "$x_$", "0.000"),
    ]


def test_a_video_has_a_panel_for_each_frame_and_no_more_than_eight():
    source = torch.rand(22, 3, 12, 20)
    axis = Axis(11 * 6, grid=(11, 2, 3), source=source)
    weights = torch.zeros(11, 6)
    weights[1:9, 2] = torch.arange(1, 9) / 36
    figure = overlay(weights.flatten(), axis)
    named = [panel.get_title().rpartition(", ")[2] for panel in panels(figure)]
    assert named == [f"frame {i}" for i in range(1, 9)]
    assert "8 of 11 pictures, those with the most" in says(figure)
    assert all(inked(panel)[:6, 14:].all() for panel in panels(figure))


def test_of_many_tokens_the_heaviest_are_drawn():
    n = 1000
    weights = torch.zeros(n)
    weights[500:700] = 1 / 200
    weights[0] = 1e-3
    figure = overlay(weights, Axis([f"t{i}" for i in range(n)]))
    shown = [text for text in texts(figure) if text.startswith("t") or text == "…"]
    drawn = [text for text in shown if text != "…"]
    assert len(drawn) == 256 and {"t0", *(f"t{i}" for i in range(500, 700))} <= set(drawn)
    order = [int(text[1:]) for text in drawn]
    assert order == sorted(order)
    gaps = sum(b - a > 1 for a, b in zip([-1, *order], [*order, n], strict=True))
    assert shown.count("…") in (gaps, gaps - 1)
    assert "256 of 1000 tokens, those with the most" in says(figure)


def test_padding_is_no_token():
    axis = Axis(["a", "b"], places=torch.tensor([0, -1, 1]))
    assert texts(overlay(torch.tensor([0.5, 0.0, 0.5]), axis)) == ["a", "0.500", "b", "0.500"]


SOUNDS = {
    "none": None,
    "a wave form": (torch.randn(1600), 1600),
    "features": torch.rand(8, 100),
}


@pytest.mark.parametrize("source", SOUNDS.values(), ids=SOUNDS)
def test_a_sound_has_its_numbers_over_seconds(source):
    figure = overlay(all_on(7, 50), Axis(50, seconds=0.02, source=source))
    panel, _ = figure.axes
    assert panel.get_xlabel() == "seconds" and panel.get_xlim() == (0, 1)
    left, right, *_ = panel.images[0].get_extent()
    color = inked(panel)
    at = (torch.arange(color.shape[1]) + 0.5) * (right - left) / color.shape[1]
    assert torch.equal(color.all(0), (at > 0.14) & (at < 0.16))
    assert torch.equal(color.any(0), color.all(0))


def test_an_overlay_needs_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"An overlay needs the package `matplotlib`"):
        overlay(torch.ones(1), Axis(["a"]))
