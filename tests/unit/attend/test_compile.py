"""torch.compile and torch.export: one graph without a break, any length, the same numbers."""

import shutil
import subprocess
import sys

import pytest
import torch

from wqkv import (
    ALiBi,
    Causal,
    Chunked,
    Dense,
    Lengths,
    MultiheadAttention,
    Prefix,
    RoPE,
    Segments,
    T5Bias,
    Window,
    attention,
)
from wqkv.attend.masks.algebra import Mask
from wqkv.errors import KindError

LENGTHS = (300, 131, 17, 521)


def rules(name: str, n: int):
    """The keywords of a call over n words, and the tensors in them that learn."""
    table, slopes = torch.randn(32, 4, requires_grad=True), torch.rand(4, requires_grad=True)
    bias, sinks = torch.randn(1, 4, n, n, requires_grad=True), torch.randn(4, requires_grad=True)
    runs = torch.arange(n).div(max(n // 3, 1), rounding_mode="floor").expand(2, n)
    ends = torch.tensor([n // 2, n])
    table_of = {
        "plain": ({}, ()),
        "causal": ({"mask": Causal()}, ()),
        "window and padding": ({"mask": Window(29, 3) & Lengths(ends)}, ()),
        "documents": ({"mask": Segments(runs) & Causal() | Window(0, 0)}, ()),
        "chunks": ({"mask": Chunked(37) & Causal()}, ()),
        "prefix": ({"mask": Prefix(n // 3) & ~Lengths(torch.tensor([1, 2]))}, ()),
        "an offset a sample": ({"mask": Causal(), "query_offset": torch.tensor([3, -2])}, ()),
        "dense": ({"mask": Dense(torch.rand(n, n) > 0.2)}, ()),
        "stored bias": ({"bias": bias}, (bias,)),
        "alibi": ({"bias": ALiBi(slopes), "mask": Causal()}, (slopes,)),
        "t5 and softcap": (
            {"bias": T5Bias(table, bidirectional=True), "softcap": 3.0},
            (table,),
        ),
        "sinks": ({"sinks": sinks, "mask": Causal()}, (sinks,)),
    }
    return table_of[name]


NAMES = (
    "plain", "causal", "window and padding", "documents", "chunks", "prefix",
    "an offset a sample", "dense", "stored bias", "alibi",
    "t5 and softcap", "sinks",
)  # fmt: skip


def both(function, inputs, learned):
    """Output, lse and gradients."""
    part = function(*inputs)
    lse = part.lse.masked_fill(part.lse == -torch.inf, 0)
    loss = part.out.square().sum() + lse.square().sum()
    return (part.out, lse, *torch.autograd.grad(loss, (*inputs, *learned)))


@pytest.mark.compile
@pytest.mark.parametrize("name", NAMES)
def test_one_graph_for_all_lengths(name):
    torch._dynamo.reset()

    def call(q, k, v, keywords):
        return attention(q, k, v, return_lse=True, **keywords)

    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in LENGTHS:
        inputs = [torch.randn(2, heads, n, 8, requires_grad=True) for heads in (4, 2, 2)]
        keywords, learned = rules(name, n)
        eager = both(lambda *x, kw=keywords: call(*x, kw), inputs, learned)
        graph = both(lambda *x, kw=keywords: compiled(*x, kw), inputs, learned)
        for a, b in zip(eager, graph, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.compile
def test_lengths_stay_dynamic():
    torch._dynamo.reset()
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    def call(q):
        return attention(q, q, q, mask=Causal())

    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend=count)
    for n in LENGTHS:
        q = torch.randn(1, 2, n, 8)
        torch.testing.assert_close(compiled(q), call(q))
    assert len(graphs) == 1


@pytest.mark.compile
def test_dropout_repeats_itself_in_the_backward_pass():
    torch._dynamo.reset()
    q, k, v = (torch.randn(1, 2, 300, 8, requires_grad=True) for _ in range(3))

    def call(q, k, v):
        return attention(q, k, v, mask=Causal(), dropout_p=0.4)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    results = []
    for function in (call, compiled):
        torch.manual_seed(3)
        out = function(q, k, v)
        results.append((out, *torch.autograd.grad(out.square().sum(), (q, k, v))))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.compile
@pytest.mark.parametrize("strict", [True, False])
def test_export_of_the_layer_takes_any_length(strict):
    layer = MultiheadAttention(24, 3, mask=Causal(), position=RoPE())
    shapes = ({1: torch.export.Dim("n", min=2, max=4096)},)
    program = torch.export.export(
        layer, (torch.randn(2, 29, 24),), dynamic_shapes=shapes, strict=strict
    )
    for n in LENGTHS:
        x = torch.randn(2, n, 24)
        torch.testing.assert_close(program.module()(x), layer(x))


@pytest.mark.compile
def test_inductor_compiles_the_layer():
    torch._dynamo.reset()
    layer = MultiheadAttention(24, 3, mask=Causal(), position=RoPE())
    compiled = torch.compile(layer, fullgraph=True)
    x = torch.randn(2, 29, 24)
    torch.testing.assert_close(compiled(x), layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.compile
@pytest.mark.parametrize(
    "rules",
    [{"dropout": 0.3}, {"persistent": 3, "sinks": True}, {"persistent": 2, "position": ALiBi(3)}],
    ids=["dropout", "persistent and sinks", "persistent and a bias"],
)
def test_the_layers_own_rules_compile(rules):
    """A layer makes its rules inside the graph."""
    torch._dynamo.reset()
    layer = MultiheadAttention(24, 3, mask=Causal(), **rules)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x, found = torch.randn(2, 29, 24), []
    for run in (layer, compiled):
        torch.manual_seed(3)
        found.append(run(x))
    torch.testing.assert_close(*found)


@pytest.mark.compile
def test_a_mask_of_ones_own_is_refused_by_name():
    class Even(Mask):
        def visible(self, at):
            return (at.key_pos - at.query_pos) % 2 == 0

    q = torch.randn(1, 1, 5, 4)
    torch.testing.assert_close(  # which runs everywhere else
        attention(q, q, q, mask=Even()), attention(q, q, q, mask=Even(), engine="reference")
    )
    with pytest.raises(Exception, match=r"Even cannot be compiled") as caught:
        torch.compile(lambda q: attention(q, q, q, mask=Even()), backend="eager", fullgraph=True)(q)
    assert isinstance(caught.value, KindError) or "KindError" in str(caught.value)


SAVED = """
import sys, torch
import wqkv
program = torch.export.load(sys.argv[1]).module()
print(float((program(torch.ones(1, 5, 16)) - torch.load(sys.argv[2])).abs().max()))
"""


@pytest.mark.process
@pytest.mark.compile
def test_a_saved_export_loads_where_wqkv_is_imported(tmp_path):
    """The names of the package are imported when asked for, but its operators are there."""
    layer = MultiheadAttention(16, 2, mask=Causal()).eval()
    x = torch.ones(1, 5, 16)
    program = torch.export.export(layer, (x,))
    assert any("wqkv.attend" in str(node.target) for node in program.graph.nodes)
    torch.export.save(program, tmp_path / "program.pt2")
    torch.save(layer(x).detach(), tmp_path / "right.pt")
    run = [sys.executable, "-c", SAVED, tmp_path / "program.pt2", tmp_path / "right.pt"]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-6


@pytest.mark.compile
@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::FutureWarning:copyreg")  # torch's own pytrees
@pytest.mark.filterwarnings("ignore::FutureWarning:torch")
@pytest.mark.parametrize("rules", [{}, {"position": ALiBi(2)}], ids=["no tensors", "slopes"])
def test_aot_inductor(tmp_path, rules):
    """Its operators are never given an empty list of tensors, which it would pass as None."""
    layer = MultiheadAttention(16, 2, mask=Causal(), **rules).eval()
    x = torch.randn(1, 5, 16)
    with torch.no_grad():
        program = torch.export.export(layer, (x,))
        path = str(tmp_path / "program.pt2")
        torch._inductor.aoti_compile_and_package(program, package_path=path)
        torch.testing.assert_close(torch._inductor.aoti_load_package(path)(x), layer(x))


@pytest.mark.compile
@pytest.mark.parametrize("make", [lambda n: Prefix(n - 1), lambda n: Lengths([n - 1])])
def test_a_mask_of_a_traced_length(make):
    def call(x):
        return attention(x, x, x, mask=make(x.shape[2]))

    torch._dynamo.reset()
    made = torch.compile(call, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (17, 300):
        x = torch.randn(1, 2, n, 8)
        torch.testing.assert_close(made(x), call(x))
