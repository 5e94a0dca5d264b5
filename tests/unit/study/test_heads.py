"""Labels of heads: on maps of chosen weights, by definition word by word, and in two models."""

import math
import re
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from wqkv import Causal
from wqkv.errors import ArgumentError
from wqkv.maps.attention_map import AttentionMap
from wqkv.study import heads as looked
from wqkv.study.heads import LABELS, PATTERNS, TEXT, Score, heads, probe, read

SENTENCE = "[CLS] the cat sat , the dog sat , on the very very big mat . [SEP]"
WORDS = SENTENCE.split()
SPECIAL = [word.startswith("[") for word in WORDS]
N = len(WORDS)


def made(weights, **rules):
    """A map of these weights: its scores are their logs."""
    weights = torch.as_tensor(weights, dtype=torch.float64)[None]
    _, n_head, n, _ = weights.shape
    nothing = torch.zeros(1, n_head, n, 1, dtype=torch.float64)
    return AttentionMap(nothing, nothing, bias=weights.log(), **rules)


def towards(keys, share=1.0, n=N):
    """Every row puts `share` on one key, the rest on all alike."""
    weights = torch.full((n, n), (1 - share) / n, dtype=torch.float64)
    weights[torch.arange(n), torch.tensor(keys)] += share
    return weights


def following(words, i):
    """The word after an earlier occurrence of word i, else the word itself."""
    return max((j + 1 for j in range(i) if words[j] == words[i] and j + 1 < i), default=i)


def test_every_label_with_its_evidence():
    words = [f"w{i}" for i in range(7)] * 2 + [","]
    n = len(words)
    last = [max(i - 7, 0) if i < 14 else i for i in range(n)]
    patterns = {
        "previous": towards([max(i - 1, 0) for i in range(n)], 0.8, n),
        "next": towards([min(i + 1, n - 1) for i in range(n)], 0.8, n),
        "first-token sink": towards([0] * n, 0.8, n),
        "separator sink": towards([14] * n, 0.8, n),
        "duplicate-token": towards([i + 7 if i < 7 else last[i] for i in range(n)], 0.8, n),
        "induction": towards([following(words, i) for i in range(n)], 0.8, n),
        "local": towards(list(range(n)), 0.8, n),
        "uniform": towards(list(range(n)), 0.0, n),
        "unclassified": towards([(i * 7 + 5) % n for i in range(n)], 0.8, n),
    }
    found = heads([made(torch.stack(list(patterns.values())))], words)
    assert [head.label for head in found[0]] == list(patterns) == list(LABELS)
    for name, head in zip(patterns, found[0], strict=True):
        if name in ("uniform", "unclassified"):
            continue
        assert head.score == head.scores[name].value == pytest.approx(0.8, abs=0.12), name
        assert head.evidence.startswith(f"puts {head.score:.2f} of its weight {PATTERNS[name]} (")
    assert found[0][0].evidence == (
        "puts 0.81 of its weight on the previous word (mean of 14 words; equal weights: 0.07)"
    )
    assert found[0][7].evidence == "reaches 1.00 of the highest entropy (mean of 15 words)"
    assert found[0][8].score is None
    assert re.match(r"fits no pattern; the nearest is [a-z- ]+: puts 0\.\d\d", found[0][8].evidence)
    assert repr(found).endswith("over 15 words: " + ", ".join(f"1 {label}" for label in LABELS))


