"""The mode that is told of every operator: what it hears, and that it leaves nothing behind."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack
from torch.utils.flop_counter import FlopCounterMode

from tests.written import (
    BATCH,
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
from wqkv.record.faults import Faults
from wqkv.record.operators.listening import Listening, written
from wqkv.record.operators.nodes import operator_of
from wqkv.record.operators.told import tensors_in
from wqkv.record.watch import watch

BIAS = randn(HEADS, N, M, seed=3)


def weights(q, k):
    return (q @ k.mT).softmax(-1)


def plain(q, k, v):
    return weights(q, k) @ v


@pytest.fixture(autouse=True)
def nothing_is_left():
    """No mode stays on the stack, whatever happens."""
    yield
    assert _get_current_dispatch_mode_stack() == []


# What is no attention

NEVER = "its softmax over products of q and k never met v in a product"
NO_PRODUCT = "the scores of its softmax come from no product of two activations"


@pytest.mark.parametrize(
    "way",
    [
        lambda q, k, v: weights(q, k),
        lambda q, k, v: (q[:, 0, 0] @ k[:, 0, 0].mT).softmax(-1),  # as CLIP's logits
        lambda q, k, v: weights(q, k).argmax(-1),
        lambda q, k, v: (weights(q, k)[..., None] * v[:, :, None]).sum(-2),
    ],
)
def test_a_softmax_that_never_meets_v(way):
    assert missed(way) == NEVER


def test_two_of_them():
    heard = heard_of(lambda q, k, v: (weights(q, k), weights(q, q)))
    assert [one.lost for one in heard] == [NEVER] * 2


@pytest.mark.parametrize(
    "way",
    [
        lambda q, k, v: randn(BATCH, HEADS, N, M).softmax(-1) @ v,
        lambda q, k, v: (q[..., :M]).softmax(-1) @ v,
        lambda q, k, v: torch.from_numpy((q @ k.mT).numpy().copy()).softmax(-1) @ v,  # by numpy
        lambda q, k, v: torch.tensor((q @ k.mT).tolist()).softmax(-1) @ v,
    ],
)
def test_a_softmax_of_no_product(way):
    assert missed(way) == NO_PRODUCT


def test_a_router():
    """Its weights multiply what experts made: no product, and larger than they are."""
    experts = randn(BATCH, HEADS, N, 11, 13, seed=3)
    found = heard_of(
        lambda q, k, v: (q.softmax(-1)[..., None] * experts) @ v[:, :, :1].mT[:, :, None]
    )
    assert found == []
    # without the sizes that tell, it is an attention of which no q and k are known
    found = heard_of(lambda q, k, v: q.softmax(-1)[..., None, :] @ experts)
    assert [one.lost for one in found] == [NO_PRODUCT]


def test_exp_that_is_no_softmax():
    why = missed(lambda q, k, v: ((q @ k.mT).exp() @ v) / (q @ k.mT).exp().sum(-1, keepdim=True))
    assert why == (
        "exp of its scores met v, divided by something else than its sum, or by that only "
        "afterwards"
    )


def test_a_product_of_two_maps():
    def way(q, k, v):
        return (weights(q, k) @ weights(k, k)) @ v

    assert missed(way) == "its weights come from 2 softmaxes"


def test_heads_mixed_by_a_weight():
    mix = nn.Conv2d(HEADS, HEADS, 1)

    def way(q, k):
        return mix(q @ k.mT).softmax(-1)

    with torch.no_grad():
        layer = layer_of(lambda q, k, v: way(q, k) @ v, mix=mix)
        assert layer.state == "captured"
        seen = seen_of(lambda q, k, v: mix(weights(q, k)) @ v, mix=mix)
    is_map(seen, weights(*qkv()[:2]))
    assert "shown is its softmax, which `convolution` changed before it met v" in seen.report()


def test_heads_mixed_by_what_is_no_parameter():
    mix = randn(HEADS, HEADS, seed=3)
    seen = seen_of(lambda q, k, v: torch.einsum("bhij,hg->bgij", weights(q, k), mix) @ v)
    assert seen.layers[0].state == "captured"
    assert "computed again as the model did" in seen.report()


def test_a_mask_that_was_made_of_the_scores():
    """It only shows or hides, so it is a value, and no second product."""
    shown = torch.ones(N, M, dtype=torch.bool).tril(2)

    def way(q, k):
        scores = q @ k.mT
        return (scores + (scores * 0).masked_fill(~shown, -torch.inf)).softmax(-1)

    assert "Window" in proved(way) or "Causal" in proved(way)


def test_channels_mixed_by_a_weight_end_the_trail():
    out = nn.Linear(13, M)
    heard = heard_of(lambda q, k, v: out(weights(q, k) @ v).softmax(-1) @ v, out=out)
    assert [one.lost for one in heard] == ["", NO_PRODUCT]


def test_two_values():
    """Weights that meet a second v are told once."""

    def way(q, k, v):
        P = weights(q, k)
        return P @ v + P @ (2 * v)

    assert len(heard_of(way)) == 1


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_a_softmax_of_nested_tensors():
    def way(q, k, v):
        x = torch.nested.nested_tensor([randn(2, 3), randn(3, 3)])
        return x.softmax(-1).to_padded_tensor(0.0)

    assert [one.lost for one in heard_of(way)] == [
        "its softmax is of a nested tensor, which is not followed"
    ]


# Writing in place


def through_transpose(s):
    s.mT.mul_(0.5)
    return s


def through_a_view_that_is_used(s):
    view = s.view(-1, N, M)
    s *= 0.5
    return view.view_as(s)


def through_slices(s):
    s[:, 1].add_(1.0)
    s[..., 2:] *= 0.5
    s[0] = s[1]
    return s


def through_a_flat_view(s):
    s.view(-1)[:7] = 1
    return s


def copied_into(s):
    whole = torch.zeros(BATCH, HEADS, N, M)
    whole[:] = s
    return whole


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("write", [through_transpose, through_a_view_that_is_used])
def test_scores_that_are_wholly_written(write, inference):
    with torch.inference_mode(inference):
        proved(lambda q, k: write(q @ k.mT).softmax(-1), *qkv())


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("write", [through_slices, through_a_flat_view, copied_into])
def test_scores_that_are_written_in_part(write, inference):
    with torch.inference_mode(inference):
        replayed(lambda q, k: write(q @ k.mT).softmax(-1), *qkv())


def test_a_slice_of_what_was_written():
    """What was a part of the scores is not what it was, and nothing tells what it is."""

    def way(q, k, v):
        scores = q @ k.mT
        part = scores[:, 1:]
        scores *= 0.5
        return part.softmax(-1) @ v[:, 1:]

    assert missed(way) == "its scores were changed in place through another tensor"


@pytest.mark.parametrize("inference", [False, True])
def test_what_is_written_in_the_forward_is_copied(inference):
    def way(q, k, v):
        bias, q, k, v = BIAS.clone(), q.clone(), k.clone(), v.clone()
        scores = q @ k.mT + bias
        for x in (bias, q, k):
            x.zero_()
        out = scores.softmax(-1) @ v
        v.zero_()
        kept = out.clone()
        out.zero_()
        return kept

    with torch.inference_mode(inference):
        q, k, v = qkv()
        is_map(seen_of(way, q, k, v), (q @ k.mT + BIAS).softmax(-1))


def test_what_an_operator_writes_into():
    x, out = randn(2, 3), randn(2, 2)
    add, into = (operator_of(one) for one in (torch.ops.aten.add_.Tensor, torch.ops.aten.mm.out))
    assert written(add, (x, 1), {}) == [x]
    assert list(written(operator_of(torch.ops.aten.add.Tensor), (x, 1), {})) == []
    assert written(into, (x, x), {"out": out}) == written(into, (x, x, out), {}) == [out]


# Begin and end


def test_a_forward_that_fails():
    class Failing(Foreign):
        def forward(self, q, k, v):
            super().forward(q, k, v)
            raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"), watch(Failing(plain)) as seen:
        seen._watched.model(*qkv())
    assert _get_current_dispatch_mode_stack() == []
    is_map(seen, weights(*qkv()[:2]))
    assert "the last forward ended in ValueError" in seen.report()


def test_a_forward_that_fails_in_an_operator():
    def way(q, k, v):
        return weights(q, k) @ q

    with pytest.raises(RuntimeError), watch(Foreign(way)) as seen:
        seen._watched.model(*qkv())
    assert seen.layers[0].state == "missed"


def test_watches_of_one_model_and_of_its_part():
    inner = Foreign(plain)
    outer = nn.Module()
    outer.inner, outer.forward = inner, lambda *x: inner(*x)
    with watch(outer) as first, watch(outer) as second, watch(inner) as third:
        outer(*qkv())
    for seen in (first, second, third):
        is_map(seen, weights(*qkv()[:2]))
    assert [seen.layers[0].name for seen in (first, second, third)] == ["inner"] * 2 + ["Foreign"]


def test_threads():
    model, found = Foreign(plain), {}
    given = {name: qkv(n=n) for name, n in (("one", 2), ("two", 3))}
    barrier = threading.Barrier(2)

    def run(name):
        barrier.wait()
        model(*given[name])
        found[name] = _get_current_dispatch_mode_stack()

    with watch(model) as seen:
        threads = [threading.Thread(target=run, args=(name,), name=name) for name in given]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {"one": [], "two": []}
    assert {one.thread for one in seen.threads} == set(given)
    for one in seen.threads:
        is_map(one, weights(*given[one.thread][:2]))


class Counting(TorchDispatchMode):
    """A mode of a user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.told.append(str(func))
        return func(*args, **(kwargs or {}))


