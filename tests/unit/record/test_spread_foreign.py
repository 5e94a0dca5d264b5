"""Models of plain PyTorch as people run them: wrapped, spread, quantized, compiled, mapped, traced.

Attention is one fused call, or written out. Each way computes the same bits with and without
`watch`, and each map is the softmax that is computed here from q and k.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, distributed, func, nn
from torch._dynamo.utils import counters
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from wqkv.errors import MissedError
from wqkv.maps.attention_map import AttentionMap
from wqkv.record.watch import Seen, watch

BATCH, LENGTH, HEADS, WIDTH, VOCABULARY, LAYERS = 2, 7, 2, 26, 61, 3


class Attention(nn.Module):
    """Causal attention, by one fused call or written out."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        parts = self.qkv(x).unflatten(-1, (3, HEADS, WIDTH // HEADS)).permute(2, 0, 3, 1, 4)
        return parts.unbind(0)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x)
        made = self.attend(q, k, v)
        return self.out(made.transpose(1, 2).flatten(2))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.way == "fused":
            return scaled_dot_product_attention(q, k, v, is_causal=True)
        return weights(q, k) @ v


def weights(q: Tensor, k: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    return scores.masked_fill(later, -torch.inf).softmax(dim=-1)


class Block(nn.Module):
    def __init__(self, way: str) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(WIDTH), Attention(way)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 31), nn.GELU(), nn.Linear(31, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Net(nn.Module):
    """A model of three blocks.

    Args:
        reentrant: the kind of gradient checkpointing; None is without.
    """

    def __init__(self, way: str, reentrant: bool | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.reentrant = reentrant
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList(Block(way) for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, VOCABULARY)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter *= 3 if parameter.ndim > 1 else 1

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for block in self.blocks:
            if self.reentrant is None:
                x = block(x)
            else:
                x = checkpoint(block, x, use_reentrant=self.reentrant)
        return self.head(x)


WAYS = pytest.mark.parametrize("way", ["fused", "written out"])


def tokens(length: int = LENGTH, batch: int = BATCH) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randint(VOCABULARY, (batch, length), generator=draw)


def matrices(model: nn.Module, call: Callable[[], object]) -> list[Tensor]:
    """The weights of each attention that a call runs, in the order in which they run."""
    found, hooks = [], []
    for module in model.modules():
        if isinstance(module, Attention):
            hooks.append(
                module.register_forward_pre_hook(
                    lambda module, args: found.append(weights(*module.project(args[0])[:2]))
                )
            )
    call()
    for hook in hooks:
        hook.remove()
    return [one.detach() for one in found]


def run_twice(model: nn.Module, call: Callable[[], list[Tensor]]) -> Seen[AttentionMap]:
    """What a watch saw of a call that gives the same bits as without.

    The bits are compared with gradients=True too.
    """
    plain, found = call(), []
    for gradients in (True, False):
        with watch(model, gradients=gradients) as seen:
            watched = call()
        assert len(plain) == len(watched)
        assert all(map(torch.equal, plain, watched))
        found.append(seen)
    return found[-1]


def proved(seen: Seen[AttentionMap], names: list[str], theirs: list[Tensor]) -> None:
    """Expect these layers, each proved, and these maps."""
    found = [(layer.name, layer.state, layer.reason) for layer in seen.layers]
    assert found == [(name, "proved", "") for name in names], seen.report()
    for ours, one in zip(seen, theirs, strict=True):
        torch.testing.assert_close(ours[:].to(one.dtype), one, rtol=1e-5, atol=2e-6)


NAMES = [f"blocks.{n}.attn" for n in range(LAYERS)]


def gradients(model: nn.Module) -> list[Tensor]:
    """The output, and all gradients of a loss."""
    model.zero_grad()
    out = model(tokens())
    (out * torch.linspace(-1, 1, VOCABULARY)).sum().backward()
    return [out.detach(), *(one.grad for one in model.parameters() if one.grad is not None)]


# Gradients

AGAIN = "ran again in a backward pass, which counts as the same run"


@WAYS
@pytest.mark.parametrize("reentrant", [None, True, False])
def test_gradient_checkpointing(way, reentrant):
    model = Net(way, reentrant).train()
    theirs = matrices(model, lambda: model(tokens()))
    seen = run_twice(model, lambda: gradients(model))
    proved(seen, NAMES, theirs[:LAYERS])
    assert [len(seen.runs(n)) for n in range(LAYERS)] == [1] * LAYERS
    assert seen.report().count(AGAIN) == (0 if reentrant is None else LAYERS), seen.report()


def test_the_last_run_did_not_run_again():
    model = Net("fused", reentrant=False)
    with watch(model) as seen:
        gradients(model)
        assert AGAIN in seen.report()
        with torch.no_grad():
            model(tokens(5))
    assert AGAIN not in seen.report()
    assert seen.report().count("the last of 2 runs") == LAYERS


class OwnBackward(torch.autograd.Function):
    """Written-out attention with a backward pass of its own, which computes the weights again."""

    @staticmethod
    def forward(ctx, q, k, v):
        ctx.save_for_backward(q, k, v)
        return weights(q, k) @ v

    @staticmethod
    def backward(ctx, gradient):
        q, k, v = ctx.saved_tensors
        P = weights(q, k)
        of_P = gradient @ v.mT
        of_scores = P * (of_P - (of_P * P).sum(dim=-1, keepdim=True)) / math.sqrt(q.shape[-1])
        return of_scores @ k, of_scores.mT @ q, P.mT @ gradient


def test_an_attention_with_its_own_backward_pass():
    model = Net("written out")
    for block in model.blocks:
        block.attn.attend = OwnBackward.apply
    theirs = matrices(model, lambda: model(tokens()))
    proved(run_twice(model, lambda: gradients(model)), NAMES, theirs[:LAYERS])
    with torch.no_grad():
        proved(run_twice(model, lambda: [model(tokens())]), NAMES, theirs[:LAYERS])


class Scaled(Attention):
    """A scale and a bias for each place that are learned."""

    def __init__(self) -> None:
        super().__init__("written out")
        draw = torch.Generator().manual_seed(3)
        self.scale = nn.Parameter(1 + torch.rand(HEADS, 1, 1, generator=draw))
        self.bias = nn.Parameter(torch.randn(HEADS, LENGTH, LENGTH, generator=draw))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.mT * self.scale + self.bias).softmax(dim=-1) @ v


def test_a_step_of_an_optimizer_changes_no_map():
    model = nn.Sequential(nn.Embedding(VOCABULARY, WIDTH), Scaled())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model) as seen:
        out = model(tokens())
        x = model[0](tokens())
        q, k, _ = model[1].project(x)
        theirs = (q @ k.mT * model[1].scale + model[1].bias).softmax(dim=-1).detach()
        out.square().sum().backward()
        optimizer.step()
    assert [layer.state for layer in seen.layers] == ["proved"], seen.report()
    torch.testing.assert_close(seen[0][:], theirs, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("offloaded", [False, True])
def test_a_learned_term_is_not_made_in_the_call(gradients, offloaded):
    """As large as the scores of one sample, and copied or loaded."""
    model = nn.Sequential(nn.Embedding(VOCABULARY, WIDTH), Scaled())
    if offloaded:
        by_offload(model, "")
    with torch.set_grad_enabled(gradients):
        seen = run_twice(model, lambda: [model(tokens(batch=1)).detach()])
    assert [layer.state for layer in seen.layers] == ["proved"]
    assert "a term as large as the scores" not in seen.report(), seen.report()


class InPlace(Attention):
    """It keeps q, which somebody may write into later."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.q = q
        return super().attend(q, k, v)


@WAYS
@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("gradients", [False, True])
def test_q_that_is_written_into_after_the_forward(way, asked, gradients):
    model = nn.Sequential(nn.Embedding(VOCABULARY, WIDTH), InPlace(way))
    (theirs,) = matrices(model, lambda: model(tokens()))
    with watch(model) as seen:
        with torch.set_grad_enabled(gradients):
            model(tokens())
        if asked:
            assert seen.layers[0].state == "proved"
        with torch.no_grad():
            model[1].q.mul_(2)
    if way == "fused" and not asked:  # the other has multiplied a copy of q
        with pytest.raises(MissedError, match="a mask was changed in place after the forward"):
            seen[0]
    else:
        torch.testing.assert_close(seen[0][:], theirs, rtol=1e-5, atol=2e-6)


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


# Modes of the caller


@WAYS
def test_a_mode_of_the_caller_is_told_of_the_model_alone(way):
    model = Net(way)

    def work() -> list[Tensor]:
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            found = [model(tokens()), model(tokens())]  # the second reads what the first left
        return [*found, torch.tensor(counter.get_total_flops())]

    assert {layer.state for layer in run_twice(model, work).layers} == {"proved"}


@WAYS
def test_selective_checkpointing(way):
    """It finds what it has kept by counting operators."""
    model = Net(way)
    kept = [torch.ops.aten.bmm.default, torch.ops.aten.addmm.default]
    contexts = functools.partial(create_selective_checkpoint_contexts, kept)

    def work() -> list[Tensor]:
        model.zero_grad()
        x = model.embedding(tokens())
        for block in model.blocks:  # each is a forward of its own
            x = checkpoint(block, x, use_reentrant=False, context_fn=contexts)
        x.square().sum().backward()
        return [one.grad for one in model.parameters() if one.grad is not None]

    seen = run_twice(model, work)
    assert [(layer.name, layer.state) for layer in seen.layers] == [(n, "proved") for n in NAMES]


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
# torch says since 2.10 that it will drop its own, and has it in 2.13
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


# Several runs


@WAYS
def test_a_block_that_runs_several_times(way):
    model = Net(way)
    model.blocks[1] = model.blocks[0]
    theirs = matrices(model, lambda: model(tokens()))
    names = ["blocks.0.attn", "blocks.0.attn (run 2)", "blocks.2.attn"]
    with torch.no_grad():
        proved(run_twice(model, lambda: [model(tokens())]), names, theirs)


class Head(nn.Module):
    """One head, without an axis for it."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, 13) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return weights(self.q(x), self.k(x)) @ self.v(x)


class Heads(nn.Module):
    """Heads that are modules of their own, one after the other, as lessons begin."""

    def __init__(self, n_head: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.n_head = n_head
        self.heads = nn.ModuleList(Head() for _ in range(n_head))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([head(x) for head in self.heads], dim=-1)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_heads_that_are_modules(batch):
    model = Heads(2)
    x = torch.randn(batch, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1))
    seen = run_twice(model, lambda: [model(x).detach()])
    for ours, head in zip(seen, model.heads, strict=True):
        theirs = weights(head.q(x), head.k(x)).detach()[:, None]
        torch.testing.assert_close(ours[:], theirs, rtol=1e-5, atol=2e-6)


class Halving(nn.Module):
    """A model that calls itself."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attn = Attention("written out")

    def forward(self, x: Tensor, times: int = 3) -> Tensor:
        return self.attn(x) + (self(x / 2, times - 1) if times > 1 else 0)


def test_a_model_that_calls_itself():
    model, x = Halving(), torch.randn(BATCH, LENGTH, WIDTH)
    theirs = matrices(model, lambda: model(x))
    seen = run_twice(model, lambda: [model(x).detach()])
    proved(seen, ["attn", "attn (run 2)", "attn (run 3)"], theirs)


def test_a_forward_that_is_interrupted():
    """No hook is told of KeyboardInterrupt, and a notebook goes on after it."""
    model = Net("written out").eval()

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    with torch.no_grad(), watch(model) as seen:
        handle = model.blocks[1].attn.out.register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            model(tokens())
        handle.remove()
        out = model(tokens())
    with torch.no_grad():
        proved(seen, NAMES, matrices(model, lambda: model(tokens())))
        assert torch.equal(out, model(tokens()))


@WAYS
def test_a_model_that_is_moved_between_forwards(way):
    model, ids = Net(way).eval(), tokens()
    with torch.no_grad(), watch(model) as seen:
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            model.to(dtype)(ids)
    assert [repr(run).split()[6][:4] for run in seen.runs(1)] == ["f32[", "f64[", "bf16"]
    assert {layer.state for layer in seen.layers} == {"proved"}, seen.report()
    with torch.no_grad(), watch(model) as seen:
        model.to("meta")(ids.to("meta"))
    assert [layer.name for layer in seen.layers] == NAMES
    assert {layer.state for layer in seen.layers} == {"missed"}
    assert "its tensors are on the device meta, which holds no numbers" in seen.layers[0].reason


@WAYS
def test_threads_that_share_a_model(way):
    model = Net(way).eval()

    def forward(length: int) -> Tensor:
        with torch.no_grad():
            return model(tokens(length))

    def work() -> list[Tensor]:
        with ThreadPoolExecutor(3) as pool:
            return list(pool.map(forward, (3, 5, 7, 4, 6)))

    seen = run_twice(model, work)
    runs = [run for one in seen.threads for n in range(LAYERS) for run in one.runs(n)]
    assert sorted(run.shape[2] for run in runs) == sorted([3, 4, 5, 6, 7] * LAYERS)
    for length in (3, 4, 5, 6, 7):
        theirs = matrices(model, lambda n=length: model(tokens(n)))
        ours = [run for run in runs if run.shape[2] == length]
        for run, one in zip(ours, theirs, strict=True):
            torch.testing.assert_close(run[:], one, rtol=1e-5, atol=2e-6)


class Halves(nn.Module):
    """A model that runs each half in a thread of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = Net("fused"), Net("written out")

    def forward(self, ids: Tensor) -> Tensor:
        with ThreadPoolExecutor(2) as pool:
            left, right = pool.map(lambda half: half(ids), (self.left, self.right))
        return left + right


def test_a_model_that_starts_threads():
    model = Halves()
    seen = run_twice(model, lambda: [model(tokens()).detach()])
    found = [layer for one in seen.threads for layer in one.layers]
    names = [f"{half}.{name}" for half in ("left", "right") for name in NAMES]
    assert sorted(layer.name for layer in found) == names
    assert {layer.state for layer in found} == {"proved"}
    assert "other threads ran it too: see `threads`" in seen.report()


@pytest.mark.process
def test_workers_that_load_data():
    """Their processes begin as copies of this one, while it watches."""
    model = Net("written out").eval()
    texts = tokens(LENGTH, 6)
    with torch.no_grad(), watch(model) as seen:
        for batch in DataLoader(texts, batch_size=2, num_workers=2):
            model(batch)
    assert [len(seen.runs(n)) for n in range(LAYERS)] == [3] * LAYERS
    theirs = matrices(model, lambda: model(texts[4:]))
    proved(seen, NAMES, theirs)


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
