"""Models as people run them: spread over devices, quantized, adapted, mapped, traced.

Each computes the same bits with and without `watch`, in its backward pass too, and every layer is
proved, or missed with a reason that says what it is.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, distributed, func, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

pytest.importorskip("transformers")

from transformers import AttentionInterface, AutoModelForCausalLM, DynamicCache

from tests import net
from tests.net import Net
from tests.tiny import agree, kept, loss, tiny, tokens, weights
from tests.unit.record import test_graphs as graphs
from tests.unit.record.test_recording import same, saved
from wqkv.errors import MissedError
from wqkv.maps.attention_map import AttentionMap
from wqkv.record.watch import Seen, watch

#: Sizes that quantized kernels can take, all others as in tests.tiny.
EVEN = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
}


def run_twice(
    model: nn.Module, call: Callable[[], list[Tensor]], gradients: bool = False
) -> Seen[AttentionMap]:
    """What a watch saw of a call that gives the same bits as without."""
    plain = call()
    with watch(model, gradients=gradients) as seen:
        watched = call()
    assert len(plain) == len(watched)
    assert all(map(torch.equal, plain, watched))
    return seen


def heard(model: nn.Module, matrices: tuple[Tensor, ...] = ()) -> Seen[AttentionMap]:
    """Run a model twice, and expect all of its layers.

    Args:
        matrices: the weights that the maps must show.
    """
    for gradients in (True, False):  # with gradients, WO and other leaves are followed too
        with torch.no_grad():
            seen = run_twice(model, lambda: [model(tokens()).logits], gradients)
        assert seen.report().startswith("captured 2 of 2 layers of "), seen.report()
        assert seen.sample_of(tokens()[1]) == 1
    for found, theirs in zip(seen, matrices, strict=bool(matrices)):
        agree(found, theirs)
    return seen


def learned(model: nn.Module) -> list[Tensor]:
    """The logits of a model, and the gradients of all its parameters that have one."""
    model.zero_grad()
    logits = model(tokens()).logits
    loss(logits).backward()
    return [logits, *(one.grad for one in model.parameters() if one.grad is not None)]


def heard_while_it_learns(model: nn.Module) -> None:
    seen = run_twice(model, lambda: learned(model), gradients=True)
    assert all("effects known" in line for line in seen.report().splitlines()[1:])


def no_writes(model: nn.Module) -> None:
    """Expect that the parts of a model cannot be used outside of its forward."""
    with torch.no_grad(), watch(model, gradients=True) as seen:
        model(tokens())
    with pytest.raises(MissedError, match="the output matrix cannot be used by itself, as where"):
        seen.writes(1)


# Spread over devices


@pytest.fixture
def folder(tmp_path) -> Iterator[str]:
    """A folder for weights; transformers reads from there while the model is alive."""
    yield str(tmp_path)
    gc.collect()


def by_cpu_offload(model, folder):
    pytest.importorskip("accelerate").cpu_offload(model, execution_device="cpu")


def by_disk_offload(model, folder):
    pytest.importorskip("accelerate").disk_offload(model, folder, execution_device="cpu")


@pytest.mark.parametrize("spread", [by_cpu_offload, by_disk_offload])
def test_weights_that_are_there_while_they_are_used(spread, folder):
    model = tiny("llama")
    matrices = weights(model, tokens())
    spread(model, folder)
    assert all(one.is_meta for one in model.parameters())
    heard(model, matrices)
    heard_while_it_learns(model)
    no_writes(model)


def test_a_device_map(folder):
    pytest.importorskip("accelerate")
    model = tiny("llama")
    matrices = weights(model, tokens())
    model.save_pretrained(folder)
    parts = ("embed_tokens", "layers.0", "norm", "rotary_emb")
    places = {**{f"model.{part}": "cpu" for part in parts}, "model.layers.1": "disk"}
    places["lm_head"] = "cpu"
    model = AutoModelForCausalLM.from_pretrained(
        folder, device_map=places, offload_folder=f"{folder}/weights"
    )
    assert model.model.layers[1].self_attn.q_proj.weight.is_meta
    heard(model, matrices)
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    seen = run_twice(model, lambda: [model.generate(tokens(), **options)])
    assert [found.shape for found in seen] == [(2, 6, 11, 11)] * 2


# Spread over processes


@pytest.fixture
def alone(tmp_path) -> Iterator[None]:
    """A group of one process."""
    distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def in_parallel(model):
    return nn.parallel.DistributedDataParallel(model)


def in_shards(model):
    for layer in (*model.model.layers, model):
        distributed.fsdp.fully_shard(layer)
    return model


def in_flat_shards(model):
    return distributed.fsdp.FullyShardedDataParallel(model, device_id=torch.device("cpu"))


@pytest.mark.parametrize("spread", [in_parallel, in_shards, in_flat_shards])
@pytest.mark.filterwarnings("ignore:FSDP is switching to use `NO_SHARD`")  # it has one process
def test_weights_that_processes_share(alone, spread):
    model = tiny("llama")
    matrices = weights(model, tokens())
    model = spread(model)
    heard(model, matrices)
    heard_while_it_learns(model)


def test_no_writes_of_shards(alone):
    no_writes(in_shards(tiny("llama")))


# Adapted


@pytest.mark.compile  # where bitsandbytes is installed peft imports it, and it compiles then
@pytest.mark.parametrize("merged", [False, True])
# peft 0.18 asks transformers 5 by a name that goes with its version 6
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_an_adapter(merged):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=3, target_modules=["q_proj", "o_proj"], init_lora_weights=False
    )
    model = peft.get_peft_model(tiny("llama"), config)
    if merged:
        model.merge_adapter()
    heard(model, weights(model.get_base_model(), tokens()))
    if not merged:
        heard_while_it_learns(model)


# Quantized


def by_torchao(how: str):
    def quantize(folder: str) -> nn.Module:
        quantization = pytest.importorskip("torchao.quantization")
        model = AutoModelForCausalLM.from_pretrained(folder)
        quantization.quantize_(model.model, getattr(quantization, how)())
        return model

    return quantize


def by_transformers(name: str, package: str, **how):
    def quantize(folder: str) -> nn.Module:
        pytest.importorskip(package)
        config = getattr(pytest.importorskip("transformers"), name)(**how)
        return AutoModelForCausalLM.from_pretrained(
            folder, quantization_config=config, device_map="cpu"
        )

    return quantize


QUANTIZED = {
    "torchao int8": by_torchao("int8_weight_only"),
    "torchao int8 dynamic": by_torchao("int8_dynamic_activation_int8_weight"),
    "torchao int4 dynamic": by_torchao("int8_dynamic_activation_int4_weight"),
    "torchao float8": by_torchao("float8_weight_only"),
    "bitsandbytes int8": by_transformers("BitsAndBytesConfig", "bitsandbytes", load_in_8bit=True),
    "bitsandbytes nf4": by_transformers(
        "BitsAndBytesConfig", "bitsandbytes", load_in_4bit=True, bnb_4bit_quant_type="nf4"
    ),
    "quanto int8": by_transformers("QuantoConfig", "optimum.quanto", weights="int8"),
    "quanto int4": by_transformers("QuantoConfig", "optimum.quanto", weights="int4"),
}


@pytest.mark.compile  # bitsandbytes compiles when it is imported,
@pytest.mark.process  # and quanto asks for a compiler
@pytest.mark.parametrize("name", QUANTIZED)
def test_quantized(name, folder):
    tiny("llama", **EVEN).save_pretrained(folder)
    model = QUANTIZED[name](folder)
    weight = model.model.layers[1].self_attn.q_proj.weight
    assert type(weight) is not nn.Parameter, "it is quantized"
    heard(model)


@pytest.mark.compile  # as above
@pytest.mark.process
@pytest.mark.parametrize("name", ["torchao int8", "bitsandbytes int8", "quanto int8"])
def test_quantized_while_it_learns(name, folder):
    """What is not quantized learns, as the norms do."""
    tiny("llama", **EVEN).save_pretrained(folder)
    heard_while_it_learns(QUANTIZED[name](folder))


def test_no_writes_of_a_quantized_output_matrix():
    quantization = pytest.importorskip("torchao.quantization")
    model = tiny("llama")
    quantization.quantize_(model, quantization.int8_weight_only())
    heard(model)
    no_writes(model)


def test_a_cache_that_is_quantized_on_the_way():
    model, cache = tiny("llama"), DynamicCache()
    with torch.no_grad(), watch(model) as seen:
        for step in tokens(9, 1).split([5, 1, 1, 1, 1], dim=1):
            if cache.get_seq_length() == 7:
                for layer in cache.layers:
                    layer.keys = layer.keys.bfloat16().float()
            model(step, **kept(model, cache))
    assert [run.shape for run in seen.runs(1)] == [(1, 6, 7, 7), (1, 6, 2, 9)]
    why = "it reads earlier keys that the run before it does not have, as where a cache is quan"
    assert f"the last of 2 runs, because {why}" in seen.report(), seen.report()


@pytest.mark.process  # quanto asks for a compiler
def test_a_quantized_cache_of_transformers():
    pytest.importorskip("optimum.quanto")
    model = tiny("llama", **EVEN)
    how = {"backend": "quanto", "nbits": 4, "q_group_size": 16, "residual_length": 4}
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "cache_config": how}
    options["cache_implementation"] = "quantized"
    with torch.no_grad():
        seen = run_twice(model, lambda: [model.generate(tokens(), **options)])
    assert seen.report().startswith("captured 2 of 2 layers of "), seen.report()
    assert len(seen.runs(1)) == 3


@pytest.mark.parametrize("spread", [by_cpu_offload, by_disk_offload])
def test_a_recording_of_offloaded_weights(spread, folder, tmp_path):
    model = tiny("llama")
    spread(model, folder)
    with watch(model, gradients=True) as seen:
        learned(model)
    same(seen, saved(seen, tmp_path / "seen.safetensors"))


def test_a_recording_of_a_quantized_model(tmp_path):
    quantization = pytest.importorskip("torchao.quantization")
    model = tiny("llama", **EVEN)
    quantization.quantize_(model, quantization.int8_weight_only())
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad(), watch(model) as seen:
        model.generate(tokens(), **options)
    same(seen, saved(seen, tmp_path / "seen.safetensors"))


# Mapped, differentiated and traced


class Logits(nn.Module):
    """A model that returns a tensor alone."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny("llama")
        self.inner.config.use_cache = False

    def forward(self, ids: Tensor) -> Tensor:
        return self.inner(ids).logits


