"""What the explorer's page may ask for, as plain data: every number is one that View gives.

Nothing here knows of HTTP: the server sends these answers, an exported page has them inside.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wqkv import __version__
from wqkv.look import story
from wqkv.look.heads import TEXT, Heads, probe, read
from wqkv.look.models import OpenModel, Step, Words
from wqkv.look.view import STATISTICS, View, labelled
from wqkv.look.whatif import Next, generate, what_if
from wqkv.show import steps
from wqkv.show.asks import Ask
from wqkv.show.data import plain
from wqkv.show.jobs import Refused

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
    """A view, the link it opens at, how long it took, and the lines of Python that make it."""

    view: View
    first: story.Clear
    seconds: float
    python: str

    def says(self, *lines: str) -> str:
        """The lines that reproduce an answer; the last one is its value."""
        return "\n".join([self.python, *lines])


class Api:
    """One model, the texts that are open in it, and every answer about them.

    Args:
        source: what `open_model` was called with.
    """

    def __init__(self, model: OpenModel, source: str | None = None) -> None:
        self.model = model
        self._views: OrderedDict[str, Seen] = OrderedDict()
        self._lock = threading.Lock()
        self._labels: Heads | None = None
        name = "" if source is None else repr(source)
        self.opening = f"from wqkv.look.models import open_model\nmodel = open_model({name})"

    def facts(self) -> Answer:
        """The model, in numbers."""
        model, ours = self.model, self.model.layer(0)
        return {
            "name": model.name,
            "family": model.family,
            **model.sizes,
            "d_v": ours.d_v,
            "causal": ours.mask.by_position,
            "position": "" if ours.position is None else repr(ours.position),
            "scale": ours.d_k**-0.5 if ours.scale is None else ours.scale,
            "softcap": ours.softcap,
            "sinks": ours.sinks is not None,
            "dtype": str(next(model.model.parameters()).dtype).removeprefix("torch."),
            "longest": model._longest(),
            "generates": model.speaker is not None,
            "version": __version__,
            "python": f"{self.opening}\nmodel.sizes",
        }

    # Views

    def open(self, text: str | Words, step: Step, python: str) -> Seen:
        """Read a text, prove every layer, and find the clearest link."""
        begun = time.monotonic()
        links: list[story.Clear] = []
        step(0, self.model.sizes["n_layer"])
        view = View.read(self.model, text, self._each(links, step))
        return Seen(view, _first(links), time.monotonic() - begun, python)

    def python(self, text: str) -> str:
        """The lines that read a text."""
        given = f"text = {text!r}"
        if len(text) > SPELLED:
            what = f"  # the {len(text):,} characters that were opened"
            given = f'from pathlib import Path\ntext = Path("text.txt").read_text("utf-8"){what}'
        reads = "from wqkv.look.view import View"
        return f"{self.opening}\n{reads}\n{given}\nview = View.read(model, text)"

    def what_if(
        self, seen: Seen, off: list[tuple[int, int]], edits: dict[int, str], step: Step
    ) -> Answer:
        """The text with heads switched off and words changed, before and after."""
        links: list[story.Clear] = []
        begun, count = time.monotonic(), self.model.sizes["n_layer"]
        if off:  # no view comes of it, so no link is looked for
            found = what_if(seen.view, off, edits, lambda _, layer: step(layer + 1, count))
        else:
            found = what_if(seen.view, off, edits, self._each(links, step))
        lines = "from wqkv.look.whatif import what_if"
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
            "words": found.words,
            "view": opened,
            "python": seen.says(lines, call),
        }

    def generate(self, seen: Seen, count: int, step: Step) -> Answer:
        """What the model writes after the text."""
        links: list[story.Clear] = []
        begun, layers = time.monotonic(), self.model.sizes["n_layer"]
        total = count + layers
        each = self._each(links, lambda done, _: step(count + done, total))
        found = generate(seen.view, count, lambda done, _: step(done, total), each)
        lines, call = "from wqkv.look.whatif import generate", f"generate(view, {count})"
        made = seen.says(lines, f"view = {call}.view")
        seconds = time.monotonic() - begun
        return {
            "words": found.view.reading.words,
            "steps": plain(found.steps),
            "view": self.keep(Seen(found.view, _first(links), seconds, made)),
            "python": seen.says(lines, call),
        }

    def _each(self, links: list[story.Clear], step: Step) -> Callable[[View, int], None]:
        """What is done after every layer of a reading: find its clearest link, tell of it."""

        def each(view: View, layer: int) -> None:
            links.append(story.clearest(view, layer))
            step(layer + 1, self.model.sizes["n_layer"])

        return each

    def keep(self, seen: Seen) -> str:
        """The name of a view from now on."""
        with self._lock:
            name = secrets.token_urlsafe(6)
            self._views[name] = seen
            while len(self._views) > 1 and (
                len(self._views) > VIEWS or sum(s.view.bytes for s in self._views.values()) > HELD
            ):
                self._views.popitem(last=False)
        return name

    def has(self, name: str) -> bool:
        """Whether a view is held still."""
        with self._lock:
            return name in self._views

    def seen(self, name: str) -> Seen:
        with self._lock:
            if name not in self._views:
                raise Refused(404, "This text is not open any more.", "Open it again.")
            self._views.move_to_end(name)
            return self._views[name]

    def about(self, seen: Seen) -> Answer:
        """A view: its words, and the proof of every layer."""
        view, reading = seen.view, seen.view.reading
        _, layer, head, word = seen.first
        return {
            "text": reading.sentence,
            "n": view.n,
            "words": reading.words,
            "special": reading.special,
            "spans": reading.spans,
            "proofs": plain([view.proof(i) for i in range(self.model.sizes["n_layer"])]),
            "first": {"layer": layer, "head": head, "word": word},
            "engine": view.layer(layer).engine(),
            "seconds": seen.seconds,
            "python": seen.says(f"view.proof({layer})"),
        }

    # Answers about a view; the slow ones tell `step` how far they are

    def story(self, seen: Seen, ask: Ask, step: Step) -> Answer:
        layer, head, word = ask.wholes("layer", "head", "word")
        lang = ask.word("lang", "en", *steps.LANGUAGES)
        told = story.of(seen.view, layer, head, word)
        found = plain(told)
        found["ranked"] = [
            {"word": told.words[j], "position": j, "weight": told.weights[j].item()}
            for j in told.ranked[:64]
        ]
        long = ("words", "special", "sentence", "scores", "weights")
        for name in ("map", *(long if seen.view.n > LONG else ())):
            del found[name]
        return {
            **found,
            "steps": plain(steps.tell(told, lang=lang)),
            "proofSentence": steps.prove(told, lang),
            "python": seen.says(
                "from wqkv.look import story", f"story.of(view, {layer}, {head}, {word})"
            ),
        }

    def cell(self, seen: Seen, ask: Ask, step: Step) -> Answer:
        at = ask.wholes("layer", "head", "i", "j")
        return {**plain(seen.view.cell(*at)), "python": seen.says(f"view.cell{at}")}

    def row(self, seen: Seen, ask: Ask, step: Step) -> Answer:
        at = ask.wholes("layer", "head", "i")
        row = seen.view.row(*at)
        found = plain(row)
        if seen.view.n > LONG:
            top = row.weights.topk(STRONGEST).indices
            found["strongest"] = [
                {"index": j, "weight": row.weights[j].item(), "effect": row.effects[j].item()}
                for j in top.tolist()
            ]
            found["curve"] = _means(seen.view, row.weights)
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
            "values" if ask.has("head") else "heads": plain(found.values),
            "python": seen.says(f"view.thumbnail({layer}, {head}, {size})"),
        }

    def received(self, seen: Seen, ask: Ask, step: Step) -> Answer:
        layer, head = ask.wholes("layer", "head")
        found = seen.view.received(layer, head, step)
        answer = {"values": plain(found)} if seen.view.n <= LONG else _means(seen.view, found)
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
        statistic = ask.word("statistic", "entropy", *STATISTICS)
        if statistic != "label":
            found = seen.view.grid(statistic, step)
            return {**plain(found), "python": seen.says(f"view.grid({statistic!r})")}
        causal = self.model.layer(0).mask.by_position
        if self._labels is None:
            source = "a built-in text"
            self._labels = (
                probe(self.model, progress=step)
                if causal
                else read(self.model, [TEXT], source, step)
            )
        call = "probe(model)" if causal else "read(model, [TEXT])"
        lines = [
            "from wqkv.look.heads import TEXT, probe, read",
            "from wqkv.look.view import labelled",
            f"labelled({call})",
        ]
        return {
            **plain(labelled(self._labels)),
            "source": self._labels.source,
            "python": "\n".join([self.opening, *lines]),
        }


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


def _first(links: list[story.Clear]) -> story.Clear:
    return max(links, key=lambda link: link.clearness)


def _outcome(top: tuple[Next, ...] | None, similarity: float | None) -> Answer:
    return {"similarity": plain(similarity)} if top is None else {"top": plain(top)}


def _means(view: View, line: Tensor) -> Answer:
    """A line of numbers as the means of CURVE blocks."""
    edges = view.edges(CURVE)
    of_block = torch.repeat_interleave(torch.tensor(edges).diff())
    sums = torch.zeros(CURVE, dtype=torch.float64).index_add_(0, of_block, line.double())
    return {"edges": edges, "values": plain(sums / torch.tensor(edges).diff())}
