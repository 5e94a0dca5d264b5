import csv
import io
import json
import math
import subprocess
import sys
from dataclasses import replace

import matplotlib
import pytest
from rich.cells import cell_len
from rich.console import Console

from wqkv.draw import heads as heads_module
from wqkv.draw.heads import SIGNS, as_json, rule, save_csv, save_png, show, title
from wqkv.draw.steps import cannot_read
from wqkv.errors import ArgumentError, MissingExtraError
from wqkv.sentences.heads import BRIEF
from wqkv.study.heads import LABELS, Head, Heads, Score
from wqkv.study.patterns import PATTERNS
from wqkv.study.tokens import Unread


def make(layers=3, n_head=5, source="a text", tokens=1234):
    """Labels in turn; scores from 0.51 to 1; one pattern without a score."""
    table = []
    for layer in range(layers):
        row = []
        for head in range(n_head):
            number = layer * n_head + head
            label = LABELS[number % len(LABELS)]
            value = 0.51 + 0.07 * (number % 8)
            scores = {name: Score(value / 2, 0.25, 17) for name in PATTERNS}
            scores["next"] = None
            if label in PATTERNS:
                scores[label] = Score(value, 0.125, 13)
            found = None if label == "unclassified" else value
            row.append(Head(layer, head, label, found, scores))
        table.append(tuple(row))
    return Heads(tuple(table), tokens, source)


def drawn(heads, width=80, encoding="utf-8", model="tiny-model", lang="en", **console):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    show(heads, model, Console(file=file, width=width, **console), lang)
    file.flush()
    return file.buffer.getvalue().decode(encoding)


@pytest.mark.parametrize("width", [15, 31, 60, 80, 120, 211])
@pytest.mark.parametrize("n_head", [1, 5, 12, 37, 128])
def test_fits_the_width(width, n_head):
    text = drawn(make(3, n_head, "the text of 猫.txt"), width)
    lines = text.splitlines()
    assert max(cell_len(line) for line in lines) <= width
    assert all(line == line.rstrip() for line in lines)
    # every head has its cell, and every row its name
    signs = {name for label in SIGNS for name in (SIGNS[label].letter, BRIEF[label][0])}
    rows = [line.split() for line in lines if line[:2] in ("L0", "L1", "L2")]
    cells = [cell for row in rows for cell in row[1:] if not cell.replace(".", "").isdigit()]
    assert len(cells) == 3 * n_head
    assert {cell.partition(".")[0].rstrip("1") for cell in cells} <= signs


def test_cells_say_label_and_score():
    lines = drawn(make(2, 5), 80).splitlines()
    assert lines[0] == "tiny-model, 2 layers x 5 heads, over 1,234 tokens: a text"
    assert lines[2] == "   H0       1        2        3        4"
    assert lines[3] == "L0 prev .51 next .58 sink .65 sep  .72 dup  .79"
    assert lines[4] == "L1 ind  .86 sub  .93 v>o  1.0 o>v  .51 (>)  .58"
    lines = drawn(make(2, 5), 31).splitlines()
    assert "L0 P.51 N.58 F.65 S.72 D.79" in lines
    assert "L1 I.86 W.93 V1.0 O.51 (.58" in lines
    lines = drawn(make(2, 5), 13).splitlines()
    assert "L0 P N F S D" in lines


def test_legend_names_the_strongest():
    found = make(5, 4)
    text = drawn(found, 300)
    for name in PATTERNS:
        assert f" {name}, " in text
    assert f" prev  previous, 2 heads\n   strongest: L0H0 {found[0][0].evidence}\n" in text
    assert f" next  next, 2 heads\n   strongest: L0H1 {found[0][1].evidence}\n" in text
    assert " -  unclassified, 1 head\n" in text
    assert " ".join(rule().split()) in " ".join(text.split())


def test_says_what_the_model_cannot_read():
    unread = Unread(11, 3, 0, "动物")
    lines = drawn(replace(make(), unread=unread), 300).splitlines()
    assert lines[1] == cannot_read(unread, "tiny-model")
    assert [*lines[:1], *lines[2:]] == drawn(make(), 300).splitlines()
    assert as_json(replace(make(), unread=unread), "m")["unread"] == unread._asdict()


def test_labels_without_heads_are_not_in_the_legend():
    assert "induction" not in drawn(make(1, 5))


def test_one_layer_and_none():
    assert drawn(make(1, 5, "")).startswith("tiny-model, 1 layer x 5 heads, over 1,234 tokens\n")
    assert "0 layers x 0 heads" in drawn(Heads((), 0))


def test_layers_of_different_widths():
    whole = make(2, 5)
    lines = drawn(Heads((whole[0], whole[1][:2]), 7), 80).splitlines()
    assert lines[4] == "L1 ind  .86 sub  .93"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
def test_narrow_encodings(encoding):
    assert r"\u732b" in drawn(make(source="猫"), encoding=encoding, model="猫")


