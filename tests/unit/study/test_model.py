"""Opening a model and reading with it."""

import pytest
import torch
import transformers

from wqkv import Full
from wqkv.errors import ArgumentError
from wqkv.study.model import OpenModel
from wqkv.study.tokens import TokenizedText

TIRED = "The animal didn't cross the street because it was too tired."


def test_the_default_model(minilm):
    assert (minilm.name, minilm.family) == ("all-MiniLM-L6-v2", "bert")
    sizes = {"n_layer": 6, "n_head": 12, "n_kv_head": 12, "d_model": 384, "d_k": 32}
    assert minilm.sizes._asdict() == sizes
    assert not minilm.model.training
    assert {parameter.dtype for parameter in minilm.model.parameters()} == {torch.float32}
    assert (minilm.layer(5).mask, minilm.layer(5).position) == (Full(), None)


def test_read(minilm):
    reading = minilm.read(TIRED)
    words = ["The", "animal", "didn", "'", "t", "cross", "the", "street", "because", "it", "was"]
    assert reading.tokens == ("[CLS]", *words, "too", "tired", ".", "[SEP]")
    assert reading.special == (True, *[False] * 14, True)
    assert reading.spans[2:6] == ((4, 10), (11, 15), (15, 16), (16, 17))
    assert len(reading.inputs) == len(reading.outputs) == 6
    assert {tensor.shape for tensor in (*reading.inputs, *reading.outputs)} == {(1, 16, 384)}


def test_read_is_what_the_model_computes(minilm):
    ids = torch.tensor([minilm.tokenizer(TIRED)["input_ids"]])
    with torch.no_grad():
        states = minilm.model(input_ids=ids, output_hidden_states=True).hidden_states
    for ours, theirs in zip(minilm.read(TIRED).inputs, states[:-1], strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("kind", "longest"),
    [("roberta", 11), ("xlm-roberta", 11), ("camembert", 11), ("mpnet", 11), ("bert", 13)],
)
def test_table_of_positions(kind, longest):
    """In some the first word stands behind the place of padding, which their table knows."""
    sizes = dict.fromkeys(("vocab_size", "max_position_embeddings"), 13)
    sizes |= {"hidden_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.AutoConfig.for_model(kind, **sizes, intermediate_size=7, pad_token_id=1)
    opened = OpenModel(transformers.AutoModel.from_config(config).eval(), None, "tiny")
    assert opened.longest == longest
    opened.run(TokenizedText.of_ids([5] * longest))
    with pytest.raises((IndexError, RuntimeError), match=r"out of|must match"):
        opened.run(TokenizedText.of_ids([5] * (longest + 1)))


def test_a_run_tells_what_is_there_after_every_layer(minilm):
    seen = []

    def each(reading):
        seen.append((len(reading.inputs), len(reading.outputs), reading.final))

    reading = minilm.run(minilm.tokens(TIRED), each=each)
    assert seen == [(layer, layer, None) for layer in range(1, 7)]
    assert reading.rows.tolist() == list(range(16))
    assert (reading.final.shape, reading.logits) == ((1, 16, 384), None)
    with torch.no_grad():
        ids = torch.tensor([reading.ids])
        assert torch.equal(reading.final, minilm.model(input_ids=ids).last_hidden_state)
    assert minilm.run(reading).tokens == reading.tokens  # a reading is words, too


def test_a_model_of_two_texts():
    config = transformers.T5Config(d_model=6, d_kv=3, num_heads=2, num_layers=1, vocab_size=31)
    says = "(?s)tiny reads one text and writes another.*`wqkv parity`"
    with pytest.raises(ArgumentError, match=says):
        OpenModel(transformers.T5Model(config), None, "tiny")
