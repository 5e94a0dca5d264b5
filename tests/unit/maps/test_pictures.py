"""Pictures for a notebook: what they show, how large they get, and that they load nothing."""

import base64
import io
import math
import re
import sys
from html import unescape
from itertools import product

import pytest
import torch
from matplotlib import font_manager
from PIL import Image
from transformers import AutoModel, LlamaConfig

from wqkv import AttentionMap, Axis, Causal, MultiheadAttention, watch
from wqkv.errors import MissingExtraError
from wqkv.maps import pictures
from wqkv.maps.display import color

SIZES = (2, 3, 41, 53)


def made() -> AttentionMap:
    torch.manual_seed(0)
    q, k = torch.randn(*SIZES[:3], 7), torch.randn(*SIZES[:2], SIZES[3], 7)
    return AttentionMap(q, k, query_offset=12, mask=Causal())


PNG = r'href="data:image/png;base64,([^"]+)"'


def drawings(html: str) -> list[str]:
    found = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', html)
    return [base64.b64decode(one).decode() for one in found]


def images(html: str) -> list[Image.Image]:
    found = [one for svg in drawings(html) for one in re.findall(PNG, svg)]
    return [Image.open(io.BytesIO(base64.b64decode(one))) for one in found]


def sides(*lengths: int) -> list[tuple[Axis, ...]]:
    return [(Axis(n),) for n in lengths]


# Blocks


@pytest.mark.parametrize("shape", [(67, 131), (5, 131), (67, 5)])
def test_a_block_has_the_weight_of_its_keys_together(monkeypatch, shape):
    monkeypatch.setattr(pictures, "SIDE", 8)
    P = torch.rand(shape).softmax(-1)
    one = pictures.picture("", P, *sides(*shape))
    rows, cols = (
        torch.arange(n) * count // n for n, count in zip(shape, one.numbers.shape, strict=True)
    )
    assert one.numbers.shape == (min(8, shape[0]), min(8, shape[1]))
    for i in range(one.numbers.shape[0]):
        for j in range(one.numbers.shape[1]):
            block = P[rows == i][:, cols == j]
            torch.testing.assert_close(one.numbers[i, j], block.sum(1).mean())
    torch.testing.assert_close(one.numbers.sum(1), torch.ones(len(one.numbers)))


def test_the_picture_of_a_thumbnail_is_that_of_the_map():
    m = made()
    whole = pictures.picture("", m[0, 1], *sides(41, 53))
    found = pictures.of_means("", m.thumbnail(8)[0, 1], *sides(41, 53))
    assert torch.equal(whole.numbers, m[0, 1])
    of_key = torch.arange(53) * 8 // 53
    sums = torch.zeros(41, 8).index_add_(1, of_key, m[0, 1])
    assert found.numbers.shape == (8, 8)
    torch.testing.assert_close(found.numbers[0], sums[:6].mean(0))  # rows 0 to 5


def test_what_is_not_a_number_stays_in_a_cell_and_adds_nothing_to_a_block(monkeypatch):
    links = torch.tensor([[math.nan, 3.0], [5.0, 7.0]])
    assert pictures.picture("", links, *sides(2, 2)).numbers[0, 0].isnan()
    monkeypatch.setattr(pictures, "SIDE", 1)
    assert pictures.picture("", links, *sides(2, 2)).numbers.tolist() == [[7.5]]


# What stands along a side

MIXED = (
    Axis(["Look", " at"]),
    Axis(12, grid=(3, 4)),
    Axis(["\n"]),
    Axis(7, seconds=0.02),
)


def test_each_block_has_a_name():
    assert pictures.Side(MIXED, 22).names()[:4] == ["Look", " at", "0,0", "0,1"]
    assert pictures.Side(MIXED, 22).names()[13:16] == ["2,3", r"\n", "0.00 s"]
    assert pictures.Side(MIXED, 2).names() == ["Look … 2,0", "2,1 … 0.12 s"]


def test_ticks_are_thinned():
    every = pictures.Side(MIXED, 22).ticks(22)
    assert [at for at, _ in every] == list(range(22))
    # no more than was asked for, and those of a grid at the begin of its rows
    assert pictures.Side(MIXED, 22).ticks(8) == [
        (0, "Look"),
        (6, "1,0"),
        (10, "2,0"),
        (14, r"\n"),
        (18, "0.06 s"),
        (21, "0.12 s"),
    ]


def test_parts_are_cut_and_named():
    side = pictures.Side(MIXED, 22)
    assert side.cuts() == [2, 14, 15] and pictures.Side(MIXED, 11).cuts() == [1, 7, 7.5]
    assert side.says() == r" (tokens | picture 3 x 4 | \n | sound)"
    assert pictures.Side((Axis(["a", "b"]),), 2).says() == ""