def loss_of(model: nn.Module) -> Callable[..., Tensor]:
    return lambda parameters, ids: func.functional_call(model, parameters, (ids,)).square().sum()


def by_vmap(model):
    return [func.vmap(lambda ids: model(ids[None])[0])(tokens())]


def by_grad(model):
    return [*func.grad(loss_of(model))(dict(model.named_parameters()), tokens()).values()]


def by_sample(model):
    each = func.vmap(func.grad(loss_of(model)), (None, 0))
    return [*each(dict(model.named_parameters()), tokens()[:, None]).values()]


@pytest.mark.parametrize("transform", [by_vmap, by_grad, by_sample])
# torch maps its attention sample by sample
@pytest.mark.filterwarnings("ignore:There is a performance drop because we have not")
def test_functions_of_torch_func(transform):
    model = Logits()
    seen = run_twice(model, lambda: transform(model))
    assert [layer.state for layer in seen.layers] == ["missed"] * 2
    with pytest.raises(MissedError, match=r"no map of .*: torch\.func runs it"):
        seen[1]
    with torch.no_grad(), watch(model) as seen:  # and nothing of it is left
        model(tokens())
    assert seen.report().startswith("captured 2 of 2"), seen.report()


def by_fake_tensors(model):
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        return len(model(mode.from_tensor(tokens())))


