import io
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console

from tests.unit.draw.stories import make
from wqkv.draw.steps import cannot_read
from wqkv.draw.terminal import see
from wqkv.maps.proof import Proof
from wqkv.sentences import LANGUAGES
from wqkv.study.one_token import SourceText
from wqkv.study.tokens import Unread


def drawn(story, width=80, encoding="utf-8", lang="en", **console):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    see(story, Console(file=file, width=width, **console), lang)
    file.flush()
    return file.buffer.getvalue().decode(encoding)


CJK = ("[CLS]", "猫が", "通りを", "[/red]", "a\nb", "[bold]", "渡ら", "なかった", "it", "[SEP]")


@pytest.mark.parametrize("width", [5, 13, 40, 80, 120, 211])
@pytest.mark.parametrize("words", [CJK, ["x" * 300, *"bcdefgh"], [f"w{i}" for i in range(503)]])
@pytest.mark.parametrize("lang", LANGUAGES)
def test_fits_the_width(width, words, lang):
    lines = drawn(make(words), width, lang=lang).splitlines()
    assert max(cell_len(line) for line in lines) <= max(width, 15)
    assert all(line == line.rstrip() for line in lines)


def test_shows_the_numbers_in_order():
    story = make()
    text = drawn(story)
    rows = [f"{story.scores[j]:7.2f} {story.weights[j]:7.3f} " for j in story.ranked[:5]]
    places = [text.index(row) for row in rows]
    assert places == sorted(places)
    assert ">it<" in text
    assert text.rstrip().splitlines()[-2].startswith("PROOF HOLDS")


def test_bars_carry_sign_and_size_without_color():
    x = torch.tensor([8.0, 4.0, 1.0, 0.0, -1.0, -4.0, -8.0])
    above, below, *_ = (
        line[33:] for line in drawn(make(x=x)).splitlines() if line[3:7] in ("x   ", "7 nu")
    )
    assert above == "██▄▄▁▁"
    assert below == "        ▔▔▀▀██"


def test_numbers_that_are_not_finite():
    x = torch.tensor([1.0, math.nan, -1.0])
    assert "██??" in drawn(make(x=x))
    assert "nan" in drawn(make(weights=torch.full((11,), math.nan)))


def test_binned_bars_say_so():
    assert "each bar is the mean of 2 neighboring numbers" in drawn(make(), 80)
    assert "each bar" not in drawn(make(), 120)


def test_long_text_is_cut_and_says_so():
    story = make([f"w{i}" for i in range(503)], token=211)
    text = drawn(story)
    rest = sum(story.weights[j].item() for j in story.ranked[12:])
    assert f"and 491 more words share {rest:.3f}" in text
    assert ">w211<" in text
    assert " of 0 to 502)" in text
    assert len(text.splitlines()) < 120


def test_one_more_word():
    story = make([f"w{i}" for i in range(13)])
    assert "and 1 more word has 0.00" in drawn(story)


def test_hidden_words_are_named():
    assert "hidden, no score: was tired [SEP]" in drawn(make(causal=True))
    assert "x x x x x x x x and 5 more" in drawn(make(["x"] * 17, token=3, causal=True))


def test_every_word_hidden():
    nothing = torch.full((11,), -math.inf)
    assert "every weight is 0" in drawn(make(scores=nothing, weights=torch.zeros(11)))


def test_failed_proof_is_loud():
    text = drawn(make(proof=Proof(0.5, 2.3, 4.1e-6, 11)))
    assert text.count("FAILED ITS PROOF") == 2
    assert text.splitlines()[1].startswith("FAILED ITS PROOF")
    assert "HOLDS" not in text


def test_heads_that_share():
    text = drawn(make(n_head=7, n_kv_head=1), 120)
    assert text.splitlines()[0].endswith("(the 7 heads share 1 of k and v)")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
def test_narrow_encodings(encoding):
    text = drawn(make(CJK), encoding=encoding)
    assert r"\u732b\u304c" in text
    assert "####" in text
    assert "█" not in text


