"""A file is there whole or not at all."""

from __future__ import annotations

import pytest

from wqkv.files import written_whole


def test_a_file_is_replaced_when_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a"
    for text in ("one", "another"):
        with written_whole(path) as unfinished:
            unfinished.write_text(text)
            assert not path.exists() or path.read_text() == "one"
        assert path.read_text() == text
    assert [*tmp_path.iterdir()] == [path]


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "a"
    path.write_text("one")
    with pytest.raises(ValueError, match="stop"), written_whole(path) as unfinished:
        unfinished.write_text("half")
        raise ValueError("stop")
    assert path.read_text() == "one"
    assert [*tmp_path.iterdir()] == [path]
