"""Models of plain PyTorch that are wrapped, spread over devices, or quantized."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils import prune

from tests.net import (
    BATCH,
    LENGTH,
    NAMES,
    VOCABULARY,
    WAYS,
    WIDTH,
    Attention,
    Net,
    Scaled,
    gradients,
    matrices,
    proved,
    run_twice,
    tokens,
)
from wqkv.record.watch import watch

# Wrapped, spread, quantized


def by_offload(model, folder):
    pytest.importorskip("accelerate").cpu_offload(model, execution_device="cpu")
    return model


def by_disk_offload(model, folder):
    pytest.importorskip("accelerate").disk_offload(model, folder, execution_device="cpu")
    return model


def by_adapter(model, folder):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=3, target_modules=["qkv"], init_lora_weights=False)
    return peft.get_peft_model(model, config)


def by_data_parallel(model, folder):
    return nn.DataParallel(model)


def by_processes(model, folder):
    return nn.parallel.DistributedDataParallel(model)


def by_shards(model, folder):
    for part in (*model.blocks, model):
        distributed.fsdp.fully_shard(part)
    return model


def by_flat_shards(model, folder):
    return distributed.fsdp.FullyShardedDataParallel(model, device_id=torch.device("cpu"))


def by_flat_shards_of_blocks(model, folder):
    for number, block in enumerate(model.blocks):
        model.blocks[number] = by_flat_shards(block, folder)
    return by_flat_shards(model, folder)


def by_checkpoint_wrappers(model, folder):
    for number, block in enumerate(model.blocks):
        model.blocks[number] = checkpoint_wrapper(block)
    return model


# Where bitsandbytes is installed peft imports it, and it compiles then.
SPREAD = [
    pytest.param(by_adapter, marks=pytest.mark.compile),
    *(by_offload, by_disk_offload, by_data_parallel, by_processes, by_shards),
    *(by_flat_shards, by_flat_shards_of_blocks, by_checkpoint_wrappers),
]


@pytest.fixture
def alone(tmp_path) -> Iterator[None]:
    """A group of one process."""
    distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@WAYS
@pytest.mark.parametrize("spread", SPREAD)
@pytest.mark.filterwarnings("ignore:FSDP is switching to use `NO_SHARD`")  # it has one process
@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module .* returned a view")  # nobody writes on it
def test_what_stands_around_a_model(way, spread, alone, tmp_path):
    whole = spread(Net(way), str(tmp_path))
    theirs = matrices(whole, lambda: whole(tokens()))
    with torch.no_grad():
        proved(run_twice(whole, lambda: [whole(tokens())]), NAMES, theirs)
    if any(one.requires_grad and not one.is_meta for one in whole.parameters()):
        proved(run_twice(whole, lambda: gradients(whole)), NAMES, theirs)


def test_copies_on_several_devices_are_named():
    model = nn.DataParallel(Net("fused"))
    model.device_ids = [0, 1]  # as on two GPUs: they run copies that DataParallel makes
    with watch(model) as seen:
        pass
    says = "DataParallel runs copies of Net on 2 devices, which are not followed. To see them, call"
    assert says in seen.report()


def by_torch(model):
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def by_torchao(how):
    def quantize(model):
        quantization = pytest.importorskip("torchao.quantization")
        quantization.quantize_(model, getattr(quantization, how)())
        return model

    return quantize


def by_bitsandbytes(name, **options):
    def quantize(model):
        kind = getattr(pytest.importorskip("bitsandbytes.nn"), name)
        for path, old in list(model.named_modules()):
            if isinstance(old, nn.Linear):
                new = kind(old.in_features, old.out_features, **options)
                new.load_state_dict(old.state_dict())
                model.set_submodule(path, new.to("cpu"))
        return model

    return quantize


QUANTIZED = {
    "torch": by_torch,
    "torchao int8": by_torchao("int8_weight_only"),
    "torchao int8 dynamic": by_torchao("int8_dynamic_activation_int8_weight"),
    "bitsandbytes int8": by_bitsandbytes("Linear8bitLt", has_fp16_weights=False),
}


@WAYS
@pytest.mark.compile  # bitsandbytes compiles when it is imported
@pytest.mark.parametrize("name", QUANTIZED)
# torch 2.10 and newer warn that torch.ao.quantization will be removed; 2.13 still has it.
@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated")
@pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions")
def test_quantized(way, name):
    model = QUANTIZED[name](Net(way)).eval()
    theirs = matrices(model, lambda: model(tokens()))
    with torch.no_grad():
        proved(run_twice(model, lambda: [model(tokens())]), NAMES, theirs)


class Routed(nn.Module):
    """An attention, and a softmax over experts, which is none: no weight has a bias."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.attn = nn.Embedding(VOCABULARY, WIDTH), Attention("written out")
        self.attn.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.gate = nn.Linear(WIDTH, 3, bias=False)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        x = x + self.attn(x)
        shares = self.gate(x).softmax(dim=-1)
        return sum(shares[..., n, None] * expert(x) for n, expert in enumerate(self.experts))


