"""What matters in an open text: the links and groups that carry an answer, and maps of effects.

All of it runs the model, so the server's one worker answers it.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import torch

from wqkv.draw.to_json import plain
from wqkv.effects.asked import ask
from wqkv.effects.effect_maps import EffectMaps
from wqkv.effects.records import By, Joint, LinkEffect
from wqkv.effects.why import why
from wqkv.explorer.api import EFFECTS, Api, OpenView
from wqkv.explorer.jobs import Refused
from wqkv.explorer.request import AskedWhy
from wqkv.explorer.schema import (
    ChoicesAnswer,
    GroupsAnswer,
    JointFacts,
    LinkEffectFacts,
    QuestionKind,
    WhyAnswer,
)
from wqkv.maps.link_map import How
from wqkv.sentences.errors import mistake
from wqkv.study.callbacks import Progress
from wqkv.study.generate import likeliest
from wqkv.study.model import OpenModel
from wqkv.study.pair import OpenPair

#: How many links are removed for real in a text of up to SHORT tokens; in a longer one fewer, so
#: that the work stays alike, and at least LEAST.
BUDGET, SHORT, LEAST = 200, 256, 24


class Given(NamedTuple):
    """The model and the texts of a view as `why` takes them, and the same as lines of Python."""

    model: OpenModel | OpenPair
    text: str
    target: str | None
    python: str

    def called(self, name: str, asked: AskedWhy, **rest: object) -> str:
        """A call in Python, without arguments that have their default value."""
        default = {"answer": None, "against": None, "at": -1}
        given = {k: v for k, v in {**asked._asdict(), **rest}.items() if v != default.get(k)}
        return f"{name}({', '.join([self.python, *(f'{k}={v!r}' for k, v in given.items())])})"


def given_of(api: Api, seen: OpenView, asked: AskedWhy) -> tuple[Given, AskedWhy]:
    """What `why` is given of a view, and the question, about the first masked token of several.

    Raises:
        Refused: read again, the text has other tokens, because it was written token by token.
    """
    model: Any = api.model  # an OpenModel or an OpenPair, each with its way to read
    if seen.view.reading.arguments:  # it is more than its ids
        raise Refused.because(422, mistake("no_matters", model=model.name))
    if seen.parts:
        read, written = (seen.parts[part].view.reading for part in ("encoder", "decoder"))
        again = model.read_texts(read.sentence, written.sentence)
        same = [one.ids for one in again] == [read.ids, written.ids]
        texts = "views['encoder'].reading.sentence, target=views['decoder'].reading.sentence"
        found = Given(model, read.sentence, written.sentence, f"model, {texts}")
    else:
        read = seen.view.reading
        same = model.tokens(read.sentence).ids == read.ids
        found = Given(model, read.sentence, None, "model, view.reading.sentence")
    if not same:
        raise Refused.because(409, mistake("read_again"))
    masked = _masked(found) if asked.at == -1 else []
    return found, asked._replace(at=masked[0]) if len(masked) > 1 else asked


def budget_of(seen: OpenView) -> int:
    """How many links of a text are removed for real."""
    longest = max(seen.view.n, seen.view.m)
    return BUDGET if longest <= SHORT else max(LEAST, BUDGET * SHORT // longest)


def choices(api: Api, seen: OpenView, asked: AskedWhy) -> ChoicesAnswer:
    """What can be asked about a text, and the likeliest tokens that an answer may be."""
    given, asked = given_of(api, seen, asked)
    model, kind, row = given.model, _kind(given), None
    python, top = seen.says("view.reading.sentence"), []
    if kind != "similarity":
        found = ask(model, given.text, None, None, asked.at, given.target)
        row = found.question.at
        with torch.no_grad():
            logits = found.run().logits[0, row if kind == "masked token" else -1]
        # A token whose text is read as another token cannot be asked for by its text.
        top = [one for one in likeliest(model, logits) if _first_id(model, one.token) == one.id]
        python = seen.says(
            "from wqkv.effects.asked import ask",
            f"{given.called('ask', AskedWhy(None, None, asked.at))}.question",
        )
    return ChoicesAnswer(kind=kind, at=row, top=plain(top), budget=budget_of(seen), python=python)


def _kind(given: Given) -> QuestionKind:
    """Which number can be asked about: see `why`."""
    if given.model.speaker is not None or isinstance(given.model, OpenPair):
        return "next token"
    return "masked token" if _masked(given) else "similarity"


def _masked(given: Given) -> list[int]:
    """Which tokens are masked, in a text of a model of masked tokens."""
    model = given.model
    if isinstance(model, OpenPair) or model.filler is None:
        return []
    mask = model.tokenizer.mask_token_id
    return [at for at, id in enumerate(model.tokens(given.text).ids) if id == mask]


def _first_id(model: OpenModel | OpenPair, token: str) -> int | None:
    ids = model.tokenizer(token, add_special_tokens=False)["input_ids"]
    return ids[0] if ids else None


# The links that carry an answer


def links_that_matter(
    api: Api, seen: OpenView, asked: AskedWhy, how: How, progress: Progress
) -> WhyAnswer:
    """The links that carry an answer, and those of largest weight, all removed for real."""
    begun, budget = time.monotonic(), budget_of(seen)
    given, asked = given_of(api, seen, asked)
    found = why(
        given.model, given.text, *asked, target=given.target, how=how, budget=budget,
        progress=progress,
    )  # fmt: skip
    call = given.called("why", asked, how=how, budget=budget)
    question = found.question
    return WhyAnswer(
        kind=question.kind,
        number=question.number,
        answer=question.answer,
        against=question.against,
        at=question.at,
        how=how,
        tokens=plain(dict(found.tokens)),
        keys=plain(dict(found.keys)),
        before=found.before,
        rounding=found.rounding,
        count=found.count,
        budget=budget,
        links=[_facts(one) for one in found.links],
        resting=[_facts(one) for one in found.resting],
        heaviest=[_facts(one) for one in found.heaviest],
        checked=plain(found.checked),
        together=_joint(found.together),
        seconds=time.monotonic() - begun,
        python=seen.says(f"wqkv.{call}"),
    )


def _facts(one: LinkEffect) -> LinkEffectFacts:
    facts: LinkEffectFacts = plain(one) | {"warning": one.warning, "miss": one.miss}
    return facts


def _joint(found: Joint | None) -> JointFacts | None:
    """Several links removed together; of the draws beside them, where 5 to 95 % lie."""
    if found is None:
        return None
    low, high = found.spread or (None, None)
    return JointFacts(
        links=found.links,
        after=plain(found.after),
        kept=found.kept,
        draws=len(found.finite),
        low=low,
        high=high,
    )


def groups_that_matter(
    api: Api, seen: OpenView, asked: AskedWhy, by: By, progress: Progress
) -> GroupsAnswer:
    """Whole heads, tokens or sentences, each removed for real."""
    given, asked = given_of(api, seen, asked)
    found = why(
        given.model, given.text, *asked, target=given.target, by=[by], budget=1, progress=progress
    )
    call = given.called("why", asked, by=[by], budget=1)
    return GroupsAnswer(
        by=by,
        number=found.question.number,
        before=found.before,
        rounding=found.rounding,
        groups=plain((found.groups or {}).get(by, ())),
        python=seen.says(f"wqkv.{call}.groups[{by!r}]"),
    )


# Maps of effects


def effect_maps(api: Api, seen: OpenView, asked: AskedWhy, progress: Progress) -> EffectMaps:
    """The maps of all effects on a number; those asked for last are kept.

    Raises:
        Refused: they would take more than EFFECTS bytes.
    """
    given, asked = given_of(api, seen, asked)
    key = given.text, given.target, asked
    maps = api.effects.get(key)
    if maps is None:
        if (needed := bytes_of_maps(seen)) > EFFECTS:
            wrong = mistake("effects_bytes", n=seen.view.n, size=needed / 2**30)
            raise Refused.because(413, wrong)
        maps = EffectMaps(given.model, given.text, *asked, target=given.target, progress=progress)
        api.effects.keep(key, maps)
    return maps


def bytes_of_maps(seen: OpenView) -> int:
    """How much memory the maps of all effects take: q, k, v, outputs and their gradients."""
    size = 0
    for view in [part.view for part in seen.parts.values()] or [seen.view]:
        sizes, ours = view.model.sizes, view.model.layer(0)
        of_query = sizes.n_head * (sizes.d_k + 2 * ours.d_v)
        of_key = sizes.n_kv_head * (sizes.d_k + ours.d_v)
        each = view.reading.inputs[0].element_size()
        size += sizes.n_layer * (view.n * of_query + view.m * of_key) * each
    return size


def python_of_maps(api: Api, seen: OpenView, asked: AskedWhy) -> tuple[str, ...]:
    """The lines that make `maps`."""
    given, asked = given_of(api, seen, asked)
    call = given.called("EffectMaps", asked)
    return "from wqkv.effects.effect_maps import EffectMaps", f"maps = {call}"
