"""What a model did to its scores is computed again as it did it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.written import HEADS, M, N, heard_of, is_map, missed, qkv, randn, replayed, seen_of
from wqkv.record.captured import Refusal
from wqkv.record.operators.nodes import softmax_input
from wqkv.record.operators.replay import _value, compare, replay, rounding

SHOWN = randn(N, M, seed=4) > 0
SHOWN[:, 0] = True
SHOWN[2] = False  # a row that sees nothing


def test_what_is_computed_again():
    (heard,) = heard_of(lambda q, k, v: (q @ k.mT * 0.5).softmax(-1) @ v)
    q, k, v = (x.double() for x in qkv())
    found = replay(heard.how)
    scores = (q @ k.mT * 0.5).flatten(0, 1).view_as(found.scores)
    torch.testing.assert_close(found.scores, scores, rtol=1e-6, atol=1e-6)
    assert found.scores.dtype == torch.float64 and found.first == 0
    torch.testing.assert_close(found.weights, found.scores.softmax(-1).view_as(found.weights))
    torch.testing.assert_close(found.output, (found.weights @ v.view(-1, M, 13)).double())
    assert found.largest == float(found.scores.abs().max())
    proof = compare(found, heard.how)
    assert 0 < proof.difference < 1e-6 and proof.rows == 2 * HEADS * N


def test_only_the_scores_are_kept():
    """Each step is as large as the map, and a model may take many."""
    (heard,) = heard_of(lambda q, k, v: F.gelu(F.silu(q @ k.mT) * 2).softmax(-1) @ v)
    score, _ = softmax_input(next(iter(heard.how.weights.softmaxes)))
    numbers = {}
    _value(heard.how.weights, numbers, score)
    assert set(numbers) == {score, heard.how.weights}


def test_hidden_scores_are_not_the_largest():
    (heard,) = heard_of(lambda q, k, v: (q @ k.mT).masked_fill(~SHOWN, -1e9).softmax(-1) @ v)
    scores = (qkv()[0].double() @ qkv()[1].mT.double()).masked_fill(~SHOWN, 0)
    assert replay(heard.how).largest == pytest.approx(float(scores.abs().max()), rel=1e-6)


def test_rounding():
    ones = torch.ones(3, 5)
    eps = torch.finfo(torch.float32).eps
    assert rounding(ones, -7 * ones, 10.0) == pytest.approx(8 * eps * 14 * 7)
    assert rounding(ones.bfloat16(), ones, 0.0) == 8 * torch.finfo(torch.bfloat16).eps * 4
    assert rounding(ones, ones[:0], 0.0) == pytest.approx(32 * eps * 1e-30)  # no value


#: Ways whose scores are computed again, by what would be wrong if it were done otherwise.
WAYS = {
    # -1e10 and a score are -1e10 in float32, so all keys weigh the same
    "rounded sums": lambda s: (s.tanh().tanh() + torch.full((N, M), -1e10)).softmax(-1),
    "casts": lambda s: F.gelu(s).double().float().softmax(-1, dtype=torch.float64).float(),
    "written in place": lambda s: F.gelu(s).mul_(2).add_(1).clamp_(max=3).softmax(-1),
    "a part written": lambda s: F.gelu(s).index_fill_(1, torch.tensor([1]), 0.5).softmax(-1),
    "several outputs": lambda s: F.gelu(s).topk(M, -1).values.softmax(-1),
    "indices": lambda s: F.gelu(s).gather(-1, s.argsort(-1)).softmax(-1),
    "two of its own": lambda s: (s * s.sigmoid()).softmax(-1),
    "exp by hand": lambda s: (lambda e: e / e.sum(-1, keepdim=True))(F.gelu(s).exp()),
    "exp of lse": lambda s: (lambda x: (x - x.logsumexp(-1, keepdim=True)).exp())(F.gelu(s)),
}


@pytest.mark.parametrize("way", WAYS)
def test_ways(way):
    replayed(lambda q, k: WAYS[way](q @ k.mT), *qkv())


def test_nothing_is_written_over():
    """Scores that the model wrote into are used as they were before, too."""

    def way(q, k):
        scores = F.gelu(q @ k.mT)
        twice = scores * 2
        return (scores.add_(1) * scores + twice).softmax(-1)

    replayed(way)

    def into_a_bias(q, k):
        bias = randn(2, HEADS, N, M, seed=3).double()
        return bias.add_(F.gelu(q @ k.mT)).softmax(-1)

    given = qkv(dtype=torch.float64)  # nothing is copied to have another type
    seen = seen_of(lambda q, k, v: into_a_bias(q, k) @ v, *given)
    for _ in range(2):
        is_map(seen, into_a_bias(*given[:2]))


def test_rows_of_nan():
    """A row that sees nothing is NaN in the model too, and its map is empty."""
    seen = seen_of(lambda q, k, v: F.gelu(q @ k.mT).masked_fill(~SHOWN, -torch.inf).softmax(-1) @ v)
    q, k, _ = qkv()
    scores = F.gelu(q @ k.mT).masked_fill(~SHOWN, -torch.inf)
    is_map(seen, scores.softmax(-1).nan_to_num())


def test_a_safe_softmax():
    """The softmax of F.scaled_dot_product_attention's own formula, which has no NaN."""
    given = qkv()

    def way(q, k, v):
        scores = F.gelu(q @ k.mT).masked_fill(~SHOWN, -torch.inf)
        return torch.ops.aten._safe_softmax(scores, -1) @ v

    q, k, _ = given
    truth = F.gelu(q @ k.mT).masked_fill(~SHOWN, -torch.inf).softmax(-1).nan_to_num()
    is_map(seen_of(way, *given), truth)