def as_it_is(model, folder):
    return model


def in_autocast(model, folder):
    model.forward = torch.autocast("cpu", torch.bfloat16)(model.forward)
    return model


def by_weight_norm(model, folder):
    for part in (model.gate, *model.experts):
        nn.utils.parametrizations.weight_norm(part)
    return model


def by_pruning(model, folder):
    for part in (model.gate, *model.experts):
        prune.l1_unstructured(part, "weight", 0.2)
    return model


def by_int8(model, folder):
    return QUANTIZED["torchao int8"](model)


REMADE = [as_it_is, by_offload, by_disk_offload, by_int8, in_autocast, by_weight_norm, by_pruning]


@pytest.mark.parametrize("remake", REMADE)
def test_a_product_with_a_weight_makes_no_scores(remake, tmp_path):
    """Also where the weight is loaded, cast, dequantized or computed for each call."""
    model = remake(Routed(), str(tmp_path))
    with torch.no_grad():
        seen = run_twice(model, lambda: [model(tokens())])
    assert [(layer.name, layer.state) for layer in seen.layers] == [("attn", "proved")]


class Summed(Routed):
    """The same, with weights of two groups of experts that einsum copies."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.randn(2, WIDTH, 3))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        x = x + self.attn(x)
        shares = torch.einsum("bnd,gde->bgne", x, self.gate).softmax(dim=-1)
        return (shares * torch.einsum("bnd,gde->bgne", x, self.gate)).sum(dim=-1)


def test_a_product_with_a_copied_weight_makes_no_scores():
    model = Summed()
    with torch.no_grad():
        seen = run_twice(model, lambda: [model(tokens())])
    assert [(layer.name, layer.state) for layer in seen.layers] == [("attn", "proved")]


class Pool(nn.Module):
    """A learned query that is made of parameters alone, and looks at the whole text."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.probe, self.place = (nn.Parameter(torch.randn(1, 3, WIDTH)) for _ in range(2))
        self.q, self.k = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(2))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        probe = (self.probe + self.place).expand(len(ids), -1, -1).clone()
        q, k = self.q(probe), self.k(x)
        return (q @ k.mT / math.sqrt(WIDTH)).softmax(dim=-1) @ x


@pytest.mark.parametrize("remake", [as_it_is, by_offload, by_int8, in_autocast])
def test_a_learned_query_is_no_weight(remake, tmp_path):
    model = remake(Pool(), str(tmp_path))
    with torch.no_grad():
        seen = run_twice(model, lambda: [model(tokens())])
    assert [layer.state for layer in seen.layers] == ["proved"], seen.report()
    assert seen[0].shape == (BATCH, 1, 3, LENGTH)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("offloaded", [False, True])
def test_a_learned_term_is_not_made_in_the_call(gradients, offloaded):
    """A parameter of the scores' size is learned, also where torch copied or loaded it."""
    model = nn.Sequential(nn.Embedding(VOCABULARY, WIDTH), Scaled())
    if offloaded:
        by_offload(model, "")
    with torch.set_grad_enabled(gradients):
        seen = run_twice(model, lambda: [model(tokens(batch=1)).detach()])
    assert [layer.state for layer in seen.layers] == ["proved"]
    assert "a term as large as the scores" not in seen.report(), seen.report()


# Tensors of other classes


class Jagged(nn.Module):
    """Attention over texts of several lengths, as one nested tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(16, 16) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part(x).unflatten(-1, (2, 8)).transpose(1, 2) for part in (self.q, self.k, self.v)
        )
        return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)


# torch says that they are a prototype
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
def test_nested_tensors_are_missed_by_name():
    model, texts = Jagged(), [torch.randn(length, 16) for length in (3, 5, 7)]
    x = torch.nested.nested_tensor(texts, layout=torch.jagged)
    seen = run_twice(model, lambda: [one.detach() for one in model(x).unbind()])
    (layer,) = seen.layers
    assert (layer.name, layer.state) == ("Jagged", "missed")
    assert layer.reason == "its softmax is of a nested tensor, which is not followed"


class Distributed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x @ x.mT).softmax(dim=-1) @ x


def test_distributed_tensors_are_missed_by_name(alone):
    mesh = distributed.device_mesh.init_device_mesh("cpu", (1,))
    x = distributed.tensor.distribute_tensor(torch.randn(2, LENGTH, WIDTH), mesh)
    model = Distributed()
    seen = run_twice(model, lambda: [model(x).full_tensor()])
    (layer,) = seen.layers
    assert (layer.name, layer.state) == ("Distributed", "missed")
    assert layer.reason == "its tensors are of class DTensor, which stands for others"
