"""Diffusion models of diffusers with tiny random weights, and latents of known sizes.

Two times the same call, with one patch of the latent or one token of the text changed, show on
which positions of q and k that patch or token stands, if nothing else in the model takes it there.
`Case.still` makes it so: attention adds nothing, a convolution sees its middle alone, and there are
no norms over several positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.conformance.foreign import libraries

#: Samples, tokens of a text, patches of a picture, and frames of a video.
BATCH, TEXT, ROWS, COLUMNS, FRAMES = 3, 11, 5, 7, 2
D_TEXT, D_POOLED = 32, 16


def vectors(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Case(NamedTuple):
    """A class of diffusers, its config, and what it is called with."""

    model: str
    config: Mapping[str, Any]
    axes: str = "chw"  # of the latent of one sample; "nc" where its patches come as a sequence
    rest: Callable[[], dict[str, Any]] = dict  # the other arguments
    mixing: tuple[str, ...] = ()  # modules that take a patch or a token to other positions
    patch: int = 2  # places of the latent along a side of a patch
    long: int = 1  # and along its frames
    channels: int = 4
    named: str = "hidden_states"  # the argument that is the latent
    texts: tuple[tuple[str, int, int], ...] = (("encoder_hidden_states", TEXT, D_TEXT),)
    grid: tuple[int, ...] = (ROWS, COLUMNS)
    note: str = ""

    def having(self, **config: Any) -> Case:
        """The case with other values in its config."""
        return self._replace(config={**self.config, **config})

    def given(self) -> dict[str, Any]:
        """The arguments of a call."""
        sizes = {"c": self.channels, "n": math.prod(self.grid), "f": FRAMES * self.long}
        sizes |= {"h": self.grid[-2] * self.patch, "w": self.grid[-1] * self.patch}
        found = {self.named: vectors(BATCH, *(sizes[axis] for axis in self.axes))}
        for seed, (name, length, d) in enumerate(self.texts, start=2):
            found[name] = vectors(BATCH, length, d, seed=seed)
        with libraries():
            return found | self.rest()

    def place(self, cell: tuple[int, ...]) -> tuple[int | slice, ...]:
        """Where the patch of a cell stands in the latent of one sample."""
        number = torch.arange(math.prod(self.grid)).view(self.grid)[cell]
        found = {"c": slice(None), "n": int(number), "f": _side(cell[0], self.long)}
        found |= {"h": _side(cell[-2], self.patch), "w": _side(cell[-1], self.patch)}
        return tuple(found[axis] for axis in self.axes)

    def build(self) -> nn.Module:
        with libraries():
            return getattr(import_module("diffusers"), self.model)(**self.config).eval()

    def still(self) -> nn.Module:
        """The model, in which no position reaches another."""
        model = self.build()
        for name, module in [*model.named_modules()]:
            if name.endswith(("to_out.0", "to_add_out")) or name.startswith(self.mixing or "-"):
                for weight in module.parameters():
                    nn.init.zeros_(weight)
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                module.weight.data *= torch.tensor([[0, 0, 0], [0, 1, 0], [0, 0, 0]])
            for child, inner in module.named_children():
                if isinstance(inner, nn.GroupNorm):
                    setattr(module, child, nn.Identity())
        return model


def _side(at: int, size: int) -> slice:
    return slice(size * at, size * (at + 1))


# What the classes are called with, besides latents and texts


def times(**others: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {"timestep": torch.arange(1.0, BATCH + 1), **others}


def places(*pictures: float) -> Tensor:
    """The ids of Flux: a number of the picture, the row and the column of each patch."""
    cells = torch.cartesian_prod(torch.arange(float(ROWS)), torch.arange(float(COLUMNS)))
    return torch.cat([F.pad(cells, (1, 0), value=number) for number in pictures])


def rotary(name: str, *args: Any, **rest: Any) -> Any:
    """Rotary positions, as a pipeline of diffusers makes them."""
    return getattr(import_module("diffusers.models.embeddings"), name)(*args, **rest)


SMALL = {"num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "num_layers": 2}
MASK = torch.ones(BATCH, TEXT, dtype=torch.long)
PAIRS = torch.ones(BATCH, 2)
POOLED = {"pooled_projections": vectors(BATCH, D_POOLED, seed=5)}
UNET = {
    "sample_size": 16, "layers_per_block": 1, "block_out_channels": (32, 64), "norm_num_groups": 8,
}  # fmt: skip
SD3 = SMALL | {
    "sample_size": 16, "patch_size": 2, "joint_attention_dim": D_TEXT, "out_channels": 4,
    "caption_projection_dim": 16, "pooled_projection_dim": D_POOLED, "dual_attention_layers": (0,),
}  # fmt: skip
NO_POOL = {
    "patch_size": 1, "in_channels": 4, "num_layers": 1, "num_single_layers": 1,
    "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": D_TEXT,
    "axes_dims_rope": (4, 4, 8),
}  # fmt: skip
FLUX = NO_POOL | {"pooled_projection_dim": D_POOLED}
ONE_STREAM = ("single_transformer_blocks.0.proj_out",)
IDS = {"img_ids": places(0), "txt_ids": torch.zeros(TEXT, 3)}
COGVIDEO = SMALL | {
    "out_channels": 4, "time_embed_dim": 2, "text_embed_dim": D_TEXT, "sample_width": 14,
    "sample_height": 10, "sample_frames": 5, "patch_size": 2, "max_text_seq_length": TEXT,
}  # fmt: skip
WAN = SMALL | {
    "patch_size": (1, 2, 2), "attention_head_dim": 12, "out_channels": 4, "text_dim": D_TEXT,
    "freq_dim": 16, "ffn_dim": 32, "rope_max_seq_len": 32,
}  # fmt: skip
VIDEO = (FRAMES, ROWS, COLUMNS)

CASES = [
    Case(
        "UNet2DConditionModel",
        UNET | {
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "attention_head_dim": 4,
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "cross_attention_dim": D_TEXT,
        },
        rest=lambda: {"timestep": 1}, mixing=("up_blocks.0.upsamplers",), patch=1, named="sample",
    ),
    Case(
        "UNet2DConditionModel",
        UNET | {
            "down_block_types": ("SimpleCrossAttnDownBlock2D", "DownBlock2D"),
            "mid_block_type": "UNetMidBlock2DSimpleCrossAttn", "cross_attention_dim": D_TEXT,
            "up_block_types": ("UpBlock2D", "SimpleCrossAttnUpBlock2D"), "attention_head_dim": 4,
        },
        rest=lambda: {"timestep": 1}, mixing=("up_blocks.0.upsamplers",), patch=1, named="sample",
        grid=(2 * ROWS, 2 * COLUMNS), note="text and patches as keys",
    ),
    Case(
        "UNet2DModel",
        UNET | {
            "down_block_types": ("AttnDownBlock2D", "DownBlock2D"), "in_channels": 1,
            "up_block_types": ("UpBlock2D", "AttnUpBlock2D"), "out_channels": 1,
        },
        rest=lambda: {"timestep": 1}, mixing=("up_blocks.0.upsamplers",), patch=1, channels=1,
        named="sample", texts=(), grid=(2 * ROWS, 2 * COLUMNS),
    ),
    Case(
        "AutoencoderKL", {"block_out_channels": (32,), "norm_num_groups": 8},
        patch=1, channels=3, named="sample", texts=(),
    ),
    Case("SD3Transformer2DModel", SD3, rest=times(**POOLED)),
    Case("FluxTransformer2DModel", FLUX, "nc", times(**IDS, **POOLED), ONE_STREAM),
    Case(
        "ChromaTransformer2DModel",
        NO_POOL | {
            "approximator_num_channels": 8, "approximator_hidden_dim": 16, "approximator_layers": 1,
        },
        "nc", times(**IDS), ONE_STREAM,
    ),
    Case(
        "Flux2Transformer2DModel",
        NO_POOL | {"timestep_guidance_channels": 16, "axes_dims_rope": (4, 4, 4, 4)},
        "nc",
        times(
            img_ids=F.pad(places(0), (0, 1)), txt_ids=torch.zeros(TEXT, 4),
            guidance=torch.ones(BATCH),
        ),
        ("single_transformer_blocks.0.attn.to_out",),
    ),
    Case("BriaTransformer2DModel", FLUX, "nc", times(**IDS), ONE_STREAM),
    Case("LongCatImageTransformer2DModel", FLUX, "nc", times(**IDS), ONE_STREAM),
    Case(
        "OvisImageTransformer2DModel", NO_POOL | {"out_channels": 4}, "nc", times(**IDS), ONE_STREAM
    ),
    Case(
        "QwenImageTransformer2DModel",
        {
            "patch_size": 2, "in_channels": 16, "out_channels": 4, "num_layers": 2,
            "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": D_TEXT,
            "axes_dims_rope": (4, 4, 8),
        },
        "nc",
        times(encoder_hidden_states_mask=MASK, img_shapes=[[(1, ROWS, COLUMNS)]] * BATCH),
        channels=16,
    ),
    Case(
        "AuraFlowTransformer2DModel",
        {
            "sample_size": 32, "patch_size": 2, "in_channels": 4, "num_mmdit_layers": 1,
            "num_single_dit_layers": 1, "attention_head_dim": 8, "num_attention_heads": 4,
            "caption_projection_dim": 32, "joint_attention_dim": D_TEXT, "pos_embed_max_size": 256,
        },
        rest=times(),
    ),
    Case(
        "CogView4Transformer2DModel",
        SMALL | {
            "patch_size": 2, "out_channels": 4, "text_embed_dim": D_TEXT, "time_embed_dim": 8,
            "condition_dim": 4, "sample_size": 16, "rope_axes_dim": (16, 16),
        },
        rest=times(**dict.fromkeys(("original_size", "target_size", "crop_coords"), PAIRS)),
    ),
    Case(
        "CogView3PlusTransformer2DModel",
        SMALL | {
            "patch_size": 2, "out_channels": 4, "text_embed_dim": D_TEXT, "time_embed_dim": 8,
            "condition_dim": 4, "sample_size": 16, "pos_embed_max_size": 16,
        },
        rest=times(**dict.fromkeys(("original_size", "target_size", "crop_coords"), PAIRS)),
    ),
    Case(
        "PixArtTransformer2DModel",
        SMALL | {
            "out_channels": 4, "cross_attention_dim": 16, "sample_size": 8, "patch_size": 2,
            "caption_channels": D_TEXT, "norm_num_groups": 1, "use_additional_conditions": False,
        },
        rest=times(added_cond_kwargs={"resolution": None, "aspect_ratio": None}),
    ),
    Case(
        "DiTTransformer2DModel",  # which makes square pictures alone
        SMALL | {
            "out_channels": 4, "sample_size": 10, "patch_size": 2, "num_embeds_ada_norm": 8,
            "norm_num_groups": 1,
        },
        rest=times(class_labels=torch.arange(BATCH)), texts=(), grid=(ROWS, ROWS),
    ),
    Case(
        "SanaTransformer2DModel",
        SMALL | {
            "out_channels": 4, "num_cross_attention_heads": 2, "cross_attention_head_dim": 8,
            "cross_attention_dim": 16, "caption_channels": D_TEXT, "sample_size": 8,
            "patch_size": 2,
        },
        rest=times(),
    ),
    Case(
        "HunyuanDiT2DModel",
        {
            "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "patch_size": 2,
            "sample_size": 8, "hidden_size": 32, "num_layers": 4, "cross_attention_dim": D_TEXT,
            "cross_attention_dim_t5": 16, "pooled_projection_dim": 16, "text_len": TEXT,
            "text_len_t5": TEXT + 2,
        },
        rest=lambda: times(
            text_embedding_mask=MASK, text_embedding_mask_t5=F.pad(MASK, (0, 2), value=1),
            image_meta_size=torch.ones(BATCH, 6), style=torch.zeros(BATCH, dtype=torch.long),
            image_rotary_emb=rotary(
                "get_2d_rotary_pos_embed", 16, ((0, 0), (ROWS, COLUMNS)), (ROWS, COLUMNS),
                output_type="pt",
            ),
        )(),
        mixing=("time_extra_emb",),
        texts=(
            ("encoder_hidden_states", TEXT, D_TEXT), ("encoder_hidden_states_t5", TEXT + 2, 16),
        ),
    ),
    Case(
        "LuminaNextDiT2DModel",
        {
            "sample_size": 8, "patch_size": 2, "in_channels": 4, "hidden_size": 24, "num_layers": 2,
            "num_attention_heads": 3, "num_kv_heads": 1, "multiple_of": 16,
            "ffn_dim_multiplier": None, "learn_sigma": False, "cross_attention_dim": D_TEXT,
        },
        rest=lambda: times(
            encoder_mask=MASK, cross_attention_kwargs={},
            image_rotary_emb=rotary("get_2d_rotary_pos_embed_lumina", 8, 16, 16),
        )(),
        mixing=("time_caption_embed", "layers.0.attn2.to_out", "layers.1.attn2.to_out"),
    ),
    Case("CogVideoXTransformer3DModel", COGVIDEO, "fchw", times(), grid=VIDEO),
    Case(
        "CogVideoXTransformer3DModel",
        COGVIDEO | {"patch_size_t": 2, "use_rotary_positional_embeddings": True},
        "fchw", times(), grid=VIDEO, long=2, note="two frames a patch",
    ),
    Case("WanTransformer3DModel", WAN, "cfhw", times(), grid=VIDEO),
    Case("SkyReelsV2Transformer3DModel", WAN, "cfhw", times(), grid=VIDEO),
    Case(
        "LTXVideoTransformer3DModel",
        SMALL | {"out_channels": 4, "cross_attention_dim": 16, "caption_channels": D_TEXT},
        "nc",
        times(encoder_attention_mask=MASK, num_frames=FRAMES, height=ROWS, width=COLUMNS),
        grid=VIDEO,
    ),
    Case(
        "HunyuanVideoTransformer3DModel",
        {
            "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 10,
            "num_layers": 1, "num_single_layers": 1, "num_refiner_layers": 1, "patch_size": 2,
            "patch_size_t": 1, "guidance_embeds": False, "text_embed_dim": D_TEXT,
            "pooled_projection_dim": D_POOLED, "rope_axes_dim": (2, 4, 4), "mlp_ratio": 2.0,
        },
        "cfhw", times(encoder_attention_mask=MASK, **POOLED),
        (*ONE_STREAM, "context_embedder.time_text_embed"), grid=VIDEO,
    ),
]  # fmt: skip
