"""Models of plain PyTorch that are compiled, mapped, differentiated or traced, under `watch`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, func, nn
from torch._dynamo.utils import counters

from tests.net import (
    BATCH,
    HEADS,
    LAYERS,
    LENGTH,
    NAMES,
    WAYS,
    WIDTH,
    Net,
    matrices,
    proved,
    run_twice,
    tokens,
)
from wqkv.record.watch import watch

# Compiled


def in_place(block):
    block.compile()
    return block


def wrapped(block):
    return torch.compile(block)


def its_forward(block):
    block.forward = torch.compile(block.forward)
    return block


def its_function(block):
    block.attn.attend = torch.compile(block.attn.attend)
    return block


COMPILED = "it runs compiled, out of sight"
HINT = 'uncompiled, under torch.compiler.set_stance("force_eager")'


@WAYS
@pytest.mark.compile
@pytest.mark.parametrize("compiling", [in_place, wrapped, its_forward, its_function])
def test_a_compiled_part(way, compiling):
    model = Net(way).eval()
    theirs = matrices(model, lambda: model(tokens()))
    model.blocks[1] = compiling(model.blocks[1])
    with torch.no_grad():
        plain = model(tokens())  # compiles
        with watch(model) as seen:
            assert torch.equal(model(tokens()), plain)
    states = {layer.name: layer.state for layer in seen.layers}
    assert states == {NAMES[0]: "proved", NAMES[1]: "missed", NAMES[2]: "proved"}, seen.report()
    assert {layer.reason for layer in seen.layers if layer.state == "missed"} == {COMPILED}
    assert HINT in seen.report(), seen.report()
    assert seen.report().startswith("captured 2 of 3 layers of Net"), seen.report()
    torch.testing.assert_close(seen[0][:], theirs[0], rtol=1e-5, atol=2e-6)


@WAYS
@pytest.mark.compile
def test_a_model_that_compiles_while_it_is_watched(way):
    model = Net(way).eval()
    whole = torch.compile(model)
    with torch.no_grad():
        with watch(whole) as seen:
            first = whole(tokens())
        assert torch.equal(whole(tokens()), first)
    assert {layer.reason for layer in seen.layers} == {COMPILED}, seen.report()
    assert [layer.name for layer in seen.layers] == NAMES
    assert HINT in seen.report()
    with torch.no_grad(), torch.compiler.set_stance("force_eager"), watch(whole) as seen:
        whole(tokens())
    assert {layer.state for layer in seen.layers} == {"proved"}


@pytest.mark.compile
def test_a_watch_compiles_nothing():
    """A compiled layer that takes its fast path runs uncompiled, and what it calls is looked at."""
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 31, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    model.layers[1].compile(backend="aot_eager")
    x = torch.randn(BATCH, LENGTH, WIDTH)
    with torch.no_grad():
        plain = model(x)
        graphs = dict(counters["stats"])
        with watch(model):
            assert torch.equal(model(x), plain)
        model(x)
    assert counters["stats"] == graphs


@WAYS
@pytest.mark.compile
def test_a_compiled_model_that_learns(way):
    model = Net(way)
    whole = torch.compile(model, backend="aot_eager")

    def work() -> list[Tensor]:
        model.zero_grad()
        out = whole(tokens())
        out.square().sum().backward()
        return [out.detach(), *(one.grad for one in model.parameters())]

    work()
    graphs = counters["stats"]["unique_graphs"]
    seen = run_twice(whole, work)
    assert counters["stats"]["unique_graphs"] == graphs
    assert {layer.reason for layer in seen.layers} == {COMPILED}, seen.report()


# Mapped, differentiated, traced


def loss_of(model: nn.Module) -> Callable[..., Tensor]:
    return lambda parameters, ids: func.functional_call(model, parameters, (ids,)).square().sum()


def by_vmap(model):
    return [func.vmap(lambda ids: model(ids[None])[0])(tokens())]


def by_grad(model):
    return [*func.grad(loss_of(model))(dict(model.named_parameters()), tokens()).values()]


def by_sample(model):
    each = func.vmap(func.grad(loss_of(model)), (None, 0))
    return [*each(dict(model.named_parameters()), tokens()[:, None]).values()]


def by_jvp(model):
    given = dict(model.named_parameters())
    call = func.jvp(lambda p: func.functional_call(model, p, (tokens(),)), (given,), (given,))
    return list(call)


@WAYS
@pytest.mark.parametrize("transform", [by_vmap, by_grad, by_sample, by_jvp])
# torch maps its attention sample by sample
@pytest.mark.filterwarnings("ignore:There is a performance drop because we have not")
def test_functions_of_torch_func(way, transform):
    if way == "fused" and transform is by_jvp:
        pytest.skip("torch has no forward-mode derivative of its fused attention")
    model = Net(way)
    seen = run_twice(model, lambda: transform(model))
    found = [(layer.name, layer.state) for layer in seen.layers]
    assert found == [(name, "missed") for name in NAMES], seen.report()
    assert "torch.func runs it" in seen.layers[0].reason
    with torch.no_grad(), watch(model) as seen:  # and nothing of it is left
        model(tokens())
    assert {layer.state for layer in seen.layers} == {"proved"}


@WAYS
# as above
@pytest.mark.filterwarnings("ignore:There is a performance drop because we have not")
def test_heads_that_torch_func_maps(way):
    """It moves the mapped axis to the front, where samples are."""
    model = Net(way).eval()
    attend = model.blocks[1].attn.attend
    model.blocks[1].attn.attend = func.vmap(attend, (1, 1, 1), 1)
    with torch.no_grad():
        seen = run_twice(model, lambda: [model(tokens(batch=3))])
    states = {layer.name: layer.state for layer in seen.layers}
    assert states == {NAMES[0]: "proved", NAMES[1]: "missed", NAMES[2]: "proved"}, seen.report()
    assert "torch.func runs it" in seen.layers[1].reason


@WAYS
@pytest.mark.filterwarnings("ignore:.torch.jit.trace")  # they are deprecated
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_trace(way):
    model = Net(way).eval()
    theirs = matrices(model, lambda: model(tokens()))
    with torch.no_grad():
        plain = torch.jit.trace(model, (tokens(),))
        with watch(model) as seen:
            graph = torch.jit.trace(model, (tokens(),), check_trace=False)
    assert str(graph.inlined_graph).count("aten::") == str(plain.inlined_graph).count("aten::")
    assert [layer.state for layer in seen.layers] == ["missed"] * LAYERS, seen.report()
    assert seen.layers[0].reason == "a graph is made of it: run the model itself to see it"
    names = [f"{type(graph).__name__}{more}" for more in ("", " (attention 2)", " (attention 3)")]
    with torch.no_grad():
        proved(run_twice(graph, lambda: [graph(tokens())]), names, theirs)


@WAYS
def test_a_graph_of_torch_fx(way):
    model = Net(way).eval()
    theirs = matrices(model, lambda: model(tokens()))
    with torch.no_grad(), watch(model) as seen:
        graph = torch.fx.symbolic_trace(model)
    assert {layer.reason for layer in seen.layers} == {
        "a graph is made of it: run the model itself to see it"
    }
    names = ["Net", "Net (attention 2)", "Net (attention 3)"]
    with torch.no_grad():
        proved(run_twice(graph, lambda: [graph(tokens())]), names, theirs)


class Scripted(nn.Module):
    """Attention that torch.jit.script can read."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        P = (self.q(x) @ self.k(x).transpose(-2, -1)).softmax(dim=-1)
        return P @ x


