"""Calls of FlexAttention that nobody compiled: mask_mod is a mask, score_mod gives the scores."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wqkv.attend.geometry import At, places
from wqkv.maps.proof import Proof
from wqkv.record.captured import CapturedCall, MaskReading
from wqkv.record.mask_pattern import of_function
from wqkv.record.operators.replay import rounding
from wqkv.record.prove_call import check
from wqkv.record.run import Run, Scored, replayed_run

#: The arguments of a foreign call by name.
Given = dict[str, Any]  # keyword arguments of torch's operators
#: The arguments of FlexAttention's operator.
FLEX = (
    "query", "key", "value", "score_mod", "block_mask", "scale", "kernel_options",
    "score_mod_other_buffers", "mask_mod_other_buffers",
)  # fmt: skip
#: How many rows are looked at to see whether a score_mod changes any score.
SAMPLED = 8


def read_flex(given: Given, output: Tensor) -> CapturedCall | Run:
    """q, k, v, the output and the mask; a run of its own if a score_mod changes the scores."""
    query, key, value = given["query"], given["key"], given["value"]
    batch, n_head, n, _ = query.shape
    m = key.shape[2]
    mask_mod, buffers = given["block_mask"][-1], given["mask_mod_other_buffers"]
    visible = of_function(lambda *at: mask_mod(*at, *buffers), batch, n, m, query.device)
    box = (slice(0, batch), n_head, slice(0, n), slice(0, m))
    if not _changes(given, places(box, 0, query.device)):
        return CapturedCall(
            query, key, value, output, [MaskReading(visible)], cross=False, stored_keys=False,
            scale=given["scale"], softcap=None, sinks=None, bias=None, causal=False, window=None,
        )  # fmt: skip

    def scores() -> Scored:
        q, k = query.double(), key.double()
        product = q @ k.repeat_interleave(n_head // key.shape[1], dim=1).mT * given["scale"]
        found = _modified(given, product, places(box, 0, query.device))
        return Scored(found.masked_fill(~visible.whole(), -torch.inf), 0)

    found = scores().matrix
    v = value.double().repeat_interleave(n_head // value.shape[1], dim=1)
    ours, theirs = found.softmax(dim=-1).nan_to_num() @ v, output.double()
    largest = float(found.masked_fill(found == -torch.inf, 0).abs().max())
    tolerance = rounding(output, value, largest)
    proof = check(Proof.compare(ours, theirs, tolerance, batch * n))
    return replayed_run((batch, n_head, n, m), scores, proof, "", output)


def _modified(given: Given, scores: Tensor, at: At) -> Tensor:
    """What the score_mod makes of scores."""
    buffers = given["score_mod_other_buffers"]
    found: Tensor = given["score_mod"](scores, at.batch, at.head, at.row, at.key_pos, *buffers)
    return found.expand_as(scores)


def _changes(given: Given, at: At) -> bool:
    """Whether the score_mod changes any score, as some rows of every head show."""
    step = max(1, at.row.shape[2] // SAMPLED)
    some = at._replace(row=at.row[:, :, ::step], query_pos=at.query_pos[:, :, ::step])
    shape = torch.broadcast_shapes(
        some.batch.shape, some.head.shape, some.row.shape, at.key_pos.shape
    )
    for number in (-1.5, 2.0):  # two, because a score_mod may leave one as it is, as relu does
        scores = given["query"].new_full(shape, number)
        if not torch.equal(_modified(given, scores, some), scores):
            return True
    return False
