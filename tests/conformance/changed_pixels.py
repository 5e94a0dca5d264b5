"""Which positions change if one pixel changes: a proof of axes that needs no known attention.

With everything made 0 that a block adds to its hidden states, a position of any layer depends on
what its own cell covers and on nothing else. So if one pixel of the input is changed, the positions
of k and q that change must be those whose cells show this pixel in the axis's own picture.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wqkv.maps.attention_map import AttentionMap
from wqkv.maps.axis import Axis, Parts
from wqkv.record.watch import watch

#: The matrices of a block that stay as they are.
_KEPT = re.compile(
    r"(^|\.|_)w?(q|k|v|qkv|kv|query|key|value|query_key_value|in|to_q|to_k|to_v|to_kv|to_qkv|q_bias)"
    r"(_?proj\w*|_linear|_norm|\.linear)?$",
    re.IGNORECASE,
)


class Found(NamedTuple):
    """What was found of one side of one layer."""

    layer: str
    side: str  # "keys" or "queries"
    state: str  # "right", "unknown", or what is wrong


def silence(model: nn.Module, layers: Sequence[str]) -> None:
    """Make 0 what the blocks of these attentions add to their hidden states."""
    blocks = {re.sub(r"(.*\.\d+)\..*", r"\1", f"{name}.") for name in layers}
    modules = dict(model.named_modules())
    for block in blocks:
        for name, module in modules[block.rstrip(".")].named_modules():
            flat = isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)
            if (flat or isinstance(module, nn.Linear)) and not _KEPT.search(name):
                nn.init.zeros_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def sharpen(model: nn.Module) -> None:
    """Leave of each convolution whose patches overlap what it reads in their middle."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size > module.stride:
            row, column = (k // 2 for k in module.kernel_size)
            middle = module.weight[..., row, column].clone()
            nn.init.zeros_(module.weight)
            module.weight[..., row, column] = middle


def prove(
    model: nn.Module,
    call: Callable[[nn.Module, Tensor], object],
    pixels: Tensor,
    *,
    square: int = 1,
    near: int = 0,
    tries: int = 5,
) -> list[Found]:
    """Change one place of the pixels at a time, and look at every layer.

    Args:
        call: runs the model on pixels.
        pixels: what it reads, pictures (batch, ..., height, width).
        square: the side of what is changed. More than 1 where patches overlap: then each reads only
            its middle, and one at least of those that show a part of the square must change.
        near: how many cells further a change may be seen.
    """
    model.eval()
    with torch.no_grad():
        with watch(model) as seen:
            call(model, pixels)
        silence(model, [layer.name for layer in seen.layers])
        if square > 1:
            sharpen(model)
        before = _run(model, call, pixels)
        generator = torch.Generator().manual_seed(0)
        found: dict[tuple[str, str], str] = {}
        for _ in range(tries):
            changed = pixels.clone()
            ends = [*pixels.shape[:-2], *(n - square + 1 for n in pixels.shape[-2:])]
            at = [int(torch.randint(n, (), generator=generator)) for n in ends]
            channel = 1
            if pixels.ndim == 5:  # a video; the axis shows the first of two frames
                channel, at[1] = 2, at[1] // 2 * 2
            row, column = at[-2:]
            place = slice(row, row + square), slice(column, column + square)
            changed[(*at[:channel], slice(None), *at[channel + 1 : -2], *place)] += 9
            for one, other in zip(before, _run(model, call, changed), strict=True):
                for side in ("keys", "queries"):
                    state = _compare(one, other, side, near)
                    if found.get((one.name, side)) in (None, "right"):
                        found[one.name, side] = state
    return [Found(*key, state) for key, state in found.items()]


class _Layer(NamedTuple):
    name: str
    map: AttentionMap


def _run(model: nn.Module, call: Callable[[nn.Module, Tensor], object], x: Tensor) -> list[_Layer]:
    with watch(model) as seen:
        call(model, x)
    return [
        _Layer(layer.name, seen[number])
        for number, layer in enumerate(seen.layers)
        if layer.state == "proved"  # others have no k and q of their own
    ]


def _compare(one: _Layer, other: _Layer, side: str, near: int) -> str:
    axes, changed = samples(getattr(one.map, side)), samples(getattr(other.map, side))
    if axes is None or changed is None:
        return "unknown"
    name = "key" if side == "keys" else "query"
    vectors = [getattr(x.map._numbers.given, name).float() for x in (one, other)]
    if len(axes) == 1:
        axes, changed = axes * len(vectors[0]), changed * len(vectors[0])
    moved = (vectors[0] - vectors[1]).abs().amax(dim=(1, 3)) > 1e-6
    for sample, (parts, others) in enumerate(zip(axes, changed, strict=True)):
        state = _compare_sample(parts, others, moved[sample], near)
        if state != "right":
            return f"sample {sample}: {state}"
    return "right"


def samples(given: Any) -> list[Parts] | None:
    """The axes of each sample, of what `map.keys` returns."""
    if given is None:
        return None
    each = given if isinstance(given, list) else [given]
    return [(one,) if isinstance(one, Axis) else one for one in each]


def _compare_sample(parts: Parts, others: Parts, moved: Tensor, near: int) -> str:
    if sum(map(len, parts)) != len(moved):
        return f"{sum(map(len, parts))} positions instead of {len(moved)}"
    first = 0
    for axis, other in zip(parts, others, strict=True):
        own, first = moved[first : first + len(axis)], first + len(axis)
        if axis.grid is None:
            if own.any():
                return f"{axis} depends on a pixel"
            continue
        if axis.source is None:
            return f"{axis} has no picture"
        shown = torch.as_tensor((axis.source - other.source) != 0)
        shown = shown.any(dim=-3)  # the channels
        at = shown.nonzero()
        cells = {
            tuple(
                int(p) * n // size for p, n, size in zip(place, axis.grid, shown.shape, strict=True)
            )
            for place in at.tolist()
        }
        held = axis.cells(own.float())
        own_cells = {cell for cell in cells if not held[cell].isnan()}  # a window has few of them
        seen = {tuple(place) for place in (held == 1).nonzero().tolist()}
        if seen != own_cells and not near:
            return f"{sorted(seen)} changed, and the picture at {sorted(cells)}"
        if cells == own_cells and cells and not seen & cells:
            return f"{sorted(seen)} changed, and none of {sorted(cells)}"
        for place in seen:
            if not cells or min(_far(place, cell) for cell in cells) > near:
                return f"{sorted(seen)} changed, far from {sorted(cells)}"
    return "right"


def _far(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))
