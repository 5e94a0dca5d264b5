"""Our layer beside the attention layers of other libraries, with the same weights copied in."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.cases import FLOOR, TORCH, TORCH_PLAIN, Row
from benchmarks.contest import Contestant
from wqkv import Causal, MultiheadAttention, RoPE

Absent = dict[str, str]
#: The modules whose mode and gradients count, and the call.
Peer = tuple[nn.Module, Callable[[Tensor], Tensor]]


def contestants(row: Row) -> tuple[list[Contestant], Absent]:
    """Ours first, the floor last; peers that are not installed are absent."""
    case, rope = row.case, row.family == "rope"
    torch.manual_seed(2)
    layer = ours(row)
    x = torch.randn(case.batch, case.query_len, layer.d_model)

    def enter(name: str, peer: Peer) -> Contestant:
        module, run = peer
        module.train(row.backward)
        leaf = x.clone().requires_grad_(row.backward)
        return Contestant(name, lambda: run(leaf), [leaf], list(module.parameters()))

    ready, absent = [enter("ours", (layer, layer))], Absent()
    for name, make in PEERS[row.family].items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ready.append(enter(name, make(layer, rope, case.query_len)))
        except ImportError as error:
            absent[name] = f"no module {error.name}" if error.name else "not installed"
    ready.append(enter(FLOOR, _floor(layer, rope, case.query_len)))
    return ready, absent


def ours(row: Row) -> MultiheadAttention:
    case, rope = row.case, row.family == "rope"
    return MultiheadAttention(
        case.n_head * case.d_k,
        case.n_head,
        bias=row.family == "bias",
        mask=Causal() if rope else None,
        position=RoPE() if rope else None,
    )


def _floor(layer: MultiheadAttention, rope: bool, length: int) -> Peer:
    """Four matrix products and one fused call (with RoPE its rotation, cos and sin at hand)."""
    *matrices, last = (_linear(getattr(layer, name)) for name in _NAMES)
    angle = torch.arange(length)[:, None] * 10000 ** -(torch.arange(0, layer.d_k, 2) / layer.d_k)
    cos, sin = angle.cos(), angle.sin()

    def turn(x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)

    def run(x: Tensor) -> Tensor:
        batch, n, d_model = x.shape
        q, k, v = (
            F.linear(x, W.weight, W.bias).view(batch, n, layer.n_head, layer.d_k).transpose(1, 2)
            for W in matrices
        )
        if rope:
            q, k = turn(q), turn(k)
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=rope)
        context = heads.transpose(1, 2).reshape(batch, n, d_model)
        return F.linear(context, last.weight, last.bias)

    return nn.ModuleList([*matrices, last]), run


def _torch(need_weights: bool) -> Callable[[MultiheadAttention, bool, int], Peer]:
    def make(layer: MultiheadAttention, rope: bool, length: int) -> Peer:
        peer = nn.MultiheadAttention(layer.d_model, layer.n_head, batch_first=True)
        q, k, v, o = (getattr(layer, name) for name in _NAMES)
        with torch.no_grad():
            peer.in_proj_weight.copy_(torch.cat((q.weight, k.weight, v.weight)))
            peer.in_proj_bias.copy_(torch.cat((q.bias, k.bias, v.bias)))
        peer.out_proj.load_state_dict(o.state_dict())
        return peer, lambda x: peer(x, x, x, need_weights=need_weights)[0]

    return make


def _bert(layer: MultiheadAttention, rope: bool, length: int) -> Peer:
    """transformers' BERT with SDPA: self-attention and the dense layer after it."""
    from transformers.models.bert.modeling_bert import BertConfig, BertSelfAttention

    config = BertConfig(
        hidden_size=layer.d_model,
        num_attention_heads=layer.n_head,
        attention_probs_dropout_prob=0.0,
        attn_implementation="sdpa",
    )
    peer = BertSelfAttention(config)
    dense = _copy(layer, peer, ("query", "key", "value"))
    return nn.ModuleList([peer, dense]), lambda x: dense(peer(x)[0])


def _llama(layer: MultiheadAttention, rope: bool, length: int) -> Peer:
    """transformers' Llama with SDPA; as in the model, cos and sin are made once for all layers."""
    from transformers.models.llama.modeling_llama import (
        LlamaAttention,
        LlamaConfig,
        LlamaRotaryEmbedding,
    )

    config = LlamaConfig(
        hidden_size=layer.d_model,
        num_attention_heads=layer.n_head,
        num_key_value_heads=layer.n_head,
        attn_implementation="sdpa",
    )
    peer = LlamaAttention(config, layer_idx=0)
    peer.o_proj = _copy(layer, peer, ("q_proj", "k_proj", "v_proj"))
    places = LlamaRotaryEmbedding(config)(torch.zeros(()), torch.arange(length)[None])
    return peer, lambda x: peer(x, position_embeddings=places)[0]


def _x_transformers(layer: MultiheadAttention, rope: bool, length: int) -> Peer:
    from x_transformers.x_transformers import Attention

    peer = Attention(layer.d_model, dim_head=layer.d_k, heads=layer.n_head, flash=True)
    peer.to_out = _copy(layer, peer, ("to_q", "to_k", "to_v"))
    return peer, peer


def _torchtune(layer: MultiheadAttention, rope: bool, length: int) -> Peer:
    from torchtune.modules import MultiHeadAttention, RotaryPositionalEmbeddings

    q, k, v, o = (_linear(getattr(layer, name)) for name in _NAMES)
    if rope:  # it pairs channel 2i with 2i + 1, ours i with i + d_k / 2
        order = torch.arange(layer.d_k).view(2, -1).T.flatten()
        for linear in (q, k):
            heads = linear.weight.data.unflatten(0, (layer.n_head, -1))
            linear.weight.data = heads[:, order].flatten(0, 1)
    peer = MultiHeadAttention(
        embed_dim=layer.d_model,
        num_heads=layer.n_head,
        num_kv_heads=layer.n_head,
        head_dim=layer.d_k,
        q_proj=q,
        k_proj=k,
        v_proj=v,
        output_proj=o,
        pos_embeddings=RotaryPositionalEmbeddings(layer.d_k) if rope else None,
        is_causal=rope,
    )
    return peer, lambda x: peer(x, x)


_NAMES = ("WQ", "WK", "WV", "WO")
PEERS: dict[str, dict[str, Callable[[MultiheadAttention, bool, int], Peer]]] = {
    "bias": {TORCH: _torch(True), TORCH_PLAIN: _torch(False), "BERT": _bert},
    "plain": {"x-transformers": _x_transformers, "torchtune": _torchtune},
    "rope": {"Llama": _llama, "torchtune": _torchtune},
}


def _linear(source: Any) -> nn.Linear:
    """A copy."""
    twin = nn.Linear(source.in_features, source.out_features, bias=source.bias is not None)
    twin.load_state_dict(source.state_dict())
    return twin


def _copy(layer: MultiheadAttention, peer: nn.Module, names: tuple[str, str, str]) -> nn.Linear:
    """WQ, WK and WV into the peer's modules; WO as a module of its own."""
    for ours_, theirs in zip(_NAMES, names, strict=False):
        getattr(peer, theirs).load_state_dict(getattr(layer, ours_).state_dict())
    return _linear(layer.WO)
