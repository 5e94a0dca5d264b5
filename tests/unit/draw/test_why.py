import csv
import dataclasses
import io
import json
import math
import re
import subprocess
import sys

import pytest
from rich.cells import cell_len
from rich.console import Console

from tests.unit.draw.whys import capitals, links, long, mary, similarity, translation
from tests.unit.test_house import ROOT
from wqkv.draw.why import COLUMNS, as_json, save_csv, show
from wqkv.effects.records import GroupEffect, Question, Why


def drawn(found: Why, width: int = 80, encoding: str = "utf-8", lang: str = "en", **console) -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    show(found, Console(file=file, width=width, **console), lang)
    file.flush()
    return file.buffer.getvalue().decode(encoding)


CAPITALS = """\
What does this answer of SmolLM2-135M-Instruct rest on?
   The capital of France is Paris . The capital of Italy is Rome . The capital
   of Spain >is<
logit of ' Madrid' less logit of ' Rome', for the token after is@18: 7.90, so
'Madrid' wins
Computed with our attention; the model's own number differs by 1.9e-06.

19 tokens read, 51,030 links in all layers and heads. 200 of them were removed
for real, each by itself: its weight goes to the row's other keys
("renormalize").
The effect of a link is the number without it less the number with it. A link
with an effect below 0 speaks for 'Madrid', one above 0 speaks for 'Rome'.

The strongest links, by true effect:
   layer head from -> to          weight predicted   true
      23    4 is@18 -> Spain@17    0.856     -2.56 -11.34
              ! prediction too small
      23    3 is@18 -> Rome@12     0.153     -1.85  -1.94
      29    1 is@18 -> is@18       0.502     -1.55  -1.70
      11    8 is@18 -> Spain@17    0.830     -0.56  -0.95
      29    1 is@18 -> is@11       0.163     +0.90  +0.89
      23    5 is@18 -> Spain@17    0.548     -0.63  -0.77
      23    1 is@18 -> Spain@17    0.653     -0.68  -0.76

Links to the first token. Removing one switches a resting head on, and says
nothing about what was read. This list may miss some:
   layer head from -> to          weight predicted   true
       5    6 Spain@17 -> The@0    0.812     -0.67  -2.28
              ! large local change, prediction too small
      23    7 is@18 -> The@0       0.856     -1.41  -1.46
       8    0 Spain@17 -> The@0    0.674     -0.94  -1.38

The strongest of the links that were not removed, predicted only:
   layer head from -> to          weight predicted   true
      26    2 is@18 -> Paris@5     0.211     +0.26      -
       4    7 Rome@12 -> Italy@10  0.347     -0.25      -  ! large local change

! marks a prediction that was doubtful before the removal (large local change,
its own block says otherwise), or that missed by more than half (wrong sign, too
small, too large).

All 7 links of the first list removed together: 7.90 -> -7.07, so 'Rome' wins.
As many other links of like weight, of the same tokens: 7.90 -> 6.77 to 7.96 (20
draws, 5 to 95 %).
Single effects sum to -16.57, together they are -14.97: they overlap.
Not removed: 50,830 links with 81 % of all predicted effect; none is predicted
beyond 0.26.
Predictions can miss: of those for 187 removed links with an effect above
rounding, 172 had the right sign, and 122 lay within 50 % of the true effect.
This is not a proof that nothing else matters.
"""


def test_whole_text():
    assert drawn(capitals()) == CAPITALS


@pytest.mark.parametrize("width", [15, 31, 40, 60, 80, 120, 211])
@pytest.mark.parametrize("make", [capitals, mary, long, translation, similarity])
def test_fits_the_width(width, make):
    lines = drawn(make(), width).splitlines()
    assert max(map(cell_len, lines)) <= width
    assert all(line == line.rstrip() for line in lines)
    said = " ".join(" ".join(lines).split())
    for link in make().links[:3]:  # no number is cut off or parted from its sign
        assert f"{link.true:+.2f}" in said or f"{link.true:+.4f}" in said or "~0" in said
    assert "This is not a proof that nothing else matters." in said


def test_columns_at_60():
    lines = drawn(capitals(), 60).splitlines()
    at = lines.index("The strongest links, by true effect:")
    assert lines[at + 1 : at + 5] == [
        "   layer head from -> to          weight predicted   true",
        "      23    4 is@18 -> Spain@17    0.856     -2.56 -11.34",
        "              ! prediction too small",
        "      23    3 is@18 -> Rome@12     0.153     -1.85  -1.94",
    ]


