"""Attention as people write it themselves, in every way that was met, each with its own weights.

A block computes its weights P in plain sight and hands them to `self.told` before they meet v, if
somebody listens there: that is what a map of `watch` is compared with. Nobody listens while the
model is watched, so that no tensor lives longer than it does by itself.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from tests.conformance.independent import Call, Heard

BATCH, N, N_HEAD, D_K = 2, 13, 6, 7
D_MODEL = N_HEAD * D_K

#: What a block does with q, k and v, each (batch, n_head, N, D_K), and its causal mask (N, N),
#: where True may attend: the output, before the heads are put together. `tell` takes P.
Way = Callable[["Block", Tensor, Tensor, Tensor, Tensor], Tensor]


class Block(nn.Module):
    """Causal self-attention like nanoGPT's, computed in one of WAYS."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(D_MODEL, 3 * D_MODEL), nn.Linear(D_MODEL, D_MODEL)
        self.mix = nn.Parameter(torch.eye(N_HEAD) + 0.1 * torch.randn(N_HEAD, N_HEAD))
        self.sink = nn.Parameter(torch.randn(N_HEAD))
        self.places = nn.Parameter(torch.randn(N, D_K))
        self.register_buffer("causal", torch.ones(N, N, dtype=torch.bool).tril())
        self.scale, self.way, self.told = D_K**-0.5, WAYS[way], None

    def tell(self, weights: Tensor) -> Tensor:
        if self.told is not None:
            self.told.append(weights.detach().clone())
        return weights

    def forward(self, x: Tensor) -> Tensor:
        heads = (y.unflatten(-1, (N_HEAD, D_K)).transpose(1, 2) for y in self.qkv(x).chunk(3, -1))
        y = self.way(self, *heads, self.causal)
        return self.out(y.transpose(1, 2).flatten(2))


class Blocks(nn.Sequential):
    """Two blocks, one after the other, with a residual."""

    def __init__(self, way: str) -> None:
        super().__init__(Block(way), Block(way))

    def forward(self, x: Tensor) -> Tensor:
        for block in self:
            x = x + block(x)
        return x


def told(model: nn.Module, call: Call) -> list[Heard]:
    """The weights that the blocks tell of while the model is called."""
    blocks = dict(model.named_children())
    for block in blocks.values():
        block.told = []
    with torch.no_grad():
        call(model)
    found = [Heard(name, P) for name, block in blocks.items() for P in block.told]
    for block in blocks.values():
        block.told = None
    return found


def vectors() -> Tensor:
    return torch.randn(BATCH, N, D_MODEL, generator=torch.Generator().manual_seed(1))


def plain(self, q, k, v, causal):
    scores = (q @ k.mT * self.scale).masked_fill(~causal, -torch.inf)
    return self.tell(F.dropout(scores.softmax(-1), 0.1, self.training)) @ v


def fused(self, q, k, v, causal):
    if self.told is not None:
        self.tell((q @ k.mT * self.scale).masked_fill(~causal, -torch.inf).softmax(-1))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def flex(self, q, k, v, causal):
    """flex_attention, which runs as written where nothing compiles it."""
    if self.told is not None:
        self.tell((q @ k.mT * self.scale).masked_fill(~causal, -torch.inf).softmax(-1))
    return flex_attention(q, k, v, block_mask=_flex_causal())


def flex_with_a_score_function(self, q, k, v, causal):
    """The scores go through a function of the caller's."""
    if self.told is not None:
        distance = torch.arange(N)[None] - torch.arange(N)[:, None]
        scores = q @ k.mT * self.scale + 0.5 * distance
        self.tell(scores.masked_fill(~causal, -torch.inf).softmax(-1))
    return flex_attention(q, k, v, lambda s, b, h, i, j: s + 0.5 * (j - i), _flex_causal())


def _flex_causal():
    return create_block_mask(lambda b, h, i, j: i >= j, None, None, N, N, device="cpu")


def in_place(self, q, k, v, causal):
    scores = q @ k.mT
    scores *= self.scale
    scores += torch.zeros_like(scores).masked_fill_(~causal, -1e9)
    scores.view(-1, N, N).clamp_(max=30.0)
    return self.tell(scores.softmax(-1, dtype=torch.float32).to(q)) @ v


