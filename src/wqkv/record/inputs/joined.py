"""The axes of a text with pictures in it: tokens, patches, tokens, patches, tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from wqkv.maps.axis import Axes, Axis, Parts, known
from wqkv.record.inputs.cuts import unnormalized
from wqkv.record.inputs.moment import CallSizes, Moment, Running, Sized
from wqkv.record.inputs.picture_tokens import (
    Config,
    Given,
    cross_axes,
    picture_axes,
    token_of,
    video_axes,
)
from wqkv.record.inputs.text import labels_of, read_text

#: Makes the axis of a stretch of text, given the ids (length,) of its tokens.
MakeText: TypeAlias = Callable[[Tensor], Axis]
#: By what a token may stand for: the argument that holds its pixels, and what finds its axes.
_KINDS = {
    "image": ("pixel_values", picture_axes),
    "video": ("pixel_values_videos", video_axes),
}


def read_joined(moment: Moment, sizes: CallSizes) -> Axes | None:
    """The queries, and the keys if they are the same, of a text with pictures in it."""
    if moment.inside(_CROSS) is not None:
        return _crossed(moment, sizes)
    found = _reads(moment, sizes)
    if found is None:
        return None
    model, ids = found

    def text(some: Tensor) -> Axis:
        return Axis(labels_of(some.tolist(), moment.processor))

    @cache
    def find() -> Sequence[Parts] | None:
        given = {**model.given, **_seen_before(moment, model)}
        samples = joined_axes(model.module.config, ids, given, text)
        if samples is None:
            return None
        return [tuple(_as_seen(part, moment.processor) for part in parts) for parts in samples]

    own = not sizes.cross and sizes.query_len == sizes.key_len
    return Axes(find, find if own else known(None))


def _as_seen(part: Axis, processor: Any) -> Axis:  # a foreign processor
    """A picture with its own colors, and text as it is."""
    if part.source is None:
        return part
    source = unnormalized(part.source, processor)
    return Axis(part.count, part.grid, source=source, places=part.places)


def joined_axes(config: Config, ids: Tensor, given: Given, text: MakeText) -> list[Parts] | None:
    """The axes of every sample of a text with pictures in it.

    Where it is not known how the tokens of pictures lie on them, these are axes without a grid.

    Args:
        config: of the whole model.
        ids: (batch, length); the processor has put an id of the config where pictures stand.
        given: what the model was called with.

    Returns:
        None if a picture begins in one sample and ends in another.
    """
    marks = torch.zeros_like(ids)  # which of the kinds a token is of, from 1; 0 is text
    rest: dict[int, Iterator[Axis] | None] = {}  # the axes of pictures that come next, by kind
    copies = 1
    for kind, (name, (_, axes_of)) in enumerate(_KINDS.items(), start=1):
        mark = token_of(config, name)
        if mark is None or not _has(given, name):
            continue
        marks[ids == mark] = kind
        axes, count = axes_of(config, given), int((marks == kind).sum())
        length = sum(map(len, axes)) if axes is not None else 0
        # beam search, and several samples of one prompt, repeat each row of the batch
        if length and length < count and count % length == 0:
            copies = count // length
        rest[kind] = iter(axes) if axes is not None and count == length * copies else None
    if len(ids) % copies or not torch.equal(ids, ids[::copies].repeat_interleave(copies, dim=0)):
        return None
    samples = list[Parts]()
    for row, mark in zip(ids[::copies], marks[::copies], strict=True):
        parts = _sample(row, mark, rest, text)
        if parts is None:
            return None
        samples += [parts] * copies
    return samples


def _has(given: Given, name: str) -> bool:
    """Whether the model was given pictures or videos, or what was made of them before."""
    made = given.get("mm_encoder_outputs") or {}
    return given.get(_KINDS[name][0]) is not None or made.get(name) is not None


def _sample(
    ids: Tensor, marks: Tensor, rest: dict[int, Iterator[Axis] | None], text: MakeText
) -> Parts | None:
    """The axes of one sample (length,); those of its pictures are taken from `rest`."""
    parts, at = list[Axis](), 0
    while at < len(ids):
        kind = int(marks[at])
        axes = rest[kind] if kind else None
        if axes is None:
            other = (marks[at:] != kind).nonzero()
            end = at + int(other[0]) if len(other) else len(ids)
            parts.append(_named(kind, end - at) if kind else text(ids[at:end]))
        else:
            axis = next(axes)
            places = (marks[at:] == kind).nonzero().flatten()[: len(axis)].cpu()
            if len(places) < len(axis):
                return None
            end = at + int(places[-1]) + 1
            parts += _spread(axis, places, ids[at:end], text)
        at = end
    return tuple(parts)


def _named(kind: int, count: int) -> Axis:
    """Tokens of which it is only known that they are those of pictures."""
    return Axis([f"{list(_KINDS)[kind - 1]} {number}" for number in range(count)])


def _spread(axis: Axis, places: Tensor, ids: Tensor, text: MakeText) -> Iterator[Axis]:
    """The parts of a picture whose tokens stand at `places`, the first at 0, with text between.

    A token that ends a row, as those of Pixtral do, is one of the picture that stands on no cell.
    """
    count = torch.arange(len(axis), device="cpu")
    if torch.equal(places, count):
        yield axis
        return
    grid = axis.grid
    if grid is not None and axis.places is None and torch.equal(places, count + count // grid[-1]):
        cells = count.new_full((len(ids),), -1)
        cells[places] = count
        yield Axis(axis.count, grid, source=axis.source, places=cells)
        return
    cells = count if axis.places is None else axis.places
    ends = [0, *((places.diff() != 1).nonzero().flatten() + 1).tolist(), len(places)]
    for begin, end in pairwise(ends):
        if begin:
            yield text(ids[int(places[begin - 1]) + 1 : int(places[begin])])
        yield Axis(axis.count, grid, source=axis.source, places=cells[begin:end])


# Cross-attention

#: Attention of Mllama, whose keys are those of the pictures of the text.
_CROSS = "MllamaTextCrossAttention"


def _crossed(moment: Moment, sizes: CallSizes) -> Axes:
    """The text, and the pictures that were given with it or with the beginning of it."""
    given = {
        earlier.number: one
        for earlier in (moment, *_moments_before(moment))
        for one in earlier.modules
        if isinstance(one.given.get("pixel_values"), Tensor) and _sees(one)
    }

    @cache
    def find() -> Sequence[Parts] | None:
        if not given or (model := given[max(given)]).changed:
            return None
        samples = cross_axes(cast(Any, model.module.config), model.given)
        return [tuple(_as_seen(part, moment.processor) for part in parts) for parts in samples]

    text = read_text(moment, sizes)
    return Axes(known(None) if text is None else text.queries, find)


# What ran


def _moments_before(moment: Moment) -> Iterator[Moment]:
    """The moments before one, in no order."""
    for layer in tuple(moment.layers.values()):
        for run in layer.runs:
            for call in run.pieces:
                if call.moment.number < moment.number:
                    yield call.moment


def _reads(moment: Moment, sizes: CallSizes) -> tuple[Running, Tensor] | None:
    """The model that puts pictures into the text that is read now, and the ids of that text."""
    shape = (sizes.batch, sizes.query_len)
    inside = False  # the language model in it, which is given the text with the pictures
    for one in reversed(moment.modules):
        ids, embedded = one.given.get("input_ids"), one.given.get("inputs_embeds")
        if not isinstance(ids, Tensor):
            inside |= isinstance(embedded, Sized) and embedded.shape[:2] == shape
            continue
        pictures = _sees(one) and any(_has(one.given, name) for name in _KINDS)
        return (one, ids) if inside and pictures and ids.shape == shape else None
    return None


def _sees(one: Running) -> bool:
    """Whether it is a whole model of text and pictures, as its config tells."""
    config = getattr(one.module, "config", None)
    return hasattr(config, "image_token_id") and hasattr(config, "vision_config")


# Keyword arguments of a foreign call.
def _seen_before(moment: Moment, model: Running) -> dict[str, object]:
    """What the vision tower was given before this forward, by the names of the model's arguments.

    `generate` lets it run by itself, before it calls the model without pixels. Nothing is returned
    if the forwards before this one are not those of the tower.
    """
    made = model.given.get("mm_encoder_outputs") or {}
    names = [name for name in _KINDS if made.get(name) is not None]
    if not names:
        return {}
    forwards = {
        earlier.number: earlier.modules[0]
        for earlier in _moments_before(moment)
        if earlier.modules[0] is not moment.modules[0]
    }
    # many attentions ran in each forward
    each = list({id(one): one for _, one in sorted(forwards.items())}.values())
    found = dict[str, object]()  # keyword arguments of a foreign call
    for name, tower in zip(names, each[len(each) - len(names) :], strict=False):
        pixels = list(tower.tensors(floating=True).values())
        if tower.changed or len(pixels) != 1 or tower.module not in set(model.module.modules()):
            return {}
        found[_KINDS[name][0]] = pixels[0]
        found[f"{name}_grid_thw"] = tower.given.get("grid_thw")
        found |= {size: tower.given.get(size) for size in ("image_sizes", "spatial_shapes")}
    return found
