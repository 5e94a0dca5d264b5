"""What became of an attention: proved, captured (computed again), or missed, and why."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.written import (
    BATCH,
    D_K,
    HEADS,
    Foreign,
    M,
    N,
    heard_of,
    is_map,
    layer_of,
    missed,
    proved,
    qkv,
    randn,
    replayed,
    seen_of,
)
from wqkv.record.captured import Refusal
from wqkv.record.operators.told import Heard
from wqkv.record.operators.understand import call_of, sink_behind, unmoved
from wqkv.record.watch import watch

SHOWN = randn(N, M, seed=4) > 0
SHOWN[:, 0] = True


def weights(q, k):
    return (q @ k.mT).softmax(-1)


def test_what_is_lost_is_refused():
    with pytest.raises(Refusal, match="why it is lost"):
        call_of(Heard(None, "why it is lost"), [], {})


@pytest.mark.parametrize("empty", ["batch", "n", "m"])
def test_weights_that_are_empty(empty):
    given = qkv(**{empty: 0})
    shape = [given[0].shape[0] * HEADS, given[0].shape[2], given[1].shape[2]]
    why = f"it has no weights: their shape is {shape}"
    assert missed(lambda q, k, v: weights(q, k) @ v, *given) == why


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_numbers_of_other_types(dtype):
    q, k, v = (x / 3 for x in qkv(dtype=dtype))
    seen = seen_of(lambda q, k, v: weights(q, k) @ v, q, k, v)
    assert seen.layers[0].state == "proved", seen.report()
    off = (seen[0][:].double() - weights(q.double(), k.double())).abs().max()
    assert off <= 4 * torch.finfo(dtype).eps


# Captured


def test_a_second_product():
    """As the positions of DeBERTa, which q and k meet too."""
    places = randn(BATCH, HEADS, M, D_K, seed=3)

    def way(q, k):
        return (q @ k.mT + q @ places.mT).softmax(-1)

    layer = layer_of(lambda q, k, v: way(q, k) @ v)
    assert layer.state == "captured"
    assert layer.reason == (
        "its scores are computed again as the model did, because two products were added"
    )
    assert "  captured: its scores" in replayed(way)


def test_heads_that_are_mixed():
    mix = randn(HEADS, HEADS, seed=3)

    def way(q, k):
        return torch.einsum("bhij,hg->bgij", q @ k.mT, mix).softmax(-1)

    replayed(way)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda P: P.masked_fill(~SHOWN, 0.0), "masked_fill"),
        (lambda P: P.masked_fill(~SHOWN, 0.1), "masked_fill"),
        (torch.tanh, "tanh"),
        (lambda P: P + 0.1, "add"),
        (lambda P: P / (P.sum(-1, keepdim=True) + 1e-6), "sum"),
        (torch.relu, "relu"),
        (lambda P: P.flip(-1), "flip"),
    ],
)
def test_weights_that_are_changed_before_they_meet_v(change, name):
    """The map is the softmax, and that is said."""
    q, k, _ = qkv()
    seen = seen_of(lambda q, k, v: change(weights(q, k)) @ v)
    is_map(seen, weights(q, k))
    assert seen.layers[0].state == "captured"
    assert f"shown is its softmax, which `{name}` changed before it met v" in seen.report()


@pytest.mark.parametrize("hidden", [-torch.inf, -1e9])  # in the second way they are averaged over
def test_weights_that_are_not_changed_behind_a_replay(hidden):
    """Rows that see nothing become 0, which is no change of a weight."""

    def way(q, k):
        shown = SHOWN.clone()
        shown[2] = False
        return (q @ k.mT).tanh().tanh().masked_fill(~shown, hidden).softmax(-1).nan_to_num()

    assert "changed" not in replayed(way)


# Terms and factors


class Biased(nn.Module):
    """A term as large as the scores, which is a parameter, a buffer, or made in the call."""

    def __init__(self, kind):
        super().__init__()
        self.kind, bias = kind, randn(BATCH, HEADS, N, M, seed=5)
        self.bias = nn.Parameter(bias)
        self.register_buffer("stored", bias.clone())

    def forward(self, q, k, v):
        made = {
            "parameter": self.bias,
            "buffer": self.stored,
            "made": self.stored * v.mean(),
            "mask": torch.where(self.stored > 0, 0.0, -1e9),
        }
        return (q @ k.mT + made[self.kind]).softmax(-1) @ v


@pytest.mark.parametrize("kind", ["parameter", "buffer", "made", "mask"])
def test_a_term_as_large_as_the_scores(kind):
    with watch(Biased(kind)) as seen:
        seen._watched.model(*qkv())
    assert seen.layers[0].state == "proved"
    said = "with a term as large as the scores, which was made in the call" in seen.report()
    assert said == (kind == "made")


def sink_way(share, place=lambda x: x):
    """An output of which a share is taken that its own scores have made."""

    def way(q, k, v):
        scores = q @ k.mT * 0.3
        return place(scores.softmax(-1) @ v) * place(share(scores))

    return way


SINK = randn(HEADS, seed=6).view(-1, 1, 1)


def test_sinks_behind_v():
    way = sink_way(lambda s: torch.sigmoid(s.logsumexp(-1, keepdim=True) - SINK))
    seen = seen_of(way)
    q, k, _ = qkv()
    sink = SINK.expand(BATCH, HEADS, N, 1)
    is_map(seen, torch.cat((q @ k.mT * 0.3, sink), -1).softmax(-1)[..., :-1])
    assert "sinks" in seen.report()


def moved(x):
    return x.transpose(1, 2).contiguous()


#: Shares that are not those of a sink, or cannot be known as such.
SHARES = {
    "no sigmoid": lambda s: (s.logsumexp(-1, keepdim=True) - SINK).tanh(),
    "no difference": lambda s: torch.sigmoid(s.logsumexp(-1, keepdim=True)),
    "of a number": lambda s: torch.sigmoid(s.logsumexp(-1, keepdim=True) - 1.0),
    "turned": lambda s: torch.sigmoid(SINK - s.logsumexp(-1, keepdim=True)),
    "no lse": lambda s: torch.sigmoid(s.amax(-1, keepdim=True) - SINK),
    "of other scores": lambda s: torch.sigmoid((s * 2).logsumexp(-1, keepdim=True) - SINK),
    "of another shape": lambda s: torch.sigmoid(s.logsumexp(-1, keepdim=True) - SINK),
    "twice the sink": lambda s: torch.sigmoid(
        torch.sub(s.logsumexp(-1, keepdim=True), SINK, alpha=2)
    ),
}


@pytest.mark.parametrize("share", SHARES)
def test_other_shares(share):
    place = moved if share == "of another shape" else lambda x: x
    seen = seen_of(sink_way(SHARES[share], place))
    (heard,) = heard_of(sink_way(SHARES[share], place))
    assert sink_behind(heard.how) is None
    q, k, _ = qkv()
    is_map(seen, (q @ k.mT * 0.3).softmax(-1))
    assert "such as a sink's share: these are the weights before" in seen.report()


def test_a_gate_is_no_share():
    seen = seen_of(lambda q, k, v: (weights(q, k) @ v) * q[..., :1].sigmoid())
    assert "share" not in seen.report() and seen.layers[0].state == "proved"


def test_unmoved():
    (heard,) = heard_of(lambda q, k, v: weights(q, k).clone().view(BATCH, HEADS, N, M) @ v)
    assert unmoved(heard.how.weights) in heard.how.weights.softmaxes
    assert sink_behind(heard.how) is None


# Missed


def test_a_softmax_over_another_axis():
    square = qkv(n=N, m=N)

    def way(q, k, v):
        return F.gelu(q @ k.mT).softmax(-2) @ v

    assert missed(way, *square) == "its softmax was not taken over the keys that v has"
    # the same without the operator that is no rule
    why = missed(lambda q, k, v: (q @ k.mT).softmax(-2) @ v, *square)
    assert why == "what its weights met does not stand along the keys of its softmax"


def test_a_part_of_the_weights():
    def way(q, k, v):
        return F.gelu(q @ k.mT).softmax(-1)[:, :, 1:3] @ v

    assert missed(way) == (
        f"a part of its weights met v, or several heads of v: {[BATCH, HEADS, N]} of its scores, "
        f"{[BATCH, HEADS, 2]} of its output, (batch, head, query)"
    )


def test_several_softmaxes():
    def way(q, k, v):
        return (weights(q, k) - 0.3 * weights(q * 2, k)) @ v

    assert missed(way) == "its weights come from 2 softmaxes"


def test_scores_of_two_and_five_axes_that_are_replayed():
    def way(q, k, v):
        return F.gelu(q @ k.mT).softmax(-1) @ v

    q, k, v = qkv()
    is_map(seen_of(way, q[0, 0], k[0, 0], v[0, 0]), F.gelu(q @ k.mT).softmax(-1)[:1, :1])
    is_map(seen_of(way, q[0], k[0], v[0]), F.gelu(q @ k.mT).softmax(-1)[0][:, None])
    five = seen_of(way, *(x[None] for x in (q, k, v)))
    is_map(five, F.gelu(q @ k.mT).softmax(-1))


def test_layers_are_independent():
    """A layer that is missed hides no other."""

    def way(q, k, v):
        v = weights(q, k) @ v
        return F.gelu(v @ v.mT).softmax(-2) @ v

    with watch(Foreign(way)) as seen:
        seen._watched.model(*qkv())
    assert [layer.state for layer in seen.layers] == ["proved", "missed"]
    assert "captured 1 of 2 layers of Foreign" in seen.report() and proved(weights)
