"""What if: heads changed or switched off, tokens changed; the model runs again on it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wqkv.doors import door
from wqkv.errors import ArgumentError
from wqkv.sentences.errors import mistake
from wqkv.study.generate import NextToken, likeliest
from wqkv.study.model import one_sequence
from wqkv.study.part import TextReading
from wqkv.study.tokens import TokenizedText
from wqkv.study.view import EachLayer, View


@dataclass(frozen=True)
class Change:
    """A text before and after a change.

    `change` and `layers` are |after - before| / |before|, over the tokens that both texts share.
    """

    # The likeliest next tokens, or of a picture the likeliest classes; None without such a head.
    before: tuple[NextToken, ...] | None
    after: tuple[NextToken, ...] | None
    similarity: (
        float | None
    )  # without such a head: the cosine of the means of the last hidden state
    change: float  # of the last hidden state
    layers: tuple[float, ...]  # of every layer's attention output
    tokens: tuple[str, ...]  # of the changed text, as `TokenizedText.shown` has them
    view: View | None  # of the changed text; None where heads are changed: no layer is proved


@door
def what_if(
    view: View,
    off: Collection[tuple[int, int]] = (),
    edits: Mapping[int, str] | None = None,
    each: EachLayer = lambda view, layer: None,
    contexts: Mapping[tuple[int, int], Tensor] | None = None,
) -> Change:
    """Run the model again with heads changed or switched off, and tokens changed.

    Args:
        off: (layer, head); the context of these heads is 0 before WO.
        edits: the text that replaces a token, by the number of the token. "" hides a patch of a
            picture: its pixels are 0 after the normalization, which is the mean color.
        each: is called after every layer; see `OpenModel.view`.
        contexts: by (layer, head), what these heads hand to WO in place of their own context, for
            every token of the text: (n, d_v). `Experiment.contexts` makes them.

    Raises:
        ArgumentError: a token that does not stand in the text, a context of another shape, or no
            change at all.
    """
    model, old, changed = one_sequence(view.model, "What if"), view.reading, None
    # A head that is off is a head with a context of 0.
    changes = dict(contexts or {}) | {at: torch.zeros((), device="cpu") for at in off}
    for layer, head in changes:
        view.checked_layer(layer, head)
    if not (changes or edits):
        raise ArgumentError("Nothing is changed.\nName a head to switch off, or a token to change.")
    if edits and old.types:
        raise ArgumentError(mistake("pair_edited", token=min(edits)))
    text: TokenizedText = model.edited(old, edits) if edits else old
    for (layer, head), context in (contexts or {}).items():
        needed = (len(text.ids), model.layer(layer).d_v)
        if context.shape != needed:
            raise ArgumentError(
                f"The context of head {head} of layer {layer} is {list(context.shape)}, not "
                f"{list(needed)}.\nPass d_v numbers for every token of the text."
            )
    if changes:
        # A view proves the model as it is. With heads changed it computes something else, so
        # there is no view.
        new = model.run(text, changes, lambda reading: each(view, len(reading.outputs) - 1))
    else:
        changed = model.view(text, each)
        new = changed.reading
    assert old.final is not None and new.final is not None
    shared = _shared_positions(old, new, edits or {})
    kept = _kept_rows(old, new, shared)
    has_head = old.logits is not None and new.logits is not None
    a, b = old.final[0].mean(dim=0), new.final[0].mean(dim=0)
    return Change(
        before=None if old.logits is None else likeliest(model, old.logits),
        after=None if new.logits is None else likeliest(model, new.logits),
        similarity=None if has_head else float(torch.cosine_similarity(a, b, dim=0)),
        change=_relative(old.final, new.final, shared),
        layers=tuple(_relative(a, b, kept) for a, b in zip(old.outputs, new.outputs, strict=True)),
        tokens=new.shown,
        view=changed,
    )


SamePositions = tuple[list[int], list[int]]  # where the same tokens stand in two texts


def _relative(before: Tensor, after: Tensor, at: SamePositions) -> float:
    """|after - before| / |before| of some rows; NaN where there are none."""
    a, b = before[0, at[0]], after[0, at[1]]
    return float((b - a).norm() / a.norm())


def _shared_positions(
    old: TokenizedText, new: TokenizedText, edited: Collection[int]
) -> SamePositions:
    """Where the tokens stand that were not edited, or else those that both begin and end with."""
    n, m = len(old.ids), len(new.ids)
    kept = [at for at in range(n) if at not in edited]
    if n == m and all(old.ids[at] == new.ids[at] for at in kept):
        return kept, kept
    first = _common_length(old.ids, new.ids)
    last = min(_common_length(old.ids[::-1], new.ids[::-1]), min(n, m) - first)
    return [*range(first), *range(n - last, n)], [*range(first), *range(m - last, m)]


def _common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many items two sequences begin with alike."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((at for at, (x, y) in pairs if x != y), min(len(a), len(b)))


def _kept_rows(old: TextReading, new: TextReading, shared: SamePositions) -> SamePositions:
    """Where the shared tokens stand among those whose outputs were kept in both."""
    before, after = ({row: at for at, row in enumerate(r.rows.tolist())} for r in (old, new))
    both = [
        (before[i], after[j]) for i, j in zip(*shared, strict=True) if i in before and j in after
    ]
    return [i for i, _ in both], [j for _, j in both]
