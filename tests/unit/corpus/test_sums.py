"""LayerSums that merge in any order, and their way through Parquet."""

import random
from dataclasses import replace
from fractions import Fraction
from functools import reduce

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wqkv.corpus.measures import BINS, MEASURES, LayerSums
from wqkv.corpus.sums import KEPT, UNIT, Example, Skipped, Tally, dump, load, merge
from wqkv.study.heads import label_sums
from wqkv.study.patterns import PATTERNS, SURVEYED, PatternSums
from wqkv.study.tokens import Unread

pytest.importorskip("pyarrow", reason="the survey needs the extra `survey`")

M = len(MEASURES)


def part(seed, heads=(3, 2)):
    """What one chunk may hold: sums of very different sizes."""
    draw, numbers = random.Random(seed), torch.Generator().manual_seed(seed)

    def some(*shape):
        scale = 10.0 ** torch.randint(-6, 9, shape, generator=numbers).double()
        return torch.rand(shape, generator=numbers, dtype=torch.float64) * scale

    layers = [
        LayerSums(
            torch.randint(0, 97, (M,), generator=numbers),
            some(M, n),
            some(M, n),
            some(M),
            torch.randint(0, 89, (M, n, BINS), generator=numbers),
        )
        for n in heads
    ]
    examples = tuple(
        tuple(
            sorted(
                Example(
                    -draw.randrange(1, 14) / 13,
                    f"{draw.choice('ab')}.jsonl",
                    7 * seed + k,
                    "x y",
                    (0, 1),
                    (2, 3),
                )
                for k in range(draw.randrange(KEPT + 1))
            )
        )
        for _ in range(sum(heads))
    )
    skipped = tuple(Skipped("a.jsonl", 7 * seed + k, "empty") for k in range(draw.randrange(3)))
    found = Tally.of(layers)
    return Tally(
        found.heads,
        found.counts,
        found.sums,
        found.bins,
        examples,
        skipped,
        5 + seed,
        7 + seed,
        11 + seed,
        Unread(11 + seed, seed, 3 * seed),
    )


def same(a, b):
    for name, one in vars(a).items():
        other = getattr(b, name)
        assert np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other, name


@given(st.permutations(range(7)), st.integers(0, 7))
def test_no_order_and_no_grouping_shows(order, cut):
    parts = [part(seed) for seed in range(7)]
    parts.insert(3, Tally(documents=2, skipped=(Skipped("a.jsonl", 3, "not JSON"),)))
    shuffled = [parts[at] for at in (*order, 7)]
    grouped = merge(shuffled[:cut]).plus(merge(shuffled[cut:]))
    same(grouped, reduce(Tally.plus, parts))


def test_floats_would_show():
    """The sums of this test are such that the order of floats matters."""
    parts = [part(seed).sums.astype(float) / UNIT for seed in range(7)]
    assert not np.array_equal(sum(parts), sum(parts[::-1]))


def sums(values):
    """One head, whose first measure has these values."""
    zero = torch.zeros(M - 1, 1).double()
    return LayerSums(
        torch.tensor([len(values), *[0] * (M - 1)]),
        torch.cat((values.sum().view(1, 1), zero)),
        torch.cat((values.square().sum().view(1, 1), zero)),
        torch.full((M,), 0.25 * len(values)).double(),
        torch.ones(M, 1, BINS, dtype=torch.long),
    )


def test_sums_are_those_of_the_batch():
    found = part(3)
    assert found.heads == ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1))
    words = torch.randint(0, 97, (M,), generator=torch.Generator().manual_seed(3))
    assert found.counts[:3].tolist() == [words.tolist()] * 3
    assert found.sums.shape == (3, 5, M) and found.bins.shape == (5, M, BINS)
    for x in (2.0**-7, 0.3, 3e9, 7e15):
        kept = Tally.of([sums(torch.tensor([x], dtype=torch.float64))]).sums[:, 0, 0]
        assert Fraction(kept[0], UNIT) == Fraction(x)
        assert Fraction(kept[2], UNIT) == Fraction(1, 4)


def test_through_parquet(tmp_path):
    for at, one in enumerate((part(5), part(6, heads=(1,)), Tally(documents=3), Tally())):
        path = tmp_path / f"{at}.parquet"
        path.write_bytes(dump(one))
        same(load(path), one)
        assert dump(one) == dump(load(path))


def test_the_strongest_examples_of_all_documents():
    found = merge(part(seed) for seed in range(7))
    for at, kept in enumerate(found.examples):
        every = [one for seed in range(7) for one in part(seed).examples[at]]
        every.sort(key=lambda one: (-one.weight, one.file, one.number))
        assert kept == tuple(every[:KEPT])
    assert len({one.negative_weight for row in found.examples for one in row}) > 1


def test_rows_from_the_values_themselves():
    values = [torch.rand(n, generator=torch.Generator().manual_seed(n)).double() for n in (31, 37)]
    rows = merge([Tally.of([sums(x)]) for x in values]).measures
    assert [row.measure for row in rows] == list(MEASURES)
    whole = torch.cat(values)
    assert (rows[0].layer, rows[0].head, rows[0].tokens) == (0, 0, 68)
    assert rows[0].mean == pytest.approx(float(whole.mean()), rel=1e-14)
    assert rows[0].variance == pytest.approx(float(whole.var(correction=0)), rel=1e-12)
    assert rows[0].equal == 0.25 and rows[0].histogram == (2,) * BINS
    assert (rows[1].mean, rows[1].variance, rows[1].equal) == (None, None, None)


def test_a_variance_is_not_negative():
    third = torch.full((M, 1), 1 / 3).double()
    ones = torch.ones(M, dtype=torch.long)
    one = LayerSums(3 * ones, 3 * third, third - 1e-12, third[:, 0], torch.ones(M, 1, BINS))
    assert {row.variance for row in Tally.of([one]).measures} == {0.0}


def test_labels_are_those_of_heads():
    found = part(4)
    count, every = len(SURVEYED), list(PATTERNS)
    places = [every.index(name) for name in SURVEYED]
    layers = []
    for start, stop in ((0, 3), (3, 5)):
        value, _, flat = (found.sums[:, start:stop, :count] / UNIT).astype(float)
        parts = np.stack([value, flat, found.counts[start:stop, :count].astype(float)])
        whole = torch.zeros(3, len(every), stop - start, dtype=torch.float64)
        whole[:, places] = torch.from_numpy(parts).transpose(1, 2)
        layers.append(whole)
    words = int(found.counts[0, list(MEASURES).index("entropy")])
    ours = found.label("a corpus")
    assert ours.unread == found.unread
    assert replace(ours, unread=Unread()) == label_sums(PatternSums(layers, words), "a corpus")
    assert [len(row) for row in ours.table] == [3, 2] and ours.tokens == words
    assert Tally().label().table == ()
