"""Norms, clip, temperature, softcap, sinks and gates: each alone and together, by the formula."""

import copy
import math

import pytest
import torch
from torch import Tensor

from wqkv import Causal, MultiheadAttention, RoPE
from wqkv.errors import ArgumentError, KindError
from wqkv.layer.norms import KINDS, OVER, Norm, Normalize, QKNorm, Temperature

B, N, D_MODEL, N_HEAD, N_KV, D_K, D_V = 2, 7, 19, 6, 3, 10, 11


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def made(kind: type[MultiheadAttention] = MultiheadAttention, **rest) -> MultiheadAttention:
    """A layer in float64 in which no parameter is left as it starts."""
    rest = {"n_kv_head": N_KV, "d_k": D_K, "d_v": D_V} | rest
    layer = kind(D_MODEL, N_HEAD, dtype=torch.float64, **rest)
    for i, parameter in enumerate(layer.parameters()):
        parameter.data += 0.3 * tokens(*parameter.shape, seed=i)
    return layer


# The formulas, head by head


def norm_of(norm: Norm, x: Tensor, module: Normalize | None) -> Tensor:
    """x (batch, length, heads, d) normalized as the name says, one vector at a time."""
    out = torch.empty_like(x)
    for b in range(x.shape[0]):
        for n in range(x.shape[1]):
            vectors = [x[b, n].flatten()] if norm.over == "projection" else list(x[b, n])
            if norm.kind == "layer":
                vectors = [v - v.mean() for v in vectors]
            lengths = {
                "rms": lambda v: (v.square().mean() + norm.eps).sqrt(),
                "layer": lambda v: (v.square().mean() + norm.eps).sqrt(),
                "l2": lambda v: v.square().sum().sqrt().clamp(min=norm.eps),
            }
            parts = torch.stack([v / lengths[norm.kind](v) for v in vectors])
            out[b, n] = parts.reshape(x.shape[2:])
    if module is not None:
        shape = x.shape[2:] if norm.over == "projection" else (-1, x.shape[3])
        out = out if module.weight is None else out * module.weight.view(shape)
        out = out if module.bias is None else out + module.bias.view(shape)
    return out


