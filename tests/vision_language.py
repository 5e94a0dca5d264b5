"""Tiny vision-language models of transformers, with prompts of one and of two pictures.

The prompts of a batch differ: the first has one picture and padding before it, the second has two.
Where a processor runs without torchvision it makes the inputs.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedTokenizerFast

from tests.tiny import fill
from wqkv.record.watch import Seen, watch
from wqkv.study.vision_language import OpenVisionLanguage

MARKS = """
<pad> <s> <image> <|image_pad|> <|video_pad|> <|vision_start|> <|vision_end|> [IMG] [IMG_BREAK]
[IMG_END] <video>
"""
WORDS = [
    *MARKS.split(),
    *["what", "is", "bright", "here", "and", "there", "in", "the", "left", "right"],
]
ID = {word: at for at, word in enumerate(WORDS)}
TEXT = {
    "hidden_size": 24,
    "intermediate_size": 29,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 4,
    "vocab_size": 61,
    "max_position_embeddings": 4099,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
#: Of towers that see square pictures.
VISION = {
    "hidden_size": 12,
    "intermediate_size": 17,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "patch_size": 7,
}
MROPE = {"rope_type": "default", "mrope_section": [1, 0, 1], "rope_theta": 10000.0}


#: Families that are tested whenever anything is; the others take a second each.
QUICK = ("llava", "qwen2_vl", "mistral3")


def each(families: Iterable[str]) -> list[Any]:
    """The families, as a test is parametrized with them."""
    return [pytest.param(one, marks=() if one in QUICK else pytest.mark.slow) for one in families]


class Case(NamedTuple):
    """A model, what it is called with, and the processor that has made it, if one has."""

    model: Any
    inputs: dict[str, torch.Tensor]
    processor: Any = None


def case(family: str, video: bool = False) -> Case:
    """A tiny model of a family, without attention in its vision tower: see `blind`."""
    made = (VIDEOS if video else CASES)[family]()
    blind(made.model)
    for name, weight in made.model.named_parameters():
        if "mm_input_projection" in name:  # of Gemma 3, which begins as 0
            nn.init.normal_(weight)
    return made


def tower(model: nn.Module) -> nn.Module:
    names = ("vision_tower", "visual", "vision_model")
    base = getattr(model, "model", model)
    return next(getattr(base, name) for name in names if hasattr(base, name))


@torch.no_grad()
def blind(model: nn.Module) -> None:
    """Let no patch see another: set the output matrices of the vision tower's attention to 0."""
    names = ("out_proj", "attn.proj", "o_proj", "projection_layer", "attention.output")
    found = [
        weight
        for name, weight in tower(model).named_parameters()
        if any(one in name for one in names)
    ]
    assert found
    for weight in found:
        weight.zero_()


@torch.no_grad()
def keys_of_text(one: Case) -> torch.Tensor:
    """k of the first layer of a case's language model: (batch, length, n_kv_head * d_k)."""
    with watch(one.model) as seen:
        one.model(**one.inputs)
    found = seen[text_layers(seen)[0]]._numbers.given.key
    return found.transpose(1, 2).flatten(2)


def text_layers(seen: Seen) -> list[int]:
    """The layers of a language model that is a part of the watched model."""
    names = ("language_model", "text_model")
    return [n for n, layer in enumerate(seen.layers) if any(one in layer.name for one in names)]


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    random = np.random.RandomState(seed)
    return Image.fromarray(random.randint(0, 255, (height, width, 3), dtype=np.uint8))


def of(
    family: str, text: str = "llama", vision: dict | None = None, more: dict | None = None, **others
) -> nn.Module:
    """A model of a family, whose text model has `more` settings."""
    text_config = {"model_type": text, **TEXT, **(more or {})}
    config = AutoConfig.for_model(family, text_config=text_config, vision_config=vision, **others)
    torch.manual_seed(0)
    return AutoModelForImageTextToText.from_config(config).eval()


