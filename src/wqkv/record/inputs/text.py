"""Token ids as an axis: the tokens of a text."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from wqkv.maps.axis import Axes, Axis, Parts, known
from wqkv.record.inputs.moment import OTHER_TEXTS, CallSizes, Embedded, Moment, Running


def read_text(moment: Moment, sizes: CallSizes) -> Axes | None:
    """The queries, and the keys if they are the same, as the tokens of a text."""
    ids = token_ids(moment, sizes.query_len, sizes.batch)
    if ids is None:
        return None

    @cache
    def find() -> Sequence[Parts]:
        return [
            (Axis(labels_of(row, moment.processor)),)
            for row in ids.expand(sizes.batch, -1).tolist()
        ]

    own = not sizes.cross and sizes.query_len == sizes.key_len
    return Axes(find, find if own else known(None))


def token_ids(moment: Moment, length: int, batch: int) -> Tensor | None:
    """The token ids (batch | 1, length) that the text is made of, if they are known."""
    for one in reversed(moment.modules):
        found, sure = _texts(one)
        turned = [_turned(x, moment, length, batch) for x in found]
        fitting = [x for x in turned if x.shape[1] == length and x.shape[0] in (1, batch)]
        others = [x for name, x in one.tensors(floating=True).items() if not _is_other(name)]
        # What is looked up nowhere may be numbers beside the text, or beside something else.
        if not sure and (moment.before.embedded or others):
            fitting = [x for x in fitting if _is_embedded(x, moment)]
        # a part that reads the picture of the same call may happen to be as long as its text
        beside = any(name.startswith("pixel_values") for name in one.given)
        if fitting and beside and _SEES.search(moment.modules[-1].name):
            return None
        if fitting and others and _may_be_patches(fitting[0], moment):
            return None
        if fitting:
            known = _are_alike(fitting) and not _either_way(moment, fitting[0])
            return None if not known or _is_reordered(fitting[0], moment, batch) else fitting[0]
        if others:
            return None  # it reads a picture or a sound
    return None


def _texts(one: Running) -> tuple[list[Tensor], bool]:
    """Tensors that may be token ids; if any are called so, they alone, and True."""
    whole = {name: x for name, x in one.tensors(floating=False).items() if x.ndim == 2}
    named = [x for name, x in whole.items() if name.endswith("input_ids")]
    return named or [x for name, x in whole.items() if not name.endswith(_NOT_IDS)], bool(named)


#: Parts of a model that read pictures, by their names.
_SEES = re.compile(r"vision|visual|image|perceiver|resampler|q_?former|connector", re.IGNORECASE)
#: Arguments of whole numbers (batch, length) that are no token ids.
_NOT_IDS = ("mask", "position_ids", "type_ids", "labels", "positions", "grid_thw", "offsets")


def _is_other(name: str) -> bool:
    """Whether an argument of floats tells nothing of what the queries are."""
    return name in OTHER_TEXTS or "mask" in name


def _is_embedded(ids: Tensor, moment: Moment) -> bool:
    return bool(_lookups(ids, moment))


def _lookups(ids: Tensor, moment: Moment) -> list[Embedded]:
    """When token ids were looked up."""
    return [
        one
        for one in moment.before.embedded
        if _are_alike([ids, one.ids]) or _are_alike([ids, one.ids.mT])
    ]


def _may_be_patches(ids: Tensor, moment: Moment) -> bool:
    """Whether a picture that was cut since a text was looked up has about as many cells."""
    since = next((one.convolved for one in reversed(_lookups(ids, moment))), 0)
    cells = [math.prod(one.made[2:]) for one in moment.convolved[since:] if len(one.made) > 3]
    return any(count <= ids.shape[1] <= count + _SPECIAL for count in cells)


#: The most special tokens that may stand beside patches.
_SPECIAL = 8


def _is_reordered(ids: Tensor, moment: Moment, batch: int) -> bool:
    """Whether hidden states as long as a text were put together since it was looked up, or moved.

    They may be those of the text no more.
    """
    length = ids.shape[1]
    joined, moved = next((one[2:] for one in reversed(_lookups(ids, moment))), (0, 0))
    return any(sum(lengths) == length for lengths in moment.before.joined[joined:]) or any(
        len(shape) == 3 and shape[:2] == (batch, length) for shape in moment.before.moved[moved:]
    )


def _are_alike(some: Sequence[Tensor]) -> bool:
    """Whether these are the same numbers, though of other types or on other devices."""
    first, *rest = (x.to("cpu", torch.int64) for x in some)
    return all(torch.equal(x, first) for x in rest)


def _turned(ids: Tensor, moment: Moment, length: int, batch: int) -> Tensor:
    """Token ids (batch, length), which torch's attention also takes as (length, batch)."""
    turns = _is_time_major(moment) and length != batch and ids.shape == (length, batch)
    return ids.mT if turns else ids


def _either_way(moment: Moment, ids: Tensor) -> bool:
    """Whether it is not known which axis of token ids is that of the text."""
    return _is_time_major(moment) and len(ids) == ids.shape[1] > 1


def _is_time_major(moment: Moment) -> bool:
    module = moment.modules[-1].module
    return isinstance(module, nn.MultiheadAttention) and not module.batch_first


def labels_of(ids: Sequence[int], processor: Any) -> list[str]:  # a foreign tokenizer or processor
    """The name of each token: as a tokenizer writes it, or its number."""
    tokenizer = getattr(processor, "tokenizer", processor)
    if not hasattr(tokenizer, "decode"):
        return list(map(str, ids))
    return [_label(one, tokenizer) for one in ids]


def _label(token: int, tokenizer: Any) -> str:  # a foreign tokenizer
    found = str(tokenizer.decode([token]))
    if found and "\ufffd" not in found:
        return found
    # a special token, or a part of a letter, has a name in the vocabulary
    if hasattr(tokenizer, "convert_ids_to_tokens"):
        return str(tokenizer.convert_ids_to_tokens([token])[0])
    return str(tokenizer.id_to_token(token)) if hasattr(tokenizer, "id_to_token") else found
