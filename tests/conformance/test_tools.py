"""The layer in the hands of other people's tools: adapters, quantizers, exporters, compilers."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from wqkv import ALiBi, Causal, Lengths, MultiheadAttention, RoPE, Window, convert, explain

B, N, WORDS, D_MODEL, N_HEAD, N_KV_HEAD, D_K = 3, 17, 11, 26, 6, 2, 10
PROJECTIONS = ("WQ", "WK", "WV", "WO")


def layer(n_head: int = N_HEAD, **rest) -> MultiheadAttention:
    """Causal, grouped and rotary."""
    torch.manual_seed(0)
    usual = {"n_kv_head": N_KV_HEAD, "d_k": D_K, "mask": Causal(), "position": RoPE()}
    return MultiheadAttention(D_MODEL, n_head, **(usual | rest))


class Model(nn.Module):
    """The smallest language model: which word comes next?"""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, D_MODEL)
        self.attention = attention
        self.head = nn.Linear(D_MODEL, WORDS)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        return self.head(x + self.attention(x))

    def loss(self, ids: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(self(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def words() -> torch.Tensor:
    return torch.randint(WORDS, (B, N), generator=torch.Generator().manual_seed(1))


def vectors(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=dtype)


def counted(module: nn.Module) -> list[str]:
    """A list in which every projection of the layer writes its name when it is called."""
    calls: list[str] = []
    for name, part in module.named_modules():
        if name.rpartition(".")[2] in PROJECTIONS:
            part.register_forward_hook(lambda *_, name=name: calls.append(name.rpartition(".")[2]))
    return calls


# Adapters


def test_an_adapter_of_peft_learns_on_WQ_and_WV_alone():
    peft = pytest.importorskip("peft")
    model, ids = Model(layer()), words()
    before, plain = copy.deepcopy(model.state_dict()), model(ids)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=5, target_modules=["WQ", "WV"]))
    torch.testing.assert_close(adapted(ids), plain)  # an adapter starts as nothing

    matrices = {
        f"base_model.model.attention.{name}.lora_{half}.default.weight"
        for name in ("WQ", "WV")
        for half in "AB"
    }
    learned = {name: x for name, x in adapted.named_parameters() if x.requires_grad}
    assert learned.keys() == matrices
    loss = adapted.loss(ids)
    loss.backward()
    assert {name for name, x in adapted.named_parameters() if x.grad is not None} == matrices
    assert all(x.grad.any() for name, x in learned.items() if "lora_B" in name)
    torch.optim.SGD(learned.values(), lr=1.0).step()
    assert adapted.loss(ids) < loss

    changed = adapted(ids)
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(merged(ids), changed)
    assert not torch.allclose(changed, plain)
    after = merged.state_dict()
    assert after.keys() == before.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"attention.WQ.weight", "attention.WV.weight"}
    assert all(type(getattr(merged.attention, name)) is nn.Linear for name in PROJECTIONS)


# Hooks


@pytest.mark.parametrize("engine", ["auto", "tiled", "reference"])
@pytest.mark.parametrize("grad", [True, False])
def test_hooks_are_called_once_a_projection(engine: str, grad: bool):
    made = layer(engine=engine)
    calls = counted(made)
    with torch.set_grad_enabled(grad):
        made(vectors(B, N, D_MODEL))
        assert sorted(calls) == sorted(PROJECTIONS)
        made(vectors(B, N, D_MODEL), vectors(B, 13, D_MODEL), query_offset=0)
    assert sorted(calls) == sorted(PROJECTIONS * 2)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_hooks_are_called_once_a_projection_of_a_converted_model(need_weights, training):
    made = convert(nn.MultiheadAttention(D_MODEL, 2, dropout=0.5, batch_first=True))
    calls, x = counted(made.train(training)), vectors(B, N, D_MODEL)
    with torch.no_grad():
        made(x, x, x, need_weights=need_weights)
    assert sorted(calls) == sorted(PROJECTIONS)


def test_a_hook_changes_what_the_layer_computes():
    made, x = layer(), vectors(B, N, D_MODEL)
    handle = made.WV.register_forward_hook(lambda module, given, out: out * 2)
    doubled = made(x)
    handle.remove()
    torch.testing.assert_close(doubled - made.WO.bias, 2 * (made(x) - made.WO.bias))


# Quantisers


@pytest.mark.parametrize("kind", ["int8_weight_only", "int8_dynamic_activation_int8_weight"])
def test_int8_matrices_of_torchao(kind: str):
    """The projections are quantized, called, and off by the rounding of their weights alone."""
    quantization = pytest.importorskip("torchao.quantization")
    model, x = layer().eval(), vectors(B, N, D_MODEL)
    exact = model(x)
    rounded, quantized = copy.deepcopy(model), copy.deepcopy(model)
    quantization.quantize_(quantized, getattr(quantization, kind)())
    calls = counted(quantized)
    with torch.no_grad():
        out = quantized(x)
    assert sorted(calls) == sorted(PROJECTIONS)

    for name in PROJECTIONS:
        weight = getattr(quantized, name).weight
        kept = getattr(weight, "original_weight_tensor", weight)  # inside the dynamic kind
        assert kept.tensor_impl.get_plain()[0].dtype == torch.int8
        plain = getattr(model, name).weight
        step = plain.abs().amax(dim=1, keepdim=True) / 127
        assert ((kept.dequantize() - plain).abs() <= 0.51 * step).all()
        getattr(rounded, name).weight.data = kept.dequantize()
    size = exact.abs().max()
    if kind == "int8_weight_only":
        torch.testing.assert_close(out, rounded(x))
    assert 0 < (out - exact).abs().max() < 0.02 * size


# ONNX

# What torch's exporter copies warns of itself.
ONNX = pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.:FutureWarning")


def exported(module: nn.Module, *given: torch.Tensor, **shapes):
    """The ONNX model of a module, as a function of arrays; nothing but ONNX's own operators."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    program = torch.onnx.export(
        module.eval(), given, dynamo=True, dynamic_shapes=shapes, verbose=False
    )
    assert {node.domain for node in program.model.graph} == {""}
    program.save(file := io.BytesIO())
    session = onnxruntime.InferenceSession(file.getvalue())
    names = [put.name for put in session.get_inputs()]

    def run(*given: torch.Tensor) -> torch.Tensor:
        arrays = {name: x.numpy() for name, x in zip(names, given, strict=True)}
        return torch.from_numpy(np.asarray(session.run(None, arrays)[0]))

    return run