def slice_write(self, q, k, v, causal):
    scores = q @ k.mT * self.scale
    scores[..., 3:7].masked_fill_(~causal[:, 3:7], -torch.inf)
    scores[:, 1] += 1.0
    return self.tell(scores.masked_fill(~causal, -torch.inf).softmax(-1)) @ v


def softcap_and_sink(self, q, k, v, causal):
    scores = (5 * torch.tanh(q @ k.mT * self.scale / 5)).masked_fill(~causal, -torch.inf)
    sink = self.sink.view(1, -1, 1, 1).expand(len(q), -1, N, 1)
    return self.tell(torch.cat((scores, sink), -1).softmax(-1)[..., :-1]) @ v


def sink_after(self, q, k, v, causal):
    """A sink takes its part of the output, which is the same as of the weights."""
    scores = (q @ k.mT * self.scale).masked_fill(~causal, -torch.inf)
    share = torch.sigmoid(scores.logsumexp(-1, keepdim=True) - self.sink.view(1, -1, 1, 1))
    P = scores.softmax(-1)
    self.tell(P * share)
    return (P @ v) * share


def talking_heads(self, q, k, v, causal):
    """The heads' scores are mixed, and their weights again: a map is of the softmax between."""
    scores = torch.einsum("bhij,hg->bgij", q @ k.mT * self.scale, self.mix)
    P = self.tell(scores.masked_fill(~causal, -torch.inf).softmax(-1))
    return torch.einsum("bhij,hg->bgij", P, self.mix) @ v


def baddbmm_over_nan(self, q, k, v, causal):
    q, k, v = (x.reshape(-1, N, D_K) for x in (q, k, v))
    nothing = torch.full((len(q), N, N), torch.nan)
    scores = torch.baddbmm(nothing, q, k.mT, beta=0, alpha=self.scale)
    P = scores.masked_fill(~causal, -torch.inf).softmax(-1)
    self.tell(P.unflatten(0, (-1, N_HEAD)))
    return (P @ v).unflatten(0, (-1, N_HEAD))


def repeated_heads(self, q, k, v, causal):
    k, v = (x[:, :2].repeat_interleave(3, dim=1) for x in (k, v))
    scores = ((q * self.scale) @ k.mT).masked_fill(~causal, -torch.inf)
    return self.tell(scores.softmax(-1)) @ v


def grouped_einsum(self, q, k, v, causal):
    q, k, v = q.unflatten(1, (2, 3)), k[:, :2], v[:, :2]
    scores = torch.einsum("bghqd,bgkd->bghqk", q, k).mul(self.scale)
    P = scores.masked_fill(~causal, -torch.inf).softmax(-1)
    self.tell(P.flatten(1, 2))
    return torch.einsum("bghqk,bgkd->bghqd", P, v).flatten(1, 2)


def einsum(self, q, k, v, causal):
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    P = (torch.einsum("bihd,bjhd->bhij", q, k) * self.scale).softmax(-1)
    return torch.einsum("bhij,bjhd->bhid", self.tell(P), v)


def transposed(self, q, k, v, causal):
    scores = (k @ q.mT * self.scale).masked_fill(~causal.mT, -torch.inf)
    P = scores.softmax(-2)
    self.tell(P.mT)
    return (v.mT @ P).mT


def exp_by_hand(self, q, k, v, causal):
    scores = (q @ k.mT * self.scale).masked_fill(~causal, -torch.inf)
    scores = (scores - scores.amax(-1, keepdim=True)).exp()
    return self.tell(scores / scores.sum(-1, keepdim=True)) @ v


def exp_of_lse(self, q, k, v, causal):
    scores = (q @ k.mT * self.scale).masked_fill(~causal, -torch.inf)
    return self.tell((scores - scores.logsumexp(-1, keepdim=True)).exp()) @ v


def two_values(self, q, k, v, causal):
    P = (q @ k.mT * self.scale).masked_fill(~causal, -torch.inf).softmax(-1)
    return self.tell(P) @ v + P @ k


def multiply_and_sum(self, q, k, v, causal):
    scores = (q[:, :, :, None] * k[:, :, None]).sum(-1) * self.scale
    return self.tell(scores.masked_fill(~causal, -torch.inf).softmax(-1)) @ v


def bias_of_q(self, q, k, v, causal):
    """q meets a parameter, not an activation: the term is a plain value as large as the scores."""
    scores = q @ k.mT * self.scale + q @ self.places.mT
    return self.tell(scores.masked_fill(~causal, -torch.inf).softmax(-1)) @ v


