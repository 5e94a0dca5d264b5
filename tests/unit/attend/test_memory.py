"""What follows from a mask is kept by its value, and forgotten when it changes."""

import torch

from wqkv import Dense, Window
from wqkv.attend.engines.memory import MASKS, THINGS, Memory


class Made:
    """Counts how often it is asked to make a thing."""

    def __init__(self):
        self.count = 0

    def __call__(self):
        self.count += 1
        return self.count


def test_equal_masks_share():
    memory, make = Memory(), Made()
    assert [memory.get(Window(n, 0), "key", make) for n in (3, 3, 5, 3)] == [1, 1, 2, 1]
    assert memory.get(Window(3, 0), "other", make) == 3
    memory.clear()
    assert memory.get(Window(3, 0), "key", make) == 4


def test_what_is_not_kept_is_made_again():
    memory, make = Memory(), Made()
    found = [memory.get(Window(3, 0), "key", make, lambda made: made > 2) for _ in range(4)]
    assert found == [1, 2, 3, 3]


def test_a_change_in_place_is_noticed():
    memory, make, matrix = Memory(), Made(), torch.ones(3, 3, dtype=torch.bool)
    mask = Dense(matrix)
    assert [memory.get(mask, "key", make) for _ in range(2)] == [1, 1]
    matrix[0, 1] = False
    assert [memory.get(mask, "key", make) for _ in range(2)] == [2, 2]
    assert memory.get(Dense(matrix), "key", make) == 3  # stored matrices are not compared


def test_it_does_not_grow():
    memory, make = Memory(), Made()
    for n in range(MASKS + 1):
        memory.get(Window(n, 0), 0, make)
    assert len(memory._by_value) == 1
    for n in range(THINGS + 1):
        memory.get(Window(0, 0), n, make)
    assert len(memory._of(Window(0, 0))) <= THINGS
