"""Numbers as a small PNG, one pixel each, which a page or a notebook holds in itself."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

from wqkv.maps.display import Color

#: Positive numbers are blue, negative ones orange, on a light and on a dark ground alike.
BLUE: Color = (67, 147, 230)
ORANGE: Color = (232, 134, 46)
#: The color of what is not a number.
NOT_A_NUMBER: Color = (128, 128, 128)
#: The palette has this many steps from 0 to the end of the scale, on both sides of 0.
STEPS = 127


def data_url(numbers: Tensor, end: float) -> str:
    """Return numbers (height, width) as the address of a PNG: blue is positive, orange negative.

    The nearer to 0, the more the ground is seen through a pixel; its color is full from `end` on.

    >>> data_url(torch.zeros(2, 3), 1.0)[:28]
    'data:image/png;base64,iVBORw'
    """
    levels = (numbers.float() / end).clamp(-1, 1).mul(STEPS).round() + STEPS
    colors = [*[ORANGE] * STEPS, *[BLUE] * (STEPS + 1), NOT_A_NUMBER]
    opaque = [*(round(255 * abs(i - STEPS) / STEPS) for i in range(2 * STEPS + 1)), 255]
    return address(png(levels.nan_to_num(2 * STEPS + 1), colors, opaque))


def address(image: bytes) -> str:
    """Return the address of a PNG that holds it."""
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def color_url(picture: Tensor) -> str:
    """Return a picture (3, height, width), from 0 to 1, as the address of a PNG.

    >>> color_url(torch.zeros(3, 2, 5))[:28]
    'data:image/png;base64,iVBORw'
    """
    return address(_png(picture.mul(255).round().permute(1, 2, 0), 2))


def png(pixels: Tensor, colors: Sequence[Color], opaque: Sequence[int] = ()) -> bytes:
    """Return pixels (height, width), the numbers of their colors, as an image.

    Args:
        opaque: how opaque each color is, from 0 to 255; what is left out is opaque.

    Source: W3C PNG, third edition, with a palette of at most 256 colors.
    """
    palette = [(b"PLTE", bytes(part for color in colors for part in color))]
    return _png(pixels, 3, *palette, *([(b"tRNS", bytes(opaque))] if opaque else []))


def _png(pixels: Tensor, kind: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """Return bytes (height, width) or (height, width, 3) as an image.

    Args:
        kind: the number of PNG for what a pixel is: 3 a place in the palette, 2 its three colors.
        chunks: what stands before the pixels.
    """
    height, width = pixels.shape[:2]
    # Each line begins with the number of its filter, 0 for none.
    rows = pixels.to(torch.uint8).cpu().reshape(height, -1)
    lines = torch.nn.functional.pad(rows, (1, 0)).flatten().tolist()
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)),  # 8 bits a number
        *chunks,
        (b"IDAT", zlib.compress(bytes(lines), 9)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )
