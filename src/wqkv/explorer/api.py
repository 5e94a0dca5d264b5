"""What the explorer's page may ask for, as plain data: every number is one that View gives.

Nothing here knows of HTTP: the server sends these answers, an exported page has them inside.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from wqkv import __version__
from wqkv.draw import steps
from wqkv.draw.to_json import plain
from wqkv.errors import ArgumentError
from wqkv.explorer.jobs import Refused
from wqkv.explorer.request import Ask
from wqkv.study import one_token as story
from wqkv.study.callbacks import Progress as Step
from wqkv.study.heads import TEXT, Heads, heads, label_grid, probe, read
from wqkv.study.model import OpenModel
from wqkv.study.pair import OpenPair
from wqkv.study.part import ModelPart
from wqkv.study.tokens import TokenizedText
from wqkv.study.view import View, edges
from wqkv.study.whatif import NextToken, generate, what_if

#: The most weights of one side of a tile.
SIDE = 256
#: So many views are held, and so many bytes of them; the one asked least lately goes first.
VIEWS, HELD = 8, 2**32
#: Of a text of more words a row is its STRONGEST weights, and a curve of the means of CURVE blocks.
LONG, STRONGEST, CURVE = 4096, 512, 1024
#: The lines that reproduce a number spell out a text of up to so many characters.
SPELLED = 2000

Answer = dict[str, Any]


@dataclass(frozen=True)
class Seen:
    """A view, the link it opens at, how long it took, and the lines of Python that make it.

    `parts` are the attentions of a model of two texts by name, of which this is one; `target` is
    what it was told to write.
    """

    view: View
    first: story.ClearLink
    seconds: float
    python: str
    parts: dict[str, Seen] = field(default_factory=dict)
    target: str | None = None

    def says(self, *lines: str) -> str:
        """The lines that reproduce an answer; the last one is its value."""
        return "\n".join([self.python, *lines])

    @property
    def bytes(self) -> int:
        return sum(seen.view.bytes for seen in self.parts.values()) or self.view.bytes


class Api:
    """One model, the texts that are open in it, and every answer about them.

    Args:
        source: what `open_model` was called with.
    """

    def __init__(self, model: OpenModel | OpenPair, source: str | None = None) -> None:
        self.model = model
        self._views: OrderedDict[str, Seen] = OrderedDict()
        self._lock = threading.Lock()
        self._labels: Heads | None = None
        name = "" if source is None else repr(source)
        file, call = ("pair", "open_pair") if self.pair else ("model", "open_model")
        self.opening = f"from wqkv.study.{file} import {call}\nmodel = {call}({name})"

    @property
    def pair(self) -> bool:
        """Whether the model reads one text and writes another."""
        return isinstance(self.model, OpenPair)

    def facts(self) -> Answer:
        """The model, in numbers; one of two texts has three `parts`, and says those of "cross"."""
        model, parts = self.model, {}
        if isinstance(model, OpenPair):
            parts = model.parts
            shown, sizes = parts["cross"], 'model.parts["cross"].sizes'
        else:
            shown, sizes = model, "model.sizes"
        return {
            "name": model.name,
            "family": model.family,
            **_sizes(shown),
            "dtype": str(next(model.model.parameters()).dtype).removeprefix("torch."),
            "longest": model.longest,
            "generates": model.speaker is not None,
            "parts": {name: _sizes(part) for name, part in parts.items()},
            "version": __version__,
            "python": f"{self.opening}\n{sizes}",
        }

    # Views

    def fits(self, target: str | None) -> None:
        """Refuse a second text where the model writes none."""
        if target is not None and not isinstance(self.model, OpenPair):
            raise ArgumentError(
                f"{self.model.name} writes no second text, and there is a target.\nPass one text."
            )

    def open(self, text: str, step: Step, target: str | None = None) -> Seen:
        """Read a text, prove every layer, and find the clearest link.

        Args:
            target: what a model of two texts has written; None lets it write.
        """
        self.fits(target)
        if isinstance(self.model, OpenPair):
            return self._open_pair(self.model, text, step, target)
        begun = time.monotonic()
        links: list[story.ClearLink] = []
        step(0, self.model.sizes.n_layer)
        view = self.model.view(text, self._each(links, step))
        return Seen(view, _first(links), time.monotonic() - begun, self.python(text))

    def _open_pair(self, model: OpenPair, text: str, step: Step, target: str | None) -> Seen:
        begun = time.monotonic()
        links: dict[str, list[story.ClearLink]] = {part: [] for part in model.parts}

        def each(view: View, layer: int) -> None:
            links[view.model.part].append(story.clearest_link(view, layer))

        views = model.views(text, target, step, each)
        seconds = time.monotonic() - begun
        parts: dict[str, Seen] = {}
        for name, view in views.items():
            python = f"{self.python(text, target)}\nview = views[{name!r}]"
            parts[name] = Seen(view, _first(links[name]), seconds, python, parts, target)
        return parts["cross"]

    def python(self, text: str, target: str | None = None) -> str:
        """The lines that read a text."""
        given = _spelled("text", text)
        if not self.pair:
            return f"{self.opening}\n{given}\nview = model.view(text)"
        if target is None:
            return f"{self.opening}\n{given}\nviews = model.views(text)"
        given += f"\n{_spelled('target', target)}"
        return f"{self.opening}\n{given}\nviews = model.views(text, target)"

    def what_if(
        self, seen: Seen, off: list[tuple[int, int]], edits: dict[int, str], step: Step
    ) -> Answer:
        """The text with heads switched off and words changed, before and after."""
        links: list[story.ClearLink] = []
        begun, count = time.monotonic(), seen.view.model.sizes.n_layer
        if off:  # no view comes of it, so no link is looked for
            found = what_if(seen.view, off, edits, lambda _, layer: step(layer + 1, count))
        else:
            found = what_if(seen.view, off, edits, self._each(links, step))
        lines = "from wqkv.study.whatif import what_if"
        call = f"what_if(view, {off}, {edits})"
        opened = None
        if found.view is not None:
            made = seen.says(lines, f"view = {call}.view")
            opened = self.keep(Seen(found.view, _first(links), time.monotonic() - begun, made))
        return {
            "before": _outcome(found.before, 1.0),
            "after": _outcome(found.after, found.similarity),
            "change": plain(found.change),
            "layers": plain(found.layers),
            "tokens": found.tokens,
            "view": opened,
            "python": seen.says(lines, call),
        }

    def generate(self, seen: Seen, count: int, step: Step) -> Answer:
        """What the model writes after the text."""
        links: list[story.ClearLink] = []
        begun, layers = time.monotonic(), seen.view.model.sizes.n_layer
        total = count + layers
        each = self._each(links, lambda done, _: step(count + done, total))
        found = generate(seen.view, count, lambda done, _: step(done, total), each)
        lines, call = "from wqkv.study.whatif import generate", f"generate(view, {count})"
        made = seen.says(lines, f"view = {call}.view")
        seconds = time.monotonic() - begun
        return {
            "tokens": found.view.reading.tokens,
            "steps": plain(found.steps),
            "view": self.keep(Seen(found.view, _first(links), seconds, made)),
            "python": seen.says(lines, call),
        }

    def _each(self, links: list[story.ClearLink], step: Step) -> Callable[[View, int], None]:
        """What is done after every layer of a reading: find its clearest link, tell of it."""

        def each(view: View, layer: int) -> None:
            links.append(story.clearest_link(view, layer))
            step(layer + 1, view.model.sizes.n_layer)

        return each

    def keep(self, seen: Seen) -> str:
        """The name of a view from now on."""
        with self._lock:
            name = secrets.token_urlsafe(6)
            self._views[name] = seen
            while len(self._views) > 1 and (
                len(self._views) > VIEWS or sum(s.bytes for s in self._views.values()) > HELD
            ):
                self._views.popitem(last=False)
        return name

    def has(self, name: str) -> bool:
        """Whether a view is held still."""
        with self._lock:
            return name in self._views

    def seen(self, name: str) -> Seen:
        """A view by its name, to which ".encoder" may be added, or another part's name."""
        name, _, part = name.partition(".")
        with self._lock:
            if name not in self._views:
                raise Refused(404, "This text is not open any more.", "Open it again.")
            self._views.move_to_end(name)
            seen = self._views[name]
        if part and part not in seen.parts:
            parts = ", ".join(seen.parts) or "none"
            wrong = f"There is no part {part[:40]!r} of this text (its parts: {parts})."
            raise Refused(404, wrong, "Load the page again.")
        return seen.parts[part] if part else seen

    def about(self, seen: Seen) -> Answer:
        """A view: its words, and the proof of every layer."""
        view, reading = seen.view, seen.view.reading
        _, layer, head, token = seen.first
        return {
            **_words(reading),
            "n": view.n,
            "part": view.model.part if seen.parts else None,
            "parts": list(seen.parts),
            "target": seen.target,
            "read": (seen.parts["encoder"].view if seen.parts else view).reading.sentence,
            "keys": None if reading.source is None else _words(reading.source),
            "statistics": view.statistics,
            "proofs": plain([view.proof(i) for i in range(view.model.sizes.n_layer)]),
            "first": {"layer": layer, "head": head, "token": token},
            "engine": view.layer(layer).engine(),
            "seconds": seen.seconds,
            "python": seen.says(f"view.proof({layer})"),
        }

    # Answers about a view; the slow ones tell `step` how far they are

    def story(self, seen: Seen, ask: Ask, step: Step) -> Answer:
        layer, head, token = ask.wholes("layer", "head", "token")
        lang = ask.choice("lang", "en", *steps.LANGUAGES)
        told = story.token_story(seen.view, layer, head, token)
        found = plain(told)
        found["ranked"] = [
            {"token": told.keys[j], "position": j, "weight": told.weights[j].item()}
            for j in told.ranked[:64]
        ]
        if told.source is not None:  # the page has its words
            found["source"] = {"token": told.source.token, "x": plain(told.source.x)}
        long = ("tokens", "special", "sentence", "scores", "weights")
        for name in ("map", *(long if max(seen.view.n, seen.view.m) > LONG else ())):
            del found[name]
        return {
            **found,
            "steps": plain(steps.tell(told, lang=lang)),
            "proofSentence": steps.prove(told, lang),
            "python": seen.says(
                "from wqkv.study.one_token import token_story",
                f"token_story(view, {layer}, {head}, {token})",
            ),
        }

    def cell(self, seen: Seen, ask: Ask, step: Step) -> Answer:
        at = ask.wholes("layer", "head", "i", "j")
        return {**plain(seen.view.cell(*at)), "python": seen.says(f"view.cell{at}")}

    def row(self, seen: Seen, ask: Ask, step: Step) -> Answer:
        at = ask.wholes("layer", "head", "i")
        row = seen.view.row(*at)
        found = plain(row)
        if seen.view.m > LONG:
            top = row.weights.topk(STRONGEST).indices
            found["strongest"] = [
                {"index": j, "weight": row.weights[j].item(), "effect": row.effects[j].item()}
                for j in top.tolist()
            ]
            found["curve"] = _means(row.weights)
            del found["weights"], found["effects"]
        return {**found, "python": seen.says(f"view.row{at}")}

    def column(self, seen: Seen, ask: Ask, step: Step) -> Answer:
        at = ask.wholes("layer", "head", "j")
        return {**plain(seen.view.column(*at)), "python": seen.says(f"view.column{at}")}

    def tile(self, seen: Seen, ask: Ask, step: Step) -> Answer:
        at = ask.wholes("layer", "head", "q0", "q1", "k0", "k1")
        _, _, q0, q1, k0, k1 = at
        if max(q1 - q0, k1 - k0) > SIDE:
            wrong = f"A tile of {q1 - q0} x {k1 - k0} weights is too large."
            raise Refused(413, wrong, f"Pass at most {SIDE} x {SIDE}, or take a thumbnail.")
        return {"values": plain(seen.view.tile(*at)), "python": seen.says(f"view.tile{at}")}

    def thumbnail(self, seen: Seen, ask: Ask, step: Step) -> Answer:
        layer, size = ask.whole("layer"), ask.whole("size", 64)
        if not 1 <= size <= 256:
            raise Refused(413, f"A side of {size} blocks cannot be drawn.", "Pass 1 to 256.")
        head = ask.whole("head") if ask.has("head") else None
        found = seen.view.thumbnail(layer, head, size)
        return {
            "edges": found.edges,
            "keys": found.keys,
            "values" if ask.has("head") else "heads": plain(found.values),
            "python": seen.says(f"view.thumbnail({layer}, {head}, {size})"),
        }

    def received(self, seen: Seen, ask: Ask, step: Step) -> Answer:
        layer, head = ask.wholes("layer", "head")
        found = seen.view.received(layer, head, step)
        answer = {"values": plain(found)} if seen.view.m <= LONG else _means(found)
        return {**answer, "python": seen.says(f"view.received({layer}, {head})")}

    def distances(self, seen: Seen, ask: Ask, step: Step) -> Answer:
        layer, head = ask.wholes("layer", "head")
        return {
            **plain(seen.view.distances(layer, head, step)),
            "python": seen.says(f"view.distances({layer}, {head})"),
        }

    def links(self, seen: Seen, ask: Ask, step: Step) -> Answer:
        (layer, head), k = ask.wholes("layer", "head"), ask.whole("k", 20)
        found = seen.view.links(layer, head, k, step)
        return {"links": plain(found), "python": seen.says(f"view.links({layer}, {head}, {k})")}

    def grid(self, seen: Seen, ask: Ask, step: Step) -> Answer:
        statistic = ask.choice("statistic", "entropy", *seen.view.statistics)
        if statistic != "label":
            found = seen.view.grid(statistic, step)
            return {**plain(found), "python": seen.says(f"view.grid({statistic!r})")}
        lang = ask.choice("lang", "en", *steps.LANGUAGES)
        labels, python = self._label_grid(seen, step)
        return {
            **plain(label_grid(labels)),
            "evidence": [[steps.evidence(head, lang) for head in row] for row in labels.table],
            "source": labels.source,
            "python": python,
        }

    def _label_grid(self, seen: Seen, step: Step) -> tuple[Heads, str]:
        """What every head does, and the lines that find it.

        Of a model of one text it is a matter of the model; of two, what they do in this text.
        """
        finds = "from wqkv.study.heads import"
        if isinstance(self.model, OpenPair):
            view, layers = seen.view, range(seen.view.model.sizes.n_layer)
            maps = (view.layer(i).whole for i in layers)
            found = heads(maps, view.reading.tokens, view.reading.special)
            lines = [
                f"{finds} heads, label_grid",
                f"maps = [view.layer(i).whole for i in {layers}]",
                "label_grid(heads(maps, view.reading.tokens, view.reading.special))",
            ]
            return found, seen.says(*lines)
        causal = self.model.layer(0).mask.by_position
        if self._labels is None and causal:
            self._labels = probe(self.model, progress=step)
        elif self._labels is None:
            self._labels = read(self.model, [TEXT], "a built-in text", step)
        call = "probe(model)" if causal else "read(model, [TEXT])"
        lines = [f"{finds} TEXT, label_grid, probe, read", f"label_grid({call})"]
        return self._labels, "\n".join([self.opening, *lines])


