"""Every answer about an open view, as JSON has it: each number is one that `View` gives.

QUICK and SLOW list the answers by the last part of their address. All are called alike: with the
API, the view, the parameters of the request, and the progress callback of the worker.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from wqkv.draw import steps
from wqkv.draw.to_json import plain
from wqkv.explorer import cards, matters
from wqkv.explorer.api import Api, OpenView
from wqkv.explorer.jobs import Refused
from wqkv.explorer.matrices import matrices, matrixcolumn
from wqkv.explorer.request import Parameters
from wqkv.explorer.schema import (
    Answer,
    CellAnswer,
    ChoicesAnswer,
    ColumnAnswer,
    DistancesAnswer,
    GridAnswer,
    LinksAnswer,
    MeansFacts,
    NextAnswer,
    ReceivedAnswer,
    RowAnswer,
    SourceFacts,
    StoryAnswer,
    StreamAnswer,
    StreamLayerFacts,
    ThumbnailAnswer,
    TileAnswer,
    ToldSteps,
)
from wqkv.maps.link_map import HOWS, How
from wqkv.sentences import LANGUAGES, in_language, translated
from wqkv.sentences.heads import BRIEF, LABELS
from wqkv.study.answers import BlockMeans, HeadGrid
from wqkv.study.callbacks import Progress
from wqkv.study.generate import one_text_model
from wqkv.study.heads import label_grid
from wqkv.study.hit_rate import known_rate
from wqkv.study.lens import logit_lens
from wqkv.study.model import OpenModel
from wqkv.study.one_token import TokenStory, token_story
from wqkv.study.sampling import check_sampling, filtered
from wqkv.study.view import block_means, edges

#: The most weights of one side of a tile.
SIDE = 256
#: Of a text of more than LONG tokens a row is its STRONGEST weights, and the means of CURVE blocks.
LONG, STRONGEST, CURVE = 4096, 512, 1024
#: So many of the tokens that are looked at most are listed in a story.
RANKED = 64
#: So many of the likeliest next tokens are named.
NEXT = 12


def story(api: Api, seen: OpenView, ask: Parameters, progress: Progress) -> StoryAnswer:
    """What one head does to one token, and the seven steps in words."""
    layer, head, token = ask.integers("layer", "head", "token")
    lang = ask.choice("lang", "en", *LANGUAGES)
    told = token_story(seen.view, layer, head, token)
    source: SourceFacts | None = None
    if told.source is not None:
        source = {"token": told.source.token, "x": plain(told.source.x)}
    said = told_steps(seen, told, lang)
    opened = seen.view.layer(layer)
    gated = None if opened.layer.gate is None else opened.apply_gate(head, token, told.context)
    answer = StoryAnswer(
        model=told.model,
        family=told.family,
        n_layer=told.n_layer,
        n_head=told.n_head,
        n_kv_head=told.n_kv_head,
        d_model=told.d_model,
        d_k=told.d_k,
        layer=layer,
        head=head,
        token=token,
        mask=told.mask,
        position=told.position,
        scale=told.scale,
        x=plain(told.x),
        q=plain(told.q),
        k=plain(told.k),
        v=plain(told.v),
        context=plain(told.context),
        gated=None if gated is None else plain(gated),
        share=plain(told.share),
        output=plain(told.output),
        proof=plain(told.proof),
        source=source,
        ranked=[
            {"token": told.keys[j], "position": j, "weight": told.weights[j].item()}
            for j in told.ranked[:RANKED]
        ],
        steps=said["steps"],
        proofSentence=said["proofSentence"],
        rate=said["rate"],
        python=said["python"],
    )
    if max(seen.view.n, seen.view.m) <= LONG:  # of a longer one the row has the strongest
        answer["sentence"] = told.sentence
        answer["tokens"] = told.tokens
        answer["special"] = told.special
        answer["scores"] = plain(told.scores)
        answer["weights"] = plain(told.weights)
    return answer


def told_steps(seen: OpenView, told: TokenStory, lang: str) -> ToldSteps:
    """A story as a person reads it."""
    layer, head, token = told.layer, told.head, told.token
    # whose k and v are shown
    group, kept = head // (told.n_head // told.n_kv_head), token
    if told.source is not None:
        kept = told.source.token
    return {
        "steps": plain(steps.tell(told, lang=lang)),
        "proofSentence": steps.prove(told, lang),
        "rate": translated(known_rate(told.model, told.sentence, layer, head), lang),
        "python": seen.says(
            f"layer = view.layer({layer})",
            f"layer.q[0, {head}, {token}], layer.k[0, {group}, {kept}],"
            f" layer.v[0, {group}, {kept}], view.row({layer}, {head}, {token})",
        ),
    }


def cell(api: Api, seen: OpenView, ask: Parameters, progress: Progress) -> CellAnswer:
    """How one weight comes about, term by term."""
    at = ask.integers("layer", "head", "i", "j")
    found = seen.view.cell(*at)
    return CellAnswer(
        terms=plain(found.terms),
        dot=plain(found.dot),
        scale=plain(found.scale),
        scaled=plain(found.scaled),
        softcap=plain(found.softcap),
        capped=plain(found.capped),
        bias=plain(found.bias),
        score=plain(found.score),
        sink=plain(found.sink),
        lse=plain(found.lse),
        weight=plain(found.weight),
        hidden=found.hidden,
        python=seen.says(f"view.cell{at}"),
    )


def row(api: Api, seen: OpenView, ask: Parameters, progress: Progress) -> RowAnswer:
    """Where one token looks; of a text of more than LONG tokens only what can be drawn.

    With `without` it is the row computed again with the link to that token removed.
    """
    at = layer, head, i = ask.integers("layer", "head", "i")
    if ask.has("without"):
        j, how = ask.integer("without"), _how(ask)
        found = seen.view.row_without(layer, head, i, j, how)
        python = seen.says(f"view.row_without{(*at, j, how)}")
    else:
        found, python = seen.view.row(*at), seen.says(f"view.row{at}")
    answer = RowAnswer(
        sink=plain(found.sink),
        lse=plain(found.lse),
        output=plain(found.output),
        residual=plain(found.residual),
        changed=plain(found.changed),
        python=python,
    )
    if seen.view.m <= LONG:
        answer["weights"] = plain(found.weights)
        answer["effects"] = plain(found.effects)
    else:
        answer["strongest"] = [
            {"index": j, "weight": found.weights[j].item(), "effect": found.effects[j].item()}
            for j in found.weights.topk(STRONGEST).indices.tolist()
        ]
        answer["curve"] = _means(found.weights)
    return answer


def _how(ask: Parameters) -> How:
    """How links are removed."""
    return cast(How, ask.choice("how", HOWS[0], *HOWS))


#: How many tokens the lens names after each layer.
LENS = 3


def stream(api: Api, seen: OpenView, ask: Parameters, progress: Progress) -> StreamAnswer:
    """What a token carries through all layers, and what is added to it."""
    token, view, python = ask.integer("token"), seen.view, seen.python
    own = view.model.part == "decoder"
    if own:  # the view of its attention to the other text knows that text
        view = seen.parts["cross"].view
        python = seen.parts["cross"].python
    found, model = view.stream(token), api.model
    lines = [python, f"view.stream({token})"]
    lens = None
    if isinstance(model, OpenModel) and (model.speaker or model.filler) is not None:
        lens = [one[:LENS] for one in logit_lens(view, token)]
        lines[1:1] = ["from wqkv.study.lens import logit_lens"]
        lines[2:] = [f"view.stream({token}), logit_lens(view, {token})"]
    of_cross = view.model.part == "cross" and not own
    return StreamAnswer(
        embedding=plain(found.embedding),
        normAfter=found.norm_after,
        layers=[
            StreamLayerFacts(
                attention=plain(layer.attention),
                cross=plain(layer.cross),
                mlp=plain(layer.mlp),
                heads=plain(layer.cross_heads if of_cross else layer.heads),
                added=plain(layer.added),
                state=plain(layer.state),
                proof=plain(layer.proof),
            )
            for layer in found.layers
        ],
        lens=plain(lens),
        python="\n".join(lines),
    )


def column(api: Api, seen: OpenView, ask: Parameters, progress: Progress) -> ColumnAnswer:
    """Who looks at one token. The first column of a head needs a pass over its map."""
    at = ask.integers("layer", "head", "j")
    found = seen.view.column(*at)
    return ColumnAnswer(
        weights=plain(found.weights),
        received=plain(found.received),
        python=seen.says(f"view.column{at}"),
    )


def tile(api: Api, seen: OpenView, ask: Parameters, progress: Progress) -> TileAnswer:
    """The exact weights, or contributions, of a rectangle of at most SIDE x SIDE."""
    at, places = _rectangle(ask)
    if ask.choice("of", "weight", "weight", "contribution") == "weight":
        python = seen.says(f"view.tile{(*at, *places)}")
        return TileAnswer(values=plain(seen.view.tile(*at, *places)), python=python)
    rows, keys = seen.view.checked_rectangle(*places)
    found = seen.view.contributions(*at)[0, 0, rows, keys]
    return TileAnswer(
        values=plain(found), python=seen.says(f"view.contributions{at}[{_index(places)}]")
    )


def effects(api: Api, seen: OpenView, ask: Parameters, progress: Progress) -> TileAnswer:
    """The effects of the links of a rectangle of at most SIDE x SIDE, to first order."""
    (layer, head), places = _rectangle(ask)
    rows, keys = seen.view.checked_rectangle(*places)
    maps, how = matters.effect_maps(api, seen, ask.asked_why(), progress), _how(ask)
    known = maps.map(layer, head, how, seen.view.model.part)[0, 0, rows, keys]
    found = known.new_zeros((rows.stop - rows.start, keys.stop - keys.start))
    found[: known.shape[0], : known.shape[1]] = known  # tokens behind the question have no effect
    return TileAnswer(
        values=plain(found),
        python=seen.says(*_effects_python(api, seen, ask, f"[{_index(places)}]")),
    )


def _effects_python(api: Api, seen: OpenView, ask: Parameters, end: str) -> tuple[str, ...]:
    layer, head = ask.integers("layer", "head")
    lines = matters.python_of_maps(api, seen, ask.asked_why())
    return *lines, f"maps.map({layer}, {head}, {_how(ask)!r}, {seen.view.model.part!r}){end}"


def _rectangle(ask: Parameters) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """The head that is asked about, and the rectangle of its map."""
    layer, head, q0, q1, k0, k1 = ask.integers("layer", "head", "q0", "q1", "k0", "k1")
    if max(q1 - q0, k1 - k0) > SIDE:
        wrong = f"A tile of {q1 - q0} x {k1 - k0} weights is too large."
        raise Refused(413, wrong, f"Pass at most {SIDE} x {SIDE}, or take a thumbnail.")
    return (layer, head), (q0, q1, k0, k1)


def _index(places: tuple[int, int, int, int]) -> str:
    """A rectangle of a map of one head, as an index in Python."""
    q0, q1, k0, k1 = places
    return f"0, 0, {q0}:{q1}, {k0}:{k1}"


def thumbnail(api: Api, seen: OpenView, ask: Parameters, progress: Progress) -> ThumbnailAnswer:
    """A whole map in `size` x `size` blocks: of one head, or of all heads of a layer."""
    layer, size = ask.integer("layer"), ask.size()
    head = ask.integer("head") if ask.has("head") else None  # None: all heads of the layer
    if ask.choice("of", "weight", "weight", "contribution") == "contribution":
        head = ask.integer("head")
        values = seen.view.contributions(layer, head).thumbnail(size, progress)
        python = seen.says(f"view.contributions({layer}, {head}).thumbnail({size})[0, 0]")
        return _blocks(block_means(seen.view.n, seen.view.m, values[0, 0]), python)
    found = seen.view.thumbnail(layer, head, size)
    python = seen.says(f"view.thumbnail({layer}, {head}, {size})")
    if head is not None:
        return _blocks(found, python)
    return ThumbnailAnswer(
        edges=found.edges, keys=found.keys, heads=plain(found.values), python=python
    )


def effectblocks(api: Api, seen: OpenView, ask: Parameters, progress: Progress) -> ThumbnailAnswer:
    """The effects of a head as means of absolute values in `size` x `size` blocks."""
    layer, head = ask.integers("layer", "head")
    size, how = ask.size(), _how(ask)
    maps = matters.effect_maps(api, seen, ask.asked_why(), progress)
    lengths = seen.view.n, seen.view.m
    found = maps.map(layer, head, how, seen.view.model.part).thumbnail(size, progress, lengths)
    end = f".thumbnail({size}, lengths={lengths})[0, 0]"
    python = seen.says(*_effects_python(api, seen, ask, end))
    return _blocks(block_means(*lengths, found[0, 0]), python)


def _blocks(found: BlockMeans, python: str) -> ThumbnailAnswer:
    return ThumbnailAnswer(
        edges=found.edges, keys=found.keys, values=plain(found.values), python=python
    )


def choices(api: Api, seen: OpenView, ask: Parameters, progress: Progress) -> ChoicesAnswer:
    """What can be asked about a text."""
    return matters.choices(api, seen, ask.asked_why())


def received(api: Api, seen: OpenView, ask: Parameters, progress: Progress) -> ReceivedAnswer:
    """What every token receives from all tokens together."""
    layer, head = ask.integers("layer", "head")
    found = seen.view.received(layer, head, progress)
    python = seen.says(f"view.received({layer}, {head})")
    if seen.view.m <= LONG:
        return ReceivedAnswer(values=plain(found), python=python)
    return ReceivedAnswer(**_means(found), python=python)


def distances(api: Api, seen: OpenView, ask: Parameters, progress: Progress) -> DistancesAnswer:
    """How far one head looks."""
    layer, head = ask.integers("layer", "head")
    found = seen.view.distances(layer, head, progress)
    return DistancesAnswer(
        edges=found.edges,
        mass=plain(found.mass),
        mean=plain(found.mean),
        python=seen.says(f"view.distances({layer}, {head})"),
    )


def links(api: Api, seen: OpenView, ask: Parameters, progress: Progress) -> LinksAnswer:
    """The `k` strongest weights of one head."""
    (layer, head), k = ask.integers("layer", "head"), ask.integer("k", 20)
    found = seen.view.links(layer, head, k, progress)
    return LinksAnswer(links=plain(found), python=seen.says(f"view.links({layer}, {head}, {k})"))


def grid(api: Api, seen: OpenView, ask: Parameters, progress: Progress) -> GridAnswer:
    """One number per head of the model; of the statistic "label" also what each head does."""
    statistic = ask.choice("statistic", "entropy", *seen.view.statistics)
    if statistic != "label":
        return _grid(seen.view.grid(statistic, progress), seen.says(f"view.grid({statistic!r})"))
    lang = ask.choice("lang", "en", *LANGUAGES)
    found, python = api.labels(seen, progress)
    answer = _grid(label_grid(found), python)
    answer["evidence"] = [
        [translated(head.evidence, lang) for head in layer] for layer in found.table
    ]
    briefs = in_language(BRIEF, lang)
    answer["names"] = {
        label: {"name": name, "brief": briefs[label]}
        for label, name in in_language(LABELS, lang).items()
    }
    answer["source"] = translated(found.source, lang)
    return answer


def next_token(api: Api, seen: OpenView, ask: Parameters, progress: Progress) -> NextAnswer:
    """The likeliest next tokens after token i, before and after temperature, top-k and top-p."""
    i, top_k = ask.integer("i"), ask.integer("top_k", 0)
    temperature, top_p = ask.number("temperature", 1.0), ask.number("top_p", 1.0)
    check_sampling(temperature, top_k, top_p)
    found = filtered(api.next_logits(seen, i), temperature, top_k, top_p)
    first = found.before.topk(min(NEXT, len(found.before)))
    decode = one_text_model(seen.view, "The next token").tokenizer.decode
    call = f"view, {i}, temperature={temperature}, top_k={top_k}, top_p={top_p}"
    return NextAnswer(
        top=[
            {"token": decode([id]), "probability": chance, "id": id, "after": after}
            for id, chance, after in zip(
                first.indices.tolist(),
                first.values.tolist(),
                found.after[first.indices].tolist(),
                strict=True,
            )
        ],
        vocabulary=len(found.before),
        kept=found.kept,
        held=found.held,
        python=seen.says(f"wqkv.next_tokens({call})"),
    )


def _grid(found: HeadGrid, python: str) -> GridAnswer:
    return GridAnswer(
        statistic=found.statistic,
        unit=found.unit,
        low=found.low,
        high=found.high,
        values=plain(found.values),
        labels=found.labels,
        evidence=found.evidence,
        python=python,
    )


def _means(line: Tensor) -> MeansFacts:
    """A line of numbers as the means of CURVE blocks."""
    bounds = edges(len(line), CURVE)
    sizes = torch.tensor(bounds, device="cpu").diff()
    of_block = torch.repeat_interleave(sizes)
    sums = torch.zeros(CURVE, dtype=torch.float64, device="cpu").index_add_(
        0, of_block, line.double()
    )
    return MeansFacts(edges=bounds, values=plain(sums / sizes))


Handler = Callable[[Api, OpenView, Parameters, Progress], Answer]

#: The answers that take milliseconds.
QUICK: dict[str, Handler] = {
    "story": story,
    "matrices": matrices,
    "matrixcolumn": matrixcolumn,
    "cell": cell,
    "row": row,
    "tile": tile,
    "experiment": cards.experiment,
}
#: Those that may take long: they need a pass or more over a map, or a run of the model.
SLOW: dict[str, Handler] = {
    "stream": stream,
    "column": column,
    "thumbnail": thumbnail,
    "received": received,
    "distances": distances,
    "links": links,
    "grid": grid,
    "choices": choices,
    "effects": effects,
    "effectblocks": effectblocks,
    "next": next_token,
    "changedmaps": cards.changed_maps,
    "runon": cards.run_on,
    "often": cards.often,
}
#: Those of SLOW for which the model runs, so that a saved page cannot compute them.
OF_THE_MODEL = ("stream", "choices", "effects", "effectblocks", "next", "runon", "often")
