"""What a watched model's queries and keys are, found by what the model was given."""

from functools import partial

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    T5Config,
    T5ForConditionalGeneration,
    T5Model,
)

from wqkv import Axis, load_recording, watch
from wqkv.maps.axis import UNKNOWN
from wqkv.record.inputs.find import find_axes

VOCABULARY = 31


def llama():
    config = LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        vocab_size=VOCABULARY, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).eval()


def ids(*shape):
    return torch.randint(VOCABULARY, shape, generator=torch.Generator().manual_seed(0))


def labels(axis):
    return list(axis.labels)


def strings(row):
    return list(map(str, row.tolist()))


class Letters:
    """A tokenizer of letters."""

    def decode(self, tokens):
        return "" if tokens == [0] else "\ufffd" if tokens == [1] else chr(96 + tokens[0])

    def convert_ids_to_tokens(self, tokens):
        return [f"<{token}>" for token in tokens]


@torch.no_grad()
def seen_of(model, *args, processor=None, **kwargs):
    with watch(model, processor=processor) as seen:
        model(*args, **kwargs)
    return seen


def test_the_tokens_of_a_text():
    text = ids(1, 7)
    for seen in (seen_of(llama(), text), seen_of(llama(), input_ids=text)):
        assert all(labels(m.keys) == labels(m.queries) == strings(text[0]) for m in seen)


def test_the_tokens_of_a_model_of_ones_own():
    layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
    model = nn.Sequential(nn.Embedding(VOCABULARY, 16), nn.TransformerEncoder(layer, 2)).eval()
    text = ids(2, 5)
    for m in seen_of(model, text):
        assert [labels(one) for one in m.keys] == list(map(strings, text))


def test_a_processor_names_the_tokens():
    class Processor:
        tokenizer = Letters()

    text = torch.tensor([[1, 2, 3, 0]])
    for processor in (Letters(), Processor()):
        found = seen_of(llama(), text, processor=processor)[0].keys
        assert labels(found) == ["<1>", "b", "c", "<0>"]
    assert labels(seen_of(llama(), text, processor=object())[0].keys) == ["1", "2", "3", "0"]


def test_a_tokenizer_of_tokenizers_names_special_tokens():
    """Its `decode` leaves them out."""
    tokenizer = Tokenizer(WordLevel({"[BOS]": 0, "a": 1, "b": 2}))
    tokenizer.add_special_tokens(["[BOS]"])
    text = torch.tensor([[0, 2, 1]])
    found = seen_of(llama(), text, processor=tokenizer)[0].keys
    assert labels(found) == ["[BOS]", "b", "a"]


def test_arguments_that_are_no_token_ids():
    config = BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        vocab_size=VOCABULARY, type_vocab_size=2, max_position_embeddings=16,
    )  # fmt: skip
    model, text = BertModel(config).eval(), ids(2, 5)
    more = {"token_type_ids": torch.ones_like(text), "position_ids": torch.arange(5)[None]}
    seen = seen_of(model, attention_mask=torch.ones_like(text), **more, input_ids=text)
    assert [labels(one) for one in seen[0].queries] == list(map(strings, text))
    seen = seen_of(model, inputs_embeds=torch.randn(2, 5, 16), **more)
    assert seen[0].queries is None


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_generation_names_what_was_written(num_beams):
    model, text = llama(), ids(2, 5)
    with torch.no_grad(), watch(model) as seen:
        out = model.generate(text, max_new_tokens=6, num_beams=num_beams, do_sample=False)
    for m in seen:
        for row in out:
            sample = seen.sample_of(row)
            assert labels(m.keys[sample]) == labels(m.queries[sample]) == strings(row[:-1])


def test_a_cache_of_one_size_and_one_key_head():
    config = LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, vocab_size=VOCABULARY, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    model, text = AutoModelForCausalLM.from_config(config).eval(), ids(2, 5)
    options = {"cache_implementation": "static", "disable_compile": True, "do_sample": False}
    with torch.no_grad(), watch(model) as seen:
        out = model.generate(text, max_new_tokens=4, **options)
    assert [labels(one) for one in seen[0].queries] == [strings(row[:-1]) for row in out]


def test_a_text_whose_beginning_was_not_seen():
    model, text = llama(), ids(1, 7)
    with torch.no_grad():
        cache = model(text[:, :4], use_cache=True).past_key_values
        seen = seen_of(model, text[:, 4:], past_key_values=cache)
    m = seen[0]
    assert labels(m.queries) == strings(text[0, 4:])
    assert labels(m.keys) == ["0", "1", "2", "3", *strings(text[0, 4:])]


def test_a_cache_that_is_cut_back():
    model, text = llama(), ids(1, 7)
    with torch.no_grad(), watch(model) as seen:
        cache = model(text, use_cache=True).past_key_values
        cache.crop(-2)
        model(torch.tensor([[3]]), past_key_values=cache)
    assert labels(seen[0].keys) == [*strings(text[0, :5]), "3"] == labels(seen[0].queries)