def gathered_bias_of_q(self, q, k, v, causal):
    places = self.places[torch.arange(N)].expand(*q.shape[:2], N, D_K)
    scores = q @ k.mT * self.scale + q @ places.mT
    return self.tell(scores.masked_fill(~causal, -torch.inf).softmax(-1)) @ v


def dropout_on(self, q, k, v, causal):
    """Told without the dropout: the softmax is what the map shows."""
    P = (q @ k.mT * self.scale).masked_fill(~causal, -torch.inf).softmax(-1)
    self.tell(P)
    return F.dropout(P, 0.1, True) @ v


def q_changed(self, q, k, v, causal):
    scores = (q @ k.mT * self.scale).masked_fill(~causal, -torch.inf)
    q.zero_()
    return self.tell(scores.softmax(-1)) @ v


def sigmoid(self, q, k, v, causal):
    """No softmax: nothing says that this is attention."""
    return self.tell(torch.sigmoid(q @ k.mT * self.scale) * causal) @ v


def float_mask(self, q, k, v, causal):
    mask = torch.zeros(N, N).masked_fill(~causal, torch.finfo(torch.float32).min)
    return self.tell((q @ k.mT * self.scale + mask).softmax(-1)) @ v


def empty_rows(self, q, k, v, causal):
    sees = causal & (torch.arange(N) > 2)  # the first three rows see nothing
    scores = (q @ k.mT * self.scale).masked_fill(~sees, -torch.inf)
    return self.tell(scores.softmax(-1).nan_to_num()) @ v


def alibi(self, q, k, v, causal):
    distance = torch.arange(N)[None] - torch.arange(N)[:, None]
    slopes = 2.0 ** -torch.arange(1, N_HEAD + 1)
    scores = q @ k.mT * self.scale + slopes.view(-1, 1, 1) * distance
    return self.tell(scores.masked_fill(~causal, -torch.inf).softmax(-1)) @ v


def cosine(self, q, k, v, causal):
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    scores = (q @ k.mT * 10.0).masked_fill(~causal, -torch.inf)
    return self.tell(scores.softmax(-1)) @ v


def weighted_sum(self, q, k, v, causal):
    """P meets v in a multiplication and a sum, without a product."""
    P = (q @ k.mT * self.scale).masked_fill(~causal, -torch.inf).softmax(-1)
    return (self.tell(P)[..., None] * v[:, :, None]).sum(-2)


def one_query_at_a_time(self, q, k, v, causal):
    """As a decoder without a cache: N calls of one row each."""
    rows = []
    for i in range(N):
        P = (q[:, :, i : i + 1] @ k[:, :, : i + 1].mT * self.scale).softmax(-1)
        rows.append(self.tell(P) @ v[:, :, : i + 1])
    return torch.cat(rows, dim=2)


def one_head_at_a_time(self, q, k, v, causal):
    """As nanoGPT's first lecture: a loop over heads."""
    heads = []
    for one in range(N_HEAD):
        scores = q[:, one] @ k[:, one].mT * self.scale
        P = self.tell(scores.masked_fill(~causal, -torch.inf).softmax(-1))
        heads.append(P @ v[:, one])
    return torch.stack(heads, dim=1)


# Written the same, and further away from the formula


def scores_of(self, q, k, causal):
    return (q @ k.mT * self.scale).masked_fill(~causal, -torch.inf)


def mixed_by_a_buffer(self, q, k, v, causal):
    """As talking heads, by a matrix that is no parameter."""
    P = self.tell(scores_of(self, q, k, causal).softmax(-1))
    return torch.einsum("bhij,hg->bgij", P, self.mix.detach().clone()) @ v


def grouped_and_fused(self, q, k, v, causal):
    if self.told is not None:
        self.tell(scores_of(self, q, k[:, :2].repeat_interleave(3, 1), causal).softmax(-1))
    k, v = k[:, :2], v[:, :2]
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def fused_in_three_axes(self, q, k, v, causal):
    if self.told is not None:
        self.tell(scores_of(self, q, k, causal).softmax(-1))
    y = F.scaled_dot_product_attention(*(x.flatten(0, 1) for x in (q, k, v)), is_causal=True)
    return y.unflatten(0, (-1, N_HEAD))


