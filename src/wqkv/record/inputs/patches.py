"""Patches that stand one behind the other, row by row: ViT and what came of it.

A tower cuts a picture by a convolution, flattens what it made and puts special tokens beside it. So
a length is explained by the size of what was cut, and by the parameters that the tower holds.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wqkv.maps.axis import Axes, Axis, Parts, known
from wqkv.named_attention import attention_like
from wqkv.record.inputs.cuts import Cut, cuts_of, put_together, rearranged, sources, unnormalized
from wqkv.record.inputs.moment import Before, CallSizes, Moment, Running
from wqkv.record.inputs.special_tokens import Special, special_tokens

#: Parts of models whose queries are no patches, whatever their number is: learned queries, groups,
#: channels, texts, frames.
_NO_PATCHES = re.compile(
    r"decoder|perceiver|latent|resampler|q_?former|predictor|pool|text|temporal|message|group"
    r"|xca|channel|covariance",
    re.IGNORECASE,
)
#: Modules that bring patches into a random order.
_SHUFFLED = re.compile("ViTMAE")
_CLASS_ATTENTION = re.compile(r"Class_?(Attn|Attention|Block)", re.IGNORECASE)


def read_patches(moment: Moment, sizes: CallSizes) -> Axes | None:
    """The patches of one picture per sample, with special tokens."""
    same = sizes.query_len == sizes.key_len
    listed = _listed(moment, sizes.key_len, sizes.batch)
    if listed is not None:
        pictures = cache(lambda: _pictures(moment, *listed))
        return Axes(pictures if same else known(None), pictures)
    own = _tower(moment, sizes.query_len, sizes.batch)
    if own is not None and same and sizes.cross:
        return None  # of two pictures that look at each other, nobody tells which is which
    if own is not None and _are_others(own):
        own = None
    if own is None and same and not sizes.cross:
        return None  # its keys are what its queries are
    others = own if same else _tower(moment, sizes.key_len, sizes.batch)
    if own is None and others is None:
        return None
    keys = known(None) if others is None else cache(lambda: _parts(moment, others))
    if own is not None:
        queries = keys if same else cache(lambda: _parts(moment, own))
    elif others is not None and sizes.query_len == 1 and _asks_by_class(moment, others):
        first = others.special.before[:1]
        queries = known([first] * sizes.batch)
    else:
        queries = known(None)
    return Axes(queries, keys)


class _Tower(NamedTuple):
    """The cut that explains a length, with the special tokens that stand beside its cells."""

    within: Sequence[Running]  # from the module that holds the cut and the attention to the latter
    cut: Cut
    special: Special


def _tower(moment: Moment, length: int, batch: int) -> _Tower | None:
    """What explains a length: the innermost module that holds such a cut and the attention."""
    if moment.before.moved or any(
        _SHUFFLED.search(type(one.module).__name__) for one in moment.modules
    ):
        return None
    cuts = cuts_of(moment.convolved)
    times = Counter(one.module for one in moment.convolved)
    for at, outer in reversed(list(enumerate(moment.modules))):
        within = moment.modules[at:]
        other = rearranged(outer)
        found = [
            tower
            for cut in [*cuts, *([] if other is None else [other])]
            if cut.batch == batch
            and math.prod(cut.cells) <= length
            # a model without a tower of its own may have cut two pictures before it reads one
            and (at or times[cut.module] < 2)
            if (tower := _explained(within, cut, length, moment.before)) is not None
        ]
        if found and _reads_text(outer):
            return None
        if len({tower.cut.cells for tower in found}) > 1:
            return None  # pictures of several shapes have as many cells
        if found:
            return found[-1]
    return None


def _explained(within: Sequence[Running], cut: Cut, length: int, before: Before) -> _Tower | None:
    """The tower whose cells, with all special tokens or with none, are as many as a length."""
    path = _path(within[0].module, cut.module)
    if path is None or any(_is_tower(module, within) for module in path[1:]):
        return None
    count = math.prod(cut.cells)
    first = _first(before.joined, count, length)
    if length == count:
        return _Tower(within, cut, Special((), ())) if first == {0} else None
    special = special_tokens(path)
    if special is None or length != count + special.total:
        special = _beside(first, length - count)
    if special is None:
        return None
    if first == {0} and len(special.before) == 1 and not special.after:  # [CLS] stands behind
        special = Special((), special.before)
    fits = first <= {sum(map(len, special.before))}
    return _Tower(within, cut, special) if fits else None


#: The most tokens without a known name that may stand beside patches.
_EXTRA = 8


def _beside(first: set[int], count: int) -> Special | None:
    """Tokens of which it is known how many stand before the patches, and not what they are."""
    before = min(first, default=-1)
    if len(first) != 1 or before < 0 or not 0 < count <= _EXTRA:
        return None
    names = [f"[extra {i}]" for i in range(count)]
    parts = (names[:before], names[before:])
    return Special(*(tuple(Axis(some) for some in (part,) if some) for part in parts))


def _first(joined: Sequence[Sequence[int]], count: int, length: int) -> set[int]:
    """At which positions of a length the first of `count` patches may stand.

    It is followed through what was put one behind the other; -1 if they were not put there whole.
    None, if nothing was: they may have been written into their places.
    """
    found = {0} if count == length else set[int]()
    for lengths in joined:
        if sum(lengths) != length or max(lengths) == length:
            continue
        found.discard(0)
        inner = [
            (sum(lengths[:at]), _first(joined, count, one))
            for at, one in enumerate(lengths)
            if count <= one
        ]
        starts = {at + one if one >= 0 else -1 for at, some in inner for one in some}
        found |= starts or {-1}
    return found


def _path(outer: nn.Module, inner: nn.Module) -> list[nn.Module] | None:
    """The modules from an outer one to that which holds an inner one; None if it does not."""
    name = next((name for name, module in outer.named_modules() if module is inner), "")
    parts = name.split(".")
    return [outer.get_submodule(".".join(parts[:n])) for n in range(len(parts))] if name else None


def _is_tower(module: nn.Module, within: Sequence[Running]) -> bool:
    """Whether a module is a tower or a stage of its own, in which the attention does not run."""
    running = any(one.module is module for one in within)
    # a list does not run, and may hold all that a tower is made of
    return not running and not isinstance(module, nn.ModuleList) and bool(attention_like(module))


def _reads_text(outer: Running) -> bool:
    """Whether a module was given a text beside a picture."""
    return any(
        x.ndim == 2 and "mask" not in name for name, x in outer.tensors(floating=False).items()
    )


def _are_others(own: _Tower) -> bool:
    """Whether the queries may be something else than patches, of which there are as many."""
    outer, *inner = own.within
    names = [one.name.removeprefix(outer.name) for one in inner]
    names += [type(one.module).__name__ for one in inner]
    return any(map(_NO_PATCHES.search, names))


def _asks_by_class(moment: Moment, others: _Tower) -> bool:
    """Whether one query is the class token, as in CaiT's last layers."""
    names = [type(one.module).__name__ for one in moment.modules]
    return bool(others.special.before) and any(map(_CLASS_ATTENTION.search, names))


