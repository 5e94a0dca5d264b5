"""Which modules are their weight, and where what is not plain is called."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrizations, prune

from wqkv import Causal, Dynamic, LatentAttention, MultiheadAttention, Norm, QKNorm, convert
from wqkv.errors import ArgumentError, KindError
from wqkv.layer.plain import besides, plain, unread

N = 7


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Adapter(nn.Module):
    """A matrix with two thin ones beside it, and perhaps a bias of its own."""

    def __init__(self, base: nn.Linear, bias: bool) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, 2, bias=False, dtype=base.weight.dtype)
        self.up = nn.Linear(2, base.out_features, bias=bias, dtype=base.weight.dtype)

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


class Rounded(Tensor):
    """Stands for a quantized tensor: it multiplies by its own rules."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is nn.functional.linear:
            x, weight, *rest = args
            return func(x, weight.as_subclass(Tensor).round(decimals=1), *rest, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)


def replaced(module: nn.Linear) -> None:
    plainly = module.forward
    module.forward = lambda x: 2 * plainly(x)


def offloaded(module: nn.Linear) -> None:
    """Keep the weight on meta until the module is called, as libraries that offload weights do."""
    weight, plainly = module.weight.detach(), module.forward
    module.weight = nn.Parameter(weight.to("meta"))

    def forward(x: Tensor) -> Tensor:
        module.weight = nn.Parameter(weight)
        result = plainly(x)
        module.weight = nn.Parameter(weight.to("meta"))
        return result

    module.forward = forward


