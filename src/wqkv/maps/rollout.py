"""rollout: how much of an output comes from each input, through all layers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from wqkv.doors import door
from wqkv.errors import ArgumentError, message
from wqkv.maps.attention_map import AttentionMap


@door
def rollout(maps: Sequence[AttentionMap], vector: Tensor, residual: float = 0.5) -> Tensor:
    """Share of each input in an output: v <- residual v + (1 - residual) mean_h(P_h^T v).

    The last map comes first. Vector products only.

    Args:
        vector: (query_len,), how much of each output is asked about: 1 at one token, 0 elsewhere.

    Returns:
        (batch, key_len), how much of it comes from each input.

    Raises:
        ArgumentError: maps that are not of the same tokens, a vector of another length.

    Source: Abnar and Zuidema 2020 (arXiv:2005.00928), section 3, with the mean over heads.

    >>> import torch
    >>> q = torch.randn(3, 2, 5, 8)
    >>> rollout([AttentionMap(q, q), AttentionMap(q, q)], torch.eye(5)[4]).shape
    torch.Size([3, 5])
    """
    if not 0 <= residual <= 1:
        raise ArgumentError(
            f"`residual` is {residual}, the share that passes a layer by.\nPass 0 to 1."
        )
    if vector.ndim not in (1, 2) or not vector.is_floating_point():
        raise ArgumentError(
            message("`vector` is no vector of floats.", {"vector": vector}, "Pass (query_len,).")
        )
    flow = vector
    for layer, one in reversed(list(enumerate(maps))):
        batch, n_head, query_len, key_len = one.shape
        if not flow.shape[-1] == query_len == key_len:
            raise ArgumentError(
                f"Map {layer} has {query_len} queries and {key_len} keys, and {flow.shape[-1]} "
                "numbers flow back into it.\n"
                "Pass the maps of successive layers over the same tokens, and one number per token."
            )
        column = flow.expand(batch, query_len)[:, None, :, None].expand(-1, n_head, -1, 1)
        flow = residual * flow + (1 - residual) * one.t_times(column).squeeze(-1).mean(dim=1)
    return flow
