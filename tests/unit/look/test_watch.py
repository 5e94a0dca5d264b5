"""Watching a model: bit-identical outputs, proved maps, and a reason for whatever is missed."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

pytest.importorskip("transformers")

from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSpeechSeq2Seq,
    DynamicCache,
    StaticCache,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import (
    add_offsets_to_mask_function,
    and_masks,
    flash_attention_mask,
    padding_mask_function,
    sdpa_mask,
)

from wqkv.attend.masks import Causal, Full
from wqkv.errors import ArgumentError, KindError, MissedError, WqkvError
from wqkv.look.maps import AttentionMap
from wqkv.look.records import Statistics
from wqkv.look.watch import watch

SIZES = {
    "hidden_size": 24,
    "intermediate_size": 29,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "vocab_size": 61,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
SEQ2SEQ = {
    "d_model": 24,
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_layers"), 2),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "num_heads"), 6),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "d_ff"), 29),
    **dict.fromkeys(("vocab_size", "max_position_embeddings"), 61),
    **dict.fromkeys(("pad_token_id", "eos_token_id"), 0),
    **dict.fromkeys(("bos_token_id", "decoder_start_token_id"), 1),
    "forced_eos_token_id": None,
}


def tiny(name: str, implementation: str = "sdpa", kind=AutoModelForCausalLM, **others):
    torch.manual_seed(0)
    sizes = SIZES if kind in (AutoModel, AutoModelForCausalLM) else {}
    if name in ("llama", "mistral"):
        others.setdefault("num_key_value_heads", 3)
    config = AutoConfig.for_model(name, **{**sizes, **others})
    model = kind.from_config(config, attn_implementation=implementation).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 3 if weight.ndim > 1 else 1
    return model


def words(length: int = 7, batch: int = 2) -> torch.Tensor:
    return torch.randint(3, 60, (batch, length), generator=torch.Generator().manual_seed(1))


def padded(length: int = 7, left: int = 0, right: int = 0) -> torch.Tensor:
    given = torch.ones(2, length, dtype=torch.long)
    given[1, :left] = 0
    given[1, length - right :] = 0
    return given


@torch.no_grad()
def weights(model: nn.Module, ids: torch.Tensor, given: torch.Tensor | None = None):
    """The eager path's matrices."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    found = model(ids, attention_mask=given, output_attentions=True).attentions
    model.set_attn_implementation(before)
    return found


def agree(found: AttentionMap, theirs: torch.Tensor, atol: float = 2e-6) -> None:
    """Equal wherever a query sees anything."""
    ours = found[:]
    assert ours.shape == theirs.shape
    sees = ours.sum(dim=-1) > 0
    torch.testing.assert_close(ours[sees], theirs[sees], rtol=1e-5, atol=atol)


# One forward


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize(("left", "right"), [(0, 0), (3, 0), (0, 2), (2, 1)])
@pytest.mark.parametrize(("name", "kind"), [("llama", AutoModelForCausalLM), ("bert", AutoModel)])
def test_one_forward(name, kind, implementation, left, right):
    model, ids, given = tiny(name, implementation, kind), words(), padded(7, left, right)
    with torch.no_grad():
        plain = model(ids, attention_mask=given)[0]
        with watch(model) as seen:
            watched = model(ids, attention_mask=given)[0]
    assert torch.equal(plain, watched)
    assert seen.report().startswith("captured 2 of 2 layers")
    assert [layer.state for layer in seen.layers] == ["captured"] * 2
    assert "Dense" not in seen.report()  # the mask is a value
    for found, theirs in zip(seen, weights(model, ids, given), strict=True):
        agree(found, theirs)
    empty = f"{left} empty" in seen.report()
    assert empty == (name == "llama" and left > 0)


def test_maps_carry_no_gradient_and_the_model_learns_as_before():
    model, ids = tiny("llama"), words()
    model(ids, labels=ids).loss.backward()
    plain = [weight.grad.clone() for weight in model.parameters()]
    model.zero_grad()
    with watch(model) as seen:
        model(ids, labels=ids).loss.backward()
    assert all(torch.equal(a, b.grad) for a, b in zip(plain, model.parameters(), strict=True))
    assert not seen[0].lse.requires_grad
    assert seen[1][0, 1].shape == (7, 7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_half_precision(dtype, implementation):
    model, ids = tiny("llama", implementation).to(dtype), words()
    with torch.no_grad(), watch(model) as seen:
        model(ids)
    assert seen.report().startswith("captured 2 of 2")
    ours, theirs = seen[0][:], weights(model, ids)[0].float()
    torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.02)


