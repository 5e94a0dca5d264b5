"""Attention as other people write it, which was shown wrongly, or broke the model that was watched.

Each way was seen to fail before it was mended.
"""

from __future__ import annotations

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.written import (
    BATCH,
    D_K,
    D_V,
    HEADS,
    Foreign,
    M,
    N,
    is_map,
    missed,
    proved,
    qkv,
    randn,
    seen_of,
)
from wqkv import watch
from wqkv.record import faults
from wqkv.record.operators.learned import Learned
from wqkv.record.operators.listening import Listening
from wqkv.record.operators.trails import Trails


def weights(q, k):
    return (q @ k.mT).softmax(-1)


def joined(y):
    """Heads beside channels, (batch, length, n_head d_v), as a projection takes them."""
    return y.transpose(1, 2).flatten(2)


# Which axis is which


def heads_first(way):
    """Samples and heads on one axis, the heads first; `way` puts the pieces together."""

    def attend(q, k, v):
        q, k, v = (x.transpose(0, 1).flatten(0, 1) for x in (q, k, v))
        return way(weights(q, k) @ v)

    return attend


def slices(y):
    return torch.cat([y[BATCH * n : BATCH * (n + 1)] for n in range(HEADS)], -1)


@pytest.mark.parametrize(
    "way",
    [
        slices,
        lambda y: torch.cat(y.chunk(HEADS), -1),
        lambda y: torch.cat((y + 1).split(BATCH), 2),
        lambda y: torch.cat(y.unflatten(0, (HEADS, BATCH)).unbind(0), -1),
        lambda y: torch.cat([y.view(HEADS, BATCH, N, D_V)[n] for n in range(HEADS)], -1),
        lambda y: y.view(HEADS, BATCH, N, D_V).permute(1, 2, 0, 3).flatten(2),
    ],
)
def test_heads_before_samples(way):
    is_map(seen_of(heads_first(way)), weights(*qkv()[:2]))


def test_pieces_that_are_not_joined():
    """One piece tells nothing: the order of the axes, and the samples, are all there is."""
    seen = seen_of(heads_first(lambda y: y[:BATCH]))
    is_map(seen, weights(*qkv()[:2]).transpose(0, 1).reshape(BATCH, HEADS, N, M))


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_channels_attend(batch):
    """As XCiT: tokens are beside the samples before a projection, and are no channels of heads."""
    q, k, v = qkv(batch, m=N)

    def way(q, k, v):
        P = weights(q.mT, k.mT)
        y = (P @ v[..., :D_K].mT).permute(0, 3, 1, 2).flatten(2)
        return y.reshape(-1, HEADS * D_K)

    is_map(seen_of(way, q, k, v), weights(q.mT, k.mT))


@pytest.mark.parametrize("batch", [1, 2])
def test_windows_are_no_heads(batch):
    """Windows of tokens are joined again before the heads are."""
    windows = 2
    q, k, v = qkv(batch, n=windows * N, m=windows * N)

    def way(q, k, v):
        q, k, v = (x.reshape(batch * HEADS, windows, N, -1) for x in (q, k, v))
        return joined((weights(q, k) @ v).reshape(batch, HEADS, windows * N, D_V))

    q5, k5 = (x.unflatten(2, (windows, N)).transpose(1, 2).flatten(0, 1) for x in (q, k))
    seen = seen_of(way, q, k, v)
    is_map(seen, weights(q5, k5))
    assert "2 parts of" in seen.report()


def test_tokens_that_are_joined_are_no_heads():
    """Two neighbors of a text become one, with twice the channels."""
    q, k, v = qkv(n=4)
    is_map(seen_of(lambda q, k, v: joined(weights(q, k) @ v).view(BATCH, 2, -1), q, k, v),
           weights(q, k))  # fmt: skip
    one = (x[:, 0] for x in (q, k, v))
    seen = seen_of(lambda q, k, v: (weights(q, k) @ v).view(BATCH, 2, 2 * D_V), *one)
    is_map(seen, weights(q[:, :1], k[:, :1]))


def test_axes_behind_a_maximum():
    """What was taken off the scores has less axes than they, and is not asked for them."""

    def way(q, k, v):
        scores = torch.einsum("bhid,bhjd->ijbh", q, k)
        scores = scores - scores.amax(1, keepdim=True).detach()
        return torch.einsum("ijbh,bhjd->bihd", scores.softmax(1), v).flatten(2)

    is_map(seen_of(way), weights(*qkv()[:2]))


# What is a softmax, and why one is missed


def test_exp_of_a_log_softmax():
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            seen = seen_of(lambda q, k, v: F.log_softmax(q @ k.mT, -1).exp() @ v)
            is_map(seen, weights(*qkv()[:2]))
            assert seen.layers[0].state == "proved"


def test_a_mean_of_weights_that_is_looked_at():
    def way(q, k, v):
        P = weights(q, k)
        received = P.mean(1) @ torch.ones(M, 1)
        return P @ v + 0 * received[:, None]

    is_map(seen_of(way), weights(*qkv()[:2]))
    assert missed(lambda q, k, v: weights(q, k).mean(1) @ v[:, 0]) == (
        "a mean or a sum of its weights met v, and not they themselves"
    )


def test_some_keys_that_met_v():
    seen = seen_of(lambda q, k, v: weights(q, k)[..., :3] @ v[:, :, :3])
    is_map(seen, weights(*qkv()[:2])[..., :3])
    assert f"shown are the 3 keys that met v, of {M}" in seen.report()


def test_a_value_without_numbers():
    reason = missed(lambda q, k, v: weights(q, k) @ v.mul(torch.nan))
    assert reason == "its output has no numbers that could prove its weights"


