"""What is drawn of a sound: where its ink lies, where it ends, and the names over it."""

import pytest
import torch

from wqkv import Axis, KindError, overlay
from wqkv.maps.scales import of_keys

SECONDS, LENGTH = 0.02, 50  # one second in all


def drawn(numbers, **axis):
    figure = overlay(numbers, Axis(axis.pop("labels", LENGTH), seconds=SECONDS, **axis))
    return figure.axes[0]


def on(first, last):
    """Weights that lie on some positions alone."""
    numbers = torch.zeros(LENGTH)
    numbers[first:last] = 1 / (last - first)
    return numbers


def inked(panel):
    """The seconds at which the ink begins and ends."""
    shown = torch.as_tensor(panel.images[0].get_array())
    left, right, *_ = panel.images[0].get_extent()
    each = (right - left) / shown.shape[1]
    columns = (shown != shown[:, -1:]).flatten(2).any(2).any(0).nonzero().flatten().tolist()
    return left + columns[0] * each, left + (columns[-1] + 1) * each


@pytest.mark.parametrize("first, last", [(0, 3), (17, 29)])
@pytest.mark.parametrize("rate", [1600, 1000])
def test_a_window_is_inked_where_it_is(first, last, rate):
    panel = drawn(on(first, last), source=(torch.randn(rate), rate))
    assert inked(panel) == pytest.approx((first * SECONDS, last * SECONDS))
    assert panel.get_xlim() == (0, 1)


def test_a_wave_form_is_drawn_as_loud_as_it_is():
    wave = torch.zeros(1600)
    wave[400:800] = torch.linspace(-2, 1, 400)
    times, heights = drawn(on(0, 1), source=(wave, 1600)).collections[0].get_paths()[0].vertices.T
    assert heights.min() == -1 and heights.max() == pytest.approx(0.5)
    loud = times[heights != 0]
    assert loud.min() == pytest.approx(0.25, abs=0.002) and loud.max() == pytest.approx(
        0.5, abs=0.002
    )


def test_it_ends_where_the_wave_form_does():
    numbers = torch.zeros(LENGTH)
    numbers[3], numbers[35], numbers[49] = 0.5, 0.375, 0.125
    panel = drawn(numbers, source=(torch.randn(1200), 2000))  # 0.6 s
    assert panel.get_xlim() == (0, 0.6)
    assert panel.get_xlabel() == "seconds (0.5 stands behind the end)"
    assert panel.images[0].get_extent()[:2] == pytest.approx((0, 1))
    assert drawn(numbers, source=torch.rand(7, 100)).get_xlabel() == "seconds"
    assert drawn(numbers, source=(torch.randn(2400), 2000)).get_xlim() == (0, 1)


def test_it_ends_where_the_frames_of_silence_begin():
    features = torch.full((7, 2 * LENGTH), -1.5)
    features[3, :40] = 0.5
    features[2, 60] = -1.25
    numbers = torch.full((LENGTH,), 1 / LENGTH)
    panel = drawn(numbers, source=features)
    assert panel.get_xlim() == (0, pytest.approx(0.61))
    assert panel.get_xlabel() == "seconds (0.4 stands behind the end)"
    assert drawn(numbers, source=torch.zeros(7, 2 * LENGTH)).get_xlim() == (0, 1)


@pytest.mark.parametrize("frames", [400, 397])  # of the last position there may be less
def test_the_frames_of_a_position_have_its_ink(frames):
    panel = drawn(on(17, 29), source=torch.rand(7, frames) + 1)
    shown = torch.as_tensor(panel.images[0].get_array())
    blue = (shown[..., 2] > shown[..., 0] + 0.1).all(0).nonzero().flatten().tolist()
    assert blue == list(range(17 * 8, 29 * 8))
    assert panel.get_xlim()[1] == pytest.approx(frames / 400)
    assert panel.images[0].get_extent()[1] == pytest.approx(frames / 400)


def test_a_spectrogram_stands_upright():
    features = torch.zeros(7, 2 * LENGTH)
    features[0] = 1  # the lowest frequency
    shown = torch.as_tensor(drawn(torch.zeros(LENGTH), source=features).images[0].get_array())
    assert bool((shown[-1] < shown[0]).all()) and torch.equal(shown[0], shown[1])


def test_names_stand_over_their_seconds():
    labels = ["a"] * 10 + [""] * 5 + ["bc"] * 20 + ["d"] + ["$e"] * 14
    panel = drawn(on(0, 1), labels=labels, source=(torch.randn(1600), 2000))  # ends at 0.8 s
    written = [(one.get_text(), one.get_position()[0]) for one in panel.texts]
    assert written == [
        ("a", pytest.approx(0.1)), ("bc", pytest.approx(0.5)), ("$e", pytest.approx(0.76))
    ]  # fmt: skip
    assert not panel.texts[2].get_parse_math()
    lines = [line.get_xdata()[0] for line in panel.lines]
    assert lines == pytest.approx([0, 0.2, 0.3, 0.7, 0.72, 0.8])
    assert not drawn(on(0, 1)).texts  # each position has a name of its own


def test_names_without_room_stand_on_a_second_line():
    labels = ["one"] * 20 + ["a name that is long"] * 2 + ["another long one"] * 2 + ["end"] * 26
    heights = [one.get_position()[1] for one in drawn(on(0, 1), labels=labels).texts]
    assert heights[0] == heights[1] == heights[3] < heights[2]


def test_padding_has_no_ink():
    places = torch.arange(LENGTH)
    places[30:] = -1
    axis = Axis(30, seconds=SECONDS, source=(torch.randn(960), 1600), places=places)
    panel = overlay(torch.full((LENGTH,), 1 / LENGTH), axis).axes[0]
    assert panel.get_xlim() == (0, 0.6) and panel.get_xlabel() == "seconds"


@pytest.mark.parametrize(
    "source, said",
    [
        (torch.rand(3, 7, 11), r"no spectrogram[\s\S]*3, 7, 11"),
        ((torch.rand(2, 77), 16_000), r"no wave form[\s\S]*2, 77"),
        ((torch.rand(0), 16_000), r"no wave form[\s\S]*\[0\]"),
    ],
)
def test_other_sources_are_refused(source, said):
    with pytest.raises(KindError, match=said):
        drawn(on(0, 1), source=source)


def test_even_weights_are_pale():
    even = torch.full((LENGTH,), 1 / LENGTH)
    shown = torch.as_tensor(drawn(even).images[0].get_array())
    ink, share = of_keys(LENGTH).ink(even)
    torch.testing.assert_close(shown[0], 1 + (ink - 1) * share[:, None])
    assert share[0] < 0.2
