"""Orders of cells, beside what the libraries' own functions make of the numbers of cells."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.hiera.modeling_hiera import unroll
from transformers.models.swin.modeling_swin import window_partition
from transformers.models.vitdet.modeling_vitdet import window_partition as padded_partition
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

from wqkv.record.inputs.places import cells, merged, padded, rolled, sparse, unrolled, windows

SIDES = st.integers(1, 7)


@given(SIDES, SIDES, st.integers(1, 4), st.integers(0, 3))
def test_shifted_windows_of_swin(rows, columns, size, shift):
    numbers = rolled(cells((rows * size, columns * size)), (shift, shift))
    own = window_partition(numbers[None, ..., None], size).flatten(1)
    assert torch.equal(windows(numbers, (size, size)), own)


@given(SIDES, SIDES, st.integers(1, 4))
def test_padded_windows_of_vitdet(rows, columns, size):
    own, whole = padded_partition(cells((rows, columns))[None, ..., None] + 1, size)
    numbers = padded(cells((rows, columns)), (size, size))
    assert tuple(numbers.shape) == whole
    assert torch.equal(windows(numbers, (size, size)), own.flatten(1) - 1)


@given(SIDES, SIDES, st.integers(1, 3), st.integers(1, 3))
def test_blocks_of_hiera(rows, columns, height, width):
    strides = [(height, width), (2, 1)]
    grid = rows * height * 2, columns * width
    own = unroll(cells(grid).view(1, -1, 1).float(), grid, (1, 1), strides)
    assert torch.equal(unrolled(cells(grid), strides), own.flatten().long())


@given(SIDES, SIDES, st.integers(1, 3), st.integers(0, 3))
def test_merged_patches_of_qwen(rows, columns, size, window):
    grid = rows * size, columns * size
    thw = torch.tensor([[1, *grid]])
    at = get_vision_position_ids(thw, size)
    own = at[:, 0] * grid[1] + at[:, 1]
    if window:
        order, _ = get_vision_window_index(thw, size, window * size, 1)
        own = own.unflatten(0, (-1, size**2))[order].flatten()
    assert torch.equal(merged(grid, size, window), own)


@pytest.mark.parametrize("size", [(2, 3), (3, 5), (6, 15)])
def test_cells_that_stand_evenly(size):
    """Each window has as many cells as `size` says, always as far apart."""
    rows, columns = 6 // size[0], 15 // size[1]
    found = sparse(cells((6, 15)), size)
    assert found.shape == (rows * columns, size[0] * size[1])
    assert torch.equal(found.flatten().sort().values, torch.arange(90))
    for window in found:
        at = torch.stack([window // 15, window % 15]).view(2, *size)
        assert (at.diff(dim=1)[0] == rows).all() and (at.diff(dim=2)[1] == columns).all()
