"""Prove on which cells of a picture the positions of each window stand.

All attention is made to add nothing, and no convolution sees further than its own cell. Then a
change of one cell of the picture changes the keys and queries of that cell and no others. These
must be the positions that the axes place on the cell. No trained weights are needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.vision_utils import get_vision_position_ids

from tests.conformance.cut_pictures import GRIDS, PATCH, Cutting
from wqkv import AttentionMap, Axis, watch


def pictures(size: tuple[int, int]) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


@contextmanager
def alone(model: nn.Module, attention: set[str]) -> Iterator[None]:
    """Context in which each cell goes through a model by itself.

    Args:
        attention: the names of its attention modules, which give 0.
    """
    hooks = []
    for name, module in model.named_modules():
        if name in attention:
            hooks.append(module.register_forward_hook(lambda _, args, out: _silent(out)))
        elif type(module).__name__ in ("SEModule", "SqueezeExcitation", "EffectiveSEModule"):
            hooks.append(module.register_forward_hook(lambda _, args, out: args[0]))
        elif isinstance(module, nn.AvgPool2d | nn.MaxPool2d) and _overlaps(module):
            hooks.append(module.register_forward_hook(_first_of))
        elif isinstance(module, nn.Conv2d):
            _narrow(module)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _silent(out: Any) -> Any:
    return (torch.zeros_like(out[0]), *out[1:]) if isinstance(out, tuple) else out * 0


def _first_of(pool: Any, args: tuple[Tensor], out: Tensor) -> Tensor:
    """Of each stretch of pixels that a pool moves on by, the first."""
    rows, columns = _pair(pool.stride)
    return args[0][..., ::rows, ::columns]


def _overlaps(pool: Any) -> bool:
    return _pair(pool.kernel_size) != _pair(pool.stride)


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


def _narrow(module: nn.Conv2d) -> None:
    """Let a convolution that overlaps with its neighbors see one pixel."""
    rows, columns = (
        k // 2 if k > s else None for k, s in zip(module.kernel_size, module.stride, strict=True)
    )
    if rows is not None and columns is not None:
        with torch.no_grad():
            middle = module.weight[..., rows, columns].clone()
            module.weight.zero_()
            module.weight[..., rows, columns] = middle + 0.5


def seen_by(model: nn.Module, *given: Tensor) -> list[tuple[str, AttentionMap]]:
    """The maps of a forward, by the name of the layer."""
    with torch.no_grad(), watch(model) as seen:
        model(*given)
    return [
        (layer.name.partition(" ")[0], seen[number])
        for number, layer in enumerate(seen.layers)
        if layer.state != "missed"
    ]


class Proof(NamedTuple):
    """What a row has shown."""

    layers: int
    tried: int  # cells of a layer
    padded: int  # positions of padding
    wrong: list[str]


def prove(row: Cutting) -> Proof:
    """Change one cell after another, in each stage, and see which keys and queries change."""
    torch.manual_seed(0)
    model, pixels = row.build().eval(), pictures(row.size)
    names = {name for name, _ in seen_by(model, pixels)}
    with alone(model, names):
        before = [one for one in seen_by(model, pixels) if not row.others(one[0])]
        padded, tried, wrong = 0, 0, list[str]()
        for name, found in before:
            for axes in (found.keys, found.queries):
                if axes is None and row.asked_by_others and axes is not found.keys:
                    continue
                if not isinstance(axes, list):
                    wrong.append(f"{name}: {axes} is no list of windows")
                    return Proof(len(before), tried, padded, wrong)
                padded += int((places_of(axes) < 0).sum())
        for grid, size in sorted({_covered(one[1].keys) for one in before}):
            for number, cell in enumerate(_some_cells(grid)):
                picture, other = number % 2, pixels.clone()
                side = [n // g for n, g in zip(size, grid, strict=True)]
                top, left = (at * n for at, n in zip(cell, side, strict=True))
                other[picture, :, top : top + side[0], left : left + side[1]] += 1.7
                if torch.equal(other, pixels):
                    continue  # all of this cell is padding
                after = [one for one in seen_by(model, other) if not row.others(one[0])]
                for (name, old), (_, new) in zip(before, after, strict=True):
                    for what, axes in (("key", old.keys), ("query", old.queries)):
                        if axes is None or _covered(axes) != (grid, size):
                            continue
                        tried += 1
                        moved = _moved(old, new, what)
                        stands = standing(axes, picture, cell)
                        if not torch.equal(moved, stands):
                            at, said = moved.nonzero().tolist(), stands.nonzero().tolist()
                            wrong.append(f"{name}: {what} of {cell}: {at} changed, not {said}")
    return Proof(len(before), tried, padded, wrong)


def _covered(axes: list[Any]) -> tuple[tuple[int, int], tuple[int, int]]:
    """The grid of the axes, and the size of the picture that it covers."""
    axis = next(axis for axis in _parts(axes[0]) if axis.grid is not None)
    assert axis.source is not None
    return axis.grid, tuple(axis.source.shape[-2:])


def _parts(sample: Axis | tuple[Axis, ...]) -> tuple[Axis, ...]:
    return sample if isinstance(sample, tuple) else (sample,)


def places_of(axes: list[Any]) -> Tensor:
    """The cell on which each position of each sample stands, -1 for none: (samples, length)."""
    return torch.stack(
        [
            torch.cat(
                [
                    torch.full((len(axis),), -1) if axis.grid is None else axis.places
                    for axis in _parts(one)
                ]
            )
            for one in axes
        ]
    )


def _some_cells(grid: tuple[int, int]) -> list[tuple[int, int]]:
    """The first cell, the last one, and one between."""
    rows, columns = grid
    return [(0, 0), (rows - 1, columns - 1), (rows // 2, (columns - 1) // 3)]


def _moved(old: AttentionMap, new: AttentionMap, what: str) -> Tensor:
    """Which positions of which samples have another key, or query."""
    a, b = (getattr(one._numbers.given, what) for one in (old, new))
    return (a - b).abs().amax(dim=(1, 3)) > 1e-6 * float(a.abs().max())


def standing(axes: list[Any], picture: int, cell: tuple[int, int]) -> Tensor:
    """Which positions of which samples stand on a cell of a picture of two."""
    (_, columns), _ = _covered(axes)
    found = places_of(axes) == cell[0] * columns + cell[1]
    found[(1 - picture) * len(axes) // 2 :][: len(axes) // 2] = False
    return found


def prove_tower(model: nn.Module, grids: Tensor = GRIDS) -> Proof:
    """Change one patch after another, and see which keys and queries change."""

    def maps(patches: Tensor) -> list[tuple[str, AttentionMap]]:
        return seen_by(model, patches, grids)

    torch.manual_seed(0)
    counts = grids.prod(dim=1).tolist()
    where = get_vision_position_ids(grids, model.spatial_merge_size).tolist()
    patches = torch.randn(sum(counts), 3 * 2 * PATCH**2)
    with alone(model, {name for name, _ in maps(patches)}):
        before, wrong, tried = maps(patches), list[str](), 0
        for number in range(0, len(patches), 7):
            picture = next(n for n in range(len(counts)) if number < sum(counts[: n + 1]))
            frame = (number - sum(counts[:picture])) // int(grids[picture, 1:].prod())
            row, column = where[number]
            other = patches.clone()
            other[number] += 1.7
            for (name, old), (_, new) in zip(before, maps(other), strict=True):
                axis, tried = old.keys[picture], tried + 1
                cell = axis.cell(*(frame, row, column)[-len(axis.grid) :])
                stands = torch.cat([(one.places == cell) & (one is axis) for one in old.keys])
                picture_of = axis.source if axis.source.ndim == 4 else axis.source[None]
                cut = picture_of[frame, :, row * PATCH :, column * PATCH :][:, :PATCH, :PATCH]
                if not torch.equal(cut, patches[number].view(3, 2, PATCH, PATCH)[:, 0]):
                    wrong.append(f"{name}: other pixels at {row}, {column} of picture {picture}")
                for what in ("key", "query"):
                    moved = _moved(old, new, what)[0]
                    if not torch.equal(moved, stands):
                        at, said = moved.nonzero().tolist(), stands.nonzero().tolist()
                        wrong.append(f"{name}: {what} of {number}: {at} changed, not {said}")
    return Proof(len(before), tried, 0, wrong)
