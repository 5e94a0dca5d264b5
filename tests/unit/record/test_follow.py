"""Several calls of a layer as one run: caches of every kind, beams, and steps that do not fit."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")

from transformers import (
    AutoModelForSeq2SeqLM,
    AutoModelForSpeechSeq2Seq,
    Cache,
    DynamicCache,
    EncoderDecoderCache,
    StaticCache,
)

from tests.tiny import (
    SEQ2SEQ,
    agree,
    call_of,
    generate,
    kept,
    padded,
    record,
    tiny,
    tokens,
    weights,
)
from wqkv.attend.functional import attention
from wqkv.attend.masks import Causal, Window
from wqkv.errors import MissedError
from wqkv.record.captured import CapturedCall, MaskReading
from wqkv.record.mask_pattern import rows_of
from wqkv.record.watch import watch

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
    text, seen = generate(model, tokens(), given, **options)
    assert seen.report().startswith("captured 2 of 2")
    assert len(seen.runs(0)) == 1
    whole = torch.cat((given, torch.ones(2, 8, dtype=torch.long)), dim=1)
    for found, theirs in zip(seen, weights(model, text[:, :-1], whole), strict=True):
        agree(found, theirs)


def test_chunks_over_a_generation():
    model = tiny("llama4_text", **CHUNKS)
    for prompt in (3, 7):
        text, seen = generate(model, tokens(prompt), torch.ones(2, prompt, dtype=torch.long))
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
    text, seen = generate(
        model, tokens(11), given, prefill_chunk_size=4, cache_implementation=cache
    )
    assert seen.report().startswith("captured 2 of 2"), seen.report()
    assert "Dense" not in seen.report()
    whole = torch.cat((given, torch.ones(2, 8, dtype=torch.long)), dim=1)
    for found, theirs in zip(seen, weights(model, text[:, :-1], whole), strict=True):
        agree(found, theirs)


# Beams


def beams(monkeypatch, model, ids, given, **others):
    """What was seen of a beam search, the text that each sample held in the last step, and more.

    The texts are what the model was given, in the order in which its cache was told to stand.
    """
    texts, read, moved = [], [], []
    for kind in (Cache, EncoderDecoderCache):
        monkeypatch.setattr(kind, "reorder_cache", _told(kind.reorder_cache, texts, moved))

    def reads(module, args, kwargs):
        name = "decoder_input_ids" if module.config.is_encoder_decoder else "input_ids"
        new = kwargs[name].tolist()
        texts[:] = [old + row for old, row in zip(texts or [[]] * len(new), new, strict=True)]
        read[:] = texts

    hook = model.register_forward_pre_hook(reads, with_kwargs=True)
    options = {"num_beams": 3, "max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}
    options |= {"pad_token_id": 0, **others}
    with torch.no_grad(), watch(model) as seen:
        out = model.generate(ids, attention_mask=given, **options)
    hook.remove()
    assert sum(moved) > 2, "the beams kept their places, so nothing was tried"
    return seen, torch.tensor(read), out


def _told(plain, texts, moved):
    def reorder(self, order):
        if not hasattr(self, "_inside"):  # and not a cache inside the cache of an encoder-decoder
            for name in ("self_attention_cache", "cross_attention_cache"):
                if hasattr(self, name):
                    getattr(self, name)._inside = True
            moved.append(order.tolist() != list(range(len(order))))
            texts[:] = [texts[i] for i in order.tolist()]
        return plain(self, order)

    return reorder


def rows_agree(seen, theirs) -> int:
    """Every row of every layer belongs to the text of its sample; how many rows are missing."""
    missing = 0
    for ours, all_rows in zip(seen, theirs, strict=True):
        rows = ours.shape[2]
        missing += all_rows.shape[2] - rows
        agree(ours, all_rows[:, :, all_rows.shape[2] - rows :], atol=2e-5)
    return missing


@pytest.mark.parametrize("cache", [None, "static"])
@pytest.mark.parametrize("left", [0, 3])
def test_every_row_of_a_beam_belongs_to_its_text(monkeypatch, cache, left):
    model, given = tiny("llama"), padded(7, left)
    seen, texts, _ = beams(monkeypatch, model, tokens(), given, cache_implementation=cache)
    assert seen[0].shape == (6, 6, 18, 18)
    given = torch.cat((given, torch.ones(2, 11, dtype=torch.long)), dim=1)
    assert rows_agree(seen, weights(model, texts, given.repeat_interleave(3, dim=0))) == 0


@pytest.mark.parametrize("seed", range(4))
def test_a_window_hides_what_tells_beams_apart(monkeypatch, seed):
    """Layer 0 has alike keys wherever tokens are alike; the layer above sees what was before."""
    model = tiny("mistral", sliding_window=2, vocab_size=7)
    ids = torch.randint(1, 7, (1, 4), generator=torch.Generator().manual_seed(seed))
    seen, texts, _ = beams(monkeypatch, model, ids, torch.ones_like(ids))
    rows_agree(seen, weights(model, texts))
    assert {one.shape[3] for one in seen} == {texts.shape[1]}


@pytest.mark.parametrize(("name", "others"), [("bart", {}), ("t5", {"d_kv": 4})])
def test_beams_of_cross_attention(monkeypatch, name, others):
    """Its keys are the same for all beams of a text: the order is that of the step."""
    model = tiny(name, kind=AutoModelForSeq2SeqLM, **SEQ2SEQ, **others)
    given = padded(7, 2)
    seen, texts, out = beams(monkeypatch, model, tokens(), given)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        theirs = model(
            tokens().repeat_interleave(3, dim=0), decoder_input_ids=texts, output_attentions=True,
            attention_mask=given.repeat_interleave(3, dim=0),
        )  # fmt: skip
    assert rows_agree(seen.decoder, theirs.decoder_attentions) == 0
    assert rows_agree(seen.cross, theirs.cross_attentions) == 0
    for number, sequence in enumerate(out):
        sample = seen.sample_of(sequence)
        assert sample // 3 == number
        assert torch.equal(texts[sample], sequence[:-1])


def test_the_sample_of_a_returned_text(monkeypatch):
    model = tiny("llama")
    seen, texts, out = beams(
        monkeypatch, model, tokens(), None, num_return_sequences=2, eos_token_id=None
    )
    found = [seen.sample_of(sequence) for sequence in out]
    assert [sample // 3 for sample in found] == [0, 0, 1, 1]
    for sample, sequence in zip(found, out, strict=True):
        assert torch.equal(texts[sample], sequence[:-1])


def test_a_watch_that_begins_in_the_middle():
    model, ids = tiny("llama"), tokens(11)
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
    model, ids = tiny("llama"), tokens(11)
    cache = DynamicCache(config=model.config)
    with torch.no_grad(), watch(model) as seen:
        model(tokens(9).flip(1)[:, :3])
        model(ids[:, :8], **kept(model, cache))
        model(tokens(2).flip(1), **kept(model, cache))
        cache.crop(-2)
        model(ids[:, 8:], **kept(model, cache))
    assert len(seen.runs(1)) == 2
    agree(seen[1], weights(model, ids)[1])


def test_a_static_cache_may_change_afterwards():
    model, ids = tiny("llama"), tokens()
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
    text, seen = generate(model, tokens(), padded(7, 2), **options)
    assert [len(part) for part in (seen.encoder, seen.decoder, seen.cross)] == [2, 2, 2]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        out = model(
            tokens(), attention_mask=padded(7, 2), decoder_input_ids=text[:, :-1],
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
    target = tokens(5)
    given = (
        {"input_features": torch.randn(2, 7, 46, generator=torch.Generator().manual_seed(1))}
        if name == "whisper"
        else {"input_ids": tokens(7), "attention_mask": padded(7, 2)}
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
    pytest.importorskip("wqkv.replace.use")
    model, given = tiny("mistral", "wqkv", sliding_window=5), padded(7, 2)
    text, seen = generate(model, tokens(), given)
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


def alone(q, k, v, first: int, position: int, window: int) -> CapturedCall:
    """One call of one layer whose keys begin at `first`, as its own attention computed it."""
    n, m = q.shape[2], k.shape[2]
    mask = Window(window - 1, 0)
    out = attention(q, k, v, mask=mask, query_offset=position - first)
    rows = MaskReading(rows_of(mask, n, m, position - first, q.device))
    return CapturedCall(q, k, v, out, [rows], False, False, None, None, None, None, True, window)


@pytest.mark.parametrize("same", [False, True])
def test_one_layer_alone_does_not_guess_between_beams(same):
    """Two beams with alike kept keys: it matters which goes on if their earlier keys differ."""
    q, k, v = torch.randn(3, 2, 1, 8, 4, generator=torch.Generator().manual_seed(5))
    kept = slice(None) if same else slice(5, None)
    k[1, :, kept], v[1, :, kept] = k[0, :, kept], v[0, :, kept]
    run = record(None, alone(q, k, v, 0, 0, 3))
    q1, k1, v1 = torch.randn(3, 2, 1, 1, 4, generator=torch.Generator().manual_seed(6))
    later = torch.cat((k[[1, 1]][:, :, 6:], k1), 2), torch.cat((v[[1, 1]][:, :, 6:], v1), 2)
    found = record(run, alone(q1, *later, 6, 8, 3))
    assert found.refused is None
    assert (found is run) == same
    assert (found.start, found.key.len) == ((0, 9) if same else (8, 9))
    if not same:
        assert found.began.startswith("samples whose kept keys are alike differ before them")
        assert found.map()[:].shape == (2, 1, 1, 9)
        assert not found.map()[:, :, :, :6].any()
    assert run.key.len == (9 if same else 8)


def test_heads_of_another_number_or_size_begin_again():
    run = record(None, alone(*torch.ones(3, 2, 2, 8, 4), 0, 0, 3))
    for n_head, d in ((1, 4), (2, 6)):
        later = (torch.ones(2, n_head, 1, d), *torch.ones(2, 2, n_head, 9, d))
        found = record(run, alone(*later, 0, 8, 3))
        assert found is not run
        assert found.query.data.shape == (2, n_head, 1, d)
        assert run.key.len == 8


def test_layers_that_disagree_begin_again():
    model, ids = tiny("llama"), tokens(9, 3)
    cache = DynamicCache(config=model.config)
    with torch.no_grad(), watch(model) as seen:
        model(ids[:, :8], **kept(model, cache))
        for layer, order in zip(cache.layers, ([0, 1, 2], [0, 2, 1]), strict=True):
            layer.reorder_cache(torch.tensor(order))
        model(ids[:, 8:], **kept(model, cache))
    assert "because its layers do not agree on one way to go on" in seen.report()
    assert [len(seen.runs(layer)) for layer in range(2)] == [2, 2]


def test_cross_attention_alone_does_not_know_its_beams():
    """Whoever asks for no layer that looks at the text itself gets the last step, not a guess."""
    model = tiny("bart", kind=AutoModelForSeq2SeqLM, **SEQ2SEQ)
    for layers, rows in (([3], 1), ([2, 3], 12)):
        with torch.no_grad(), watch(model, layers=layers) as seen:
            model.generate(tokens(), num_beams=3, max_new_tokens=12, min_new_tokens=12)
        assert seen[3].shape == (6, 6, rows, 7)
        assert ("so which goes on is not known" in seen.report()) == (rows == 1)


# Caches that were cut


def attended(model, ids, *steps):
    """What was seen where each step first changes the cache, then reads one token."""
    cache, at = DynamicCache(config=model.config), ids.shape[1] - len(steps)
    with torch.no_grad(), watch(model) as seen:
        model(ids[:, :at], **kept(model, cache))
        for n, (change, position) in enumerate(steps, at):
            change(cache)
            model(ids[:, n : n + 1], **kept(model, cache), position_ids=torch.tensor([[position]]))
    return seen


def keep(picked):
    def change(cache):
        for layer in cache.layers:
            layer.keys, layer.values = layer.keys[:, :, picked], layer.values[:, :, picked]

    return change


@pytest.mark.parametrize(
    ("kept", "start", "seen_keys"),
    [
        (slice(-7, None), 20, range(13, 20)),  # the last
        (slice(5, 12), 12, range(5, 12)),  # from the middle
        (slice(0, 4), 4, range(4)),  # the first: it goes on from there
    ],
)
@pytest.mark.parametrize("batch", [1, 2])
def test_kept_keys_are_found_again(kept, start, seen_keys, batch):
    ids = tokens(21, batch)
    seen = attended(tiny("llama"), ids, (keep(kept), start))
    m = seen[1]
    assert m.shape[3] == start + 1
    own = (m[:, :, -1] > 0).nonzero()[:, 2].unique().tolist()
    assert own == [*seen_keys, start]
    before = seen.runs(1)[0]
    if seen_keys[0]:
        assert before.shape == (batch, 6, 20, 20)
        agree(before, weights(tiny("llama"), ids[:, :20])[1])
        assert f"rows from {start} on  the last of 2 runs" in seen.report()
        assert "not known" not in seen.report()
    else:
        text = torch.cat((ids[:, :4], ids[:, 20:]), dim=1)
        agree(m, weights(tiny("llama"), text)[1])


def test_a_cache_that_slides_by_hand_is_one_run():
    model, steps = tiny("llama"), [(keep(slice(-7, None)), 20 + i) for i in range(4)]
    seen = attended(model, tokens(24, 1), *steps)
    assert seen[1].shape == (1, 6, 4, 24)
    places = torch.arange(24)
    rows = torch.arange(20, 24)[:, None]
    assert torch.equal(seen[1][0, 0] > 0, (places <= rows) & (places >= rows - 7))
    assert len(seen.runs(1)) == 2


def test_keys_that_are_not_found_are_called_unknown():
    holes = keep([0, 1, 2, 15, 16, 17, 18, 19])
    seen = attended(tiny("llama"), tokens(22, 1), (holes, 20), (lambda cache: None, 21))
    assert seen[1].shape == (1, 6, 2, 10)
    says = "rows from 8 on  counted from the first key of its cache, whose place in the text is not"
    assert says in seen.report()
    assert seen.runs(1)[0].shape == (1, 6, 20, 20)


def test_the_padding_of_a_sample_goes_with_it():
    model, ids, given = tiny("llama"), tokens(9, 3), torch.ones(3, 9, dtype=torch.long)
    given[1, :2], given[2, :4] = 0, 0
    cache, order = DynamicCache(config=model.config), [2, 0, 1]
    with torch.no_grad(), watch(model) as seen:
        model(ids[:, :8], attention_mask=given[:, :8], **kept(model, cache))
        cache.reorder_cache(torch.tensor(order))
        model(ids[order, 8:], attention_mask=given[order], **kept(model, cache))
    assert len(seen.runs(0)) == 1
    assert repr(seen[0].mask) == "(Causal() & ~Lengths([4, 0, 2]))"
    for found, theirs in zip(seen, weights(model, ids[order], given[order]), strict=True):
        agree(found, theirs)


def test_the_stored_rows_of_a_sample_go_with_it():
    model, ids, order = tiny("llama"), tokens(9, 3), [2, 0, 1]
    holes = Causal().dense(9, 9).repeat(3, 1, 1, 1)
    for sample in range(3):
        holes[sample, 0, 5:, 1 + sample] = holes[sample, 0, 4, 0] = False
    cache = DynamicCache(config=model.config)
    with torch.no_grad(), watch(model) as seen:
        model(ids[:, :8], attention_mask=holes[:, :, :8, :8], **kept(model, cache))
        cache.reorder_cache(torch.tensor(order))
        model(ids[order, 8:], attention_mask=holes[order][:, :, 8:], **kept(model, cache))
    assert len(seen.runs(0)) == 1
    assert torch.equal(seen[1][:] > 0, holes[order].expand(3, 6, 9, 9))


def test_one_word_again_and_again_does_not_tell_how_much_was_cut():
    """T5's first layer has keys without positions; the second tells them apart."""
    for layers in (1, 2):
        sizes = {**SEQ2SEQ, "num_layers": layers, "num_decoder_layers": layers}
        model = tiny("t5", kind=AutoModelForSeq2SeqLM, d_kv=4, **sizes)
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        with torch.no_grad(), watch(model) as seen:
            encoded = model.encoder(tokens(7, 1))
            for part, cut in ((torch.tensor([[5] * 6]), 2), (torch.tensor([[7]]), 0)):
                model(encoder_outputs=encoded, decoder_input_ids=part, **kept(model, cache))
                if cut:
                    cache.crop(-cut)
        report = seen.report()
        assert ("do not agree on one way to go on" in report) == (layers == 1), report
        assert seen.decoder[0].shape == (1, 6, 1, 5)
        assert ("whose place in the text is not known" in report) == (layers == 1)


