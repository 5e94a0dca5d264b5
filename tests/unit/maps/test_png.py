"""A PNG is well formed, and a reader sees the colors that were written."""

import base64
import io
import struct
import zlib

import numpy as np
import torch
from PIL import Image

from wqkv.maps import png

COLORS = [(1, 2, 3), (70, 80, 90), (200, 210, 220)]


def read(image: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(image)).convert("RGBA"))


def test_a_reader_sees_the_colors():
    pixels = torch.randint(3, (5, 7))
    found = read(png.png(pixels, COLORS))
    assert found.shape == (5, 7, 4)
    assert [[tuple(cell[:3]) for cell in row] for row in found.tolist()] == [
        [COLORS[i] for i in row] for row in pixels.tolist()
    ]
    assert (found[..., 3] == 255).all()


def test_a_color_may_be_seen_through():
    found = read(png.png(torch.tensor([[0, 1, 2]]), COLORS, opaque=[0, 100]))
    assert found[0, :, 3].tolist() == [0, 100, 255]


def test_it_is_well_formed():
    data = png.png(torch.zeros(2, 3), COLORS)
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    at, names = 8, []
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        body = data[at + 4 : at + 8 + size]
        assert struct.unpack_from(">I", data, at + 8 + size) == (zlib.crc32(body),)
        names.append(body[:4])
        at += 12 + size
    assert names == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]


def test_signed_numbers_are_blue_and_orange_on_any_ground():
    url = png.data_url(torch.tensor([[-2.0, -1.0, 0.0, 0.5, 1.0, torch.nan]]), 1.0)
    found = read(base64.b64decode(url.removeprefix("data:image/png;base64,")))[0]
    assert found[:, 3].tolist() == [255, 255, 0, 129, 255, 255]
    shown = [tuple(cell[:3]) for cell in found.tolist()]
    assert shown[:2] == [png.ORANGE] * 2 and shown[3:5] == [png.BLUE] * 2
    assert shown[5] == png.NOT_A_NUMBER
