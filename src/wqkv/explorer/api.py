"""One model and the texts that are open in it: they are read, changed and written on here.

What a view is asked is answered in numbers.py. Nothing here knows of HTTP: the server sends these
answers, and an exported page has them inside.
"""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, get_args
from weakref import WeakKeyDictionary

from torch import Tensor

from wqkv import __version__
from wqkv.draw import steps
from wqkv.draw.to_json import plain
from wqkv.effects.effect_maps import EffectMaps
from wqkv.errors import ArgumentError
from wqkv.experiments.asked_of_heads import HEAD_QUESTIONS
from wqkv.explorer import as_python
from wqkv.explorer.jobs import Refused
from wqkv.explorer.request import Sampling
from wqkv.explorer.schema import (
    Answer,
    GenerateAnswer,
    ModelAnswer,
    OutcomeFacts,
    PartFacts,
    PictureFacts,
    PostedAnswer,
    Tab,
    TextFacts,
    ViewAnswer,
    WhatIfAnswer,
    WindowFacts,
)
from wqkv.maps.png import color_url
from wqkv.sentences import LANGUAGES
from wqkv.sentences.errors import mistake
from wqkv.study.callbacks import Progress
from wqkv.study.generate import NextToken, generate, next_logits
from wqkv.study.heads import Heads, label_heads
from wqkv.study.hit_rate import known_of
from wqkv.study.model import OpenModel, TextModel
from wqkv.study.one_token import ClearLink, clearest_link, find_token
from wqkv.study.part import ModelPart, position_of, scale_of
from wqkv.study.tokens import TokenizedText
from wqkv.study.view import EachLayer, View
from wqkv.study.vision_language import OpenVisionLanguage
from wqkv.study.whatif import Change, what_if
from wqkv.study.windows import TextWindow

#: At most so many bytes of maps of effects are held, and always those asked for last.
EFFECTS = 2**30
#: At most so many views, and so many bytes, are held; the one asked for longest ago goes first.
VIEWS, HELD = 8, 2**32
#: Of a view the logits of the tokens after so many positions are held.
NEXT = 64
#: A text is read up to so many bytes of hidden states at once, and a longer one in windows.
STATES = 2**32
#: Of so many views the text is known after they were let go, so that it can be read again.
TEXTS = 64


class TextAsked(NamedTuple):
    """A text to read, with what goes with it; see `Api.open`."""

    text: str
    target: str | None = None
    pair: str | None = None
    picture: str | None = None


@dataclass(frozen=True)
class OpenView:
    """A view, the link it opens at, how many seconds it took, and the lines of Python that make it.

    `parts` are the attentions of a model of two texts by name, of which this is one; `target` is
    what it was told to write. `asked` are the answers for which the model ran, by the last part of
    their address: a saved page has them inside. `whole` is the text of which `window` was read; the
    text of a view that was changed or written on has no windows. `pair` is the second sentence of
    a pair, of which `whole` is the first, and `picture` what is read with the text.
    """

    view: View
    first: ClearLink
    seconds: float
    python: str
    parts: dict[str, OpenView] = field(default_factory=dict)
    target: str | None = None
    asked: dict[str, Answer | PostedAnswer] = field(default_factory=dict)
    whole: str = ""
    window: TextWindow | None = None
    pair: str | None = None
    picture: str | None = None

    def says(self, *lines: str) -> str:
        """The lines that reproduce an answer; the last one is its value."""
        return "\n".join([self.python, *lines])

    @property
    def bytes(self) -> int:
        """The memory of the view; of a model of two texts, of all its views together."""
        return sum(part.view.bytes for part in self.parts.values()) or self.view.bytes


class HeldEffects:
    """Maps of effects by the text and the number that is asked about; the oldest go first."""

    def __init__(self) -> None:
        self._maps: OrderedDict[Hashable, EffectMaps] = OrderedDict()

    def get(self, key: Hashable) -> EffectMaps | None:
        """The maps of a question, if they are held."""
        if key in self._maps:
            self._maps.move_to_end(key)
        return self._maps.get(key)

    def keep(self, key: Hashable, maps: EffectMaps) -> None:
        """Hold maps from now on, and let older ones go while there are too many bytes."""
        self._maps[key] = maps
        while len(self._maps) > 1 and sum(one.bytes for one in self._maps.values()) > EFFECTS:
            self._maps.popitem(last=False)


