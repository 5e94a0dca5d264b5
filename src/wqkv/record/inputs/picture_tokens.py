"""The axes of the pictures that a vision-language model puts into its text, family by family.

Each function tells what a family of transformers makes of pictures: how many tokens, in which
order, and which pixels each of them covers. Patches that a family merges are one cell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from wqkv.maps.axis import Axis
from wqkv.record.inputs.cuts import put_together
from wqkv.upstream import of_transformers

#: A config of transformers, whose fields no type can list.
Config: TypeAlias = Any
#: Keyword arguments of a foreign call: what a processor made of pictures, by name.
Given: TypeAlias = Mapping[str, Any]
#: The axes of all pictures of a call, in the order in which they stand in the text.
Family: TypeAlias = Callable[[Config, Given], list[Axis] | None]


#: Families whose patches come as a list, in which those that are merged stand together.
_GLM = ("glm4v", "glm4v_moe", "glm46v", "glm_ocr")
_QWEN2, _QWEN3 = ("qwen2_vl", "qwen2_5_vl"), ("qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")


def token_of(config: Config, kind: str) -> int | None:
    """The id that stands for a token of an "image" or a "video", which GLM-4V writes alike."""
    name = "image" if config.model_type in _GLM else kind
    return getattr(config, f"{name}_token_id", None)


def picture_axes(config: Config, given: Given) -> list[Axis] | None:
    """The axes of all pictures of a call, in the order in which they stand in the text.

    Args:
        config: of the whole model.
        given: what the model was called with: `pixel_values` and what else its processor made.

    Returns:
        None if the family is not known, or if it does something else with these pictures.
    """
    family = _PICTURES.get(config.model_type)
    known = isinstance(given.get("pixel_values"), Tensor)
    return family(config, given) if family is not None and known else None


def video_axes(config: Config, given: Given) -> list[Axis] | None:
    """The same of the videos of a call, of which `given` has `pixel_values_videos`."""
    family = _VIDEOS.get(config.model_type)
    known = isinstance(given.get("pixel_values_videos"), Tensor)
    return family(config, given) if family is not None and known else None


# Families that see all pictures, or tiles of pictures, at one size

#: How many tokens a vision tower has before those of its patches.
_SPECIAL = {
    "clip_vision_model": 1,
    "idefics3_vision": 0,
    "internvl_vision": 1,
    "llama4_vision_model": 0,  # its [CLS] stands behind the patches, and is left out
    "pixtral": 0,
    "siglip_vision_model": 0,
    "smolvlm_vision": 0,
}
#: What a family does that has no choice.
_WITHOUT_FIRST = {"vision_feature_select_strategy": "default"}


def _first(config: Config, given: Given) -> int | None:
    """How many special tokens stand before the patches of a picture, which may be -1.

    Of a tower without [CLS], "default" leaves out the first patch.
    """
    special = _SPECIAL.get(config.vision_config.model_type)
    strategy = given.get("vision_feature_select_strategy") or getattr(
        config, "vision_feature_select_strategy", "full"
    )
    return None if special is None else special - (strategy == "default")


def _tiles(pixels: Tensor) -> Iterator[Tensor]:
    """The pictures (channels, height, width) of a tensor (..., channels, height, width).

    Of those that are stacked by sample, one that is 0 everywhere is padding.
    """
    for one in pixels.flatten(0, -4):
        if pixels.ndim == 4 or bool(one.any()):
            yield one


def _grid(pixels: Tensor, side: int, places: Tensor | None = None) -> Axis:
    """A picture whose tokens cover squares of `side` pixels, row by row.

    What is left over at the right and below, no token sees.
    """
    rows, columns = (size // side for size in pixels.shape[-2:])
    source = pixels[..., : rows * side, : columns * side]
    return Axis(rows * columns, (rows, columns), source=source, places=places)


def _unmerged(config: Config, given: Given) -> list[Axis] | None:
    """One token for each patch: LLaVA and others."""
    first, found = _first(config, given), list[Axis]()
    if first is None:
        return None
    for pixels in _tiles(given["pixel_values"]):
        side = _side(config.vision_config.patch_size)
        count = math.prod(size // side for size in pixels.shape[-2:])
        if first > 0:
            found.append(Axis(["[CLS]"]))
        without_first = torch.arange(1, count, device="cpu") if first < 0 else None
        found.append(_grid(pixels, side, without_first))
    return found


def _merged(merge_of: Callable[[Config], int]) -> Family:
    """Families that merge squares of patches: their code reads a picture as a square of patches."""

    def family(config: Config, given: Given) -> list[Axis] | None:
        merge, side = merge_of(config), _side(config.vision_config.patch_size)
        found = list[Axis]()
        for pixels in _tiles(given["pixel_values"]):
            rows, columns = (size // side for size in pixels.shape[-2:])
            if _first(config, given) != 0 or rows != columns or rows % merge:
                return None
            found.append(_grid(pixels[..., : rows * side, : rows * side], side * merge))
        return found

    return family


def cross_axes(config: Config, given: Given) -> list[list[Axis]]:
    """The keys of each sample in Mllama's cross-attention: its tiles, those of padding too."""
    side = _side(config.vision_config.patch_size)
    return [
        [axis for tile in tiles.flatten(0, -4) for axis in (Axis(["[CLS]"]), _grid(tile, side))]
        for tiles in given["pixel_values"]
    ]


