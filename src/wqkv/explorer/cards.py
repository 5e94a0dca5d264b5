"""The questions about q, k and v as cards: an experiment, its two maps, and the model run on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from wqkv.draw.cards import SHOWS, card, digits
from wqkv.draw.to_json import plain
from wqkv.experiments.asked_of_heads import HEAD_QUESTIONS, NoExperiment, head_questions
from wqkv.experiments.changed_head import Experiment, HeadState, Measured
from wqkv.experiments.guesses import guesses, headline, number_of, right_guess
from wqkv.experiments.how_often import OF_LAYERS, how_often, run_experiment
from wqkv.explorer.api import Api, OpenView, changed_answer
from wqkv.explorer.request import Parameters
from wqkv.explorer.schema import (
    ChangedFacts,
    ChangedLinkFacts,
    ChangedMapsAnswer,
    ExperimentAnswer,
    MadeFacts,
    MeasuredFacts,
    OftenAnswer,
    WhatIfAnswer,
)
from wqkv.sentences import LANGUAGES
from wqkv.study.callbacks import Progress
from wqkv.study.view import block_means
from wqkv.study.whatif import what_if

#: low_rank keeps one of so many singular values, unless another rank is asked for.
KEPT_RANK = 4
#: So many of the row's strongest links are drawn, of both states together.
LINKS = 6
#: The page draws its two maps in so many blocks a side.
SMALL = 48
#: What is laid beside the answer to a question: the changes that answer it together.
BESIDE = {"no_projection": ("same_matrix", "value_is_key")}


def experiment(api: Api, seen: OpenView, ask: Parameters, progress: Progress) -> ExperimentAnswer:
    """A question answered on one row of one head, or why it cannot be."""
    name, rank = _asked(seen, ask)
    answer = ExperimentAnswer(
        name=name,
        asked={lang: plain(head_questions(lang)[name]) for lang in LANGUAGES},
        made=None,
        refused=None,
        rank=rank,
        ranks=None if rank is None else seen.view.model.sizes.d_k,
        python=seen.python,
    )
    try:
        found = _run(seen, ask, name, rank)
    except NoExperiment as error:
        answer["refused"] = {lang: error.said(lang) for lang in LANGUAGES}
        return answer
    answer["python"] = seen.says(found.python)
    answer["made"] = _made(seen, found, ask)
    return answer


def _asked(seen: OpenView, ask: Parameters) -> tuple[str, int | None]:
    """The experiment that is asked for, and r of low_rank: a quarter of d_k by default."""
    name = ask.choice("name", "", *HEAD_QUESTIONS)
    if name != "low_rank":
        return name, None
    return name, ask.integer("r", max(1, seen.view.model.sizes.d_k // KEPT_RANK))


def _run(seen: OpenView, ask: Parameters, name: str, rank: int | None = None) -> Experiment:
    layer, head, token = ask.integers("layer", "head", "token")
    return run_experiment(name, seen.view, layer, head, token, rank)


def _made(seen: OpenView, found: Experiment, ask: Parameters) -> MadeFacts:
    before, after = headline(found)
    outputs = [found.before.output, found.after.output]
    shows = SHOWS.get(found.name)
    return MadeFacts(
        cards={lang: plain(card(found, lang)) for lang in LANGUAGES},
        key=found.key,
        names=guesses(found),
        right=right_guess(found),
        headline=(digits(before), digits(after)),
        numbers=_measured(found.numbers),
        shows=shows or "weights",
        links=_links(found),
        outputs=plain(outputs) if shows == "outputs" else [],
        proof=plain(found.proof),
        same=plain(found.same),
        changes=bool(found.changes) and not seen.parts,
        beside=list(_beside(seen, found, ask)),
    )


def _measured(numbers: Sequence[Measured]) -> list[MeasuredFacts]:
    return [
        MeasuredFacts(
            name=one.name,
            unit=one.unit,
            said={lang: one.said(lang) for lang in LANGUAGES},
            before=plain(one.before),
            after=plain(one.after),
        )
        for one in numbers
    ]


def _links(found: Experiment) -> list[ChangedLinkFacts]:
    """The strongest links of the row in either state, by falling weight as trained."""
    before, after = found.before.weights, found.after.weights
    most = before.maximum(after).topk(min(LINKS, len(before))).indices
    strongest = most[before[most].argsort(descending=True)].tolist()
    return [
        ChangedLinkFacts(key=j, before=before[j].item(), after=after[j].item()) for j in strongest
    ]


def _beside(seen: OpenView, found: Experiment, ask: Parameters) -> Iterator[ChangedFacts]:
    """The row as trained, with this change, and with those that BESIDE names."""
    if found.name not in BESIDE:
        return
    yield _changed(found, found.before, "")
    yield _changed(found, found.after, found.name)
    for name in BESIDE[found.name]:
        try:
            other = _run(seen, ask, name)
        except NoExperiment:  # its own card says why
            continue
        yield _changed(other, other.after, name)


def _changed(found: Experiment, state: HeadState, name: str) -> ChangedFacts:
    """One state of the row; as trained, where the change has no name."""
    own = found.trained.looks_at_itself
    return ChangedFacts(
        change={lang: head_questions(lang)[name].change if name else "" for lang in LANGUAGES},
        own=state.weights[found.row].item() if own else None,
        link=state.weights[found.key].item(),
        output=number_of(found, "change of the output").before if name else 0.0,
    )


def changed_maps(
    api: Api, seen: OpenView, ask: Parameters, progress: Progress
) -> ChangedMapsAnswer:
    """The maps of a head as trained and changed, in `size` x `size` blocks."""
    name, rank = _asked(seen, ask)
    found, size = _run(seen, ask, name, rank), ask.size()
    before, after = (state.map.thumbnail(size)[0, 0] for state in (found.before, found.after))
    blocks = block_means(seen.view.n, seen.view.m, before)
    return ChangedMapsAnswer(
        edges=blocks.edges,
        keys=blocks.keys,
        before=plain(before),
        after=plain(after),
        means=_measured(found.over_rows()),
        python=seen.says(
            f"found = {found.python}",
            f"found.before.map.thumbnail({size}), found.after.map.thumbnail({size})",
        ),
    )


def often(api: Api, seen: OpenView, ask: Parameters, progress: Progress) -> OftenAnswer:
    """In how many heads of the model a question comes out as it does here, for the same token."""
    (name, rank), token = _asked(seen, ask), ask.integer("token")
    counts = how_often(seen.view, name, token, rank, progress)
    right = right_guess(_run(seen, ask, name, rank))
    further = "" if rank is None else f", {rank}"
    return OftenAnswer(
        same=counts.get(right, 0),
        total=sum(counts.values()),
        layers=name in OF_LAYERS,
        python=seen.says(f"wqkv.experiments.how_often(view, {name!r}, {token}{further})"),
    )


def questions_with_maps(api: Api, seen: OpenView, at: tuple[int, int, int]) -> list[str]:
    """The experiments of a row that can be made and whose maps a card draws."""
    where = {name: str(one) for name, one in zip(("layer", "head", "token"), at, strict=True)}
    asked = {name: Parameters(where | {"name": name}) for name in HEAD_QUESTIONS}
    answers = {name: experiment(api, seen, ask, lambda *_: None) for name, ask in asked.items()}
    return [
        name
        for name, answer in answers.items()
        if answer["made"] is not None and answer["made"]["shows"] == "weights"
    ]


def run_on(api: Api, seen: OpenView, ask: Parameters, progress: Progress) -> WhatIfAnswer:
    """What the whole model makes of the change: the text before and after."""
    name, rank = _asked(seen, ask)
    found, count = _run(seen, ask, name, rank), seen.view.model.sizes.n_layer
    change = what_if(
        seen.view, contexts=found.contexts(), each=lambda _, layer: progress(layer + 1, count)
    )
    call = f"wqkv.what_if(view, contexts={found.python}.contexts())"
    return changed_answer(change, None, seen.says(call))