def test_samples_that_are_dropped_or_repeated_go_on():
    model, ids = tiny("llama"), tokens(9, 3)
    more = torch.tensor([[5], [6], [7], [8]])
    cache = DynamicCache(config=model.config)
    with torch.no_grad(), watch(model) as seen:
        model(ids[:, :7], **kept(model, cache))
        cache.batch_select_indices(torch.tensor([2, 0]))
        model(ids[[2, 0], 7:], **kept(model, cache))
        cache.batch_repeat_interleave(2)
        model(more, **kept(model, cache))
    text = torch.cat((ids[[2, 2, 0, 0]], more), dim=1)
    assert len(seen.runs(0)) == 1
    for found, theirs in zip(seen, weights(model, text), strict=True):
        agree(found, theirs)
    assert [seen.sample_of(row) for row in torch.cat((text, text[:, :1]), dim=1)] == [0, 1, 2, 3]


def test_cross_attention_is_cut_back_with_its_text():
    """And keys without positions (T5's first layer) do not tell alone how far."""
    model = tiny("t5", kind=AutoModelForSeq2SeqLM, d_kv=4, **SEQ2SEQ)
    target, cache = torch.tensor([[0, 5, 5, 5, 5, 5, 7]]), DynamicCache(config=model.config)
    cache = EncoderDecoderCache(cache, DynamicCache(config=model.config))
    with torch.no_grad():
        encoded = model.encoder(tokens(7, 1))
        with watch(model) as seen:
            for part, cut in ((target[:, :6], 2), (target[:, 6:], 0)):
                model(encoder_outputs=encoded, decoder_input_ids=part, **kept(model, cache))
                if cut:
                    cache.crop(-cut)
        model.set_attn_implementation("eager")
        out = model(
            encoder_outputs=encoded, decoder_input_ids=target[:, [0, 1, 2, 3, 6]],
            output_attentions=True,
        )  # fmt: skip
    assert rows_agree(seen.cross, out.cross_attentions) == 0
    rows_agree(seen.decoder, out.decoder_attentions)
    assert seen.sample_of([0, 5, 5, 5, 7, 9]) == 0


