"""Where the positions of each model stand, proved by changed cells of its picture."""

from __future__ import annotations

import pytest

from tests.conformance.changed_cells import prove, prove_tower
from tests.conformance.cut_pictures import GRIDS, ROWS, TOWERS, tower
from tests.conformance.foreign import here
from wqkv.record.inputs.merge_order import _TOWERS
from wqkv.record.inputs.shifted import _FAMILIES

pytestmark = pytest.mark.filterwarnings("ignore")  # of the models' own code


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row(row):
    if not here(row):
        pytest.skip(f"{row.library} is not installed: make .venv/.foreign")
    found = prove(row)
    assert found.wrong == []
    assert found.layers > 0 and found.tried >= 4 * found.layers


@pytest.mark.parametrize("family", TOWERS)
def test_tower(family):
    # GLM-4V is given a video as one picture for each frame
    grids = GRIDS[GRIDS[:, 0] == 1] if family.startswith("glm4v") else GRIDS
    found = prove_tower(tower(family), grids)
    assert found.wrong == []
    assert found.layers == 2 and found.tried >= 40


def test_every_block_that_is_known_has_a_row():
    if not all(map(here, ROWS)):
        pytest.skip("a library is not installed: make .venv/.foreign")
    met = {
        kind.__name__
        for row in ROWS
        for module in row.build().modules()
        for kind in type(module).__mro__
    }
    assert set(_FAMILIES) <= met
    assert set(TOWERS.values()) == set(_TOWERS)
