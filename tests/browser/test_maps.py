"""A map in a notebook, in a real browser: what a person sees and hovers over."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from wqkv import AttentionMap, Axis
from wqkv.maps.display import color

WORDS = ["[CLS]", "it", "was", "<tired>", "\u732b", "."]


@pytest.fixture
def page(browser, tmp_path):
    """A page with the HTML of a map; a request fails the test. Only the test runs scripts."""
    axis = Axis(WORDS)
    q = torch.randn(1, 2, 6, 4, generator=torch.Generator().manual_seed(0))
    m = AttentionMap(q, q).on(keys=axis, queries=axis)
    html = m._repr_html_()
    assert "<script" not in html
    (tmp_path / "map.html").write_text(f"<!doctype html><meta charset=utf-8>{html}")
    context = browser.new_context()
    made, asked = context.new_page(), []
    made.on("request", lambda request: asked.append(request.url))
    made.goto((tmp_path / "map.html").as_uri())
    yield made, m
    context.close()
    assert [url for url in asked if not url.startswith("data:")] == [
        (tmp_path / "map.html").as_uri()
    ]


def pixels(page) -> Image.Image:
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def test_what_is_under_the_mouse_says_its_query_key_and_weight(page):
    """And the color there is that of the weight, so that picture and areas lie on each other."""
    made, m = page
    shown = pixels(made)
    figures = made.locator("figure img")
    assert figures.count() == 2
    for head, i, j in ((0, 0, 0), (0, 3, 1), (0, 0, 5), (1, 5, 4), (1, 5, 0)):
        corner = figures.nth(head).bounding_box()
        areas = made.locator("figure").nth(head).locator("area")
        left, top, *_ = map(int, areas.nth(0).get_attribute("coords").split(","))
        x, y = corner["x"] + left + 20 * (j + 0.5), corner["y"] + top + 20 * (i + 0.5)
        said = made.evaluate("([x, y]) => document.elementFromPoint(x, y).title", [x, y])
        weight = float(m[0, head, i, j])
        assert said == f"{WORDS[i]} → {WORDS[j]}: {weight:.3f}"
        assert shown.getpixel((int(x), int(y))) == color(round(weight**0.5 * 254) / 254)
        # and at the very edges of the cell
        for dx, dy in ((-8.5, -8.5), (8.5, 8.5)):
            at = [x + dx, y + dy]
            assert made.evaluate("([x, y]) => document.elementFromPoint(x, y).title", at) == said


def test_labels_stand_beside_their_rows(page):
    """Each row and column has letters beside it, in gray, and none of them is cut off."""
    made, _ = page
    shown, box = pixels(made), made.locator("figure img").first.bounding_box()
    area = made.locator("area").first.get_attribute("coords").split(",")
    left, top = int(area[0]), int(area[1])
    x, y = round(box["x"]), round(box["y"])

    def letters(x0: int, y0: int, x1: int, y1: int) -> int:
        return int((np.asarray(shown.crop((x0, y0, x1, y1))).max(axis=-1) < 200).sum())

    for k in range(6):
        assert letters(x, y + top + 20 * k, x + left - 1, y + top + 20 * (k + 1)) > 0
        below = y + top + 120
        assert letters(x + left + 20 * k, below, x + left + 20 * (k + 1), below + 20) > 0
    assert letters(x, y, x + 1, y + round(box["height"])) == 0  # the longest label has room