def test_another_mode_around_or_inside():
    model, given = Foreign(plain), qkv()
    with Counting() as alone:
        model(*given)
    with Counting() as around, watch(model) as first:
        model(*given)
    with watch(model) as second, Counting() as inside:
        model(*given)

    def way(q, k, v):
        with Counting() as way.mode:
            return plain(q, k, v)

    third = seen_of(way)
    assert alone.told and around.told == inside.told == way.mode.told == alone.told
    for seen in (first, second, third):
        is_map(seen, weights(*given[:2]))


def test_a_mode_that_is_left_on():
    """A forward that leaves a mode of its own behind: ours is taken from below it."""
    mode = Counting()

    def way(q, k, v):
        mode.__enter__()
        return plain(q, k, v)

    with watch(Foreign(way)) as seen:
        seen._watched.model(*qkv())
        assert _get_current_dispatch_mode_stack() == [mode]
    mode.__exit__(None, None, None)
    is_map(seen, weights(*qkv()[:2]))


def test_operations_are_counted_as_without():
    model, found = Foreign(plain), []
    with FlopCounterMode(display=False) as count:
        model(*qkv())
    found.append(count.get_total_flops())
    with FlopCounterMode(display=False) as count, watch(model) as first:
        model(*qkv())
    found.append(count.get_total_flops())
    with watch(model) as second, FlopCounterMode(display=False) as count:
        model(*qkv())
    found.append(count.get_total_flops())
    assert found == [2 * BATCH * HEADS * N * M * (11 + 13)] * 3
    for seen in (first, second):
        is_map(seen, weights(*qkv()[:2]))


