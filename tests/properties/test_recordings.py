"""Any map comes out of a file as it was saved: any rules, sizes, dtype and order in memory."""

from __future__ import annotations

from pathlib import Path

import torch
from hypothesis import given

from tests.conformance.cases import sliced
from tests.conformance.test_fuzz import random_call
from tests.properties.strategies import seeds
from tests.unit.record.test_kept import model_of
from wqkv import AttentionMap, load_recording
from wqkv.attend.forms import outline
from wqkv.record.kept import write_recording


@given(seed=seeds)
def test_a_map_comes_back(tmp_path_factory, seed: int) -> None:
    call = random_call(seed)
    arguments = call.case.make(call.dtype, learn=()).arguments
    for name in ("value", "dropout_p"):
        del arguments[name]
    path: Path = tmp_path_factory.getbasetemp() / "recording"
    ours = AttentionMap(**arguments)
    write_recording(path, model_of(ours))
    (theirs,) = load_recording(path)
    assert repr(theirs) == repr(ours)
    a, b = (outline(m._numbers.given.rules.mask) for m in (ours, theirs))
    assert a == b
    exact = call.case.layout is not sliced  # a view with gaps comes back without them
    # Each of a map of its own, because what is asked first is computed first.
    for ask in (lambda m: m[:], lambda m: m.entropy(), lambda m: m.received(), lambda m: m.lse):
        found, kept = ask(AttentionMap(**arguments)), ask(load_recording(path)[0])
        assert found.dtype == kept.dtype
        torch.testing.assert_close(
            kept, found, rtol=0 if exact else 1e-5, atol=0 if exact else 1e-5, equal_nan=True
        )
