"""Labels of heads: on maps of chosen weights, by definition word by word, and in two models."""

import re
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from tests.tiny import tiny_bart, tiny_llama
from wqkv import Causal
from wqkv.errors import ArgumentError
from wqkv.maps.attention_map import AttentionMap
from wqkv.study import heads as looked
from wqkv.study import tokens
from wqkv.study.heads import (
    LABELS,
    PATTERNS,
    TEXT,
    heads,
    label_grid,
    label_heads,
    probe,
    read,
)
from wqkv.study.part import PartSizes
from wqkv.study.tokens import Unread

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
        "puts 0.81 of its weight on the previous token (mean of 14 tokens; equal weights: 0.07)"
    )
    assert found[0][7].evidence == "reaches 1.00 of the highest entropy (mean of 15 tokens)"
    assert found[0][8].score is None
    assert re.match(r"fits no pattern; the nearest is [a-z- ]+: puts 0\.\d\d", found[0][8].evidence)
    assert repr(found).endswith("over 15 tokens: " + ", ".join(f"1 {label}" for label in LABELS))


def test_too_few_tokens_to_tell():
    row = heads([made(torch.full((1, 3, 3), 1 / 3))], ["a", "b", "c"])[0]
    assert (row[0].label, row[0].score) == ("unclassified", None)
    assert row[0].evidence == "has too few tokens to tell"
    assert set(row[0].scores.values()) == {None}


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

    sizes = PartSizes(n_layer=2, n_head=3, n_kv_head=1, d_model=12, d_k=4)
    model = LlamaModel(config).eval()
    return SimpleNamespace(
        model=model, config=config, tokenizer=Tokenizer(), sizes=sizes, name="tiny"
    )


def test_probe(tiny, monkeypatch):
    asked, told = [], []
    record = looked.record_maps
    monkeypatch.setattr(looked, "record_maps", lambda m, ids: asked.append(ids) or record(m, ids))
    found = probe(tiny, n=11, seed=5, progress=lambda *at: told.append(at))
    ids = asked[0]
    assert len(ids) == 22 and ids[:11] == ids[11:] and min(ids) > 1 and max(ids) < 97
    assert told == [(1, 2), (2, 2)]
    assert found.source == "11 random tokens, read twice (seed 5)"
    assert (len(found.table), len(found[0]), found.tokens) == (2, 3, 22)
    assert found[0][0].scores["induction"].tokens >= 11
    assert found[0][0].scores["separator sink"] is None
    probe(tiny, n=11, seed=6)
    assert asked[1] != ids
    with pytest.raises(ArgumentError, match="`n` is 3, how many random tokens"):
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


def test_windows_are_weighted_by_their_tokens(minilm, monkeypatch):
    monkeypatch.setattr(tokens, "LONGEST_WINDOW", 50)
    told = []
    found = read(minilm, [TEXT, "One more."], "two texts", lambda *at: told.append(at))
    assert found.source == "two texts in 3 windows of at most 45, weighted by their tokens"
    assert found.tokens == 85 + 3
    assert told == [(done, 18) for done in range(1, 19)]
    windows = [
        w for text in (TEXT, "One more.") for w in tokens.windows(minilm.tokenizer, text, 512)
    ]
    assert all((ids[0], ids[-1]) == (101, 102) for ids, _, _ in windows)
    assert [sum(special) for _, special, _ in windows] == [2, 2, 2]
    parts = [
        heads(looked.record_maps(minilm, ids), ids, special, separators)
        for ids, special, separators in windows
    ]
    for name in ("previous", "first-token sink", "local", "uniform"):
        scores = [part[3][5].scores[name] for part in parts]
        scores = [score for score in scores if score is not None]  # the last has too few tokens
        mean = found[3][5].scores[name]
        whole = sum(score.value * score.tokens for score in scores)
        assert mean.tokens - sum(score.tokens for score in scores) in (0, 2, 3)
        assert whole / mean.tokens <= mean.value <= whole / mean.tokens + 3 / mean.tokens


def test_texts_that_cannot_be_read(minilm):
    with pytest.raises(ArgumentError, match=r"^The text is empty\. Give at least one word\.$"):
        read(minilm, [" \n"])
    with pytest.raises(ArgumentError, match="all-MiniLM-L6-v2 sees no token in the text"):
        read(minilm, ["\x00"])


def test_what_the_model_cannot_read_is_counted(minilm):
    found = read(minilm, ["猫坐在垫子上。", "🙂 cats"])
    whole = minilm.tokens("猫坐在垫子上。").unread
    assert found.unread == whole.plus(Unread(2, 1, 0, "🙂")) and whole.unknown > 0
    assert read(minilm, ["Two cats."]).unread == Unread(3)


@pytest.mark.parametrize(
    "text", ["猫坐在垫子上。" * 40, "a", "[SEP] [CLS] [SEP]a b c d", "!!! ???"]
)
def test_any_text_is_read(minilm, text):
    found = read(minilm, [text])
    assert len(found.all) == 72
    assert found.tokens > 0


def test_a_model_is_labeled_by_the_text_that_suits_it(minilm):
    """A causal one is probed, another reads TEXT, one of two texts is labeled in its view."""
    assert label_heads(minilm.view("A cat.")) == read(minilm, [TEXT], "a built-in text")
    causal = tiny_llama()
    assert label_heads(causal.view("the sea was dark")) == probe(causal)
    views = tiny_bart().views("the sea was dark", "the sea")
    with pytest.raises(ArgumentError, match="There is no label between two texts"):
        label_heads(views["cross"])
    view = views["decoder"]
    maps = [view.layer(i).whole for i in range(view.model.sizes.n_layer)]
    assert label_heads(view) == heads(maps, view.reading.tokens, view.reading.special)


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
    found = heads(looked.record_maps(smollm, ids), ids)
    scores = {name: found[layer][head].score for name, (layer, head) in strongest.items()}
    known = {"induction": 0.884, "previous": 0.883, "first-token sink": 1.0}
    assert scores == pytest.approx(known, abs=5e-4)


def test_labels_as_a_grid(minilm):
    found = read(minilm, [TEXT])
    grid = label_grid(found)
    assert (grid.statistic, tuple(grid.values.shape)) == ("label", (6, 12))
    assert grid.labels[0][2] == found[0][2].label == "previous"
    assert grid.values[0, 2].item() == pytest.approx(found[0][2].score)
    assert grid.evidence[0][2] == found[0][2].evidence
    assert grid.values.isnan().any() == any(head.score is None for head in found.all)