class Api:
    """One model, the texts that are open in it, and every answer about them.

    Args:
        source: what `open_model` was called with.
    """

    def __init__(self, model: TextModel, source: str | None = None) -> None:
        self.model = model
        self.opening = as_python.opening(model, source)
        self._views: OrderedDict[str, OpenView] = OrderedDict()
        self._texts: OrderedDict[str, TextAsked] = OrderedDict()
        self._lock = threading.Lock()
        self._labels: Heads | None = None
        # The logits of the token after a position of a view, the oldest first.
        self._next: WeakKeyDictionary[View, dict[int, Tensor]] = WeakKeyDictionary()
        self.effects = HeldEffects()  # touched by the one worker alone

    @property
    def one_text(self) -> bool:
        """Whether the model has one attention alone, in which a text looks at itself."""
        return len(self.model.parts) == 1

    def facts(self) -> ModelAnswer:
        """The model in numbers; see `ModelAnswer`."""
        model = self.model
        return ModelAnswer(
            **_sizes(model.parts[model.main]),
            name=model.name,
            family=model.family,
            dtype=str(next(model.model.parameters()).dtype).removeprefix("torch."),
            longest=model.longest,
            bits=model.bits,
            reads=model.reads,
            generates=model.speaker is not None,
            parts={} if self.one_text else {n: _sizes(part) for n, part in model.parts.items()},
            version=__version__,
            python=f"{self.opening}\nmodel.parts[{model.main!r}].sizes",
        )

    # Reading

    @property
    def room(self) -> int:
        """How many tokens of a text are read at once: what the model takes, in STATES bytes."""
        parts = [part.sizes for part in self.model.parts.values()]
        held = STATES // sum(4 * sizes.n_layer * sizes.d_model for sizes in parts)
        return min(self.model.longest or held, held)

    def open(
        self,
        text: str | TokenizedText,
        progress: Progress,
        target: str | None = None,
        window: int = 0,
        pair: str | None = None,
        picture: str | None = None,
    ) -> OpenView:
        """Read a text, prove every layer, and find the clearest link.

        Args:
            text: one that is cut into tokens already is read whole.
            target: the text that a model of two texts is taken to have written; None lets it write.
            window: which window is read of a text that is too long to be read at once.
            pair: a second sentence, which an encoder reads together with the text, and whole.
            picture: the file of one, or its data: address, that the model reads with the text.
        """
        begun = time.monotonic()
        whole, read = (text, text) if isinstance(text, str) else (text.sentence, text)
        here = self._window(text, window, pair or picture) if isinstance(text, str) else None
        if here is not None:
            read = whole[here.start : here.stop]
        links: dict[str, list[ClearLink]] = {part: [] for part in self.model.parts}

        def each(view: View, layer: int) -> None:
            links[view.model.part].append(clearest_link(view, layer))

        given = self._beside(read, pair, picture) if isinstance(read, str) else read
        views = self.model.views(given, target, progress, each)
        seconds = time.monotonic() - begun
        parts: dict[str, OpenView] = {}
        for name, view in views.items():
            lines = as_python.reading(whole, here, target, pair, picture)
            python = f"{self.opening}\n{lines}\nview = views[{name!r}]"
            known = known_of(self.model.name, whole)
            first = _clearest(links[name])
            if known is not None:  # an example begins where its rate is known
                token = find_token(view.reading, known.query)
                first = ClearLink(math.inf, known.layer, known.head, token)
            parts[name] = OpenView(
                view, first, seconds, python, parts, target, whole=whole, window=here, pair=pair,
                picture=picture,
            )  # fmt: skip
        main = parts[self.model.main]
        return replace(main, parts={}) if self.one_text else main

    def _window(self, text: str, number: int, beside: str | None) -> TextWindow | None:
        """Window `number` of a text; None if the text is read whole.

        A text is read whole if another text or a picture is read with it (`beside`).
        """
        windows: Sequence[TextWindow | None] = [None]
        if beside is None:
            windows = self.model.windows(text, self.room)
        if not 0 <= number < len(windows):
            count = len(windows)
            raise ArgumentError(mistake("no_window", number=number, count=count, last=count - 1))
        return windows[number]

    def _beside(self, text: str, pair: str | None, picture: str | None) -> str | TokenizedText:
        """A text with what is read with it, if there is something."""
        if picture is not None:
            if not isinstance(self.model, OpenVisionLanguage):
                raise ArgumentError(mistake("no_picture_beside", model=self.model.name))
            return self.model.tokens(text, picture)
        return text if pair is None else self._pair(text, pair)

    def _pair(self, first: str, second: str) -> TokenizedText:
        if not isinstance(self.model, OpenModel) or self.model.reads != "text":
            wrong = "two_texts_pair" if self.model.reads == "text" else "no_pair_read"
            raise ArgumentError(mistake(wrong, model=self.model.name))
        return self.model.tokens(first, second)

    # The model runs again

    def what_if(
        self, seen: OpenView, off: list[tuple[int, int]], edits: dict[int, str], progress: Progress
    ) -> WhatIfAnswer:
        """The text with heads switched off and tokens replaced, before and after.

        Args:
            off: (layer, head) of every head that is switched off.
            edits: what stands in place of some tokens, by their positions.
        """
        links: list[ClearLink] = []
        begun, count = time.monotonic(), seen.view.model.sizes.n_layer
        if off:  # no view comes of it, so no link is looked for
            found = what_if(seen.view, off, edits, lambda _, layer: progress(layer + 1, count))
        else:
            found = what_if(seen.view, off, edits, _keep_clearest(links, progress))
        call = f"wqkv.what_if(view, {off}, {edits})"
        opened = None
        if found.view is not None:
            python = seen.says(f"view = {call}.view")
            seconds = time.monotonic() - begun
            opened = self.keep(OpenView(found.view, _clearest(links), seconds, python))
        return changed_answer(found, opened, seen.says(call))

    def generate(
        self, seen: OpenView, count: int, drawn: Sampling | None, progress: Progress
    ) -> GenerateAnswer:
        """At most `count` tokens that the model writes after the text.

        Args:
            drawn: how tokens are drawn; None takes the likeliest each time.
        """
        links: list[ClearLink] = []
        begun, layers = time.monotonic(), seen.view.model.sizes.n_layer
        total = count + layers
        each = _keep_clearest(links, lambda done, _: progress(count + done, total))
        options = {} if drawn is None else drawn._asdict()
        logits: list[Tensor] = []

        def keep(_: Tensor, scores: Tensor) -> Tensor:
            logits.append(scores[0].clone())
            del logits[:-NEXT]
            return scores

        found = generate(
            seen.view, count, lambda done, _: progress(done, total), each,
            logits_processor=[keep], **options,
        )  # fmt: skip
        # The page asks for the distribution that each token was drawn from: no forward for these.
        last = found.view.n - 1
        self._next[found.view] = dict(zip(range(last - len(logits), last), logits, strict=True))
        given = "".join(f", {name}={value}" for name, value in options.items())
        call = f"wqkv.generate(view, {count}{given})"
        python, seconds = seen.says(f"view = {call}.view"), time.monotonic() - begun
        return GenerateAnswer(
            tokens=found.view.reading.shown,
            steps=plain(found.steps),
            view=self.keep(OpenView(found.view, _clearest(links), seconds, python)),
            python=seen.says(call),
        )

    def next_logits(self, seen: OpenView, position: int) -> Tensor:
        """The logits of the token after a position, kept for the next temperature to be tried."""
        known = self._next.setdefault(seen.view, {})
        if position not in known:
            known[position] = next_logits(seen.view, position)
            while len(known) > NEXT:
                del known[next(iter(known))]
        return known[position]

    # The views that are open

    def keep(self, seen: OpenView) -> str:
        """The name of a view from now on."""
        with self._lock:
            name = secrets.token_urlsafe(6)
            self._views[name] = seen
            if seen.whole:
                self._texts[name] = TextAsked(seen.whole, seen.target, seen.pair, seen.picture)
            while len(self._texts) > TEXTS:
                self._texts.popitem(last=False)
            # the newest one stays, however large it is, because the page is about to show it
            while len(self._views) > 1 and (
                len(self._views) > VIEWS or sum(one.bytes for one in self._views.values()) > HELD
            ):
                self._views.popitem(last=False)
        return name

    def text(self, name: str) -> TextAsked:
        """What a view was asked to read, even if it was let go since."""
        with self._lock:
            if name not in self._texts:
                raise Refused.because(404, mistake("text_closed"))
            return self._texts[name]

    def has(self, name: str) -> bool:
        """Whether a view is still held."""
        with self._lock:
            return name in self._views

    def seen(self, name: str) -> OpenView:
        """A view by its name, to which ".encoder" may be added, or another part's name."""
        name, _, part = name.partition(".")
        with self._lock:
            if name not in self._views:
                raise Refused.because(404, mistake("text_closed"))
            self._views.move_to_end(name)
            seen = self._views[name]
        if part and part not in seen.parts:
            parts = ", ".join(seen.parts) or "none"
            wrong = f"There is no part {part[:40]!r} of this text (its parts: {parts})."
            raise Refused(404, wrong, "Load the page again.")
        return seen.parts[part] if part else seen

    def about(self, seen: OpenView) -> ViewAnswer:
        """A view: its tokens, and the proof of every layer."""
        view, reading = seen.view, seen.view.reading
        _, layer, head, token = seen.first
        return ViewAnswer(
            **_text(reading),
            n=view.n,
            part=view.model.part if seen.parts else None,
            parts=list(seen.parts),
            target=seen.target,
            read=seen.whole or view.reading.sentence,
            pair=seen.pair,
            window=_window(seen.window),
            keys=None if reading.source is None else _text(reading.source),
            cannotRead={
                lang: steps.cannot_read(view.unread, view.model.name, lang) for lang in LANGUAGES
            },
            tabs=_tabs(reading, self.model),
            questions=list(HEAD_QUESTIONS),
            statistics=view.statistics,
            proofs=plain([view.proof(i) for i in range(view.model.sizes.n_layer)]),
            first={"layer": layer, "head": head, "token": token},
            engine=view.layer(layer).engine(),
            seconds=seen.seconds,
            python=seen.says(f"view.proof({layer})"),
        )

    # What every head does

    def labels(self, seen: OpenView, progress: Progress) -> tuple[Heads, str]:
        """The label of every head, and the lines that find it.

        Of a model of one text it is a matter of the model, found once; of a model of two texts it
        is what the heads do in this text.
        """
        python = seen.says("from wqkv.study.heads import label_heads", "label_heads(view)")
        if not self.one_text:
            return label_heads(seen.view, progress), python
        if self._labels is None:
            self._labels = label_heads(seen.view, progress)
        return self._labels, python


