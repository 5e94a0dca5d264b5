"""Ranks that do not ask for the same all raise, and nothing is left in flight."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch

from tests.parallel import agreeing
from wqkv import Causal, Dense, Segments
from wqkv.attend.call import request
from wqkv.attend.masks.algebra import Mask
from wqkv.attend.parallel import agreement
from wqkv.attend.parallel import all_to_all as heads
from wqkv.errors import ArgumentError


@pytest.fixture(scope="module", params=[2, 4])
def found(request, ranks):
    """Every rank's results."""
    return ranks(request.param, agreeing.everything)


#: What is named, and what the usual ranks and the other say.
SAID = {
    "dtype": ("`query`, `key`, `value`", r"f64\[2, 4, ", r"f32\[2, 4, "),
    "batch": ("`query`, `key`, `value`", r"f64\[2, 4", r"f64\[3, 4"),
    "heads": ("`query`", r"f64\[2, 4, ", r"f64\[2, 8, "),
    "kv_heads": ("`key`, `value`", r"key f64\[2, 2, ", r"key f64\[2, 4, "),
    "d_k": ("`query`, `key`, `scale`", "6] on cpu", "7] on cpu"),
    "d_v": ("`value`", "5] on cpu", "6] on cpu"),
    "length": ("`query`, `key`, `value`", r"f64\[2, 4, (6|3), 6\]", r"f64\[2, 4, (12|6), 6\]"),
    "mask": ("`mask`", r"mask Causal\(\)", r"mask Window\(before=3, after=0\)"),
    "labels": ("`mask`", r"Segments\(i64\[1, 12\] on cpu\) #\w{8}", r"Segments.* #\w{8}"),
    "matrix": ("`mask`", r"Dense\(bool\[1, 1, 12, 12\] on cpu\) #\w{8}", r"Dense.* #\w{8}"),
    "lengths": ("`mask`", r"Lengths\(\[5, 6\]\)", r"Lengths\(\[5, 7\]\)"),
    "bias": ("`bias`", "bias None", r"bias T5Bias\(f64\[8, 4\]"),
    "slopes": ("`bias`", r"ALiBi\(f64\[4\] on cpu\) #\w{8}", r"ALiBi.* #\w{8}"),
    "scale": ("`scale`", "scale 0.408", "scale 0.5"),
    "softcap": ("`softcap`", "softcap None", "softcap 3.0"),
    "sinks": ("`sinks`", r"sinks f64\[4\] on cpu #\w{8}", r"sinks f64\[4\] on cpu #\w{8}"),
    "query_offset": ("`query_offset`", "query_offset 0", r"query_offset i64\[2\] on cpu #"),
    "gradients": ("`gradients`", "gradients none", "gradients wanted"),
}


def sides(text, size, usual, other):
    """Whether every rank but the second says one thing, and the second another."""
    first = "Rank 0" if size == 2 else "Ranks 0, 2 and 3"
    return re.search(f"(?s)\n  {first}: [^\n]*{usual}.*\n  Rank 1: [^\n]*{other}", text)


def test_calls_that_differ_raise_on_every_rank(found):
    assert SAID.keys() == agreeing.differences().keys()
    for mine in found:
        assert len(mine["differing"]) == len(agreeing.WAYS) * len(SAID) + 2
        for way in agreeing.WAYS:
            for name, (names, usual, other) in SAID.items():
                text, _ = mine["differing"][f"{way} {name}"]
                assert text.startswith(f"ArgumentError: The ranks disagree about {names}.\n"), text
                assert sides(text, len(found), usual, other), text
                assert text.endswith("Ask for the same on every rank.")
        for name, usual, other in (
            ("layout", "attention by Ring, contiguous", "attention by Ring, zigzag"),
            ("way", "attention by Ring, contiguous", "attention by AllToAll, contiguous"),
        ):
            text, _ = mine["differing"][name]
            assert text.startswith("ArgumentError: The ranks ask for different things.\n"), text
            assert sides(text, len(found), usual, other), text


def test_an_error_of_one_rank_is_raised_on_all(found):
    says = {
        "axes": "`query` has 3 axes, not 4",
        "keys": "`key` has 2 heads and .* positions, `value` 2 and 1",
        "mask": "Lengths has a length of 99, but there are 12 keys",
        "kind": "`scale` is a number or None, not str 'x'",
        "layer's kind": "`mask` is a mask such as .*, not int 3",
        "map's kind": "`mask` is a mask such as .*, not str 'x'",
        "layer": "`Q` has last size 7; this layer takes 8",
        "layer's map": "`Q` has last size 7; this layer takes 8",
        "map": "Where do . queries stand among 12 keys",
        "heads": "The map of a rank's heads is an AttentionMap",
        "shard": "3 heads and 3 key heads make no equal shares",
        "spread": "`Q` has last size 7; this layer takes 8",
    }
    for rank, mine in enumerate(found):
        for name, say in says.items():
            text, _ = mine["local"][name]
            assert re.search(f"(?s){say}", text), text
            assert ("Rank 1 met an error" in text) == (rank != 1), text
        text, _ = mine["local"]["shards"]
        assert sides(text, len(found), "n_head=8", "n_head=4"), text


