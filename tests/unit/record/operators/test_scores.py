"""What was done to a product of q and k is read as the formula of attention, or said not to be.

Each case is a block that runs under a watch: its map is beside its own weights, and a map that is
read (not computed again) is one of q, k and the rules.
"""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.written import (
    BATCH,
    D_V,
    HEADS,
    M,
    N,
    heard_of,
    is_map,
    proved,
    qkv,
    randn,
    replayed,
    seen_of,
)
from wqkv.record.operators.layout import Unreadable
from wqkv.record.operators.scores import read

BIAS = randn(HEADS, N, M, seed=3)
SHOWN = randn(BATCH, 1, N, M, seed=4) > 0
SHOWN[..., 0] = True
ADDED = torch.zeros(N, M).masked_fill(~SHOWN[0, 0], -1e9)
PER = {
    "query": randn(N, 1, seed=5),
    "key": randn(1, M, seed=6),
    "head": randn(HEADS, 1, 1, seed=7),
    "sample": randn(BATCH, 1, 1, 1, seed=8),
    "head and query": randn(HEADS, N, 1, seed=9),
    "one number": torch.tensor(0.37),
    "one number with an axis": torch.tensor([0.37]),
}


def softmax(step):
    """Weights with one step between the scores and their softmax."""
    return lambda q, k: step(q @ k.mT).softmax(-1)


def unreadable(weights, *given: Tensor) -> str:
    """Why the Nodes of weights cannot be read."""
    (heard,) = heard_of(lambda q, k, v: weights(q, k) @ v, *given)
    with pytest.raises(Unreadable) as error:
        read(heard.how.weights)
    return str(error.value)


# Scale


@pytest.mark.parametrize("per", PER)
def test_a_factor_of_the_scores(per):
    proved(softmax(lambda s: s * PER[per]))
    proved(softmax(lambda s: s / PER[per]))
    proved(softmax(lambda s: PER[per] * s + BIAS))


def test_a_learned_temperature():
    proved(softmax(lambda s: s * torch.nn.Parameter(PER["head"]).exp().detach()))
    seen = seen_of(lambda q, k, v: (q @ k.mT * PER["head"].requires_grad_()).softmax(-1) @ v)
    PER["head"].requires_grad_(False)
    is_map(seen, (qkv()[0] @ qkv()[1].mT * PER["head"]).softmax(-1))


@pytest.mark.parametrize(
    "step",
    [
        lambda s: s * 0.3 + BIAS,
        lambda s: (s + BIAS) * 0.3,
        lambda s: (s + BIAS) / 3,
        lambda s: (s * 0.5 - BIAS) * 0.3 + BIAS,
        lambda s: s * -0.3,
        lambda s: -s,
        lambda s: -(s * 0.5 + BIAS),
        lambda s: BIAS - s,
        lambda s: 2 - s,
        lambda s: s - BIAS,
        lambda s: torch.sub(s, BIAS, alpha=3),
        lambda s: torch.add(s, BIAS, alpha=3),
        lambda s: torch.add(s, BIAS, alpha=0),
        lambda s: torch.add(BIAS, s, alpha=3),
        lambda s: torch.rsub(s, BIAS, alpha=3),
        lambda s: torch.rsub(BIAS.expand(BATCH, -1, -1, -1), s, alpha=3),
        lambda s: torch.rsub(s, 2.0, alpha=3),
        lambda s: s + 5,
        lambda s: s - s.max(),
        lambda s: s - s.amax(-1, keepdim=True),
        lambda s: s - s.max(-1, keepdim=True).values,
    ],
)
def test_scale_and_bias_in_any_order(step):
    proved(softmax(step))


def test_numbers_that_are_read_from_the_scores():
    """The model reads a number, so what it does is no operator of the scores any more."""
    proved(softmax(lambda s: s / float(s.max())))


def test_baddbmm():
    def weights(q, k, beta=0.5, alpha=0.25):
        q, k, bias = q.flatten(0, 1), k.flatten(0, 1), BIAS.repeat(BATCH, 1, 1)
        scores = torch.baddbmm(bias, q, k.mT, beta=beta, alpha=alpha)
        return scores.unflatten(0, (BATCH, HEADS)).softmax(-1)

    assert "a stored bias" in proved(weights)
    proved(lambda q, k: weights(q, k, beta=-2.0, alpha=-0.5))
    assert "bias" not in proved(lambda q, k: weights(q, k, beta=0))


def test_a_product_onto_a_product():
    def weights(q, k):
        q, k = q.flatten(0, 1), k.flatten(0, 1)
        return torch.baddbmm(q @ k.mT, q, k.mT).softmax(-1).unflatten(0, (BATCH, HEADS))

    assert unreadable(weights) == "another product was added to its scores"
    assert "captured: its scores are computed again as the model did, because" in replayed(weights)


# Masks