def _pooled(config: Config) -> int:
    """How many patches, in each direction, Gemma 3 takes the mean of."""
    vision = config.vision_config
    return int(vision.image_size // vision.patch_size // int(config.mm_tokens_per_image**0.5))


def _side(size: int | list[int]) -> int:
    return size if isinstance(size, int) else size[0]


def _listed(sizes: Any) -> list[list[int]]:  # a tensor, or lists
    """(height, width) of each picture."""
    found: list[list[int]] = torch.as_tensor(sizes, device="cpu").tolist()
    return found


# Families whose pictures have different sizes


def _sized(config: Config, given: Given) -> list[Axis] | None:
    """Pictures that are padded to one size, of which `image_sizes` tells: Pixtral and Mistral 3."""
    sizes = given.get("image_sizes")
    if sizes is None:
        return _unmerged(config, given)
    side = _side(config.vision_config.patch_size) * getattr(config, "spatial_merge_size", 1)
    each = zip(_tiles(given["pixel_values"]), _listed(sizes), strict=True)
    return [_grid(pixels[:, :height, :width], side) for pixels, (height, width) in each]


def _patches(pixels: str, grids: str, by_frame: bool = False) -> Family:
    """Families whose processor cuts pictures and videos into patches: Qwen2-VL and others.

    Args:
        pixels, grids: the names of what it makes: the patches, and (frames, rows, columns).
        by_frame: whether text stands between the frames of a video.
    """

    def family(config: Config, given: Given) -> list[Axis] | None:
        found, first = list[Axis](), 0
        for grid in given[grids].tolist():
            patches = given[pixels][first : first + math.prod(grid)]
            first += math.prod(grid)
            vision = config.vision_config
            merge, side = vision.spatial_merge_size, vision.patch_size
            # of the frames that a patch holds, the first is taken
            cut = patches.view(len(patches), -1, vision.temporal_patch_size, side, side)[:, :, 0]
            video, side = put_together(cut, grid, merge), side * merge
            if by_frame or len(video) == 1:
                found.extend(_grid(frame, side) for frame in video)
            else:
                found.append(_frames(video, side))
        return found

    return family


def _flattened(config: Config, given: Given) -> list[Axis] | None:
    """Pictures that are padded lists of patches (rows, columns, channels): LFM2-VL."""
    sizes, merge, found = given.get("spatial_shapes"), config.downsample_factor, list[Axis]()
    if sizes is None:
        return None
    side = config.vision_config.patch_size
    for patches, (rows, columns) in zip(given["pixel_values"], _listed(sizes), strict=True):
        cut = patches[: rows * columns].view(rows * columns, side, side, -1).movedim(-1, 1)
        whole = put_together(cut, (1, rows, columns), 1)[0]
        found.append(_grid(whole, side * merge))
    return found


# Families that see a picture twice: small, and cut into tiles (anyres)


class _Cut(NamedTuple):
    """How a picture was cut into rows and columns of tiles, and the cells that are no padding."""

    tiles: tuple[int, int]
    cells: Tensor  # (rows, columns), numbered row by row through all tiles


def _anyres(config: Config, given: Given) -> list[Axis] | None:
    """LLaVA-NeXT and LLaVA-OneVision: the whole picture small, then its tiles with newlines."""
    cuts = _cuts(config, given)
    if cuts is None or _first(config, given) != 0:
        return None
    pixels, patch = given["pixel_values"], config.vision_config.patch_size
    found, begin = list[Axis](), 0
    for number, cut in enumerate(cuts):
        count = 1 if cut is None else 1 + math.prod(cut.tiles)
        # stacked by picture, with padding, or as the tower is given them: all tiles in one row
        tiles = pixels[number][:count] if pixels.ndim == 5 else pixels[begin : begin + count]
        begin += count
        small = _grid(tiles[0], patch)
        if cut is None:
            found.append(_with_newlines(small))
        else:
            rows, columns = _shrunk(config, given, cut.cells)
            large = Axis(rows * columns, (rows, columns), source=_joined(tiles[1:], cut, patch))
            found += [small, _with_newlines(large, columns)]
    return found


def _cuts(config: Config, given: Given) -> list[_Cut | None] | None:
    """How each picture was cut; None for one that was not."""
    sizes, counts = given.get("image_sizes"), given.get("batch_num_images")
    if sizes is not None:
        # LLaVA-OneVision cuts no picture of a sample with several
        whole = [int(n) != 1 for n in counts for _ in range(int(n))] if counts is not None else []
        each = enumerate(_listed(sizes))
        return [
            None if whole and whole[n] else _Cut(*of_transformers.anyres_cells(config, size))
            for n, size in each
        ]
    # `generate` passes no sizes on, but what was made of the pictures, whose lengths tell most cuts
    made = (given.get("mm_encoder_outputs") or {}).get("image") or {}
    lengths = [one.shape[0] for one in made.get("pooler_output") or ()]
    most = len(given["pixel_values"]) - len(lengths)  # tiles, beside the small pictures
    fitting = [_fitting(config, given, length) for length in lengths]
    if len(fitting) == 1:
        fitting = [[one for one in fitting[0] if one is None or math.prod(one.tiles) == most]]
    return [one[0] for one in fitting] if all(len(one) == 1 for one in fitting) else None


def _fitting(config: Config, given: Given, length: int) -> list[_Cut | None]:
    """The ways to cut a picture that make so many tokens of it."""
    image_size = config.vision_config.image_size
    side = image_size // config.vision_config.patch_size
    if length == side**2 + 1:
        return [None]
    found: dict[tuple[int, ...], _Cut | None] = {}
    for size in config.image_grid_pinpoints:
        tiles = size[0] // image_size, size[1] // image_size
        cells = torch.arange(math.prod(tiles) * side**2, device="cpu")
        cells = cells.view(tiles[0] * side, tiles[1] * side)
        # nothing is padded along one axis, and as much before as behind along the other
        for axis in (0, 1):
            for pad in range((cells.shape[axis] + 1) // 2):
                kept = cells.narrow(axis, pad, cells.shape[axis] - 2 * pad)
                rows, columns = _shrunk(config, given, kept)
                if side**2 + rows * (columns + 1) == length:
                    found[*tiles, *kept.shape] = _Cut(tiles, kept)
    return list(found.values())


def _with_newlines(axis: Axis, columns: int = 0) -> Axis:
    """A picture with a token that stands on no cell behind each row, or behind all (0 columns)."""
    places = torch.arange(len(axis), device="cpu").view(-1, columns or len(axis))
    places = torch.nn.functional.pad(places, (0, 1), value=-1).flatten()
    return Axis(axis.count, axis.grid, source=axis.source, places=places)


def _shrunk(config: Config, given: Given, cells: Tensor) -> tuple[int, int]:
    """How many rows and columns are left of so many cells, which LLaVA-OneVision limits."""
    rows, columns = cells.shape
    aspect = given.get("vision_aspect_ratio") or getattr(config, "vision_aspect_ratio", None)
    if aspect is None:
        return rows, columns
    most = int(aspect.removeprefix("anyres_max_"))
    side = config.vision_config.image_size // config.vision_config.patch_size
    ratio = math.sqrt(rows * columns / (most * side**2))
    return (int(rows // ratio), int(columns // ratio)) if ratio > 1.1 else (rows, columns)


def _joined(tiles: Tensor, cut: _Cut, patch: int) -> Tensor:
    """Tiles (count, channels, height, width) as one picture without padding."""
    side = tiles.shape[-1] // patch * patch
    each = tiles[..., :side, :side].unflatten(0, cut.tiles)
    whole: Tensor = each.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
    columns = whole.shape[-1] // patch
    top, left = divmod(int(cut.cells[0, 0]), columns)
    height, width = (n * patch for n in cut.cells.shape)
    return whole[:, top * patch :, left * patch :][:, :height, :width]


def _interpolated(config: Config, given: Given) -> list[Axis] | None:
    """Videos of LLaVA-OneVision: half as many cells in each direction, and a newline at the end."""
    pixels, found = given["pixel_values_videos"], list[Axis]()
    if _first(config, given) != 0 or pixels.ndim != 5:
        return None
    for video in pixels:
        one = _grid(video, config.vision_config.patch_size)
        assert one.grid is not None
        rows, columns = (math.ceil(n / 2) for n in one.grid)
        grid = (len(video), rows, columns)
        found.append(_with_newlines(Axis(math.prod(grid), grid, source=one.source)))
    return found


def _pooled_frames(config: Config, given: Given) -> list[Axis] | None:
    """Videos of LLaVA-NeXT-Video: a frame is a square of patches, whose squares are pooled."""
    pixels, side = given["pixel_values_videos"], config.vision_config.patch_size
    if _first(config, given) != 0 or pixels.ndim != 5 or pixels.shape[-1] != pixels.shape[-2]:
        return None
    whole = pixels.shape[-1] // side * side
    pooled = side * config.spatial_pool_stride
    return [_frames(video[..., :whole, :whole], pooled) for video in pixels]


def _frames(video: Tensor, side: int) -> Axis:
    """A video (frames, channels, height, width) whose tokens cover squares of `side` pixels."""
    one = _grid(video, side)
    assert one.grid is not None
    grid = (len(video), *one.grid)
    return Axis(math.prod(grid), grid, source=one.source)


_PICTURES: dict[str, Family] = {
    "aya_vision": _merged(lambda config: config.downsample_factor),
    "cohere2_vision": _merged(lambda config: config.downsample_factor),
    "gemma3": _merged(_pooled),
    "idefics3": _merged(lambda config: config.scale_factor),
    "internvl": _merged(lambda config: int(1 / config.downsample_ratio)),
    "llama4": _merged(lambda config: int(1 / config.vision_config.pixel_shuffle_ratio)),
    "lfm2_vl": _flattened,
    "llava": _sized,
    "llava_next": _anyres,
    "llava_next_video": _anyres,
    "llava_onevision": _anyres,
    "mistral3": _sized,
    "paligemma": _unmerged,
    "smolvlm": _merged(lambda config: config.scale_factor),
    "vipllava": lambda config, given: _unmerged(config, {**given, **_WITHOUT_FIRST}),
    **dict.fromkeys((*_GLM, *_QWEN2, *_QWEN3), _patches("pixel_values", "image_grid_thw")),
}
_VIDEOS: dict[str, Family] = {
    "llava_next_video": _pooled_frames,
    "llava_onevision": _interpolated,
    **dict.fromkeys(_QWEN2, _patches("pixel_values_videos", "video_grid_thw")),
    **dict.fromkeys(
        (*_GLM, *_QWEN3), _patches("pixel_values_videos", "video_grid_thw", by_frame=True)
    ),
}