def by_make_fx(model):
    graph = make_fx(model, tracing_mode="fake", _allow_non_fake_inputs=True)(tokens())
    return len(graph.graph.nodes)


def by_jit(model):
    graph = torch.jit.trace(model, (tokens(),), check_trace=False)
    return len(list(graph.inlined_graph.nodes()))


@pytest.mark.parametrize("trace", [by_fake_tensors, by_make_fx, by_jit])
@pytest.mark.filterwarnings("ignore:.torch.jit.trace")  # they are deprecated
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
# torch.jit asks every attribute of a transformers model
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_graphs_that_are_made_of_a_watched_model(trace):
    model = Logits()
    with torch.no_grad():
        plain = trace(model)
        with watch(model) as seen:
            assert trace(model) == plain, "nothing that a watch does is in a graph"
    assert [layer.state for layer in seen.layers] == ["missed"] * 2
    assert seen.layers[0].reason in (
        "a graph is made of it: run the model itself to see it",
        "its tensors are of class FakeTensor, which holds no numbers",
    )


def test_an_attention_function_that_fails_once(monkeypatch):
    """What is heard at operators later belongs to no function."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own, self.theirs = Net("written out"), tiny("llama")

        def forward(self, ids: Tensor) -> Tensor:
            return self.own(ids) + self.theirs(ids).logits

    def fails(*args: object, **given: object) -> None:
        raise ZeroDivisionError

    model = Both()
    with torch.no_grad(), watch(model) as seen:
        with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
            patch.setitem(AttentionInterface._global_mapping, "sdpa", fails)
            model(tokens())
        model(tokens())
    assert [layer.state for layer in seen.layers] == ["proved"] * 5, seen.report()


# Recordings of plain PyTorch models in a file


@pytest.mark.parametrize(("run", "reentrant"), [(net.gradients, False), (graphs.by_grad, None)])
def test_a_recording_says_the_same(run, reentrant, tmp_path):
    model = Net("written out", reentrant)
    with watch(model) as seen:
        run(model)
    same(seen, saved(seen, tmp_path / "seen.safetensors"))


@pytest.mark.compile
@pytest.mark.parametrize("whole", [False, True])
def test_a_recording_says_what_ran_compiled(whole, tmp_path):
    model = Net("fused")
    model.blocks[1].attn.compile(backend="aot_eager")
    ran = torch.compile(model, backend="aot_eager") if whole else model
    with torch.no_grad(), watch(ran) as seen:
        ran(tokens())
    assert graphs.HINT in seen.report()
    same(seen, saved(seen, tmp_path / "seen.safetensors"))


def test_a_recording_of_copies_on_several_devices(tmp_path):
    model = nn.DataParallel(Net("fused"))
    model.device_ids = [0, 1]
    with watch(model) as seen:
        pass
    same(seen, saved(seen, tmp_path / "seen.safetensors"))
