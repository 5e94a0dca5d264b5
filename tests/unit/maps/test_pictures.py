"""Pictures for a notebook: what they show, how large they get, and that they load nothing."""

import base64
import io
import re
import struct
import sys
import zlib
from html import unescape

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, LlamaConfig

from wqkv import AttentionMap, Causal, MultiheadAttention, watch
from wqkv.errors import MissingExtraError
from wqkv.maps import display, pictures

SIZES = (2, 3, 41, 53)


def made() -> AttentionMap:
    torch.manual_seed(0)
    q, k = torch.randn(*SIZES[:3], 7), torch.randn(*SIZES[:2], SIZES[3], 7)
    return AttentionMap(q, k, query_offset=12, mask=Causal())


def images(html: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    return [Image.open(io.BytesIO(base64.b64decode(one))) for one in found]


# PNG


def test_a_png_is_what_a_reader_sees():
    values = torch.rand(5, 7)
    values[0, 0], values[4, 6] = 0, 1
    seen = Image.open(io.BytesIO(pictures.png(values)))
    assert seen.size == (7, 5)
    pixels = torch.tensor(np.array(seen.convert("RGB"))).int()
    assert pixels[0, 0].tolist() == list(display.LIGHT[0])
    assert pixels[4, 6].tolist() == list(display.LIGHT[2])
    order = values.flatten().argsort()
    lightness = pixels.sum(-1).flatten()[order]
    assert (lightness.diff() <= 0).all()  # the more, the darker


def test_a_png_is_well_formed():
    data = pictures.png(torch.zeros(2, 3))
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    at, names = 8, []
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        body = data[at + 4 : at + 8 + size]
        assert struct.unpack_from(">I", data, at + 8 + size) == (zlib.crc32(body),)
        names.append(body[:4])
        at += 12 + size
    assert names == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.0])
def test_a_png_of_odd_numbers(value):
    seen = Image.open(io.BytesIO(pictures.png(torch.full((2, 2), value))))
    assert np.array(seen).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("shape", [(41, 53), (2, 41, 53), (5, 53), (41, 5)])
def test_means(shape):
    values = torch.rand(shape)
    found = pictures.means(values, 8)
    assert found.shape == (*shape[:-2], min(8, shape[-2]), min(8, shape[-1]))
    rows, cols = (
        torch.arange(n) * count // n for n, count in zip(shape[-2:], found.shape[-2:], strict=True)
    )
    for i in range(found.shape[-2]):
        for j in range(found.shape[-1]):
            block = values[..., rows == i, :][..., cols == j]
            torch.testing.assert_close(found[..., i, j], block.mean(dim=(-2, -1)))
    assert torch.equal(pictures.means(values, 64), values)


# HTML


def test_html_of_a_map():
    m = made()
    html = m._repr_html_()
    assert unescape(re.search("<pre>(.*?)</pre>", html)[1]) == repr(m)
    assert [image.size for image in images(html)] == [(53, 41)] * 3
    assert "head 2, up to " in html and "sample 0" in html
    top = float(m[0, 2].max())
    assert f"head 2, up to {top:.3g}" in html
    assert not re.findall(r'(?:src|href)="(?!data:)|url\(', html)


def test_html_of_a_trace():
    with torch.no_grad():
        trace = MultiheadAttention(30, 6, mask=Causal()).trace(torch.randn(2, 11, 30))
    html = trace._repr_html_()
    assert unescape(re.search("<pre>(.*?)</pre>", html, re.DOTALL)[1]) == repr(trace)
    assert [image.size for image in images(html)] == [(11, 11)] * 6


@pytest.fixture(scope="module")
def seen():
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        vocab_size=31,
    )
    model = AutoModel.from_config(config).eval()
    with watch(model, layers=[0, 2]) as found, torch.no_grad():
        model(torch.arange(13)[None])
    return found


def test_html_of_a_report(seen):
    html = seen._repr_html_()
    assert unescape(re.search("<pre>(.*?)</pre>", html, re.DOTALL)[1]) == seen.report()
    assert "layers.0.self_attn, up to" in html and "layers.2.self_attn, up to" in html
    assert "layers.1.self_attn, up to" not in html  # it was not asked for
    assert [image.size for image in images(html)] == [(13, 13)] * 2


def test_html_of_nothing_seen():
    with watch(torch.nn.Linear(3, 3)) as nothing:
        pass
    assert "captured 0 of 0 layers" in nothing._repr_html_()
    assert not images(nothing._repr_html_())


def test_html_has_a_limit(monkeypatch, seen):
    """Of pictures, of pixels, and of what is computed for it."""
    q = torch.randn(1, 11, 300, 4)
    html = AttentionMap(q, q)._repr_html_()
    assert [image.size for image in images(html)] == [(64, 64)] * 8
    assert "3 heads are not drawn" in html and len(html) < 60_000
    monkeypatch.setattr(pictures, "LOOKED", 2 * 41 * 53)
    html = made()._repr_html_()
    assert len(images(html)) == 2 and "1 heads are not drawn; `.plot()` draws all" in html
    monkeypatch.setattr(pictures, "LOOKED", 41 * 53 - 1)
    html = made()._repr_html_()
    assert len(images(html)) == 0 and "3 heads are not drawn" in html
    monkeypatch.setattr(pictures, "LOOKED", 2 * 13 * 13)
    assert len(images(seen._repr_html_())) == 1


def test_html_of_a_million_words_computes_nothing(monkeypatch):
    q = torch.zeros(1, 1, 1, 4).expand(1, 2, 2**20, 4)
    m = AttentionMap(q, q)
    assert "[1, 2, 1048576, 1048576]" in m._repr_html_()


def test_names_are_escaped():
    html = pictures.html("<b>", [("<i>", torch.ones(1, 1))], "<u>")
    assert not re.findall("<[biu]>", html)


# Figures


def test_plots_hold_the_weights(seen):
    m = made()
    figure = m.plot(8)
    drawn = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in drawn] == ["head 0", "head 1", "head 2"]
    for axes, theirs in zip(drawn, m.thumbnail(8)[0], strict=True):
        assert torch.equal(torch.from_numpy(axes.images[0].get_array().data), theirs)
    with torch.no_grad():
        trace = MultiheadAttention(30, 6).trace(torch.randn(1, 11, 30))
    drawn = [axes for axes in trace.plot().axes if axes.images]
    assert torch.equal(torch.from_numpy(drawn[5].images[0].get_array().data), trace.weights[0, 5])
    names = [axes.get_title() for axes in seen.plot().axes if axes.images]
    assert names == ["layers.0.self_attn", "layers.2.self_attn"]


def test_a_plot_is_saved(tmp_path):
    made().plot().savefig(tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_a_plot_of_nothing():
    assert pictures.figure("nothing", []).axes


def test_plots_need_matplotlib(monkeypatch, seen):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    trace = MultiheadAttention(6, 2).trace(torch.randn(1, 3, 6))
    says = r"(?s)A plot needs the package `matplotlib`.*pip install 'wqkv\[show\]'"
    for plotted in (made(), trace, seen):
        with pytest.raises(MissingExtraError, match=says):
            plotted.plot()