def test_clauses_where_columns_have_no_room():
    lines = drawn(capitals(), 40).splitlines()
    at = lines.index("The strongest links, by true effect:")
    assert lines[at + 1 : at + 5] == [
        "   layer 23, head 4, is@18 -> Spain@17:",
        "   weight 0.856, predicted -2.56, true",
        "   -11.34",
        "      ! prediction too small",
    ]
    assert "cross, layer 5, head 3, Katze@2" in " ".join(drawn(translation(), 40).split())


def test_long_tokens_are_cut_and_their_numbers_kept():
    tokens = ("a", "Donaudampfschiff", "猫" * 30)
    found = similarity(
        tokens={"text": tokens},
        keys={"text": tokens},
        links=links("0 0 1 2 0.5 0.1 0.1 0.1"),
    )
    assert "Donaudampfschiff@1 -> 猫猫猫猫猫猫猫猫…@2  0.500" in drawn(found, 80)
    assert "Donaud…@1 -> 猫猫猫…@2  0.500" in drawn(found, 60)
    assert "Donaud~@1 -> \\u732b~@2  0.500" in drawn(found, 60, "ascii")


def test_two_texts():
    lines = drawn(translation(), 100).splitlines()
    assert lines[1:6] == [
        "read:",
        "   The cat sleeps </s>",
        "written:",
        "   <s> Die >Katze<",
        "logit of ' schläft', for the token after Katze@2: 0.4231",
    ]
    assert "   cross       5    3 Katze@2 -> cat@1   0.710   -0.0310 -0.0402" in lines
    assert "   encoder     1    0 cat@1 -> sleeps@2  0.330   -0.0120 -0.0113" in lines


def test_a_long_text_is_shown_around_the_token_asked_about():
    text = drawn(long(), 60)
    assert ">lazy<\n" in text and " of 0 to 119)\n" in text
    asked = dataclasses.replace(long(), question=Question("next token", "x", "a", None, 3))
    assert "   the quick brown >fox< jumps over" in drawn(asked, 60)
    whole = dataclasses.replace(long(), question=Question("function", "x"))
    assert "   the quick brown fox jumps over" in drawn(whole, 60)


def test_rest_of_a_list():
    lines = drawn(long(count=13), 100).splitlines()
    assert "   and 6 more, none beyond 0.39 up or down" in lines


def test_only_what_is_there():
    bare = capitals(links=(), resting=(), predicted=(), together=None)
    text = drawn(bare)
    for absent in ("The strongest links", "first token.", "! marks", "together", "Heads", "layer "):
        assert absent not in text.replace("in all layers", "")
    assert "Not removed: 50,830 links" in text
    assert "! marks" not in drawn(similarity())


def test_groups_by_falling_effect():
    heads = [GroupEffect("head", "text", f"layer 3, head {n}", 0.25 * n, 3, n) for n in range(13)]
    heads[4] = dataclasses.replace(heads[4], true=math.nan)
    heads[11] = dataclasses.replace(heads[11], true=-7.0)
    token = GroupEffect("token", "text", "Spain", 0.00001, first=17, last=17)
    text = drawn(capitals(groups={"head": tuple(heads), "token": (token,)}), 100)
    _, head, tokens = text.split("\n\n")[-3:]
    assert head.splitlines() == [
        "Heads, the output of each set to 0; true effects, which do not add up:",
        "   -7.00  layer 3, head 11",
        "   +3.00  layer 3, head 12",
        *(f"   +{0.25 * n:.2f}  layer 3, head {n}" for n in (10, 9, 8, 7, 6, 5, 3, 2)),
        "   and 3 more, none beyond 0.25 up or down",
    ]
    assert tokens.splitlines()[-1] == "   ~0  below rounding, Spain@17"
    only = drawn(capitals(groups={"head": (heads[4],)}), 100).splitlines()[-1]
    assert only == "   -  cannot be removed: a row has no other key, layer 3, head 4"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
def test_narrow_encodings(encoding):
    assert "a \\u732b sleeps" in drawn(similarity(), encoding=encoding)