@pytest.mark.parametrize(
    "step",
    [
        lambda s: s + ADDED,
        lambda s: ADDED + s,
        lambda s: s.masked_fill(~SHOWN, -torch.inf),
        lambda s: torch.where(SHOWN, s, -torch.inf),
        lambda s: torch.where(~SHOWN, torch.tensor(-1e9), s),
        lambda s: torch.where(SHOWN, s, torch.full_like(s, -1e9)),
        lambda s: torch.where(~SHOWN, torch.full((N, M), -torch.inf), s),
        lambda s: (s + ADDED + BIAS).masked_fill(~SHOWN, -torch.inf) + BIAS,
        lambda s: -(-s - ADDED),
        lambda s: (s + ADDED) * 0.5,
        lambda s: torch.maximum(s + ADDED, torch.tensor(torch.finfo().min)),
        lambda s: (s + ADDED).clamp(min=torch.finfo().min),
        lambda s: (s + ADDED).nan_to_num(),
    ],
)
def test_masks(step):
    assert "Dense(bool[" in proved(softmax(step))


def test_weights_that_are_filled_where_they_are_hidden():
    def weights(q, k):
        scores = (q @ k.mT).masked_fill(~SHOWN, -torch.inf)
        return scores.softmax(-1).masked_fill(~SHOWN, 0.0)

    proved(weights)


def test_rows_that_see_nothing():
    """A row of -1e9 is the mean of all values, and its map is empty."""
    nothing = torch.zeros(N, M)
    nothing[2] = -1e9
    seen = seen_of(lambda q, k, v: (q @ k.mT + nothing).softmax(-1) @ v)
    q, k, _ = qkv()
    is_map(seen, (q @ k.mT).softmax(-1) * (nothing == 0))
    assert "(8 rows, 2 empty)" in seen.report()


# Softcap and bounds


@pytest.mark.parametrize("cap", ["", "softcap 5", "softcap 1"])
def test_softcap(cap):
    bounded = {
        "": lambda s: -5 * torch.tanh(s / 25),
        "softcap 5": lambda s: 5 * torch.tanh(s * 0.2 / 5) + BIAS,
        "softcap 1": torch.tanh,
    }
    assert (cap or "softcap 5") in proved(softmax(bounded[cap]))


def test_a_bound_that_acts_is_replayed():
    assert "computed again" not in proved(softmax(lambda s: s.clamp(-1e3, 1e3)))
    replayed(softmax(lambda s: s.clamp(-1, 1)))
    replayed(softmax(lambda s: torch.minimum(s, torch.tensor(0.5))))


# Sinks


def sinks(s: Tensor) -> Tensor:
    return randn(HEADS, seed=10).view(1, -1, 1, 1).expand(len(s), -1, s.shape[2], 1)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("stable", [False, True])
def test_sinks(first, stable):
    def weights(q, k):
        s = q @ k.mT * 0.3
        s = torch.cat((sinks(s), s) if first else (s, sinks(s)), dim=-1)
        s = s - s.max(dim=-1, keepdim=True).values if stable else s
        return s.softmax(-1)[..., 1:] if first else s.softmax(-1)[..., :-1]

    assert "sinks" in proved(weights)


# What is no formula


def with_sinks(step):
    return lambda q, k: step(torch.cat((q @ k.mT, sinks(q)), -1)).softmax(-1)[..., :-1]


def part_written_over(s: Tensor) -> Tensor:
    s = s.clone()
    s[:, :1].mul_(2)
    return s


#: A step, and why the scores that it makes cannot be read.
NO_RULE = {
    "a number divided": (lambda s: 1 / s, "`reciprocal` is no rule of attention"),
    "tensor divided": (lambda s: BIAS / s, "something is divided by its scores"),
    "two added": (lambda s: s + s, "two products were added"),
    "two multiplied": (lambda s: s * s, "`mul` joins two products"),
    "two chosen": (lambda s: torch.where(SHOWN, s, s * 2), "`where` chooses between two products"),
    "factor later": (
        lambda s: (s + BIAS) * PER["head"],
        "a tensor multiplies its scores after a mask, a bias or a softcap",
    ),
    "factor of a mask": (
        lambda s: (s * 0.1).masked_fill(~SHOWN, -2e4) * PER["head"].abs(),
        "a tensor multiplies its scores after a mask, a bias or a softcap",
    ),
    "factor of a cap": (
        lambda s: s.tanh() * PER["head"],
        "a tensor multiplies its scores after a mask, a bias or a softcap",
    ),
    "mask turned": (
        lambda s: -s.masked_fill(~SHOWN, -2e4),
        "its scores are multiplied by a negative number after the mask",
    ),
    "filled": (
        lambda s: s.masked_fill(~SHOWN, -5.0),
        "its scores are replaced by -5.0 in places, which hides none",
    ),
    "chosen": (
        lambda s: torch.where(SHOWN, s, torch.full((N, M), 0.25)),
        "its scores are replaced by 0.25 in places, which hides none",
    ),
    "cap of a bias": (
        lambda s: (s + BIAS).tanh(),
        "`tanh` follows a mask, a bias or another `tanh`",
    ),
    "cap of a cap": (lambda s: s.tanh().tanh(), "`tanh` follows a mask, a bias or another `tanh`"),
    "largest of all heads": (
        lambda s: s.max(dim=1).values[:, None].expand_as(s),
        "`max` leaves out a part of its scores",
    ),
    "other operator": (F.gelu, "`gelu` is no rule of attention"),
    "other input": (
        lambda s: torch.stack(s.unbind(1), 1),
        "`stack` takes its scores in a way that is not followed",
    ),
    "parts joined": (
        lambda s: torch.cat((s[..., :3], s[..., 3:]), -1),
        "`cat` joins more than its scores and one sink",
    ),
    "part written": (part_written_over, "a part of its scores was written over"),
    "part moved": (
        lambda s: s.repeat(1, 1, 1, 1),
        "`repeat` moves its scores in a way that is not followed",
    ),
}


