"""Which sample of a text holds given token ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from wqkv.errors import MissedError


def sample_with(
    ids: list[int], text: Tensor | None, ends: Sequence[int], sources: Iterable[Tensor]
) -> int:
    """Which sample of a text (batch, length) holds these token ids.

    Args:
        ends: the token ids that end a text, or fill what is left after its end.
        sources: the keys of the layers that look at another text.

    Raises:
        MissedError: none does, or it is not known which.
    """
    if text is None:
        raise MissedError(
            "Which token ids the samples hold is not known: the model read no `input_ids` from "
            "the text's beginning on, or some of its steps went by unseen."
        )
    count = max((n for n, one in enumerate(ids, 1) if one not in ends), default=0)
    read = ids[: min(count, len(ids) - 1)]  # a model never reads the last token that it writes
    texts = text.tolist()
    found = [sample for sample, one in enumerate(texts) if one[: len(read)] == read]
    if not found:
        raise MissedError(
            f"None of the {len(texts)} samples holds these {len(ids)} tokens: a beam that ends "
            "may give its place to another.\nTo see them, run the model on them under `watch`."
        )
    if any(not torch.equal(key[found], key[found][:1].expand_as(key[found])) for key in sources):
        raise MissedError(f"Samples {found} hold this text, and do not read the same source.")
    return found[0]
