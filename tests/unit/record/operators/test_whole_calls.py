"""Calls of kernels that compute a whole attention."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.conformance.independent import sdpa_weights
from tests.written import (
    BATCH,
    D_K,
    HEADS,
    M,
    N,
    heard_of,
    is_map,
    missed,
    qkv,
    randn,
    seen_of,
)
from wqkv.record.captured import Refusal
from wqkv.record.operators.nodes import Applied, Leaf
from wqkv.record.operators.told import FusedCall
from wqkv.record.operators.whole_calls import read_fused
from wqkv.record.watch import watch

SHOWN = randn(BATCH, HEADS, N, M, seed=4) > 0
SHOWN[..., 0] = True
BIAS = randn(BATCH, HEADS, N, M, seed=5)
KERNEL = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default

#: How F.scaled_dot_product_attention is called.
CALLS = {
    "nothing": {},
    "scale": {"scale": 0.3},
    "bool (query, key)": {"attn_mask": SHOWN[0, 0]},
    "bool (1, head, query, key)": {"attn_mask": SHOWN[:1]},
    "bool (batch, 1, 1, key)": {"attn_mask": SHOWN[:, :1, :1]},
    "bool (query, 1)": {"attn_mask": SHOWN[0, 0, :, :1]},
    "float (query, key)": {"attn_mask": BIAS[0, 0]},
    "float (head, query, key)": {"attn_mask": BIAS[0]},
    "float that hides": {"attn_mask": BIAS.masked_fill(~SHOWN, -torch.inf)},
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("how", CALLS)
def test_the_kernel_of_a_cpu(how, inference):
    with torch.inference_mode(inference):
        q, k, v = qkv()
        given = CALLS[how]
        seen = seen_of(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **given), q, k, v)
        is_map(seen, sdpa_weights(q, k, v, **given))
        assert "computed again" not in seen.report() and "cache" not in seen.report()


def test_causal_is_from_the_upper_left():
    q, k, v = qkv(n=M, m=M)
    same = seen_of(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), q, k, v)
    is_map(same, sdpa_weights(q, k, v, is_causal=True))
    q, k, v = qkv()
    seen = seen_of(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), q, k, v)
    is_map(seen, sdpa_weights(q, k, v, is_causal=True)[..., :N])  # no query sees the others
    assert "Causal()" in seen.report()


def test_grouped_heads():
    q, k, v = qkv(heads=6, kv_heads=3)
    seen = seen_of(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True), q, k, v
    )
    is_map(seen, sdpa_weights(q, k, v, enable_gqa=True))


def fused(op=KERNEL, **given) -> FusedCall:
    """A call of a kernel, by name."""
    q, k, v = (Leaf(x) for x in qkv())
    name = op._schema.name.partition("::")[2]
    return FusedCall(Applied(op, name, (q, k, v), given), (Leaf(randn(BATCH, HEADS, N, D_K)),))


def test_arguments_by_name():
    found = read_fused(fused(dropout_p=0.0, scale=0.25), {})
    assert found.scale == 0.25 and not found.causal
    found = read_fused(fused(is_causal=True), {})
    assert found.causal and found.readings[0].first and not found.readings[0].all


def test_masks_are_read_once():
    known = {}
    mask = Leaf(BIAS[0, 0].expand(BATCH, HEADS, N, M))
    first, second = (read_fused(fused(attn_mask=mask), known) for _ in range(2))
    assert first.readings == second.readings and first.bias is second.bias
    read_fused(fused(attn_mask=Leaf(BIAS)), known)
    assert len(known) == 2


def test_what_a_map_cannot_show():
    for op in (KERNEL, torch.ops.aten._scaled_dot_product_flash_attention.default):
        with pytest.raises(Refusal, match=r"^dropout 0\.25 while training draws new weights every"):
            read_fused(fused(op, dropout_p=0.25), {})
    known, mask = {}, Leaf(BIAS)
    read_fused(fused(attn_mask=mask), known)
    with pytest.raises(Refusal, match="it was given a mask and `is_causal` together"):
        read_fused(fused(attn_mask=mask, is_causal=True), known)


@pytest.fixture
def my_attention():
    """An operator of somebody's own, which computes a whole attention."""
    library = torch.library.Library("wqkv_test_whole", "DEF")
    library.define("my_attention(Tensor q, Tensor k, Tensor v) -> Tensor")
    library.impl("my_attention", lambda q, k, v: (q @ k.mT).softmax(-1) @ v, "CPU")
    yield torch.ops.wqkv_test_whole.my_attention
    library._destroy()


