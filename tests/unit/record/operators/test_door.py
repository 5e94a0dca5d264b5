"""What was heard waits until it is asked for, and becomes the runs of its layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.written import (
    BATCH,
    D_K,
    HEADS,
    Foreign,
    M,
    N,
    is_map,
    missed,
    qkv,
    randn,
    seen_of,
)
from wqkv.errors import ArgumentError, MissedError
from wqkv.record.captured import Refusal
from wqkv.record.operators.door import READING_FAILED, Returned, batch_of
from wqkv.record.watch import watch

STALE = (
    "q, k, v, its output or a mask was changed in place after the forward and before it was "
    "asked for"
)


def weights(q, k):
    return (q @ k.mT).softmax(-1)


def plain(q, k, v):
    return weights(q, k) @ v


def causal(q, k, v):
    n, m = q.shape[2], k.shape[2]
    shown = torch.ones(n, m, dtype=torch.bool).tril(m - n)
    return (q @ k.mT).masked_fill(~shown, -torch.inf).softmax(-1) @ v


# A tensor that was changed in place


@pytest.mark.parametrize("changed", ["q", "k", "v", "bias"])
def test_a_tensor_that_is_changed_after_the_forward(changed):
    given = dict(zip("qkv", qkv(), strict=True), bias=randn(HEADS, N, M, seed=3))
    model = Foreign(lambda q, k, v: (q @ k.mT + given["bias"]).softmax(-1) @ v)
    tensors = [given[name] for name in "qkv"]
    with watch(model) as seen:
        model(*tensors)
        truth = (given["q"] @ given["k"].mT + given["bias"]).softmax(-1)
        given[changed][0].mul_(2)
    assert [layer.reason for layer in seen.layers] == [STALE]
    with pytest.raises(MissedError, match="was changed in place after the forward"):
        seen[0]
    with watch(model) as seen:
        model(*tensors)
        assert seen.layers[0].state == "proved"  # it is asked for before
        found = seen[0][:]
        given[changed][0].mul_(2)
    assert truth.shape == found.shape and seen.layers[0].state == "proved"


def test_inference_tensors_are_read_at_the_end_of_the_forward():
    """These do not tell whether they were changed."""
    with torch.inference_mode():
        q, k, v = qkv()
        truth, model = weights(q, k), Foreign(plain)
        with watch(model) as seen:
            out = model(q, k, v)
            out.zero_()
        assert seen.layers[0].state == "proved"
        is_map(seen, truth)


def test_an_output_that_is_changed_after_the_forward():
    """It may be another view of the memory, which has a count of its own: the proof fails."""
    model = Foreign(plain)
    with watch(model) as seen:
        model(*qkv()).zero_()
    assert seen.layers[0].state == "missed"


# The runs of a layer


class Cached(nn.Module):
    """Attention with a cache of its own."""

    def __init__(self, way=causal):
        super().__init__()
        self.keys, self.values, self.way = None, None, way

    def forward(self, q, k, v):
        old = self.keys is not None
        self.keys = torch.cat((self.keys, k), 2) if old else k
        self.values = torch.cat((self.values, v), 2) if old else v
        return self.way(q, self.keys, self.values)


@pytest.mark.parametrize("steps", [[4, 1, 1, 1], [3, 2, 2], [2, 5], [1] * 7])
def test_steps_of_a_cache_are_one_map(steps):
    q, k, v = qkv(n=M)
    model, start = Cached(), 0
    with watch(model) as seen:
        for step in steps:
            model(*(x[:, :, start : start + step] for x in (q, k, v)))
            start += step
    (layer,) = seen.layers
    assert layer.state == "proved"
    assert layer.kind == "decoder"
    shown = torch.ones(M, M, dtype=torch.bool).tril()
    is_map(seen, (q @ k.mT).masked_fill(~shown, -torch.inf).softmax(-1))
    assert len(seen.runs(0)) == 1


@pytest.mark.parametrize("steps", [[1] * 4, [1, 2, 1]])
def test_a_watch_that_begins_in_the_midst_of_a_text(steps):
    """A first row that sees more keys than its own is no query of another text."""
    q, k, v = qkv(n=M)
    model, start = Cached(lambda q, k, v: (causal if q.shape[2] > 1 else plain)(q, k, v)), M - 4
    model(*(x[:, :, :start] for x in (q, k, v)))
    with watch(model) as seen:
        for step in steps:
            model(*(x[:, :, start : start + step] for x in (q, k, v)))
            start += step
    shown = torch.ones(M, M, dtype=torch.bool).tril()
    truth = (q @ k.mT).masked_fill(~shown, -torch.inf).softmax(-1)
    is_map(seen, truth[:, :, -4:])
    assert len(seen.runs(0)) == 1
    assert "rows from 3 on" in seen.report() and "failed" not in seen.report()


def test_rows_that_looked_ahead_see_no_later_key():
    """The first rows see each other, and no key that came after their step."""
    q, k, v = qkv(n=M)
    model = Cached(plain)
    with watch(model) as seen:
        for rows in (slice(0, 3), slice(3, 4), slice(4, 5)):
            model(*(x[:, :, rows] for x in (q, k, v)))
    shown = torch.ones(5, 5, dtype=torch.bool).tril()
    shown[:3, :3] = True
    q, k = q[:, :, :5], k[:, :, :5]
    is_map(seen, (q @ k.mT).masked_fill(~shown, -torch.inf).softmax(-1))
    assert "Prefix(" in seen.report()


def test_a_query_of_its_own_keeps_its_rows():
    """Of texts of growing length: it is a pooling one, which stands nowhere in them."""
    q, k, v = qkv(n=1)
    with watch(model := Foreign(plain)) as seen:
        model(q, k[:, :, :-1], v[:, :, :-1])
        model(q, k.flip(2), v)
    assert len(seen.runs(0)) == 2 and "rows from" not in seen.report()
    torch.testing.assert_close(seen.runs(0)[0][:], weights(q, k[:, :, :-1]))


class Reader(nn.Module):
    """A decoder that reads another text: its own keys are stored, and the others stay."""

    def __init__(self, stored=True):
        super().__init__()
        self.own = Cached() if stored else Foreign(causal)
        self.other = Foreign(plain)

    def forward(self, q, k, v, memory):
        self.own(q, k, v)
        return self.other(q, memory, memory)


@pytest.mark.parametrize("steps", [[4, 1, 1, 1], [1] * 7])
@pytest.mark.parametrize("beams", [1, 3])
def test_steps_that_read_another_text_are_one_map(steps, beams):
    q, k, v = (x[:1].expand(beams, -1, -1, -1) for x in qkv(n=M))
    memory = randn(1, HEADS, 17, D_K, seed=5).expand(beams, -1, -1, -1)
    model, start = Reader(), 0
    with watch(model) as seen:
        for step in steps:
            model(*(x[:, :, start : start + step] for x in (q, k, v)), memory)
            start += step
    assert [len(seen.runs(n)) for n in range(2)] == [1, 1]
    torch.testing.assert_close(seen[1][:], weights(q, memory))
    assert "rows from" not in seen.report()


def test_another_text_that_is_asked_again_is_another_run():
    """As in a denoising loop: the text stays, and what asks it is no continuation."""
    q, k, v = qkv(n=M)
    memory, model = randn(BATCH, HEADS, 17, D_K, seed=5), Reader(stored=False)
    with watch(model) as seen:
        for shift in range(3):
            model(q + shift, k + shift, v, memory)
    assert [len(seen.runs(n)) for n in range(2)] == [3, 3]
    torch.testing.assert_close(seen.runs(1)[1][:], weights(q + 1, memory))


def test_forwards_of_other_texts_are_other_runs():
    model = Foreign(plain)
    with watch(model) as seen:
        for seed in range(2):
            model(*(x + seed for x in qkv()))
    assert len(seen.runs(0)) == 2
    q, k, _ = qkv()
    torch.testing.assert_close(seen.runs(0)[0][:], weights(q, k))
    is_map(seen, weights(q + 1, k + 1))


@pytest.mark.parametrize("shape", [(N, M), (M, N), (1, M)])
def test_another_text(shape):
    """Where all see all, more keys than queries are no cache: its rows are counted from 0."""
    n, m = shape
    seen = seen_of(plain, *qkv(n=n, m=m))
    assert "cache" not in seen.report() and "rows from" not in seen.report()


@pytest.mark.parametrize(("way", "kind"), [(plain, "encoder"), (causal, "decoder")])
def test_kinds(way, kind):
    assert seen_of(way, *qkv(n=N, m=N)).layers[0].kind == kind


class Joint(nn.Module):
    """Two texts, of which all tokens look at all, as in SD3; or the first at both, or at one."""

    def __init__(self, seen, fused):
        super().__init__()
        self.seen, self.fused = seen, fused

    def forward(self, hidden_states, encoder_hidden_states):
        both = torch.cat((hidden_states, encoder_hidden_states), dim=1)[:, None]
        q = both if self.seen == "joint" else hidden_states[:, None]
        k = encoder_hidden_states[:, None] if self.seen == "other" else both
        if self.fused:
            return torch.nn.functional.scaled_dot_product_attention(q, k, k)
        return plain(q, k, k)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("seen", "kind"), [("joint", "encoder"), ("both", "cross"),
                                            ("other", "cross")])  # fmt: skip
def test_kinds_of_two_texts(seen, kind, fused):
    model, given = Joint(seen, fused), (randn(BATCH, N, D_K), randn(BATCH, M, D_K))
    with watch(model) as found:
        model(*given)
    (layer,) = found.layers
    assert (layer.state, layer.kind) == ("proved", kind)
    with watch(model) as found:  # two texts of one length
        model(given[0], given[0] + 1)
    assert found.layers[0].kind == kind


def test_rows_that_begin_later():
    """A causal mask over more keys than queries: they are the last."""
    assert "rows from 2 on" in seen_of(causal).report()


def test_a_mask_of_neighbors_is_of_no_cache():
    """A mask that is no pattern, over more keys than queries: blocks that look around."""
    shown = randn(N, M, seed=4) > 0
    shown[:, 0] = True
    seen = seen_of(lambda q, k, v: (q @ k.mT).masked_fill(~shown, -torch.inf).softmax(-1) @ v)
    assert "Dense(bool[" in seen.report() and "rows from" not in seen.report()


def test_what_is_not_asked_for():
    model = Foreign(lambda q, k, v: plain(plain(q, k, v), v, v))
    with watch(model, layers=[1]) as seen:
        model(*qkv())
    assert [layer.state for layer in seen.layers] == ["not asked for", "proved"]


# What goes wrong


def test_tensors_without_numbers():
    given = [x.to("meta") for x in qkv()]
    model = Foreign(plain)
    with watch(model) as seen:
        model(*given)
    assert seen.layers[0].reason == "its tensors are on the device meta, which holds no numbers"


def test_a_call_that_is_not_understood(monkeypatch):
    def fails(*_):
        raise ArgumentError("there is a fault\nand more lines")

    monkeypatch.setattr("wqkv.record.operators.door.call_of", fails)
    assert missed(plain) == "its call is not understood: there is a fault"


def test_a_fault_of_ours(monkeypatch):
    """The model goes on, the layer is missed, and the report says what it was."""

    def fails(*_):
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("wqkv.record.operators.door.call_of", fails)
    monkeypatch.setattr("wqkv.record.faults.RAISED", False)
    model = Foreign(plain)
    with watch(model) as seen:
        model(*qkv())
    assert seen.layers[0].reason == READING_FAILED
    assert "RuntimeError: a fault of ours" in seen.report()


def test_what_an_attention_function_returned():
    output = randn(BATCH, N, HEADS, D_K)
    returned = Returned(output, "why it was refused")
    returned.check(output.transpose(1, 2))
    lost = output.clone()
    lost[0, 0, 0] = torch.nan
    Returned(lost, "").check(lost.transpose(1, 2))
    for other in (output, output.transpose(1, 2) + 1e-6):
        with pytest.raises(Refusal, match="why it was refused"):
            returned.check(other)


def test_samples_of_a_forward():
    assert batch_of(["a", None, torch.tensor(3.0), randn(5, 2), randn(7)]) == 5
    assert batch_of([1, "a"]) is None


def test_statistics():
    """No q and k are kept, and nothing waits."""
    model = Foreign(causal)
    q, k, v = qkv(n=M)
    with watch(model, keep="statistics") as seen:
        model(q, k, v)
        q.zero_()
    shown = torch.ones(M, M, dtype=torch.bool).tril()
    q, k, v = qkv(n=M)
    P = (q @ k.mT).masked_fill(~shown, -torch.inf).softmax(-1)
    entropy: Tensor = -(P * P.clamp(min=1e-38).log()).sum(-1)
    torch.testing.assert_close(seen[0].entropy(), entropy, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen[0].received(), P.sum(-2), rtol=1e-4, atol=1e-5)