@pytest.mark.parametrize("marks", [SPECIAL, [False] * N], ids=["special", "none special"])
@pytest.mark.parametrize("causal", [False, True])
def test_scores_word_by_word(causal, marks):
    """Every score by its definition, with plain loops over the matrix."""
    draw = torch.Generator().manual_seed(3)
    q, k = (torch.randn(1, 5, N, 7, generator=draw, dtype=torch.float64) for _ in range(2))
    rules = {"mask": Causal()} if causal else {}
    m = AttentionMap(2 * q, k, **rules)
    P, words = m[0], [i for i in range(N) if not marks[i]]
    seen = [range(i + 1) if causal else range(N) for i in range(N)]
    apart = [i for i in range(N) if i and (marks[i] or WORDS[i] in ",.")]
    same = {i: [j for j in words if WORDS[j] == WORDS[i] and j != i] for i in words}
    keys = {
        "previous": {i: [i - 1] for i in words if i - 1 in words},
        "next": {i: [i + 1] for i in words if i + 1 in words},
        "first-token sink": {i: [0] for i in words if i},
        "separator sink": {i: apart for i in words if i not in apart},
        "duplicate-token": same,
        "induction": {i: [j + 1 for j in same[i] if j + 1 < i and j + 1 in words] for i in words},
        "local": {i: [j for j in words if abs(i - j) <= 3] for i in words},
    }
    row = heads([m], WORDS, marks)[0]
    for name, of in keys.items():
        of = {i: [j for j in js if j in seen[i]] for i, js in of.items()}
        rows = [i for i, js in of.items() if js]
        for head in row:
            score = head.scores[name]
            if len(rows) < 4:
                assert score is None, name
                continue
            mean = sum(P[head.head, i, of[i]].sum() for i in rows) / len(rows)
            flat = sum(len(of[i]) / len(seen[i]) for i in rows) / len(rows)
            assert score.tokens == len(rows), name
            assert (score.value, score.flat) == pytest.approx((float(mean), flat)), name
    entropy = torch.special.entr(P).sum(-1)
    for head in row:
        rows = [i for i in words if len(seen[i]) > 1]
        ratio = [float(entropy[head.head, i]) / math.log(len(seen[i])) for i in rows]
        assert head.scores["uniform"].value == pytest.approx(sum(ratio) / len(rows))
    assert (row[0].scores["next"] is None) == causal


def test_half_of_the_weight_is_not_enough_in_a_short_text():
    """In 3 visible words a third lies on each anyway."""
    words = list("abcdef")
    weights = torch.zeros(2, 6, 6)
    for i in range(6):
        weights[0, i, max(i - 1, 0) : i + 1] = 0.5  # half on the previous word, half on itself
        weights[1, i, : i + 1] = 1 / (i + 1)
    row = heads([made(weights, mask=Causal())], words)[0]
    assert row[0].scores["previous"].value == pytest.approx(0.5)
    assert row[0].label == "unclassified"  # local has weight 1, and equal weights put 0.9 there
    assert row[0].scores["local"].flat == pytest.approx((1 + 1 + 1 + 1 + 4 / 5 + 4 / 6) / 6)
    assert row[1].label == "uniform"
    for value, flat, enough in ((0.5, 0.1, False), (0.51, 0.1, True), (0.51, 0.26, False)):
        assert looked._passes("previous", Score(value, flat, 9)) == enough


def test_too_few_words_to_tell():
    row = heads([made(torch.full((1, 3, 3), 1 / 3))], ["a", "b", "c"])[0]
    assert (row[0].label, row[0].score) == ("unclassified", None)
    assert row[0].evidence == "has too few words to tell"
    assert set(row[0].scores.values()) == {None}


def test_a_word_that_is_everywhere_is_no_duplicate():
    for count, rows in ((64, 64), (65, None)):
        words = ["the"] * count + [f"w{i}" for i in range(7)]
        n = len(words)
        row = heads([made(torch.full((1, n, n), 1 / n))], words)[0]
        score = row[0].scores["duplicate-token"]
        assert (score.tokens if score else None) == rows


def test_layers_of_different_masks_and_widths():
    weights = torch.full((3, N, N), 1 / N)
    found = heads([made(weights), made(weights[:2], mask=Causal())], WORDS, SPECIAL)
    assert [len(row) for row in found.table] == [3, 2]
    assert found[0][0].scores["next"] is not None
    assert found[1][0].scores["next"] is None
    assert [head.label for head in found.all] == ["uniform"] * 5
    assert [len(row) for row in heads([made(weights), made(weights[:2])], WORDS).table] == [3, 2]
    assert found.labelled("uniform")[0].score == pytest.approx(1)


@pytest.mark.parametrize(
    ("weights", "marks", "says"),
    [
        ((1, 1, 5, 5), {}, "Map 0 is [1, 1, 5, 5], and there are 17 tokens."),
        ((2, 1, N, N), {}, "Pass maps of one text read whole: [1, n_head, 17, 17]."),
        ((1, 1, N, N), {"special": [True]}, "`special` marks 1 of 17 tokens."),
        ((1, 1, N, N), {"separators": [True] * 18}, "`separators` marks 18 of 17 tokens."),
    ],
)
def test_mistakes(weights, marks, says):
    nothing = torch.zeros(*weights[:3], 2)
    with pytest.raises(ArgumentError, match=re.escape(says)):
        heads([AttentionMap(nothing, nothing)], WORDS, **marks)


# Models


