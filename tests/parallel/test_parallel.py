"""Attention over 2 and 4 ranks of gloo is that of one process, for every mask and rule."""

from __future__ import annotations

import re

from tests.parallel import jobs


def test_every_mask_and_rule_equals_one_process(found):
    for mine in found:
        assert len(mine["equal_one_process"]) == len(jobs.cases(len(found))) * len(jobs.WAYS)
        assert [name for name, worst in mine["equal_one_process"] if not worst < 1e-12] == []


def test_layers_equal_one_process(found):
    for mine in found:
        assert len(mine["layers"]) == 3 * len(jobs.WAYS)
        assert [name for name, worst in mine["layers"] if not worst < 1e-11] == []


def test_heads_over_ranks_equal_one_process(found):
    for mine in found:
        assert len(mine["heads"]) == 5
        assert [name for name, worst in mine["heads"] if not worst < 1e-10] == []


def test_matrices_that_torch_shares_equal_one_process(found):
    for mine in found:
        assert len(mine["torchs_heads"]) == 7
        assert [name for name, worst in mine["torchs_heads"] if not worst < 1e-10] == []


#: What is said on 2 ranks and on 4, which differs where the numbers do.
REFUSED = [
    "`sinks` is for 4 heads, and there are {0}.",
    "ALiBi is made for 4 heads, and the call has {0}.",
    "The norm is over 'each head' of 4 heads, and there are {0}.",
    "The norm is over 'projection' of 4 heads, and there are {0}.",
    "The norm is over 'projection' of 4 heads, and there are {0}.",
    "The gate is for 4 heads, and there are {0}.",
    "WQ gives {0} of 4 heads, and WK 4 of 4.",
    "A projection gives {1} numbers per token: no whole heads of 6.",
    "A projection gives {2} numbers per token: no whole heads of 6.",
    "WQ gives {0} of 4 heads, and WK 4 of 4.",
    "WQ gives {3} of 8 heads, and WK 2 of 2.",
    "WQ gives {3} of 8 heads, and DifferentialAttention needs all: its first maps stand ",
    "WQ gives {0} of 4 heads, and WK 4 of 4.",
    "`WK` is whole, and there are {0} of 4 heads: its gradient would be this rank's part",
    "`q_norm` is whole, and there are {0} of 4 heads: its gradient would be this rank's part",
    "`WC` is whole, and there are {0} of 4 heads: its gradient would be this rank's part",
    "ArgumentError: The 1 heads of `persistent_k` make no equal shares for {4} ranks.",
]


def test_matrices_that_are_no_share_of_a_layer(found):
    numbers = {2: (2, 9, 3, 4, 2), 4: (1, 5, 2, 2, 4)}[len(found)]
    for mine in found[:1]:
        assert len(mine["refused_heads"]) == len(REFUSED)
        for said, expected in zip(mine["refused_heads"], REFUSED, strict=True):
            assert said.startswith(expected.format(*numbers)), said


def test_with_fsdp_checkpointing_and_compile(found):
    for mine in found:
        assert [name for name, _ in mine["together"]] == [
            "plain", "again", "fsdp", "fsdp, again", "compiled"
        ]  # fmt: skip
        assert [name for name, worst in mine["together"] if not worst < 1e-9] == []


def test_heads_saved_on_four_ranks_load_on_two_and_one(ranks, tmp_path):
    ranks(4, jobs.save_heads, str(tmp_path))
    for size in (2, 1):
        for difference in ranks(size, jobs.load_heads, str(tmp_path)):
            assert difference < 1e-12


def test_other_lengths_and_half_precision(found):
    ways = len(jobs.WAYS)
    for mine in found:
        exact, half = mine["other_lengths"][:ways], mine["other_lengths"][ways:]
        assert max(exact) < 1e-12 and max(half) <= 2**-7


def test_bytes_sent_are_those_of_the_formula(found):
    for name in found[0]["sent"]:
        counted, said = zip(*(mine["sent"][name] for mine in found), strict=True)
        assert max(counted) == said[0], name
    near, far = (
        max(mine["sent"][f"{mask} Ring contiguous"][0] for mine in found)
        for mask in ("window", "full")
    )
    # three words for one neighbour, against all words for all others
    assert near / far == 3 / (jobs.N // len(found) * (len(found) - 1))


def test_errors_name_the_numbers(found):
    size = len(found)
    says = (
        f"Lengths has a length of 99, but there are {7 * size} keys",
        "A ring has no dropout",
        f"{size + 1} heads do not make {size} equal shares.*mesh=Ring",
        "A ring has no dropout",
        "`layout` is 'spiral'.*'contiguous' or 'zigzag'",
        f"7 tokens do not make {size} equal parts.*Pad the text to 8",
        "keeps no cache",
        "with a mesh and persistent keys has no map.*layer.mesh to None",
    )
    for mine in found:
        for text, say in zip(mine["complaints"], says, strict=True):
            assert re.search(f"(?s){say}", text), text


def test_a_rank_that_dies_ends_the_others_with_a_sentence(ranks):
    *others, dead = ranks(3, jobs.one_dies, timeout_s=10)
    assert dead is None
    for rank, text in enumerate(others):
        assert f"Rank {rank} of 3 lost its connection: another has ended" in text
