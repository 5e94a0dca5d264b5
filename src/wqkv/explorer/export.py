"""The explorer as one file: the page, with the numbers inside that it computes its answers from."""

from __future__ import annotations

import base64
import hashlib
import json
import posixpath
import re
from collections.abc import Iterator, Sequence
from functools import partial
from html import escape
from importlib.resources import files
from importlib.resources.abc import Traversable

from wqkv.errors import ArgumentError
from wqkv.experiments.asked_of_heads import HEAD_QUESTIONS
from wqkv.explorer.api import Api, OpenView
from wqkv.explorer.cards import SMALL, questions_with_maps
from wqkv.explorer.matrices import THUMBNAIL
from wqkv.explorer.numbers import LONG, QUICK, SIDE, SLOW, stream
from wqkv.explorer.request import Parameters
from wqkv.explorer.saved_cards import saved_cards
from wqkv.explorer.saved_layer import MOST_TOKENS, pack, zipped
from wqkv.explorer.saved_matrices import pack_matrices
from wqkv.explorer.schema import Answer, PostedAnswer, Recorded, SavedPart, ServedModel, ViewAnswer
from wqkv.sentences import LANGUAGES, in_language
from wqkv.sentences.reading import LEFT_OUT
from wqkv.study.callbacks import Progress, silent
from wqkv.study.head_matrices import has_matrices

#: So many bytes of answers are recorded; the page says so, and what was left out.
CAP = 16 * 2**20

Asked = tuple[str, dict[str, int | str]]  # the name of an answer, and its parameters
Recordable = ServedModel | ViewAnswer | Answer | PostedAnswer
LeftOut = tuple[str, dict[str, str]]  # the name of a sentence of LEFT_OUT, and what it says
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
        progress: is told how many layers, or answers of a long text, are recorded.
    """
    layer, head, token = at
    start = f"layer={layer}&head={head}&token={token}&lang={lang}"
    return page(record(api, seen, at, lang, progress, cap), start)


class _Kept:
    """What is recorded so far, of at most `cap` bytes; and the names of what did not fit."""

    def __init__(self, cap: int) -> None:
        self.answers: dict[str, Recordable] = {}
        self.parts: dict[str, SavedPart] = {}
        self.cap, self.size, self.left_out = cap, 0, list[LeftOut]()

    def fits(self, what: str | Recordable) -> bool:
        """Whether there is room for one more; then it counts."""
        size = len(what if isinstance(what, str) else json.dumps(what))
        fits = self.size + size <= self.cap
        self.size += size if fits else 0
        return fits

    def add(self, address: str, answer: Recordable) -> bool:
        """Record an answer, if it fits."""
        fits = self.fits(answer)
        if fits:
            self.answers[address] = answer
        return fits

    def leave_out(self, name: str, part: str, layers: Sequence[str | None]) -> None:
        """Say which layers of a part are None."""
        if left := _runs([at for at, layer in enumerate(layers) if layer is None]):
            which = f"{name}_{part}" if part else name
            self.left_out.append((which, {"layers": left}))


def record(
    api: Api, seen: OpenView, at: tuple[int, int, int], lang: str, progress: Progress, cap: int
) -> Recorded:
    """What the page computes its answers from; of a long text answers. As much as `cap` bytes."""
    kept = _Kept(cap)
    short = max(seen.view.n, seen.view.m) <= MOST_TOKENS
    if short:
        views = {f"1.{name}": one for name, one in seen.parts.items()} or {"1": seen}
        start = f"1.{seen.view.model.part}" if seen.parts else "1"
        abouts = {"views/1": api.about(seen.parts.get(api.model.main, seen))}
        abouts |= {f"views/{name}": api.about(one) for name, one in views.items()}
    else:
        views, start, abouts = {"1": seen}, "1", {"views/1": {**api.about(seen), "parts": []}}
    kept.answers = {"model": {**api.facts(), "start": {"view": start}}, **abouts}
    kept.size = sum(len(json.dumps(answer)) for answer in kept.answers.values())
    for name, one in views.items():
        for key, answer in list(one.asked.items()):  # the worker may add to them
            kept.add(f"views/{name}/{key}", answer)
    if short:
        if has_matrices(seen.view.model.layer(at[0])):  # those of the open head are exact
            exact: Asked = ("matrices", {"layer": at[0], "head": at[1]})
            kept.add(_address(start, exact), _answer(api, seen, exact, silent))
        _keep_layers(api, views, at[0], progress, kept)
    else:
        _keep_answers(api, seen, at, lang, progress, kept)
        kept.left_out.append(("left_long" if _long(seen) else "left_rest", {}))
        if seen.parts:
            kept.left_out.append(("left_parts", {}))
    said = {one: in_language(LEFT_OUT, one) for one in LANGUAGES}
    left_out: dict[str, Sequence[str]] = {
        one: [said[one][name].format(**facts) for name, facts in kept.left_out] for one in said
    }
    return {"answers": kept.answers, "parts": kept.parts, "cap": cap, "left_out": left_out}


# A text whose layers the page computes with


def _keep_layers(
    api: Api, views: dict[str, OpenView], near: int, progress: Progress, kept: _Kept
) -> None:
    """The layers of every attention of the model, those that are near to the open one first."""
    total, done = sum(one.view.model.sizes.n_layer for one in views.values()), 0

    def still(done: int) -> Progress:
        return partial(_still, progress, done, total)

    for name, one in views.items():
        for asked in _not_computed(one):
            kept.add(_address(name, asked), _answer(api, one, asked, still(done)))
        count = one.view.model.sizes.n_layer
        layers: list[str | None] = [None] * count
        for layer in _from(near, count):
            progress(done, total)
            packed = pack(one, layer)
            if not kept.fits(packed):
                break
            layers[layer], done = packed, done + 1
        _, _, part = name.partition(".")
        streams = _streams(api, one, still(done))
        kept.parts[part] = {
            "layers": layers,
            "matrices": [None] * count,
            "streams": streams if streams is not None and kept.fits(streams) else None,
            "cards": saved_cards(own=one.view.reading.source is None),
            "python": one.python,
        }
        kept.leave_out("left_layers", part, layers)
        if streams is not None and kept.parts[part]["streams"] is None:
            kept.left_out.append(("left_streams", {}))
    for name, one in views.items():  # pictures stand behind all that is computed with
        _, _, part = name.partition(".")
        kept.parts[part]["matrices"] = _keep_matrices(one, near, still(done), kept)
        if has_matrices(one.view.model.layer(0)):
            kept.leave_out("left_matrices", part, kept.parts[part]["matrices"])


def _keep_matrices(seen: OpenView, near: int, progress: Progress, kept: _Kept) -> list[str | None]:
    """The pictures of the matrices of every layer whose heads have such."""
    found: list[str | None] = [None] * seen.view.model.sizes.n_layer
    for layer in _from(near, len(found)):
        if has_matrices(seen.view.model.layer(layer)):
            progress(0, 0)
            packed = pack_matrices(seen.view, layer)
            if not kept.fits(packed):
                break
            found[layer] = packed
    return found


def _streams(api: Api, seen: OpenView, progress: Progress) -> str | None:
    """What every token carries through the layers, packed; None where the parts are unknown."""
    asked: list[Asked] = [("stream", {"token": i}) for i in range(seen.view.n)]
    try:
        return zipped([_answer(api, seen, one, progress) for one in asked])
    except ArgumentError:  # the page says so without a record
        return None


def _from(near: int, count: int) -> list[int]:
    """The layers, those that are near to one of them first."""
    return sorted(range(count), key=lambda layer: abs(layer - near))


def _runs(numbers: list[int]) -> str:
    """Rising numbers as a person writes them.

    >>> _runs([0, 1, 2, 5, 7, 8])
    '0-2, 5, 7-8'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _not_computed(seen: OpenView) -> Iterator[Asked]:
    """The answers that page/computed does not have: one number of every head, and the labels."""
    for statistic in seen.view.statistics:
        if statistic == "label":
            for lang in LANGUAGES:
                yield "grid", {"statistic": statistic, "lang": lang}
        else:
            yield "grid", {"statistic": statistic}