#: The answers about a view by name, and those that may take long: a pass or more over a map.
QUICK: dict[str, Callable[[Api, Seen, Ask, Step], Answer]] = {
    "story": Api.story,
    "cell": Api.cell,
    "row": Api.row,
    "tile": Api.tile,
}
SLOW: dict[str, Callable[[Api, Seen, Ask, Step], Answer]] = {
    "column": Api.column,
    "thumbnail": Api.thumbnail,
    "received": Api.received,
    "distances": Api.distances,
    "links": Api.links,
    "grid": Api.grid,
}


def _first(links: list[story.ClearLink]) -> story.ClearLink:
    return max(links, key=lambda link: link.clearness)


def _outcome(top: tuple[NextToken, ...] | None, similarity: float | None) -> Answer:
    return {"similarity": plain(similarity)} if top is None else {"top": plain(top)}


def _means(line: Tensor) -> Answer:
    """A line of numbers as the means of CURVE blocks."""
    bounds = edges(len(line), CURVE)
    of_block = torch.repeat_interleave(torch.tensor(bounds, device="cpu").diff())
    sums = torch.zeros(CURVE, dtype=torch.float64, device="cpu").index_add_(
        0, of_block, line.double()
    )
    return {"edges": bounds, "values": plain(sums / torch.tensor(bounds, device="cpu").diff())}


def _words(tokens: TokenizedText) -> Answer:
    """A text and its words."""
    return {
        "text": tokens.sentence,
        "tokens": tokens.tokens,
        "special": tokens.special,
        "spans": tokens.spans,
    }


def _sizes(part: ModelPart) -> Answer:
    """What the layers of a model, or of a part of it, are."""
    ours = part.layer(0)
    return {
        **part.sizes._asdict(),
        "d_v": ours.d_v,
        "causal": ours.mask.by_position,
        "position": "" if ours.position is None else repr(ours.position),
        "scale": ours.d_k**-0.5 if ours.scale is None else ours.scale,
        "softcap": ours.softcap,
        "sinks": ours.sinks is not None,
    }


def _spelled(name: str, text: str) -> str:
    """The line of Python that has a text."""
    if len(text) <= SPELLED:
        return f"{name} = {text!r}"
    what = f"  # the {len(text):,} characters that were opened"
    return f'from pathlib import Path\n{name} = Path("{name}.txt").read_text("utf-8"){what}'
