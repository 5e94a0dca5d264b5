"""A plan's pieces are disjoint, cover all that is visible, and say the truth about themselves."""

from __future__ import annotations

from unittest import mock

import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.properties.strategies import BATCH, HEADS, Masks, masks
from wqkv.attend.call import Call, request
from wqkv.attend.engines import plan as planning
from wqkv.attend.engines.memory import Memory
from wqkv.attend.engines.plan import Piece, visible_pieces
from wqkv.attend.geometry import Rect


def call_of(drawn: Masks, offset: int | torch.Tensor) -> Call:
    q, k = (torch.zeros(BATCH, HEADS, n, 1) for n in (drawn.query_len, drawn.key_len))
    return request(q, k, k, mask=drawn.masks[0], bias=None, scale=None, softcap=None, sinks=None,
                   dropout_p=0.0, query_offset=offset)  # fmt: skip


def complaints(pieces: list[Piece], seen: torch.Tensor, wide: int | None) -> list[str]:
    """What is untrue of a plan for what is seen, bool (batch, head, query, key)."""
    wrong = []
    covered = torch.zeros(seen.shape[0], *seen.shape[2:], dtype=torch.int)
    ranges: set[tuple[int, int, int]] = set()
    for piece in pieces:
        sample, q0, q1, k0, k1 = piece.rect
        samples = range(BATCH) if sample is None else [sample]
        if not (0 <= q0 < q1 <= seen.shape[2] and 0 <= k0 < k1 <= seen.shape[3]):
            wrong.append(f"{piece} is empty, or outside")
        touched = covered[samples, q0:q1].any(dim=-1)
        if piece.fresh and touched.any():
            wrong.append(f"{piece} is not fresh")
        if not piece.fresh and not touched.all():
            wrong.append(f"{piece} is fresh for some rows")
        if not piece.mixed and not seen[samples, :, q0:q1, k0:k1].all():
            wrong.append(f"{piece} is mixed")
        covered[samples, q0:q1, k0:k1] += 1
        ranges |= {(b, q0, q1) for b in samples}
    if covered.max() > 1:
        wrong.append("two pieces share a pair")
    if (seen.any(dim=1) & (covered == 0)).any():
        wrong.append("a visible pair is in no piece")
    rows = sum(q1 - q0 for _, q0, q1 in ranges)
    if wide is None and rows > int(covered.any(dim=-1).sum()):
        wrong.append("rectangles of one query have several ranges of queries")
    return wrong


@given(
    masks(depth=2, longest=67),
    st.integers(1, 9),
    st.sampled_from([None, 1, 8, 32]),
    st.none() | st.lists(st.integers(0, 9), min_size=BATCH, max_size=BATCH),
)
def test_a_plan_is_true(
    drawn: Masks, rows: int, wide: int | None, shifts: list[int] | None
) -> None:
    """With thresholds so small that short calls are cut as long ones are."""
    offset: int | torch.Tensor = drawn.query_offset
    among = not any("Segments" in repr(mask) for mask in drawn.masks)
    if shifts is not None and among:
        offset = drawn.query_offset + torch.tensor(shifts)
    small = {"ROWS": rows, "WIDE": wide or 8, "_pieces": Memory()}
    with mock.patch.multiple(planning, **small):
        pieces = visible_pieces(call_of(drawn, offset), wide=wide)
    seen = drawn.masks[0].dense(drawn.query_len, drawn.key_len, offset)
    assert complaints(pieces, seen.expand(BATCH, HEADS, -1, -1), wide) == []


def test_an_untrue_plan_is_found() -> None:
    seen = torch.ones(BATCH, HEADS, 4, 6).tril().bool()
    good = [Piece(Rect(None, 0, 4, 0, 4), True, True)]
    assert complaints(good, seen, 8) == []
    for bad in (
        [],
        [Piece(Rect(None, 0, 4, 0, 4), False, True)],
        [Piece(Rect(None, 0, 4, 0, 4), True, False)],
        [Piece(Rect(0, 0, 4, 0, 4), True, True)],
        [Piece(Rect(None, 0, 4, 0, 3), True, True)],
        [*good, Piece(Rect(1, 3, 4, 3, 4), False, False)],
        [*good, Piece(Rect(1, 3, 4, 4, 5), True, True)],
        [*good, Piece(Rect(1, 3, 4, 5, 5), True, False)],
    ):
        assert complaints(bad, seen, 8) != []
