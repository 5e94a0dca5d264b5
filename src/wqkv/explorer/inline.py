"""A text in a notebook: the saved page inside the cell, or a still picture of it."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

from wqkv.draw.plots import save_story
from wqkv.errors import ArgumentError
from wqkv.explorer.api import Api
from wqkv.explorer.export import export
from wqkv.sentences import LANGUAGES, in_language
from wqkv.sentences.reading import SAVED_PAGE
from wqkv.study.callbacks import silent
from wqkv.study.one_token import token_story
from wqkv.study.opening import AnyModel, open_any
from wqkv.study.saved_page import SavedPage
from wqkv.study.view import View


def saved_page(
    model: AnyModel | str | None,
    text: str,
    target: str | None,
    picture: str | None,
    at: tuple[int, int, int] | None,
    lang: str,
) -> SavedPage:
    """The page of a text; see `wqkv.open`."""
    if lang not in LANGUAGES:
        raise ArgumentError(
            f"The page does not speak {lang!r}.\nPass one of: {', '.join(LANGUAGES)}."
        )
    source = model if isinstance(model, str) else None
    opened = open_any(source) if isinstance(model, str | None) else model
    api = Api(opened, source)
    if not isinstance(model, str | None):
        api.opening = "import wqkv  # `model` is the one that wqkv.open was given"
    seen = api.open(text, silent, target, picture=picture)
    layer, head, token = seen.first[1:] if at is None else at
    seen.view.checked_layer(layer, head, token)
    page = export(api, seen, (layer, head, token), lang, silent)
    said = in_language(SAVED_PAGE, lang)["reads"].format(
        model=opened.name, n=len(seen.view.reading.tokens), layer=layer, head=head
    )
    return SavedPage(page, _still(seen.view, layer, head, token, lang), said)


def _still(view: View, layer: int, head: int, token: int, lang: str) -> bytes | None:
    """The map at which the page opens, as a PNG; of a picture, the weights of its token on it."""
    if find_spec("matplotlib") is None or view.reading.source is not None:
        return None
    if view.reading.pictures:
        heads, image = view.layer(layer).whole.on(view.keys.axes, view.reading.axes), BytesIO()
        heads.overlay(token, head).savefig(image, format="png")
        return image.getvalue()
    story = token_story(view, layer, head, token)
    # A notebook keeps every picture that it shows, and that of the matrices is noise to a PNG.
    story = replace(story, map=view.map(layer, head)[0, 0], matrices=None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "map.png"
        save_story(story, path, lang)
        return path.read_bytes()
