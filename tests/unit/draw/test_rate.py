import io

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console

from wqkv.draw import rate
from wqkv.study.hit_rate import Expectation, HitRate, Tried

TRIED = tuple(
    Tried(
        Expectation("the lamp burned", "burned", word),
        ("the", "lamp"),
        (word == "the", word == "lamp"),
        (-2, -1),
        torch.tensor([[[0.25, 0.677]]]),
    )
    for word in ("lamp", "the")
)
FOUND = HitRate("tiny", TRIED, 0, 0, chosen=True)


def shown(lang: str, width: int = 100) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    rate.show(FOUND, console, lang)
    return console.file.getvalue().splitlines()


def test_every_sentence_with_what_got_the_weight():
    lines = shown("en")
    assert lines[-4:] == [
        "yes  the lamp burned",
        "     burned: lamp 0.677, the 0.250",
        "no   the lamp burned",
        "     burned: lamp 0.677, the 0.250",
    ]
    assert shown("zh")[-2].startswith("否  the lamp")


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_lines_fit(lang):
    assert all(cell_len(line) <= 40 for line in shown(lang, 40))


def test_json_has_every_number():
    found = rate.as_json(FOUND)
    assert found["hits"] == 1 and found["of"] == 2 and found["heldOut"] == 1
    assert found["sentences"][1]["right"] == [True, False]
    assert found["sentences"][0]["key"] == "lamp"
