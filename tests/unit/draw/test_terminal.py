import io
import math
import subprocess
import sys

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console

from tests.unit.draw.stories import make
from wqkv.draw.steps import cannot_read
from wqkv.draw.terminal import see
from wqkv.maps.proof import Proof
from wqkv.study.tokens import Unread


def drawn(story, width=80, encoding="utf-8", **console):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    see(story, Console(file=file, width=width, **console))
    file.flush()
    return file.buffer.getvalue().decode(encoding)


CJK = ("[CLS]", "猫が", "通りを", "[/red]", "a\nb", "[bold]", "渡ら", "なかった", "it", "[SEP]")


@pytest.mark.parametrize("width", [5, 13, 40, 80, 120, 211])
@pytest.mark.parametrize("words", [CJK, ["x" * 300, *"bcdefgh"], [f"w{i}" for i in range(503)]])
def test_fits_the_width(width, words):
    lines = drawn(make(words), width).splitlines()
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
    above, below = (
        line[33:]
        for line in drawn(make(x=x, d_model=7)).splitlines()
        if line[3:7] in ("x   ", "7 nu")
    )
    assert above == "██▄▄▁▁"
    assert below == "        ▔▔▀▀██"


def test_numbers_that_are_not_finite():
    x = torch.tensor([1.0, math.nan, -1.0])
    assert "██??" in drawn(make(x=x, d_model=3))
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
    assert len(text.splitlines()) < 80


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