def test_slots_that_compete():
    """As slot attention: the softmax is over the queries, and v is summed over the keys."""

    def way(q, k, v):
        P = (q @ k.mT).softmax(2) + 1e-8
        return P / P.sum(-1, keepdim=True) @ v

    assert missed(way) == (
        "its weights met something along another axis than that of their softmax"
    )


@pytest.mark.parametrize("kept", [lambda x: x + 1e-9, lambda x: x.clamp(min=1e-6)])
def test_a_sum_that_is_kept_from_zero(kept):
    def softmax(q, k):
        scores = q @ k.mT
        e = (scores - scores.amax(-1, keepdim=True)).exp()
        return e / kept(e.sum(-1, keepdim=True))

    assert "proof" in proved(softmax)


def test_a_sum_with_more_in_it():
    reason = missed(lambda q, k, v: (e := (q @ k.mT).exp()) / (e.sum(-1, keepdim=True) + 1.0) @ v)
    assert "divided by something else than its sum" in reason


def test_scores_in_a_larger_tensor():
    def way(q, k, v):
        scores = torch.zeros(BATCH, HEADS, N, M)
        for head in range(HEADS):
            scores[:, head] = q[:, head] @ k[:, head].mT
        return scores.softmax(-1) @ v

    assert missed(way) == (
        "its scores were written into a larger tensor piece by piece, which is not followed"
    )


def test_q_that_is_written_over_by_name():
    """`out=` is an argument that is written into: the next layer uses the memory of q."""
    memory = torch.empty(BATCH, HEADS, N, D_K)

    def way(q, k, v):
        first = weights(torch.mul(q, 2.0, out=memory), k) @ v
        torch.mul(q, 3.0, out=memory)
        return first

    q, k, _ = qkv()
    is_map(seen_of(way), weights(2 * q, k))


# A fault of ours, or too long a chain, is no fault of the model


@pytest.mark.parametrize("in_place", [True, False])
def test_scores_that_change_in_a_long_loop(in_place):
    def changed(q, k):
        scores = q @ k.mT / 16
        for _ in range(700):
            if in_place:
                scores[..., 0] += 0.001
            else:
                scores = scores + 0.001
        return scores.softmax(-1)

    is_map(seen_of(lambda q, k, v: changed(q, k) @ v), changed(*qkv()[:2]))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(D_K, 3 * D_K)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return weights(q, k) @ v


@pytest.mark.parametrize(
    ("owner", "name"),
    [(Trails, "find"), (Trails, "put"), (Trails, "state"), (Learned, "learn"), (Learned, "holds"),
     (Learned, "remade"), (Listening, "_known"), (Listening, "_note"), (Listening, "forget")],
)  # fmt: skip
def test_a_fault_of_ours(owner, name, monkeypatch):
    monkeypatch.setattr(faults, "RAISED", False)
    torch.manual_seed(0)
    model, x = Attention(), randn(BATCH, N, D_K)
    plain = model(x)
    planted = mock.patch.object(owner, name, side_effect=ZeroDivisionError("planted"))
    with planted, watch(model) as seen:
        watched = model(x)
    assert torch.equal(plain, watched)
    assert "wqkv failed while it listened" in seen.report()
    assert "ZeroDivisionError: planted" in seen.report()
    assert torch.equal(model(x), plain)


# A single key


@pytest.mark.parametrize("to", ["bhid", "bihd"])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("n", [1, 5])
def test_einsum_over_a_single_key(n, heads, to):
    """It multiplies, where there is nothing to sum."""

    def way(q, k, v):
        P = torch.einsum("bhid,bhjd->bhij", q, k).softmax(-1)
        y = torch.einsum(f"bhij,bhjd->{to}", P, v)
        return (y.transpose(1, 2) if to == "bhid" else y).flatten(2)

    seen = seen_of(way, *qkv(heads=heads, n=n, m=1))
    assert seen.layers[0].state == "proved"
    is_map(seen, torch.ones(BATCH, heads, n, 1))


def test_einsum_that_generates_from_one_token():
    q, k, v = qkv(n=M)

    def way(q, k, v):
        P = torch.einsum("bhid,bhjd->bhij", q, k).softmax(-1)
        return torch.einsum("bhij,bhjd->bhid", P, v)

    with watch(model := Foreign(way)) as seen:
        for n in range(M):
            model(q[:, :, n : n + 1], k[:, :, : n + 1], v[:, :, : n + 1])
    assert len(seen.runs(0)) == 1
    shown = torch.ones(M, M, dtype=torch.bool).tril()
    is_map(seen, (q @ k.mT).masked_fill(~shown, -torch.inf).softmax(-1))


def test_what_is_said_of_heads_that_are_mixed():
    mix = nn.Linear(HEADS, HEADS)

    def way(q, k, v):
        return mix((q @ k.mT).permute(0, 2, 3, 1)).permute(0, 3, 1, 2).softmax(-1) @ v

    (layer,) = seen_of(way, mix=mix).layers
    assert layer.state == "captured"
    assert layer.reason.endswith("`mm` takes a matrix into its scores, as where heads are mixed")


def test_a_router_multiplies_what_an_expert_has_made():
    """Its weights come from no product, and what they are multiplied into does: no attention."""

    class Expert(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router, self.inner = nn.Linear(14, 3), nn.Linear(14, 14)

        def forward(self, x):
            y = x @ self.inner(x).mT @ x  # a product of two activations
            share = self.router(x).softmax(2)[..., :1]
            return (y * share) * x.sum(-1, keepdim=True)

    model, x = Expert().eval(), torch.randn(2, 11, 14)
    with torch.no_grad():
        plain = model(x)
        with watch(model) as seen:
            assert torch.equal(model(x), plain)
    assert not seen.layers, seen.report()