def test_autocast():
    model, ids = tiny("llama"), words()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        plain = model(ids)[0]
        with watch(model) as seen:
            assert torch.equal(model(ids)[0], plain)
    assert seen.report().startswith("captured 2 of 2")


def test_a_long_text_is_proved_on_sampled_rows():
    model, ids = tiny("llama", max_position_embeddings=1024), words(600, 1)
    with torch.no_grad(), watch(model) as seen:
        model(ids)
    assert "(64 rows)" in seen.report()
    agree(seen[1], weights(model, ids)[1])


def test_a_window_and_its_documents():
    model, ids = tiny("mistral", sliding_window=4), words(11)
    with torch.no_grad(), watch(model) as seen:
        model(ids)
    assert "Window(before=3, after=0)" in seen.report()
    agree(seen[1], weights(model, ids)[1])
    place = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5]])
    model = tiny("llama")
    with torch.no_grad(), watch(model) as seen:
        model(words(11, 1), position_ids=place, use_cache=False)
    assert "Segments" in seen.report()
    assert float(seen[0][0, :, 7, :5].abs().max()) == 0


def test_a_mask_without_a_pattern_is_kept_as_it_is():
    model, ids = tiny("llama"), words(7, 1)
    holes = torch.rand(1, 1, 7, 7, generator=torch.Generator().manual_seed(3)) > 0.4
    holes |= torch.eye(7, dtype=torch.bool)
    with torch.no_grad(), watch(model) as seen:
        model(ids, attention_mask=holes)
    assert "Dense(bool[1, 1, 7, 7] on cpu)" in seen.report()
    assert torch.equal(seen[0][:] > 0, holes.expand(1, 6, 7, 7))
    assert seen[0]._given.mask.matrix.data_ptr() == seen[1]._given.mask.matrix.data_ptr()


def test_layers_that_share_their_weights():
    model = tiny("albert", kind=AutoModel, num_hidden_layers=3, embedding_size=13)
    ids = words()
    with torch.no_grad(), watch(model) as seen:
        model(ids)
        model(ids)
    assert len(seen) == 3
    assert seen.layers[2].name.endswith("(run 3)")
    assert len(seen.runs(1)) == 2
    for found, theirs in zip(seen, weights(model, ids), strict=True):
        agree(found, theirs)


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


# Texts written word by word


def generate(model, ids, given=None, **others):
    options = {"max_new_tokens": 9, "do_sample": False, "pad_token_id": 0, **others}
    with torch.no_grad():
        plain = model.generate(ids, attention_mask=given, **options)
        with watch(model) as seen:
            watched = model.generate(ids, attention_mask=given, **options)
    assert torch.equal(plain, watched)
    return watched, seen


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
    model = tiny(
        "llama4_text", layer_types=["chunked_attention", "full_attention"], attention_chunk_size=5,
        intermediate_size_mlp=29, num_key_value_heads=3, num_local_experts=2, head_dim=4,
    )  # fmt: skip
    for prompt in (3, 7):
        text, seen = generate(model, words(prompt), torch.ones(2, prompt, dtype=torch.long))
        assert "Segments" in seen.report()
        for found, theirs in zip(seen, weights(model, text[:, :-1]), strict=True):
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
        model(ids[:, :6], past_key_values=cache)
        with watch(model) as seen:
            model(ids[:, 6:10], past_key_values=cache)
            model(ids[:, 10:], past_key_values=cache)
    assert seen[0].shape == (2, 6, 5, 11)
    assert "rows from 6 on" in seen.report()
    torch.testing.assert_close(seen[1][:], weights(model, ids)[1][:, :, 6:])


def test_a_cache_that_is_cut_back():
    model, ids = tiny("llama"), words(11)
    cache = DynamicCache(config=model.config)
    with torch.no_grad(), watch(model) as seen:
        model(words(9).flip(1)[:, :3])
        model(ids[:, :8], past_key_values=cache)
        model(words(2).flip(1), past_key_values=cache)
        cache.crop(-2)
        model(ids[:, 8:], past_key_values=cache)
    assert len(seen.runs(1)) == 2
    agree(seen[1], weights(model, ids)[1])


