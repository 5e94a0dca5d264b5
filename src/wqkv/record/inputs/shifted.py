"""Attention that sees windows of a picture: on which cells of the picture each window stands.

The samples of such a map are windows, all of the first picture before those of the second. How a
model cuts its pictures is read from the block that cuts them and from what that block was given.
Swin, MaxViT, SAM, Hiera and others of transformers, timm and torchvision are known by the names of
their blocks: see `_FAMILIES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor, nn

from wqkv.maps.axis import UNKNOWN, Axes, Axis, Parts, known
from wqkv.record.inputs.cuts import Cut, cuts_of, sources, unnormalized
from wqkv.record.inputs.moment import CallSizes, Moment, Running
from wqkv.record.inputs.places import Pair, cells, padded, rolled, sparse, unrolled, windows


class Placed(NamedTuple):
    """The cells of a picture, and on which of them the positions of its windows stand."""

    grid: Pair
    #: The cell on which each position stands, -1 for padding: (windows, length). If several windows
    #: stand in one sample, (samples, windows, length).
    places: Tensor


class Windowed(NamedTuple):
    """What the windows of one attention are."""

    pictures: int
    keys: Placed
    queries: Placed | None  # None: what its queries are is not known
    special: Parts = ()  # what stands before each window


#: A block of the same name elsewhere may cut otherwise.
_LIBRARIES = ("timm", "torchvision", "transformers")
#: Reads how a block cuts what it was given; None if it cannot be known.
Family: TypeAlias = Callable[[Moment, Running], Windowed | None]


def read_windows(moment: Moment, sizes: CallSizes) -> Axes | None:
    """The windows of a picture.

    Where a block of a family runs, nobody else can tell what its positions are, so that they are
    not known if it does not fit.
    """
    both = ((_family_of(one.module), one) for one in reversed(moment.modules))
    family, block = next((pair for pair in both if pair[0] is not None), (None, None))
    if family is None or block is None:
        return None
    seen = family(moment, block)
    if seen is None or not _fits(seen, seen.keys, sizes.batch, sizes.key_len):
        return UNKNOWN
    own = seen.queries
    if own is not None and not _fits(seen, own, sizes.batch, sizes.query_len):
        return UNKNOWN
    keys = cache(lambda: _axes(moment, seen, seen.keys))
    if own is None:
        return Axes(known(None), keys)
    return Axes(keys if own is seen.keys else cache(lambda: _axes(moment, seen, own)), keys)


def _family_of(module: nn.Module) -> Family | None:
    names = [
        kind.__name__
        for kind in type(module).__mro__
        if kind.__module__.partition(".")[0] in _LIBRARIES
    ]
    if {"Block", "MultiScaleBlock"} & set(names) and not hasattr(module, "window_size"):
        return None  # so many others are called
    return next((_FAMILIES[name] for name in names if name in _FAMILIES), None)


def _fits(seen: Windowed, one: Placed, batch: int, length: int) -> bool:
    samples, *windows, size = one.places.shape
    size = (sum(map(len, seen.special)) + size) * math.prod(windows)
    return (seen.pictures * samples, size) == (batch, length)


def _axes(moment: Moment, seen: Windowed, one: Placed) -> Sequence[Parts]:
    count, size = math.prod(one.grid), one.places.shape[-1]
    return [
        tuple(
            axis
            for window in sample.view(-1, size)
            for axis in (*seen.special, Axis(count, one.grid, source=source, places=window))
        )
        for source in _sources(moment, seen.pictures, one.grid)
        for sample in one.places
    ]


def _sources(moment: Moment, pictures: int, grid: Pair) -> Sequence[Tensor | None]:
    """Each picture, exactly as large as its grid of cells; None where that is not known."""
    for first in () if moment.before.remade else cuts_of(moment.convolved):
        cut = _merged(first, grid) if first.batch == pictures else None
        found = [] if cut is None else sources(cut, [cut], moment.modules)
        if found and found[0] is not None:
            return [x if x is None else unnormalized(x, moment.processor) for x in found]
    return [None] * pictures


def _merged(first: Cut, grid: Pair) -> Cut | None:
    """The cut into a grid whose cells are made of 1, 4, 16, ... cells of a first one.

    Models add what is missing to whole cells, or leave out what is too much.
    """
    side = 1
    while len(first.cells) == 2 and side <= max(first.cells):
        pairs = zip(first.cells, grid, strict=True)
        if all(n in (size // side, -(-size // side)) for size, n in pairs):
            step = tuple(one * side for one in first.step)
            return first._replace(made=(*first.made[:2], *grid), step=step)
        side *= 2
    return None


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


def _convolved(moment: Moment) -> tuple[int, Pair] | None:
    """How many pictures the last convolution before has made, and their rows and columns."""
    made = moment.convolved[-1].made if moment.convolved else ()
    return (made[0], _pair(made[2:])) if len(made) == 4 else None


def _alike(block: Running, grid: Pair, places: Tensor) -> Windowed:
    """Windows whose queries are their keys."""
    placed = Placed(grid, places)
    return Windowed(_hidden(block).shape[0], placed, placed)


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
    masked = inner.get("attention_mask", inner.get("mask")) is not None
    return masked == any(shift)


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
    grid, window = _grid(block, first), _pair(module.window_size)
    if grid is None:
        return None
    return _alike(block, grid, _windows(grid, window if any(window) else grid))


def _pooled(moment: Moment, block: Running) -> Windowed | None:
    """SAM 2: as SAM; where a stage begins, each query is the largest of a few cells."""
    module: Any = block.module
    seen, window = _plain(1, moment, block), _pair(module.window_size)
    stride = getattr(module, "query_stride", None) or getattr(module, "q_stride", None)
    if seen is None or stride is None:
        return seen
    step = _pair(stride)
    grid = _over(seen.keys.grid, step)
    places = _windows(grid, _over(window, step) if any(window) else grid)
    return seen._replace(queries=Placed(grid, places))


def _windows(grid: Pair, size: Pair) -> Tensor:
    """Padded windows that are not shifted."""
    return windows(padded(cells(grid), size), size)


def _over(size: Pair, by: Pair) -> Pair:
    return size[0] // by[0], size[1] // by[1]


def _twins(moment: Moment, block: Running) -> Windowed:
    """Twins of timm: as SAM; it is told of its grid."""
    module: Any = block.module
    grid = _pair(block.given["size"])
    return _alike(block, grid, _windows(grid, _pair(module.ws)))


def _gc_vit(moment: Moment, block: Running) -> Windowed | None:
    """GC ViT of timm: in every second block the queries are made of the whole picture."""
    module: Any = block.module
    seen = _plain(1, moment, block)
    if seen is not None and getattr(module.attn, "use_global", True):
        return seen._replace(queries=None)
    return seen


def _nest(moment: Moment, block: Running) -> Windowed | None:
    """NesT of timm: its blocks of cells, which stand in a square."""
    inner, module = moment.inside("TransformerLayer"), block.module
    shape: Sequence[int] = () if inner is None else _hidden(inner).shape
    if len(shape) != 4 or math.isqrt(shape[1]) ** 2 != shape[1]:
        return None
    size = _pair(module.block_size)
    grid = math.isqrt(shape[1]) * size[0], math.isqrt(shape[1]) * size[1]
    placed = Placed(grid, windows(cells(grid), size))
    return Windowed(shape[0], placed, placed)


def _lw_detr(moment: Moment, block: Running) -> Windowed | None:
    """LW-DETR: windows, or all of them one behind the other."""
    module: Any = block.module
    side, made = math.isqrt(module.num_windows), _convolved(moment)
    if made is None or side**2 != module.num_windows:
        return None
    count, grid = made
    places = windows(cells(grid), _over(grid, (side, side)))
    placed = Placed(grid, places if module.window else places.reshape(1, -1))
    return Windowed(count, placed, placed)


def _rf_detr(moment: Moment, block: Running) -> Windowed | None:
    """RF-DETR: as LW-DETR, with a [CLS] before each window."""
    module: Any = block.module
    side, made = module.num_windows, _convolved(moment)
    if made is None:
        return None
    count, grid = made
    # its code takes the height of a window for its width
    height, width = _over(grid, (side, side))
    places = cells(grid).view(side, width, side, height).transpose(1, 2).reshape(side**2, -1)
    placed = Placed(grid, places[None] if module.global_attention else places)
    return Windowed(count, placed, placed, (Axis(["[CLS]"]),))


def _mobile_vit(moment: Moment, block: Running) -> Windowed | None:
    """MobileViT: of each patch the cell at one place, as many as there are places in a patch."""
    module: Any = block.module
    patch, made = getattr(module, "patch_size", None), _convolved(moment)
    if made is None:
        return None
    height, width = (module.patch_height, module.patch_width) if patch is None else _pair(patch)
    count, grid = made
    if grid[0] % height or grid[1] % width:
        return None  # it stretches its cells to whole patches
    placed = Placed(grid, sparse(cells(grid), _over(grid, (height, width))))
    return Windowed(count, placed, placed)


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
    made = _convolved(moment)
    if outer is None or made is None:
        return None
    model: Any = outer.module
    if hasattr(model, "encoder"):
        masked, schedule = moment.inside("HieraEncoder"), model.encoder.schedule[0][0]
    else:
        masked, schedule = outer, model.unroll.schedule
    if masked is None or _any_masked(masked):
        return None
    (count, grid), length = made, _hidden(block).shape[1]
    strides = [_pair(stride) for stride in schedule]
    while math.prod(grid) > length and strides:  # the stages before have pooled
        grid, strides = _over(grid, strides[0]), strides[1:]
    if math.prod(grid) != length:
        return None
    step = getattr(attention, "query_stride", None) or attention.q_stride
    units = length // (step * attention.window_size) if attention.use_mask_unit_attn else 1
    keys = Placed(grid, unrolled(cells(grid), strides).view(-1, units).T)
    if step == 1 or not strides:
        return Windowed(count, keys, keys)
    grid = _over(grid, strides[0])
    return Windowed(count, keys, Placed(grid, unrolled(cells(grid), strides[1:]).view(-1, units).T))


def _any_masked(model: Running) -> bool:
    """Whether patches were left out."""
    return any(model.given.get(name) is not None for name in ("bool_masked_pos", "mask"))


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
            "Block",  # of SAM in timm, and in its own code
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
    "GlobalContextVitBlock": _gc_vit,
    "LocallyGroupedAttn": _twins,
    "LwDetrViTLayer": _lw_detr,
    **dict.fromkeys(("MobileViTLayer", "MobileVitBlock"), _mobile_vit),
    "NestLevel": _nest,
    "RfDetrDinov2Layer": _rf_detr,
    **dict.fromkeys(("MultiScaleBlock", "Sam2MultiScaleBlock"), _pooled),  # of timm, transformers
    **dict.fromkeys(("ParallelPartitionAttention", "PartitionAttentionCl"), partial(_max_vit, 1)),
    "PartitionAttention2d": partial(_max_vit, 2),
    "PartitionAttentionLayer": _torchvision_max_vit,
    **dict.fromkeys(("HieraBlock", "HieraLayer"), _hiera),
}
