"""Spread on 2 and 4 ranks of gloo is one process: every layer, every way to cut a text."""

from __future__ import annotations

import math
import re

import pytest
import torch

from tests.parallel import decoding


@pytest.fixture(scope="module", params=[2, 4])
def found(request, ranks):
    """Every rank's results."""
    return ranks(request.param, decoding.everything)


def test_every_step_equals_one_process(found):
    cases = sum(len(decoding.ways(name)) for name in decoding.layers())
    for mine in found:
        assert len(mine["steps"]) == cases
        assert [name for name, (worst, _) in mine["steps"].items() if not worst < 1e-12] == []


def test_every_rank_gets_the_same_bits(found):
    first, *others = (mine["steps"] for mine in found)
    for other in others:
        assert [name for name in first if not torch.equal(first[name][1], other[name][1])] == []


def test_half_precision(found):
    """At most twice the error of one process."""
    for mine in found:
        assert len(mine["half"]) == 8
        for name, (ours, theirs) in mine["half"].items():
            assert ours <= 2 * theirs, name


def test_masks_of_a_call_are_over_all_keys(found):
    for mine in found:
        assert len(mine["masks_of_a_call"]) == 3 * 4 * len(decoding.BLOCKS)
        assert max(mine["masks_of_a_call"]) < 1e-12


def test_generation(found):
    for mine in found:
        ours, theirs = mine["generation"]
        assert ours == theirs and len(ours[0]) == 35
        assert len(set(ours[0])) > 3  # a model that says one word would prove little


def test_heads_over_ranks_too(found):
    for mine in found:
        assert mine["with_heads"] < 1e-12


def test_samples(found):
    for mine in found:
        assert len(mine["samples"]) == 7 * 2 * len(decoding.BLOCKS)
        assert max(mine["samples"]) < 1e-12


def test_each_keeps_its_share(found):
    size = len(found)
    for block in decoding.BLOCKS:
        kept = [mine["shares"][block] for mine in found]
        for length, counts in enumerate(zip(*kept, strict=True), 1):
            assert sum(counts) == length
            assert max(counts) <= math.ceil(math.ceil(length / block) / size) * block
    assert max(mine["shares"][1][-1] for mine in found) == math.ceil(decoding.N / size)


def test_bytes_sent_are_those_of_the_formula(found):
    for mine in found:
        assert len(mine["sent"]) == 3 * 3 * 2
        assert [name for name, (bytes_, said) in mine["sent"].items() if bytes_ != said] == []


def test_gradients_are_refused(found):
    for mine in found:
        keys, queries = mine["complaints"]
        assert re.search(r"(?s)ArgumentError: Spread writes into its memory.*no_grad", keys)
        assert re.search(
            r"(?s)ArgumentError: .*no gradient comes back.*out: f64\[2, 4, 3, 4\].*no_grad", queries
        )


def test_files_of_four_ranks(ranks, tmp_path):
    """They load on four ranks, each its own, and on two not at all."""
    folder = str(tmp_path)
    for rank, (worst, heard, wrong) in enumerate(ranks(4, decoding.save, folder)):
        assert worst < 1e-12 and heard == "nothing"
        other = (rank + 1) % 4
        assert f"written by rank {other} of 4, and this is rank {rank} of 4" in wrong
    for rank, (_, heard, _) in enumerate(ranks(2, decoding.load, folder)):
        assert f"written by rank {rank} of 4, and this is rank {rank} of 2" in heard