ANY = torch.export.Dim.DYNAMIC


@pytest.mark.compile
@ONNX
@torch.no_grad()
def test_onnx_of_a_causal_grouped_rotary_layer_of_any_length():
    made = layer()
    run = exported(made, vectors(B, N, D_MODEL), Q={0: ANY, 1: ANY})
    for batch, length in ((B, N), (5, 2), (2, 131)):
        x = vectors(batch, length, D_MODEL)
        torch.testing.assert_close(run(x), made(x))


class Padded(nn.Module):
    """Cross-attention with lengths, biased by distance, with a softcap."""

    def __init__(self) -> None:
        super().__init__()
        rules = {"mask": Window(7, 5), "position": ALiBi(N_HEAD), "softcap": 3.0, "sinks": True}
        self.layer = layer(**rules)
        nn.init.normal_(self.layer.sinks)

    def forward(self, Q, K, lengths):
        return self.layer(Q, K, mask=Lengths(lengths), query_offset=0)


@pytest.mark.compile
@ONNX
@torch.no_grad()
def test_onnx_of_padded_cross_attention_with_rows_that_see_nothing():
    made = Padded()
    given = vectors(B, N, D_MODEL), vectors(B, 13, D_MODEL), torch.tensor([0, 5, 13])
    run = exported(made, *given, Q={1: ANY}, K={1: ANY}, lengths={})
    for query_len, key_len in ((N, 13), (2, 19), (31, 5)):
        given = vectors(B, query_len, D_MODEL), vectors(B, key_len, D_MODEL)
        given = *given, torch.tensor([0, key_len - 3, key_len])
        torch.testing.assert_close(run(*given), made(*given))
        assert (run(*given)[0] == made.layer.WO.bias).all()


def test_an_exporter_to_onnx_gets_plain_operators(monkeypatch: pytest.MonkeyPatch):
    q = torch.zeros(1, 2, 5, 3)
    assert "engine: fused" in explain(q, q, q)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    report = explain(q, q, q)
    assert "engine: reference" in report
    assert report.count("ONNX knows no operator of ours") == 2  # fused and tiled


# torch.compile and torch.export


