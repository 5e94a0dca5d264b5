"""Models that read a picture row by row, with tiny sizes and random weights, and what they make."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor, nn

from tests.conformance.families import SMALL

#: A model, what it reads, and what calls it on that.
Built = tuple[nn.Module, Tensor, Callable[[nn.Module, Tensor], object]]
NOTHING: Mapping[str, Any] = MappingProxyType({})


class Tower(NamedTuple):
    """A model, and how its axes are proved: see `changed_pixels.prove`."""

    name: str
    build: Callable[[], Built]
    square: int = 1
    unknown: int = 0  # how many layers have queries, or keys, that no axis names
    why: str = ""  # why these are not named
    library: str = "transformers"


def random_weights(model: nn.Module) -> nn.Module:
    """Weights that let every pixel through: some models begin with 0, or almost."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.3, generator=generator)
            elif weight.numel() and weight.abs().max() < 1e-3:  # of a layer's scale
                nn.init.ones_(weight)
    return model.eval()


def pixels(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def config(kind: Any, **given: Any) -> Any:
    """A configuration of transformers with the sizes of SMALL."""
    known = kind().to_dict()
    small = {
        name: size
        for name, size in SMALL.items()
        if name in known and not isinstance(known[name], list | tuple | dict)
    }
    return kind(**{**small, **given})


def model_of(name: str, made: Any) -> nn.Module:
    """A model of transformers under sdpa, or under eager where sdpa is refused."""
    kind = getattr(transformers, name)
    try:
        model = kind._from_config(made, attn_implementation="sdpa")
    except ValueError:
        model = kind._from_config(made, attn_implementation="eager")
    return random_weights(model)


def tower(name: str, *size: int, frames: int = 0, square: int = 1, **given: Any) -> Tower:
    """A model of transformers that reads pictures of a size: one side, or two."""

    def build() -> Built:
        kind = getattr(transformers, name).config_class
        sides = {} if "image_size" not in kind().to_dict() else {"image_size": _one(size)}
        model = model_of(name, config(kind, **sides, **given))
        x = pixels(2, *((frames,) if frames else ()), 3, size[0], size[-1])
        return model, x, lambda m, x: m(x)

    return Tower(name, build, square)


def _one(size: tuple[int, ...]) -> int | list[int]:
    return size[0] if len(size) == 1 else list(size)


# transformers

#: Those that are told how high and how wide their pictures are.
OBLONG = (
    "ViTModel", "DeiTModel", "BeitModel", "Data2VecVisionModel", "DINOv3ViTModel", "ViTMSNModel",
    "YolosModel", "YolosForObjectDetection", "IJepaModel", "FlavaImageModel", "Sapiens2Model",
    "VitDetModel",
)  # fmt: skip
SQUARE = (
    "Dinov2Model", "Dinov2Backbone", "Dinov2WithRegistersModel", "CLIPVisionModel", "DPTModel",
    "BlipVisionModel", "Blip2VisionModel", "InstructBlipVisionModel", "OwlViTVisionModel",
    "Owlv2VisionModel", "GitVisionModel", "AltCLIPVisionModel", "ChineseCLIPVisionModel",
    "CLIPSegVisionModel", "MetaClip2VisionModel", "MLCDVisionModel", "PixioModel",
    "JanusVisionModel", "Tipsv2VisionModel",
)  # fmt: skip
PROBE = "a learned query reads the patches in the end"
VIDEO = {"frames": 4, "num_frames": 4}


def _pair(name: str, text: int) -> Tower:
    """CLIP or SigLIP as a whole, with a text of so many tokens."""

    def build() -> Built:
        kinds = [getattr(transformers, f"{name}{part}Config") for part in ("", "Text", "Vision")]
        parts = [config(kind) for kind in kinds[1:]]
        if name == "Siglip":
            parts[0].projection_size = parts[0].hidden_size
        made = kinds[0](text_config=parts[0].to_dict(), vision_config=parts[1].to_dict())
        tokens = torch.randint(3, 60, (2, text), generator=torch.Generator().manual_seed(2))
        return (
            model_of(f"{name}Model", made),
            pixels(2, 3, 32, 32),
            lambda m, x: m(input_ids=tokens, pixel_values=x),
        )

    probe = name == "Siglip"
    return Tower(f"{name}Model, {text} tokens", build, unknown=probe, why=PROBE * probe)


def _captions() -> Built:
    """A ViT, and a decoder whose text has as many tokens as the picture has keys."""
    made = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        config(transformers.ViTConfig),
        config(transformers.BertConfig, is_decoder=True, add_cross_attention=True),
    )
    tokens = torch.randint(3, 60, (2, 17), generator=torch.Generator().manual_seed(2))
    model = random_weights(transformers.VisionEncoderDecoderModel(made))
    return model, pixels(2, 3, 32, 32), lambda m, x: m(decoder_input_ids=tokens, pixel_values=x)


