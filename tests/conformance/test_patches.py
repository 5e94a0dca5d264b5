"""The axes of models that read a picture row by row, each proved by one changed place of it."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec

import pytest
import torch

from tests.conformance.changed_pixels import prove
from tests.conformance.foreign import libraries
from tests.conformance.towers import OTHERS, TRANSFORMERS, UNNAMED, Tower

pytestmark = pytest.mark.filterwarnings("ignore")  # of the models' own code


def found(tower: Tower) -> tuple[Counter[str], list[str]]:
    """How many sides of layers are right and unknown, and what is wrong of others."""
    torch.manual_seed(0)
    model, pixels, call = tower.build()
    near = int(tower.square > 1)
    sides = prove(model, call, pixels, square=tower.square, near=near, tries=3)
    known = [side for side in sides if side.state in ("right", "unknown")]
    wrong = [f"{one.layer}, {one.side}: {one.state}" for one in sides if one not in known]
    return Counter(side.state for side in known), wrong


@pytest.mark.parametrize("tower", TRANSFORMERS, ids=lambda tower: tower.name)
def test_transformers(tower):
    states, wrong = found(tower)
    assert wrong == []
    assert states["unknown"] == tower.unknown
    assert states["right"] > 0


@pytest.mark.parametrize("tower", UNNAMED, ids=lambda tower: tower.name)
def test_unnamed(tower):
    states, wrong = found(tower)
    assert wrong == []
    assert states.keys() == {"unknown"}


@pytest.mark.parametrize("tower", OTHERS, ids=lambda tower: tower.name)
def test_other_libraries(tower):
    with libraries():
        if find_spec(tower.library) is None:
            pytest.skip(f"{tower.library} is not installed: make .venv/.foreign")
        states, wrong = found(tower)
    assert wrong == []
    assert states["unknown"] == tower.unknown
    assert states["right"] > 0
