"""LatentAttention: by its formula, and the same attended to compressed or written out."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from wqkv import Causal, Dynamic, Lengths, Paged, Pool, Quantized, Rolling, RoPE, Static, Window
from wqkv.errors import ArgumentError
from wqkv.layer.latent import LatentAttention
from wqkv.layer.norms import QKNorm

B, N, D_MODEL, N_HEAD, D_K, D_V, D_ROPE, RANK, Q_RANK = 2, 11, 23, 3, 10, 7, 4, 5, 6


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def made(**rest) -> LatentAttention:
    sizes = {"rank": RANK, "d_rope": D_ROPE, "d_k": D_K, "d_v": D_V, "mask": Causal()}
    layer = LatentAttention(D_MODEL, N_HEAD, **sizes | rest, dtype=torch.float64)
    for i, parameter in enumerate(layer.parameters()):
        parameter.data += 0.3 * tokens(*parameter.shape, seed=i)
    return layer


def turn(x: Tensor) -> Tensor:
    """RoPE of (..., length, d) from position 0 on, with its frequencies rounded to float32."""
    half = x.shape[-1] // 2
    frequency = (10000 ** (-torch.arange(half).double() / half)).float().double()
    angle = torch.arange(x.shape[-2])[:, None] * frequency
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()), -1)


def by_formula(layer: LatentAttention, x: Tensor) -> Tensor:
    def rms(y: Tensor, weight: Tensor) -> Tensor:
        return y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight

    c = rms(layer.WC(x), layer.c_norm.weight)
    r = turn(layer.WR(x))
    if isinstance(layer.WQ, nn.Sequential):
        q = layer.WQ[2](rms(layer.WQ[0](x), layer.WQ[1].weight))
    else:
        q = layer.WQ(x)
    heads = []
    for h in range(N_HEAD):
        q_h = q[..., h * D_K : (h + 1) * D_K]
        q_h = torch.cat((q_h[..., : D_K - D_ROPE], turn(q_h[..., D_K - D_ROPE :])), -1)
        plain = D_K - D_ROPE
        k_h = torch.cat((c @ layer.WK.weight.T[:, h * plain : (h + 1) * plain], r), -1)
        v_h = c @ layer.WV.weight.T[:, h * D_V : (h + 1) * D_V]
        scores = q_h @ k_h.transpose(1, 2) / math.sqrt(D_K)
        scores = scores.masked_fill(torch.ones(N, N).triu(1).bool(), -math.inf)
        heads.append(torch.softmax(scores, -1) @ v_h)
    return layer.WO(torch.cat(heads, -1))


@pytest.mark.parametrize("q_rank", [None, Q_RANK])
@pytest.mark.parametrize("bias", [False, True])
def test_layer_follows_its_formula_and_every_matrix_learns(q_rank, bias):
    layer = made(q_rank=q_rank, bias=bias)
    x = tokens(B, N, D_MODEL).requires_grad_()
    ours, theirs = layer(x), by_formula(layer, x)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.trace(x).output, ours, rtol=1e-12, atol=1e-13)
    leaves, up = [x, *layer.parameters()], tokens(*ours.shape, seed=1)
    for a, b in zip(
        torch.autograd.grad(ours, leaves, up), torch.autograd.grad(theirs, leaves, up), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)
        assert a.abs().max() > 0


@pytest.mark.parametrize(
    "rest",
    [
        {},
        {"sinks": True},
        {"softcap": 1.5},
        {"gate": "head"},
        {"mask": Window(4, 0)},
        {"bias": True},
    ],
    ids=str,
)
def test_compressed_and_written_out_agree(rest, monkeypatch):
    layer, x = made(**rest), tokens(B, N, D_MODEL)
    results = []
    for few in (True, False):
        monkeypatch.setattr(LatentAttention, "_folding_is_cheaper", lambda self, m, n, few=few: few)
        y = x.clone().requires_grad_()
        out = layer(y)
        leaves = [y, *layer.parameters()]
        results.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


def test_one_query_attends_to_the_compressed_vectors_and_many_to_the_keys():
    layer = LatentAttention(64, 4, rank=16, d_rope=4, d_k=20, d_v=16)
    assert layer._folding_is_cheaper(1, 1000)
    assert not layer._folding_is_cheaper(1000, 1000)
    x = torch.randn(1, 100, 64)
    with torch.no_grad(), called(layer.WK) as asked:
        whole = layer(x)
        assert asked == [100]
        cache = Dynamic()
        layer(x[:, :99], cache=cache)
        assert asked == [100, 99]
        last = layer(x[:, 99:], cache=cache)
    assert asked == [100, 99]  # the matrix itself was used, and no token written out
    torch.testing.assert_close(last, whole[:, 99:], rtol=1e-4, atol=1e-5)


@contextmanager
def called(module: nn.Module) -> Iterator[list[int]]:
    """How many tokens a module is called with, each time, without a hook of its own."""
    asked: list[int] = []
    hook = register_module_forward_hook(
        lambda this, args, _: asked.append(args[0].shape[-2]) if this is module else None
    )
    try:
        yield asked
    finally:
        hook.remove()


def test_cache_keeps_the_compressed_vector_alone():
    layer, cache = made(), Dynamic()
    layer(tokens(B, N, D_MODEL), cache=cache)
    (held,) = cache.held()
    assert held.k.shape == (B, 1, N, RANK + D_ROPE)
    assert held.v.numel() == 0


def test_cuts_give_the_result_of_one_pass():
    layer, x = made(q_rank=Q_RANK), tokens(B, N, D_MODEL)
    with torch.no_grad():
        for cuts in ([1] * N, [5, 1, 5], [N - 1, 1]):
            cache, parts = Dynamic(), x.split(cuts, dim=1)
            steps = torch.cat([layer(part, cache=cache) for part in parts], dim=1)
            torch.testing.assert_close(steps, layer(x), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Static(N),
        lambda: Rolling(N),
        lambda: Paged(Pool(17, 3)),
        lambda: Quantized(8, group=1),
        lambda: Quantized(4, group=1),
    ],
)
def test_every_cache_keeps_the_compressed_vector(make):
    layer, cache, x = made(), make(), tokens(B, N, D_MODEL)
    with torch.no_grad():
        steps = torch.cat([layer(part, cache=cache) for part in x.split([5, 1, 5], dim=1)], dim=1)
        torch.testing.assert_close(steps, layer(x), rtol=1e-12, atol=1e-13)
    assert cache.held()[0].k.shape == (B, 1, N, RANK + D_ROPE)


@pytest.mark.parametrize("bits", [8, 4])
def test_quantized_compressed_vectors_come_back_from_a_file(bits, tmp_path):
    layer, cache, x = made(), Quantized(bits), tokens(B, N, D_MODEL)
    with torch.no_grad():
        layer(x[:, :-1], cache=cache)
        cache.save(tmp_path / "cache")
        again = Quantized.load(tmp_path / "cache")
        torch.testing.assert_close(
            layer(x[:, -1:], cache=again), layer(x[:, -1:], cache=cache), rtol=0, atol=0
        )


def test_padding_and_positions():
    layer, x = made(mask=None), tokens(B, N, D_MODEL)
    alone = layer(x[:1, :4])
    padded = layer(x, mask=Lengths([4, N]))
    torch.testing.assert_close(padded[:1, :4], alone, rtol=1e-12, atol=1e-13)
    later = layer(x, positions=torch.arange(N) + 1000)  # differences alone count
    torch.testing.assert_close(later, layer(x), rtol=0, atol=1e-6)


@pytest.mark.compile
def test_an_exported_layer_takes_any_two_lengths():
    """Which way is cheaper must not be asked of symbolic lengths: it would fix their ratio."""
    layer, dim = made(), torch.export.Dim
    lengths = {"Q": {1: dim("m", min=2, max=64)}, "K": {1: dim("n", min=2, max=64)}}
    given = tokens(B, 7, D_MODEL), tokens(B, 11, D_MODEL)
    exported = torch.export.export(
        layer, given, {"query_offset": 0}, dynamic_shapes={**lengths, "query_offset": None}
    ).module()
    for m, n in ((3, 60), (60, 3)):
        Q, K = tokens(B, m, D_MODEL), tokens(B, n, D_MODEL)
        out = layer(Q, K, query_offset=0)
        torch.testing.assert_close(exported(Q, K, query_offset=0), out)


@pytest.mark.parametrize("few", [True, False])
def test_matrices_are_called_as_modules(few, monkeypatch):
    monkeypatch.setattr(LatentAttention, "_folding_is_cheaper", lambda self, m, n: few)

    class Doubled(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return 2 * self.inner(x)

    layer, x = made(WO=False), tokens(B, N, D_MODEL)
    plain = layer(x)
    layer.WV = Doubled(layer.WV)
    torch.testing.assert_close(layer(x), 2 * plain, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("rest", "text"),
    [
        ({"norm": QKNorm()}, "LatentAttention has no `norm`"),
        ({"n_kv_head": 1}, "LatentAttention has no `n_kv_head`"),
        ({"d_rope": 10}, "`d_rope` is 10 of `d_k` 10.*even number below 10"),
        ({"d_rope": 3}, "`d_rope` is 3 of `d_k` 10"),
        ({"bias": ["WK"]}, r"`bias` is \['WK'\], and WK and WV carry none"),
        ({"rank": 0}, "`rank` is 0.*1 or more"),
        ({"d_v": 0}, "`d_v` is 0.*1 or more"),
    ],
    ids=str,
)
def test_errors(rest, text):
    with pytest.raises(ArgumentError, match=f"(?s){text}"):
        made(**rest)


def test_values_of_their_own_are_refused():
    x = tokens(B, N, D_MODEL)
    with pytest.raises(ArgumentError, match=r"from the same tokens\.\nLeave V out"):
        made()(x, x, x.clone())


def test_position_may_be_scaled():
    x = tokens(B, N, D_MODEL)
    assert not torch.allclose(made()(x), made(position=RoPE(theta=3.0))(x))
