"""Towers that are given the patches of several pictures in one sequence."""

from __future__ import annotations

import numpy
import pytest
import torch
from PIL import Image
from transformers import Qwen2VLImageProcessorPil
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
)

from wqkv import watch
from wqkv.record.inputs.cuts import put_together
from wqkv.record.inputs.places import merged

PATCH = 4


def tower():
    """Windows of 3 x 3 blocks of 2 x 2 patches in the first layer, all patches in the second."""
    config = Qwen2_5_VLVisionConfig(
        depth=2, hidden_size=16, num_heads=2, intermediate_size=24, patch_size=PATCH,
        window_size=6 * PATCH, fullatt_block_indexes=[1], out_hidden_size=16,
    )  # fmt: skip
    return Qwen2_5_VisionTransformerPretrainedModel(config).eval()


def processor():
    return Qwen2VLImageProcessorPil(
        patch_size=PATCH, merge_size=2, min_pixels=1, max_pixels=10**6, do_resize=False
    )


def watched(model, *args, processor=None, **kwargs):
    with torch.no_grad(), watch(model, processor=processor) as seen:
        model(*args, **kwargs)
    return seen


def test_two_pictures_of_a_processor():
    generator = numpy.random.default_rng(0)
    pictures = [
        generator.integers(0, 256, (rows * PATCH, columns * PATCH, 3), dtype=numpy.uint8)
        for rows, columns in ((6, 10), (8, 4))
    ]
    given = processor()([Image.fromarray(one) for one in pictures], return_tensors="pt")
    assert given["image_grid_thw"].tolist() == [[1, 6, 10], [1, 8, 4]]
    seen = watched(tower(), given["pixel_values"], given["image_grid_thw"], processor=processor())
    for shown in seen:
        first, second = shown.keys
        assert (first.grid, second.grid, len(first), len(second)) == ((6, 10), (8, 4), 60, 32)
        for axis, picture in zip(shown.keys, pictures, strict=True):
            own = torch.from_numpy(picture).movedim(-1, 0) / 255
            torch.testing.assert_close(axis.picture(), own, rtol=0, atol=1e-6)
            assert sorted(axis.places.tolist()) == list(range(axis.count))
    # a window of the first layer is what its queries may see
    weights = seen[0][0, 0, 0]
    rows = seen[0].keys[0].cells(weights[:60])
    assert (rows > 0).nonzero().amax(dim=0).tolist() == [5, 5]


def test_numbers_that_were_changed_before_the_tower():
    """As where a model casts its pixels: those are shown that the watched model was given."""

    class Outer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.tower = tower()

        def forward(self, pixel_values, grid_thw):
            return self.tower(pixel_values * 1.0, grid_thw)

    patches, grids = torch.randn(24, 3 * 2 * PATCH**2), torch.tensor([[1, 4, 6]])
    axis = watched(Outer().eval(), patches, grids)[0].keys
    first = patches[0].view(3, 2, PATCH, PATCH)[:, 0]
    assert axis.grid == (4, 6) and torch.equal(axis.source[:, :PATCH, :PATCH], first)


def test_an_order_of_somebodys_own():
    model, grids = tower(), torch.tensor([[1, 4, 6]])
    patches = torch.randn(24, 3 * 2 * PATCH**2)
    own = {"window_index": torch.arange(6).flip(0), "cu_window_seqlens": torch.tensor([0, 24])}
    assert watched(model, patches, grids)[0].keys is not None
    seen = watched(model, patches, grids, **own)
    assert seen[0].keys is None and seen[0].queries is None


@pytest.mark.parametrize("merge", [1, 2, 3])
def test_patches_are_put_together(merge):
    """Cut a video as a processor does, and put it together again."""
    video = torch.randn(2, 3, 6 * 5, 12 * 7)
    cut = video.view(2, 3, 6, 5, 12, 7).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    patches = cut[:, merged((6, 12), merge)].flatten(0, 1)
    assert torch.equal(put_together(patches, (2, 6, 12), merge), video)
