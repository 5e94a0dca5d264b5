"""The cost model of docs/scale.md says what the ranks do."""

from __future__ import annotations

import pytest

from benchmarks.ranks import FAR, GPUS, LONG, NEAR, WAYS, Machine, Work, cost, gpus
from tests.parallel.costs import WORK


def test_bytes_and_memory(found):
    """Bytes are those that are sent; what a rank holds falls as ranks are added."""
    size = len(found)
    for way in WAYS:
        said = cost(WORK, size, way, FAR)
        assert max(mine["costs"][way]["sent_bytes"] for mine in found) == said.sent
        held = max(mine["costs"][way]["held_bytes"] for mine in found)
        assert held < 1.6 * said.memory, way
        assert said.memory < 0.65 * cost(WORK, size // 2, way, FAR).memory or way == "AllToAll"
    assert cost(WORK, 4, "AllToAll", FAR).memory < 0.6 * cost(WORK, 1, "AllToAll", FAR).memory
    assert all(mine["costs"]["link"]["bytes_a_second"] > 0 for mine in found)


def test_a_ring_hides_what_it_sends():
    work = Work(1024, n_head=8, n_kv_head=2, d=64)
    slow = Machine(flops=1e9, sent=1e15)
    for way in WAYS:
        assert cost(work, 4, way, slow).seconds == pytest.approx(work.flops / 4e9)
    ring, heads = (cost(work, 4, way, Machine(flops=1e18, sent=1e6)) for way in WAYS)
    assert (ring.sent, heads.sent) == (3 * 256 * 2 * 512, 3 * 256 * (2 + 1) * 512)
    assert ring.seconds == ring.sent / 1e6 < heads.seconds


def test_the_table_of_gpus():
    rows = gpus()
    assert {row["GPUs"] for row in rows if row["way"] == "Ring"} == set(GPUS)
    assert max(row["GPUs"] for row in rows if row["way"] == "AllToAll") == LONG.n_head
    near = next(row for row in rows if row["GPUs"] == 8 and row["way"] == "Ring")
    assert near["seconds"] == cost(LONG, 8, "Ring", NEAR).seconds
