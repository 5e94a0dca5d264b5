import csv
import io
import json
import math
import re
import subprocess
import sys
from dataclasses import replace

import matplotlib
import pytest
import torch
from rich.cells import cell_len
from rich.console import Console

from tests.tiny import text, tiny_llama
from wqkv import ArgumentError, Diff, MissingExtraError, Quantized, diff
from wqkv.draw import diff as module
from wqkv.draw.diff import as_json, nats, save_csv, save_png, show

N = 19  # 18 tokens of the text behind <s>


def make() -> Diff:
    """Two tiny models that differ in WQ of the second of 3 layers x 6 heads."""
    other = tiny_llama()
    with torch.no_grad():
        other.model.layers[1].self_attn.q_proj.weight *= 1.3
    other.name = "$x_$ 猫"
    return diff(tiny_llama(), other, text(N - 1))


@pytest.fixture(scope="module")
def found() -> Diff:
    return make()


@pytest.fixture(scope="module")
def same() -> Diff:
    return diff(tiny_llama(), tiny_llama(), text(N - 1))


def drawn(
    found: Diff, width: int = 80, encoding: str = "utf-8", lang: str = "en", **console
) -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    show(found, Console(file=file, width=width, **console), lang)
    file.flush()
    return file.buffer.getvalue().decode(encoding)


# Terminal


def test_tables(found):
    lines = drawn(found).splitlines()
    assert lines[:5] == [
        "A: tiny-llama",
        "B: $x_$ 猫",
        "KL(A || B) in nats, 3 layers x 6 heads, 19 tokens",
        "Two models, each with hidden states of its own.",
        "",
    ]
    first, row = found.heads[0], found.heads[0].largest
    moved = row.keys[0]
    assert lines[7].split() == [
        f"L{first.layer}H{first.head}", nats(first.mean, 0),
        f"{found.tokens[row.query]}@{row.query}", nats(row.kl, 0),
        f"{found.tokens[moved.key]}@{moved.key}", f"{moved.a:.3f}", "->", f"{moved.b:.3f}",
    ]  # fmt: skip
    assert sum(line.startswith(("   L1H", "   L2H")) for line in lines) == 12  # not those of L0
    token = found.rows[0]
    at = next(n for n, line in enumerate(lines) if line.startswith("Tokens by mean KL"))
    assert lines[at + 2].split()[:3] == [
        f"{found.tokens[token.query]}@{token.query}", nats(token.mean, 0),
        f"L{token.largest.layer}H{token.largest.head}",
    ]  # fmt: skip
    assert "6 of 18 heads are below rounding in every row" in lines[-2]


def test_a_mean_that_is_rounding_beside_a_row_that_is_not(found):
    first = found.heads[0]
    quiet = replace(first, mean=first.rounding / 2)
    assert drawn(replace(found, heads=(quiet,))).splitlines()[7].split()[1] == "rounding"


def test_a_row_where_no_weight_moved(found):
    first = found.heads[0]
    still = replace(first, largest=replace(first.largest, keys=()))
    line = drawn(replace(found, heads=(still,))).splitlines()[7]
    assert line.endswith(nats(first.largest.kl, 0))


def test_models_that_are_alike_have_no_tables(same):
    told = drawn(same)
    assert "Heads by" not in told and "Tokens by" not in told
    assert "18 of 18 heads are below rounding in every row" in told


@pytest.mark.parametrize("width", [15, 40, 60, 80, 120])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_fits_the_console(found, width, encoding):
    odd = ("猫" * 30, "\x1b[31mred", "a\nb", "$x_$", "\u202eback")
    given = replace(found, tokens=(odd * 4)[:N])
    lines = drawn(given, width, encoding).splitlines()
    assert max(map(cell_len, lines)) <= width
    assert all(line == line.rstrip() for line in lines)
    assert not any("\x1b" in line or "\u202e" in line for line in lines)


def test_columns_do_not_touch_on_a_narrow_console(found):
    lines = drawn(replace(found, tokens=("猫" * 30,) * N), 60).splitlines()
    head, *heads = [line for line in lines if line.startswith(("   head", "   L"))]
    assert head.split() == ["head", "mean", "KL", "token", "largest", "key", "A", "->", "B"]
    assert len(heads) == 12
    assert all(len(re.findall(r"…@\d+ ", line)) == 2 and " -> " in line for line in heads)


def test_colors_only_where_they_show(found):
    assert "\x1b" not in drawn(found)
    assert "\x1b[1m" in drawn(found, force_terminal=True, color_system="standard")


# Data


def test_json(found):
    told = json.loads(json.dumps(as_json(found), allow_nan=False))
    assert list(told) == ["wqkv", "a", "b", "how", "tokens", "heads", "rows"]
    assert (told["a"], told["b"], len(told["tokens"])) == ("tiny-llama", "$x_$ 猫", N)
    assert len(told["heads"]) == 18 and len(told["rows"]) == len(found.rows)
    first, last = told["heads"][0], told["heads"][-1]
    assert list(first) == ["layer", "head", "mean", "rounding", "largest", "below_rounding"]
    assert not first["below_rounding"] and last["below_rounding"]
    moved = found.heads[0].largest.keys[0]
    assert first["largest"]["keys"][0] == {"key": moved.key, "a": moved.a, "b": moved.b}
    endless = replace(found, heads=(replace(found.heads[0], mean=math.inf),))
    assert as_json(endless)["heads"][0]["mean"] is None