def test_a_static_cache_may_change_afterwards():
    model, ids = tiny("llama"), words()
    cache = StaticCache(config=model.config, max_cache_len=7)
    with torch.no_grad(), watch(model) as seen:
        model(ids, past_key_values=cache)
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


# Coming and going


def test_everything_is_as_before_after_an_exception():
    model = tiny("llama")
    before = AttentionInterface.__dict__["get_interface"]
    with pytest.raises(RuntimeError, match="stop"), watch(model):
        assert AttentionInterface.__dict__["get_interface"] is not before
        raise RuntimeError("stop")
    assert AttentionInterface.__dict__["get_interface"] is before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert model.config._attn_implementation == "sdpa"


def test_an_exception_in_the_model_leaves_the_next_forward_whole():
    model, ids = tiny("llama"), words()
    with torch.no_grad(), watch(model) as seen:
        with pytest.raises(IndexError):
            model(ids + 100)
        model(ids)
    assert seen.report().startswith("captured 2 of 2")


def test_nested_watches_of_two_models():
    model, other = tiny("llama"), tiny("bert", kind=AutoModel)
    before = AttentionInterface.__dict__["get_interface"]
    with torch.no_grad(), watch(model) as outer:
        with watch(other) as inner, watch(model, layers=[1]) as again:
            model(words())
            other(words())
        model(words(5))
    assert AttentionInterface.__dict__["get_interface"] is before
    assert (len(outer.runs(0)), len(again.runs(1)), len(inner.runs(0))) == (2, 1, 1)
    assert outer[0].shape == (2, 6, 5, 5)
    assert "the last of 2 runs" in outer.report()
    assert inner.layers[0].kind == "encoder"


def test_a_watch_is_entered_once():
    seen = watch(tiny("llama"))
    with seen, pytest.raises(ArgumentError, match="This watch is on already"):
        seen.__enter__()


def test_watch_refuses_what_it_cannot_be():
    model = tiny("llama")
    with pytest.raises(KindError, match="`model` is a torch module, not str 'llama'"):
        watch("llama")
    with pytest.raises(ArgumentError, match="`keep` is 'some'"):
        watch(model, keep="some")
    with pytest.raises(ArgumentError, match="`layers` holds -1"):
        watch(model, layers=[-1])
    with pytest.raises(KindError, match="`layers` holds numbers of layers, not str 'a'"):
        watch(model, layers=["a"])


def test_layers_bound_what_is_recorded():
    model, ids = tiny("llama"), words()
    with torch.no_grad(), watch(model, layers=[1, 40]) as seen:
        model(ids)
    assert seen.report().startswith("captured 1 of 2 layers of LlamaForCausalLM (1 not asked for)")
    assert "there is no layer 40" in seen.report()
    agree(seen[1], weights(model, ids)[1])
    assert seen[-1].shape == seen[1].shape
    with pytest.raises(MissedError, match="it was not asked for: see `layers`"):
        seen[0]
    with pytest.raises(IndexError, match="There is no layer 2: 2 ran"):
        seen[2]


def test_statistics_alone():
    model, ids, given = tiny("llama"), words(), padded(7, 2)
    with torch.no_grad(), watch(model, keep="statistics") as seen, watch(model) as whole:
        model(ids, attention_mask=given)
        model(ids)
    assert isinstance(seen[0], Statistics)
    assert seen.report().startswith("captured 2 of 2")
    for small, full in zip(seen.runs(1), whole.runs(1), strict=True):
        assert small.shape == full.shape
        assert torch.equal(small.entropy(), full.entropy())
        assert torch.equal(small.received(), full.received())
    with pytest.raises(MissedError, match="q and k were not kept, so there are no tiles"):
        seen[0][0, 0, 1]
    with pytest.raises(MissedError, match="q and k were not kept, so there is no `thumbnail`"):
        seen[0].thumbnail(3)
    with pytest.raises(AttributeError, match="nonsense"):
        seen[0].nonsense  # noqa: B018
    assert repr(seen[0]) == "Statistics[2, 6, 7, 7]"


