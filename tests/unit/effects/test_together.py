"""Draws of other links beside those that are shown; the rest is tested with the whole answer."""

import pytest

from tests.tiny import text, tiny_llama
from wqkv.effects import together
from wqkv.effects.why import why

N = 11


def test_the_same_draws_each_time():
    found = [why(tiny_llama(), text(N), "lamp", "sea", budget=30).together for _ in range(2)]
    assert found[0] == found[1] and len(set(found[0].others)) > 5


def test_no_draws_where_a_row_has_not_as_many_others(monkeypatch):
    """Two tokens: the last one has 18 links to itself, of which 17 are shown."""
    monkeypatch.setattr(together, "SHOWN", 17)
    found = why(tiny_llama(), text(1), "lamp", "sea").together
    assert found.links == 17 and found.others == ()
    monkeypatch.setattr(together, "SHOWN", 9)
    found = why(tiny_llama(), text(1), "lamp", "sea").together
    assert found.links == 9 and len(found.others) == together.DRAWS


@pytest.mark.parametrize("scale", [1.0, 1e9])
def test_no_links_are_shown_below_rounding(scale):
    """A number that says of one logit far more digits than float32 has."""
    found = why(tiny_llama(), text(N), lambda output: output.logits[:, -1, 3] + scale, budget=30)
    assert (found.together is None) == (scale > 1)
    assert (found.checked.judged == 0) == (scale > 1)
