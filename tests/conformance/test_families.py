"""Every family of FAMILIES is watched, and every row compared with the eager path's weights.

Whatever is not captured is refused with its reason. Nothing is silently wrong.
"""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")

from transformers.utils import logging

from tests.conformance.families import FAMILIES, OUTSIDE, Family, asking, build, inputs
from wqkv.errors import MissedError
from wqkv.record.watch import Seen, watch

# float32 rounding of scores of some hundreds: T5 does not scale them
TOLERANCE = 2e-5


@pytest.fixture(autouse=True)
def quiet():
    """Tiny random models are not what transformers expects; its remarks are not of interest."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(before)


def truth(model: torch.nn.Module, given: dict, family: Family, seen: Seen) -> list:
    """The eager path's weights, a layer of `seen` each; None where it returns none."""
    model.set_attn_implementation("eager")
    with torch.no_grad():
        out = model(**given, output_attentions=True)
    kinds = [layer.kind for layer in seen.layers]
    if out.get("decoder_attentions") is None:
        weights = [w for w in out.attentions if w is not None]
        if family.shown is None:
            return weights + [None] * (len(kinds) - len(weights))
        found = dict(zip(family.shown, weights, strict=True))
        return [found.get(i) for i in range(len(kinds))]
    parts = {
        "encoder": iter(out.encoder_attentions),
        "decoder": iter(out.decoder_attentions),
        "cross": iter(out.cross_attentions),
    }
    return [next(parts[kind]) for kind in kinds]


def check(ours: torch.Tensor, theirs: torch.Tensor, family: Family, padded: bool) -> None:
    assert ours.shape == theirs.shape
    sums = ours.sum(dim=-1, keepdim=True)
    full = sums.squeeze(-1) > 0
    if padded:  # queries that are padding may see nothing
        assert full[0].all()
        assert full[1, :, 3:].all()
    else:
        assert full.all()
    if not family.with_sinks:
        ours = ours / sums
    assert float((ours - theirs).abs()[full].max()) < TOLERANCE


@pytest.mark.filterwarnings("ignore")  # of old model code
@pytest.mark.parametrize("name", FAMILIES)
def test_family(name):
    family = FAMILIES[name]
    model, implementation = build(name)
    given = inputs(model)
    with torch.no_grad():
        with asking() as asked:
            plain = model(**given)[0]
        with watch(model) as seen:
            watched = model(**given)[0]
    torch.testing.assert_close(watched, plain, rtol=0, atol=0, equal_nan=True)
    assert model.config._attn_implementation == implementation

    modules, report = dict(model.named_modules()), seen.report()
    layers = len(seen) if family.layers is None else family.layers
    outside = {
        i
        for i, layer in enumerate(seen.layers)
        if modules[layer.name.partition(" (")[0]] not in asked
    }
    expected = {i: family.refused.get(i, "") for i in range(layers)} | dict.fromkeys(
        outside, OUTSIDE
    )
    captured = sum(not reason for reason in expected.values())
    assert len(seen) == layers > 0, report
    assert not outside or family.layers, report
    assert report.startswith(f"captured {captured} of {layers} layers"), report
    assert {i: layer.reason for i, layer in enumerate(seen.layers)} == expected

    compared = 0
    weights = truth(model, given, family, seen) if captured else [None] * layers
    for i, layer in enumerate(seen.layers):
        if layer.state != "captured":
            with pytest.raises(MissedError, match=layer.reason):
                seen[i]
        elif weights[i] is not None:
            padded = "attention_mask" in given and layer.kind != "cross"
            check(seen[i][:], weights[i], family, padded)
            compared += 1
    shown = len(family.shown) if family.shown else captured
    assert compared == shown


def test_the_table_is_wide():
    captured = [name for name, family in FAMILIES.items() if family.layers is None]
    assert len(captured) >= 60
    odd = {"gemma3n_text", "gemma4_text", "qwen3_next", "diffllama", "mimo_v2_flash", "swin"}
    odd |= {"beit", "doge", "deepseek_v2", "deepseek_v3", "gpt_oss", "gemma2", "t5", "mistral"}
    assert odd | {"llama4_text"} <= set(captured)