def _parts(moment: Moment, tower: _Tower) -> Sequence[Parts]:
    """The axes of every sample."""
    cut, special = tower.cut, tower.special
    shown: Sequence[Tensor | None] = [None] * cut.batch
    if not moment.before.remade:
        shown = sources(cut, cuts_of(moment.convolved), moment.modules)
    return [
        (
            *special.before,
            Axis(
                math.prod(cut.cells),
                grid=cut.cells,
                source=None if one is None else unnormalized(one, moment.processor),
            ),
            *special.after,
        )
        for one in shown
    ]


# Patches that a processor has cut, as for SigLIP 2: pictures of several shapes, and padding


def _listed(moment: Moment, length: int, batch: int) -> tuple[Tensor, list[list[int]]] | None:
    """Patches (batch, length, height * width * channels), and rows and columns of each picture."""
    for one in reversed(moment.modules):
        shapes = one.given.get("spatial_shapes")
        texts = [one.given.get(name) for name in ("input_ids", "inputs_embeds")]
        if not isinstance(shapes, Tensor) or any(text is not None for text in texts):
            continue  # what runs in a model that reads a text too may be its text
        for x in one.tensors(floating=True).values():
            if x.ndim == 3 and tuple(x.shape[:2]) == (batch, length):
                return x, shapes.tolist()
    return None


def _pictures(
    moment: Moment, patches: Tensor, shapes: Sequence[Sequence[int]]
) -> Sequence[Parts] | None:
    side = math.isqrt(patches.shape[2] // 3)
    if patches.shape[2] != 3 * side**2 or max(map(math.prod, shapes)) > patches.shape[1]:
        return None
    found: list[Parts] = []
    for own, (rows, columns) in zip(patches, shapes, strict=True):
        count = rows * columns
        places = torch.arange(len(own), device="cpu")
        places[count:] = -1
        cut = own[:count].view(count, side, side, 3).movedim(-1, 1)
        picture = put_together(cut, (1, rows, columns), 1)[0]
        source = unnormalized(picture, moment.processor)
        found.append((Axis(count, grid=(rows, columns), source=source, places=places),))
    return found
