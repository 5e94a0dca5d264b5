"""Every family that reads a text, opened as `wqkv open` does: proofs hold, and heads can be off.

What a head adds to a word must be what the word lacks when that head is switched off in the model.
"""

import math
import warnings

import pytest
import torch

from tests.conformance.test_from_hf import CASES, tiny
from wqkv import experiments
from wqkv.errors import ArgumentError
from wqkv.study import one_token as story
from wqkv.study.model import OpenModel
from wqkv.study.pair import OpenPair
from wqkv.study.tokens import TokenizedText
from wqkv.study.view import View

IDS = torch.randint(3, 61, (11,), generator=torch.Generator().manual_seed(0)).tolist()
#: They read pictures or sounds, or a picture beside the text.
NO_TEXT = """
blip_2_qformer deit vit clip_vision_model siglip_vision_model dinov2 dinov2_with_registers
qwen2_vl_vision
"""
OTHERS = (*NO_TEXT.split(), "hubert", "wav2vec2")
TWO_TEXTS = "bart blenderbot m2m_100 marian mbart pegasus t5 mt5 umt5"
REFUSED = {
    "diffllama": "Each head of DifferentialAttention is a difference of 2 maps",
    "qwen3_next": "Layer 0, which the configuration calls 'linear_attention', has no WQ",
    **dict.fromkeys(
        [*TWO_TEXTS.split(), "whisper"], "reads one text and writes another, and what opens here"
    ),
}


def opened(case: str) -> OpenModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of configurations that say too much
        return OpenModel(tiny(case).float(), None, case)


@pytest.mark.parametrize("case", [case for case in CASES if case not in (*OTHERS, *REFUSED)])
def test_family(case):
    model, words = opened(case), TokenizedText.of_ids(IDS)
    view = model.view(words)
    for layer in range(model.sizes.n_layer):
        proof = view.proof(layer)
        assert proof.holds and proof.size > 0.1, (layer, proof)
        assert proof.difference < 0.5 * proof.tolerance, (layer, proof)  # no near miss
    layer, head, word = model.sizes.n_layer - 1, model.sizes.n_head - 2, 9
    off = model.run(words, {(layer, head): torch.zeros(())})
    lacks = view.reading.outputs[layer][0, word] - off.outputs[layer][0, word]
    told, allowed = story.token_story(view, layer, head, word), view.proof(layer).tolerance
    assert (told.share - lacks).abs().max() <= allowed
    row = view.row(layer, head, word)
    assert row.output == pytest.approx(float(lacks.norm()), rel=1e-3, abs=allowed)
    assert float(row.effects.sum()) >= row.output * (1 - 1e-5)
    cell = view.cell(layer, head, word, 7)
    assert cell.weight == pytest.approx(float(row.weights[7]), rel=1e-5)
    assert float(view.tile(layer, head, 9, 10, 7, 8)) == pytest.approx(cell.weight, rel=1e-4)


@pytest.mark.parametrize("case", [case for case in CASES if case not in (*OTHERS, *REFUSED)])
def test_experiments(case):
    """What a changed head is said to add is what the model lacks or has when it runs on from it."""
    model = opened(case)
    view = model.view(TokenizedText.of_ids(IDS))
    layer, head, i = model.sizes.n_layer - 1, model.sizes.n_head - 2, 9
    plain, allowed = view.reading.outputs[layer][0, i], view.proof(layer).tolerance
    for name in experiments.HEAD_QUESTIONS:
        more = {"r": 2} if name == "low_rank" else {}
        try:
            found = getattr(experiments, name)(view, layer, head, i, **more)
        except ArgumentError:
            assert name in ("merged", "low_rank", "no_key_bias", "value_is_key", "same_matrix")
            continue
        assert found.same is None or found.same.holds, found.same
        assert math.isfinite(found.numbers[0].after) and found.proof.holds
        if found.changes:
            new = model.run(view.reading, found.contexts()).outputs[layer][0, i]
            told = found.after.output - found.before.output
            scale = 1 + float(found.after.output.norm())
            assert (new - plain - told).abs().max() <= 2 * allowed + 1e-5 * scale, name


#: What goes through their layers is not the states of one text, one layer a block.
NO_STREAM = {
    "gemma3n_text": r"What goes through the layers of gemma3n_text is \[4, 1, 11, 48\]",
    "albert, in groups": "albert, in groups has 4 layers in 2 blocks",
}


def check_stream(view: View) -> None:
    found = view.stream(5)
    for layer in found.layers:
        parts = [layer.attention, layer.cross, layer.mlp]
        assert None not in (parts if layer.cross_heads else [parts[0], parts[2]])
        assert layer.proof.holds and layer.proof.size > 0.1, layer.proof
        assert layer.proof.share < 0.5, layer.proof  # no near miss
        # A triangle: no side is longer than the others together, unless a norm stands behind.
        assert found.norm_after or layer.added <= sum(p or 0 for p in parts) * (1 + 1e-5)


@pytest.mark.parametrize("case", [case for case in CASES if case not in (*OTHERS, *REFUSED)])
def test_stream(case):
    view = opened(case).view(TokenizedText.of_ids(IDS))
    if case in NO_STREAM:
        with pytest.raises(ArgumentError, match=NO_STREAM[case]):
            view.stream(5)
    else:
        check_stream(view)


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case):
    with pytest.raises(ArgumentError, match=REFUSED[case]):
        opened(case).view(TokenizedText.of_ids(IDS))


@pytest.mark.parametrize("case", TWO_TEXTS.split())
def test_family_of_two_texts(case):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of configurations that say too much
        model = OpenPair(tiny(case).float(), None, case)
    views = model.run(TokenizedText.of_ids(IDS), TokenizedText.of_ids(IDS[6::-1]))
    assert [(view.n, view.m) for view in views.values()] == [(11, 11), (7, 7), (7, 11)]
    for view in views.values():
        for layer in range(view.model.sizes.n_layer):
            proof = view.proof(layer)
            assert proof.holds and proof.size > 0.1, (layer, proof)
            assert proof.difference < 0.5 * proof.tolerance, (layer, proof)  # no near miss
        row, cell = view.row(1, 2, 5), view.cell(1, 2, 5, 3)
        assert cell.weight == pytest.approx(float(row.weights[3]), rel=1e-5)
        if view.model.part != "decoder":
            check_stream(view)
