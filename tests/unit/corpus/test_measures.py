"""Measures of a batch, against `sum_patterns` of each text alone and against plain loops."""

import math

import pytest
import torch
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel, MistralConfig, MistralModel

from wqkv.corpus import measures
from wqkv.corpus.measures import BINS, MEASURES, Batch, measure
from wqkv.record.watch import watch
from wqkv.study import patterns, tokens
from wqkv.study.patterns import PATTERNS, SURVEYED, sum_patterns

SPECIAL, COMMA = (0, 1), 5
LENGTHS = (41, 37, 31, 29, 7)


def window(n, seed):
    ids = torch.randint(0, 23, (n,), generator=torch.Generator().manual_seed(seed)).tolist()
    special = [i in SPECIAL for i in ids]
    separators = [(i in SPECIAL and at > 0) or i == COMMA for at, i in enumerate(ids)]
    return ids, special, separators


WINDOWS = [window(n, seed) for seed, n in enumerate(LENGTHS)]


def tiny(family):
    sizes = {
        "hidden_size": 15,
        "intermediate_size": 13,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "vocab_size": 23,
        "head_dim": 10,
        "initializer_range": 0.5,
    }
    torch.manual_seed(0)
    if family == "bert":
        return BertModel(BertConfig(**sizes)).eval()
    if family == "mistral":
        return MistralModel(MistralConfig(**sizes, num_key_value_heads=1, sliding_window=7)).eval()
    return LlamaModel(LlamaConfig(**sizes, num_key_value_heads=1)).eval()


def seen(model, windows):
    batch = Batch(windows, pad=0)
    with torch.no_grad(), watch(model) as found:
        model(input_ids=batch.ids, attention_mask=batch.mask)
    return batch, found


@pytest.fixture(scope="module", params=["bert", "llama", "mistral"])
def model(request):
    return tiny(request.param)


@pytest.mark.parametrize("cached", [2**20, 2000, 300], ids=["one block", "few", "many"])
def test_patterns_are_those_of_heads(model, monkeypatch, cached):
    """Side by side, padded and in blocks, as each text alone."""
    monkeypatch.setattr(measures, "CACHED", cached)
    sums, _ = measure(*seen(model, WINDOWS))
    alone = None
    for one in WINDOWS:
        _, maps = seen(model, [one])
        part = sum_patterns(maps, *one)
        alone = part if alone is None else alone.plus(part)
    count = len(SURVEYED)
    for ours, theirs in zip(sums, alone.layers, strict=True):
        value, flat, words = theirs[:, [list(PATTERNS).index(name) for name in SURVEYED]]
        assert torch.equal(ours.counts[:count].double(), words[:, 0])
        torch.testing.assert_close(ours.total[:count], value, rtol=1e-5, atol=1e-4)
        known = torch.arange(count) != SURVEYED.index("uniform")
        torch.testing.assert_close(ours.equal[:count][known], flat[known, 0], rtol=1e-5, atol=1e-4)


def by_loops(m, one):
    """Entropy, distance and received word by word, and the strongest link of each head."""
    ids, special, separators = one
    P, n = m[0].double(), len(ids)
    values = {"entropy": [], "distance": [], "received": []}
    plain = [i for i in range(1, n) if not special[i] and not separators[i]]
    links = [(-1.0, 0, 0)] * len(P)
    for i in range(n):
        if not special[i]:
            row = P[:, i]
            values["entropy"].append(-(row * row.clamp(min=1e-300).log()).sum(-1))
            values["distance"].append(sum(row[:, j] * abs(i - j) for j in range(n)))
            values["received"].append(P[:, :, i].sum(-1))
        for j in plain if i in plain else []:
            if ids[i] != ids[j]:
                links = [max(best, (float(P[h, i, j]), -i, -j)) for h, best in enumerate(links)]
    found = {name: torch.stack(rows) for name, rows in values.items()}
    return found, [(weight, -i, -j) for weight, i, j in links]