def tokenizer(**special: str) -> PreTrainedTokenizerFast:
    made = Tokenizer(models.WordLevel(ID, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(WORDS[:11])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", padding_side="left", **special
    )


def processed(processor: Any, marker: str, *sizes: tuple[int, int]) -> dict[str, torch.Tensor]:
    """What a processor makes of the two prompts with three pictures."""
    one, two, three = (picture(*size, seed=n) for n, size in enumerate(sizes))
    text = [f"what is {marker} bright", f"{marker} and {marker} there in the left"]
    given = {"return_tensors": "pt", "padding": True, "return_mm_token_type_ids": True}
    return dict(processor(images=[[one], [two, three]], text=text, **given))


def by_hand(marker: int, *counts: int) -> dict[str, torch.Tensor]:
    """The two prompts, whose three pictures have so many tokens."""
    one, two, three = ([marker] * count for count in counts)
    rows = [[11, 12, *one, 13], [*two, 15, *three, 16, 17, 18]]
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def pixels(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


# Real processors


def _unchecked(kind: type, *arguments: Any, **others: Any) -> Any:
    """A processor whose parts are not checked: a check of video processors needs torchvision."""
    made = type(kind.__name__, (kind,), {"check_argument_for_proper_class": lambda *_: None})
    return made(*arguments, **others)


def llava() -> Case:
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    vision = {"model_type": "clip_vision_model", "image_size": 35, "projection_dim": 5, **VISION}
    model = of("llava", vision=vision, image_token_index=ID["<image>"])
    pil = LlavaImageProcessorPil(size={"shortest_edge": 35}, crop_size={"height": 35, "width": 35})
    processor = _unchecked(
        transformers.LlavaProcessor, pil, tokenizer(), patch_size=7,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip
    return Case(model, processed(processor, "<image>", (40, 50), (30, 60), (70, 31)), processor)


def qwen2_vl(family: str = "qwen2_vl") -> Case:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    vision = {"depth": 3, "num_heads": 3, "patch_size": 7, "hidden_size": 24}
    if family == "qwen2_vl":
        vision |= {"embed_dim": 24, "mlp_ratio": 2}
    if family == "qwen2_5_vl":
        vision |= {"out_hidden_size": 24, "intermediate_size": 29, "window_size": 28}
        vision |= {"fullatt_block_indexes": [1]}
    if family in ("qwen3_vl", "qwen3_5"):
        vision |= {"out_hidden_size": 24, "intermediate_size": 29, "num_position_embeddings": 49}
        vision |= {"deepstack_visual_indexes": [0]} if family == "qwen3_vl" else {}
    text = {"model_type": f"{family}_text", **TEXT, "rope_parameters": MROPE}
    if family == "qwen3_5":
        text["layer_types"] = ["full_attention", "linear_attention"]
        text["rope_parameters"] = {**MROPE, "partial_rotary_factor": 1.0}
        text |= dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 2)
        text |= dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 4)
    config = AutoConfig.for_model(
        family, vision_config=vision, text_config=text,
        image_token_id=ID["<|image_pad|>"], video_token_id=ID["<|video_pad|>"],
        vision_start_token_id=5, vision_end_token_id=6,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config).eval()
    pil = Qwen2VLImageProcessorPil(
        patch_size=7, size={"shortest_edge": 100, "longest_edge": 100000}
    )
    processor = _unchecked(transformers.Qwen2VLProcessor, pil, tokenizer(), None)
    marker = "<|vision_start|> <|image_pad|> <|vision_end|>"
    return Case(model, processed(processor, marker, (42, 70), (28, 70), (56, 42)), processor)


def llava_next(family: str = "llava_next") -> Case:
    from transformers.models.llava_next import image_processing_pil_llava_next as next_
    from transformers.models.llava_onevision import image_processing_pil_llava_onevision as one

    pins = [[28, 56], [56, 28], [56, 56]]
    if family != "llava_onevision":
        vision = {"model_type": "clip_vision_model", "image_size": 28, "projection_dim": 5}
        kind, strategy = next_.LlavaNextImageProcessorPil, "default"
        others = {"patch_size": 7, "num_additional_image_tokens": 1}
    else:
        vision = {"model_type": "siglip_vision_model", "image_size": 28, "vision_use_head": False}
        kind, strategy = one.LlavaOnevisionImageProcessorPil, "full"
        others = {"num_image_tokens": 16, "vision_aspect_ratio": "anyres_max_1"}
        others |= {"video_processor": None}
    model = of(
        family, vision={**vision, **VISION}, image_grid_pinpoints=pins,
        image_token_index=ID["<image>"], vision_feature_select_strategy=strategy,
        **({} if family != "llava_onevision" else {"vision_aspect_ratio": "anyres_max_1"}),
    )  # fmt: skip
    size = {"shortest_edge": 28} if family != "llava_onevision" else {"height": 28, "width": 28}
    pil = kind(
        size=size, crop_size={"height": 28, "width": 28}, image_grid_pinpoints=pins,
        do_center_crop=False,
    )  # fmt: skip
    name = "LlavaNextProcessor" if family != "llava_onevision" else "LlavaOnevisionProcessor"
    processor = _unchecked(
        getattr(transformers, name), pil, tokenizer(), **others,
        vision_feature_select_strategy=strategy,
    )  # fmt: skip
    return Case(model, processed(processor, "<image>", (20, 50), (60, 33), (47, 53)), processor)


def gemma3() -> Case:
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    model = at_one_size("gemma3", 9, "gemma3_text", vision=SIGLIP, mm_tokens_per_image=9).model
    words = tokenizer(
        boi_token="<|vision_start|>", eoi_token="<|vision_end|>", image_token="<image>"
    )
    pil = Gemma3ImageProcessorPil(size={"height": 42, "width": 42})
    processor = _unchecked(transformers.Gemma3Processor, pil, words, image_seq_length=9)
    given = processed(processor, "<|vision_start|>", (40, 50), (30, 60), (70, 31))
    return Case(model, given, processor)


# Inputs by hand, for processors that need torchvision


def mistral3(family: str = "mistral3") -> Case:
    """Each row of a picture ends with [IMG_BREAK], the last one with [IMG_END]."""
    side, rows = (
        (14, ((3, 5), (2, 5), (4, 3))) if family == "mistral3" else (7, ((3, 5), (2, 4), (5, 3)))
    )
    vision = {"model_type": "pixtral", "image_size": 70, **VISION, "head_dim": 4}
    if family == "mistral3":
        others = {"spatial_merge_size": 2}
    else:
        others = {"vision_feature_select_strategy": "full", "vision_feature_layer": -1}
    model = of(family, vision=vision, image_token_index=ID["[IMG]"], **others)
    given = by_hand(99, *(r * (c + 1) for r, c in rows))
    ids = given["input_ids"]
    breaks = [[*[7] * c, 8] * (r - 1) + [*[7] * c, 9] for r, c in rows]
    ids[ids == 99] = torch.tensor(list(chain(*breaks)))
    sizes = torch.tensor([(r * side, c * side) for r, c in rows])
    images = pixels(3, 3, *sizes.amax(0).tolist())
    return Case(model, {**given, "pixel_values": images, "image_sizes": sizes})


def at_one_size(
    family: str,
    count: int,
    text: str = "llama",
    shape: tuple[int, ...] = (3,),
    vision: dict | None = None,
    **others,
) -> Case:
    """Pictures that all have the same size and `count` tokens."""
    model = of(family, text, vision={**VISION, **(vision or {})}, image_token_id=2, **others)
    side = (vision or {}).get("image_size", 28)
    side = side if isinstance(side, int) else side[0]
    images = pixels(*shape, 3, side, side)
    if len(shape) == 2:
        images[0, 1] = 0  # the first sample has one picture
    return Case(model, {**by_hand(2, count, count, count), "pixel_values": images})


CLIP = {"model_type": "clip_vision_model", "image_size": 35, "projection_dim": 5}
SIGLIP = {"model_type": "siglip_vision_model", "image_size": 42, "vision_use_head": False}
INTERN = {"model_type": "internvl_vision", "image_size": [42, 42], "patch_size": [7, 7]}


def glm(family: str = "glm4v") -> Case:
    """The patches of pictures of several sizes, cut by hand as Qwen2-VL's processor cuts them."""
    text = {**TEXT, "rope_parameters": MROPE}
    vision = {
        "depth": 3,
        "num_heads": 3,
        "patch_size": 7,
        "hidden_size": 24,
        "image_size": 49,
        "out_hidden_size": 24,
        "intermediate_size": 29,
    }
    if family == "glm46v":
        vision["model_type"], text["model_type"] = "glm4v_vision", "glm4v_text"
    config = AutoConfig.for_model(
        family, vision_config=vision, text_config=text,
        image_token_id=ID["<|image_pad|>"], video_token_id=ID["<|video_pad|>"],
        image_start_token_id=5, image_end_token_id=6, video_start_token_id=8, video_end_token_id=9,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config).eval()
    grids = torch.tensor([[1, 6, 10], [1, 4, 10], [1, 8, 6]])
    given = by_hand(3, *(grids.prod(dim=1) // 4).tolist())
    kinds = (given["input_ids"] == 3).int()
    patches = pixels(int(grids.prod(dim=1).sum()), 3 * 2 * 7 * 7)
    return Case(
        model,
        {**given, "pixel_values": patches, "image_grid_thw": grids, "mm_token_type_ids": kinds},
    )


def llama4() -> Case:
    vision = {**VISION, "image_size": 42, "pixel_shuffle_ratio": 0.5, "projector_input_dim": 12}
    vision |= {"intermediate_size": 48, "projector_output_dim": 12, "vision_output_dim": 12}
    text = {**TEXT, "intermediate_size_mlp": 29, "num_local_experts": 2, "num_experts_per_tok": 1}
    config = AutoConfig.for_model(
        "llama4", vision_config=vision, text_config=text, image_token_index=2
    )
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config).eval()
    return Case(model, {**by_hand(2, 9, 9, 9), "pixel_values": pixels(3, 3, 42, 42)})


def lfm2_vl() -> Case:
    vision = {"model_type": "siglip2_vision_model", "num_patches": 64, **VISION}
    text = {"layer_types": ["full_attention", "conv"], "block_auto_adjust_ff_dim": False}
    model = of("lfm2_vl", "lfm2", vision=vision, image_token_id=2, downsample_factor=2, more=text)
    shapes = torch.tensor([[4, 6], [2, 4], [6, 4]])
    count = shapes.prod(dim=1)
    images = pixels(3, 24, 7 * 7 * 3)
    seen = torch.arange(24) < count[:, None]
    images[~seen] = 0
    given = {"spatial_shapes": shapes, "pixel_attention_mask": seen.int()}
    return Case(model, {**by_hand(2, *(count // 4).tolist()), "pixel_values": images, **given})


def mllama() -> Case:
    """Two samples of a picture each, of two tiles and of one; layer 1 of the text looks at them."""
    vision = {
        "hidden_size": 12, "intermediate_size": 17, "num_hidden_layers": 2, "num_global_layers": 1,
        "attention_heads": 3, "image_size": 28, "patch_size": 7, "max_num_tiles": 2,
        "vision_output_dim": 24, "intermediate_layers_indices": [0],
        "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
    }  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    text = {**TEXT, "cross_attention_layers": [1], "rope_parameters": rope}
    config = AutoConfig.for_model(
        "mllama", vision_config=vision, text_config=text, image_token_index=2
    )
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config).eval()
    ids = torch.tensor([[1, 2, 11, 12, 13], [1, 2, 14, 15, 16]])
    tiles = torch.tensor([[[1, 1]], [[1, 0]]])
    given = {
        "input_ids": ids, "attention_mask": torch.ones_like(ids),
        "pixel_values": pixels(2, 1, 2, 3, 28, 28),
        "aspect_ratio_ids": torch.tensor([[2], [1]]), "aspect_ratio_mask": tiles,
        "cross_attention_mask": tiles[:, None].expand(2, 5, 1, 2),
    }  # fmt: skip
    made = Case(model, given)
    blind(model)
    return made


def blip_2() -> Case:
    """A model with as many query tokens for its picture as its text has tokens."""
    vision = {key: size for key, size in VISION.items() if key != "num_hidden_layers"}
    vision |= {"num_hidden_layers": 1, "image_size": 28}
    asks = {**vision, "encoder_hidden_size": 12, "vocab_size": 31}
    text = {
        "model_type": "opt", "hidden_size": 24, "word_embed_proj_dim": 24, "ffn_dim": 29,
        "num_hidden_layers": 1, "num_attention_heads": 6, "vocab_size": 61, "pad_token_id": 0,
    }  # fmt: skip
    config = AutoConfig.for_model(
        "blip-2", vision_config=vision, qformer_config=asks, text_config=text,
        num_query_tokens=5, image_token_index=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config).eval()
    ids = torch.full((1, 5), 2)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return Case(model, {**given, "pixel_values": pixels(1, 3, 28, 28)})


# Videos


def video_of_patches(family: str, marker: int, by_frame: bool) -> Case:
    """Two videos that are cut into patches, with text between the frames or without."""
    grids, kinds = torch.tensor([[2, 6, 4], [3, 2, 6]]), []
    for frames, rows, columns in grids.tolist():
        frame = [marker] * (rows * columns // 4)
        kinds += [11, *([*frame, 12] if by_frame else frame) * frames, 13]
    ids = torch.tensor([kinds])
    patches = pixels(int(grids.prod(dim=1).sum()), 3 * 2 * 7 * 7)
    given = {"pixel_values_videos": patches, "video_grid_thw": grids, "input_ids": ids}
    model = CASES[family]().model
    return Case(model, {**given, "mm_token_type_ids": 2 * (ids == marker).int()})


def llava_next_video() -> Case:
    vision = {"model_type": "clip_vision_model", "image_size": 28, "projection_dim": 5, **VISION}
    model = of(
        "llava_next_video", vision=vision, image_token_index=2, video_token_index=10,
        image_seq_length=16, spatial_pool_stride=2,
    )  # fmt: skip
    given = by_hand(10, 3 * 4, 3 * 4, 3 * 4)
    return Case(model, {**given, "pixel_values_videos": pixels(3, 3, 3, 28, 28)})


def llava_onevision_video() -> Case:
    model = llava_next("llava_onevision").model
    model.config.video_token_id = 10
    given = by_hand(10, *[3 * 4 + 1] * 3)
    return Case(model, {**given, "pixel_values_videos": pixels(3, 3, 3, 28, 28)})


VIDEOS = {
    "qwen2_vl": lambda: video_of_patches("qwen2_vl", 4, by_frame=False),
    "qwen3_vl": lambda: video_of_patches("qwen3_vl", 4, by_frame=True),
    "glm4v": lambda: video_of_patches("glm4v", 3, by_frame=True),
    "llava_next_video": llava_next_video,
    "llava_onevision": llava_onevision_video,
}


CASES = {
    "llava": llava,
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": lambda: qwen2_vl("qwen2_5_vl"),
    "qwen3_vl": lambda: qwen2_vl("qwen3_vl"),
    "qwen3_5": lambda: qwen2_vl("qwen3_5"),
    "llava_next": llava_next,
    "llava_next_video": lambda: llava_next("llava_next_video"),
    "llava_onevision": lambda: llava_next("llava_onevision"),
    "mistral3": mistral3,
    "pixtral": lambda: mistral3("llava"),
    "internvl": lambda: at_one_size("internvl", 9, "qwen2", vision=INTERN),
    "aya_vision": lambda: at_one_size(
        "aya_vision",
        9,
        "cohere2",
        vision=SIGLIP,
        downsample_factor=2,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    ),
    "cohere2_vision": lambda: at_one_size(
        "cohere2_vision", 9, "cohere2", vision=SIGLIP, downsample_factor=2
    ),
    "paligemma": lambda: at_one_size(
        "paligemma", 36, "gemma", vision={**SIGLIP, "projection_dim": 24}, projection_dim=24
    ),
    "gemma3": gemma3,
    # with [CLS] before the patches, and without the first of them
    "llava-full": lambda: at_one_size(
        "llava", 26, vision=CLIP, vision_feature_select_strategy="full"
    ),
    "llava-without-first": lambda: at_one_size("llava", 35, vision=SIGLIP, vision_feature_layer=-1),
    "vipllava": lambda: at_one_size(
        "vipllava",
        16,
        vision={"model_type": "clip_vision_model", "image_size": 28},
        vision_feature_layers=[-1, 1],
    ),
    "idefics3": lambda: at_one_size(
        "idefics3", 9, shape=(2, 2), vision={"image_size": 42}, scale_factor=2
    ),
    "smolvlm": lambda: at_one_size(
        "smolvlm", 9, shape=(2, 2), vision={"image_size": 42}, scale_factor=2
    ),
    "glm4v": glm,
    "glm46v": lambda: glm("glm46v"),
    "glm_ocr": lambda: glm("glm_ocr"),
    "llama4": llama4,
    "lfm2_vl": lfm2_vl,
}


# Opened for the explorer


def tiny_joined(family: str) -> OpenVisionLanguage:
    """A tiny model of a family, opened; its prompt begins with the picture."""
    made = CASES[family]()
    fill(made.model)
    found = OpenVisionLanguage(made.model.model, made.processor, f"tiny-{family}", made.model)
    before = "<|vision_start|> <|image_pad|> <|vision_end|> " if "qwen" in family else "<image> "
    made.processor.chat_template = before + "{{ messages[0].content[1].text }}"
    return found


def tiny_llava() -> OpenVisionLanguage:
    return tiny_joined("llava")
