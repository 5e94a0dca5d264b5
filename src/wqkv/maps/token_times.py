"""token_times: when each token of a text was spoken, by where cross-attention looks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from wqkv.doors import door
from wqkv.errors import ArgumentError
from wqkv.maps.attention_map import AttentionMap
from wqkv.maps.axis import Axis
from wqkv.maps.picks import pick

#: A weight is replaced by the median of this many neighbors in time.
MEDIAN = 7


@door
def token_times(
    maps: Sequence[AttentionMap],
    heads: Sequence[Sequence[int]],
    tokens: Sequence[int],
    *,
    until: float | None = None,
    sample: int = 0,
) -> Tensor:
    """When each token was spoken: begin and end in seconds, (len(tokens), 2).

    The weights of some heads of cross-attention are standardized over the queries, smoothed by a
    median over 7 positions and averaged over the heads. Dynamic time warping finds the path of the
    largest sum through this matrix, from the first token at the first position to the last token at
    the last position, that never goes back. A token begins where the path enters its row, and ends
    where the next one begins. A token's row is that of the query that wrote it, the one before it.
    What has several tokens begins with the first and ends with the last of them.

    The times are those of openai-whisper. `return_token_timestamps` of transformers 5.23 leaves out
    the query that writes the first token, so that each token has the time of the next one.

    Args:
        maps: the maps of cross-attention, one per layer of the decoder. Their keys are one Axis
            with `seconds`.
        heads: (layer of the decoder, head) of those that follow the sound, such as Whisper's
            `generation_config.alignment_heads`.
        tokens: the positions of the spoken tokens among the queries, one behind the other. The
            first has a token before it. The last may be the one that the last query wrote.
        until: seconds of the sound; what comes behind is padding. None is the length of the wave
            form that the keys have as `source`, or else all positions.

    Raises:
        ArgumentError: maps of other texts, no such head or token, keys that are no sound.

    Source: Radford et al. 2022 (arXiv:2212.04356) and openai-whisper's timing.py; Sakoe and Chiba
    1978 (doi:10.1109/TASSP.1978.1163055), dynamic time warping.

    >>> import torch
    >>> from wqkv import AttentionMap, Axis
    >>> q = torch.eye(3)[None, None]
    >>> k = 9 * q.repeat_interleave(torch.tensor([10, 20, 20]), dim=2)
    >>> looks = AttentionMap(q, k).on(keys=Axis(50, seconds=0.02))
    >>> token_times([looks], [(0, 0)], range(1, 4))
    tensor([[0.0000, 0.2000],
            [0.2000, 0.6000],
            [0.6000, 1.0000]])
    """
    if not maps or any(one.shape != maps[0].shape for one in maps):
        shapes = ", ".join(str(one.shape) for one in maps) or "none"
        raise ArgumentError(
            f"`maps` have the shapes {shapes}.\n"
            "Pass the cross-attention of each layer of the decoder, all of one text and one sound."
        )
    batch, n_head, query_len, _ = maps[0].shape
    (sample,), _ = pick(sample, batch, "batch")
    for pair in heads:
        if len(pair) != 2 or not 0 <= pair[0] < len(maps) or not 0 <= pair[1] < n_head:
            raise ArgumentError(
                f"`heads` holds {tuple(pair)}; there are {len(maps)} layers of {n_head} heads.\n"
                "Pass pairs (layer of the decoder, head), both from 0."
            )
    if not heads:
        raise ArgumentError("`heads` is empty.\nPass at least one pair (layer, head).")
    line = list(tokens)
    if not line or line != list(range(line[0], line[0] + len(line))):
        raise ArgumentError(
            f"`tokens` are {line}.\nPass positions that follow each other, as range(2, 7)."
        )
    if not 1 <= line[0] <= line[-1] <= query_len:
        raise ArgumentError(
            f"`tokens` goes from {line[0]} to {line[-1]}, and the {query_len} queries write the "
            f"tokens 1 to {query_len}: the first query writes token 1.\nPass some of these."
        )
    axis, seconds = _sound(maps[0], sample)
    count = axis.count
    if until is None and isinstance(axis.source, tuple):
        until = len(axis.source[0]) / axis.source[1]
    if until is not None:
        if not seconds <= until < math.inf:
            raise ArgumentError(
                f"`until` is {until:g} s, and one position lasts {seconds:g} s.\n"
                f"Pass {seconds:g} or more."
            )
        count = min(count, int(until / seconds + 1e-6))  # of a position that is cut, nothing
    looks = torch.stack([axis.cells(maps[layer][sample, head]) for layer, head in heads])
    gain = _aligned(looks[..., :count])
    # one row more, if there is one: it takes the time behind the last token
    begins = path(gain[line[0] - 1 : line[-1] + 1])
    ends = [*begins[1:], count]
    found = torch.tensor([begins, ends], device=looks.device) * seconds
    return found.T[: len(line)].contiguous()


def _sound(one: AttentionMap, sample: int) -> tuple[Axis, float]:
    """What the keys of a sample are, which is one sound, and how long a position lasts."""
    keys = one.keys[sample] if isinstance(one.keys, list) else one.keys
    if not isinstance(keys, Axis) or keys.seconds is None:
        raise ArgumentError(
            f"The keys of the first map are {keys}, and not one sound.\n"
            f"Name them: map.on(keys=wqkv.Axis({one.shape[3]}, seconds=...))."
        )
    return keys, keys.seconds


def _aligned(looks: Tensor) -> Tensor:
    """How strongly each query looks at each position: (query_len, positions).

    Args:
        looks: the weights of some heads (heads, query_len, positions), NaN where no key stands.
    """
    weights = looks.nan_to_num(0).double()
    weights = weights / weights.sum(dim=2, keepdim=True).clamp(min=1e-30)
    deviation, mean = torch.std_mean(weights, dim=1, keepdim=True, correction=0)
    # a position that all queries weigh alike tells nothing
    weights = (weights - mean) / deviation.where(deviation > 0, torch.ones_like(deviation))
    side = MEDIAN // 2
    if weights.shape[2] > side:
        around = F.pad(weights, (side, side), mode="reflect").unfold(2, MEDIAN, 1)
        weights = around.median(dim=-1).values
    return weights.mean(dim=0)


def path(gain: Tensor) -> list[int]:
    """The column at which the path of the largest sum of `gain` (rows, columns) enters each row.

    The path goes from the first row and column to the last ones, and one step moves on by a row, a
    column, or both.
    """
    cost = -gain.double()
    rows, columns = cost.shape
    before = cost.new_full((columns,), torch.inf)  # the least cost up to each column of a row
    diagonal = before.clone()  # the same up to the column before it
    diagonal[0] = 0.0
    entered, above = cost.new_empty((2, rows, columns), dtype=torch.long)
    for row in range(rows):
        # Entering at column e and ending at j costs enter[e] + sums[j] - sums[e - 1].
        sums = cost[row].cumsum(0)
        above[row] = before < diagonal
        least, entered[row] = (torch.minimum(before, diagonal) - sums + cost[row]).cummin(0)
        before = least + sums
        diagonal = before.roll(1)
        diagonal[0] = torch.inf
    found, at = list[int](), columns - 1
    for columns_in, steps in zip(entered.flip(0).tolist(), above.flip(0).tolist(), strict=True):
        found.append(columns_in[at])
        at = found[-1] if steps[found[-1]] else found[-1] - 1
    return found[::-1]