def changed_answer(found: Change, view: str | None, python: str) -> WhatIfAnswer:
    """A text before and after a change; `view` is the name of the changed text, if there is one."""
    return WhatIfAnswer(
        before=_outcome(found.before, 1.0),
        after=_outcome(found.after, found.similarity),
        change=plain(found.change),
        layers=plain(found.layers),
        tokens=found.tokens,
        view=view,
        python=python,
    )


def _keep_clearest(links: list[ClearLink], progress: Progress) -> EachLayer:
    """What is done after every layer of a reading: keep its clearest link, and tell of it."""

    def each(view: View, layer: int) -> None:
        links.append(clearest_link(view, layer))
        progress(layer + 1, view.model.sizes.n_layer)

    return each


def _clearest(links: list[ClearLink]) -> ClearLink:
    """The clearest of the links that were found, one of each layer."""
    return max(links, key=lambda link: link.clearness)


def _outcome(top: tuple[NextToken, ...] | None, similarity: float | None) -> OutcomeFacts:
    """What comes of a text: the likeliest next tokens, or the similarity to the text before."""
    return {"similarity": plain(similarity)} if top is None else {"top": plain(top)}


def _window(window: TextWindow | None) -> WindowFacts | None:
    """A window as the page has it; None where the whole text was read."""
    if window is None or window.windows == 1:
        return None
    return WindowFacts(
        number=window.number,
        windows=window.windows,
        first=window.first,
        last=window.last,
        tokens=window.tokens,
    )


