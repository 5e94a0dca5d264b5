"""The tokens of pictures, shown by what a changed pixel changes, where no patch sees another."""

import random

import numpy as np
import pytest
import torch

from tests.vision_language import CASES, VIDEOS, case, each, keys_of_text, picture
from wqkv.maps.axis import Axis
from wqkv.record.inputs import picture_tokens
from wqkv.record.inputs.joined import joined_axes
from wqkv.record.inputs.picture_tokens import picture_axes

#: Families that make fewer tokens of a picture by interpolation: a pixel changes several.
BLURRED = ("llava_onevision",)


def named(one):
    """The axes of a case's samples, with sources of their own, which later changes do not reach."""
    ids = one.inputs["input_ids"]
    samples = joined_axes(one.model.config, ids, one.inputs, lambda some: Axis(len(some)))
    assert samples is not None
    assert all(sum(map(len, parts)) == ids.shape[1] for parts in samples)
    return [
        [
            Axis(
                x.labels,
                x.grid,
                source=None if x.grid is None else x.source.clone(),
                places=x.places,
            )
            for x in parts
        ]
        for parts in samples
    ]


def changed_cells(before, after):
    """The cells in which at least one pixel of the source has changed, as (sample, position)."""
    found = set()
    for sample, (old, new) in enumerate(zip(before, after, strict=True)):
        first = 0
        for was, now in zip(old, new, strict=True):
            if was.grid is not None:
                pixels = (was.source != now.source).float().amax(-3)
                cells = torch.nn.functional.adaptive_max_pool2d(
                    pixels.view(-1, *pixels.shape[-2:]), was.grid[-2:]
                )
                cells = cells.flatten()
                places = range(len(was)) if was.places is None else was.places.tolist()
                found |= {
                    (sample, first + at)
                    for at, cell in enumerate(places)
                    if cell >= 0 and cells[cell]
                }
            first += len(was)
    return found


def test_every_family_is_proved_below():
    alike = {"glm4v_moe", "qwen3_5_moe", "qwen3_vl_moe"}  # only their text differs
    assert {*picture_tokens._PICTURES} - {*CASES} == alike


@pytest.mark.parametrize("family", each(CASES))
def test_a_changed_pixel_changes_the_keys_of_its_cell(family):
    changes_its_cell(family, "pixel_values")


@pytest.mark.parametrize("family", each(VIDEOS))
def test_a_changed_pixel_of_a_video_changes_the_keys_of_its_cell(family):
    changes_its_cell(family, "pixel_values_videos")


def changes_its_cell(family, name):
    one = case(family, video=name != "pixel_values")
    pixels = one.inputs[name]
    before, keys = named(one), keys_of_text(one)
    whole, draw, seen = pixels.clone(), random.Random(0), 0
    for _ in range(12):
        place = tuple(draw.randrange(size) for size in pixels.shape)
        if not pixels[place]:
            continue  # padding
        # patches that are cut hold an image twice, as two frames of a video
        pixels[place[:1] if pixels.ndim == 2 else place] += 1
        expected = changed_cells(before, named(one))
        changed = (keys_of_text(one) != keys).any(dim=-1).nonzero().tolist()
        pixels.copy_(whole)
        changed = {tuple(at) for at in changed}
        assert expected <= changed if family in BLURRED else expected == changed
        assert bool(expected) == bool(changed)
        seen += bool(changed)
    assert seen > 3


def test_sources_are_the_pictures():
    one = case("qwen2_vl")
    axes = picture_axes(one.model.config, one.inputs)
    assert [axis.grid for axis in axes] == [(3, 5), (2, 5), (4, 3)]
    processor = one.processor.image_processor
    for axis, size, seed in zip(axes, ((42, 70), (28, 70), (56, 42)), range(3), strict=True):
        assert axis.source.shape == (3, *size)
        image = torch.from_numpy(np.asarray(picture(*size, seed)).copy()).movedim(-1, 0) / 255
        mean, std = (
            torch.tensor(x)[:, None, None] for x in (processor.image_mean, processor.image_std)
        )
        torch.testing.assert_close(axis.source * std + mean, image)


def test_the_source_of_patches_in_a_list():
    """LFM2-VL's processor needs torchvision: its function that cuts a picture does not."""
    from transformers.models.siglip2.image_processing_pil_siglip2 import convert_image_to_patches

    one = case("lfm2_vl")
    image = torch.rand(3, 28, 42)
    cut = torch.from_numpy(convert_image_to_patches(image.numpy(), 7).copy())
    given = {"pixel_values": cut[None], "spatial_shapes": torch.tensor([[4, 6]])}
    (axis,) = picture_axes(one.model.config, given)
    assert axis.grid == (2, 3)
    assert torch.equal(axis.source, image)