#: What is done to a projection, and what is said of it.
CHANGES = {
    "a hook": (
        lambda m: m.register_forward_hook(lambda m, _, y: 2 * y),
        ["_forward_hooks"],
    ),
    "a hook before": (
        lambda m: m.register_forward_pre_hook(lambda m, x: (2 * x[0],)),
        ["_forward_pre_hooks"],
    ),
    "a hook on the way back": (
        lambda m: m.register_full_backward_hook(lambda *_: None),
        ["_backward_hooks"],
    ),
    "a hook before the way back": (
        lambda m: m.register_full_backward_pre_hook(lambda *_: None),
        ["_backward_pre_hooks"],
    ),
    "a hook of the weight": (lambda m: m.weight.register_hook(lambda g: g), ["hooks of weight"]),
    "another forward": (replaced, ["a replaced forward"]),
    "offloaded": (offloaded, ["a replaced forward"]),
    "quantized": (
        lambda m: setattr(
            m, "weight", nn.Parameter(m.weight.detach().as_subclass(Rounded), requires_grad=False)
        ),
        ["a weight of class Rounded"],
    ),
    "pruned": (lambda m: prune.random_unstructured(m, "weight", 0.5), ["_forward_pre_hooks"]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_more_than_its_weight(change: str):
    made = nn.Linear(5, 3)
    assert plain(made) and besides(made) == unread(made) == []
    do, says = CHANGES[change]
    do(made)
    assert not plain(made) and besides(made) == says and set(says) <= set(unread(made))


def test_what_is_no_linear():
    for module in (Doubled(5, 3), nn.Sequential(nn.Linear(5, 3)), None, nn.Linear(5, 3).weight):
        assert not plain(module)
    weighted = parametrizations.weight_norm(nn.Linear(5, 3))
    assert not plain(weighted) and "parametrizations" in besides(weighted)


@pytest.mark.compile
def test_an_exported_step_folds_as_one_that_runs():
    """Export puts other tensors in place of the weights, and WK and WV are not called on tokens."""
    x = torch.randn(1, 99, 64, dtype=torch.float64)

    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = latent()

        def forward(self, Q: Tensor, K: Tensor) -> Tensor:
            return self.layer(Q, K, query_offset=98)

    step = Step()
    exported = torch.export.export(step, (x[:, 98:], x))
    called = [node.args[1].name for node in exported.graph.nodes if "linear" in str(node.target)]
    assert called == [f"p_layer_{name}_weight" for name in ("wq", "wc", "wr", "wo")]
    torch.testing.assert_close(exported.module()(x[:, 98:], x), step(x[:, 98:], x))


def test_hooks_of_all_modules_do_not_count():
    hook = register_module_forward_hook(lambda *_: None)
    try:
        assert plain(nn.Linear(5, 3))
    finally:
        hook.remove()


def test_what_a_weight_does_not_tell_of_a_module():
    assert unread(nn.LayerNorm(5)) == []
    assert unread(Doubled(5, 3)) == [f"the class {__name__}.Doubled"]
    assert unread(nn.Sequential(nn.Linear(5, 3))) == ["the part 0"]
    scaled = nn.Linear(5, 3)
    scaled.register_buffer("weight_scale", torch.ones(3))
    assert unread(scaled) == ["the tensor weight_scale"]
    small = nn.Linear(5, 3)
    small.weight = nn.Parameter(small.weight.to(torch.float8_e4m3fn))
    assert unread(small) == ["a weight of torch.float8_e4m3fn"]


# LatentAttention, whose matrices may be folded


def latent() -> LatentAttention:
    torch.manual_seed(1)
    rest = {"rank": 16, "d_rope": 4, "d_k": 20, "d_v": 16, "mask": Causal()}
    return LatentAttention(64, 4, **rest, dtype=torch.float64)


def adapted(bias: bool):
    return lambda layer, name: setattr(layer, name, Adapter(getattr(layer, name), bias))


def bent(layer: LatentAttention, name: str) -> None:
    setattr(layer, name, nn.Sequential(getattr(layer, name), nn.GELU()))


def biased(layer: LatentAttention, name: str) -> None:
    matrix = getattr(layer, name)
    matrix.bias = nn.Parameter(torch.randn(matrix.out_features, dtype=torch.float64))


PROJECTIONS = {
    **{name: lambda layer, at, do=do: do(getattr(layer, at)) for name, (do, _) in CHANGES.items()},
    "an adapter": adapted(False),
    "an adapter with a bias": adapted(True),
    "not linear": bent,
    "a bias": biased,
}


@pytest.mark.parametrize("name", ["WK", "WV"])
@pytest.mark.parametrize("change", PROJECTIONS)
def test_a_step_is_one_pass_whatever_the_projection_is(change: str, name: str):
    layer, x = latent(), torch.randn(1, 100, 64, dtype=torch.float64)
    before = layer(x)
    PROJECTIONS[change](layer, name)
    with torch.no_grad():
        whole, cache = layer(x), Dynamic()
        layer(x[:, :99], cache=cache)
        step = layer(x[:, 99:], cache=cache)
    torch.testing.assert_close(step, whole[:, 99:], rtol=1e-9, atol=1e-11)
    same = "back" in change or change in ("offloaded", "a hook of the weight")
    same |= (change, name) == ("a bias", "WK")  # the same for every key: the softmax drops it
    assert torch.allclose(whole, before) == same


@pytest.mark.parametrize("query_len", [1, 100])
def test_a_backward_hook_runs_once(query_len: int):
    layer, x, seen = latent(), torch.randn(1, 100, 64, dtype=torch.float64), []
    layer.WV.register_full_backward_hook(lambda *_: seen.append(1))
    layer(x[:, -query_len:], x, query_offset=100 - query_len).sum().backward()
    assert seen == [1]


# The layer's door, which compares Q with a plain WQ


@pytest.mark.parametrize("converted", [True, False])
def test_a_layer_whose_weights_come_when_it_is_called(converted: bool):
    torch.manual_seed(0)
    made = nn.MultiheadAttention(16, 4, batch_first=True) if converted else None
    layer = convert(made) if converted else MultiheadAttention(16, 4)
    x = torch.randn(2, N, 16)
    given = (x, x, x) if converted else (x,)
    with torch.no_grad():
        expected = layer(*given)
        for name in ("WQ", "WK", "WV", "WO"):
            offloaded(getattr(layer, name))
        torch.testing.assert_close(layer(*given), expected, rtol=0, atol=0)


def test_a_projection_that_casts():
    layer = MultiheadAttention(16, 4)
    x = torch.randn(2, N, 16)
    expected = layer(x)
    for name in ("WQ", "WK", "WV", "WO"):
        getattr(layer, name).register_forward_pre_hook(lambda m, given: (given[0].float(),))
        getattr(layer, name).register_forward_hook(lambda m, _, y: y.double())
    torch.testing.assert_close(layer(x.double()).float(), expected)
    with pytest.raises(KindError, match=r"layer has another dtype(?s:.*)WQ.weight: f32\[16, 16\]"):
        MultiheadAttention(16, 4)(x.double())


# A share of the heads, cut by hand


def halves(layer: MultiheadAttention, *names: str) -> MultiheadAttention:
    """The layer with the first half of the columns of some matrices."""
    for name in names:
        matrix = getattr(layer, name)
        half = nn.Linear(matrix.in_features, matrix.out_features // 2, bias=False)
        half.weight = nn.Parameter(matrix.weight.detach().chunk(2)[0])
        setattr(layer, name, half)
    return layer


def test_half_of_the_columns_are_half_of_the_heads():
    layer = MultiheadAttention(24, 4, n_kv_head=2, d_v=5, bias=False, WO=False)
    x = torch.randn(2, N, 24)
    whole, trace = layer(x), layer.trace(x)
    half = halves(layer, "WQ", "WK", "WV")
    torch.testing.assert_close(half(x), whole[..., :10])
    torch.testing.assert_close(half.trace(x).weights, trace.weights[:, :2])
    torch.testing.assert_close(half.map(x)[:], trace.weights[:, :2])
    torch.testing.assert_close(half.qkv(x)[0], trace.q[:, :2])


SHARES = [
    ({}, ("WQ",), "WQ gives 2 of 4 heads, and WK 4 of 4."),
    ({}, ("WK", "WV"), "WQ gives 4 of 4 heads, and WK 2 of 4."),
    ({"d_k": 5, "n_kv_head": 1}, ("WQ", "WK"), "A projection gives 3 numbers per token: no whole"),
    ({"sinks": True}, ("WQ", "WK", "WV"), "`sinks` is for 4 heads, and there are 2."),
    ({"gate": "head"}, ("WQ", "WK", "WV"), "The gate is for 4 heads, and there are 2."),
    ({"gate": "channel"}, ("WG",), "The gate is for 2 heads, and there are 4."),
    (
        {"norm": QKNorm(over="each head")},
        ("WQ", "WK", "WV"),
        "The norm is over 'each head' of 4 heads, and there are 2.",
    ),
    (
        {"v_norm": Norm(over="projection", weight=False)},
        ("WQ", "WK", "WV"),
        "The norm is over 'projection' of 4 heads, and there are 2.",
    ),
]


@pytest.mark.parametrize(("rest", "names", "says"), SHARES)
@pytest.mark.parametrize("method", ["forward", "trace"])
@torch.no_grad()
def test_what_is_no_share(rest: dict, names: tuple, says: str, method: str):
    layer = halves(MultiheadAttention(24, 4, **{"bias": False, "WO": False} | rest), *names)
    with pytest.raises(ArgumentError, match=f"(?s){says}.*`shard_heads`"):
        getattr(layer, method)(torch.randn(2, N, 24))


@torch.no_grad()
@pytest.mark.parametrize("query_len", [1, 40])
def test_what_is_no_share_of_a_latent_layer(query_len: int):
    """Of one head in a folded matrix a product would have made all."""
    for names, says in ((("WQ",), "WQ gives 2 of 4"), (("WK", "WV"), "and WK 2 of 4")):
        layer = halves(latent().float(), *names)
        with pytest.raises(ArgumentError, match=says):
            layer(torch.randn(2, query_len, 64), torch.randn(2, 40, 64), query_offset=0)
