"""Maps of effects against autograd through the N x N weights, and heavy links really removed."""

import pytest
import torch

from tests.tiny import READ, TARGET, text
from tests.unit.effects.conftest import opened
from tests.unit.effects.test_candidates import dense
from tests.unit.effects.test_rerun import N, asked_of, truth
from wqkv.effects.effect_maps import EffectMaps
from wqkv.effects.rerun import Rerun
from wqkv.errors import ArgumentError
from wqkv.study.pair import OpenPair

FAMILIES = ["llama", "gemma2", "gpt_oss", "mistral", "bert", "t5", "bart"]


def maps_of(name: str) -> EffectMaps:
    model = opened(name)
    if isinstance(model, OpenPair):
        return EffectMaps(model, READ, "lamp", "sea", target=TARGET)
    if model.speaker is not None:
        return EffectMaps(model, text(N), "lamp", "sea")
    return EffectMaps(model, text(N), READ)


@pytest.mark.parametrize("how", ["renormalize", "zero"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_head_of_every_layer(name, how):
    model, asked = asked_of(name)
    maps, (effects, _) = maps_of(name), dense(model, asked, how)
    assert maps.before == pytest.approx(truth(model, asked), abs=1e-12)
    size = max(float(x.nan_to_num().abs().max()) for x in effects)
    for (part, layer), whole in zip(Rerun(model, asked).sites, effects, strict=True):
        for head in range(whole.shape[0]):
            found = maps.map(layer, head, how, part)[0, 0]
            assert found.shape == whole[head].shape
            # A link that cannot be removed is NaN; the dense sum has 0 / 0 there too.
            alone = found.isnan() | ~whole[head].isfinite()
            assert (found - whole[head])[~alone].abs().max() < 1e-9 * size
            assert alone.sum() <= 1
    main = maps.map(1, 3, how)[0, 0].nan_to_num()
    assert torch.equal(main, maps.map(1, 3, how, model.main)[0, 0].nan_to_num())


def test_its_memory_is_linear_in_the_length():
    model = opened("llama")
    short, long = (EffectMaps(model, text(n), "lamp", "sea").bytes for n in (11, 23))
    per_token = 8 * 14 * 3 * (3 * 6 + 2 * 2)  # float64, d, layers, q and two outputs, k and v
    assert (short, long) == (12 * per_token, 24 * per_token)  # with the first token, <s>


def test_progress_counts_layers():
    told = []
    EffectMaps(opened("llama"), text(7), progress=lambda *step: told.append(step))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_mistakes():
    maps = maps_of("llama")
    with pytest.raises(ArgumentError, match=r"no part 'encoder'.\nPass one of: text, or None."):
        maps.map(0, 0, part="encoder")
    with pytest.raises(ArgumentError, match="There is no layer 3: the model has 3 layers"):
        maps.map(3, 0)
    with pytest.raises(ArgumentError, match="There is no head -1: the model has 6 heads"):
        maps.map(0, -1)
