"""Every family of the table, tiny and random: our layer against the model's own attention.

A model runs once with hooks that keep what reaches and what leaves each attention, and cut the
graph in between, so that the gradient with respect to what reached it is that of the attention
alone. Weights, norms, biases and sinks are all random: one that is forgotten or mistaken shows.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from wqkv import Causal, Lengths, RoPE, Segments
from wqkv.attend.geometry import Rect
from wqkv.attend.masks.algebra import Full, Mask
from wqkv.layer.attention import MultiheadAttention
from wqkv.layer.caches.base import KVCache
from wqkv.layer.caches.buffered import Cross, Dynamic
from wqkv.layer.convert.families import FAMILIES
from wqkv.layer.convert.huggingface import Stack, from_hf, stacks

transformers = pytest.importorskip("transformers")
from tests.tiny import fill  # noqa: E402

VISUAL = transformers.models.qwen2_vl.modeling_qwen2_vl.Qwen2VisionTransformerPretrainedModel

#: Of the largest number. In float64 models some is float32 too: RoPE's angles, norms, the softmax.
TOLERANCE = {torch.float64: 5e-6, torch.float32: 5e-5}

N, SOURCE, PADDED = 11, 7, 3  # words that are written, words that are read, words of padding

#: Given to a configuration under every one of these names that it has.
SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embed_dim"), 48),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 6),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 6),
    **dict.fromkeys(("num_key_value_heads", "num_experts_per_tok", "n_shared_experts"), 2),
    **dict.fromkeys(("head_dim", "d_kv"), 16),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("intermediate_size", "d_ff", "ffn_dim", "hidden_dim"), 20),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "moe_intermediate_size"), 20),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace"), 1),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 37),
    **dict.fromkeys(("max_source_positions", "max_target_positions"), 37),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), 61),
    "image_size": 12,
    "patch_size": 4,
    "num_channels": 3,
    "num_mel_bins": 5,
    "sliding_window": 5,
    "embedding_size": 17,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
WINDOWS = {"layer_types": ["full_attention", "sliding_attention"]}
LATENT = {
    "num_key_value_heads": 6,
    "head_dim": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 14,
    "v_head_dim": 10,
    "kv_lora_rank": 18,
    "q_lora_rank": 22,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 9}
AUDIO = {
    "conv_dim": (16, 16),
    "conv_stride": (5, 2),
    "conv_kernel": (10, 3),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
VISION = {"temporal_patch_size": 2, "spatial_merge_size": 2, "in_channels": 3, "mlp_ratio": 2}


def theta(**rest: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0, **rest}}


def by_kind(part: float = 1.0, **rest: Any) -> dict[str, Any]:
    near = {"rope_type": "default", "rope_theta": 50.0, "partial_rotary_factor": part}
    far = {**near, "rope_theta": 900.0, **rest}
    return {**WINDOWS, "rope_parameters": {"sliding_attention": near, "full_attention": far}}


#: What a configuration says beside the sizes, and a name for it where a family has several.
CASES: dict[str, Mapping[str, Any]] = {
    **{kind: {} for kind in FAMILIES},
    "bert, decoding": {"is_decoder": True},
    "albert, in groups": {"num_hidden_layers": 4, "num_hidden_groups": 2, "inner_group_num": 2},
    "gpt2": {"scale_attn_by_inverse_layer_idx": True},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 4},
    "gpt_neox": theta(partial_rotary_factor=0.5),
    "gptj": {"rotary_dim": 4},
    "codegen": {"rotary_dim": 4, "n_head": 4},
    "mpt": {"attn_config": {"clip_qkv": 0.5}},
    "mpt, with a scale": {"attn_config": {"softmax_scale": 0.3}, "n_heads": 4},
    "falcon": {"bias": True, **theta()},
    "falcon, all heads": {"multi_query": False},
    "falcon, grouped": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon, alibi": {"alibi": True, "num_attention_heads": 4},
    "llama": {"attention_bias": True, **theta()},
    "llama, with a window that it does not read": {"sliding_window": 3},
    "llama, scaled": theta(rope_type="linear", factor=3.0),
    "mistral": {"sliding_window": 3},
    "qwen2": {**WINDOWS, "use_sliding_window": True},
    "qwen3_moe": {"use_sliding_window": True},
    "qwen3": {**WINDOWS, "use_sliding_window": True, "attention_bias": True},
    "qwen3_next": {
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_value_heads": 2,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "shared_expert_intermediate_size": 20,
        "attention_bias": True,
        **theta(partial_rotary_factor=0.25),
    },
    "gemma2": {**WINDOWS, "attn_logit_softcapping": 1.5, "query_pre_attn_scalar": 5},
    "gemma3_text": {**by_kind(), "query_pre_attn_scalar": 5, "attn_logit_softcapping": 1.5},
    "gemma3_text, both ways": {**by_kind(), "use_bidirectional_attention": True},
    "gemma3n_text": {
        **by_kind(),
        "activation_sparsity_pattern": [0.0, 0.0],
        "laurel_rank": 4,
        "num_kv_shared_layers": 0,
        "hidden_size_per_layer_input": 8,
        "intermediate_size": [20, 20],
    },
    "cohere": {"use_qk_norm": True},
    "cohere, without norm": {"use_qk_norm": False},
    "cohere2": WINDOWS,
    "olmo": {"clip_qkv": 0.4},
    "olmoe": {"clip_qkv": 0.4},
    "olmo3": {**by_kind(**YARN), "head_dim": 8},
    "exaone4": {**WINDOWS, "head_dim": 8},
    "exaone4, without windows": {"sliding_window": None, "layer_types": ["full_attention"] * 2},
    "smollm3": {"no_rope_layers": [1, 0]},
    "stablelm": {"qk_layernorm": True, "use_qkv_bias": True, **theta(partial_rotary_factor=0.5)},
    "stablelm, without norm": {"qk_layernorm": False},
    "phi": {"qk_layernorm": True, **theta(partial_rotary_factor=0.5)},
    "phi, without norm": {"qk_layernorm": False},
    "persimmon": {"qk_layernorm": True, **theta(partial_rotary_factor=0.5)},
    "granite": {"attention_multiplier": 0.7},
    "granite, with a whole number": {"attention_multiplier": 1},
    "helium": {"head_dim": 8},
    "glm": {"attention_bias": True, **theta(partial_rotary_factor=0.5)},
    "nemotron": {"attention_bias": True, **theta(partial_rotary_factor=0.5)},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 0.5, "rope_theta": 50.0},
        "ffn_config": {"hidden_size": 48, "ffn_hidden_size": 20},
    },
    "gpt_oss": {**WINDOWS, "rope_parameters": {**YARN, "rope_theta": 150.0, "truncate": False}},
    "mimo_v2_flash": {**by_kind(0.5), "v_head_dim": 10, "num_key_value_heads": 1},
    "llama4_text": {
        "layer_types": ["chunked_attention", "full_attention"],
        "no_rope_layers": [1, 0],
        "attention_chunk_size": 5,
        "floor_scale": 3,
        "attn_scale": 0.5,
        "attention_bias": True,
        "intermediate_size_mlp": 20,
    },
    "ministral3": {"rope_parameters": {**YARN, "rope_theta": 100.0, "llama_4_scaling_beta": 0.4}},
    "deepseek_v2": LATENT,
    "deepseek_v2, whole queries": {**LATENT, "q_lora_rank": None},
    "deepseek_v3": {
        **LATENT,
        "attention_bias": True,
        "rope_parameters": {**YARN, "rope_theta": 100.0, "mscale": 0.7, "mscale_all_dim": 1.3},
    },
    "deepseek_v3, in halves": {**LATENT, "rope_interleave": False},
    "diffllama": {"attention_bias": True, "num_key_value_heads": 2},
    "afmoe": WINDOWS,
    "lfm3": {
        "layer_types": ["full_attention", "sliding_attention"],
        "use_attention_gate": True,
        "rope_parameters": by_kind(rope_type="proportional", partial_rotary_factor=0.5)[
            "rope_parameters"
        ],
    },
    "qwen2_vl_text": theta(rope_type="default", mrope_section=[1, 1, 2]),
    "qwen2_5_vl_text": theta(rope_type="default", mrope_section=[2, 1, 1]),
    "qwen3_vl_text": {"head_dim": 14, **theta(rope_type="default", mrope_section=[3, 2, 2])},
    "qwen2_vl_vision": VISION,
    "umt5": {},
    "blip_2_qformer": {"encoder_hidden_size": 26, "cross_attention_frequency": 1},
    "hubert": AUDIO,
    "wav2vec2": AUDIO,
}


def tiny(case: str) -> Any:
    """A model in float64, every number of it random."""
    kind = case.partition(",")[0]
    if kind not in transformers.CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {kind}")
    torch.manual_seed(0)
    known = transformers.CONFIG_MAPPING[kind]().to_dict()
    sizes = {name: size for name, size in SIZES.items() if name in known}
    config = transformers.CONFIG_MAPPING[kind](**{**sizes, **CASES[case]})
    make = VISUAL._from_config if kind == "qwen2_vl_vision" else transformers.AutoModel.from_config
    config._experts_implementation = "eager"
    # Falcon's eager path adds its bias twice
    how = "sdpa" if getattr(config, "alibi", False) else "eager"
    return fill(make(config, attn_implementation=how).double().eval())


# What a model is given, and what our layer is told of it


Fault = Callable[[MultiheadAttention], Any]


class Given(NamedTuple):
    """The inputs of a model; by part, who may be seen, and by what the words turn."""

    inputs: Mapping[str, Any]
    masks: Mapping[str, Mask] = {}
    positions: Tensor | None = None


def words(n: int) -> Tensor:
    return torch.randint(3, 61, (2, n), generator=torch.Generator().manual_seed(n))


def normal(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(shape[-1])
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def plain(model: Any) -> Given:
    """Two samples of whatever the model reads."""
    match model.config.model_type:
        case "blip_2_qformer":
            source = normal(2, SOURCE, 26)
            return Given({"query_embeds": normal(2, N, 48), "encoder_hidden_states": source})
        case "qwen2_vl_text" | "qwen2_5_vl_text" | "qwen3_vl_text":
            # words, and in the second sample a picture of 2 x 3 among them
            places = torch.arange(N).repeat(3, 2, 1)
            places[:, 1, 2:8] = torch.tensor([[2] * 6, [2, 2, 2, 3, 3, 3], [2, 3, 4] * 2])
            return Given({"input_ids": words(N), "position_ids": places}, positions=places)
        case "qwen2_vl_vision":  # two pictures side by side, in patches
            places = torch.randint(0, 9, (32, 2), generator=torch.Generator().manual_seed(0))
            grids = torch.tensor([[1, 4, 6], [1, 2, 4]])
            mask = Segments([[0] * 24 + [1] * 8])
            inputs = {"hidden_states": normal(32, 96), "grid_thw": grids, "position_ids": places}
            return Given(inputs, {"encoder": mask}, places.T)
    match model.main_input_name:
        case "pixel_values":
            return Given({"pixel_values": normal(2, 3, 12, 12)})
        case "input_values":
            return Given({"input_values": normal(2, 231)})
        case "input_features":
            return Given({"input_features": normal(2, 5, 74), "decoder_input_ids": words(N)})
    if model.config.is_encoder_decoder:
        return Given({"input_ids": words(SOURCE), "decoder_input_ids": words(N)})
    return Given({"input_ids": words(N)})


def padded(model: Any) -> tuple[Given, dict[str, Tensor]] | None:
    """The same with padding, at the left where a model writes; and the words that are none."""
    given, config = plain(model), model.config
    if "input_ids" not in given.inputs:
        return None
    ids = given.inputs["input_ids"]
    there = torch.ones_like(ids)
    if not padded_left(model):
        there[0, -PADDED:] = 0
        mask: Mask = Lengths([ids.shape[1] - PADDED, ids.shape[1]])
    else:
        there[0, :PADDED] = 0
        mask = ~Lengths([PADDED, 0])
    inputs = {**given.inputs, "attention_mask": there}
    real = there.bool()
    if config.is_encoder_decoder:
        both = torch.ones(2, N, dtype=torch.bool)
        masks = {"encoder": mask, "cross": mask}
        return Given(inputs, masks), {"encoder": real, "decoder": both, "cross": both}
    positions = None
    if padded_left(model) and "position_ids" in inspect.signature(model.forward).parameters:
        positions = (there.cumsum(dim=1) - 1).clamp(min=0)
        if given.positions is not None:  # words alone stand at one place on all axes
            positions = positions.repeat(3, 1, 1)
        inputs["position_ids"] = positions
    parts = FAMILIES[config.model_type]
    return Given(inputs, dict.fromkeys(parts, mask), positions), dict.fromkeys(parts, real)


def padded_left(model: Any) -> bool:
    # Llama 4 counts its chunks from the first word that is no padding
    kind = model.config.model_type
    return [*FAMILIES[kind]] == ["decoder"] and kind != "llama4_text"


# What its attention makes of it


class Call(NamedTuple):
    """What reached an attention, and what it gave."""

    x: Tensor
    source: Tensor | None
    y: Tensor


@contextmanager
def recorded(parts: Mapping[str, Stack]) -> Iterator[dict[int, list[Call]]]:
    """Every call, by the id of the attention module, cut off from what came before."""
    calls: dict[int, list[Call]] = {}
    now: list[tuple[int, Tensor, Tensor | None]] = []

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        def cut(x: Any) -> Any:
            return x.detach().requires_grad_() if isinstance(x, Tensor) else None

        if args:
            args = (cut(args[0]), *args[1:])
        else:
            kwargs["hidden_states"] = cut(kwargs["hidden_states"])
        name = next((n for n in ("key_value_states", "encoder_hidden_states") if n in kwargs), None)
        if name:
            kwargs[name] = cut(kwargs[name])
        source = kwargs[name] if name else None
        now.append((id(module), args[0] if args else kwargs["hidden_states"], source))
        return args, kwargs

    def leave(module: nn.Module, args: Any, y: Tensor) -> None:
        key, x, source = now.pop()
        calls.setdefault(key, []).append(Call(x, source, y))

    hooks = []
    for stack in parts.values():
        spots = {id(spot.module): spot for spot in attending(stack)}
        for spot in spots.values():
            hooks.append(spot.module.register_forward_pre_hook(enter, with_kwargs=True))
            hooks.append(spot.get(spot.path("WO")).register_forward_hook(leave))
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def attending(stack: Stack) -> list[Any]:
    kinds = getattr(stack.base.config, "layer_types", None) or []
    return [stack.spot(i) for i in range(len(stack)) if kinds[i : i + 1] != ["linear_attention"]]


def run(model: Any, given: Given) -> list[tuple[str, MultiheadAttention, Call]]:
    """(part, our layer, what the model's own did) for every layer that attends."""
    parts = stacks(model)
    with recorded(parts) as calls:
        model(**given.inputs)
    found = []
    for part, stack in parts.items():
        for spot in attending(stack):
            call = calls[id(spot.module)].pop(0)  # layers that share a module go by their turn
            found.append((part, from_hf(model, spot.layer, part=part), call))
    assert not any(calls.values())
    return found


def ours(layer: MultiheadAttention, call: Call, given: Given, part: str) -> Tensor:
    x = call.x[None] if call.x.ndim == 2 else call.x  # the words of all samples in a row
    told: dict[str, Any] = {"mask": given.masks.get(part, Full())}
    if isinstance(layer.position, RoPE):
        told["positions"] = given.positions
    return layer(x, call.source, **told).view_as(call.y)


def check(y: Tensor, call: Call, real: Tensor | None = None) -> None:
    """The output, and the gradient with respect to all that reached the attention."""
    rows = torch.ones(y.shape[:-1], dtype=torch.bool) if real is None else real
    size = float(call.y.detach()[rows].abs().max())
    assert size > 0.05
    assert float((y - call.y).detach()[rows].abs().max()) <= TOLERANCE[call.y.dtype] * size
    toward = normal(*y.shape).to(y.dtype) * rows[..., None]
    reached = [x for x in (call.x, call.source) if x is not None]
    mine = torch.autograd.grad((y * toward).sum(), reached)
    theirs = torch.autograd.grad((call.y * toward).sum(), reached)
    for a, b in zip(mine, theirs, strict=True):
        assert float((a - b).abs().max()) <= TOLERANCE[call.y.dtype] * float(b.abs().max())


@torch.no_grad()
def in_steps(layer: MultiheadAttention, call: Call, given: Given, part: str) -> None:
    """Three steps with a cache, where the layer looks back only, or at another text."""
    backwards = layer.mask.region(Rect(None, 0, 1, 1, 2)) is False
    if not backwards and part != "cross":
        return
    cache: KVCache = Cross() if part == "cross" else Dynamic()
    positions = given.positions if isinstance(layer.position, RoPE) else None
    steps = []
    for start, stop in ((0, 4), (4, 5), (5, N)):
        here = None if positions is None else positions[..., start:stop]
        steps.append(layer(call.x[:, start:stop], call.source, positions=here, cache=cache))
    off = torch.cat(steps, dim=1) - call.y
    assert float(off.abs().max()) <= TOLERANCE[call.y.dtype] * float(call.y.abs().max())


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Tiny random models are not what transformers expects; its remarks are not of interest."""
    log = transformers.utils.logging
    before = log.get_verbosity()
    log.set_verbosity_error()
    yield
    log.set_verbosity(before)


@pytest.mark.parametrize("case", CASES)
def test_family(case):
    """Plainly, in steps with a cache, and with padding."""
    model = tiny(case)
    given = plain(model)
    found = run(model, given)
    assert {part for part, _, _ in found} == set(FAMILIES[model.config.model_type])
    for part, layer, call in found:
        check(ours(layer, call, given, part), call)
        in_steps(layer, call, given, part)
    if (with_padding := padded(model)) is not None:
        given, real = with_padding
        if padded_left(model):  # their float64 has NaN where a row sees nothing
            model.float()
        for part, layer, call in run(model, given):
            check(ours(layer, call, given, part), call, real[part])


def test_every_family_is_tested():
    assert {case.partition(",")[0] for case in CASES} == set(FAMILIES)
    assert len(FAMILIES) >= 70


# These comparisons can fail


def swapped(a: str, b: str) -> Fault:
    def fault(layer: MultiheadAttention) -> None:
        first, second = layer.get_parameter(a), layer.get_parameter(b)
        layer.load_state_dict({**layer.state_dict(), a: second, b: first}, assign=True)

    return fault


def changed(**values: Any) -> Fault:
    def fault(layer: MultiheadAttention) -> None:
        for name, value in values.items():
            setattr(layer, name, value)

    return fault


def turned(**values: Any) -> Fault:
    return lambda layer: setattr(layer, "position", replace(layer.position, **values))


def filled(name: str, value: float) -> Fault:
    return lambda layer: layer.load_state_dict(
        {**layer.state_dict(), name: torch.full_like(layer.get_parameter(name), value)}, assign=True
    )


FAULTS: list[tuple[str, Fault]] = [
    ("gpt2", swapped("WQ.weight", "WK.weight")),
    ("gpt2", swapped("WQ.bias", "WV.bias")),
    ("gpt2", filled("WO.bias", 0.0)),
    ("gpt2", changed(scale=None)),
    ("llama", turned(interleaved=True)),
    ("llama", changed(position=None)),
    ("gptj", turned(interleaved=False)),
    ("gpt_neox", turned(d=None)),
    ("llama, scaled", turned(scaling=None)),
    ("codegen", swapped("WK.weight", "WV.weight")),
    ("bloom", changed(position=None)),
    ("mpt", changed(clip=None)),
    ("t5", changed(position=None)),
    ("mistral", changed(mask=Causal())),
    ("llama4_text", changed(mask=Causal())),
    ("llama4_text", changed(q_norm=None, k_norm=None)),
    ("llama4_text", changed(temperature=None)),
    ("ministral3", changed(temperature=None)),
    ("gemma2", changed(softcap=None)),
    ("gemma2", changed(scale=None)),
    ("gemma3_text", filled("q_norm.weight", 1.0)),
    ("gemma3n_text", changed(v_norm=None)),
    ("cohere", filled("k_norm.weight", 1.0)),
    ("persimmon", filled("q_norm.bias", 0.0)),
    ("gpt_oss", filled("sinks", 0.0)),
    ("qwen3_next", changed(gate=None)),
    ("lfm3", filled("WG.weight", 0.0)),
    ("qwen2_vl_text", turned(axes=(0, 2, 1, 1))),
    ("qwen3_vl_text", turned(axes=(0, 0, 0, 1, 1, 2, 2))),
    ("deepseek_v3", filled("c_norm.weight", 1.0)),
    ("deepseek_v3", turned(interleaved=False)),
    ("diffllama", filled("lambda_q1", 0.0)),
    ("diffllama", changed(start=0.0)),
]


@pytest.mark.parametrize(("case", "fault"), FAULTS)
def test_planted_fault(case, fault):
    model = tiny(case)
    given = plain(model)
    wrong = 0
    for part, layer, call in run(model, given):
        try:
            fault(layer)
        except AttributeError:  # this layer has nothing of the kind
            continue
        with torch.no_grad():
            off = ours(layer, call, given, part) - call.y
        wrong += bool(off.abs().max() > 1e-3 * call.y.abs().max())
    assert wrong
