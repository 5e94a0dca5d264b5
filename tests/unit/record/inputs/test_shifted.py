"""Windows of a picture: a planted Swin, and what is not known rather than wrong."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import HieraConfig, HieraForPreTraining, HieraModel, SwinConfig, SwinModel
from transformers.models.maskformer.configuration_maskformer_swin import MaskFormerSwinConfig
from transformers.models.maskformer.modeling_maskformer_swin import MaskFormerSwinModel
from transformers.models.rf_detr.configuration_rf_detr import RfDetrDinov2Config
from transformers.models.rf_detr.modeling_rf_detr import RfDetrDinov2Backbone
from transformers.models.swin.modeling_swin import SwinLayer as ModelSwinLayer

from wqkv import Axis, watch

SIDE, WINDOW, SHIFT = 4, 5, 2
#: 13 x 19 cells, then 7 x 10: no stage has whole windows.
SIZE = (13 * SIDE, 19 * SIDE)


def swin(stages=2):
    config = SwinConfig(
        image_size=SIZE, patch_size=SIDE, embed_dim=12, depths=[2, 2][:stages],
        num_heads=[2, 3][:stages], window_size=WINDOW,
    )  # fmt: skip
    return SwinModel(config).eval()


def watched(model, *pixels):
    with torch.no_grad(), watch(model) as seen:
        for one in pixels:
            model(one)
    return seen


@torch.no_grad()
def planted():
    """A Swin whose every query looks at bright keys.

    Channels 0 and 1 hold brightness and its negative, 2 and 3 a constant, so that a LayerNorm
    leaves the order of brightness as it is. What a block adds to its input is 0.
    """
    model = swin()
    patches = model.embeddings.patch_embeddings.projection
    for parameter in (patches.weight, patches.bias):
        parameter.zero_()
    patches.weight[0], patches.weight[1] = 1 / 3 / SIDE**2, -1 / 3 / SIDE**2
    patches.bias[2], patches.bias[3] = 1, -1
    for stage in model.encoder.layers:
        for block in stage.blocks:
            for module in (block.attention.o_proj, block.mlp.fc2):
                for parameter in module.parameters():
                    parameter.zero_()
            q, k = block.attention.q_proj, block.attention.k_proj
            for parameter in (q.weight, k.weight, k.bias, q.bias):
                parameter.zero_()
            d = q.out_features // block.attention.num_attention_heads
            q.bias[::d] = 20.0  # less than the 100 that hides a key
            k.weight[::d, 0] = 1
        if stage.downsample is not None:  # the mean of four cells, channel by channel
            reduction = stage.downsample.reduction.weight
            reduction.zero_()
            for channel in range(4):
                reduction[channel, channel :: len(reduction[0]) // 4] = 0.25
    return model


def regions(grid, shift):
    """By cell, which of the parts it is in that a shifted map must not join: (rows, columns)."""
    rows, columns = (
        torch.div(torch.arange(n) - shift, WINDOW, rounding_mode="floor") for n in grid
    )
    return rows[:, None] * 100 + columns


@pytest.mark.parametrize("cell", [(0, 0), (3, 6), (12, 18), (2, 9)])
def test_planted(cell):
    pixels = torch.zeros(2, 3, *SIZE)
    row, column = (at * SIDE for at in cell)
    pixels[1, :, row : row + SIDE, column : column + SIDE] = 3.0
    seen = watched(planted(), pixels)
    assert [layer.state for layer in seen.layers] == ["proved"] * 4
    for number, shown in enumerate(seen):
        grid, side = ((13, 19), SIDE) if number < 2 else ((7, 10), 2 * SIDE)
        shift = SHIFT * (number % 2)
        bright = (cell[0] * SIDE // side, cell[1] * SIDE // side)
        near = regions(grid, shift)
        weights, asked = shown[:], 0
        for sample, axis in enumerate(shown.keys):
            assert axis.grid == grid
            second = sample >= len(shown.keys) // 2
            for position, place in enumerate(axis.places.tolist()):
                if place < 0:
                    continue
                asked += 1
                own = axis.pixels(weights[sample, 0, position])
                own = own[: SIZE[0], : SIZE[1]].nan_to_num(0)
                at = divmod(place, grid[1])
                lit = torch.zeros(SIZE, dtype=torch.bool)
                if second and near[at] == near[bright]:
                    top, left = (one * side for one in bright)
                    lit[top : top + side, left : left + side] = True
                assert torch.equal(own > 0.9, lit), (number, at)
                assert second or float(own.max()) < 0.5
        assert asked == 2 * grid[0] * grid[1]


def test_overlay_finds_the_window():
    """The map of shifted windows, three rows of four: its first cells stand in the last one."""
    pytest.importorskip("matplotlib")
    shifted = watched(planted(), torch.zeros(2, 3, *SIZE))[1]
    assert len(shifted.queries) == 24
    cells = {(0, 0): 11, (1, 1): 11, (2, 2): 0, (6, 3): 0, (7, 3): 4, (12, 18): 11}
    for cell, window in cells.items():
        for first in (0, 12):  # the windows of each picture
            sample, position = shifted._asked(cell, first)
            assert sample == first + window
            assert shifted.queries[sample].label(position) == f"{cell[0]},{cell[1]}"
    assert shifted.overlay((7, 3), head=1).axes


# The picture


def test_each_picture_is_the_source_of_its_windows():
    pixels = torch.randn(2, 3, *SIZE)
    keys = watched(swin(), pixels)[0].keys
    half = len(keys) // 2
    assert all(torch.equal(axis.source, pixels[0]) for axis in keys[:half])
    assert all(axis.source is keys[half].source for axis in keys[half:])
    assert torch.equal(keys[half].source, pixels[1])


def test_no_picture():
    """Somebody watches a block alone: its grid is known, but of no picture."""
    block = swin().encoder.layers[0].blocks[1]
    with torch.no_grad(), watch(block) as seen:
        block(torch.randn(2, 77, 12), (7, 11))
    first = seen[0].keys[0]
    assert first.grid == (7, 11) and first.source is None


def test_special_tokens_stand_before_each_window():
    """RF-DETR: windows by themselves, then all of one picture in one sequence."""
    config = RfDetrDinov2Config(
        hidden_size=12, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=SIDE,
        num_windows=2, window_block_indexes=[0], out_indices=[2],
    )  # fmt: skip
    apart, together = watched(RfDetrDinov2Backbone(config).eval(), torch.randn(2, 3, 16, 16))
    first = [[-1], [0, 1, 4, 5]]
    assert [places_of(axis) for axis in apart.keys[0]] == first
    assert len(apart.keys) == 8 and len(together.keys) == 2
    assert [places_of(axis) for axis in together.keys[1]] == [
        *first, [-1], [2, 3, 6, 7], [-1], [8, 9, 12, 13], [-1], [10, 11, 14, 15],
    ]  # fmt: skip
    assert together.keys[0][2].labels == ("[CLS]",)


def places_of(axis):
    return [-1] if axis.grid is None else axis.places.tolist()


# What is not known


def test_a_block_that_has_lost_its_shift():
    """transformers sets the shift of a block to 0 for good, so an earlier run cannot be told."""
    model, pixels = swin(stages=1), torch.randn(1, 3, *SIZE)
    assert watched(model, pixels)[1].keys is not None
    old, new = watched(model, pixels, pixels[:, :, : 5 * SIDE]).runs(1)
    assert old.keys is None and old.queries is None
    assert [len(axis) for axis in new.keys] == [25] * 4


def test_patches_that_were_left_out():
    config = HieraConfig(
        image_size=[64, 64], embed_dim=12, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1],
        decoder_hidden_size=12, decoder_depth=1, decoder_num_heads=1,
    )  # fmt: skip
    seen = watched(HieraForPreTraining(config).eval(), torch.randn(1, 3, 64, 64))
    known = {layer.name: seen[i].keys for i, layer in enumerate(seen.layers)}
    assert known and all(keys is None for name, keys in known.items() if "encoder.stages" in name)
    whole = watched(HieraModel(config).eval(), torch.randn(1, 3, 64, 64))
    assert all(isinstance(one.keys, list | Axis) for one in whole)


class SwinLayer(nn.Module):
    """Has the name of a block of transformers, and does something else."""

    def __init__(self):
        super().__init__()
        self.window_size, self.shift_size = 2, 0

    def forward(self, hidden_states, input_dimensions):
        x = hidden_states.view(4, 1, 4, 8)
        return nn.functional.scaled_dot_product_attention(x, x, x)


def test_a_block_of_the_same_name():
    layer = SwinLayer()
    with torch.no_grad(), watch(layer) as seen:
        layer(torch.randn(1, 16, 8), (4, 4))
    assert seen[0].shape == (4, 1, 4, 4) and seen[0].keys is None


class Whole(ModelSwinLayer):
    """A block that extends one that is known, and sees all cells at once."""

    def forward(self, hidden_states, input_dimensions):
        return self.attention(hidden_states, None)


def test_a_block_that_does_not_fit():
    """25 cells, of which the known block would make one window, with two of them as samples."""
    known = swin(stages=1).encoder.layers[0].blocks[0]
    whole = Whole(SwinConfig(window_size=5, embed_dim=12), 12, (5, 5), 2)
    for rows, fits in ((5, True), (10, False)):
        hidden = torch.randn(1, 5 * rows, 12)
        seen = watched_call(whole, hidden[:, :25], (rows, 5))
        assert (seen[0].keys is not None) == fits
    assert watched_call(known, torch.randn(1, 50, 12), (10, 5))[0].keys is not None


def watched_call(model, *args):
    with torch.no_grad(), watch(model.eval()) as seen:
        model(*args)
    return seen


class Detector(nn.Module):
    """Learned queries that look at what a Swin of one shifted window gives, row by row."""

    def __init__(self):
        super().__init__()
        config = MaskFormerSwinConfig(
            image_size=20, patch_size=SIDE, embed_dim=12, depths=[2], num_heads=[2], window_size=5
        )
        self.backbone = MaskFormerSwinModel(config)
        self.asked = nn.Parameter(torch.randn(1, 3, 12))
        self.cross = nn.MultiheadAttention(12, 2, batch_first=True)

    def forward(self, pixel_values):
        cells = self.backbone(pixel_values)[0]
        return self.cross(self.asked.expand(len(cells), -1, -1), cells, cells)


def test_who_looks_at_windows_sees_them_put_back():
    """Its keys are as many as the positions of the last window, and stand in another order."""
    first, last, cross = watched(Detector().eval(), torch.randn(2, 3, 20, 20))
    rows = list(range(25))
    assert [axis.places.tolist() == rows for axis in last.keys] == [False, False]
    assert [axis.places.tolist() == rows for axis in cross.keys] == [True, True]
    pairs = zip(cross.keys, first.keys, strict=True)
    assert all(torch.equal(axis.source, own.source) for axis, own in pairs)
