"""Free memory goes back to the system where glibc keeps it."""

import sys

import pytest

from wqkv.effects import heap


def test_it_asks_the_c_library(monkeypatch):
    asked = []
    monkeypatch.setattr(heap, "_trim", lambda: asked.append)
    heap.give_back()
    assert asked == [0]


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has it")
def test_elsewhere_nothing_happens(monkeypatch):
    heap.give_back()
    monkeypatch.setattr(heap.sys, "platform", "darwin")
    heap._trim.cache_clear()
    try:
        assert heap._trim()(0) is None
    finally:
        heap._trim.cache_clear()
