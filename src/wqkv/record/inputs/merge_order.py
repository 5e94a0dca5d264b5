"""Towers that see patches in the order in which they are merged, several pictures in one sequence.

Qwen2-VL and its relatives: their processors cut pictures and videos of any size into patches, those
of a block that becomes one token side by side, and tell of each (frames, rows, columns). Those with
windows, such as Qwen2.5-VL, put the blocks of a window side by side as well, in all layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

from wqkv.maps.axis import UNKNOWN, Axes, Axis
from wqkv.record.inputs.cuts import put_together, unnormalized
from wqkv.record.inputs.moment import CallSizes, Moment, Running
from wqkv.record.inputs.places import merged

_TOWERS = (
    "CohereCompassVisionModel",
    "Exaone4_5_VisionModel",
    "Glm4vMoeVisionModel",
    "Glm4vVisionModel",
    "Glm5NextVisionModel",
    "GlmOcrVisionModel",
    "Qwen2VisionTransformerPretrainedModel",
    "Qwen2_5OmniVisionEncoder",
    "Qwen2_5_VisionTransformerPretrainedModel",
    "Qwen3OmniMoeVisionEncoder",
    "Qwen3VLMoeVisionModel",
    "Qwen3VLVisionModel",
    "Qwen3_5MoeVisionModel",
    "Qwen3_5VisionModel",
    "Qwen4ExpVisionModel",
)


def read_merge_order(moment: Moment, sizes: CallSizes) -> Axes | None:
    """The pictures of a sequence of patches."""
    tower = moment.inside(*_TOWERS)
    grids = None if tower is None else tower.given.get("grid_thw")
    if tower is None or not isinstance(grids, Tensor):
        return None
    length = int(grids.prod(dim=1).sum())
    fits = (sizes.batch, sizes.query_len, sizes.key_len) == (1, length, length)
    if not fits or tower.given.get("window_index") is not None:  # an order of somebody's own
        return UNKNOWN
    found = cache(lambda: [tuple(_pictures(moment, tower, grids))])
    return Axes(found, found)


def _pictures(moment: Moment, tower: Running, grids: Tensor) -> Iterator[Axis]:
    model: Any = tower.module
    merge, window = model.spatial_merge_size, 0
    if hasattr(model, "window_size"):
        window = model.window_size // merge // model.patch_size
    patches, first = _patches(moment, tower), 0
    for frames, rows, columns in grids.tolist():
        count, area = frames * rows * columns, rows * columns
        one = merged((rows, columns), merge, window)
        places = torch.cat([one + frame * area for frame in range(frames)])
        source = None
        if patches is not None:
            own = put_together(patches[first : first + count], (frames, rows, columns), merge)
            source = unnormalized(own if frames > 1 else own[0], moment.processor)
        first += count
        grid = (rows, columns) if frames == 1 else (frames, rows, columns)
        yield Axis(count, grid, source=source, places=places)


def _patches(moment: Moment, tower: Running) -> Tensor | None:
    """The patches (count, channels, height, width), laid out as the first convolution takes them.

    Of the frames that a patch holds, the first is taken.
    """
    given = tower.given.get("hidden_states", tower.given.get("pixel_values"))
    alike = (
        x
        for one in moment.modules
        for x in one.tensors(floating=True).values()
        if given is not None and x.shape == given.shape
    )
    pixels = next(alike, None)
    if pixels is None:
        return None
    shapes = (one.given for one in moment.convolved if math.prod(one.given) == pixels.numel())
    shape = next(shapes, None)
    if shape is None or shape[0] != len(pixels) or shape[1] not in (1, 3):
        return None
    patches: Tensor = pixels.view(shape)
    return patches[:, :, 0] if len(shape) == 5 else patches
