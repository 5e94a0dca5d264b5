"""Dynamic grows and has gradients, Static compiles, Cross is computed once."""

import pytest
import torch
from torch import nn

from tests.unit.layer.caches.test_base import D_K, KV_HEADS, B, N, in_steps, look, qkv, same
from wqkv import Causal, Cross, Dynamic, MultiheadAttention, RoPE, Static, Window, attention
from wqkv.errors import ArgumentError

# Dynamic


@torch.no_grad()
def test_dynamic_doubles():
    cache, homes = Dynamic(), []
    for k, v in zip(*(x.split(1, dim=2) for x in qkv(64)[1:]), strict=True):
        (piece,) = cache.append(k, v)
        homes.append((piece.k.untyped_storage().data_ptr(), piece.k.untyped_storage().nbytes()))
    moves = [i for i in range(1, 64) if homes[i] != homes[i - 1]]
    assert moves == [1, 2, 4, 8, 16, 32]
    assert homes[-1][1] == 64 * B * KV_HEADS * D_K * 8


@torch.no_grad()
def test_dynamic_returns_views():
    cache = Dynamic()
    _, k, v = qkv(9)
    cache.append(k[:, :, :5], v[:, :, :5])
    (first,) = cache.append(k[:, :, 5:6], v[:, :, 5:6])
    (second,) = cache.append(k[:, :, 6:7], v[:, :, 6:7])
    assert first.k.data_ptr() == second.k.data_ptr() and first.v.data_ptr() == second.v.data_ptr()
    assert torch.equal(first.k, k[:, :, :6]) and torch.equal(second.v, v[:, :, :7])


@torch.no_grad()
def test_dynamic_under_a_window_keeps_all():
    q, k, v = qkv()
    cache = Dynamic()
    stepped = in_steps(cache, q, k, v, (5, 1, 17), lambda end: Window(3, 0))
    torch.testing.assert_close(stepped, attention(q, k, v, mask=Window(3, 0)))
    assert cache.held()[0].k.shape[2] == N


CUTS = [(23,), (7, 1, 11, 4), (1, 2, 20)]


@pytest.mark.parametrize("cuts", CUTS)
def test_gradients_through_dynamic(cuts):
    tensors = [x.requires_grad_() for x in qkv()]
    up = qkv(seed=9)[0][..., :1]
    found = [
        torch.autograd.grad((out * up).sum(), tensors)
        for out in (
            in_steps(Dynamic(), *tensors, cuts, lambda end: Causal()),
            attention(*tensors, mask=Causal()),
        )
    ]
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


def test_gradients_of_queries_alone():
    """The keys need none, but what is kept for the queries' sake must stay as it was."""
    q, k, v = qkv()
    q.requires_grad_()
    up = qkv(seed=9)[0][..., :1]
    cache, outs, first = Dynamic(), [], 0
    for some in zip(*(x.split((7, 1, 11, 4), dim=2) for x in (q, k, v)), strict=True):
        (piece,) = cache.append(*some[1:])
        outs.append(attention(some[0], *piece[:2], mask=Causal(), query_offset=first))
        first = cache.length
    (ours,) = torch.autograd.grad((torch.cat(outs, dim=2) * up).sum(), q)
    (theirs,) = torch.autograd.grad((attention(q, k, v, mask=Causal()) * up).sum(), q)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("back", [7, 3])
def test_steps_without_gradients_after_steps_with_them(back):
    """Writing where an earlier graph still looks would be a wrong derivative, or an error."""
    q, k, v = (x.requires_grad_() for x in qkv())
    cache = Dynamic()
    out = look(q[:, :, :7], cache.append(k[:, :, :7], v[:, :, :7]), lambda end: Causal(), 0)
    cache.rewind(back)
    with torch.no_grad():
        for _ in range(2):
            cache.append(k[:, :, 9:11], v[:, :, 9:11])
    (ours,) = torch.autograd.grad(out.sum(), k)
    whole = attention(*(x[:, :, :7] for x in (q, k, v)), mask=Causal())
    (theirs,) = torch.autograd.grad(whole.sum(), k)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
    assert not cache.held()[0].k.requires_grad


def test_gradients_through_samples_of_dynamic():
    _, k, v = (x.requires_grad_() for x in qkv())
    cache = Dynamic()
    cache.append(k, v)
    cache.reorder([1, 1, 0])
    cache = Dynamic.merge(cache.split())
    (held,) = cache.held()
    (gradient,) = torch.autograd.grad(held.k.sum(), k)
    assert torch.equal(gradient, torch.tensor([1.0, 2.0]).view(2, 1, 1, 1).expand_as(k).double())


# Static


def test_static_is_full():
    cache = Static(11)
    _, k, v = qkv(9)
    cache.append(k, v)
    with pytest.raises(
        ArgumentError, match=r"room for 11 positions: 9 are taken and 3 came.\nMake a larger"
    ):
        cache.append(k[:, :, :3], v[:, :, :3])
    cache.append(k[:, :, :2], v[:, :, :2])
    assert cache.length == 11
    with pytest.raises(ArgumentError, match="room for 11 positions: 11 are taken and 1 came"):
        cache.append(k[:, :, :1], v[:, :, :1])
    with pytest.raises(ArgumentError, match="room for 3 positions: 0 are taken and 9 came"):
        Static(3).append(k, v)


