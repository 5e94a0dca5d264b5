"""Models that cut pictures into windows, or into patches in another order than row by row.

Small ones with random weights: changed_cells.py proves where each of their positions stands.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor, nn

from tests.conformance import foreign


class Cutting(NamedTuple):
    """A model, the size of its pictures, and the layers that see something else than a picture."""

    name: str
    build: Callable[[], nn.Module]
    size: tuple[int, int]
    library: str = "transformers"
    others: Callable[[str], bool] = lambda name: False  # the layers whose keys are no cells
    asked_by_others: bool = False  # whether some layers have queries that are no cells


def _foreign(module: str, name: str, *args: Any, **rest: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        with foreign.libraries():
            return foreign._of(module, name)(*args, **rest)

    return build


def _timm(name: str, **rest: Any) -> Callable[[], nn.Module]:
    return _foreign("timm", "create_model", name, num_classes=5, **rest)


def _of(model: str, config: str, **rest: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        made = getattr(transformers, config)(**rest)
        return getattr(transformers, model)(made)

    return build


def none(name: str) -> bool:
    return False


def _inner(file: str, model: str, config: str, **rest: Any) -> Callable[[], nn.Module]:
    """A part of a model of transformers that has no name of its own."""

    def build() -> nn.Module:
        room = f"transformers.models.{file.removesuffix('_swin')}"
        made = getattr(import_module(f"{room}.configuration_{file}"), config)(**rest)
        return getattr(import_module(f"{room}.modeling_{file}"), model)(made)

    return build


def _torchvision_swin(version: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        with foreign.libraries():
            parts = import_module("torchvision.models.swin_transformer")
            return parts.SwinTransformer(
                [4, 4], 12, [2, 2], [2, 3], [5, 5], num_classes=5,
                block=getattr(parts, f"SwinTransformerBlock{version}"),
                downsample_layer=getattr(parts, f"PatchMerging{version}"),
            )  # fmt: skip

    return build


class Sam3(nn.Module):
    """Two layers of SAM 3, whose model asks for torchvision: windows, then the whole picture."""

    def __init__(self) -> None:
        super().__init__()
        parts = import_module("transformers.models.sam3.modeling_sam3")
        config = transformers.Sam3ViTConfig(
            hidden_size=16, intermediate_size=24, num_attention_heads=2, image_size=48,
            patch_size=8, window_size=4,
        )  # fmt: skip
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.layers = nn.Sequential(parts.Sam3ViTLayer(config, 4), parts.Sam3ViTLayer(config, 0))

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.layers(self.patches(pixel_values).permute(0, 2, 3, 1))


SWIN = {"patch_size": 4, "embed_dim": 12, "depths": [2, 2], "num_heads": [2, 3]}
TIMM_SWIN = {"embed_dim": 12, "depths": (2, 2), "num_heads": (2, 3)}
#: 6 x 6 cells in windows of 4, then all of them.
SAM = {
    "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 48,
    "patch_size": 8, "window_size": 4, "global_attn_indexes": [1], "output_channels": 8,
    "mlp_dim": 24, "initializer_range": 0.5,
}  # fmt: skip
HIERA = {
    "image_size": [64, 96], "patch_size": [7, 7], "patch_stride": [4, 4], "patch_padding": [3, 3],
    "embed_dim": 12, "depths": [1, 2, 2, 1], "num_heads": [1, 2, 2, 4], "masked_unit_size": [8, 8],
}  # fmt: skip
ROWS = [
    # 14 x 18 cells in windows of 5, then 7 x 9: padding in both stages, shifted and not
    *(
        Cutting(
            f"{name}{odd}",
            _of(f"{name}Model", f"{name}Config", image_size=size, window_size=5, **SWIN),
            size,
        )
        # of 57 x 74 pixels the last patches are not whole, and 15 x 19 cells are no multiple of two
        for odd, size in (("", (56, 72)), (", odd", (57, 74)))
        for name in ("Swin", "Swinv2", "DonutSwin")
    ),
    Cutting(
        "MaskFormerSwin",
        _inner(
            "maskformer_swin",
            "MaskFormerSwinModel",
            "MaskFormerSwinConfig",
            image_size=56,
            window_size=5,
            **SWIN,
        ),
        (57, 74),
    ),
    Cutting(
        "Swin2SR",
        _of(
            "Swin2SRModel",
            "Swin2SRConfig",
            image_size=15,
            patch_size=1,
            embed_dim=12,
            depths=[2, 2],
            num_heads=[2, 3],
            window_size=5,
        ),
        (15, 20),
    ),
    Cutting("SAM", _of("SamVisionModel", "SamVisionConfig", **SAM), (48, 48)),
    Cutting("SAM 3", Sam3, (48, 48)),
    Cutting("SAM HQ", _of("SamHQVisionModel", "SamHQVisionConfig", **SAM), (48, 48)),
    Cutting(
        "GOT OCR 2",
        _inner("got_ocr2", "GotOcr2VisionEncoder", "GotOcr2VisionConfig", **SAM),
        (48, 48),
    ),
    Cutting(
        "SLANeXt", _inner("slanext", "SLANeXtVisionEncoder", "SLANeXtVisionConfig", **SAM), (48, 48)
    ),
    Cutting(
        "PP-FormulaNet",
        _inner(
            "pp_formulanet",
            "PPFormulaNetVisionModel",
            "PPFormulaNetVisionConfig",
            post_conv_in_channels=8,
            **SAM,
        ),
        (48, 48),
    ),
    Cutting(
        "DeepSeek-OCR 2",
        _inner(
            "deepseek_ocr2",
            "DeepseekOcr2SamVisionEncoder",
            "DeepseekOcr2SamVisionConfig",
            downsample_channels=[8, 8],
            **SAM,
        ),
        (48, 48),
    ),
    Cutting(
        "Unlimited-OCR",
        _inner(
            "unlimited_ocr",
            "UnlimitedOcrSamVisionEncoder",
            "UnlimitedOcrSamVisionConfig",
            downsample_channels=[8, 8],
            **SAM,
        ),
        (48, 48),
    ),
    Cutting(
        "ViTDet",
        _of(
            "VitDetModel",
            "VitDetConfig",
            hidden_size=12,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=(48, 72),
            patch_size=8,
            window_size=4,
            window_block_indices=[0],
        ),
        (48, 72),
    ),
    Cutting(
        "SAM 2",
        _inner(
            "sam2",
            "Sam2HieraDetModel",
            "Sam2HieraDetConfig",
            hidden_size=12,
            image_size=[64, 96],
            blocks_per_stage=[1, 2, 3, 2],
            embed_dim_per_stage=[12, 24, 48, 96],
            num_attention_heads_per_stage=[1, 2, 4, 8],
            window_size_per_stage=[8, 4, 6, 3],
            global_attention_blocks=[5],
        ),
        (64, 96),
    ),
    Cutting("Hiera", _of("HieraModel", "HieraConfig", **HIERA), (64, 96)),
    Cutting(
        "Florence-2",
        _inner(
            "florence2",
            "Florence2VisionBackbone",
            "Florence2VisionConfig",
            embed_dim=(12, 24),
            num_heads=(2, 3),
            num_groups=(2, 3),
            depths=(1, 1),
            window_size=5,
            patch_size=(7, 3),
            patch_stride=(4, 2),
            patch_padding=(3, 1),
            patch_prenorm=(False, True),
        ),
        (56, 72),
        others=lambda name: "channel" in name,
    ),
    *(
        Cutting(f"timm {name}", _timm(model, img_size=size, **rest), size, "timm", others)
        for name, model, size, rest, others in (
            (
                "Swin",
                "swin_tiny_patch4_window7_224",
                (56, 72),
                {"window_size": 5} | TIMM_SWIN,
                none,
            ),
            ("Swin v2", "swinv2_tiny_window8_256", (56, 72), {"window_size": 5} | TIMM_SWIN, none),
            ("Swin v2 cr", "swinv2_cr_tiny_224", (56, 72), {"window_size": 5} | TIMM_SWIN, none),
            ("MaxViT", "test_maxvit", (64, 96), {}, none),
            (
                "MaxViT, channels first",
                "test_maxvit",
                (64, 96),
                {"transformer_use_nchw_attn": True, "transformer_norm_layer": "layernorm2d"},
                none,
            ),
            ("MaxxViT", "maxxvit_rmlp_nano_rw_256", (64, 96), {"depths": (1, 1, 1, 1)}, none),
            (
                "MaxViT, both at once",
                "maxvit_tiny_pm_256",
                (64, 96),
                {"depths": (1, 1, 1, 1)},
                none,
            ),
            (
                "SAM",
                "samvit_base_patch16",
                (80, 112),
                {
                    "embed_dim": 12,
                    "num_heads": 2,
                    "depth": 2,
                    "global_attn_indexes": (1,),
                    "window_size": 3,
                },
                none,
            ),
            ("Hiera", "hiera_tiny_224", (64, 96), {"embed_dim": 12, "stages": (1, 2, 2, 1)}, none),
        )
    ),
    Cutting(
        "timm Twins",
        _timm(
            "twins_svt_small",
            img_size=(128, 192),
            embed_dims=(12, 24, 36, 48),
            num_heads=(2, 2, 3, 3),
            depths=(2, 2, 2, 2),
            wss=(5, 5, 5, 5),
        ),
        (128, 192),
        "timm",
        lambda name: name.split(".")[2] == "1",
    ),
    Cutting(
        "timm GC ViT",
        _timm("gcvit_xxtiny", img_size=(96, 128), embed_dim=16),
        (96, 128),
        "timm",
        asked_by_others=True,
    ),
    Cutting("timm NesT", _timm("nest_tiny", img_size=64), (64, 64), "timm"),
    Cutting("timm MobileViT", _timm("mobilevit_xxs"), (64, 128), "timm"),
    Cutting(
        "MobileViT",
        _of(
            "MobileViTModel",
            "MobileViTConfig",
            image_size=64,
            hidden_sizes=[12, 24, 36],
            neck_hidden_sizes=[4, 4, 8, 8, 12, 12, 16],
            num_attention_heads=2,
        ),
        (64, 128),
    ),
    Cutting(
        "LW-DETR",
        _of(
            "LwDetrViTBackbone",
            "LwDetrViTConfig",
            hidden_size=12,
            num_hidden_layers=3,
            num_attention_heads=2,
            pretrain_image_size=64,
            image_size=64,
            patch_size=4,
            num_windows=4,
            window_block_indices=[0, 2],
            out_indices=[2],
        ),
        (48, 80),
    ),
    Cutting(
        "timm SAM 2",
        _timm(
            "sam2_hiera_tiny",
            embed_dim=12,
            stages=(1, 2, 3, 2),
            window_spec=(8, 4, 6, 3),
            global_att_blocks=(5,),
        ),
        (64, 96),
        "timm",
    ),
    *(
        Cutting(
            f"RF-DETR, {size[0]} x {size[1]}",
            _inner(
                "rf_detr",
                "RfDetrDinov2Backbone",
                "RfDetrDinov2Config",
                hidden_size=12,
                num_hidden_layers=3,
                num_attention_heads=2,
                image_size=64,
                patch_size=8,
                num_windows=2,
                window_block_indexes=[0, 2],
                out_indices=[3],
            ),
            size,
        )
        for size in ((64, 64), (64, 96))
    ),
    Cutting("timm TinyViT", _timm("tiny_vit_5m_224", depths=(1, 1, 1, 1)), (96, 128), "timm"),
    Cutting(
        "timm Swin, another size",
        _timm("swin_tiny_patch4_window7_224", strict_img_size=False, window_size=5, **TIMM_SWIN),
        (60, 72),
        "timm",
    ),
    Cutting(
        "timm DaViT",
        _timm(
            "davit_tiny",
            embed_dims=(12, 24, 36, 48),
            num_heads=(2, 2, 3, 3),
            depths=(1, 1, 1, 1),
            window_size=5,
        ),
        (64, 96),
        "timm",
        lambda name: name.split(".")[4] == "1",  # their keys are channels
    ),
    *(
        Cutting(
            f"torchvision Swin{version}",
            _torchvision_swin(version),
            (58, 72),
            "torchvision",
        )
        for version in ("", "V2")
    ),
    Cutting(
        "torchvision MaxViT",
        _foreign(
            "torchvision.models",
            "MaxVit",
            (48, 48),
            stem_channels=8,
            partition_size=3,
            block_channels=[8, 16],
            block_layers=[1, 1],
            head_dim=4,
            stochastic_depth_prob=0.0,
        ),
        (48, 48),
        "torchvision",
    ),
]


# Several pictures in one sequence

#: (frames, rows, columns): windows of 3 x 3 blocks of 2 x 2 patches, not all of them whole.
GRIDS = torch.tensor([[1, 6, 4], [2, 4, 10], [1, 10, 14]])
PATCH = 4
TOWERS = {
    "cohere_compass": "CohereCompassVisionModel",
    "exaone4_5": "Exaone4_5_VisionModel",
    "glm4v": "Glm4vVisionModel",
    "glm4v_moe": "Glm4vMoeVisionModel",
    "glm5_next": "Glm5NextVisionModel",
    "glm_ocr": "GlmOcrVisionModel",
    "qwen2_5_omni": "Qwen2_5OmniVisionEncoder",
    "qwen2_5_vl": "Qwen2_5_VisionTransformerPretrainedModel",
    "qwen2_vl": "Qwen2VisionTransformerPretrainedModel",
    "qwen3_5": "Qwen3_5VisionModel",
    "qwen3_5_moe": "Qwen3_5MoeVisionModel",
    "qwen3_omni_moe": "Qwen3OmniMoeVisionEncoder",
    "qwen3_vl": "Qwen3VLVisionModel",
    "qwen3_vl_moe": "Qwen3VLMoeVisionModel",
    "qwen4_exp": "Qwen4ExpVisionModel",
}


def tower(family: str) -> nn.Module:
    """A tower that takes patches of pictures of any size."""
    kind = getattr(import_module(f"transformers.models.{family}.modeling_{family}"), TOWERS[family])
    sizes = {
        "depth": 2, "hidden_size": 16, "num_heads": 2, "intermediate_size": 24,
        "patch_size": PATCH, "out_hidden_size": 16,
    }  # fmt: skip
    known = kind.config_class().to_dict()
    if "embed_dim" in known:
        sizes["embed_dim"] = 16
    if "num_key_value_heads" in known:
        sizes["num_key_value_heads"] = 2
    if "window_size" in known:
        sizes |= {"window_size": 6 * PATCH, "fullatt_block_indexes": [1]}
    if "deepstack_visual_indexes" in known:
        sizes["deepstack_visual_indexes"] = [0]
    return kind(kind.config_class(**sizes)).eval()
