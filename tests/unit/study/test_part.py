"""The layers of a part, and what is recorded of a reading."""

import pytest
import torch

from wqkv.errors import ArgumentError
from wqkv.study import part
from wqkv.study.part import in_range
from wqkv.study.tokens import TokenizedText

TIRED = "The animal didn't cross the street because it was too tired."


@pytest.mark.parametrize("number", [6, -1])
def test_layer_out_of_range(minilm, number):
    with pytest.raises(ArgumentError, match=f"no layer {number}: the model has 6 layers, 0 to 5"):
        minilm.layer(number)


def test_in_range():
    assert [in_range("head", n, 3) for n in range(3)] == [0, 1, 2]
    with pytest.raises(ArgumentError, match="no head 3: the model has 3 heads, 0 to 2"):
        in_range("head", 3, 3)


def test_outputs_of_a_long_text_are_kept_in_part(minilm, monkeypatch):
    whole = minilm.read(TIRED)
    monkeypatch.setattr(part, "KEPT_OUTPUTS", 6 * 16 * 384 - 1)
    monkeypatch.setattr(part, "SAMPLED_ROWS", 4)
    some = minilm.read(TIRED)
    assert some.rows.tolist() == [0, 5, 10, 15]
    for ours, every in zip(some.outputs, whole.outputs, strict=True):
        assert torch.equal(ours, every[:, some.rows])
    monkeypatch.setattr(part, "KEPT_OUTPUTS", 6 * 16 * 384)
    assert len(minilm.read(TIRED).rows) == 16


@pytest.mark.parametrize(("n", "count"), [(37, 5), (5, 5), (100_003, 64)])
def test_spaced(n, count):
    found = part.spaced(n, count)
    assert (len(found), int(found[0]), int(found[-1])) == (count, 0, n - 1)
    assert (found.diff() - (n - 1) / (count - 1)).abs().max() < 1


def test_reading_leaves_no_hooks(minilm):
    def hooks():
        modules = list(minilm.model.modules())
        return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules]

    before = hooks()
    minilm.read(TIRED)
    with pytest.raises(IndexError):
        minilm.run(TokenizedText.of_ids([10**6]))
    assert hooks() == before
