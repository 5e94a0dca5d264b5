"""What the positions of a map are: names, cells, pixels, and what a map says of them."""

import copy
import pickle
import re

import numpy as np
import pytest
import torch
from PIL import Image

import wqkv
from wqkv import ArgumentError, AttentionMap, Axis, KindError
from wqkv.maps.axis import as_picture


def a_map(batch: int = 1, queries: int = 5, keys: int = 5) -> AttentionMap:
    torch.manual_seed(0)
    return AttentionMap(
        torch.randn(batch, 2, queries, 8), torch.randn(batch, 2, keys, 8), query_offset=0
    )


@pytest.mark.parametrize(
    ("axis", "labels", "says"),
    [
        (Axis(["the", "cat"]), ("the", "cat"), "Axis(2 positions, the cat)"),
        (Axis(3), ("0", "1", "2"), "Axis(3 positions, 0 1 2)"),
        (Axis(2, seconds=0.02), ("0.00 s", "0.02 s"), "Axis(2 positions, of 0.02 s each)"),
        (Axis(2, grid=(2, 1)), ("0,0", "1,0"), "Axis(2 positions, on a grid of 2 x 1)"),
        (
            Axis(2, grid=(1, 1, 2)),
            ("0,0,0", "0,0,1"),
            "Axis(2 positions, on a grid of 1 x 1 x 2)",
        ),
        (Axis(list("abcdef")), tuple("abcdef"), "Axis(6 positions, a b c d ...)"),
        (Axis(0), (), "Axis(0 positions)"),
    ],
)
def test_names(axis, labels, says):
    assert axis.labels == labels and repr(axis) == says


def test_places_put_positions_on_cells():
    axis = Axis(6, grid=(2, 3), places=torch.tensor([4, -1, 0]))
    assert len(axis) == 3 and axis.count == 6
    assert [axis.label(at) for at in range(3)] == ["1,1", "", "0,0"]
    assert axis.position(4) == 0 and axis.position(5) is None
    assert axis.cell(1, 1) == 4 and axis.cell(2, 0) is None and axis.cell(0) is None
    found = axis.cells(torch.tensor([[7, 8, 9], [1, 2, 3]]))
    assert found[0].nan_to_num(-1).tolist() == [[9, -1, -1], [-1, 7, -1]]
    assert found[1].nan_to_num(-1).tolist() == [[3, -1, -1], [-1, 1, -1]]
    assert Axis(6, grid=(2, 3)).position(9) is None
    assert Axis(["a"]).cell(0, 0) is None


def test_cells_keep_their_numbers():
    numbers = torch.randn(2, 6)
    assert torch.equal(Axis(6, grid=(2, 3)).cells(numbers), numbers.view(2, 2, 3))
    assert torch.equal(Axis(6).cells(numbers), numbers)


def test_a_pixel_has_the_number_of_its_cell():
    axis = Axis(6, grid=(2, 3), source=torch.zeros(3, 8, 6))
    found = axis.pixels(torch.arange(6.0))
    assert torch.equal(
        found, axis.cells(torch.arange(6.0)).repeat_interleave(4, 0).repeat_interleave(2, 1)
    )
    smooth = axis.pixels(torch.arange(6.0), smooth=True)
    assert smooth.shape == (8, 6) and smooth[0, 0] == 0 and smooth[7, 5] == 5
    assert smooth[3, 2] != found[3, 2]
    video = Axis(12, grid=(2, 2, 3), source=torch.zeros(2, 3, 4, 6))
    assert video.pixels(torch.arange(12.0)).shape == (2, 4, 6)
    assert video.pixels(torch.arange(12.0))[1, 0, 0] == 6


@pytest.mark.parametrize(
    ("source", "corner"),
    [
        (torch.tensor([[[0.0, 0.25]], [[1, 1]], [[0, 0]]]), [0.25, 1, 0]),
        (torch.tensor([[0, 51]], dtype=torch.uint8), [0.2, 0.2, 0.2]),
        (np.array([[[0, 0, 0], [255, 0, 51]]], np.uint8), [1, 0, 0.2]),
        (Image.new("RGB", (2, 1), (255, 0, 51)), [1, 0, 0.2]),
        (Image.new("RGBA", (2, 1), (255, 0, 51, 7)), [1, 0, 0.2]),
        (torch.tensor([[[-2.0, 2.0]]]), [1, 1, 1]),  # normalized for a model
    ],
)
def test_pictures_of_every_kind(source, corner):
    found = as_picture(source)
    assert found.shape == (3, 1, 2) and found[:, 0, 1].tolist() == pytest.approx(corner)
    assert Axis(2, grid=(1, 2), source=source).picture().equal(found)