def test_an_error_of_one_rank_as_the_backward_pass_begins(found):
    for rank, mine in enumerate(found):
        for way in agreeing.WAYS:
            text, _ = mine["backward"][f"{way} changed"]
            assert "modified by an inplace operation" in text, text
            assert ("Rank 1 met an error" in text) == (rank != 1), text
            text, _ = mine["backward"][f"{way} lse"]
            assert sides(text, len(found), "gradients of out", "gradients of out and lse"), text


def test_an_error_between_messages_is_raised_after_them(found):
    for rank, mine in enumerate(found):
        for name, (text, _) in mine["middle"].items():
            assert text == ("MemoryError: no room" if rank == 1 else "nothing"), name


def test_the_next_call_is_right(found):
    for mine in found:
        for job in ("differing", "local", "backward", "middle", "questions"):
            assert [name for name, (_, off) in mine[job].items() if not off < 1e-12] == []


def test_first_derivatives_by_every_way_and_no_second(found):
    for mine in found:
        for worst, *texts in mine["derivatives"].values():
            assert worst < 1e-12
            for kind, text in zip(("second", "forward-mode"), texts, strict=True):
                assert re.search(f"(?s)EngineError: A mesh has no {kind}.*'reference'", text), text


def test_rules_of_someone_else(found):
    for mine in found:
        assert max(mine["others"].values()) < 1e-12


def test_what_backward_reads_is_watched_for_changes(found):
    for mine in found:
        read = {"Ring": ("query", "key", "value"), "AllToAll": ()}
        for way, names in read.items():
            for name in (*names, "mask", "bias", "query_offset"):
                text, _ = mine["changed"][f"{way} {name}"]
                assert "modified by an inplace operation" in text, (way, name, text)
        for name, (text, off) in mine["changed"].items():
            assert "modified" in text or (text == "nothing" and off < 1e-12), name


def test_nothing_is_kept(found):
    for mine in found:
        assert mine["kept"] == {way: [0, 0] for way in agreeing.WAYS}


def test_questions_that_differ(found):
    says = {
        "rows": r"weights\(range\(0, 1\), range\(0, 1\), range\(0, 1\), ",
        "kinds": r"mean_distance\(\)",
        "keys": r"mass\(i64\[2\] on cpu #",
        "links": r"top\(1, i64\[1\] on cpu #",
        "pairs": r"at\(i64\[2\] on cpu #",
        "columns": r"times\(\[..., 1\]\)",
        "blocks": r"thumbnail\(2\)",
        "gather": r"x f64\[2, 1, ",
    }
    for mine in found:
        assert mine["questions"].keys() == says.keys()
        for name, say in says.items():
            text, _ = mine["questions"][name]
            assert re.match("ArgumentError: The ranks (ask for different|disagree)", text), text
            assert re.search(rf"\n  Ranks? 0[^\n]*: [^\n]*{say}", text), text


def test_caches_that_differ(found):
    for mine in found:
        assert sides(mine["steps"]["lengths"], len(found), "length 6", "length 5")
        assert "`block`" in mine["steps"]["blocks"] and "block 1" in mine["steps"]["blocks"]
        assert "out f32[1, 2, 1, 4] on cpu" in mine["steps"]["tokens"]


def test_key_heads_that_make_no_equal_shares():
    q, k = torch.zeros(1, 12, 3, 4), torch.zeros(1, 6, 3, 4)
    with pytest.raises(ArgumentError, match=r"(?s)6 key heads .* 4 ranks, nor 4 ranks for 6 key h"):
        heads.shares_of(request(q, k, k), SimpleNamespace(size=4))


def test_what_a_rule_says_is_alike_on_all_ranks():
    class Mine(Mask):
        pass

    assert agreement.read(Mine()) == agreement.read(Mine())
    assert agreement.read(Causal()) == "Causal()"
    assert agreement.shown(SimpleRepr("f32[3] on cuda:1")) == "f32[3] on cuda"


class SimpleRepr:
    def __init__(self, text):
        self.text = text

    def __repr__(self):
        return self.text


def test_what_a_checksum_reads():
    labels = torch.arange(3 * agreement.CHECKED_NUMBERS).view(1, -1)
    other = labels.clone()
    other[0, : labels.shape[1] // 2] += 1
    assert agreement.read(Segments(labels)) != agreement.read(Segments(other))
    wide = torch.ones(1, 1, 3, 3, dtype=torch.bool).expand(1000, 1000, 3, 3)
    assert (
        agreement.read(Dense(wide))
        == f"{Dense(wide)!r} #" + agreement.read(Dense(wide[:1, :1].clone())).partition("#")[2]
    )
    assert "#" not in agreement.read(Dense(torch.ones(1000, 1000).bool().T.expand(1, 1, -1, -1)))
    assert "#" not in agreement.read(torch.ones(3, device="meta"))


def test_sides_of_an_error_are_few():
    text = agreement._difference([{"asked": "x", "scale": str(i)} for i in range(9)])
    assert text.count("\n  Rank ") == 4 and "and 5 other sides" in text
    text = agreement._difference([{"asked": "x", "mask": "y" * 999 * (i > 0)} for i in range(9)])
    assert "Ranks 1, 2, 3 and 5 more: mask " + "y" * 160 + "...\n" in text
