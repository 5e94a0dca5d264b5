"""Windows of long texts: they are the whole text, they fit, and they begin where words do."""

import re
from itertools import pairwise

import pytest

from tests.pieces import bytewise
from tests.tiny import text, tokenizer
from wqkv.errors import ArgumentError
from wqkv.study.windows import TextWindow, text_windows

KEEPER = "The keeper lit the lamp, and didn't sleep; 37,000 ships went by.\n\n"
WINDOW = "孩子打开了窗户。天气很好，他们出去玩。"


def checked(tokenizer, text: str, longest: int) -> list[TextWindow]:
    """Cut a text into windows, and check what must be true of all windows."""
    found = text_windows(tokenizer, text, longest)
    assert "".join(text[one.start : one.stop] for one in found) == text
    assert [one.number for one in found] == list(range(len(found)))
    for one in found:
        assert len(tokenizer(text[one.start : one.stop])["input_ids"]) <= longest
        assert (one.windows, one.tokens) == (len(found), found[-1].last + 1)
    assert found[0].first == 0
    assert all(after.first == before.last + 1 for before, after in pairwise(found))
    return found


@pytest.mark.parametrize("count", [1, 12, 500])
def test_a_text_that_fits_is_one_window(minilm, count):
    whole = "sea " * count
    assert checked(minilm.tokenizer, whole, 512) == [
        TextWindow(0, 1, 0, len(whole), 0, count - 1, count)
    ]


@pytest.mark.parametrize("longest", [11, 37, 101, 512])
def test_windows_begin_at_words(minilm, longest):
    whole = KEEPER * 103
    found = checked(minilm.tokenizer, whole, longest)
    room = longest - 2
    assert len(found) >= found[0].tokens / room > 1
    for one in found[1:]:
        assert whole[one.start].isspace(), whole[one.start - 9 : one.start + 9]
    lengths = [one.last - one.first + 1 for one in found]
    assert min(lengths) > room // 3, "the last window is no stump"
    # The tokens of the windows are those of the text.
    ids = [i for one in found for i in minilm.tokens(whole[one.start : one.stop]).ids[1:-1]]
    assert ids == minilm.tokenizer(whole, add_special_tokens=False, verbose=False)["input_ids"]


def test_chinese_is_cut_behind_a_mark(minilm):
    whole = WINDOW * 203
    for one in checked(minilm.tokenizer, whole, 101)[1:]:
        assert whole[one.start - 1] in "。，"


def test_no_character_is_cut():
    """Where no blank and no mark is near, a border stands between two characters."""
    cut = bytewise()
    whole = "它累" * 53
    found = checked(cut, whole, 17)
    assert len(found) > 3
    ids = [i for one in found for i in cut(whole[one.start : one.stop])["input_ids"]]
    assert ids == cut(whole)["input_ids"]


def test_a_part_that_has_a_token_more_by_itself(minilm):
    """Windows are cut shorter then, until all of them fit."""
    plain = minilm.tokenizer
    parts = []

    class Longer:
        """Puts seven more tokens around whatever does not begin with "The"."""

        is_fast = True

        def __call__(self, text, **rest):
            found = plain(text, **rest)
            if rest.keys() == {"verbose"} and not text.startswith("The"):
                parts.append(text)
                found["input_ids"] = [*found["input_ids"], *[0] * 7]
            return found

    whole = KEEPER * 31
    found = text_windows(Longer(), whole, 67)
    assert parts and found != text_windows(plain, whole, 67)
    for one in found:
        assert len(plain(whole[one.start : one.stop])["input_ids"]) <= 60 + 7 * (one.number == 0)


def test_a_tokenizer_that_does_not_say_where_tokens_stand(monkeypatch):
    slow = tokenizer()
    monkeypatch.setattr(type(slow), "is_fast", False)
    assert len(text_windows(slow, text(13), 17)) == 1
    with pytest.raises(
        ArgumentError,
        match=re.escape("has 42 tokens, the model takes 17, and its tokenizer does not say"),
    ):
        text_windows(slow, text(41), 17)
