"""What has cut pictures or videos into cells, and which pixels each cell covers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from wqkv.record.inputs.moment import Convolved, Running, is_kind


class Cut(NamedTuple):
    """What has cut pictures, or the cells of an earlier cut, into cells.

    All sizes are those of (rows, columns) or (frames, rows, columns).
    """

    module: nn.Module  # that did it
    given: tuple[int, ...]  # (batch, channels, *sizes)
    made: tuple[int, ...]  # (batch, channels, *sizes)
    step: tuple[int, ...]  # from one cell to the next
    begin: tuple[float, ...]  # where the first cell begins

    @property
    def batch(self) -> int:
        return self.made[0]

    @property
    def cells(self) -> tuple[int, ...]:
        return self.made[2:]


class Region(NamedTuple):
    """Which pixels the cells cover along one side of a picture, or which frames of a video."""

    begin: float
    step: float  # the length of one cell


def cuts_of(convolved: Sequence[Convolved]) -> list[Cut]:
    """The cuts that convolutions have made, in their order; of each module the last one."""
    last = {one.module: one for one in convolved}
    return [
        _cut_of(one)
        for one in convolved
        if isinstance(one.module, nn.Conv2d | nn.Conv3d)
        and last[one.module] is one
        and all(one.made)
    ]


def _cut_of(one: Convolved) -> Cut:
    """A cell stands in the middle of the pixels that a convolution reads for it."""
    module: Any = one.module
    step = tuple(module.stride)
    wide = [(k - 1) * d + 1 for k, d in zip(module.kernel_size, module.dilation, strict=True)]
    if module.padding == "same":
        before: Sequence[float] = [(k - 1) // 2 for k in wide]
    else:
        before = [0] * len(step) if isinstance(module.padding, str) else module.padding
    begin = tuple((k - s) / 2 - p for k, s, p in zip(wide, step, before, strict=True))
    return Cut(one.module, one.given, one.made, step, begin)


#: einops' pattern of patches that stand row by row, as vit-pytorch writes it.
_PATCHES = re.compile(
    r"b c( \(f (?P<frame>\w+)\))? \(h (?P<row>\w+)\) \(w (?P<column>\w+)\) -> b \((f )?h w\) \(.*\)"
)


def rearranged(tower: Running) -> Cut | None:
    """The cut that a layer of einops makes of the pictures that a tower is given."""
    for module in tower.module.modules():
        if not is_kind(module, "Rearrange"):
            continue
        found = _PATCHES.fullmatch(getattr(module, "pattern", ""))
        if found is None:
            continue
        lengths: dict[str, int] = getattr(module, "axes_lengths", {})
        sides = [found[side] for side in ("frame", "row", "column") if found[side]]
        if not all(side in lengths for side in sides):
            return None
        step = tuple(lengths[side] for side in sides)
        shape = next(
            (
                tuple(x.shape)
                for x in tower.tensors(floating=True).values()
                if x.ndim == len(step) + 2
                and not any(size % by for size, by in zip(x.shape[2:], step, strict=True))
            ),
            None,
        )
        if shape is None:
            return None
        cells = tuple(size // by for size, by in zip(shape[2:], step, strict=True))
        made = (shape[0], shape[1] * math.prod(step), *cells)
        return Cut(module, shape, made, step, (0.0,) * len(step))
    return None


def sources(cut: Cut, cuts: Sequence[Cut], given: Sequence[Running]) -> list[Tensor | None]:
    """What each sample of a cut shows: its picture, exactly as large as the grid of cells.

    Pixels on the right and below that no cell covers are left out, and where cells reach past a
    picture, 0 is added. Of a video there is the first frame of each cell. None where it is not
    known which pixels a cell covers.

    Args:
        cuts: all cuts of the forward, in their order.
        given: the modules that run, with the tensors that the watched model was given.
    """
    before = list(cuts[: cuts.index(cut) + 1]) if cut in cuts else [cut]
    for one in reversed(given):
        found = [
            (pictures, first)
            for pixels in one.tensors(floating=True).values()
            for first in before
            if first.batch == cut.batch and (pictures := _pictures(pixels, first)) is not None
        ]
        if len({pictures.data_ptr() for pictures, _ in found}) > 1:
            break  # of several pictures nobody tells which was cut
        for pictures, first in found:
            regions = _followed(cut, before, first) or _halved(cut, first.given[2:])
            if regions is not None:
                return list(_covered(pictures, regions, cut.cells))
    return [None] * cut.batch


def _pictures(pixels: Tensor, first: Cut) -> Tensor | None:
    """Pictures (batch, *frames, channels, height, width) as a first cut was given them."""
    batch, channels, *sizes = first.given
    if channels not in (1, 3):
        return None
    if len(sizes) == 3 and pixels.ndim == 5 and sizes[0] != channels:
        if pixels.shape[1] == channels:
            pixels = pixels.transpose(1, 2)
        fits = tuple(pixels.shape[:3]) == (batch, sizes[0], channels)
    elif len(sizes) == 2 and pixels.ndim >= 4:
        fits = pixels.shape[-3] == channels and math.prod(pixels.shape[:-3]) == batch
        pixels = pixels.reshape(-1, *pixels.shape[-3:])
    else:
        return None  # or a video of as many frames as channels: which axis is which?
    if not fits:
        return None
    # a model may add pixels on the right and below, up to whole cells
    more = [size - own for size, own in zip(sizes[-2:], pixels.shape[-2:], strict=True)]
    return pixels if all(0 <= m < s for m, s in zip(more, first.step[-2:], strict=True)) else None


def _followed(cut: Cut, cuts: Sequence[Cut], first: Cut) -> list[Region] | None:
    """The regions of a cut's cells, followed back through what it was given to the first cut."""
    if cut == first:
        return [Region(begin, step) for begin, step in zip(cut.begin, cut.step, strict=True)]
    earlier = cuts[: cuts.index(cut)]
    before = next((one for one in reversed(earlier) if one.made[1:] == cut.given[1:]), None)
    outer = None if before is None else _followed(before, earlier, first)
    if outer is None:
        return None
    return [
        Region(region.begin + begin * region.step, step * region.step)
        for region, begin, step in zip(outer, cut.begin, cut.step, strict=True)
    ]