def test_transformers_is_not_imported_until_it_is_used():
    code = "import sys, wqkv.look.watch; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# What is missed, and why


def missed(model: nn.Module, reason: str, **given) -> None:
    with torch.no_grad(), watch(model) as seen:
        model(**(given or {"input_ids": words()}))
    assert seen.report().startswith("captured 0 of 2"), seen.report()
    assert all(reason in layer.reason for layer in seen.layers), seen.report()
    with pytest.raises(MissedError, match="There is no map of ") as error:
        seen[0]
    assert reason in str(error.value)
    assert isinstance(error.value, WqkvError)


@pytest.fixture
def registered():
    """Register an attention function for a test: (name, function, mask function)."""
    names = []

    def register(name, function, mask=sdpa_mask):
        AttentionInterface.register(name, function)
        AttentionMaskInterface.register(name, mask)
        names.append(name)
        return name

    yield register
    for name in names:
        del AttentionInterface._global_mapping[name]
        del AttentionMaskInterface._global_mapping[name]


def test_a_planted_wrong_output_fails_the_proof(registered):
    def wrong(*args, **kwargs):
        out, rest = sdpa_attention_forward(*args, **kwargs)
        out = out.clone()
        out[0, 5, 1, 2] += 1e-3  # one number of many
        return out, rest

    missed(tiny("llama", registered("planted_sdpa", wrong)), "its proof failed")


def test_a_planted_nan_fails_the_proof(registered):
    def wrong(*args, **kwargs):
        out, rest = sdpa_attention_forward(*args, **kwargs)
        return out * float("nan"), rest

    missed(tiny("llama", registered("planted_nan", wrong)), "its proof failed")


@pytest.mark.parametrize("name", ["indices", "block_indices", "anything"])
def test_an_unknown_argument(name):
    model = tiny("llama")
    for layer in model.model.layers:
        plain = layer.self_attn.forward
        layer.self_attn.forward = lambda *args, plain=plain, **kwargs: plain(
            *args, **{**kwargs, name: torch.ones(1)}
        )
    missed(model, f"it passes `{name}`, which may change the weights")


def test_dropout_in_training():
    model = tiny("llama", attention_dropout=0.25).train()
    missed(model, "dropout 0.25 while training draws new weights every time")
    with torch.no_grad(), watch(model.eval()) as seen:
        model(words())
    assert seen.report().startswith("captured 2 of 2")


@pytest.mark.parametrize("name", ["bloom", "deberta-v2", "gptj", "falcon"])
@pytest.mark.filterwarnings("ignore")
def test_outside_the_interface(name):
    others = {"rotary_dim": 4, "n_layer": 2, "n_head": 6, "n_embd": 24} if name == "gptj" else {}
    implementation = "sdpa" if name == "falcon" else "eager"
    model = tiny(name, implementation, AutoModel, **others)
    missed(model, "it does not use the attention interface")


def test_compiled():
    missed(torch.compile(tiny("llama"), backend="eager"), "it runs compiled, out of sight")
    model = tiny("llama")
    model.compile(backend="eager")
    missed(model, "it runs compiled, out of sight")


def test_nothing_ran():
    with watch(tiny("llama")) as seen:
        pass
    assert seen.report() == "captured 0 of 0 layers of LlamaForCausalLM: no attention layer ran"


def test_a_function_that_nobody_knows_is_read_as_what_proves_true(registered):
    """Without a mask it may be causal, as sdpa, or see all, as most eager ones."""

    def causal(*args, **kwargs):
        return sdpa_attention_forward(*args, **kwargs)

    def full(module, query, key, value, attention_mask, **kwargs):
        return sdpa_attention_forward(module, query, key, value, None, **kwargs, is_causal=False)

    for name, function, mask in (("mine", causal, Causal()), ("other", full, Full())):
        model = tiny("llama", registered(name, function))
        with torch.no_grad(), watch(model) as seen:
            model(words())
        assert seen.report().startswith("captured 2 of 2")
        assert seen[0]._given.mask == mask


def _by_hand(module, query, key, value, seen, scaling):
    repeat = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    scores = (query @ key.transpose(2, 3) * scaling).masked_fill(~seen, -torch.inf)
    return (scores.softmax(-1).nan_to_num() @ value).transpose(1, 2), None