def _text(tokens: TokenizedText) -> TextFacts:
    return TextFacts(
        text=tokens.sentence,
        tokens=tokens.shown,
        typed=tokens.typed,
        special=tokens.special,
        spans=tokens.spans,
        pictures=[
            PictureFacts(
                image=color_url(one.pixels),
                rows=one.rows,
                columns=one.columns,
                first=one.first,
                name=one.name,
            )
            for one in tokens.pictures
        ],
    )


def _tabs(reading: TokenizedText, model: TextModel) -> Sequence[Tab]:
    """The tabs of a text; with a picture, no links are removed for an answer."""
    left_out = {"matters"} if reading.arguments else set()
    left_out |= {"generate"} if model.reads == "picture" else set()
    return [tab for tab in get_args(Tab) if tab not in left_out]


def _sizes(part: ModelPart) -> PartFacts:
    ours, sizes = part.layer(0), part.sizes
    return PartFacts(
        n_layer=sizes.n_layer,
        n_head=sizes.n_head,
        n_kv_head=sizes.n_kv_head,
        d_model=sizes.d_model,
        d_k=sizes.d_k,
        d_v=ours.d_v,
        causal=ours.mask.by_position,
        position=position_of(ours),
        scale=scale_of(ours),
        softcap=ours.softcap,
        sinks=ours.sinks is not None,
    )