def by_formula(layer: MultiheadAttention, x: Tensor) -> Tensor:
    """The whole layer in the order of its docstring, for causal self-attention."""
    n = x.shape[1]

    def split(y: Tensor, heads: int) -> Tensor:
        return y.view(*y.shape[:2], heads, -1)

    q, k, v = split(layer.WQ(x), N_HEAD), split(layer.WK(x), N_KV), split(layer.WV(x), N_KV)
    early = layer.norm is not None and not layer.norm.after_position
    if early:
        q, k = norm_of(layer.norm, q, layer.q_norm), norm_of(layer.norm, k, layer.k_norm)
    if layer.v_norm is not None:
        v = norm_of(layer.v_norm.norm, v, layer.v_norm)
    if layer.clip is not None:
        q, k, v = (y.clamp(-layer.clip, layer.clip) for y in (q, k, v))
    if layer.position is not None:
        for y in (q, k):
            half = D_K // 2
            angle = torch.arange(n)[:, None, None] * 10000 ** (-torch.arange(half).double() / half)
            a, b = y[..., :half].clone(), y[..., half:].clone()
            y[..., :half] = a * angle.cos() - b * angle.sin()
            y[..., half:] = a * angle.sin() + b * angle.cos()
    if layer.norm is not None and not early:
        q, k = norm_of(layer.norm, q, layer.q_norm), norm_of(layer.norm, k, layer.k_norm)
    if layer.temperature is not None:
        t = layer.temperature
        factor = [1 + t.by * math.log(1 + (i + t.shift) // t.every) for i in range(n)]
        q = q * torch.tensor(factor, dtype=torch.float64)[:, None, None]
    context = torch.zeros(B, n, N_HEAD, D_V, dtype=torch.float64)
    for h in range(N_HEAD):
        g = h // (N_HEAD // N_KV)
        scores = q[:, :, h] @ k[:, :, g].transpose(1, 2) / math.sqrt(D_K)
        if layer.softcap is not None:
            scores = layer.softcap * torch.tanh(scores / layer.softcap)
        scores = scores.masked_fill(torch.ones(n, n).triu(1).bool(), -math.inf)
        total = scores.exp().sum(-1, keepdim=True)
        if layer.sinks is not None:
            total = total + layer.sinks[h].exp()
        context[:, :, h] = scores.exp() / total @ v[:, :, g]
    if layer.gate is not None:
        context = context * torch.sigmoid(split(layer.WG(x), N_HEAD))
    return layer.WO(context.flatten(2))


NORMS = [QKNorm(kind, over) for kind in KINDS for over in OVER]
LAYERS = [
    *({"norm": norm} for norm in NORMS),
    {"norm": QKNorm("layer", "each head", bias=True)},
    {"norm": QKNorm("rms", "projection", bias=True, weight=False, after_position=True)},
    {"norm": QKNorm("l2", after_position=True)},
    {"v_norm": Norm("rms", weight=False)},
    {"v_norm": Norm("layer", "projection")},
    {"clip": 0.5},
    {"temperature": Temperature(2, 0.7)},
    {"temperature": Temperature(3, 0.7, shift=1), "position": None},
    {"softcap": 0.7},
    {"sinks": True},
    {"gate": "head"},
    {"gate": "channel"},
    {
        "norm": QKNorm(after_position=True), "v_norm": Norm("l2"), "clip": 0.9, "softcap": 2.0,
        "sinks": True, "gate": "channel", "temperature": Temperature(2, 0.3),
    },
    {"norm": QKNorm("layer"), "v_norm": Norm(), "clip": 0.4, "sinks": True, "gate": "head"},
]  # fmt: skip


@pytest.mark.parametrize("parts", LAYERS, ids=str)
def test_layer_follows_its_formula_and_every_part_learns(parts):
    layer = made(**{"mask": Causal(), "position": RoPE()} | parts)
    x = tokens(B, N, D_MODEL, seed=99).requires_grad_()
    ours, theirs = layer(x), by_formula(layer, x)
    # rotary frequencies are rounded to float32, as in all trained models
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-7 if layer.position else 1e-13)
    torch.testing.assert_close(layer.trace(x).output, ours, rtol=1e-12, atol=1e-13)
    up = tokens(*ours.shape, seed=5)
    leaves = [x, *layer.parameters()]
    for name, a, b in zip(
        ["x", *(name for name, _ in layer.named_parameters())],
        torch.autograd.grad(ours, leaves, up),
        torch.autograd.grad(theirs, leaves, up),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")
        assert a.abs().max() > 0, name


def test_a_part_left_out_changes_the_result():
    """Each case above is another layer: none of its parts is without effect."""
    x, seen = tokens(B, N, D_MODEL, seed=99), set()
    for parts in LAYERS:
        layer = made(**{"mask": Causal(), "position": RoPE()} | parts)
        seen.add(round(float(layer(x).detach().square().sum()), 6))
    assert len(seen) == len(LAYERS)


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_norm_in_half_precision_is_rounded_once(norm):
    exact = Normalize(norm, 5, 8, dtype=torch.float64)
    x = tokens(2, 3, 5, 8).to(torch.bfloat16)
    half = Normalize(norm, 5, 8, dtype=torch.bfloat16)
    error = (half(x).double() - exact(x.double())).abs()
    assert (error <= 3 * 2**-8 * exact(x.double()).abs() + 1e-3).all()


def test_gate_sits_before_WO_and_the_trace_shows_the_context_before_it():
    layer = made(gate="channel")
    x = tokens(B, N, D_MODEL)
    trace = layer.trace(x)
    gate = torch.sigmoid(layer.WG(x))
    torch.testing.assert_close(layer.WO(trace.context * gate), trace.output)


def test_names_of_the_parts_in_the_state():
    layer = made(norm=QKNorm(), v_norm=Norm(bias=True), sinks=True, gate="head", WO=False)
    state = dict(layer.state_dict())
    assert [*state][-1] != "WO.weight" and "WO.weight" not in state
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items() if "W" not in name}
    assert shapes == {
        "sinks": (N_HEAD,),
        "q_norm.weight": (D_K,),
        "k_norm.weight": (D_K,),
        "v_norm.weight": (D_V,),
        "v_norm.bias": (D_V,),
    }
    assert state["WG.weight"].shape == (N_HEAD, D_MODEL)


def test_repr_names_every_part():
    text = repr(made(norm=QKNorm("l2"), clip=3.0, softcap=5.0, gate="head", position=RoPE()))
    for part in ("QKNorm(kind='l2'", "clip=3.0", "softcap=5.0", "gate='head'", "RoPE("):
        assert part in text


def test_temperature_before_the_text_is_that_of_its_beginning():
    factor = Temperature(3, 0.7, shift=1).at(torch.tensor([-9, -2, -1, 1, 2, 5]), torch.float64)
    grown = [1 + 0.7 * math.log(steps) for steps in (1, 1, 1, 1, 2, 3)]
    torch.testing.assert_close(factor, torch.tensor(grown, dtype=torch.float64))


@pytest.mark.parametrize(
    ("make", "kind", "text"),
    [
        (lambda: Norm("batch"), ArgumentError, "`kind` is 'batch'.*'rms', 'layer', 'l2'"),
        (lambda: QKNorm(over="token"), ArgumentError, "`over` is 'token'.*'head', 'each head'"),
        (lambda: Norm(eps=-1e-6), ArgumentError, "`eps` is -1e-06"),
        (lambda: Temperature(2, math.inf), ArgumentError, "`by` is inf"),
        (lambda: Temperature(0, 1.0), ArgumentError, "`every` is 0.*1 or more"),
        (lambda: made(norm=Norm()), KindError, "`norm` is a QKNorm or None, not Norm"),
        (lambda: made(v_norm="rms"), KindError, "`v_norm` is a Norm or None, not 'rms'|str"),
        (lambda: made(temperature=2.0), KindError, "`temperature` is a Temperature"),
        (
            lambda: made(temperature=Temperature(2, 1.0), position=RoPE.grid(8)),
            ArgumentError,
            "one position per token, and `position` has 2 axes.*one of them",
        ),
        (lambda: Normalize("rms", 2, 3), KindError, "`norm` is a Norm, not str 'rms'"),
        (lambda: made(clip="1"), KindError, "`clip` is a number or None, not str '1'"),
        (lambda: made(softcap="1"), KindError, "`softcap` is a number or None, not str '1'"),
        (lambda: made(clip=0.0), ArgumentError, "`clip` is 0.0.*above 0"),
        (lambda: made(softcap=-1.0), ArgumentError, "`softcap` is -1.0.*above 0"),
        (lambda: made(gate="token"), ArgumentError, "`gate` is 'token'.*'head', 'channel'"),
        (lambda: made(bias=["WG"]), ArgumentError, "`bias` is .*names out of WQ, WK, WV, WO"),
    ],
)
def test_errors(make, kind, text):
    with pytest.raises(kind, match=f"(?s){text}"):
        make()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("weight", [False, True])
@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("kind", KINDS)
def test_norms_under_autocast(kind, over, weight, bias, half):
    """Every norm in a layer whose weights are float32; warnings would be errors here."""
    norm = QKNorm(kind, over, weight=weight, bias=bias)
    layer = made(norm=norm, v_norm=Norm(kind, over, weight=weight, bias=bias)).float()
    x = tokens(B, N, D_MODEL).float()
    with torch.autocast("cpu", half):
        ours = layer(x)
    assert ours.dtype == half
    ours.float().sum().backward()
    assert all(part.grad is not None for part in layer.parameters())
    torch.testing.assert_close(ours.float(), layer(x), rtol=0, atol=0.1)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("learned", [torch.float32, None])
@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("kind", KINDS)
def test_norms_in_half_precision_round_once(kind, over, learned, half):
    """With weights in float32 or in half: the dtype of the input, as torch's norms have it."""
    module = Normalize(Norm(kind, over, bias=True), N_HEAD, D_K, dtype=learned or half)
    for i, parameter in enumerate(module.parameters()):
        parameter.data += tokens(*parameter.shape, seed=i).to(parameter.dtype)
    x = tokens(B, N, N_HEAD, D_K).to(half)
    found = module(x)
    exact = copy.deepcopy(module).double()(x.double())
    assert found.dtype == half
    torch.testing.assert_close(found, exact.to(half), rtol=torch.finfo(half).eps, atol=1e-4)