# torch.jit is deprecated
@pytest.mark.filterwarnings("ignore:.torch.jit.script")
def test_a_scripted_part():
    model, x = nn.Sequential(Scripted(), torch.jit.script(Scripted())), torch.randn(3, 7, WIDTH)
    with torch.no_grad():
        for _ in range(3):  # torch.jit optimizes what it has seen twice
            model(x)
        seen = run_twice(model, lambda: [model(x)])
    found = [(layer.name, layer.state) for layer in seen.layers]
    assert found == [("0", "proved"), ("1", "proved")], seen.report()
    for ours, (part, given) in zip(seen, [(model[0], x), (model[1], model[0](x))], strict=True):
        theirs = (part.q(given) @ part.k(given).mT).softmax(dim=-1).detach()[:, None]
        torch.testing.assert_close(ours[:], theirs, rtol=1e-5, atol=2e-6)


@WAYS
@pytest.mark.compile
def test_an_exported_program(way):
    model = Net(way).eval()
    theirs = matrices(model, lambda: model(tokens()))
    with watch(model) as seen:
        program = torch.export.export(model, (tokens(),))
    assert "captured 0 of 0" in seen.report()
    graph = program.module()
    names = [f"{type(graph).__name__}{more}" for more in ("", " (attention 2)", " (attention 3)")]
    with torch.no_grad():
        proved(run_twice(graph, lambda: [graph(tokens())]), names, theirs)
