"""What stands around a model is taken off, in any order; what is no wrapper stays."""

import pytest
import torch
from torch import distributed, nn

from wqkv import watch
from wqkv.errors import MissedError
from wqkv.wrappers import unwrapped

pytest.importorskip("transformers")

from tests.tiny import agree, tiny, tokens, weights


@pytest.fixture
def alone(tmp_path):
    """A group of one process, for DistributedDataParallel."""
    distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")


def adapted(model: nn.Module, kind: str = "LoraConfig", **others) -> nn.Module:
    peft = pytest.importorskip("peft")
    config = getattr(peft, kind)(task_type="CAUSAL_LM", **others)
    return peft.get_peft_model(model, config)


def with_lora(model: nn.Module) -> nn.Module:
    return adapted(model, r=3, target_modules=["q_proj", "v_proj"], init_lora_weights=False)


def with_a_prompt(model: nn.Module) -> nn.Module:
    return adapted(model, "PromptTuningConfig", num_virtual_tokens=3)


WRAPPERS = [
    (compiled,),
    (nn.DataParallel,),
    (nn.parallel.DistributedDataParallel,),
    (with_lora,),
    (with_a_prompt,),
    (with_lora, nn.parallel.DistributedDataParallel, compiled),
]


@pytest.mark.compile
# peft 0.18 asks transformers 5 by a name that goes with its version 6
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("wrappers", WRAPPERS, ids=lambda ws: "-".join(w.__name__ for w in ws))
def test_unwrapped(alone, wrappers):
    model = whole = tiny("llama")
    for wrapper in wrappers:
        whole = wrapper(whole)
    assert unwrapped(whole) is model
    assert unwrapped(model) is model


@pytest.mark.parametrize("model", [nn.Linear(2, 3), nn.Sequential(nn.ReLU())])
def test_what_is_no_wrapper(model):
    assert unwrapped(model) is model


@pytest.mark.compile
# as above
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("wrapper", [nn.parallel.DistributedDataParallel, with_lora])
def test_watch_sees_the_model_inside(alone, wrapper):
    model, ids = tiny("llama"), tokens()
    whole = wrapper(model).eval()
    with torch.no_grad(), watch(whole) as seen:
        whole(input_ids=ids)
    assert seen.report().startswith("captured 2 of 2 layers of LlamaForCausalLM"), seen.report()
    assert seen.layers[1].name == "model.layers.1.self_attn"
    for found, theirs in zip(seen, weights(model, ids), strict=True):
        agree(found, theirs)
    whole = compiled(whole)
    with torch.no_grad(), watch(whole) as seen:
        whole(input_ids=ids)
    with pytest.raises(MissedError, match="it runs compiled, out of sight"):
        seen[0]
