"""A mask matrix becomes a value only if every entry agrees."""

import pytest
import torch

from wqkv.attend.masks import Causal, Dense, Full, Lengths, Prefix, Segments, Window
from wqkv.record.mask_pattern import (
    Pattern,
    agrees,
    extend,
    of_tensor,
    pattern_of,
    recognize,
    rows_of,
)

MASKS = [
    Full(),
    Causal(),
    Window(2, 0),
    Window(1, 3),
    Window(2, None),
    Causal() & Lengths([5, 11]),
    Full() & ~Lengths([0, 4]) & Lengths([9, 11]),
    Window(3, 0) & ~Lengths([2, 0]),
    Causal() & Segments([[0] * 4 + [1] * 5 + [2] * 2]),
    Full() & Segments([[0] * 4 + [1] * 5 + [2] * 2]),
    Prefix([3, 5]),
]


@pytest.mark.parametrize("mask", MASKS, ids=repr)
@pytest.mark.parametrize("additive", [False, True])
def test_a_matrix_is_recognized(mask, additive):
    matrix = mask.dense(11, 11)
    given = torch.zeros(matrix.shape).masked_fill(~matrix, -1e9) if additive else matrix
    visible, bias = of_tensor(given, 11, 11)
    assert bias is None
    pattern = recognize(visible, 0)
    assert pattern is not None
    assert torch.equal(pattern.mask().dense(11, 11).expand_as(matrix), matrix)
    assert "Dense" not in repr(pattern.mask())


def test_one_wrong_entry_is_not_recognized():
    matrix = Causal().dense(11, 11).clone()
    matrix[0, 0, 6, 2] = False
    assert recognize(of_tensor(matrix, 11, 11)[0], 0) is None


def test_a_float_mask_with_other_values_is_a_bias():
    values = torch.zeros(1, 1, 5, 5).masked_fill(~Causal().dense(5, 5), -1e9)
    values[0, 0, 3, 1] = 0.5
    visible, bias = of_tensor(values, 5, 5)
    assert bias is values
    assert recognize(visible, 0).mask() == Causal()


def test_a_pattern_must_hold_for_later_rows():
    window = Pattern(before=2, after=0)
    full = rows_of(Full(), 1, 6, 5, torch.device("cpu"))
    assert extend(window, full, 5, 0) is None
    last = rows_of(Window(2, 0), 1, 6, 5, torch.device("cpu"))
    assert extend(window, last, 5, 0) is window
    assert extend(Pattern(after=0), last, 5, 0) is None  # earlier rows saw more than a window
    reached = rows_of(Window(4, 0), 1, 6, 5, torch.device("cpu"))
    assert extend(Pattern(after=0), reached, 5, 0).before == 4
    assert agrees(Causal(), rows_of(Causal(), 3, 5, 2, torch.device("cpu")), 2)
    assert not agrees(Causal(), rows_of(Causal(), 3, 5, 2, torch.device("cpu")), 1)


@pytest.mark.parametrize(
    "mask", [*MASKS, ~Lengths([3]), Segments([[7] * 5 + [2] * 6, [5] + [4] * 10])], ids=repr
)
def test_a_value_is_read_off(mask):
    assert torch.equal(pattern_of(mask).mask().dense(11, 11), mask.dense(11, 11))


@pytest.mark.parametrize(
    "mask",
    [
        ~Causal(),
        Causal() | Prefix(3),
        Causal() & Window(3, 0),  # as one they would be another window
        Causal() & Dense(torch.eye(11, dtype=torch.bool)),
        Segments([[0, 1, 0]]),
        Segments([[0, 0, 1]], [[1, 0, 0]]),
    ],
    ids=repr,
)
def test_a_value_that_is_no_pattern(mask):
    assert pattern_of(mask) is None