def test_escape_codes_only_where_colors_are(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = {"force_terminal": True, "color_system": "truecolor"}
    assert "\x1b[" in drawn(make(), **terminal)
    assert "\x1b" not in drawn(make(), no_color=True, **terminal)
    assert "\x1b" not in drawn(make(), force_terminal=True, color_system=None)
    assert "\x1b" not in drawn(make())
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in drawn(make(), **terminal)


def test_words_cannot_write_escape_codes():
    assert "\x1b" not in drawn(make(["\x1b[31m", "it"], token=1))


@pytest.mark.process
def test_missing_rich_gives_the_pip_line():
    code = (
        "import sys; sys.modules['rich'] = None\n"
        "from wqkv.errors import MissingExtraError\n"
        "try:\n    import wqkv.draw.terminal\nexcept MissingExtraError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "The terminal picture needs the package `rich`" in done.stdout
    assert "pip install 'wqkv[show]'" in done.stdout


def test_says_what_the_model_cannot_read():
    story = make(unread=Unread(11, 3, 0, "动物"))
    told, lines = cannot_read(story.unread, story.model), drawn(story, 300).splitlines()
    assert lines[1] == told
    assert drawn(make(), 300).splitlines() == [line for line in lines if line != told]
    assert r"(\u52a8\u7269)" in drawn(story, 300, "ascii")


# The matrices


def known():
    """A story whose WQ is known: five rows, of which the third multiplies the largest number."""
    WQ = torch.tensor([[0.01] * 3, [0.02] * 3, [1.0, -1.0, 0.2], [-0.5, 0.5, 0.0], [0.03] * 3])
    x = torch.tensor([1.0, 0.0, -8.0, 2.0, 0.5])
    story = make(x=x)
    small = {name: getattr(story.matrices, name) / 1000 for name in ("WK", "WV")}
    matrices = replace(story.matrices, WQ=WQ, bQ=torch.tensor([0.25, 0.5, 1.0]), **small)
    return replace(story, matrices=matrices)


def picture(text):
    """The lines of the first picture below the mark."""
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if line.strip() in ("▼", "v"))
    return lines[at + 1 :]


def test_a_matrix_is_signs_and_sizes_in_the_order_of_what_it_multiplies():
    rows = [line[3:15].split() for line in picture(drawn(known()))[:5]]
    assert rows == [
        ["-8.00", "#=+"],
        ["2.00", "=#."],
        ["1.00", "..."],
        ["0.50", "..."],
        ["0.00", "..."],
    ]


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_the_marked_column_makes_the_largest_number(encoding):
    lines = drawn(known(), encoding=encoding).splitlines()
    at = next(i for i, line in enumerate(lines) if line.strip() in ("▼", "v"))
    assert lines[at] == " " * 13 + ("v" if encoding == "ascii" else "▼")  # q = (-8.7, 9.5, -0.6)
    says = "   Column 1 of WQ is marked: x times this column and its bias added gives q[1]."
    told = lines[lines.index(says) + 1 :]
    assert [line.split(" = ") for line in told[:6]] == [
        ["   x[2] -8 x -1     ", "8.00"],
        ["   x[3] 2 x 0.5     ", "1.00"],
        ["   x[4] 0.5 x 0.03  ", "0.01"],
        ["   the other 2 terms", "0.01"],
        ["   bias             ", "0.50"],
        ["   q[1]             ", "9.52"],
    ]


def test_with_colors_a_character_is_two_numbers():
    terminal = {"force_terminal": True, "color_system": "truecolor", "no_color": False}
    text = drawn(known(), _environ={}, **terminal)
    blue, orange = "67;147;230", "232;134;46"
    first, *_ = picture(text)
    assert first.count("▀") == 1 + 3 + 17 + 13
    # x is -8 above 2, and the first column of WQ 1 above -0.5: half way from gray to orange.
    x, column = re.findall(r"38;2;([\d;]+);48;2;([\d;]+)m▀", first)[:2]
    assert x[0] == orange and column == (blue, "175;126;82")


def test_blocks_of_columns_say_so():
    said = "each cell: of 1 x 3 numbers the one of the largest size"
    assert said in " ".join(drawn(make(), 40).split())
    assert "each cell" not in drawn(make(), 120)


def test_numbers_of_a_matrix_that_are_not_finite():
    story = make()
    broken = replace(story.matrices, WQ=torch.full((53, 17), math.nan))
    assert "?" * 17 in drawn(replace(story, matrices=broken))
    assert "nan" in drawn(replace(story, matrices=broken))


def test_what_comes_between_a_product_and_q_is_said():
    story = make()
    turned = replace(story.matrices, to_q=("norm", "RoPE"))
    assert "q then goes through a norm, RoPE." in drawn(replace(story, matrices=turned), 120)
    assert "then goes through" not in drawn(story, 120)


def test_two_texts_have_two_pictures():
    y = torch.randn(53)
    source = SourceText(("ein", "Tier"), (False, False), 1, y)
    text = drawn(make(source=source, scores=torch.zeros(2), weights=torch.full((2,), 0.5)))
    names = [line.split() for line in text.splitlines() if "53 x 17" in line]
    assert names == [
        ["x", "WQ", "53", "x", "17"],
        [*"y", "WK", *["53", "x", "17"], "WV", *["53", "x", "13"]],
    ]
    assert "Column" in text and " of WK is marked: y times" in text


def test_heads_without_matrices_of_their_own():
    text = drawn(make(matrices=None), 120)
    assert "The heads of this model do not have one WQ, WK, WV and WO each" in text
    assert "▼" not in text


# Languages

NOT_ENGLISH = re.compile(r"[a-z]{4,}")


def test_all_is_said_in_chinese():
    text = drawn(make(["一"] * 17, token=3, causal=True, n_kv_head=1), 300, lang="zh")
    text += drawn(make(["一"] * 17, proof=Proof(0.5, 2.3, 4.1e-6, 11)), 300, lang="zh")
    names = {
        "tiny",
        "model",
        "token",
        "query",
        "value",
        "softmax",
        "context",
        "share",
        "score",
        "weight",
        "sqrt",
        "Causal",
        "ausal",
    }
    assert "证明成立" in text and "证明失败" in text
    assert {*NOT_ENGLISH.findall(text)} <= names


@pytest.mark.parametrize(
    ("encoding", "says"), [("ascii", "PROOF"), ("cp437", "PROOF"), ("gbk", "证明")]
)
def test_a_terminal_without_chinese_characters_gets_english(encoding, says):
    assert f"\n{says}" in drawn(make(), encoding=encoding, lang="zh")


SNAPSHOTS = Path(__file__).parent / "snapshots"


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("color", [False, True])
def test_snapshots(width, lang, color):
    """To write them anew, delete the folder, run this test, and look at what has changed."""
    terminal = (
        {"force_terminal": True, "color_system": "truecolor", "no_color": False} if color else {}
    )
    text = drawn(make(n_kv_head=1), width, lang=lang, _environ={}, **terminal)
    if color:  # of the colors the pictures of the matrices alone
        text = text[: text.index("\x1b[1m3  ")]
    path = SNAPSHOTS / f"see_{lang}_{width}{'_color' if color else ''}.txt"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        pytest.fail(f"{path.name} is written: look at it")
    assert text == path.read_text("utf-8")