def fused_with_empty_rows_and_bias(self, q, k, v, causal):
    bias = torch.linspace(-2, 2, N_HEAD * N * N).view(1, N_HEAD, N, N)
    bias = bias.masked_fill(~causal | (torch.arange(N) < 3), -torch.inf)
    if self.told is not None:
        self.tell((q @ k.mT * 0.5 + bias).softmax(-1).nan_to_num())
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=0.5)


def one_key_head(self, q, k, v, causal):
    return self.tell(scores_of(self, q, k[:, :1], causal).softmax(-1)) @ v[:, :1]


def top_keys(self, q, k, v, causal):
    scores = q @ k.mT * self.scale
    least = scores.topk(4, dim=-1).values[..., -1:]
    return self.tell(scores.masked_fill(scores < least, -torch.inf).softmax(-1)) @ v


def distances(self, q, k, v, causal):
    squares = q.square().sum(-1, keepdim=True) + k.square().sum(-1)[..., None, :]
    scores = (2 * q @ k.mT - squares).masked_fill(~causal, -torch.inf)
    return self.tell(scores.softmax(-1)) @ v


def two_texts(self, q, k, v, causal):
    """Scores of two products side by side, under one softmax."""
    scores = torch.cat((q @ k.mT, q @ v.mT), -1) * self.scale
    return self.tell(scores.softmax(-1)) @ torch.cat((v, k), 2)


def time_first(self, q, k, v, causal):
    q, k, v = (x.permute(2, 0, 1, 3).reshape(N, -1, D_K).transpose(0, 1) for x in (q, k, v))
    P = (torch.bmm(q, k.mT) * self.scale).masked_fill(~causal, -torch.inf).softmax(-1)
    self.tell(P.unflatten(0, (-1, N_HEAD)))
    return torch.bmm(P, v).transpose(0, 1).reshape(N, -1, N_HEAD, D_K).permute(1, 2, 0, 3)


def output_changed(self, q, k, v, causal):
    y = self.tell(scores_of(self, q, k, causal).softmax(-1)) @ v
    y += q
    y *= 0.5
    return y


def keys_changed(self, q, k, v, causal):
    k, q = k.contiguous(), q.contiguous()
    y = self.tell(scores_of(self, q, k, causal).softmax(-1)) @ v
    k.zero_()
    q.mul_(3)
    return y


def backwards(self, q, k, v, causal):
    return self.tell((q @ k.flip(2).mT * self.scale).softmax(-1)) @ v.flip(2)


def masked_after(self, q, k, v, causal):
    """The weights are masked after their softmax: a map is of the softmax."""
    P = self.tell((q @ k.mT * self.scale).softmax(-1))
    return P.masked_fill(~causal, 0.0) @ v


def masked_and_normalized_again(self, q, k, v, causal):
    P = self.tell((q @ k.mT * self.scale).softmax(-1)) * causal
    return (P / P.sum(-1, keepdim=True)) @ v


def differential(self, q, k, v, causal):
    """The difference of two softmaxes meets v."""
    (q1, q2), (k1, k2) = (x.chunk(2, dim=1) for x in (q, k))
    first, second = (scores_of(self, *x, causal).softmax(-1) for x in ((q1, k1), (q2, k2)))
    return ((self.tell(first) - 0.3 * second) @ v[:, ::2]).repeat(1, 2, 1, 1)


def linear(self, q, k, v, causal):
    """Two softmaxes over one activation each, and no weight of a query on a key."""
    return self.tell(q.softmax(-1)) @ (self.tell(k.softmax(-2)).mT @ v)


def divided_at_the_end(self, q, k, v, causal):
    """As a flash kernel: exp of the scores meets v, and the sum divides the output."""
    scores = scores_of(self, q, k, causal)
    e = (scores - scores.amax(-1, keepdim=True)).exp()
    if self.told is not None:
        self.tell(e / e.sum(-1, keepdim=True))
    return (e @ v) / e.sum(-1, keepdim=True)


def some_heads_at_a_time(self, q, k, v, causal):
    P = self.tell(scores_of(self, q, k, causal).softmax(-1))
    return torch.cat((P[:, :2] @ v[:, :2], P[:, 2:] @ v[:, 2:]), dim=1)


def one_more_in_the_sum(self, q, k, v, causal):
    """exp(s) / (1 + sum exp(s)), which is no softmax."""
    e = scores_of(self, q, k, causal).exp()
    return self.tell(e / (1 + e.sum(-1, keepdim=True))) @ v