@pytest.mark.parametrize("cut", [3, 4, 5])
def test_a_cut_to_before_the_first_row_that_was_seen(cut):
    model, ids = tiny("llama"), tokens(10, 1)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(ids[:, :6], **kept(model, cache))
        with watch(model) as seen:
            model(ids[:, 6:9], **kept(model, cache))
            cache.crop(-cut)
            model(ids[:, 9:], **kept(model, cache))
    start = 9 - cut
    assert f"rows from {start} on  the last of 2 runs, because its cache was cut" in seen.report()
    text = torch.cat((ids[:, :start], ids[:, 9:]), dim=1)
    agree(seen[1], weights(model, text)[1][:, :, start:])
    agree(seen.runs(1)[0], weights(model, ids[:, :9])[1][:, :, 6:])


@pytest.mark.compile
@pytest.mark.parametrize("kind", [DynamicCache, StaticCache])
def test_rows_after_steps_that_went_by_unseen_stand_where_they_stand(kind):
    model, ids = tiny("llama"), tokens(11)
    given = {"max_cache_len": 13} if kind is StaticCache else {}
    cache = kind(config=model.config, **given)
    step = torch.compile(
        lambda x: model(x, **kept(model, cache), position_ids=torch.tensor([[7]])).logits,
        backend="eager",
    )
    with torch.no_grad(), watch(model) as seen:
        model(ids[:, :7], **kept(model, cache))
        step(ids[:, 7:8])
        model(ids[:, 8:10], **kept(model, cache), position_ids=torch.tensor([[8, 9]]))
        model(ids[:, 10:], **kept(model, cache), position_ids=torch.tensor([[10]]))
    assert "because its cache of" in seen.report()
    assert "holds keys after position 9 that are seen" in seen.report()
    for found, theirs in zip(seen, weights(model, ids), strict=True):
        agree(found, theirs[:, :, 8:])
    with pytest.raises(MissedError, match="Which token ids the samples hold is not known"):
        seen.sample_of(ids[0])