def test_what_is_no_picture():
    assert Axis(2).picture() is None and Axis(2, seconds=1, source=([0.5], 2)).picture() is None
    with pytest.raises(KindError, match=r"`source` is .* which is no picture"):
        as_picture("x")
    with pytest.raises(KindError, match=r"no picture\.\n  source: f32\[5, 7, 7\]"):
        as_picture(torch.zeros(5, 7, 7))
    with pytest.raises(ArgumentError, match="has no picture with a grid"):
        Axis(2, grid=(1, 2)).pixels(torch.zeros(2))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Axis(-1), "`labels` is -1, how many there are"),
        (lambda: Axis(6, grid=(2, 2)), "A grid of 2 x 2 has 4 cells, and there are 6 labels"),
        (lambda: Axis(6, grid=(6,)), "`grid` is (6,)"),
        (lambda: Axis(0, grid=(0, 2)), "`grid` is (0, 2)"),
        (lambda: Axis(2, seconds=0.0), "`seconds` is 0.0, how long one position lasts"),
        (
            lambda: Axis(3, places=torch.tensor([0, 3])),
            "`places` goes from 0 to 3, and the cells from 0 to 2",
        ),
        (lambda: Axis(3, places=torch.tensor([1, 1])), "`places` sets two positions on one cell"),
        (lambda: Axis(3, places=torch.zeros(2)), "`places` is no list of cells.\n  places: f32[2]"),
        (lambda: Axis(3).label(3), "There is no position 3: the axis has 3"),
        (lambda: Axis(3).cells(torch.zeros(2)), "There are 3 positions.\n  numbers: f32[2]"),
    ],
)
def test_what_cannot_be(make, says):
    with pytest.raises((ArgumentError, KindError), match=re.escape(says)):
        make()


# Of a map

PICTURE = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
PATCHES = Axis(4, grid=(2, 2), source=PICTURE)
CLS = Axis(["[CLS]"])


def test_a_map_tells_what_it_was_told():
    m = a_map()
    assert m.keys is None and m.queries is None
    named = m.on(keys=(CLS, PATCHES))
    assert named.keys == (CLS, PATCHES) and named.queries is None and m.keys is None
    both = named.on(queries=Axis(5))
    assert both.keys == (CLS, PATCHES) and len(both.queries) == 5
    assert torch.equal(both[:], m[:])
    other = Axis(5)
    two = a_map(2).on(keys=[other, (CLS, PATCHES)])
    assert two.keys == [other, (CLS, PATCHES)]
    assert a_map(2).on(keys=other).keys is other


def test_what_is_made_of_a_map_has_its_axes():
    m = a_map().on(keys=(CLS, PATCHES), queries=Axis(5))
    value, WO = torch.randn(1, 2, 5, 8), torch.randn(2, 8, 3)
    made = [
        m.contributions(value, WO),
        m.split(value, WO, torch.randn(3)),
        m.gradients(value, value, value),
        m.effects(value, value, value),
        m.flat(),
        copy.copy(m),
    ]
    assert all(one.keys == m.keys and one.queries is m.queries for one in made)
    again = pickle.loads(pickle.dumps(m))
    assert [a.labels for a in again.keys] == [a.labels for a in m.keys]
    assert torch.equal(again.keys[1].source, PICTURE)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"keys": Axis(4)}, "`keys` names 4 positions, and there are 5."),
        ({"keys": (CLS, Axis(3))}, "`keys` names 1 + 3 positions, and there are 5."),
        ({"queries": [Axis(5)] * 2}, "`queries` is a list of 2, and there are 1 samples."),
    ],
)
def test_axes_that_do_not_fit(given, says):
    with pytest.raises(ArgumentError, match=re.escape(says)):
        a_map().on(**given)


def test_a_query_by_position_cell_or_name():
    m = a_map().on(keys=(CLS, PATCHES), queries=(CLS, PATCHES))
    assert m._asked(-1, 0) == (0, 4) and m._asked((1, 0), 0) == (0, 3)
    assert m._asked("[CLS]", 0) == (0, 0) and m._asked("1,1", 0) == (0, 4)
    text = a_map().on(queries=Axis(["Ġthe", "▁cat", " sat", "a", "a"]))
    assert [text._asked(one, 0)[1] for one in ("the", "cat", "sat")] == [0, 1, 2]
    with pytest.raises(ArgumentError, match="'a' names the queries 3, 4"):
        text.overlay("a", 0, 0) if text.keys else text._asked("a", 0)
    with pytest.raises(ArgumentError, match=r"There is no query \(2, 0\) among"):
        m._asked((2, 0), 0)
    with pytest.raises(ArgumentError, match="so there is no 'cat'"):
        a_map()._asked("cat", 0)
    with pytest.raises(ArgumentError, match="It is not known what the keys of this map are"):
        a_map().overlay(0, 0)


def test_a_cell_finds_its_window():
    windows = [
        Axis(4, grid=(2, 2), source=PICTURE, places=torch.tensor(places))
        for places in ([0, 2], [3, 1])
    ]
    m = a_map(2, 2, 2).on(keys=windows, queries=windows)
    assert [m._asked(at, 0) for at in ((0, 0), (1, 0), (1, 1), (0, 1))] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    ]
    with pytest.raises(ArgumentError, match="There is no query"):
        m._asked((0, 0), 1)


def test_overlays_are_figures():
    from matplotlib.figure import Figure

    m = a_map().on(keys=(CLS, PATCHES), queries=(CLS, PATCHES))
    assert isinstance(m.overlay((0, 1), 1), Figure)
    assert isinstance(wqkv.overlay(m.received()[0, 0], m.keys, smooth=True), Figure)
    with pytest.raises(ArgumentError, match=r"`numbers` has too many axes\.\n.*f32\[1, 1, 5\]"):
        wqkv.overlay(torch.zeros(1, 1, 5), m.keys)