def _address(view: str, asked: Asked) -> str:
    """The address that the page would ask for an answer."""
    kind, given = asked
    return f"views/{view}/{kind}?" + "&".join(f"{name}={given[name]}" for name in sorted(given))


def _still(progress: Progress, done: int, total: int, *_: int) -> None:
    """Say how much is recorded while one answer is made; it may be cancelled so."""
    progress(done, total)


def _answer(api: Api, seen: OpenView, asked: Asked, progress: Progress) -> Answer:
    kind, given = asked
    ask = Parameters({name: str(value) for name, value in given.items()})
    return (QUICK | SLOW)[kind](api, seen, ask, progress)


# A longer text, of which answers are recorded


def _keep_answers(
    api: Api,
    seen: OpenView,
    at: tuple[int, int, int],
    lang: str,
    progress: Progress,
    kept: _Kept,
) -> None:
    groups = list(_wanted(api, seen, at, lang))
    total = sum(len(asked) for _, asked in groups)
    for name, group in groups:
        for asked in group:
            done = len(kept.answers)
            progress(done, total)
            answer = _answer(api, seen, asked, partial(_still, progress, done, total))
            if not kept.add(_address("1", asked), answer):
                kept.left_out.append((name, {}))
                break


def _wanted(
    api: Api, seen: OpenView, at: tuple[int, int, int], lang: str
) -> Iterator[tuple[str, list[Asked]]]:
    """What the page may ask for, the most needed first, in groups that have a name."""
    view, (layer, head, token) = seen.view, at
    n, m, own = view.n, view.m, view.reading.source is None
    layers = range(view.model.sizes.n_layer)
    heads = [(one, other) for one in layers for other in range(view.model.sizes.n_head)]

    def of(name: str, layer: int, head: int, /, **rest: int | str) -> Asked:
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

    shown = [of("matrices", layer, head, **rest) for rest in ({}, {"size": THUMBNAIL})]
    yield "left_token", told(*at) + (shown if has_matrices(view.model.layer(layer)) else [])
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
    yield "left_questions", [of("experiment", *at[:2], name=q, token=token) for q in HEAD_QUESTIONS]
    if _long(seen):
        return
    yield (
        "left_changed",
        [
            of("changedmaps", *at[:2], name=q, token=token, size=SMALL)
            for q in questions_with_maps(api, seen, at)
        ],
    )
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
