"""A map that 2 and 4 ranks share, by words or by heads, says what one process's says."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch

from tests.parallel import mapped
from tests.parallel.jobs import HEADS, WAYS, B, N
from wqkv.attend.parallel import messages
from wqkv.errors import EngineError


def wrong(answers, most=1e-12):
    """Where a rank's answers differ from one process's."""
    return [
        f"{case}: {question} by {worst:.1e}"
        for case, answer in answers.items()
        for question, worst in answer.worst.items()
        if not worst < most
    ]


@pytest.mark.parametrize(
    ("job", "count"),
    [
        ("words", len(mapped.BOTH) * (len(mapped.cases()) + 2)),
        ("own_heads", len(mapped.cases()) + 1),
        ("layers", len(mapped.BOTH) * len(mapped.several())),
        ("shared_layers", 3),
    ],
)
def test_every_answer_is_that_of_one_process(found, job, count):
    for mine in found:
        answers = mine["maps"][job]
        assert len(answers) == count
        assert wrong(answers) == []
        assert [answer.bits for answer in answers.values()] == [
            answer.bits for answer in found[0]["maps"][job].values()
        ]


def test_the_strongest_links_were_compared_one_by_one(found):
    for job, case in (("words", "full, zigzag"), ("own_heads", "full")):
        assert found[0]["maps"][job][case].exact == 3 * B * HEADS  # every head, every time


def test_proofs_are_of_every_rank(found):
    for mine in found:
        proofs = mine["maps"]["calls"]
        assert len(proofs) == len(mapped.BOTH) * len(mapped.cases())
        assert [name for name, worst in proofs.items() if not max(worst) < 1e-12] == []


def test_layers_one_on_another(found):
    for mine in found:
        stacks = mine["maps"]["stacks"]
        assert len(stacks) == len(WAYS) * 4
        assert [name for name, worst in stacks.items() if not worst < 1e-11] == []


@pytest.mark.parametrize("name", ["sdpa", "wqkv"])
def test_a_watched_model_whose_heads_are_shared(found, name):
    for mine in found:
        report, answers = mine["maps"]["watched"][name]
        assert report.startswith("captured 2 of 2 layers of LlamaModel")
        assert len(answers) == 2
        assert wrong(dict(enumerate(answers))) == []


def test_errors_come_before_anything_is_sent(found):
    size = len(found)
    says = {
        "position": f"There is no query {N}: the map has {N}",
        "limit": f"A tile of 1 x 1 x 3 x {N} weights",
        "no links": "`k` is 0",
        "no rows": "There are no rows",
        "blocks": "`n` is 0",
        "X": f"P has {N} keys, which are the rows of X",
        "Y": f"P has {N} queries, which are the rows of Y",
        "proof": rf"the sizes disagree.*map: +list \[2, 4, {N // size}, {N}\]",
        "proof of no rows": "There are no rows",
        "distance": f"Where do {size} queries stand among {2 * size} keys",
        "offset": f"Where do {size} queries stand among {N} keys",
        "zigzag": f"{3 * size} tokens do not make {2 * size} equal parts",
        "kind": "The map of a rank's heads is an AttentionMap, not SharedMap",
        "trace": "A layer whose tokens are shared by ranks has no trace",
    }
    heard = found[-1]["maps"]["complaints"]
    assert heard.keys() == {*says, "sizes"}
    for name, say in says.items():
        assert re.search(f"(?s){say}", heard[name]), heard[name]
    for mine in found:
        said = mine["maps"]["complaints"]["sizes"]
        assert "The ranks disagree about `query_len`, `key_len`" in said
        assert "query_len 5; key_len 5" in said and "Rank 1: query_len 6; key_len 6" in said


def test_each_rank_computes_for_its_own_rows(found):
    size = len(found)
    for rank, mine in enumerate(found):
        seen = mine["maps"]["others"]
        text, shapes = seen["contiguous"]
        first, last = rank * N // size, (rank + 1) * N // size - 1
        assert text == (
            f"SharedMap[{B}, {HEADS}, {N}, {N}] over {size} ranks, mask Causal(); "
            f"here heads 0 to {HEADS - 1} of rows {first} to {last}"
        )
        assert shapes == [(B, HEADS, N // size, N)]
        text, shapes = seen["zigzag"]
        assert shapes == [(B, HEADS, N // size // 2, N)] * 2
        assert f"and heads 0 to 3 of rows {N - (rank + 1) * N // size // 2} to" in text
        dtype, off = seen["half"]
        assert dtype == torch.float32 and off < 1e-5


def test_a_rank_that_is_gone_is_told(monkeypatch):
    def gone(*args, **rest):
        raise RuntimeError("Connection closed by peer\nand more")

    monkeypatch.setattr(messages.dist, "all_reduce", gone)
    group = SimpleNamespace(rank=lambda: 1, size=lambda: 2)
    with pytest.raises(EngineError, match=r"Rank 1 of 2 lost .* \(Connection closed by peer\)"):
        messages.total(group, torch.zeros(3))
