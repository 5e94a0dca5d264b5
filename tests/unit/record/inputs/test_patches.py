"""Planted models: every query looks at a bright square, which the overlay must light and no other.

That the axes of real families are right is proved in tests/conformance/test_patches.py.
"""

import re

import numpy
import pytest
import torch
import transformers
from matplotlib.backends.backend_agg import FigureCanvasAgg
from torch import nn

import wqkv
from wqkv import Axis, watch

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
SIZES |= {"intermediate_size": 40, "pooler_output_size": 32}
#: By the name of a model's class: its special tokens in front of the patches, and behind them.
SPECIAL = {
    "ViT": (["[CLS]"], []),
    "DeiT": (["[CLS]", "[DIST]"], []),
    "IJepa": ([], []),
    "Yolos": (["[CLS]"], ["[DET 0]", "[DET 1]", "[DET 2]"]),
    "Dinov2WithRegisters": (["[CLS]", "[REG 0]", "[REG 1]", "[REG 2]"], []),
}


def looker(name, height, width):
    """A model whose queries are all the same, and whose keys are how bright a patch is."""
    kind = getattr(transformers, f"{name}Config")
    more = {"num_detection_tokens": 3} if name == "Yolos" else {}
    more |= {"num_register_tokens": 3} if name == "Dinov2WithRegisters" else {}
    model = getattr(transformers, f"{name}Model")(
        kind(**SIZES, image_size=[height, width], **more)
    ).eval()
    with torch.no_grad():
        for part, weight in model.named_parameters():
            nn.init.zeros_(weight)
            if re.search(r"norm\w*\.weight$", part):
                nn.init.ones_(weight)
            elif re.search(r"patch_embeddings\S*\.weight$", part):
                weight[0] = 1 / weight[0].numel()
            elif re.search(r"(key|k_proj)\.weight$", part):
                weight[::16, 0] = 1  # the first channel of both heads
            elif re.search(r"(query|q_proj)\.bias$", part):
                weight[::16] = 20
    return model


def seen(model, pictures):
    with torch.no_grad(), watch(model) as found:
        model(pictures)
    return found


def with_squares(height, width, *cells):
    """Dark pictures, each with a patch that is bright."""
    pictures = torch.zeros(len(cells), 3, height, width)
    for picture, (row, column) in zip(pictures, cells, strict=True):
        picture[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 1
    return pictures


def lit(found, query, sample):
    """The edges (top, bottom, left, right) of what an overlay lights, in pixels of the picture."""
    keys = found.keys[sample]
    patches, _ = patches_of(keys)
    figure = found.overlay(query, head=1, sample=sample)
    empty = wqkv.overlay(torch.zeros(found.shape[-1]), keys, title=figure.get_suptitle())
    shots = [shot(one) for one in (figure, empty)]
    panel = next(
        axes
        for axes in figure.axes
        for image in axes.images
        if image.get_array().shape[:2] == patches.source.shape[-2:]
    )
    # Weights are drawn in blue. The orange frame around the query is no weight and is not counted.
    blue, none = (one[..., 2] - one[..., 0] for one in shots)
    rows, columns = (blue > none).nonzero()
    points = numpy.stack([columns + 0.5, len(shots[0]) - rows - 0.5], axis=-1)  # from below
    box = panel.get_window_extent()
    inside = ((points > (box.x0, box.y0)) & (points < (box.x1, box.y1))).all(-1)
    points = panel.transData.inverted().transform(points[inside])
    edges = [*points[:, 1].min(keepdims=True), *points[:, 1].max(keepdims=True)]
    edges += [points[:, 0].min(), points[:, 0].max()]
    return [round(float(edge) + 0.5) for edge in edges]


def shot(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return numpy.asarray(canvas.buffer_rgba())[..., :3].astype(int)


def patches_of(keys):
    """The axis of the patches, and the position of the first of them."""
    parts = (keys,) if isinstance(keys, Axis) else keys
    at = next(i for i, part in enumerate(parts) if part.grid is not None)
    return parts[at], sum(len(part) for part in parts[:at])


@pytest.mark.parametrize("name", SPECIAL)
def test_a_bright_square_is_lit(name):
    square = name == "Dinov2WithRegisters"  # it takes no others
    height, width = (40, 40) if square else (24, 40)
    bright = [(1, 3), (2, 0)]
    before, after = SPECIAL[name]
    found = seen(looker(name, height, width), with_squares(height, width, *bright))
    for one in found:
        for sample, cell in enumerate(bright):
            patches, first = patches_of(one.keys[sample])
            weights = one[sample, 1, 0, first : first + len(patches)]
            assert patches.grid == (height // 8, width // 8) and patches.cells(weights)[cell] > 0.99
            assert torch.equal(patches.pixels(weights) > 0.99, patches.source[0] == 1)
    for sample, (row, column) in enumerate(bright):
        keys = one.keys[sample]
        labels = [] if isinstance(keys, Axis) else [part.labels for part in keys if not part.grid]
        assert [label for some in labels for label in some] == before + after
        # the overlay marks the cell of a query too, so that is the bright one itself
        query = before[0] if before and sample else (row, column)
        assert lit(one, query, sample) == [8 * row, 8 * row + 8, 8 * column, 8 * column + 8]