@pytest.fixture
def tiny():
    """A causal model of random weights, with a tokenizer of which only the numbers are asked."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=12, intermediate_size=5, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, vocab_size=97,
    )  # fmt: skip

    class Tokenizer:
        all_special_ids = (0, 1)

        def __len__(self):
            return 101

    sizes = {"n_layer": 2, "n_head": 3}
    model = LlamaModel(config).eval()
    return SimpleNamespace(
        model=model, config=config, tokenizer=Tokenizer(), sizes=sizes, name="tiny"
    )


def test_probe(tiny, monkeypatch):
    asked, told = [], []
    maps_of = looked.maps_of
    monkeypatch.setattr(looked, "maps_of", lambda m, ids: asked.append(ids) or maps_of(m, ids))
    found = probe(tiny, n=11, seed=5, progress=lambda *at: told.append(at))
    ids = asked[0]
    assert len(ids) == 22 and ids[:11] == ids[11:] and min(ids) > 1 and max(ids) < 97
    assert told == [(1, 2), (2, 2)]
    assert found.source == "11 random words, read twice (seed 5)"
    assert (len(found.table), len(found[0]), found.tokens) == (2, 3, 22)
    assert found[0][0].scores["induction"].tokens >= 11
    assert found[0][0].scores["separator sink"] is None
    probe(tiny, n=11, seed=6)
    assert asked[1] != ids
    with pytest.raises(ArgumentError, match="`n` is 3, how many random words"):
        probe(tiny, n=3)


def test_minilm(minilm):
    found = read(minilm, [TEXT], "a text")
    assert (found.source, found.tokens) == ("a text", 85)
    assert found[0][2].label == "previous"
    assert found[0][2].score == pytest.approx(1, abs=5e-4)
    assert found[1][8].label == "next"
    assert found[0][2].scores["separator sink"].tokens == 75  # without 6 commas, 4 full stops
    labels = {head.label for head in found.all}
    assert {"first-token sink", "local", "uniform", "duplicate-token"} <= labels


def test_windows_are_weighted_by_their_words(minilm, monkeypatch):
    monkeypatch.setattr(looked, "WINDOW", 50)
    told = []
    found = read(minilm, [TEXT, "One more."], "two texts", lambda *at: told.append(at))
    assert found.source == "two texts in 3 windows of at most 45, weighted by their words"
    assert found.tokens == 85 + 3
    assert told == [(done, 18) for done in range(1, 19)]
    windows = [*looked.windows(minilm, TEXT), *looked.windows(minilm, "One more.")]
    assert all((ids[0], ids[-1]) == (101, 102) for ids, _, _ in windows)
    assert [sum(special) for _, special, _ in windows] == [2, 2, 2]
    parts = [
        heads(looked.maps_of(minilm, ids), ids, special, separators)
        for ids, special, separators in windows
    ]
    for name in ("previous", "first-token sink", "local", "uniform"):
        scores = [part[3][5].scores[name] for part in parts]
        scores = [score for score in scores if score is not None]  # the last has too few words
        mean = found[3][5].scores[name]
        whole = sum(score.value * score.tokens for score in scores)
        assert mean.tokens - sum(score.tokens for score in scores) in (0, 2, 3)
        assert whole / mean.tokens <= mean.value <= whole / mean.tokens + 3 / mean.tokens


def test_texts_that_cannot_be_read(minilm):
    with pytest.raises(ArgumentError, match=r"^The text is empty\. Give at least one word\.$"):
        read(minilm, [" \n"])
    with pytest.raises(ArgumentError, match="all-MiniLM-L6-v2 sees no word in the text"):
        read(minilm, ["\x00"])


@pytest.mark.parametrize(
    "text", ["猫坐在垫子上。" * 40, "a", "[SEP] [CLS] [SEP]a b c d", "!!! ???"]
)
def test_any_text_is_read(minilm, text):
    found = read(minilm, [text])
    assert len(found.all) == 72
    assert found.tokens > 0


def test_smollm2(smollm):
    """Its strongest heads are the same on every draw; on one known draw to the third decimal."""
    strongest = {"induction": (18, 6), "previous": (16, 0), "first-token sink": (18, 8)}
    for seed in range(3):
        found = probe(smollm, seed=seed)
        for name, place in strongest.items():
            best = found.labelled(name)[0]
            assert (best.layer, best.head) == place
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(100, 40000, (40,), generator=random).tolist() * 2
    found = heads(looked.maps_of(smollm, ids), ids)
    scores = {name: found[layer][head].score for name, (layer, head) in strongest.items()}
    known = {"induction": 0.884, "previous": 0.883, "first-token sink": 1.0}
    assert scores == pytest.approx(known, abs=5e-4)