def test_static_stays_where_it_is():
    cache = Static(N)
    places = set()
    for k, v in zip(*(x.split(1, dim=2) for x in qkv()[1:]), strict=True):
        (piece,) = cache.append(k, v)
        places.add((piece.k.data_ptr(), piece.v.data_ptr()))
    cache.rewind(0)
    (piece,) = cache.append(k, v)
    assert places == {(piece.k.data_ptr(), piece.v.data_ptr())}


@pytest.mark.compile
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_static_compiles_twice_and_no_more(backend):
    """Up to the last position that it has room for."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    layer = MultiheadAttention(24, 6, n_kv_head=3, mask=Causal(), position=RoPE()).eval()
    x = torch.randn(B, N, 24)
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    with torch.no_grad():
        cache = Static(N)
        outs = [compiled(x[:, :7], cache=cache)]
        outs.append(compiled(x[:, 7:8], cache=cache))
        with torch.compiler.set_stance("fail_on_recompile"):
            outs += [compiled(x[:, i : i + 1], cache=cache) for i in range(8, N)]
        torch.testing.assert_close(torch.cat(outs, dim=1), layer(x), rtol=1e-5, atol=1e-5)
    with pytest.raises(ArgumentError, match=r"room for 23 .* 23 are taken and 1 came"):
        cache.append(*(y[:, :, -1:] for y in cache.held()[0][:2]))


@pytest.mark.compile
def test_the_graph_of_a_step_holds_the_kernel_itself():
    """One token sees all that Static returns, so nothing is left to plan when the graph runs."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    layer = MultiheadAttention(24, 6, n_kv_head=3, mask=Causal(), position=RoPE()).eval()
    x, graphs = torch.randn(B, N, 24), []

    def keep(graph, _):
        graphs.append(str(graph.code))
        return graph.forward

    compiled = torch.compile(layer, fullgraph=True, backend=keep)
    with torch.no_grad():
        cache = Static(N)
        for part in (x[:, :7], x[:, 7:8], x[:, 8:9]):
            compiled(part, cache=cache)
    assert ["wqkv.attend" in code for code in graphs] == [True, False]
    assert ["flash_attention_for_cpu" in code for code in graphs] == [False, True]


# Cross


def test_cross_is_computed_once():
    cache = Cross()
    _, k, v = qkv()
    (piece,) = cache.append(k, v)
    assert (piece.k.data_ptr(), piece.v.data_ptr()) == (k.data_ptr(), v.data_ptr())
    assert cache.filled and cache.length == N
    (again,) = cache.held()
    assert torch.equal(again.k, k) and torch.equal(again.v, v)
    with pytest.raises(
        ArgumentError, match=r"(?s)filled with 23 keys, and 2 more came.*held: f64\[2, 3, 23, 5\]"
    ):
        cache.append(k[:, :, :2], v[:, :, :2])
    with pytest.raises(ArgumentError, match=r"holds its 23 keys whole, and cannot go back to 9"):
        cache.rewind(9)
    cache.rewind(23)
    assert cache.filled
    cache.rewind(0)
    assert not cache.filled and cache.held() == ()
    cache.append(k[:1, :, :2], v[:1, :, :2])  # another text, of other sizes
    assert cache.length == 2


def test_cross_asks_the_layer_for_no_more_keys():
    torch.manual_seed(0)
    layer = MultiheadAttention(24, 6, n_kv_head=3, kdim=17, vdim=17).double()
    tokens, other = torch.randn(B, 5, 24).double(), torch.randn(B, 11, 17).double()
    calls = []
    for name in ("WQ", "WK", "WV", "WO"):
        getattr(layer, name).register_forward_hook(lambda *_, name=name: calls.append(name))
    whole = layer(tokens, other)
    calls.clear()
    cache = Cross()
    steps = [layer(tokens[:, :2], other, cache=cache)]
    assert sorted(calls) == ["WK", "WO", "WQ", "WV"]
    calls.clear()
    steps += [layer(token, other, cache=cache) for token in tokens[:, 2:].split(1, dim=1)]
    assert sorted(calls) == ["WO"] * 3 + ["WQ"] * 3
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, rtol=1e-12, atol=1e-13)


def test_gradients_through_cross():
    tensors = [x.requires_grad_() for x in qkv()]
    cache = Cross()
    pieces = cache.append(*tensors[1:])
    outs = [attention(q, *piece[:2]) for q in tensors[0].split(9, dim=2) for piece in pieces]
    ours = torch.autograd.grad(torch.cat(outs, dim=2).square().sum(), tensors)
    theirs = torch.autograd.grad(attention(*tensors).square().sum(), tensors)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


def test_samples_and_files_of_cross(tmp_path):
    cache = Cross()
    _, k, v = qkv()
    cache.append(k, v)
    cache.save(tmp_path / "cross")
    same(Cross.load(tmp_path / "cross"), cache)
    same(Cross.merge(cache.split()), cache)
    cache.reorder([1, 1, 0])
    assert torch.equal(cache.held()[0].k, k[[1, 1, 0]])


class Tokens(nn.Module):
    """A layer that learns through the keys of its first half."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = MultiheadAttention(24, 6, n_kv_head=3, mask=Causal(), position=RoPE())

    def forward(self, x, cuts):
        cache = Dynamic()
        return torch.cat([self.layer(part, cache=cache) for part in x.split(cuts, dim=1)], dim=1)


def test_a_layer_learns_through_dynamic():
    torch.manual_seed(0)
    model, x = Tokens().double(), torch.randn(B, N, 24).double()
    found = []
    for cuts in ((N,), (7, 1, 11, 4)):
        model.zero_grad()
        model(x, cuts).square().sum().backward()
        found.append([parameter.grad for parameter in model.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