def test_a_source_that_is_masked_otherwise_later():
    model, target = tiny("bart", kind=AutoModelForSeq2SeqLM, **SEQ2SEQ), tokens(4)
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    with torch.no_grad(), watch(model) as seen:
        encoded = model.model.encoder(tokens())
        for part, given in ((target[:, :3], padded(7)), (target[:, 3:], padded(7, 2))):
            model(
                encoder_outputs=encoded, attention_mask=given, decoder_input_ids=part,
                **kept(model, cache),
            )  # fmt: skip
    assert "because the mask of a later step is not what Full() says there" in seen.report()
    assert [m.shape for m in seen.cross] == [(2, 6, 1, 7)] * 2
    assert [m.shape for m in seen.decoder] == [(2, 6, 4, 4)] * 2
    assert not seen.cross[1][1, :, 0, :2].any()


def test_a_map_made_before_a_cut_stays():
    model, ids, maps = tiny("llama"), tokens(9, 1), []
    cache = DynamicCache(config=model.config)
    with torch.no_grad(), watch(model) as seen:
        for part in (ids[:, :5], ids[:, 5:6], ids[:, 6:7]):  # the second makes room for more
            model(part, **kept(model, cache))
        maps = [seen[1], seen[1][:].clone()]
        cache.crop(-2)
        model(ids[:, 7:9], **kept(model, cache))
    assert torch.equal(maps[0][:], maps[1])
    assert not torch.equal(seen[1][:], maps[1])


