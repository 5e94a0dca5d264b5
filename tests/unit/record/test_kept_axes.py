"""The axes of a map through the JSON text of a recording."""

import json

import torch

from wqkv.maps.axis import UNKNOWN, Axes, Axis, known
from wqkv.record.kept_axes import read_axes, write_axes


def there_and_back(axes):
    tensors = []

    def add(name, x):
        tensors.append(x)
        return len(tensors) - 1

    told = json.loads(json.dumps(write_axes(axes, add)))
    return read_axes(told, lambda number: tensors[number]), tensors


def test_every_field_comes_back():
    picture, sound = torch.rand(3, 4, 4), torch.rand(7)
    first = (
        Axis(["[CLS]"]),
        Axis(4, grid=(2, 2), source=picture, places=torch.tensor([3, -1, 0])),
        Axis(3, seconds=0.02, source=(sound, 16000)),
    )
    second = (Axis(list("abcdefg"), source="no tensor"),)
    axes = Axes(known([first, second, first]), known(None))
    made, tensors = there_and_back(axes)
    assert made.keys() is None and len(tensors) == 2
    a, b, c = made.queries()
    assert a is c and [len(one) for one in a] == [1, 3, 3] and b[0].labels == tuple("abcdefg")
    assert a[1].grid == (2, 2) and torch.equal(a[1].places, first[1].places)
    assert a[1].numbered and a[1].source is picture and b[0].source is None
    assert a[2].seconds == 0.02 and a[2].source[0] is sound and a[2].source[1] == 16000


def test_a_recording_without_axes():
    assert there_and_back(UNKNOWN)[0].queries() is None
    assert read_axes(None, lambda number: torch.zeros(0)).keys() is None
