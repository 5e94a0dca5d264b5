"""Models of other libraries, with random weights, whose attention `watch` hears as operators.

`make .venv/.foreign` puts the libraries into a folder of their own, which is on Python's path while
a row is built and not otherwise: transformers behaves differently where it finds torchvision.
Without them the rows of torch alone are left. How the weights of a row are found without wqkv is in
independent.py and own_blocks.py.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from tests.conformance import own_blocks
from tests.conformance.own_blocks import Blocks, told
from tests.conformance.watched import Built, Row

# PyPI's torchvision is built beside torch's CUDA build. Beside a CPU build its compiled operators
# are missing, and the one module that describes them to a compiler would not import.
sys.modules.setdefault("torchvision._meta_registrations", ModuleType("no operators"))

FOLDER = Path(__file__).parents[2] / ".venv/foreign"


@contextmanager
def libraries() -> Iterator[None]:
    """Context in which the folder of the libraries is the last place that Python looks into."""
    sys.path.append(str(FOLDER))
    try:
        yield
    finally:
        sys.path.remove(str(FOLDER))


def here(row: Row) -> bool:
    """Whether the library of a row is installed."""
    with libraries():
        return find_spec(row.library) is not None


def _of(module: str, name: str) -> Any:
    """A name of a library that may be missing, looked up when its row is built."""
    return getattr(import_module(module), name)


def _vectors(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _tokens(length: int, vocabulary: int) -> Tensor:
    return torch.randint(vocabulary, (2, length), generator=torch.Generator().manual_seed(1))


def _picture(model: nn.Module, size: int) -> Built:
    pixels = _vectors(2, 3, size, size)
    return model, lambda m: m(pixels)


# torch's own

# d_model, n_head, d_ff, the batch and two lengths. With an odd n_head no fast path is taken.
D, HEADS, FORWARD, BATCH, LONG, OTHER = 46, 2, 53, 3, 17, 11


def _mha(call: Callable[[nn.Module, Tensor, Tensor], Any], **rest: Any) -> Callable[[], Built]:
    def build() -> Built:
        x, other = _vectors(BATCH, LONG, D), _vectors(BATCH, OTHER, D, seed=2)
        model = nn.MultiheadAttention(D, HEADS, batch_first=True, **rest)
        return model, lambda m: call(m, x, other)

    return build


PADDED = torch.arange(LONG)[None] >= torch.tensor([[LONG], [LONG - 5], [LONG - 1]])
CAUSAL = torch.ones(LONG, LONG, dtype=torch.bool).triu(1)  # torch's polarity: True is hidden


def _encoder(norm_first: bool = False, **call: Any) -> Callable[[], Built]:
    def build() -> Built:
        x = _vectors(BATCH, LONG, D)
        layer = nn.TransformerEncoderLayer(
            D, HEADS, FORWARD, batch_first=True, norm_first=norm_first, activation="gelu"
        )
        model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first)
        return model, lambda m: m(x, **call)

    return build


def _decoder() -> Built:
    x, memory = _vectors(BATCH, LONG, D), _vectors(BATCH, OTHER, D, seed=2)
    model = nn.TransformerDecoder(
        nn.TransformerDecoderLayer(D, HEADS, FORWARD, batch_first=True), 2
    )
    hidden = torch.arange(OTHER)[None] >= torch.tensor([[OTHER - 3], [OTHER], [OTHER - 1]])
    return model, lambda m: m(x, memory, tgt_mask=CAUSAL, memory_key_padding_mask=hidden)


def _transformer() -> Built:
    x, y = _vectors(BATCH, LONG, D), _vectors(BATCH, OTHER, D, seed=2)
    model = nn.Transformer(D, HEADS, 2, 2, FORWARD, batch_first=True)
    hides = {"src_key_padding_mask": PADDED, "memory_key_padding_mask": PADDED}
    return model, lambda m: m(x, y, tgt_mask=CAUSAL[:OTHER, :OTHER], **hides)


def _own(way: str) -> Callable[[], Built]:
    def build() -> Built:
        x = own_blocks.vectors()
        return Blocks(way), lambda m: m(x)

    return build


TORCH = [
    Row("nn.MultiheadAttention", _mha(lambda m, x, _: m(x, x, x, need_weights=False)), 1),
    Row("nn.MultiheadAttention, weights asked", _mha(lambda m, x, _: m(x, x, x)), 1),
    Row("nn.MultiheadAttention, cross", _mha(lambda m, x, y: m(x, y, y)), 1),
    Row(
        "nn.MultiheadAttention, causal, fused",
        _mha(lambda m, x, _: m(x, x, x, attn_mask=CAUSAL, is_causal=True, need_weights=False)),
        1,
    ),
    Row(
        "nn.MultiheadAttention, bias_kv and zero_attn",
        _mha(lambda m, x, _: m(x, x, x), add_bias_kv=True, add_zero_attn=True),
        1,
    ),
    Row("nn.TransformerEncoder", _encoder(), 2),
    Row("nn.TransformerEncoder, padding", _encoder(src_key_padding_mask=PADDED), 2, padded=PADDED),
    Row("nn.TransformerEncoder, causal", _encoder(mask=CAUSAL), 2),
    Row("nn.TransformerEncoder, norm first", _encoder(norm_first=True), 2),
    Row(
        "nn.TransformerEncoder, norm first, padding",
        _encoder(norm_first=True, src_key_padding_mask=PADDED),
        2,
    ),
    Row("nn.TransformerDecoder", _decoder, 4),
    Row("nn.Transformer", _transformer, 6, padded=PADDED),
]

#: What the report says of heads that are mixed after their softmax: a map is of the softmax.
MIXED = "changed before it met v"
EXP = "exp of its scores met v"
#: The ways of own_blocks.py that are not proved.
OWN_OTHERS = {
    "talking heads": {"captured": 2, "says": MIXED},
    "gathered bias of q": {"captured": 2},
    "dropout on": {"proved": 2, "without": "inference_mode"},  # there what it drew is not told
    "multiply and sum": {"missed": 2},
    "weighted sum": {"missed": 2},
    "sigmoid": {"silent": 2},
    "mixed by a buffer": {"captured": 2, "says": MIXED},
    "two texts": {"captured": 2},
    "transformer xl": {"captured": 2},
    "masked after": {"captured": 2, "says": MIXED},
    "masked and normalized again": {"captured": 2, "says": MIXED},
    "differential": {"missed": 2, "says": "its weights come from 2 softmaxes"},
    "linear": {"missed": 4, "says": "no product of two activations"},
    "divided at the end": {"missed": 2, "says": EXP},
    "some heads at a time": {"missed": 2, "says": "a part of its weights met v"},
    "one more in the sum": {"missed": 2, "says": EXP},
    "learned keys": {"silent": 2},
    "one query at a time": {"proved": 2 * own_blocks.N},
    "one head at a time": {"proved": 2 * own_blocks.N_HEAD},
}
OWN = [
    Row(f"own: {way}", _own(way), **OWN_OTHERS.get(way, {"proved": 2}), weights=told)
    for way in own_blocks.WAYS
]


# timm and torchvision


def _timm(name: str, size: int, fused: bool = True, **rest: Any) -> Callable[[], Built]:
    def build() -> Built:
        model = _of("timm", "create_model")(name, num_classes=5, **rest)
        for module in model.modules():  # whatever timm prefers for this model
            if hasattr(module, "fused_attn"):
                module.fused_attn = fused
        return _picture(model, size)

    return build


def _torchvision(name: str, size: int, **rest: Any) -> Callable[[], Built]:
    return lambda: _picture(_of("torchvision.models", name)(num_classes=5, **rest), size)


SMALL = {"depth": 2, "embed_dim": 42, "num_heads": 3}
SWIN = {"embed_dim": 24, "depths": (2, 2), "num_heads": (2, 3)}
VISION = [
    Row(
        "torchvision VisionTransformer",
        _torchvision(
            "VisionTransformer", 48, image_size=48, patch_size=16,
            num_layers=2, num_heads=3, hidden_dim=42, mlp_dim=FORWARD,
        ),
        2,
        library="torchvision",
    ),
    Row(
        "torchvision SwinTransformer",
        _torchvision(
            "SwinTransformer", 56, patch_size=[4, 4], embed_dim=24, depths=[2, 2],
            num_heads=[2, 3], window_size=[7, 7],
        ),
        4,
        library="torchvision",
    ),
    Row(
        "torchvision SwinTransformer v2",
        lambda: _picture(
            _of("torchvision.models", "SwinTransformer")(
                patch_size=[4, 4], embed_dim=24, depths=[2, 2], num_heads=[2, 3],
                window_size=[7, 7], num_classes=5,
                block=_of("torchvision.models.swin_transformer", "SwinTransformerBlockV2"),
                downsample_layer=_of("torchvision.models.swin_transformer", "PatchMergingV2"),
            ),
            56,
        ),
        4,
        library="torchvision",
    ),
    *(
        Row(f"timm {name}", _timm(model, size, **rest), **states, library="timm")
        for name, model, size, rest, states in (
            ("ViT, fused", "vit_tiny_patch16_224", 48, {"img_size": 48} | SMALL, {"proved": 2}),
            (
                "ViT, by hand", "vit_tiny_patch16_224", 48,
                {"img_size": 48, "fused": False} | SMALL, {"proved": 2},
            ),
            ("ViT-S, fused", "vit_small_patch16_224", 224, {}, {"proved": 12}),
            ("ViT-S, by hand", "vit_small_patch16_224", 224, {"fused": False}, {"proved": 12}),
            (
                "EVA-02", "eva02_tiny_patch14_224", 42,
                {"img_size": 42} | SMALL | {"embed_dim": 48}, {"proved": 2},
            ),
            (
                "BEiT, by hand", "beit_base_patch16_224", 48,
                {"img_size": 48, "fused": False} | SMALL, {"proved": 2},
            ),
            (
                "Swin, fused", "swin_tiny_patch4_window7_224", 56,
                {"img_size": 56} | SWIN, {"proved": 4},
            ),
            (
                "Swin, by hand", "swin_tiny_patch4_window7_224", 56,
                {"img_size": 56, "fused": False} | SWIN, {"proved": 4},
            ),
            ("Swin v2", "swinv2_tiny_window8_256", 64, {"img_size": 64} | SWIN, {"proved": 4}),
            ("MaxViT", "maxvit_pico_rw_256", 64, {"img_size": 64}, {"proved": 22}),
            ("XCiT", "xcit_nano_12_p16_224", 48, {"img_size": 48} | SMALL, {"proved": 4}),
            ("LeViT", "levit_128s", 112, {"img_size": 112}, {"proved": 11}),
            ("PVT v2", "pvt_v2_b0", 64, {}, {"proved": 8}),
            (
                "VOLO, outlook attention", "volo_d1_224", 64,
                {"img_size": 64}, {"proved": 16, "missed": 4},
            ),
            ("CoaT-lite, no map", "coat_lite_tiny", 64, {"img_size": 64}, {"missed": 8}),
        )
    ),
    Row(
        "timm CaiT, talking heads",
        _timm("cait_xxs24_224", 48, img_size=48, **SMALL),
        proved=2,
        captured=2,
        library="timm",
        says=MIXED,
    ),
]  # fmt: skip


# vit-pytorch, x-transformers, open_clip, whisper


def _lucid(module: str, name: str) -> Callable[[], Built]:
    return lambda: _picture(
        _of(module, name)(
            image_size=48, patch_size=8, num_classes=5, dim=42, depth=2, heads=3, mlp_dim=FORWARD
        ),
        48,
    )


def _x_transformer(**rest: Any) -> Callable[[], Built]:
    def build() -> Built:
        decoder = _of("x_transformers", "Decoder")(dim=42, depth=2, heads=3, **rest)
        model = _of("x_transformers", "TransformerWrapper")(
            num_tokens=61, max_seq_len=32, attn_layers=decoder
        )
        tokens = _tokens(LONG, 61)
        return model, lambda m: m(tokens)

    return build


def _clip_vision() -> Built:
    model = _of("open_clip.transformer", "VisionTransformer")(48, 16, 42, 2, 3, 2.0, output_dim=11)
    return _picture(model, 48)


def _clip_text() -> Built:
    model = _of("open_clip.transformer", "TextTransformer")(
        context_length=LONG, vocab_size=61, width=42, heads=3, layers=2, output_dim=11
    )
    tokens = _tokens(LONG, 61)
    return model, lambda m: m(tokens)


def _whisper(by_hand: bool = False) -> Callable[[], Built]:
    def build() -> Built:
        dims = _of("whisper.model", "ModelDimensions")(8, 19, 42, 3, 2, 61, 23, 42, 3, 2)
        model, tokens, sound = (
            _of("whisper.model", "Whisper")(dims),
            _tokens(11, 61),
            _vectors(2, 8, 38),
        )
        nn.init.normal_(model.decoder.positional_embedding)  # memory that nobody has written to
        if not by_hand:
            return model, lambda m: m(sound, tokens)

        def call(m: nn.Module) -> Tensor:
            with _of("whisper.model", "disable_sdpa")():
                return m(sound, tokens)

        return model, call

    return build


TALKING = {"attn_pre_talking_heads": True, "attn_post_talking_heads": True, "alibi_pos_bias": True}
OTHERS = [
    Row("vit-pytorch ViT", _lucid("vit_pytorch.vit", "ViT"), 2, library="vit_pytorch"),
    Row(
        "vit-pytorch DeepViT, heads mixed",
        _lucid("vit_pytorch.deepvit", "DeepViT"),
        captured=2,
        library="vit_pytorch",
        says=MIXED,
    ),
    Row("x-transformers", _x_transformer(), 2, library="x_transformers"),
    Row("x-transformers, flash", _x_transformer(attn_flash=True), 2, library="x_transformers"),
    Row(
        "x-transformers, rotary, softclamp",
        _x_transformer(rotary_pos_emb=True, attn_softclamp_logits=True),
        2,
        library="x_transformers",
    ),
    Row(
        "x-transformers, ALiBi, grouped heads",
        _x_transformer(alibi_pos_bias=True, attn_kv_heads=1),
        2,
        library="x_transformers",
    ),
    Row(
        "x-transformers, talking heads",
        _x_transformer(**TALKING),
        captured=2,
        library="x_transformers",
        says=MIXED,
    ),
    Row(
        "x-transformers, distances",
        _x_transformer(attn_l2_distance=True),
        missed=2,
        library="x_transformers",
        says="no product of two activations",
    ),
    Row("open_clip VisionTransformer", _clip_vision, 2, library="open_clip"),
    Row("open_clip TextTransformer", _clip_text, 2, library="open_clip"),
    Row("openai-whisper, fused", _whisper(), 6, library="whisper"),
    Row("openai-whisper, by hand", _whisper(by_hand=True), 6, library="whisper"),
]


# diffusers


def _unet(by_hand: bool = False) -> Callable[[], Built]:
    def build() -> Built:
        model = _of("diffusers", "UNet2DConditionModel")(
            sample_size=16, in_channels=4, out_channels=4, layers_per_block=1,
            block_out_channels=(32, 64), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=32,
            attention_head_dim=4, norm_num_groups=8,
        )  # fmt: skip
        if by_hand:
            model.set_attn_processor(_of("diffusers.models.attention_processor", "AttnProcessor")())
        latent, text = _vectors(2, 4, 16, 16), _vectors(2, 7, 32, seed=2)
        return model, lambda m: m(latent, 1, text)[0]

    return build


def _vae() -> Built:
    model = _of("diffusers", "AutoencoderKL")(block_out_channels=(32,), norm_num_groups=8)
    pixels = _vectors(2, 3, 16, 16)
    return model, lambda m: m(pixels)[0]


def _sd3() -> Built:
    model = _of("diffusers", "SD3Transformer2DModel")(
        sample_size=16, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=4, joint_attention_dim=32, caption_projection_dim=32,
        pooled_projection_dim=16, out_channels=4,
    )  # fmt: skip
    given = {
        "hidden_states": _vectors(2, 4, 16, 16),
        "encoder_hidden_states": _vectors(2, 7, 32, seed=2),
        "pooled_projections": _vectors(2, 16, seed=3),
        "timestep": torch.tensor([1.0, 2.0]),
    }
    return model, lambda m: m(**given)[0]


def _flux() -> Built:
    model = _of("diffusers", "FluxTransformer2DModel")(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=16,
        axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    given = {
        "hidden_states": _vectors(2, 19, 4),
        "encoder_hidden_states": _vectors(2, 7, 32, seed=2),
        "pooled_projections": _vectors(2, 16, seed=3),
        "timestep": torch.tensor([1.0, 2.0]),
        "img_ids": torch.zeros(19, 3),
        "txt_ids": torch.zeros(7, 3),
    }
    return model, lambda m: m(**given)[0]


def _gpt2() -> Built:
    from transformers import GPT2Config, GPT2Model

    config = GPT2Config(vocab_size=61, n_positions=128, bos_token_id=0, eos_token_id=0)
    model, tokens = GPT2Model(config), _tokens(128, 61)[:1]
    return model, lambda m: m(tokens)


DIFFUSERS = [
    Row("diffusers UNet2DCondition, fused", _unet(), 8, library="diffusers"),
    Row("diffusers UNet2DCondition, by hand", _unet(by_hand=True), 8, library="diffusers"),
    Row("diffusers AutoencoderKL", _vae, 2, library="diffusers"),
    Row("diffusers SD3Transformer2D", _sd3, 2, library="diffusers"),
    Row("diffusers FluxTransformer2D", _flux, 2, library="diffusers"),
]


def _sharp(build: Callable[[], Built]) -> Callable[[], Built]:
    """Build the model with larger weights, so that its scores are far from alike."""

    def sharper() -> Built:
        with libraries():
            model, call = build()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim > 1:
                    weight *= 2
        return model, call

    return sharper


GPT2 = Row("transformers GPT-2, 12 layers", _gpt2, 12, library="transformers")
#: The rows of real size.
LARGE = {GPT2.name, "timm ViT-S, fused", "timm ViT-S, by hand"}
ROWS = [
    row._replace(build=_sharp(row.build))
    for row in (*TORCH, *OWN, *VISION, *OTHERS, *DIFFUSERS, GPT2)
]


# Runs a script: python -m tests.conformance.foreign examples/diffusion.py
if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    with libraries():
        runpy.run_path(sys.argv[0], run_name="__main__")