def learned_keys(self, q, k, v, causal):
    """Keys and values are parameters: a lookup, without a word about it."""
    return self.tell((q @ self.places.mT).softmax(-1)) @ self.places


def heads_outside(self, q, k, v, causal):
    """As the Set Transformer: heads and samples on one axis, the heads first."""
    q, k, v = (torch.cat(x.unbind(1)) for x in (q, k, v))
    P = (q @ k.mT * self.scale).masked_fill(~causal, -torch.inf).softmax(-1)
    self.tell(P.unflatten(0, (N_HEAD, -1)).transpose(0, 1))
    y = torch.cat((q + P @ v).split(BATCH), -1)
    return y.unflatten(-1, (N_HEAD, D_K)).transpose(1, 2)


def heads_before_samples(self, q, k, v, causal):
    q, k, v = (x.transpose(0, 1).reshape(-1, N, D_K) for x in (q, k, v))
    P = torch.bmm(q, k.mT).mul(self.scale).masked_fill(~causal, -torch.inf).softmax(-1)
    P = P.view(N_HEAD, BATCH, N, N)
    self.tell(P.transpose(0, 1))
    return (P @ v.view(N_HEAD, BATCH, N, D_K)).transpose(0, 1)


def key_head_of_all(self, q, k, v, causal):
    """Multi-query attention without an axis of one head: one product has the rows of all heads."""
    scores = torch.einsum("bhid,bjd->bhij", q, k[:, 0]) * self.scale
    P = self.tell(scores.masked_fill(~causal, -torch.inf).softmax(-1))
    return torch.einsum("bhij,bjd->bhid", P, v[:, 0])


def heads_last(self, q, k, v, causal):
    """As Tensor2Tensor: the scores are (batch, query, key, head)."""
    P = (torch.einsum("bhid,bjd->bijh", q, k[:, 0]) * self.scale).softmax(2)
    self.tell(P.permute(0, 3, 1, 2))
    return torch.einsum("bijh,bjd->bhid", P, v[:, 0])


def transformer_xl(self, q, k, v, causal):
    """The scores are (query, key, batch, head), and a second product is shifted and added."""
    q, k, v = (x.permute(2, 0, 1, 3) for x in (q, k, v))
    places = self.places[:, None].expand(N, N_HEAD, D_K)
    shifted = torch.einsum("ibnd,jnd->ijbn", q, places * k.mean(1))
    nothing = shifted.new_zeros(N, 1, BATCH, N_HEAD)
    shifted = torch.cat((nothing, shifted), 1).view(N + 1, N, BATCH, N_HEAD)[1:].view_as(shifted)
    scores = (torch.einsum("ibnd,jbnd->ijbn", q, k) + shifted) * self.scale
    P = scores.masked_fill(~causal[:, :, None, None], -torch.inf).softmax(1)
    self.tell(P.permute(2, 3, 0, 1))
    return torch.einsum("ijbn,jbnd->ibnd", P, v).permute(1, 2, 0, 3)


def channels(self, q, k, v, causal):
    """As XCiT: the channels of a head attend to each other."""
    q, k = (F.normalize(x.mT, dim=-1) for x in (q, k))
    return (self.tell((3 * q @ k.mT).softmax(-1)) @ v.mT).mT


WAYS: dict[str, Way] = {
    way.__name__.replace("_", " "): way
    for way in (
        plain, fused, flex, flex_with_a_score_function, in_place, slice_write, softcap_and_sink,
        sink_after, talking_heads, baddbmm_over_nan, repeated_heads, grouped_einsum, einsum,
        transposed, exp_by_hand, exp_of_lse, two_values, multiply_and_sum, bias_of_q,
        gathered_bias_of_q, dropout_on, q_changed, sigmoid, float_mask, empty_rows, alibi, cosine,
        weighted_sum, one_query_at_a_time, one_head_at_a_time, mixed_by_a_buffer,
        grouped_and_fused, fused_in_three_axes, fused_with_empty_rows_and_bias, one_key_head,
        top_keys, distances, two_texts, time_first, output_changed, keys_changed, backwards,
        masked_after, masked_and_normalized_again, differential, linear, divided_at_the_end,
        some_heads_at_a_time, one_more_in_the_sum, learned_keys, heads_outside,
        heads_before_samples, key_head_of_all, heads_last, transformer_xl, channels,
    )
}  # fmt: skip
