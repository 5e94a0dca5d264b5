"""Token ids as an axis: the tokens of a text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from torch import Tensor

from wqkv.maps.axis import Axes, Axis, Parts, known
from wqkv.record.inputs.moment import OTHER_TEXTS, CallSizes, Moment, Running


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
        found = [x for x in _texts(one) if x.shape[1] == length and x.shape[0] in (1, batch)]
        if found:
            # a part that reads the picture of the same call may happen to be as long as its text
            beside = any(name.startswith("pixel_values") for name in one.given)
            return None if beside and _SEES.search(moment.modules[-1].name) else found[0]
        if one.tensors(floating=True).keys() - set(OTHER_TEXTS):
            return None  # it reads a picture or a sound
    return None


def _texts(one: Running) -> list[Tensor]:
    """Tensors that may be token ids, those that are called so first."""
    whole = one.tensors(floating=False)
    named = [x for name, x in whole.items() if name.endswith("input_ids") and x.ndim == 2]
    return named or [x for name, x in whole.items() if x.ndim == 2 and not name.endswith(_NOT_IDS)]


#: Parts of a model that read pictures, by their names.
_SEES = re.compile(r"vision|visual|image|perceiver|resampler|q_?former|connector", re.IGNORECASE)
#: Arguments of whole numbers (batch, length) that are no token ids.
_NOT_IDS = ("mask", "position_ids", "type_ids", "labels", "positions", "grid_thw", "offsets")


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
