"""Where the windows of each model stand, proved by changed cells of its picture."""

from __future__ import annotations

import pytest

from tests.conformance.cut_pictures import ROWS, prove
from tests.conformance.foreign import here

pytestmark = pytest.mark.filterwarnings("ignore")  # of the models' own code


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row(row):
    if not here(row):
        pytest.skip(f"{row.library} is not installed: make .venv/.foreign")
    found = prove(row)
    assert found.wrong == []
    assert found.layers > 0 and found.tried >= 6 * found.layers