@pytest.mark.parametrize("first", [False, True])
def test_sinks_are_among_the_keys(first):
    def weights(q, k):
        s = F.gelu(q @ k.mT)
        sink = randn(HEADS, 1, 1, seed=3).expand(len(s), -1, N, 1)
        s = torch.cat((sink, s) if first else (s, sink), -1).softmax(-1)
        return s[..., 1:] if first else s[..., :-1]

    replayed(weights)
    (heard,) = heard_of(lambda q, k, v: weights(q, k) @ v)
    found = replay(heard.how)
    assert found.first == first and found.scores.shape[-1] == M + 1


# Dropout

#: How dropout arrives: made of others on a CPU, as one operator on a GPU, or as it was called.
DROPOUTS = {
    "made of others": lambda P: F.dropout(P, 0.5, True),
    "one operator": lambda P: torch.native_dropout(P, 0.5, True)[0],
    "in inference mode": lambda P: F.dropout(P, 0.5, True),
}


@pytest.mark.parametrize("step", [lambda s: s, F.gelu], ids=["read", "computed again"])
@pytest.mark.parametrize("how", DROPOUTS)
def test_dropout(how, step):
    """In inference mode nothing tells what it drew."""

    def way(q, k, v):
        torch.manual_seed(0)
        return DROPOUTS[how](step(q @ k.mT).softmax(-1)) @ v

    if how == "in inference mode":
        with torch.inference_mode():
            why = missed(way, *qkv())
            assert why == "dropout while training draws new weights every time"
        return
    seen = seen_of(way)
    q, k, _ = qkv()
    is_map(seen, step(q @ k.mT).softmax(-1))
    said = {
        "made of others": "multiplied by a tensor, as dropout",
        "one operator": "dropout 0.5 was",
    }
    assert said[how] in seen.report() or step is F.gelu


@pytest.mark.parametrize("step", [lambda s: s, F.gelu], ids=["read", "computed again"])
def test_dropout_that_does_nothing(step):
    with torch.inference_mode():
        q, k, v = qkv()
        for drop in (
            lambda P: F.dropout(P, 0.5, False),
            lambda P: F.dropout(P, 0.0, True),
            lambda P: torch.native_dropout(P, 0.5, False)[0],
        ):
            seen = seen_of(lambda q, k, v, drop=drop: drop(step(q @ k.mT).softmax(-1)) @ v, q, k, v)
            is_map(seen, step(q @ k.mT).softmax(-1))
            assert "dropout" not in seen.report()


# What cannot be computed again


@pytest.fixture
def only_float():
    """An operator of somebody's own, for float32 alone."""
    library = torch.library.Library("wqkv_test_replay", "DEF")
    library.define("only_float(Tensor x) -> Tensor")

    def double(x):
        if x.dtype != torch.float32:
            raise RuntimeError(f"only float, not {x.dtype}\nand more lines")
        return x * 2

    library.impl("only_float", double, "CPU")
    yield torch.ops.wqkv_test_replay.only_float
    library._destroy()


def test_an_operator_that_has_no_float64(only_float):
    why = missed(lambda q, k, v: only_float(q @ k.mT).softmax(-1) @ v)
    assert why == "its scores cannot be computed again: only float, not torch.float64"


def test_a_softmax_of_a_softmax():
    (heard,) = heard_of(lambda q, k, v: (q @ k.mT).softmax(-1).softmax(-1) @ v)
    with pytest.raises(Refusal, match="its weights come from 2 softmaxes"):
        replay(heard.how)


def test_what_is_computed_again_is_compared():
    """Numbers that no operator tells of: the model adds them to memory by numpy."""

    def way(q, k, v):
        scores = F.gelu(q @ k.mT)
        scores.numpy()[..., 0] += 3
        return scores.softmax(-1) @ v

    why = missed(way)
    assert why.startswith("its proof failed: the rebuilt output differs from the model's by ")