def test_a_kernel_that_is_not_known(my_attention):
    assert len(heard_of(lambda q, k, v: my_attention(q, k, v))) == 1
    assert missed(lambda q, k, v: my_attention(q, k, v)) == (
        "the operator `my_attention` is not known: its rules cannot be read"
    )


# nn.MultiheadAttention and nn.TransformerEncoderLayer, on their fast path, which needs even heads

WIDTH = 2 * D_K

KEYS = torch.tensor([[True] * 3 + [False] * 4, [False] * 7])  # True hides
PAIRS = ~torch.ones(M, M, dtype=torch.bool).tril()
MASKS = {
    "none": {},
    "pairs": {"attn_mask": PAIRS},
    "keys": {"key_padding_mask": KEYS},
    "both": {"attn_mask": PAIRS.roll(2, 1), "key_padding_mask": KEYS.roll(3, 1)},
    "float": {"attn_mask": randn(M, M, seed=3)},
}


def how_of(module, *given, **more):
    """How the only attention of a module of torch was heard."""
    with torch.no_grad():
        (heard,) = heard_of(lambda q, k, v: module(*given, **more), module=module)
    return heard.how


@pytest.mark.parametrize("mask", MASKS)
def test_a_fast_multihead_attention(mask):
    torch.manual_seed(0)
    module = nn.MultiheadAttention(WIDTH, 2, batch_first=True).eval()
    x = randn(BATCH, M, WIDTH)
    with torch.no_grad():
        with watch(module) as seen:
            module(x, x, x, need_weights=False, **MASKS[mask])
        _, truth = module(x, x, x, average_attn_weights=False, **MASKS[mask])
    is_map(seen, truth.nan_to_num())  # there are rows that see nothing
    assert isinstance(how_of(module, x, x, x, need_weights=False, **MASKS[mask]), FusedCall)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_a_fast_encoder_layer(norm_first, activation):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(
        WIDTH, 2, 29, batch_first=True, norm_first=norm_first, activation=activation
    ).eval()
    x = randn(BATCH, M, WIDTH)
    with torch.no_grad():
        with watch(layer) as seen:
            layer(x, src_key_padding_mask=KEYS)
        inner = layer.norm1(x) if norm_first else x
        _, truth = layer.self_attn(
            inner, inner, inner, key_padding_mask=KEYS, average_attn_weights=False
        )
    is_map(seen, truth.nan_to_num())
    assert how_of(layer, x, src_key_padding_mask=KEYS).applied.name.endswith("encoder_layer_fwd")


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_rows_of_several_lengths():
    """Padding that nn.TransformerEncoder makes nested tensors of: what stands behind never ran."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 29, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    x, padding = randn(BATCH, M, WIDTH), torch.arange(M)[None] >= torch.tensor([[5], [7]])
    with torch.no_grad():
        with watch(model) as seen:
            model(x, src_key_padding_mask=padding)
        _, truth = model.layers[0].self_attn(
            x, x, x, key_padding_mask=padding, average_attn_weights=False
        )
    torch.testing.assert_close(seen[0][:], truth.masked_fill(padding[:, None, :, None], 0))
    assert [layer.state for layer in seen.layers] == ["proved"] * 2