def test_cross_attention_looks_at_the_other_text():
    config = T5Config(d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, vocab_size=31)
    model = T5Model(config).eval()
    for n in (3, 5):  # as many tokens as the source has, and others
        source, target = ids(2, 5), ids(2, n).flip(1)
        seen = seen_of(model, input_ids=source, decoder_input_ids=target)
        for kind, queries, keys in (
            (seen.encoder, source, source),
            (seen.decoder, target, target),
            (seen.cross, target, source),
        ):
            assert len(kind) == 2
            for m in kind:
                assert [labels(one) for one in m.queries] == list(map(strings, queries))
                assert [labels(one) for one in m.keys] == list(map(strings, keys))


def t5():
    config = T5Config(d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, vocab_size=31)
    return T5Model(config).eval()


def read(model, one, other):
    return model(encoder_outputs=model.encoder(one), decoder_input_ids=other)


def read_turned(model, one, other):
    states = model.encoder(one)[0].flip(1)
    return model(encoder_outputs=(states,), decoder_input_ids=other)


def read_the_first(model, one, other):
    first, _ = model.encoder(one), model.encoder(other)
    return model(encoder_outputs=first, decoder_input_ids=other)


def read_both(model, one, other):
    model(input_ids=other, decoder_input_ids=one)
    return model(input_ids=one, decoder_input_ids=other)


@pytest.mark.parametrize(
    ("call", "known", "whole"),
    [
        (read, True, True),
        (read, True, False),
        (read_both, True, True),
        (read_both, True, False),
        (read_turned, False, True),  # what is turned between two forwards is not seen
        (read_the_first, False, True),
        (read_the_first, False, False),
    ],
)
def test_which_source_a_decoder_looks_at(call, known, whole):
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = t5()

        def forward(self, one, other):
            return call(self.model, one, other)

    model, source, target = Whole(), ids(1, 5), ids(1, 5).flip(1)
    with torch.no_grad(), watch(model if whole else model.model) as seen:
        (model if whole else partial(call, model.model))(source, target)
    found = [m.keys for m in seen.cross][-1]
    assert labels(found) == strings(source[0]) if known else found is None


def test_a_source_that_was_read_before_the_watch():
    model, source, target = t5(), ids(1, 5), ids(1, 5).flip(1)
    with torch.no_grad():
        states = model.encoder(source)
        with watch(model) as seen:
            model(input_ids=target, decoder_input_ids=source)
            model(encoder_outputs=states, decoder_input_ids=target)
    assert seen.cross[0].keys is None


def test_states_of_ones_own_beside_another_tower():
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(VOCABULARY, 16)
            self.tower = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
            self.decoder = nn.TransformerDecoderLayer(16, 2, 24, batch_first=True)

        def forward(self, one, states, other):
            self.tower(self.embed(one))
            return self.decoder(self.embed(other), states)

    seen = seen_of(Other().eval(), ids(1, 5), torch.randn(1, 5, 16), ids(1, 3))
    assert seen.cross[0].keys is None


def test_beams_look_at_the_source_that_they_were_made_of():
    config = T5Config(
        d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, vocab_size=31, eos_token_id=None,
        decoder_start_token_id=0, pad_token_id=0,
    )  # fmt: skip
    model, source = T5ForConditionalGeneration(config).eval(), ids(2, 5)
    with torch.no_grad(), watch(model) as seen:
        model.generate(source, num_beams=3, do_sample=False, max_new_tokens=4)
    for m in seen.cross:
        assert [labels(one) for one in m.keys] == [strings(source[n // 3]) for n in range(6)]


def test_token_ids_that_were_changed_in_place():
    model, text = llama(), ids(1, 7)
    seen = seen_of(model, text)
    text.add_(1)
    assert seen[0].keys is None and seen[0].queries is None


def test_what_is_kept_is_what_was_given_and_no_hidden_states():
    model = GPT2Model(GPT2Config(n_layer=2, n_embd=12, n_head=3, vocab_size=VOCABULARY)).eval()
    text = ids(1, 5)
    seen = seen_of(model, text)
    for layer in seen._all:
        (call,) = layer.runs[-1].pieces
        kept = [x for one in call.moment.modules for x in one.given.values()]
        floats = [x for x in kept if isinstance(x, torch.Tensor) and x.is_floating_point()]
        assert not floats and any(x is text for x in kept)
        assert call.moment.changed is False


def test_no_moment_no_axes():
    assert find_axes([], (1, 2, 3, 3), cross=False, start=0) is UNKNOWN


def test_a_recording_has_them(tmp_path):
    text = ids(2, 5)
    seen = seen_of(llama(), text)
    seen.save(tmp_path / "seen")
    for ours, kept in zip(seen, load_recording(tmp_path / "seen"), strict=True):
        assert list(map(labels, kept.keys)) == list(map(labels, ours.keys))
        assert list(map(labels, kept.queries)) == list(map(labels, ours.queries))


def test_statistics_keep_no_moment():
    model, text = llama(), ids(1, 7)
    with torch.no_grad(), watch(model, keep="statistics") as seen:
        model(text)
    assert not seen._all[0].runs[-1].pieces


def test_a_user_may_name_them():
    seen = seen_of(llama(), ids(1, 2))
    assert labels(seen[0].on(keys=Axis(["a", "b"])).keys) == ["a", "b"]