@pytest.mark.parametrize("case", NO_RULE)
def test_scores_that_are_replayed(case):
    step, why = NO_RULE[case]
    assert unreadable(softmax(step)) == why
    replayed(softmax(step))


@pytest.mark.parametrize(
    ("step", "why"),
    [
        (lambda s: s + F.pad(BIAS, (0, 1)), r"\[3, 5, 8\] met its scores and sinks"),
        (lambda s: s * F.pad(BIAS[:, :1], (0, 1)), r"\[3, 1, 8\] met its scores and sinks"),
        (lambda s: s.masked_fill(F.pad(~SHOWN, (0, 1)), -torch.inf), r"\[2, 1, 5, 8\] met its"),
        (lambda s: s.view(-1, M + 1).view_as(s), "a view cuts an axis of 7 of its scores into 8"),
    ],
)
def test_sinks_end_the_formula(step, why):
    """From there on one axis stands for the keys and the sink."""
    assert re.search(why, unreadable(with_sinks(step)))
    replayed(with_sinks(step))


#: What is joined and cut, and why that is no sink.
NO_SINK = {
    "cut at the wrong end": (
        lambda s: torch.cat((sinks(s), s), -1).softmax(-1)[..., :-1],
        "a part of its scores is cut out",
    ),
    "two of them": (
        lambda s: torch.cat((s, sinks(s), sinks(s)), -1).softmax(-1)[..., :-2],
        "`cat` joins more than its scores and one sink",
    ),
    "a wide one": (
        lambda s: torch.cat((s, sinks(s).expand(-1, -1, -1, 2)), -1).softmax(-1)[..., :-2],
        "`cat` joins its scores and something that is no sink",
    ),
}


@pytest.mark.parametrize("case", NO_SINK)
def test_sinks_that_are_none(case):
    weights, why = NO_SINK[case]
    assert unreadable(lambda q, k: weights(q @ k.mT * 0.3)) == why
    replayed(lambda q, k: weights(q @ k.mT * 0.3))


@pytest.mark.parametrize("step", [torch.tanh, lambda s: s * 0.5, lambda s: -s, lambda s: s / 2])
def test_sinks_that_more_is_done_to(step):
    """What is done to the scores is done to their sinks as well."""
    replayed(with_sinks(step))


def test_a_part_of_the_scores():
    seen = seen_of(lambda q, k, v: (q @ k.mT)[..., 1:4].softmax(-1) @ v[:, :, 1:4])
    q, k, v = qkv()
    is_map(seen, (q @ k.mT)[..., 1:4].softmax(-1))
    assert "scores computed again" in seen.report()
    cut = unreadable(lambda q, k: (q @ k.mT)[..., 1:4].softmax(-1), q, k, v[:, :, 1:4])
    assert cut == "a part of its scores is cut out"
    assert unreadable(lambda q, k: (q @ k.mT)[:, 1].softmax(-1), q, k, v[:, 1]) == cut


def test_softmax_of_weights():
    twice = unreadable(lambda q, k: (q @ k.mT).softmax(-1).softmax(-1))
    assert twice == "a softmax was taken of its weights"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda P: P + 0.1 * BIAS, "something was added to its weights"),
        (lambda P: P.masked_fill(~SHOWN, 0.1), "its weights were filled in places"),
        (torch.tanh, "`tanh` follows a mask, a bias or another `tanh`"),
    ],
)
def test_weights_that_are_changed(change, why):
    assert unreadable(lambda q, k: change((q @ k.mT).softmax(-1))) == why


def test_weights_that_are_multiplied():
    """The map is the softmax, and it is said what came after."""
    q, k, _ = qkv()
    for factor, what in ((2.0, "by 2,"), (PER["head"], "by a tensor, as dropout does,")):
        seen = seen_of(lambda q, k, v, factor=factor: ((q @ k.mT).softmax(-1) * factor) @ v)
        is_map(seen, (q @ k.mT).softmax(-1))
        assert f"multiplied {what} before it met v" in seen.report()
        assert "(10 rows)" in seen.report()
    seen = seen_of(lambda q, k, v: ((q @ k.mT).softmax(-1) * 1.0) @ v)
    assert "multiplied" not in seen.report()


def test_shapes_of_the_values_are_told_apart():
    """A distinct size for each axis: a map of the wrong axes could not pass."""
    assert len({BATCH, HEADS, N, M, D_V}) == 5