def test_a_position_on_which_nothing_stands_has_no_name():
    padded = Axis(["a", "b"], places=torch.tensor([1, -1, 0]))
    assert pictures.Side((padded,), 3).names() == ["b", "", "a"]


# HTML


def test_html_of_a_map():
    m = made()
    html = m._repr_html_()
    assert unescape(re.search("<pre>(.*?)</pre>", html)[1]) == repr(m)
    assert [image.size for image in images(html)] == [(53, 41)] * 3
    assert "head 2, up to " in html and "sample 0" in html
    top = float(m[0, 2].max())
    assert f"head 2, up to {top:.3g}" in html
    for text in (html, *drawings(html)):
        assert not re.findall(r'(?:src|href)="(?!data:)|url\((?!#)|<script|\bon\w+=', text)


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
    assert "3 heads are not drawn" in html and len(html) < 150_000
    monkeypatch.setattr(pictures, "LOOKED", 2 * 41 * 53)
    html = made()._repr_html_()
    assert len(images(html)) == 2 and "1 heads are not drawn" in html
    monkeypatch.setattr(pictures, "LOOKED", 41 * 53 - 1)
    html = made()._repr_html_()
    assert len(images(html)) == 0 and "3 heads are not drawn" in html
    monkeypatch.setattr(pictures, "LOOKED", 2 * 13 * 13)
    assert len(images(seen._repr_html_())) == 1


def test_html_of_a_million_words_computes_nothing(monkeypatch):
    q = torch.zeros(1, 1, 1, 4).expand(1, 2, 2**20, 4)
    m = AttentionMap(q, q)
    assert "[1, 2, 1048576, 1048576]" in m._repr_html_()


@pytest.mark.parametrize(("side", "n_head"), [(22, 8), (64, 1), (23, 8), (64, 8)])
def test_html_has_a_limit_whatever_the_labels(side, n_head):
    q = torch.randn(1, n_head, side, 4)
    axis = Axis(['"' * 50] * side)
    m = AttentionMap(q, q).on(keys=axis, queries=axis)
    cells = n_head * side**2
    html = m._repr_html_()
    assert html.count("<area ") == (cells if cells <= 4096 else n_head * side)
    assert len(html.encode()) < 1.25 * 2**20


def titles(html: str) -> list[str]:
    return [unescape(one) for one in re.findall('<area [^>]*title="([^"]*)"', html)]


def test_each_cell_says_its_query_key_and_weight():
    q, words = torch.randn(1, 1, 3, 4), ["<s>", "the", "cat"]
    m = AttentionMap(q, q).on(keys=Axis(words), queries=Axis(words))
    P = m[0, 0].tolist()
    assert titles(m._repr_html_()) == [
        f"{words[i]} → {words[j]}: {P[i][j]:.3f}" for i in range(3) for j in range(3)
    ]


def test_of_a_long_map_each_row_says_its_strongest_keys(monkeypatch):
    monkeypatch.setattr(pictures, "CELLS", 11)
    q = torch.randn(1, 1, 3, 4)
    k = torch.randn(1, 1, 4, 4)
    m = AttentionMap(q, k, query_offset=0).on(keys=Axis(["a", "b", "c", "d"]))
    said = titles(m._repr_html_())
    assert len(said) == 3
    best = m[0, 0, 2].sort(descending=True)
    keys = ", ".join(
        f"{'abcd'[j]}: {w:.3f}"
        for w, j in zip(best.values.tolist()[:3], best.indices.tolist(), strict=False)
    )
    assert said[2] == f"2 → {keys}"


def test_one_scale_for_all():
    """An even head is pale, and its color is that of the same weight in any other map."""
    q = torch.randn(1, 1, 13, 4)
    even, sharp = (AttentionMap(q * s, q)._repr_html_() for s in (0, 30))
    pale, full = (images(html)[0].convert("RGB") for html in (even, sharp))
    assert {pale.getpixel((i, j)) for i in range(13) for j in range(13)} == {
        color(round(13**-0.5 * 254) / 254)
    }
    assert color(1) in {full.getpixel((i, j)) for i in range(13) for j in range(13)}
    for html in (even, sharp):
        assert re.findall(r'y="24">([^<]*)<', drawings(html)[-1]) == [
            "0",
            "0.01",
            "0.1",
            "0.25",
            "0.5",
            "1",
        ]


