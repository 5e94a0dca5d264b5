"""One call of an attention function: what is understood, and what is refused by name."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

pytest.importorskip("transformers")

from transformers import CONFIG_MAPPING, AutoModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import (
    add_offsets_to_mask_function,
    and_masks,
    flash_attention_mask,
    padding_mask_function,
)

from tests.tiny import agree, call_of, generate, padded, tiny, tokens, weights
from wqkv.attend.masks import Causal, Full
from wqkv.record.arguments import HARMLESS, unknown
from wqkv.record.captured import Refusal
from wqkv.record.watch import watch


def call(convention="sdpa", args=(), out=None, **given):
    """One call of an attention function, read as `watch` reads it."""
    query = torch.zeros(2, 6, 5, 4)
    whole = {"query": query, "key": query, "value": query, "attention_mask": None, **given}
    out = query.transpose(1, 2) if out is None else out
    return call_of(convention, args, whole, (out, None))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"args": (0,) * 5}, "it passes 5 arguments without names"),
        ({"query": torch.zeros(2, 5, 24)}, r"its query is \(2, 5, 24\), not"),
        ({"value": None}, "its value is NoneType, not"),
        ({"out": torch.zeros(2, 6, 5, 4)}, r"its output has the shape \(2, 6, 5, 4\), not"),
        ({"attention_mask": "causal"}, "its mask is a str, which is not understood"),
        ({"attention_mask": torch.ones(2, 5).long()}, "its mask is torch.int64 with 2 axes"),
        ({"attention_mask": torch.ones(2, 1, 7, 5)}, "does not fit 5 queries and 5 keys"),
        ({"position_bias": torch.zeros(5, 5)}, "its `position_bias` is no float tensor"),
        (
            {"sinks": torch.zeros(2, 6, 5, 1)},
            r"its sinks have the shape \(2, 6, 5, 1\): a map takes one number per head, \(6,\)",
        ),
        ({"query": torch.zeros(2, 6, 5, 4, device="meta")}, "on the device meta, which holds no"),
        ({"convention": "flash", "attention_mask": torch.zeros(2, 5)}, "hides every key"),
        (
            {"convention": "flash", "cu_seq_lens_q": torch.tensor([0, 5])},
            "its documents differ between queries and keys",
        ),
    ],
    ids=str,
)
def test_what_is_not_understood(given, reason):
    with pytest.raises(Refusal, match=reason):
        call(**given)


def test_documents_of_a_flash_function():
    asked = call(
        "flash", cu_seq_lens_q=torch.tensor([0, 2, 5]), cu_seq_lens_k=torch.tensor([0, 2, 5])
    )
    assert asked.readings[0].pattern.starts.tolist() == [[0, 0, 2, 2, 2]]
    one = torch.zeros(1, 6, 5, 4)
    asked = call(
        "flash", out=one.transpose(1, 2), query=one, key=one, value=one,
        position_ids=torch.tensor([[0, 1, 0, 1, 2]]),
    )  # fmt: skip
    assert asked.readings[0].pattern.starts.tolist() == [[0, 0, 2, 2, 2]]


# Functions of every kind


@pytest.mark.parametrize("name", ["indices", "block_indices", "anything"])
def test_an_unknown_argument(name):
    model = tiny("llama")
    for layer in model.model.layers:
        plain = layer.self_attn.forward
        layer.self_attn.forward = lambda *args, plain=plain, **kwargs: plain(
            *args, **{**kwargs, name: torch.ones(1)}
        )
    with torch.no_grad(), watch(model) as seen:
        model(tokens())
    assert [layer.state for layer in seen.layers] == ["proved"] * 2
    says = f"heard at its operators, because it passes `{name}`, which may change the weights"
    assert says in seen.report()


@pytest.mark.parametrize("name", sorted(HARMLESS))
def test_an_argument_that_changes_no_weight(name):
    """Whoever looks and whoever runs go by one list."""
    from wqkv.replace import use

    query = torch.randn(2, 6, 5, 4)
    given = {name: True}
    value = torch.zeros(2, 6, 5, 4)
    assert call(value=value, **given).causal
    plain = use.run(nn.Module(), query, query, value, None)[0]
    assert torch.equal(use.run(nn.Module(), query, query, value, None, **given)[0], plain)
    assert use.unknown is unknown
    assert unknown({**given, "indices": 3, "other": None, "more": False}) == ["indices"]


@pytest.mark.parametrize("name", ["token_type_ids", "labels", "logits_to_keep", "max_seqlen"])
def test_a_model_that_hands_such_an_argument_on(name):
    model = tiny("llama", kind=AutoModel)
    given = {
        "input_ids": tokens(),
        name: 7 if name in ("logits_to_keep", "max_seqlen") else tokens(),
    }
    with torch.no_grad(), watch(model) as seen:
        plain = model(**given)[0]
    assert seen.report().startswith("captured 2 of 2"), seen.report()
    model.set_attn_implementation("wqkv")
    with torch.no_grad():
        torch.testing.assert_close(model(**given)[0], plain)


def test_dropout_in_training():
    model = tiny("llama", attention_dropout=0.25).train()
    torch.manual_seed(0)
    with torch.no_grad(), watch(model) as seen:
        model(tokens())
    assert "because dropout 0.25 while training draws new weights every time" in seen.report()
    agree(seen[0], weights(model.eval(), tokens())[0])
    with torch.no_grad(), watch(model.eval()) as seen:
        model(tokens())
    assert seen.report().startswith("captured 2 of 2")


def test_a_function_that_nobody_knows_is_read_as_what_proves_true(registered):
    """Without a mask it may be causal, as sdpa, or see all, as most eager ones."""

    def causal(*args, **kwargs):
        return sdpa_attention_forward(*args, **kwargs)

    def full(module, query, key, value, attention_mask, **kwargs):
        return sdpa_attention_forward(module, query, key, value, None, **kwargs, is_causal=False)

    for name, function, mask in (("mine", causal, Causal()), ("other", full, Full())):
        model = tiny("llama", registered(name, function))
        with torch.no_grad(), watch(model) as seen:
            model(tokens())
        assert seen.report().startswith("captured 2 of 2")
        assert seen[0].mask == mask


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
        text, seen = generate(model, tokens(), given)
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
    text, seen = generate(model, tokens(), given)
    assert seen.report().startswith("captured 2 of 2"), seen.report()
    assert "Causal() & ~Lengths([0, 2])" in seen.report()
    whole = torch.cat((given, torch.ones(2, 8, dtype=torch.long)), dim=1)
    agree(seen[1], weights(model, text[:, :-1], whole)[1])


def test_sinks_that_differ_between_queries():
    if "inkling2_text" not in CONFIG_MAPPING:
        pytest.skip("this transformers has no such family")
    heads = {"num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 8}
    others = {**heads, **{f"swa_{name}": size for name, size in heads.items()}}
    others |= {"hidden_size": 32, "intermediate_size": 32, "moe_intermediate_size": 16}
    model = tiny("inkling2_text", "eager", AutoModel, **others)
    with torch.no_grad(), watch(model) as seen:
        model(tokens(), use_cache=False)
    layers = [layer for layer in seen.layers if layer.name.endswith("self_attn")]
    says = "its sinks have the shape (2, 6, 7, 1): a map takes one number per head, (6,), and none"
    assert [layer.state for layer in layers] == ["proved"] * 2, seen.report()
    assert says in seen.report()


@pytest.mark.parametrize("padding", [(0, 0), (3, 1)])
@pytest.mark.parametrize(("name", "window"), [("llama", {}), ("mistral", {"sliding_window": 4})])
def test_a_mask_that_comes_as_a_value_is_not_gone_through(name, window, padding, monkeypatch):
    """Models that run on wqkv hand their masks on as values."""
    pytest.importorskip("wqkv.replace.use")
    model, ids, given = tiny(name, "wqkv", **window), tokens(), padded(7, *padding)
    for found in ("wqkv.record.follow.recognize", "wqkv.record.mask_pattern.Visible.rows"):
        monkeypatch.setattr(found, lambda *args, **kwargs: pytest.fail("it was gone through"))
    with torch.no_grad(), watch(model) as seen:
        model(ids, attention_mask=given, use_cache=False)
    assert seen.report().startswith("captured 2 of 2"), seen.report()
    monkeypatch.undo()
    agree(seen[1], weights(model, ids, given)[1])
