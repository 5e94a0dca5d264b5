"""The logit lens beside the model's own logits, and beside its norm and head by hand."""

import pytest
import torch
from transformers import AutoModelForMaskedLM, BertConfig

from tests.tiny import READ, TARGET, text, tiny, tiny_llama, tiny_t5, tokenizer
from wqkv.errors import ArgumentError
from wqkv.study.lens import logit_lens
from wqkv.study.model import OpenModel


def check(found, logits) -> None:
    top = logits.float().softmax(dim=0).topk(8)
    assert [one.id for one in found] == top.indices.tolist()
    assert [one.probability for one in found] == pytest.approx(top.values.tolist(), rel=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "granite", "cohere"])
def test_the_last_layer_is_the_models_own_answer(name):
    more = {
        "gemma2": {"final_logit_softcapping": 3.0, "head_dim": 4, "num_key_value_heads": 3},
        "granite": {"logits_scaling": 0.7},
        "cohere": {"logit_scale": 0.3},
    }.get(name, {})
    speaker = tiny(name, "eager", **more)
    model = OpenModel(speaker.base_model, tokenizer(), name, speaker)
    view = model.view(READ)
    with torch.no_grad():
        logits = speaker(input_ids=torch.tensor([view.reading.ids])).logits[0]
    for token in (0, 4, view.n - 1):
        found = logit_lens(view, token)
        assert len(found) == 2
        check(found[-1], logits[token])
    check(found[-1], view.reading.logits)
    again = speaker(input_ids=torch.tensor([view.reading.ids])).logits[0]
    assert torch.equal(again, logits)  # no hook is left


def test_a_layer_in_the_middle():
    model = tiny_llama()
    view = model.view(text(9))
    found, stream = logit_lens(view, 5), view.stream(5)
    for layer in range(3):
        with torch.no_grad():
            state = model.model.norm(stream.states[layer + 1])
            check(found[layer], model.speaker.lm_head(state))
    assert found[0][0].token == model.tokenizer.decode([found[0][0].id])
    assert [one[0] for one in found] != [found[-1][0]] * 3


def test_a_head_for_masked_tokens():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=61, hidden_size=24, num_hidden_layers=2, num_attention_heads=6,
        intermediate_size=29, max_position_embeddings=31,
    )  # fmt: skip
    filler = AutoModelForMaskedLM.from_config(config).eval()
    model = OpenModel(filler.base_model, tokenizer(), "tiny-bert", None, filler)
    view = model.view(READ)
    with torch.no_grad():
        logits = filler(input_ids=torch.tensor([view.reading.ids])).logits[0]
    check(logit_lens(view, 3)[-1], logits[3])


def test_who_has_no_lens():
    bare = tiny_llama()
    bare.speaker = None
    with pytest.raises(ArgumentError, match="tiny-llama has no head that answers with tokens"):
        logit_lens(bare.view(text(5)), 2)
    cross = tiny_t5().views(READ, TARGET)["cross"]
    with pytest.raises(
        ArgumentError, match="The logit lens is for models of one text, and tiny-t5"
    ):
        logit_lens(cross, 2)