def test_html_of_signed_numbers():
    q = torch.randn(1, 2, 5, 8)
    effects = AttentionMap(q, q, mask=Causal()).effects(q, q, torch.ones_like(q))
    html = effects._repr_html_()
    numbers = effects[0]
    top = numbers.nan_to_num(0).abs().max()
    assert f"blue: positive; {top:.3g} is the largest size" in html
    drawn = images(html)[0].convert("RGB")
    for i, j in product(range(5), range(5)):
        red, _, blue = drawn.getpixel((j, i))
        if numbers[0, i, j].isnan():
            assert drawn.getpixel((j, i)) == (128, 128, 128)
        elif numbers[0, i, j].abs() > top / 50:
            assert (blue > red) == bool(numbers[0, i, j] > 0)
    # what cannot be negative has the weights' colors
    norms = AttentionMap(q, q).contributions(q, torch.ones(2, 8, 3))
    assert f"from 0 to {norms[0].max():.3g}" in norms._repr_html_()


def test_names_are_escaped():
    one = pictures.picture("<i>", torch.ones(1, 1), (Axis(["<u>"]),), (Axis(["<s>"]),))
    html = pictures.html("<b>", [one], "<q>")
    assert not [text for text in (html, *drawings(html)) if re.findall("<[bisuq]>", text)]


def test_a_page_without_images_has_no_text_of_cells():
    """Who drops the images and the areas, as a notebook that is not trusted, sees no numbers."""
    m = made()
    left = " ".join(re.sub(r"<pre>.*?</pre>|<[^>]*>", " ", m._repr_html_()).split())
    assert left.startswith("head 0, up to") and left.endswith("hover: a row") and len(left) < 250


# Figures


def levels(panel) -> torch.Tensor:
    return torch.from_numpy(panel.images[0].get_array().data)


def test_plots_hold_the_weights(seen):
    m = made()
    drawn = [axes for axes in m.plot(8).axes if axes.images]
    assert [axes.get_title() for axes in drawn] == ["head 0", "head 1", "head 2"]
    keys = torch.bincount(torch.arange(53) * 8 // 53)
    for panel, theirs in zip(drawn, m.thumbnail(8)[0], strict=True):
        assert torch.equal(levels(panel), (theirs * keys).sqrt())
        assert panel.images[0].get_clim() == (0, 1)
    with torch.no_grad():
        trace = MultiheadAttention(30, 6).trace(torch.randn(1, 11, 30))
    drawn = [axes for axes in trace.plot().axes if axes.images]
    assert torch.equal(levels(drawn[5]), trace.weights[0, 5].sqrt())
    names = [axes.get_title() for axes in seen.plot().axes if axes.images]
    assert names == ["layers.0.self_attn", "layers.2.self_attn"]
    assert seen.plot().get_suptitle() == "LlamaModel: the mean of all heads"


def test_plots_have_tokens_on_their_axes_and_a_legend():
    q = torch.randn(1, 1, 5, 4)
    axes = (Axis(["[CLS]"]), Axis(4, grid=(2, 2)))
    figure = AttentionMap(q, q).on(keys=axes, queries=Axis(list("$_$<>"))).plot()
    panel, bar = figure.axes
    assert [text.get_text() for text in panel.get_xticklabels()] == [
        "[CLS]", "0,0", "0,1", "1,0", "1,1",
    ]  # fmt: skip
    assert [text.get_text() for text in panel.get_yticklabels()] == list("$_$<>")
    assert [line.get_xdata()[0] for line in panel.lines] == [0.5]  # between the parts
    assert "one column a key ([CLS] | picture 2 x 2)" in figure.get_supxlabel()
    named = [text.get_text() for text in bar.get_yticklabels()]
    assert named == ["0", "0.01", "0.1", "0.25", "0.5", "1"]


def test_what_no_font_has_is_drawn_as_its_code(monkeypatch):
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [])
    q = torch.randn(1, 1, 2, 4)
    figure = AttentionMap(q, q).on(keys=Axis(["猫", "a"])).plot()
    shown = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert shown == [r"\u732b", "a"]


def test_a_plot_is_saved(tmp_path):
    made().plot().savefig(tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_a_notebook_shows_a_plot_where_pyplot_was_not_imported():
    """IPython asks an object for this; for matplotlib's own figures pyplot tells IPython how."""
    shown = Image.open(io.BytesIO(made().plot()._repr_png_()))
    assert shown.format == "PNG" and shown.size[0] == 1060


def test_a_plot_of_nothing():
    assert pictures.figure("nothing", []).axes


def test_plots_need_matplotlib(monkeypatch, seen):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    trace = MultiheadAttention(6, 2).trace(torch.randn(1, 3, 6))
    says = r"(?s)A plot needs the package `matplotlib`.*pip install 'wqkv\[show\]'"
    for plotted in (made(), trace, seen):
        with pytest.raises(MissingExtraError, match=says):
            plotted.plot()