# Steps that do not fit


def steps(model, *masks, cut: int = 0, prompt: int = 5):
    """A prompt and then one token per mask, with a cache; the cache is cut back at the end."""
    ids, cache = tokens(prompt + len(masks)), DynamicCache(config=model.config)
    with torch.no_grad(), watch(model) as seen:
        model(ids[:, :prompt], attention_mask=masks[0], **kept(model, cache))
        for at, mask in enumerate(masks[1:], prompt):
            model(ids[:, at : at + 1], attention_mask=mask, **kept(model, cache))
        if cut:
            cache.crop(-cut)
            model(ids[:, -1:], **kept(model, cache))
    return seen


def begins_again(seen, why: str, start: int, key_len: int) -> None:
    """The step began a run that says why, and what was seen before it stays."""
    assert seen.report().startswith("captured 2 of 2"), seen.report()
    assert f"rows from {start} on  the last of 2 runs, because {why}" in seen.report()
    for layer in range(2):
        assert len(seen.runs(layer)) == 2
        assert seen[layer].shape == (2, 6, key_len - start, key_len)


def test_a_later_step_that_breaks_the_pattern():
    hole = torch.tensor([1, 1, 0, 1, 1, 1]).bool().view(1, 1, 1, 6)
    seen = steps(tiny("llama"), None, hole)
    begins_again(seen, "the mask of a later step is not what Causal() says there", 5, 6)
    assert torch.equal(seen[1][:] > 0, hole.expand(2, 6, 1, 6))
    agree(seen.runs(1)[0], weights(tiny("llama"), tokens(7)[:, :5])[1])


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
    why = "its cache was cut back, and its mask or bias is stored row by row"
    begins_again(seen, why, 4, 5)