def _detr(name: str, queries: int) -> Callable[[], Built]:
    """DETR on a feature map of 3 x 5 cells."""

    def build() -> Built:
        backbone = transformers.ResNetConfig(
            embedding_size=16, hidden_sizes=[16, 16, 24, 32], depths=[1, 1, 1, 1],
            layer_type="basic", out_features=["stage4"],
        )  # fmt: skip
        given: dict[str, Any] = {
            "backbone_config": backbone,
            "backbone": None,
            "num_queries": queries,
        }
        given |= {"use_timm_backbone": False, "use_pretrained_backbone": False}
        made = config(getattr(transformers, f"{name}Config"), **given)
        return model_of(f"{name}Model", made), pixels(2, 3, 96, 160), lambda m, x: m(x)

    return build


def _siglip2() -> Built:
    """Two pictures of 3 x 5 and 3 x 4 patches, which a processor has cut."""
    model = model_of("Siglip2VisionModel", config(transformers.Siglip2VisionConfig, num_patches=16))
    shapes, mask = torch.tensor([[3, 5], [3, 4]]), torch.ones(2, 15, dtype=torch.long)
    mask[1, 12:] = 0

    def call(m: nn.Module, x: Tensor) -> object:
        cut = x.unflatten(3, (5, 8)).unflatten(2, (3, 8)).permute(0, 2, 4, 3, 5, 1)
        listed = cut.reshape(2, 15, 192)
        narrow = cut[1, :, :4].reshape(12, 192)
        listed[1] = torch.cat((narrow, torch.zeros(3, 192)))
        return m(pixel_values=listed, pixel_attention_mask=mask, spatial_shapes=shapes)

    return model, pixels(2, 3, 24, 40), call


TRANSFORMERS = [
    Tower("Siglip2VisionModel", _siglip2, unknown=1, why=PROBE),
    *(tower(name, 24, 40) for name in OBLONG),
    *(tower(name, 32) for name in SQUARE),
    tower("InternVLVisionModel", 32, patch_size=[8, 8]),
    *(
        tower(name, 32)._replace(unknown=1, why=PROBE)
        for name in ("SiglipVisionModel", "Aimv2VisionModel")
    ),
    tower("VideoMAEModel", 24, 40, **VIDEO),
    tower("VivitModel", 24, 40, tubelet_size=[2, 8, 8], **VIDEO),
    tower(
        "VJEPA2Model",
        24,
        40,
        frames=4,
        frames_per_clip=4,
        num_pooler_layers=1,
        pred_num_hidden_layers=2,
    )._replace(unknown=4, why="the predictor reads chosen patches"),
    tower("TimesformerModel", 32, frames=3, num_frames=3)._replace(
        unknown=4, why="each patch reads itself in all frames"
    ),
    *(tower(name, 64, square=32) for name in ("SegformerModel", "GLPNModel", "PvtV2Model")),
    tower("PvtModel", 64),
    tower("CvtModel", 64, square=32),
    *(_pair(name, text) for name in ("CLIP", "Siglip") for text in (16, 17)),
    Tower("VisionEncoderDecoderModel", _captions),
    *(
        Tower(
            f"{name}, {queries} queries", _detr(name, queries), 32, unknown=6, why="learned queries"
        )
        for name, queries in (("Detr", 7), ("Detr", 15), ("TableTransformer", 7))
    ),
]

