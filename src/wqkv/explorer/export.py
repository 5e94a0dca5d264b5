"""The explorer as one file: the page with the answers inside that it would ask a server for."""

from __future__ import annotations

import base64
import hashlib
import json
import posixpath
import re
from collections.abc import Iterator
from html import escape
from importlib.resources import files
from importlib.resources.abc import Traversable

from wqkv.errors import ArgumentError
from wqkv.explorer.api import Api, OpenView
from wqkv.explorer.numbers import LONG, QUICK, SIDE, SLOW, stream
from wqkv.explorer.request import Parameters
from wqkv.explorer.schema import Answer, Recorded, ServedModel, ViewAnswer
from wqkv.sentences import in_language
from wqkv.sentences.reading import LEFT_OUT
from wqkv.study.callbacks import Progress, silent

#: So many bytes of answers are recorded; the page says so, and what was left out.
CAP = 16 * 2**20

Asked = tuple[str, dict[str, int | str]]  # the name of an answer, and its parameters
_IMPORT = re.compile(r'^import \{[^}]*\} from "(\.{1,2}/[\w./-]+\.js)";\n', re.MULTILINE)
_STYLE = re.compile(r'<link rel="stylesheet" href="page/([\w./-]+)">')
_EXPORT = re.compile(r"^export (?=(?:async )?function |class |const |let )", re.MULTILINE)


def export(
    api: Api,
    seen: OpenView,
    at: tuple[int, int, int],
    lang: str,
    progress: Progress,
    cap: int = CAP,
) -> str:
    """One page with a text in it, for a browser without network.

    Args:
        at: the layer, head and token that it opens at.
        progress: is told how many answers are recorded.
    """
    layer, head, token = at
    start = f"layer={layer}&head={head}&token={token}&lang={lang}"
    return page(record(api, seen, at, lang, progress, cap), start)


def record(
    api: Api, seen: OpenView, at: tuple[int, int, int], lang: str, progress: Progress, cap: int
) -> Recorded:
    """The answers by what the page asks, as many as fit into `cap` bytes; and what did not fit."""
    model: ServedModel = {**api.facts(), "start": {"view": "1"}}
    about: ViewAnswer = {**api.about(seen), "parts": []}
    answers: dict[str, ServedModel | ViewAnswer | Answer] = {"model": model, "views/1": about}
    size = sum(map(_size, answers.values()))
    said, left_out = in_language(LEFT_OUT, lang), list[str]()
    groups = list(_wanted(api, seen, at, lang))
    total = sum(len(asked) for _, asked in groups)
    for name, asked in groups:
        for kind, given in asked:
            key = f"views/1/{kind}?" + "&".join(f"{k}={given[k]}" for k in sorted(given))
            if key in answers:
                continue
            progress(len(answers), total)
            ask = Parameters({k: str(v) for k, v in given.items()})
            answer = (QUICK | SLOW)[kind](api, seen, ask, lambda *_: progress(len(answers), total))
            size += _size(answer)
            if size > cap:
                size -= _size(answer)
                left_out.append(said[name])
                break
            answers[key] = answer
    left_out.append(said["left_long" if _long(seen) else "left_rest"])
    if seen.parts:
        left_out.append(said["left_parts"])
    return {"answers": answers, "cap": cap, "left_out": left_out}


