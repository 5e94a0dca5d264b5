"""Weights as pictures for a notebook: small PNGs inside HTML, and matplotlib figures."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wqkv.errors import need
from wqkv.maps.display import LIGHT, color

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The most that one HTML text holds: how many pictures, how many blocks per side of each, and how
#: many weights are read for all pictures.
PICTURES, SIDE, LOOKED = 8, 64, 2**24

Picture = tuple[str, Tensor]  # a name, and weights (queries, keys)


def html(title: str, pictures: Sequence[Picture], note: str = "") -> str:
    """HTML of a title and at most PICTURES pictures of weights. It loads nothing from elsewhere."""
    cells = "".join(
        '<figure style="display:inline-block;margin:4px">'
        f'<img alt="{escape(name)}" src="data:image/png;base64,{_encoded(values)}" '
        'style="width:128px;height:128px;image-rendering:pixelated">'
        f"<figcaption>{escape(name)}, up to {_largest(values):.3g}</figcaption></figure>"
        for name, values in pictures[:PICTURES]
    )
    more = len(pictures) - PICTURES
    notes = [note, f"and {more} more" if more > 0 else ""]
    if pictures:
        notes.append("one row a query; the deeper, the more weight, by its square root")
    said = "; ".join(filter(None, notes))
    return f"<div><pre>{escape(title)}</pre>{cells}<div><small>{escape(said)}</small></div></div>"


def figure(title: str, pictures: Sequence[Picture]) -> Figure:
    """The pictures side by side, on one scale.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    need("matplotlib", "show", "A plot")
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm
    from matplotlib.figure import Figure

    columns = min(4, max(1, len(pictures)))
    rows = max(1, math.ceil(len(pictures) / columns))
    made = Figure(figsize=(2.6 * columns + 1, 2.6 * rows + 0.7), layout="constrained")
    axes = made.subplots(rows, columns, squeeze=False).flatten()
    colors = [[part / 255 for part in stop] for stop in LIGHT]
    hue = LinearSegmentedColormap.from_list("weights", colors)
    top = max((_largest(values) for _, values in pictures), default=0) or 1.0
    drawn = None
    for one in axes[len(pictures) :]:
        one.set_visible(False)
    for one, (name, values) in zip(axes, pictures, strict=False):
        norm = PowerNorm(0.5, vmin=0, vmax=top)
        drawn = one.imshow(values.cpu().numpy(), cmap=hue, norm=norm, interpolation="nearest")
        one.set_title(name, fontsize=9, parse_math=False)
        one.set_xticks([])
        one.set_yticks([])
    if drawn is not None:
        made.colorbar(drawn, ax=list(axes), label="weight", shrink=0.8)
    made.suptitle(title, fontsize=9, parse_math=False)
    return made


def means(values: Tensor, side: int) -> Tensor:
    """Means of (..., side, side) blocks of (..., queries, keys); the whole where it is smaller."""
    for axis in (-2, -1):
        n = values.shape[axis]
        count = min(n, side)
        of = torch.arange(n, device=values.device) * count // n
        shape = list(values.shape)
        shape[axis] = count
        sizes = torch.bincount(of, minlength=count)
        sums = values.new_zeros(shape).index_add_(axis, of, values)
        values = sums / (sizes[:, None] if axis == -2 else sizes)
    return values


def png(values: Tensor) -> bytes:
    """Numbers (rows, columns) as an image of one hue, darker by sqrt(number / the largest number).

    Source: W3C PNG, third edition, with a palette of 256 colors.
    """
    top = _largest(values) or 1.0
    shades = (values.float().nan_to_num(0, 0, 0).clamp(min=0) / top).sqrt().mul(255).round()
    rows = shades.clamp(max=255).to(torch.uint8).cpu()
    data = b"".join(b"\0" + bytes(row.tolist()) for row in rows)  # each row with filter 0
    head = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], 8, 3, 0, 0, 0)
    parts = (
        (b"IHDR", head),
        (b"PLTE", _palette()),
        (b"IDAT", zlib.compress(data, 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts
    )


def _palette() -> bytes:
    """The 256 colors along the hue, three bytes each."""
    return bytes(part for level in range(256) for part in color(level / 255))


def _encoded(values: Tensor) -> str:
    return base64.b64encode(png(means(values, SIDE))).decode()


def _largest(values: Tensor) -> float:
    return float(values.nan_to_num(0, 0, 0).max()) if values.numel() else 0.0