def _halved(cut: Cut, sizes: Sequence[int]) -> list[Region] | None:
    """The regions of a backbone that halves its pictures, rounding up, some times."""
    for power in range(2, 8):
        step = 2**power
        if tuple(-(-size // step) for size in sizes) == cut.cells:
            return [Region(0, step)] * len(sizes)
    return None


def _covered(pictures: Tensor, regions: Sequence[Region], cells: Sequence[int]) -> Tensor:
    """The pixels that cells cover, and of each cell's frames the first."""
    if len(regions) == 3:
        begin, step = (max(0, round(x)) for x in regions[0])
        pictures = pictures[:, begin::step][:, : cells[0]]
    more: list[int] = []
    for size, region, count in zip(pictures.shape[-2:], regions[-2:], cells[-2:], strict=True):
        # Where convolutions pad, the first cell reaches out of the picture. It is drawn inside.
        begin = max(0, round(region.begin))
        more[:0] = [-begin, begin + round(region.step * count) - size]
    return F.pad(pictures, more) if any(more) else pictures


def put_together(patches: Tensor, grid: Sequence[int], merge: int) -> Tensor:
    """Patches as the pictures that they were cut from: (frames, channels, height, width).

    Args:
        patches: (count, channels, height, width) of one patch each. Those of a block that is merged
            stand side by side.
        grid: (frames, rows, columns), in patches.
        merge: a block has merge x merge patches.
    """
    frames, rows, columns = grid
    cut = patches.view(frames, rows // merge, columns // merge, merge, merge, *patches.shape[1:])
    # (frames, channels, rows of blocks, rows, height, columns of blocks, columns, width)
    whole = cut.permute(0, 5, 1, 3, 6, 2, 4, 7)
    return whole.flatten(5).flatten(2, 4)


def unnormalized(picture: Tensor, processor: Any) -> Tensor:  # a foreign processor
    """A picture (..., channels, height, width) before a processor of transformers scaled it."""
    own = getattr(processor, "image_processor", processor)
    mean, std = getattr(own, "image_mean", None), getattr(own, "image_std", None)
    if not getattr(own, "do_normalize", True):
        return picture
    if not isinstance(mean, list | tuple) or not isinstance(std, list | tuple):
        return picture
    if not len(mean) == len(std) == picture.shape[-3]:
        return picture
    mean_of, std_of = (picture.new_tensor(x)[:, None, None] for x in (mean, std))
    return (picture * std_of + mean_of).clamp(0, 1)