def _wanted(
    api: Api, seen: OpenView, at: tuple[int, int, int], lang: str
) -> Iterator[tuple[str, list[Asked]]]:
    """What the page may ask for, the most needed first, in groups that have a name."""
    view, (layer, head, token) = seen.view, at
    n, m, own = view.n, view.m, view.reading.source is None
    layers = range(view.model.sizes.n_layer)
    heads = [(one, other) for one in layers for other in range(view.model.sizes.n_head)]

    def of(name: str, layer: int, head: int, **rest: int | str) -> Asked:
        return name, {"layer": layer, "head": head, **rest}

    try:
        stream(api, seen, Parameters({"token": str(token)}), silent)
        told_apart = True
    except ArgumentError:  # the page says so without a record
        told_apart = False

    def told(layer: int, head: int, i: int) -> list[Asked]:
        asked = [of("story", layer, head, token=i, lang=lang), of("row", layer, head, i=i)]
        if told_apart:
            asked.append(("stream", {"token": i}))
        if int((view.row(layer, head, i).weights > 0).sum()) > 1:
            asked.append(of("row", layer, head, i=i, without=best(layer, head, i)))
        return [*asked, of("column", layer, head, j=i if own else best(layer, head, i))]

    def best(layer: int, head: int, i: int) -> int:
        return int(view.row(layer, head, i).weights.argmax())

    yield "left_token", told(*at)
    q0, k0 = (max(0, min(token - SIDE // 2, count - SIDE)) for count in (n, m))
    passes = [of("received", layer, head), of("links", layer, head, k=20)]
    if "distance" in view.statistics:
        passes.append(of("distances", layer, head))
    yield (
        "left_map",
        [
            *passes,
            of("thumbnail", layer, head, size=64),
            of("tile", layer, head, q0=q0, q1=min(n, q0 + SIDE), k0=k0, k1=min(m, k0 + SIDE)),
            *([of("thumbnail", layer, head, size=128)] if max(n, m) > SIDE else []),
        ],
    )
    if _long(seen):
        return
    yield "left_cells", [of("cell", layer, head, i=token, j=j) for j in range(min(m, SIDE))]
    grids: list[Asked] = [
        ("grid", {"statistic": name, **({"lang": lang} if name == "label" else {})})
        for name in view.statistics
    ]
    yield "left_grids", grids
    small: list[Asked] = [("thumbnail", {"layer": one, "size": 24}) for one in layers]
    yield "left_thumbnails", small + [of("thumbnail", *one, size=64) for one in heads]
    tokens = [part for i in range(n) for part in told(layer, head, i)]
    yield (
        "left_tokens",
        tokens if own else tokens + [of("column", layer, head, j=j) for j in range(m)],
    )
    yield "left_heads", [part for one in heads for part in told(*one, token)]


def _long(seen: OpenView) -> bool:
    return max(seen.view.n, seen.view.m) > LONG


def _size(answer: ServedModel | ViewAnswer | Answer) -> int:
    return len(json.dumps(answer))


# The page


def page(recorded: Recorded, start: str) -> str:
    """open.html with its style, its modules as one script, and the recorded answers."""
    folder = files("wqkv.explorer") / "page"
    text = (folder / "open.html").read_text("utf-8")
    links, sheets = zip(*((found[0], found[1]) for found in _STYLE.finditer(text)), strict=True)
    style = "".join((folder / name).read_text("utf-8") for name in sheets)
    script = joined(folder, "main.js")
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}';"
        " img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    data = json.dumps(recorded, allow_nan=False).replace("<", "\\u003c")
    changes = {
        "<html ": f'<html data-start="{escape(start)}" ',
        "<head>\n": f'<head>\n<meta http-equiv="Content-Security-Policy" content="{policy}">\n',
        "\n".join(links): f"<style>{style}</style>",
        '<script type="module" src="page/main.js"></script>': (
            f'<script type="application/json" id="recorded">{data}</script>\n'
            f'<script type="module">{script}</script>'
        ),
    }
    for old, new in changes.items():
        assert text.count(old) == 1, f"open.html has {old!r} {text.count(old)} times"
        text = text.replace(old, new)
    return text


def joined(folder: Traversable, name: str) -> str:
    """A module after all that it imports, as one script: each module once, no imports left.

    Args:
        folder: where the page's modules are, in folders of their own.
        name: the module's path in it, such as "main.js"; what it imports stands relative to it.
    """
    begun: set[str] = set()
    parts: list[str] = []

    def add(name: str) -> None:
        if name not in begun:  # two modules may import each other
            begun.add(name)
            text = (folder / name).read_text("utf-8")
            for inner in _IMPORT.findall(text):
                add(posixpath.normpath(posixpath.join(posixpath.dirname(name), inner)))
            parts.append(_EXPORT.sub("", _IMPORT.sub("", text)))

    add(name)
    return "".join(parts)


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