@pytest.mark.parametrize("step", [lambda x: x > 0, lambda x: x.tolist(), lambda x: x.numpy() + 1])
def test_outputs_that_are_no_float_tensor(step):
    is_map(seen_of(lambda q, k, v: step(weights(q, k) @ v)), weights(*qkv()[:2]))


def test_pausing_and_closing():
    heard = []
    mode = Listening(Foreign(plain), heard.append, Faults())
    mode.begin()
    with mode.paused():
        assert _get_current_dispatch_mode_stack() == []
        plain(*qkv())
    assert _get_current_dispatch_mode_stack() == [mode]
    with Counting(), mode.paused():
        plain(*qkv())
    assert heard == []
    q, k, v = qkv()
    P = weights(q, k)
    mode.close()
    P @ v
    mode.end()
    assert [one.lost for one in heard] == [NEVER]
    with mode.paused():  # also where it is not on
        assert _get_current_dispatch_mode_stack() == []


def test_forgetting():
    heard = []
    mode = Listening(Foreign(plain), heard.append, Faults())
    mode.begin()
    P = weights(*qkv()[:2])
    mode.forget()
    P @ qkv()[2]
    mode.end()
    assert heard == []


def test_what_is_kept_of_an_attention():
    (heard,) = heard_of(lambda q, k, v: (q @ k.mT + BIAS).softmax(-1) @ v)
    sizes = [leaf.tensor.numel() for leaf in tensors_in(heard)]
    q, k, v = qkv()
    assert sorted(sizes) == sorted(
        [q.numel(), k.numel(), BIAS.numel(), v.numel(), BATCH * HEADS * N * 13]
    )
    attention = nn.functional.scaled_dot_product_attention
    (fused,) = heard_of(lambda q, k, v: attention(q, k, v[..., :11]))
    assert {q.numel(), k.numel()} <= {leaf.tensor.numel() for leaf in tensors_in(fused)}
    assert tensors_in(heard._replace(how=None)) == []


class CastInside(nn.Module):
    """Turns autocast on around an encoder's fast path, and off again."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(14, 2, 22, batch_first=True)
        self.encoder, self.out = nn.TransformerEncoder(layer, 2), nn.Linear(14, 14)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.encoder(x)
        return nn.functional.linear(y.float(), self.out.weight, self.out.bias)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_autocast_inside_of_a_model(mode):
    torch.manual_seed(0)
    model, x = CastInside().eval(), torch.randn(2, 7, 14)
    with mode():
        plain = model(x)
        with watch(model) as seen:
            assert torch.equal(model(x), plain)
    assert [layer.state for layer in seen.layers] == ["proved"] * 2