def test_escape_codes_only_where_colors_are(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = {"force_terminal": True, "color_system": "truecolor"}
    colored = drawn(capitals(), **terminal)
    # which codes a color has is remembered by rich from the first console that drew it
    patterns = (rf"\x1b\[(38;[\d;]+)m{re.escape(true)}\x1b\[0m" for true in ("-11.34", "+0.89"))
    down, up = (re.search(pattern, colored)[1] for pattern in patterns)
    assert down != up
    assert "\x1b[2m~0\x1b[0m" in drawn(similarity(), **terminal)
    for console in (
        {"no_color": True, **terminal},
        {"force_terminal": True, "color_system": None},
        {},
    ):
        assert "\x1b" not in drawn(capitals(), **console)
    hostile = capitals(
        model="\x1b[31m",
        question=Question("next token", "\x1b[31m", "\x1b[31m", "\x1b[31mx", 18),
        tokens={"text": ("\x1b[31m",) * 19},
        keys={"text": ("\x1b[31m",) * 19},
        groups={"span": (GroupEffect("span", "text", "\x1b[31m", 1.0, first=1, last=2),)},
    )
    for width in (40, 80):
        assert "\x1b[31m" not in drawn(hostile, width, **terminal)


# Data


def told(found: Why):
    return json.loads(json.dumps(as_json(found), allow_nan=False))


def test_json():
    data = told(capitals())
    assert {"wqkv", *(field.name for field in dataclasses.fields(Why))} == set(data)
    assert data["question"] == {
        "kind": "next token",
        "number": "logit of ' Madrid' less logit of ' Rome'",
        "answer": " Madrid",
        "against": " Rome",
        "at": 18,
        "token": "is",
    }
    assert (data["how"], data["before"], data["rounding"]) == ("renormalize", 7.8974, 1.6e-4)
    assert data["tokens"]["text"][17] == data["keys"]["text"][17] == "Spain"
    assert data["links"][0] == {
        "part": "text",
        "layer": 23,
        "head": 4,
        "query": 18,
        "query_token": "is",
        "key": 17,
        "key_token": "Spain",
        "weight": 0.856,
        "predicted": -2.56,
        "change": 0.11,
        "block": None,
        "true": -11.34,
        "warning": "",
        "miss": "prediction too small",
    }
    assert data["resting"][0]["warning"] == "large local change"
    assert (data["predicted"][0]["true"], data["predicted"][0]["miss"]) == (None, "")
    assert data["together"]["others"][0] == 6.7
    assert data["checked"]["left"] == 50_830
    assert (data["groups"], told(similarity())["question"]["token"]) == (None, None)


def test_json_is_strict():
    data = told(long(before=math.inf))
    assert data["before"] is None
    assert data["groups"]["span"][0]["true"] is None
    assert data["groups"]["head"][0]["label"] == "layer 3, head 4"
    assert told(translation())["links"][0]["key_token"] == "cat"
    assert told(translation())["question"]["token"] == "Katze"


def test_csv(tmp_path):
    save_csv(long(count=2), tmp_path / "a.csv")
    text = (tmp_path / "a.csv").read_text("utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert tuple(rows[0]) == COLUMNS
    assert [row["list"] for row in rows] == [
        *("links", "links", "resting", "resting", "predicted", "predicted"),
        *("head", "token", "span"),
    ]
    assert [row["how"] for row in rows] == ["renormalize"] * 6 + [""] * 3
    first, head, span = rows[0], rows[6], rows[8]
    assert (first["query"], first["query_token"], first["true"]) == ("119", "lazy", "3.1")
    assert (first["block"], first["label"], first["miss"]) == ("", "", "")
    assert (rows[2]["warning"], rows[2]["miss"]) == ("large local change", "wrong sign")
    assert (rows[4]["true"], rows[4]["predicted"]) == ("", "0.26")
    assert (head["label"], head["layer"], head["true"]) == ("layer 3, head 4", "3", "-4.25")
    assert (span["first"], span["last"], span["true"], span["query"]) == ("0", "10", "", "")


@pytest.mark.process
def test_json_and_csv_need_no_rich():
    code = (
        "import sys; sys.modules['rich'] = sys.modules['matplotlib'] = None\n"
        "from tests.unit.draw.whys import capitals\n"
        "from wqkv.draw.why import as_json, save_csv\n"
        "save_csv(capitals(), sys.argv[1]); print(as_json(capitals())['how'])"
    )
    command = [sys.executable, "-c", code, "/dev/null"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "renormalize\n"


@pytest.mark.parametrize("width", [40, 60, 100])
@pytest.mark.parametrize("make", [capitals, translation, similarity])
def test_chinese_fits_and_stands_in_columns(make, width):
    lines = drawn(make(), width, lang="zh").splitlines()
    assert max(map(cell_len, lines)) <= width
    heads = [at for at, line in enumerate(lines) if "从 -> 到" in line]
    assert bool(heads) == (width > 40)
    for at in heads:  # the cells end where the names of their columns end
        ends = cell_len(lines[at])
        assert lines[at].endswith("真实")
        row = lines[at + 1].partition("  !")[0].replace("  低于舍入误差", "").rstrip()
        assert cell_len(row) == ends


def test_an_encoding_without_chinese_gets_english():
    assert drawn(capitals(), encoding="ascii", lang="zh") == drawn(capitals(), encoding="ascii")