def gradients(module: nn.Module, x: torch.Tensor, *call) -> list[torch.Tensor]:
    """The output and the gradients of all parameters and of x."""
    x = x.clone().requires_grad_()
    out = module(x, *call)
    out = out if isinstance(out, torch.Tensor) else out[0]
    upstream = torch.arange(out.numel()).cos().view_as(out).to(out.dtype)
    parameters = [p for p in module.parameters() if p.requires_grad]
    return [out, *torch.autograd.grad(out, [x, *parameters], upstream)]


@pytest.mark.compile
def test_compiled_whole_with_gradients():
    torch._dynamo.reset()
    made = layer()
    compiled = torch.compile(made, fullgraph=True, dynamic=True, backend="aot_eager")
    for length in (N, 131):
        x = vectors(B, length, D_MODEL)
        for ours, eager in zip(gradients(compiled, x), gradients(made, x), strict=True):
            torch.testing.assert_close(ours, eager)


@pytest.mark.compile
def test_exported_for_any_batch_and_length():
    made = layer()
    shapes = {"Q": {0: torch.export.Dim("batch"), 1: torch.export.Dim("n")}}
    program = torch.export.export(made, (vectors(B, N, D_MODEL),), dynamic_shapes=shapes)
    torch.export.save(program, file := io.BytesIO())
    file.seek(0)
    run = torch.export.load(file).module()
    for batch, length in ((B, N), (5, 2), (2, 131)):
        x = vectors(batch, length, D_MODEL)
        torch.testing.assert_close(run(x), made(x))


# Copies, files, parametrisations


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "state dict", "weights only", "whole file"])
def test_copies_compute_the_same(way: str):
    model, ids = Model(layer()), words()
    if way == "deepcopy":
        other = copy.deepcopy(model)
    elif way == "pickle":
        other = pickle.loads(pickle.dumps(model))
    elif way == "whole file":
        torch.save(model, file := io.BytesIO())
        file.seek(0)
        with pytest.raises(pickle.UnpicklingError, match="Unsupported global"):
            torch.load(file, weights_only=True)  # classes are no weights
        file.seek(0)
        other = torch.load(file, weights_only=False)
    else:
        other, state = Model(layer(bias=False)), model.state_dict()
        with pytest.raises(RuntimeError, match=r"Unexpected key.*attention\.WQ\.bias"):
            other.load_state_dict(state)
        other = Model(layer())
        nn.init.zeros_(other.attention.WQ.weight)
        assert not torch.equal(other(ids), model(ids))
        if way == "weights only":
            torch.save(state, file := io.BytesIO())
            file.seek(0)
            state = torch.load(file, weights_only=True)
        assert other.load_state_dict(state) == ([], [])
    assert torch.equal(other(ids), model(ids))
    with torch.no_grad():
        other.attention.WQ.weight.zero_()
    assert not torch.equal(other(ids), model(ids))


class Symmetric(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.triu() + x.triu(1).T


def test_a_parametrised_WQ():
    square = {"n_head": 2, "d_k": 13, "n_kv_head": 1, "position": RoPE(d=6)}  # WQ is 26 x 26
    made, expected, x = layer(**square), layer(**square), vectors(B, N, D_MODEL)
    parametrize.register_parametrization(made.WQ, "weight", Symmetric())
    expected.WQ.weight.data = Symmetric()(expected.WQ.weight.data)
    torch.testing.assert_close(made(x), expected(x), rtol=0, atol=0)
    made(x).square().sum().backward()
    original = made.WQ.parametrizations.weight.original
    assert original.grad[*torch.triu_indices(D_MODEL, D_MODEL)].all()
    assert not original.grad.tril(-1).any()
    torch.optim.SGD(made.parameters(), lr=0.1).step()
    assert torch.equal(made.WQ.weight, made.WQ.weight.T)
    changed = made(x)
    parametrize.remove_parametrizations(made.WQ, "weight")
    assert type(made.WQ) is nn.Linear
    torch.testing.assert_close(made(x), changed, rtol=0, atol=0)


def test_weight_norm_on_WQ():
    made, x = layer(), vectors(B, N, D_MODEL)
    plain = made(x)
    parametrizations.weight_norm(made.WQ)
    torch.testing.assert_close(made(x), plain)
    made(x).square().sum().backward()
    assert made.WQ.parametrizations.weight.original0.grad.any()