@pytest.mark.parametrize("cached", [2**20, 300], ids=["one block", "many"])
def test_the_rest_by_its_definition(model, monkeypatch, cached):
    monkeypatch.setattr(measures, "CACHED", cached)
    batch, maps = seen(model, WINDOWS)
    sums, links = measure(batch, maps)
    names = list(MEASURES)
    for layer in range(2):
        parts = []
        for at, one in enumerate(WINDOWS):
            found, strongest = by_loops(seen(model, [one])[1][layer], one)
            parts.append(found)
            weight, query, key = (part[at] for part in links[layer])
            for head, (best, i, j) in enumerate(strongest):
                assert float(weight[head]) == pytest.approx(best, rel=1e-4)
                assert (int(query[head]), int(key[head])) == (i, j)
        for name in ("entropy", "distance", "received"):
            values = torch.cat([part[name] for part in parts])
            at = names.index(name)
            assert int(sums[layer].counts[at]) == len(values)
            torch.testing.assert_close(sums[layer].total[at], values.sum(0), rtol=1e-5, atol=1e-4)
            torch.testing.assert_close(
                sums[layer].squares[at], values.square().sum(0), rtol=1e-5, atol=1e-4
            )
            ends = MEASURES[name][1].tolist()
            # a value next to an end of a bin may fall to either side by rounding
            slack = sum(min(abs(float(x) - end) for end in ends) < 1e-4 for x in values.flatten())
            for head in range(3):
                theirs = [0] * BINS
                for x in values[:, head].tolist():
                    theirs[sum(x >= end for end in ends)] += 1
                ours = sums[layer].bins[at, head].tolist()
                assert sum(ours) == len(values)
                assert sum(abs(a - b) for a, b in zip(ours, theirs, strict=True)) <= 2 * slack


def test_equal_weights(model):
    """Every head of equal weights has the values that `flat` says, and evenness 1."""
    batch, maps = seen(model, WINDOWS)
    flat = [m.flat() for m in maps]
    names = list(MEASURES)
    for found in measure(batch, flat)[0]:
        for at, name in enumerate(names):
            expected = found.equal[at] if name != "uniform" else found.counts[at].double()
            torch.testing.assert_close(
                found.total[at],
                expected.expand(3),
                rtol=1e-4,
                atol=1e-4,
                msg=lambda m, n=name: f"{n}: {m}",
            )


def test_words_that_do_not_count():
    ids = [3, 0, 7, COMMA, 7, 11]
    one = ids, [i in SPECIAL for i in ids], [i in (*SPECIAL, COMMA) for i in ids]
    sums, links = measure(*seen(tiny("bert"), [one]))
    words = dict(zip(MEASURES, sums[0].counts.tolist(), strict=True))
    assert words == {
        "previous": 3,  # before the first 7 stands a special word
        "next": 3,
        "first-token sink": 4,
        "separator sink": 4,
        "duplicate-token": 2,
        "induction": 1,
        "local": 5,
        "delimiter": 4,
        "uniform": 5,
        "entropy": 5,
        "distance": 5,
        "received": 5,
    }
    for layer in links:  # 7 and 11 alone may be linked
        pairs = {*zip(layer.query[0].tolist(), layer.key[0].tolist(), strict=True)}
        assert pairs <= {(2, 5), (4, 5), (5, 2), (5, 4)}


def test_a_window_without_a_link():
    one = [3, 3, 3], [False] * 3, [False] * 3
    _, links = measure(*seen(tiny("bert"), [one]))
    assert all(bool((layer.weight <= 0).all()) for layer in links)


def test_a_common_word_is_no_duplicate():
    n = patterns.COMMON
    for count, rows in ((n, n), (n + 1, 0)):
        ids = [3] * count + [7, 11]
        one = ids, [False] * len(ids), [False] * len(ids)
        sums, _ = measure(*seen(tiny("bert"), [one, WINDOWS[4]]))
        other = measure(*seen(tiny("bert"), [WINDOWS[4]]))[0][0]
        at = list(MEASURES).index("duplicate-token")
        assert int(sums[0].counts[at] - other.counts[at]) == rows


def test_bins_are_whole():
    assert all(len(ends) == BINS - 1 for _, ends in MEASURES.values())
    assert all(bool((ends.diff() > 0).all()) for _, ends in MEASURES.values())
    assert math.e ** float(MEASURES["entropy"][1][-1]) > tokens.LONGEST_WINDOW
    assert float(MEASURES["distance"][1][-1]) >= tokens.LONGEST_WINDOW