def test_escape_codes_only_where_colors_are(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = {"force_terminal": True, "color_system": "truecolor"}
    colored = drawn(make(), **terminal)
    assert "48;2;0;114;178" in colored  # the color of "previous" behind its cells
    for console in (
        {"no_color": True, **terminal},
        {"force_terminal": True, "color_system": None},
        {},
    ):
        assert "\x1b" not in drawn(make(), **console)
    assert "\x1b[31m" not in drawn(make(source="\x1b[31m"), **terminal)


def test_json():
    found = make(2, 5)
    bad = Head(2, 0, "unclassified", None, {name: Score(math.nan, 0.1, 7) for name in PATTERNS})
    data = as_json(Heads((*found.table, (bad,)), 1234, "a text"), "tiny-model")
    told = json.loads(json.dumps(data, allow_nan=False))
    assert (told["model"], told["source"], told["tokens"]) == ("tiny-model", "a text", 1234)
    assert told["thresholds"]["previous"] == {"share": 0.5, "lift": 2.0}
    assert [(head["layer"], head["head"]) for head in told["heads"][4:6]] == [(0, 4), (1, 0)]
    assert told["unread"] == {"tokens": 0, "unknown": 0, "parts": 0, "typed": ""}
    first = told["heads"][0]
    assert (first["label"], first["score"]) == ("previous", 0.51)
    assert list(first["scores"]) == list(PATTERNS)
    assert first["scores"]["previous"] == {"value": 0.51, "equal_weights": 0.125, "tokens": 13}
    assert first["scores"]["next"] is None
    assert told["heads"][10]["score"] is None
    assert told["heads"][10]["scores"]["local"]["value"] is None


def test_csv(tmp_path):
    save_csv(make(2, 5), tmp_path / "a.csv")
    text = (tmp_path / "a.csv").read_text("utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert list(rows[0]) == ["layer", "head", "label", "score", *PATTERNS, "evidence"]
    assert len(rows) == 10
    assert (rows[0]["label"], rows[0]["score"], rows[0]["previous"]) == ("previous", "0.51", "0.51")
    assert rows[0]["next"] == ""
    assert rows[9]["evidence"] == make(2, 5)[1][4].evidence


@pytest.fixture
def readable_svg():
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        yield


@pytest.mark.parametrize("sizes", [(1, 1), (3, 5), (6, 12), (40, 37), (0, 0)])
def test_png(tmp_path, sizes):
    save_png(make(*sizes), "tiny-model", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_picture_names_what_it_shows(tmp_path, readable_svg):
    save_png(make(4, 5, "$x_$ 猫"), "tiny-model", tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text("utf-8")
    assert "tiny-model, 4 layers x 5 heads, over 1,234 tokens" in text
    assert "$x_$" in text
    assert ">P .51<" in text
    assert ">P  previous: 2<" in text
    assert ">-  unclassified: 1<" in text


def test_another_suffix(tmp_path):
    with pytest.raises(ArgumentError, match=r"a\.jpg' ends in '\.jpg'"):
        save_png(make(), "tiny-model", tmp_path / "a.jpg")


def test_missing_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"matplotlib[\s\S]*pip install 'wqkv\[show\]'"):
        save_png(make(), "tiny-model", tmp_path / "a.png")


@pytest.mark.process
def test_json_and_csv_need_no_rich():
    code = (
        "import sys; sys.modules['rich'] = sys.modules['matplotlib'] = None\n"
        "from wqkv.study.heads import Heads\nfrom wqkv.draw.heads import as_json, save_csv\n"
        "print(as_json(Heads((), 0), 'm')['heads'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_signs():
    assert list(SIGNS) == list(LABELS)
    assert len({sign.letter for sign in SIGNS.values()}) == len(SIGNS)
    assert title(make(1, 1), "m").startswith("m, 1 layer x 1 head, ")


@pytest.mark.parametrize("width", [40, 60, 100])
@pytest.mark.parametrize("n_head", [5, 12])
def test_chinese_stands_in_columns(width, n_head):
    lines = drawn(make(3, n_head), width, lang="zh").splitlines()
    assert max(map(cell_len, lines)) <= width
    assert lines[0].startswith(f"tiny-model，3 层 x {n_head} 个头，1,234 个词元：a text"[:20])
    if (width, n_head) == (60, 5):
        row = next(line for line in lines if line.startswith("L0"))
        assert row.split()[1:7] == ["前词", ".51", "后词", ".58", "首词", ".65"]
        at = [cell_len(row[: row.index(name)]) for name in ("前词", "后词", "首词", "分隔", "同词")]
        assert at == [3, 12, 21, 30, 39]


def test_a_picture_without_a_chinese_font_is_english(tmp_path, monkeypatch):
    monkeypatch.setattr(heads_module, "drawable", lambda lang: "en")
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        save_png(make(4, 5), "tiny-model", tmp_path / "a.svg", "zh")
    drawn_text = (tmp_path / "a.svg").read_text("utf-8")
    assert ">layer<" in drawn_text and "\\u" not in drawn_text


def test_a_picture_in_chinese(tmp_path, monkeypatch):
    monkeypatch.setattr(heads_module, "drawable", lambda lang: lang)
    monkeypatch.setattr(heads_module, "fonts", lambda text, lang: (["DejaVu Sans"], {}))
    with (
        matplotlib.rc_context({"svg.fonttype": "none"}),
        pytest.warns(UserWarning, match="missing"),
    ):
        save_png(make(4, 5), "tiny-model", tmp_path / "a.svg", "zh")
    drawn_text = (tmp_path / "a.svg").read_text("utf-8")
    assert ">层<" in drawn_text and ">P  看前一个词元：2<" in drawn_text