#: Families whose positions are not named, and why.
UNNAMED = [
    tower("ViTMAEModel", 32)._replace(why="patches are chosen, and put into a random order"),
    tower("ViTMAEModel", 32, mask_ratio=0.0)._replace(
        name="ViTMAEModel, all patches", why="patches are put into a random order"
    ),
    tower("RadioModel", 32)._replace(why="a matrix, and no convolution, cuts the picture"),
]


# Other libraries


def _of(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def timm(
    name: str, height: int, width: int, square: int = 1, unknown: int = 0, **given: Any
) -> Tower:
    def build() -> Built:
        model = _of("timm", "create_model")(name, num_classes=5, **given)
        return random_weights(model), pixels(2, 3, height, width), lambda m, x: m(x)

    said = ", ".join(f"{key}={value}" for key, value in given.items() if key not in TINY)
    return Tower(f"timm {name} {said}", build, square, unknown, library="timm")


def _other(library: str, module: str, name: str, **given: Any) -> Tower:
    def build() -> Built:
        model = _of(module, name)(**given)
        return random_weights(model), pixels(2, 3, 48, 48), lambda m, x: m(x)

    return Tower(f"{module} {name}", build, library=library)


TINY = {"depth": 2, "embed_dim": 48, "num_heads": 3}
OBLONG_TINY = TINY | {"img_size": (48, 80)}
VIT = "vit_tiny_patch16_224"
LUCID = {"image_size": 48, "patch_size": 8, "num_classes": 5, "dim": 48, "depth": 2, "heads": 3}

OTHERS = [
    timm(VIT, 48, 80, **OBLONG_TINY),
    timm(VIT, 48, 80, dynamic_img_size=True, img_size=32, **TINY),
    timm(VIT, 55, 75, dynamic_img_size=True, dynamic_img_pad=True, img_size=32, **TINY),
    timm(VIT, 48, 80, reg_tokens=4, no_embed_class=True, **OBLONG_TINY),
    timm(VIT, 48, 80, reg_tokens=3, class_token=False, global_pool="avg", **OBLONG_TINY),
    timm(VIT, 48, 80, 1, 1, class_token=False, global_pool="map", **OBLONG_TINY),
    timm(VIT, 48, 80, 1, 1, global_pool="map", **OBLONG_TINY),
    timm("deit_tiny_distilled_patch16_224", 48, 80, **OBLONG_TINY),
    timm("deit3_small_patch16_224", 48, 80, **OBLONG_TINY),
    timm("eva02_tiny_patch14_224", 42, 70, **TINY | {"img_size": (42, 70)}),
    timm("beit_base_patch16_224", 48, 80, **OBLONG_TINY),
    timm("cait_xxs24_224", 48, 80, **OBLONG_TINY),
    timm("vit_base_patch16_dinov3", 48, 80, **OBLONG_TINY),
    timm("vit_relpos_base_patch16_cls_224", 48, 80, **OBLONG_TINY),
    timm("pvt_v2_b0", 64, 64, 32),
    timm("twins_pcpvt_small", 64, 64, 32, img_size=64),
    timm("volo_d1_224", 64, 64, 32, img_size=64),
    _other(
        "torchvision", "torchvision.models", "VisionTransformer", image_size=48, patch_size=16,
        num_layers=2, num_heads=3, hidden_dim=48, mlp_dim=53,
    ),
    _other(
        "open_clip", "open_clip.transformer", "VisionTransformer", image_size=48, patch_size=16,
        width=48, layers=2, heads=3, mlp_ratio=2.0, output_dim=11,
    ),
    *(
        _other("vit_pytorch", f"vit_pytorch.{module}", name, **LUCID, mlp_dim=53)
        for module, name in (
            ("vit", "ViT"),
            ("simple_vit", "SimpleViT"),
            ("simple_vit_with_register_tokens", "SimpleViT"),
            ("parallel_vit", "ViT"),
        )
    ),
]  # fmt: skip