def test_a_bias_that_comes_later():
    bias = torch.full((1, 1, 1, 6), 0.5)
    seen = steps(tiny("llama", "eager"), None, bias)
    why = "a later step has a bias and the first has none, or the other way round"
    begins_again(seen, why, 5, 6)


def test_a_layer_that_asks_twice_about_different_tokens():
    model = tiny("llama")
    for layer in model.model.layers:
        layer.self_attn.forward = _twice(layer.self_attn.forward)
    with torch.no_grad(), watch(model) as seen:
        model(tokens())
    names = [layer.name for layer in seen.layers]
    assert names[:2] == ["model.layers.0.self_attn", "model.layers.0.self_attn (attention 2)"]
    assert [layer.state for layer in seen.layers] == ["proved"] * 4
    assert "it asks the interface several times in a forward" in seen.report()
    assert not torch.equal(seen[0][:], seen[1][:])


def test_a_cache_with_keys_from_elsewhere():
    """A step's mask lets it see places of a static cache that no token of the run has filled."""
    draw = torch.randn(1, 6, 11, 4, generator=torch.Generator().manual_seed(4))

    def step(n, m, mask=None):
        given = {"query": draw[:, :, :n], "key": draw[:, :, :m], "attention_mask": mask}
        given["value"], out = torch.zeros(1, 6, m, 4), torch.zeros(1, n, 6, 4)
        return call_of("eager", (), given, (out, None))

    run = record(None, step(3, 3))
    assert run.refused is None
    later = record(run, step(1, 7, torch.ones(1, 1, 1, 7, dtype=torch.bool)))
    assert later is not run
    assert later.began == "its cache of 7 holds keys after position 4 that are seen"
    assert (later.start, later.key.len, run.end) == (6, 7, 3)


def _twice(plain):
    def forward(hidden_states, **kwargs):
        plain(hidden_states.flip(1), **kwargs)
        return plain(hidden_states, **kwargs)

    return forward
