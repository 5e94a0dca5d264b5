"""A map in a notebook, in a browser that runs no script: what a person sees and hovers over."""

import pytest
import torch

from wqkv import AttentionMap, Axis

WORDS = ["[CLS]", "it", "was", "<tired>", "\u732b", "."]


@pytest.fixture
def page(browser, tmp_path):
    """A page with the HTML of a map; it may run no script, and a request fails the test."""
    axis = Axis(WORDS)
    q = torch.randn(1, 2, 6, 4, generator=torch.Generator().manual_seed(0))
    m = AttentionMap(q, q).on(keys=axis, queries=axis)
    (tmp_path / "map.html").write_text(f"<!doctype html><meta charset=utf-8>{m._repr_html_()}")
    context = browser.new_context(java_script_enabled=False)
    made, asked = context.new_page(), []
    made.on("request", lambda request: asked.append(request.url))
    made.goto((tmp_path / "map.html").as_uri())
    yield made, m
    context.close()
    assert [url for url in asked if not url.startswith("data:")] == [
        (tmp_path / "map.html").as_uri()
    ]


def test_what_is_under_the_mouse_says_its_query_key_and_weight(page):
    made, m = page
    pictures = made.locator("figure svg")
    assert pictures.count() == 2
    for head, i, j in ((0, 0, 0), (0, 3, 1), (1, 5, 4)):
        figure = pictures.nth(head)
        cell = figure.locator("path").filter(has=made.locator("title")).nth(6 * i + j)
        box, image = cell.bounding_box(), figure.locator("image").bounding_box()
        side = image["width"] / 6
        assert box["x"] == pytest.approx(image["x"] + j * side, abs=0.1)
        assert box["y"] == pytest.approx(image["y"] + i * side, abs=0.1)
        # the shape of the cell is what the mouse meets, and a browser shows its title
        cell.hover(timeout=5000)
        said = f"{WORDS[i]} → {WORDS[j]}: {m[0, head, i, j]:.3f}"
        assert cell.locator("title").text_content() == said


def test_labels_stand_beside_their_rows_and_inside_the_picture(page):
    made, _ = page
    figure = made.locator("figure svg").first
    image, whole = figure.locator("image").bounding_box(), figure.bounding_box()
    labels = figure.locator("text").all()
    assert [one.text_content() for one in labels] == WORDS * 2
    for i, label in enumerate(labels[:6]):
        box = label.bounding_box()
        middle = box["y"] + box["height"] / 2
        assert middle == pytest.approx(image["y"] + (i + 0.5) * image["height"] / 6, abs=3)
        assert whole["x"] <= box["x"] and box["x"] + box["width"] <= image["x"]
    for j, label in enumerate(labels[6:]):
        box = label.bounding_box()
        middle = box["x"] + box["width"] / 2
        assert middle == pytest.approx(image["x"] + (j + 0.5) * image["width"] / 6, abs=3)
        assert image["y"] + image["height"] <= box["y"]
        assert box["y"] + box["height"] <= whole["y"] + whole["height"]
