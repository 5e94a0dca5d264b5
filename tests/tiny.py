"""Tiny random transformers models that the tests of watching share, and the eager path's truth."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from wqkv.errors import MissedError, WqkvError
from wqkv.maps.attention_map import AttentionMap
from wqkv.record.arguments import OverheardCall, read_call
from wqkv.record.captured import CapturedCall
from wqkv.record.follow import begin, follow, go_on, settle
from wqkv.record.read_mask import Convention
from wqkv.record.run import Run
from wqkv.record.watch import watch

SIZES = {
    "hidden_size": 24,
    "intermediate_size": 29,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "vocab_size": 61,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
SEQ2SEQ = {
    "d_model": 24,
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_layers"), 2),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "num_heads"), 6),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "d_ff"), 29),
    **dict.fromkeys(("vocab_size", "max_position_embeddings"), 61),
    **dict.fromkeys(("pad_token_id", "eos_token_id"), 0),
    **dict.fromkeys(("bos_token_id", "decoder_start_token_id"), 1),
    "forced_eos_token_id": None,
}


def kept(model: nn.Module, cache: object) -> dict[str, object]:
    """A cache as the argument that the model takes it by, which transformers 5.24 renamed."""
    takes = inspect.signature(model.forward).parameters
    return {"cache" if "cache" in takes else "past_key_values": cache}


def tiny(name: str, implementation: str = "sdpa", kind=AutoModelForCausalLM, **others):
    torch.manual_seed(0)
    sizes = SIZES if kind in (AutoModel, AutoModelForCausalLM) else {}
    if name in ("llama", "mistral"):
        others.setdefault("num_key_value_heads", 3)
    config = AutoConfig.for_model(name, **{**sizes, **others})
    model = kind.from_config(config, attn_implementation=implementation).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 3 if weight.ndim > 1 else 1
    return model


def tokens(length: int = 7, batch: int = 2) -> torch.Tensor:
    return torch.randint(3, 60, (batch, length), generator=torch.Generator().manual_seed(1))


def padded(length: int = 7, left: int = 0, right: int = 0) -> torch.Tensor:
    given = torch.ones(2, length, dtype=torch.long)
    given[1, :left] = 0
    given[1, length - right :] = 0
    return given


@torch.no_grad()
def weights(model: nn.Module, ids: torch.Tensor, given: torch.Tensor | None = None):
    """The eager path's matrices."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    found = model(ids, attention_mask=given, output_attentions=True).attentions
    model.set_attn_implementation(before)
    return found


def agree(found: AttentionMap, theirs: torch.Tensor, atol: float = 2e-6) -> None:
    """Equal wherever a query sees anything."""
    ours = found[:]
    assert ours.shape == theirs.shape
    sees = ours.sum(dim=-1) > 0
    torch.testing.assert_close(ours[sees], theirs[sees], rtol=1e-5, atol=atol)


def generate(model, ids, given=None, **others):
    options = {"max_new_tokens": 9, "do_sample": False, "pad_token_id": 0, **others}
    with torch.no_grad():
        plain = model.generate(ids, attention_mask=given, **options)
        with watch(model) as seen:
            watched = model.generate(ids, attention_mask=given, **options)
    assert torch.equal(plain, watched)
    return watched, seen


def missed(model: nn.Module, reason: str, **given) -> None:
    with torch.no_grad(), watch(model) as seen:
        model(**(given or {"input_ids": tokens()}))
    assert seen.report().startswith("captured 0 of 2"), seen.report()
    assert all(reason in layer.reason for layer in seen.layers), seen.report()
    with pytest.raises(MissedError, match="There is no map of ") as error:
        seen[0]
    assert reason in str(error.value)
    assert isinstance(error.value, WqkvError)


def call_of(convention: Convention, args: tuple, given: dict, out: object) -> CapturedCall:
    """One call of an attention function, read as `watch` reads it."""
    return read_call(OverheardCall(convention, nn.Module(), args, given, out), {}, False, False)


def record(run: Run | None, call: CapturedCall) -> Run:
    """The run that a call of a model's only layer continues, or begins."""
    going = None if run is None else follow(run, call)
    return begin(call) if going is None else go_on(going, settle([going.options]))