def test_csv(found, tmp_path):
    save_csv(found, tmp_path / "a.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text("utf-8"))))
    assert len(rows) == 18
    first, row = found.heads[0], found.heads[0].largest
    moved = row.keys[0]
    assert {name: rows[0][name] for name in ("layer", "head", "query", "key")} == {
        "layer": str(first.layer), "head": str(first.head),
        "query": str(row.query), "key": str(moved.key),
    }  # fmt: skip
    assert float(rows[0]["mean_kl"]) == pytest.approx(first.mean, rel=1e-5)
    assert float(rows[0]["largest_kl"]) == pytest.approx(row.kl, rel=1e-5)
    assert rows[0]["query_token"] == found.tokens[row.query]
    assert rows[0]["key_token"] == found.tokens[moved.key]
    assert float(rows[0]["weight_b"]) == pytest.approx(moved.b, rel=1e-5)
    assert (rows[0]["below_rounding"], rows[-1]["below_rounding"]) == ("0", "1")
    assert rows[-1]["key"] == rows[-1]["weight_a"] == ""


@pytest.mark.parametrize(
    ("value", "said"),
    [(1.0, "1.00"), (14.25, "14.2"), (123.4, "1.2e+02"), (0.0004, "4.0e-04"), (1e-5, "rounding")],
)
def test_nats(value, said):
    assert nats(value, 1e-5) == said


# Picture


@pytest.fixture
def readable_svg():
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        yield


def test_png(same, tmp_path):
    for one in (same, diff(tiny_llama(1), Quantized(4), "a")):
        save_png(one, tmp_path / "a.png")
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_picture_names_what_it_shows(found, tmp_path, readable_svg):
    save_png(found, tmp_path / "a.svg")
    told = (tmp_path / "a.svg").read_text("utf-8")
    for head in found.heads[:3]:
        for side in "AB":
            assert f">{side}, layer {head.layer}, head {head.head}<" in told
        assert f">KL of each row, mean {nats(head.mean, 0)}<" in told
        row = head.largest
        assert f">largest: {nats(row.kl, 0)} at {found.tokens[row.query]}@{row.query}<" in told
    assert ">B: $x_$ " in told and ">KL(A || B) in nats, 3 layers x 6 heads, 19 tokens<" in told
    assert "Each point of a map" not in told


def test_a_long_text_is_drawn_in_blocks(found, tmp_path, readable_svg, monkeypatch):
    for name, value in (("DRAWN_TOKENS", 13), ("DRAWN_BLOCKS", 5), ("NAMED", 7)):
        monkeypatch.setattr(module, name, value)
    images = [module.picture(m, 2) for m in found.maps[1]]
    assert [image.shape for image in images] == [(5, 5)] * 2
    keys = torch.bincount(torch.arange(19) * 5 // 19)
    torch.testing.assert_close(images[0], found.maps[1][0].thumbnail(5)[0, 2] * keys)
    torch.testing.assert_close(images[0].sum(1), torch.ones(5))
    save_png(found, tmp_path / "a.svg")
    told = (tmp_path / "a.svg").read_text("utf-8")
    plain = " ".join(re.sub(r"<[^>]+>", " ", told).split())
    assert "a token of a block of about 4 gives, in the mean, to all tokens of another" in plain
    assert f">{found.tokens[3]}@3<" in told and f">{found.tokens[4]}@4<" not in told


def test_all_maps_have_the_one_scale_of_weights(found, tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    drawn = []
    imshow = Axes.imshow

    def look(self, image, **given):
        drawn.append((torch.tensor(image), given["vmin"], given["vmax"]))
        return imshow(self, image, **given)

    monkeypatch.setattr(Axes, "imshow", look)
    save_png(found, tmp_path / "a.png")
    maps = [m[0, head.head] for head in found.heads[:3] for m in found.maps[head.layer]]
    assert len(drawn) == 6
    for (levels, low, high), weights in zip(drawn, maps, strict=True):
        torch.testing.assert_close(levels, weights.sqrt())
        assert (low, high) == (0, 1)


def test_an_infinite_row_is_as_long_as_the_longest(found, tmp_path):
    first = found.heads[0]
    kl = found.kl.clone()
    kl[first.layer, first.head, 5] = math.inf
    row = replace(first.largest, kl=math.inf, query=5)
    endless = replace(first, mean=math.inf, largest=row)
    save_png(replace(found, kl=kl, heads=(endless,)), tmp_path / "a.png")
    assert "infinite" in drawn(replace(found, heads=(endless,)))


def test_another_suffix(found, tmp_path):
    with pytest.raises(ArgumentError, match=r"a\.jpg' ends in '\.jpg'"):
        save_png(found, tmp_path / "a.jpg")


def test_missing_matplotlib(found, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"matplotlib[\s\S]*pip install 'wqkv\[show\]'"):
        save_png(found, tmp_path / "a.png")


@pytest.mark.process
def test_json_and_csv_need_no_rich():
    code = (
        "import sys; sys.modules['rich'] = sys.modules['matplotlib'] = None\n"
        "from wqkv.draw.diff import as_json, save_csv\nprint(as_json.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "as_json\n"