def test_a_flash_function_by_its_rules(registered):
    """No matrix: causal from the lower right corner, a window, padding (batch, key)."""

    def flash(module, query, key, value, mask, scaling=None, sliding_window=None, **kwargs):
        n, m = query.shape[2], key.shape[2]
        ahead = torch.arange(m) - torch.arange(m - n, m)[:, None]
        seen = (ahead <= 0) & (ahead > -(sliding_window or m))
        if mask is not None:
            seen = seen & mask[:, None, None].bool()
        return _by_hand(module, query, key, value, seen, scaling)

    name = registered("my_flash", flash, flash_attention_mask)
    for window, left in ((None, 0), (None, 2), (4, 0), (4, 2)):
        model, given = tiny("mistral", sliding_window=window), padded(7, left)
        model.config._attn_implementation_internal = name  # set by name, it would look for kernels
        text, seen = generate(model, words(), given)
        assert seen.report().startswith("captured 2 of 2"), seen.report()
        whole = torch.cat((given, torch.ones(2, 8, dtype=torch.long)), dim=1)
        model.config._attn_implementation_internal = "eager"
        with torch.no_grad():
            out = model(text[:, :-1], attention_mask=whole, output_attentions=True)
        agree(seen[1], out.attentions[1])


def test_a_flex_function_by_its_rules(registered):
    def blocks(
        batch_size, q_length, kv_length, q_offset, kv_offset, mask_function, attention_mask, **_
    ):
        """flex_attention_mask, without the compilation."""
        if attention_mask is not None:
            given = padding_mask_function(attention_mask.bool())
            mask_function = and_masks(mask_function, given)
        return SimpleNamespace(
            mask_mod=add_offsets_to_mask_function(mask_function, q_offset, kv_offset)
        )

    def flex(module, query, key, value, mask, scaling=None, **kwargs):
        sizes = (query.shape[0], 1, query.shape[2], key.shape[2])
        shapes = ((-1, 1, 1, 1), (1, -1, 1, 1), (1, 1, -1, 1), (1, 1, 1, -1))
        at = [torch.arange(size).view(shape) for size, shape in zip(sizes, shapes, strict=True)]
        return _by_hand(module, query, key, value, mask.mask_mod(*at), scaling)

    model, given = tiny("llama", registered("my_flex", flex, blocks)), padded(7, 2)
    text, seen = generate(model, words(), given)
    assert seen.report().startswith("captured 2 of 2"), seen.report()
    assert "Causal() & ~Lengths([0, 2])" in seen.report()
    whole = torch.cat((given, torch.ones(2, 8, dtype=torch.long)), dim=1)
    agree(seen[1], weights(model, text[:, :-1], whole)[1])


def test_a_layer_that_asks_twice_about_different_words():
    model = tiny("llama")
    for layer in model.model.layers:
        layer.self_attn.forward = _twice(layer.self_attn.forward)
    missed(model, "it asks the interface several times in a forward, with different words")


def _twice(plain):
    def forward(hidden_states, **kwargs):
        plain(hidden_states.flip(1), **kwargs)
        return plain(hidden_states, **kwargs)

    return forward


def test_our_own_implementation():
    pytest.importorskip("wqkv.look.use")
    model, given = tiny("mistral", "wqkv", sliding_window=5), padded(7, 2)
    text, seen = generate(model, words(), given)
    assert seen.report().startswith("captured 2 of 2"), seen.report()
    assert "Window(before=4, after=0) & ~Lengths([0, 2])" in seen.report()
    whole = torch.cat((given, torch.ones(2, 8, dtype=torch.long)), dim=1)
    agree(seen[1], weights(model, text[:, :-1], whole)[1])


# Steps that do not fit


def steps(model, *masks, cut: int = 0, prompt: int = 5):
    """A prompt and then one word a mask, with a cache; the cache is cut back at the end."""
    ids, cache = words(prompt + len(masks)), DynamicCache(config=model.config)
    with torch.no_grad(), watch(model) as seen:
        model(ids[:, :prompt], attention_mask=masks[0], past_key_values=cache)
        for at, mask in enumerate(masks[1:], prompt):
            model(ids[:, at : at + 1], attention_mask=mask, past_key_values=cache)
        if cut:
            cache.crop(-cut)
            model(ids[:, -1:], past_key_values=cache)
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
