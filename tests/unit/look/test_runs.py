"""Several calls of a layer as one run: caches of every kind, beams, and steps that do not fit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

pytest.importorskip("transformers")

from transformers import (
    AutoModelForSeq2SeqLM,
    AutoModelForSpeechSeq2Seq,
    DynamicCache,
    StaticCache,
)

from tests.unit.look.tiny import (
    SEQ2SEQ,
    agree,
    generate,
    kept,
    missed,
    padded,
    tiny,
    weights,
    words,
)
from wqkv.attend.masks import Causal
from wqkv.errors import MissedError
from wqkv.look.readings import read
from wqkv.look.runs import record
from wqkv.look.watch import watch

CHUNKS = {
    "layer_types": ["chunked_attention", "full_attention"],
    "attention_chunk_size": 5,
    "intermediate_size_mlp": 29,
    "num_key_value_heads": 3,
    "num_local_experts": 2,
    "head_dim": 4,
}


@pytest.mark.parametrize("cache", [None, "static"])
@pytest.mark.parametrize("left", [0, 3])
@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("llama", {}),
        ("mistral", {"sliding_window": 5}),  # shorter than the prompt
        ("mistral", {"sliding_window": 11}),  # is reached on the way
        ("mistral", {"sliding_window": 31}),
    ],
)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_generation_is_one_map(name, others, implementation, left, cache):
    model, given = tiny(name, implementation, **others), padded(7, left)
    options = {} if cache is None else {"cache_implementation": cache}
    text, seen = generate(model, words(), given, **options)
    assert seen.report().startswith("captured 2 of 2")
    assert len(seen.runs(0)) == 1
    whole = torch.cat((given, torch.ones(2, 8, dtype=torch.long)), dim=1)
    for found, theirs in zip(seen, weights(model, text[:, :-1], whole), strict=True):
        agree(found, theirs)


def test_chunks_over_a_generation():
    model = tiny("llama4_text", **CHUNKS)
    for prompt in (3, 7):
        text, seen = generate(model, words(prompt), torch.ones(2, prompt, dtype=torch.long))
        assert "Segments" in seen.report()
        for found, theirs in zip(seen, weights(model, text[:, :-1]), strict=True):
            agree(found, theirs)


@pytest.mark.parametrize("cache", [None, "static"])
@pytest.mark.parametrize("left", [4, 5, 9])
@pytest.mark.parametrize(
    ("name", "others"), [("llama", {}), ("mistral", {"sliding_window": 6}), ("llama4_text", CHUNKS)]
)
def test_padding_that_outlasts_the_first_piece_of_a_prompt(name, others, left, cache):
    model, given = tiny(name, **others), padded(11, left)
    text, seen = generate(model, words(11), given, prefill_chunk_size=4, cache_implementation=cache)
    assert seen.report().startswith("captured 2 of 2"), seen.report()
    assert "Dense" not in seen.report()
    whole = torch.cat((given, torch.ones(2, 8, dtype=torch.long)), dim=1)
    for found, theirs in zip(seen, weights(model, text[:, :-1], whole), strict=True):
        agree(found, theirs)


@pytest.mark.parametrize("cache", [None, "static"])
def test_beams_are_followed(cache):
    model, given = tiny("llama"), padded(7, 3)
    options = {"cache_implementation": cache} if cache else {}
    _, seen = generate(model, words(), given, num_beams=3, **options)
    assert seen.report().startswith("captured 2 of 2")
    assert seen[0].shape == (6, 6, 15, 15)
    sums = seen[0][:].sum(dim=-1)
    assert int((sums == 0).sum()) == 3 * 6 * 3
    torch.testing.assert_close(sums[sums > 0], torch.ones(int((sums > 0).sum())))


def test_a_watch_that_begins_in_the_middle():
    model, ids = tiny("llama"), words(11)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(ids[:, :6], **kept(model, cache))
        with watch(model) as seen:
            model(ids[:, 6:10], **kept(model, cache))
            model(ids[:, 10:], **kept(model, cache))
    assert seen[0].shape == (2, 6, 5, 11)
    assert "rows from 6 on" in seen.report()
    torch.testing.assert_close(seen[1][:], weights(model, ids)[1][:, :, 6:])


def test_a_cache_that_is_cut_back():
    model, ids = tiny("llama"), words(11)
    cache = DynamicCache(config=model.config)
    with torch.no_grad(), watch(model) as seen:
        model(words(9).flip(1)[:, :3])
        model(ids[:, :8], **kept(model, cache))
        model(words(2).flip(1), **kept(model, cache))
        cache.crop(-2)
        model(ids[:, 8:], **kept(model, cache))
    assert len(seen.runs(1)) == 2
    agree(seen[1], weights(model, ids)[1])


def test_a_static_cache_may_change_afterwards():
    model, ids = tiny("llama"), words()
    cache = StaticCache(config=model.config, max_cache_len=7)
    with torch.no_grad(), watch(model) as seen:
        model(ids, **kept(model, cache))
    cache.reset()
    agree(seen[1], weights(model, ids)[1])


@pytest.mark.parametrize("cache", [None, "static"])
def test_stored_biases_grow(cache):
    """T5's position bias, a row at a time."""
    model = tiny("t5", kind=AutoModelForSeq2SeqLM, d_kv=4, **SEQ2SEQ)
    options = {"cache_implementation": cache} if cache else {}
    text, seen = generate(model, words(), padded(7, 2), **options)
    assert [len(part) for part in (seen.encoder, seen.decoder, seen.cross)] == [2, 2, 2]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        out = model(
            words(), attention_mask=padded(7, 2), decoder_input_ids=text[:, :-1],
            output_attentions=True,
        )  # fmt: skip
    parts = (out.encoder_attentions, out.decoder_attentions, out.cross_attentions)
    for ours, theirs in zip((seen.encoder, seen.decoder, seen.cross), parts, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            agree(a, b, atol=1e-5)  # T5 does not scale its scores


@pytest.mark.parametrize(
    ("name", "kind", "others"),
    [
        ("bart", AutoModelForSeq2SeqLM, {}),
        ("t5", AutoModelForSeq2SeqLM, {"d_kv": 4}),
        (
            "whisper",
            AutoModelForSpeechSeq2Seq,
            {
                "num_mel_bins": 7,
                "max_source_positions": 23,
                "begin_suppress_tokens": None,
                "suppress_tokens": None,
            },
        ),
    ],
)
def test_cross_attention(name, kind, others):
    model = tiny(name, kind=kind, **SEQ2SEQ, **others)
    target = words(5)
    given = (
        {"input_features": torch.randn(2, 7, 46, generator=torch.Generator().manual_seed(1))}
        if name == "whisper"
        else {"input_ids": words(7), "attention_mask": padded(7, 2)}
    )
    with torch.no_grad(), watch(model) as seen:
        model(**given, decoder_input_ids=target)
        model(**given, decoder_input_ids=target)  # the same keys, and yet another text
    assert seen.report().startswith("captured 6 of 6")
    model.set_attn_implementation("eager")
    with torch.no_grad():
        out = model(**given, decoder_input_ids=target, output_attentions=True)
    for ours, theirs in (
        (seen.encoder, out.encoder_attentions),
        (seen.decoder, out.decoder_attentions),
        (seen.cross, out.cross_attentions),
    ):
        assert len(ours) == 2
        for a, b in zip(ours, theirs, strict=True):
            agree(a, b, atol=1e-5)  # T5 does not scale its scores
    assert seen.cross[-1].shape == seen.cross[0:2][1].shape
    assert {layer.kind for layer in seen.layers} == {"encoder", "decoder", "cross"}


def test_our_own_implementation():
    pytest.importorskip("wqkv.look.use")
    model, given = tiny("mistral", "wqkv", sliding_window=5), padded(7, 2)
    text, seen = generate(model, words(), given)
    assert seen.report().startswith("captured 2 of 2"), seen.report()
    assert "Window(before=4, after=0) & ~Lengths([0, 2])" in seen.report()
    whole = torch.cat((given, torch.ones(2, 8, dtype=torch.long)), dim=1)
    agree(seen[1], weights(model, text[:, :-1], whole)[1])


def test_pictures_of_a_batch_become_documents():
    transformers = pytest.importorskip("transformers")
    config = transformers.Qwen2_5_VLVisionConfig(
        depth=2, hidden_size=32, num_heads=2, intermediate_size=29, out_hidden_size=24,
        patch_size=7, fullatt_block_indexes=[1], window_size=28,
    )  # fmt: skip
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as family

    model = family.Qwen2_5_VisionTransformerPretrainedModel._from_config(
        config, attn_implementation="sdpa"
    ).eval()
    grid = torch.tensor([[1, 4, 6], [1, 4, 4]])
    patches = torch.randn(40, 3 * 2 * 7 * 7, generator=torch.Generator().manual_seed(2))
    with torch.no_grad(), watch(model) as seen:
        model(patches, grid_thw=grid)
    assert seen.report().startswith("captured 2 of 2"), seen.report()
    assert seen[1].shape == (1, 2, 40, 40)
    assert float(seen[1][0, :, :24, 24:].abs().max()) == 0
    torch.testing.assert_close(seen[1][:].sum(dim=-1), torch.ones(1, 2, 40))


# Steps that do not fit


def steps(model, *masks, cut: int = 0, prompt: int = 5):
    """A prompt and then one word a mask, with a cache; the cache is cut back at the end."""
    ids, cache = words(prompt + len(masks)), DynamicCache(config=model.config)
    with torch.no_grad(), watch(model) as seen:
        model(ids[:, :prompt], attention_mask=masks[0], **kept(model, cache))
        for at, mask in enumerate(masks[1:], prompt):
            model(ids[:, at : at + 1], attention_mask=mask, **kept(model, cache))
        if cut:
            cache.crop(-cut)
            model(ids[:, -1:], **kept(model, cache))
    return seen


def test_a_later_step_that_breaks_the_pattern():
    hole = torch.tensor([1, 1, 0, 1, 1, 1]).bool().view(1, 1, 1, 6)
    seen = steps(tiny("llama"), None, hole)
    with pytest.raises(MissedError, match=r"the mask of a later step is not what Causal\(\) says"):
        seen[0]


def test_rows_without_a_pattern_grow():
    holes = Causal().dense(5, 5).clone()
    holes[..., 3, 1] = False
    later = torch.tensor([1, 0, 0, 1, 1, 1]).bool().view(1, 1, 1, 6)
    seen = steps(tiny("llama"), holes, later)
    assert seen.report().startswith("captured 2 of 2")
    expected = torch.zeros(6, 6, dtype=torch.bool)
    expected[:5, :5], expected[5] = holes[0, 0], later[0, 0, 0]
    assert torch.equal(seen[1][:] > 0, expected.expand(2, 6, 6, 6))
    seen = steps(tiny("llama"), holes, later, cut=2)
    with pytest.raises(
        MissedError, match="its cache was cut back, and its mask or bias is stored row by row"
    ):
        seen[1]


def test_a_bias_that_comes_later():
    bias = torch.full((1, 1, 1, 6), 0.5)
    seen = steps(tiny("llama", "eager"), None, bias)
    with pytest.raises(MissedError, match="a later step has a bias and the first has none"):
        seen[0]


def test_a_layer_that_asks_twice_about_different_words():
    model = tiny("llama")
    for layer in model.model.layers:
        layer.self_attn.forward = _twice(layer.self_attn.forward)
    missed(model, "it asks the interface several times in a forward, with different words")


def test_a_cache_with_keys_from_elsewhere():
    """A step's mask lets it see places of a static cache that no word of the run has filled."""
    draw = torch.randn(1, 6, 11, 4, generator=torch.Generator().manual_seed(4))

    def step(n, m, mask=None):
        given = {"query": draw[:, :, :n], "key": draw[:, :, :m], "attention_mask": mask}
        given["value"], out = torch.zeros(1, 6, m, 4), torch.zeros(1, n, 6, 4)
        return read("eager", nn.Module(), (), given, (out, None), {}, False, False)

    run, _ = record(None, step(3, 3))
    assert run.refused is None
    run, new = record(run, step(1, 7, torch.ones(1, 1, 1, 7, dtype=torch.bool)))
    assert not new
    assert run.refused == "its cache of 7 holds keys after position 4 that are seen"


def _twice(plain):
    def forward(hidden_states, **kwargs):
        plain(hidden_states.flip(1), **kwargs)
        return plain(hidden_states, **kwargs)

    return forward
