"""Patches that stand one behind the other, row by row: ViT and what came of it.

A tower cuts a picture by a convolution, flattens what it made and puts special tokens beside it. So
a length is explained by the size of what was cut, and by the parameters that the tower holds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from torch import nn

from wqkv.maps.axis import Axes, Axis, Parts, known
from wqkv.named_attention import attention_like
from wqkv.record.inputs.cuts import Cut, cuts_of, rearranged, sources, unnormalized
from wqkv.record.inputs.moment import CallSizes, Moment, Running
from wqkv.record.inputs.special_tokens import Special, special_tokens

#: Parts of models whose queries are no patches, whatever their number is: learned queries, groups,
#: channels, words, the frames of one patch.
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
    own = _tower(moment, sizes.query_len, sizes.batch)
    if own is not None and _are_others(moment, own):
        own = None
    alike = own is not None and sizes.query_len == sizes.key_len
    others = own if alike else _tower(moment, sizes.key_len, sizes.batch)
    if own is None and others is None:
        return None
    if own is None and not sizes.cross and sizes.query_len == sizes.key_len:
        return None  # its keys are what its queries are
    keys = known(None) if others is None else cache(lambda: _parts(moment, others))
    if own is not None:
        queries = keys if alike else cache(lambda: _parts(moment, own))
    elif others is not None and sizes.query_len == 1 and _asks_by_class(moment, others):
        first = others.special.before[:1]
        queries = known([first] * sizes.batch)
    else:
        queries = known(None)
    return Axes(queries, keys)


class _Tower(NamedTuple):
    """The cut that explains a length, with the special tokens that stand beside its cells."""

    outer: Running  # the module that holds both what has cut and the attention
    cut: Cut
    special: Special


def _tower(moment: Moment, length: int, batch: int) -> _Tower | None:
    """What explains a length: the innermost module that holds such a cut and the attention."""
    if any(_SHUFFLED.search(type(one.module).__name__) for one in moment.modules):
        return None
    cuts = cuts_of(moment.convolved)
    for outer in reversed(moment.modules):
        inside = [cut for cut in cuts if _path(outer, cut.name) is not None]
        other = rearranged(outer)
        found = [
            tower
            for cut in inside + ([] if other is None else [other])
            if cut.batch == batch and (tower := _explained(moment, outer, cut, length)) is not None
        ]
        if found and _reads_text(outer):
            return None
        if len({tower.cut.cells for tower in found}) > 1:
            return None  # pictures of several shapes have as many cells
        if found:
            return found[-1]
    return None


def _explained(moment: Moment, outer: Running, cut: Cut, length: int) -> _Tower | None:
    count = math.prod(cut.cells)
    if not 0 <= length - count <= length // 2 + 1000:
        return None
    path = _path(outer, cut.name)
    if path is None or any(_is_tower(moment, module) for module in path[1:]):
        return None
    special = special_tokens(path)
    if length == count:
        return _Tower(outer, cut, Special((), ()))
    if special is None or length != count + special.total:
        return None
    return _Tower(outer, cut, special)


def _path(outer: Running, name: str) -> list[nn.Module] | None:
    """The modules from an outer one to what holds the module `name`, which is inside; or None."""
    prefix = f"{outer.name}." if outer.name else ""
    if not name.startswith(prefix):
        return None
    found = [outer.module]
    for part in name[len(prefix) :].split(".")[:-1]:
        found.append(getattr(found[-1], part))
    return found


def _is_tower(moment: Moment, module: nn.Module) -> bool:
    """Whether a module is a tower or a stage of its own, in which the attention does not run."""
    running = any(one.module is module for one in moment.modules)
    # a list does not run, and may hold all that a tower is made of
    return not running and not isinstance(module, nn.ModuleList) and bool(attention_like(module))


def _reads_text(outer: Running) -> bool:
    """Whether a module was given a text beside a picture."""
    return any(
        x.ndim == 2 and "mask" not in name for name, x in outer.tensors(floating=False).items()
    )


def _are_others(moment: Moment, own: _Tower) -> bool:
    """Whether the queries may be something else than patches, of which there are as many."""
    modules = list(moment.modules)
    within = modules[modules.index(own.outer) + 1 :]
    names = [one.name[len(own.outer.name) :] for one in within]
    names += [type(one.module).__name__ for one in within]
    return any(map(_NO_PATCHES.search, names))


def _asks_by_class(moment: Moment, others: _Tower) -> bool:
    """Whether one query is the class token, as in CaiT's last layers."""
    names = [type(one.module).__name__ for one in moment.modules]
    return bool(others.special.before) and any(map(_CLASS_ATTENTION.search, names))


def _parts(moment: Moment, tower: _Tower) -> Sequence[Parts]:
    """The axes of every sample."""
    cut, special = tower.cut, tower.special
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
