"""Attention that sees windows of a picture: on which cells of the picture each window stands.

The samples of such a map are windows, all of the first picture before those of the second. How a
model cuts its pictures is read from the block that cuts them and from what that block was given.
Swin, MaxViT, SAM, Hiera and others are known by the names of their blocks (see `_FAMILIES`), those
of transformers, timm and torchvision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

from wqkv.maps.axis import Axes, Axis, Parts
from wqkv.record.inputs.moment import CallSizes, Moment, Running
from wqkv.record.inputs.pixels import pictures_on
from wqkv.record.inputs.places import Pair, cells, padded, rolled, sparse, unrolled, windows


class Cut(NamedTuple):
    """A picture that is cut into windows."""

    grid: Pair
    places: Tensor  # (windows, length), the cell on which each position stands; -1 for padding


class Windowed(NamedTuple):
    """What the windows of one attention are."""

    pictures: int
    keys: Cut
    queries: Cut


#: Reads how a block cuts what it was given; None if it cannot be known.
Family: TypeAlias = Callable[[Moment, Running], Windowed | None]


def read_windows(moment: Moment, sizes: CallSizes) -> Axes | None:
    """The windows of a picture."""
    found = next(
        (
            family(moment, one)
            for one in reversed(moment.modules)
            if (family := _family_of(one)) is not None
        ),
        None,
    )
    if found is None or not _fits(found, sizes):
        return None
    seen = found

    @cache
    def keys() -> Sequence[Parts]:
        return _axes(moment, seen.pictures, seen.keys)

    @cache
    def queries() -> Sequence[Parts]:
        return keys() if seen.queries is seen.keys else _axes(moment, seen.pictures, seen.queries)

    return Axes(queries, keys)


def _family_of(one: Running) -> Family | None:
    kinds = (kind.__name__ for kind in type(one.module).__mro__)
    return next((_FAMILIES[name] for name in kinds if name in _FAMILIES), None)


def _fits(seen: Windowed, sizes: CallSizes) -> bool:
    lengths = (sizes.query_len, sizes.key_len)
    return all(
        tuple(cut.places.shape) == (sizes.batch / seen.pictures, length)
        for cut, length in zip((seen.queries, seen.keys), lengths, strict=True)
    )


def _axes(moment: Moment, count: int, cut: Cut) -> Sequence[Parts]:
    sources = pictures_on(moment, count, cut.grid)
    return [
        (Axis(math.prod(cut.grid), cut.grid, source=source, places=places),)
        for source in sources
        for places in cut.places
    ]


# What a block was given


def _hidden(block: Running) -> Any:  # a tensor or a Sized
    """The hidden states, which blocks are given first."""
    return next(
        block.given[name] for name in ("hidden_states", "x", "input") if name in block.given
    )


def _pair(size: Any) -> Pair:  # an int, or two in a list or tuple: an attribute of a foreign module
    rows, columns = (size, size) if isinstance(size, int) else size
    return int(rows), int(columns)


def _grid(block: Running, first: int) -> Pair | None:
    """Rows and columns of hidden states (batch, ...) whose rows are on the axis `first`."""
    shape = _hidden(block).shape
    return _pair(shape[first : first + 2]) if len(shape) == 4 else None


def _alike(block: Running, grid: Pair, places: Tensor) -> Windowed:
    """Windows whose queries are their keys."""
    cut = Cut(grid, places)
    return Windowed(_hidden(block).shape[0], cut, cut)


# Swin: windows that are shifted in every second block


def _swin(moment: Moment, block: Running) -> Windowed | None:
    """Swin and Swin V2 of transformers: padded, then shifted."""
    module: Any = block.module
    grid = _pair(block.given["input_dimensions"])
    window, shift = _pair(module.window_size), _pair(module.shift_size)
    if not _agrees(moment, shift):
        return None
    return _alike(block, grid, windows(rolled(padded(cells(grid), window), shift), window))


def _timm_swin(moment: Moment, block: Running) -> Windowed | None:
    """Swin and Swin V2 of timm: shifted, then padded."""
    module: Any = block.module
    grid, window, shift = _grid(block, 1), _pair(module.window_size), _pair(module.shift_size)
    if grid is None or not _agrees(moment, shift):
        return None
    return _alike(block, grid, windows(padded(rolled(cells(grid), shift), window), window))


def _agrees(moment: Moment, shift: Pair) -> bool:
    """Whether its attention was given a mask, as it is where windows are shifted.

    A block of transformers sets its shift to 0 for good when it is given a small picture, so that
    the shift of now may not be that of then.
    """
    inner = moment.modules[-1].given
    mmoment = inner.get("attention_mask", inner.get("mask")) is not None
    return mmoment == any(shift)


def _torchvision_swin(moment: Moment, block: Running) -> Windowed | None:
    """Swin and Swin V2 of torchvision: padded, then shifted, if there is more than one window."""
    module: Any = block.module
    grid, window = _grid(block, 1), _pair(module.window_size)
    if grid is None:
        return None
    numbers = padded(cells(grid), window)
    rows, columns = (
        0 if size >= whole else by
        for size, whole, by in zip(window, numbers.shape, module.shift_size, strict=True)
    )
    return _alike(block, grid, windows(rolled(numbers, (rows, columns)), window))


# Windows that are not shifted


def _plain(first: int, moment: Moment, block: Running) -> Windowed | None:
    """SAM, ViTDet, DaViT and others: windows of a size, padded; 0 is the whole picture.

    Args:
        first: the axis of the hidden states on which their rows are.
    """
    module: Any = block.module
    grid, size = _grid(block, first), getattr(module, "window_size", None)
    if grid is None or size is None:
        return None
    window = _pair(size) if size else grid
    return _alike(block, grid, windows(padded(cells(grid), window), window))


def _pooled(moment: Moment, block: Running) -> Windowed | None:
    """SAM 2: as SAM, with queries that are the largest of a few cells at the first block of a stage."""
    seen = _plain(1, moment, block)
    stride = getattr(block.module, "query_stride", None)
    if seen is None or stride is None:
        return seen
    rows, columns = _pair(stride)
    grid = seen.keys.grid[0] // rows, seen.keys.grid[1] // columns
    size = block.module.window_size
    window = (size // rows, size // columns) if size else grid
    places = windows(padded(cells(grid), window), window)
    return seen._replace(queries=Cut(grid, places))


def _max_vit(first: int, moment: Moment, block: Running) -> Windowed | None:
    """MaxViT of timm: windows, or as many cells that stand evenly over the picture."""
    module: Any = block.module
    grid, size = _grid(block, first), _pair(module.partition_size)
    if grid is None:
        return None
    near = getattr(module, "partition_block", None)
    if near is None:  # it has an attention of each kind
        near = any(one.module is module.attn_block for one in moment.modules)
    return _alike(block, grid, (windows if near else sparse)(cells(grid), size))


def _torchvision_max_vit(moment: Moment, block: Running) -> Windowed | None:
    """MaxViT of torchvision: the same."""
    module: Any = block.module
    grid = _grid(block, 2)
    if grid is None:
        return None
    places = windows(cells(grid), _pair(module.p))
    return _alike(block, grid, places if module.partition_type == "window" else places.T)


def _hiera(moment: Moment, block: Running) -> Windowed | None:
    """Hiera: the cells of a mask unit stand far apart in the sequence, in the order of pooling."""
    attention: Any = moment.modules[-1].module
    outer = moment.inside("HieraModel", "Hiera")
    if outer is None or not moment.convolved:
        return None
    model: Any = outer.module
    if hasattr(model, "encoder"):
        mmoment, schedule = moment.inside("HieraEncoder"), model.encoder.schedule[0][0]
    else:
        mmoment, schedule = outer, model.unroll.schedule
    if mmoment is None or _any_mmoment(mmoment):
        return None
    count, length, _ = _hidden(block).shape
    grid = _pair(moment.convolved[-1].made[-2:])
    strides = [_pair(stride) for stride in schedule]
    while math.prod(grid) > length and strides:  # the stages before have pooled
        grid = grid[0] // strides[0][0], grid[1] // strides[0][1]
        strides = strides[1:]
    if math.prod(grid) != length:
        return None
    step = getattr(attention, "query_stride", None) or attention.q_stride
    units = length // (step * attention.window_size) if attention.use_mask_unit_attn else 1
    keys = Cut(grid, unrolled(cells(grid), strides).view(-1, units).T)
    if step == 1:
        return Windowed(count, keys, keys)
    grid = grid[0] // strides[0][0], grid[1] // strides[0][1]
    return Windowed(count, keys, Cut(grid, unrolled(cells(grid), strides[1:]).view(-1, units).T))


def _any_mmoment(model: Running) -> bool:
    """Whether patches were left out."""
    return any(model.given.get(name) is not None for name in ("bool_mmoment_pos", "mask"))


_FAMILIES: dict[str, Family] = {
    **dict.fromkeys(
        ("DonutSwinLayer", "MaskFormerSwinLayer", "Swin2SRLayer", "SwinLayer", "Swinv2Layer"), _swin
    ),
    **dict.fromkeys(
        ("SwinTransformerBlock", "SwinTransformerV2Block", "SwinTransformerV2CrBlock"), _timm_swin
    ),
    "ShiftedWindowAttention": _torchvision_swin,
    **dict.fromkeys(
        (
            "Block",  # of SAM in timm
            "DeepseekOcr2SamVisionLayer",
            "Florence2VisionWindowAttention",
            "GotOcr2VisionLayer",
            "PPFormulaNetVisionLayer",
            "SLANeXtVisionLayer",
            "Sam3ViTLayer",
            "SamHQVisionLayer",
            "SamVisionLayer",
            "TinyVitBlock",
            "UnlimitedOcrSamVisionLayer",
        ),
        partial(_plain, 1),
    ),
    **dict.fromkeys(("SpatialBlock", "VitDetLayer"), partial(_plain, 2)),
    "Sam2MultiScaleBlock": _pooled,
    **dict.fromkeys(("ParallelPartitionAttention", "PartitionAttentionCl"), partial(_max_vit, 1)),
    "PartitionAttention2d": partial(_max_vit, 2),
    "PartitionAttentionLayer": _torchvision_max_vit,
    **dict.fromkeys(("HieraBlock", "HieraLayer"), _hiera),
}
