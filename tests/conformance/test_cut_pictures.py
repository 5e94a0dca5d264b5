"""Where the windows of each model stand, proved by changed cells of its picture."""

from __future__ import annotations

import pytest

from tests.conformance.cut_pictures import GRIDS, ROWS, TOWERS, prove, prove_tower, tower
from tests.conformance.foreign import here

pytestmark = pytest.mark.filterwarnings("ignore")  # of the models' own code


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row(row):
    if not here(row):
        pytest.skip(f"{row.library} is not installed: make .venv/.foreign")
    found = prove(row)
    assert found.wrong == []
    assert found.layers > 0 and found.tried >= 6 * found.layers


@pytest.mark.parametrize("family", TOWERS)
def test_tower(family):
    # GLM-4V is given a video as one picture for each frame
    grids = GRIDS[GRIDS[:, 0] == 1] if family.startswith("glm4v") else GRIDS
    found = prove_tower(tower(family), grids)
    assert found.wrong == []
    assert found.layers == 2 and found.tried >= 40
