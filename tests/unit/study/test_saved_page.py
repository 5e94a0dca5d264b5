"""The page in a notebook: what each kind of viewer is given."""

import base64
from html import unescape

import pytest

from wqkv.study.saved_page import SavedPage

HTML = '<html lang="en">"a" & <b>'


@pytest.mark.parametrize("picture", [None, b"\x89PNG"])
def test_what_a_notebook_is_given(picture):
    page = SavedPage(HTML, picture, "tiny reads <2> tokens")
    given = page._repr_mimebundle_(include=None, exclude=None)
    assert given["text/plain"] == repr(page) == "tiny reads <2> tokens"
    if picture is None:
        assert given.keys() == {"text/plain", "text/html"} and "<img" not in given["text/html"]
    else:
        assert base64.b64decode(given["image/png"]) == picture
        assert f"base64,{given['image/png']}" in given["text/html"]
    frame = given["text/html"].partition('<iframe srcdoc="')[2]
    source, _, rest = frame.partition('"')
    assert unescape(source) == HTML
    # The page may run its scripts, and reaches nothing of the notebook.
    assert 'sandbox="allow-scripts allow-downloads"' in rest and "same-origin" not in rest
    assert 'title="tiny reads &lt;2&gt; tokens"' in rest


def test_the_page_is_written(tmp_path):
    SavedPage(HTML, None, "").save(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text("utf-8") == HTML
