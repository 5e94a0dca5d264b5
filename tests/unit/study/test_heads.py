"""Labels of heads: on maps of chosen weights, by definition word by word, and in two models."""

import random
import re
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from tests.tiny import tiny_bart, tiny_llama
from wqkv import Causal
from wqkv.errors import ArgumentError
from wqkv.maps.attention_map import AttentionMap
from wqkv.sentences import translated
from wqkv.sentences.heads import BRIEF, ON
from wqkv.sentences.heads import LABELS as NAMES
from wqkv.study import heads as looked
from wqkv.study import tokens
from wqkv.study.heads import (
    LABELS,
    UNCLASSIFIED,
    Head,
    Score,
    evidence,
    heads,
    label_grid,
    label_heads,
    probe,
    read,
)
from wqkv.study.known_texts import KNOWN_TEXTS, TEXT, mark_window, objects_of
from wqkv.study.part import PartSizes
from wqkv.study.patterns import PATTERNS, RELATIONS
from wqkv.study.tokens import Unread, windows

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
    # Pairs that are far apart, of all distances alike.
    relations = {
        name: [(i, (i * 5 + 3 * at) % 14) for i in range(at, 14, 3)]
        for at, name in enumerate(RELATIONS)
    }
    rare = [i in (4, 11) for i in range(n)]

    def related(name):
        keys = [(i * 3 + 1) % n for i in range(n)]
        for i, j in relations[name]:
            keys[i] = j
        return towards(keys, 0.8, n)

    patterns = {
        "previous": towards([max(i - 1, 0) for i in range(n)], 0.8, n),
        "next": towards([min(i + 1, n - 1) for i in range(n)], 0.8, n),
        "first-token sink": towards([0] * n, 0.8, n),
        "separator sink": towards([14] * n, 0.8, n),
        "duplicate-token": towards([i + 7 if i < 7 else last[i] for i in range(n)], 0.8, n),
        "induction": towards([following(words, i) for i in range(n)], 0.8, n),
        **{name: related(name) for name in RELATIONS},
        "rare token": towards([4] * n, 0.4, n),
        "local": towards(list(range(n)), 0.8, n),
        "uniform": towards(list(range(n)), 0.0, n),
        "unclassified": towards([(i * 7 + 5) % n for i in range(n)], 0.8, n),
    }
    weights = made(torch.stack(list(patterns.values())))
    found = heads([weights], words, relations=relations, rare=rare)
    labels = {name: head.label for name, head in zip(patterns, found[0], strict=True)}
    assert labels == {name: name for name in patterns}
    assert {*patterns, "delimiter"} == {*LABELS}
    for name, head in zip(patterns, found[0], strict=True):
        if name in ("uniform", "unclassified"):
            continue
        assert head.score == head.scores[name].value, name
        on = ON[name][0].format(near=3)
        assert head.evidence.startswith(f"puts {head.score:.2f} of its weight {on} (")
        assert ("as far away elsewhere" in head.evidence) == (name in RELATIONS)
    assert found[0][0].evidence == (
        "puts 0.81 of its weight on the previous token (mean of 14 tokens; equal weights: 0.07)"
    )
    assert found[0][-2].evidence == "reaches 1.00 of the highest entropy (mean of 15 tokens)"
    assert found[0][-1].score is None
    assert re.match(
        r"fits no pattern; the nearest is [a-z- ]+: puts 0\.\d\d", found[0][-1].evidence
    )
    counts = ", ".join(f"1 {label}" for label in LABELS if label != "delimiter")
    assert repr(found).endswith(f"over 15 tokens: {counts}")


def test_separators_and_special_tokens_together():
    """Neither has more than half, and both together have."""
    words = ["[CLS]", *["a", "b", "c", ",", "d", "e", "f", "."]]
    weights = torch.full((9, 9), 0.4 / 9, dtype=torch.float64)
    weights[:, [0, 4]] += 0.3
    head = heads([made(weights[None])], words, [True] + [False] * 8)[0][0]
    assert head.label == "delimiter"
    assert head.score == pytest.approx(0.6 + 3 * 0.4 / 9)
    assert head.scores["delimiter"].tokens == 6


def test_a_relation_is_compared_with_the_same_distance_elsewhere():
    """A head that always looks two back finds every verb two back, and has no label from it."""
    n = 17
    always = towards([max(i - 2, 0) for i in range(n)], 0.45, n)
    pairs = [(i, i - 2) for i in range(3, 17, 4)]
    found = heads([made(always[None])], WORDS, relations={"object to verb": pairs})[0][0]
    score = found.scores["object to verb"]
    assert found.label != "object to verb"
    assert score.value == pytest.approx(0.45 + 0.55 / n) == score.flat and score.tokens == 4
    there = always.clone()
    for i, _ in ((i, i - 2) for i in range(n) if i not in range(3, 17, 4)):
        there[i] = 1 / n
    found = heads([made(there[None])], WORDS, relations={"object to verb": pairs})[0][0]
    assert found.label == "object to verb" and found.scores["object to verb"].flat == pytest.approx(
        1 / n
    )


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
        ((1, 1, N, N), {"rare": [True] * 3}, "`rare` marks 3 of 17 tokens."),
        ((1, 1, N, N), {"relations": {"love": []}}, "`relations` has 'love', which is no relation"),
        (
            (1, 1, N, N),
            {"relations": {"subword": [(1, 2), (3, 17)]}},
            "the pair (3, 17) in 'subword', and there are 17 tokens",
        ),
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
    cut = [w for text in (TEXT, "One more.") for w in windows(minilm.tokenizer, text, 512)]
    assert all((ids[0], ids[-1]) == (101, 102) for ids, _, _ in cut)
    assert [sum(special) for _, special, _ in cut] == [2, 2, 2]
    parts = [
        heads(looked.record_maps(minilm, ids), ids, special, separators)
        for ids, special, separators in cut
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


@pytest.fixture(scope="module")
def labeled(minilm):
    return looked.label_model(minilm)


def marked(model, known):
    return mark_window(
        model.tokenizer,
        windows(model.tokenizer, known.text, model.longest)[0],
        objects_of(model.tokenizer, known),
    )


def test_half_of_the_heads_have_a_label(labeled):
    """On the three built-in texts, and on each alone."""
    assert labeled.source == "built-in texts (lighthouse, heart, letter)"
    assert len(labeled.labelled(UNCLASSIFIED)) <= 36
    assert labeled[2][0].label == "object to verb"
    assert labeled[1][3].label == "closing to opening"
    assert labeled[4][9].label == "subword"
    assert labeled[5][4].label == "rare token"


@pytest.mark.parametrize("known", KNOWN_TEXTS, ids=lambda known: known.name)
def test_half_of_the_heads_have_a_label_on_each_text(minilm, known):
    assert len(read(minilm, [known.text]).labelled(UNCLASSIFIED)) <= 36


@pytest.mark.parametrize("seed", range(3))
def test_pairs_drawn_by_chance_give_no_label(minilm, seed):
    """The same relations between other tokens of the same texts: no head has one."""
    draw = random.Random(seed)
    cut = []
    for known in KNOWN_TEXTS:
        window = marked(minilm, known)
        ordinary = [i for i, special in enumerate(window.special) if not special]
        moved = dict(zip(ordinary, draw.sample(ordinary, len(ordinary)), strict=True))
        relations = {
            name: [(moved[i], moved[j]) for i, j in pairs]
            for name, pairs in window.relations.items()
        }
        rare = [False] * len(window.ids)
        for i in ordinary:
            rare[moved[i]] = window.rare[i]
        cut.append(window._replace(relations=relations, rare=rare))
    found = looked._label_windows(minilm, cut, "", lambda *_: None)
    assert not {head.label for head in found.all} & {*RELATIONS, "rare token"}


@pytest.mark.parametrize("seed", range(3))
def test_verbs_and_objects_of_shuffled_words_give_no_label(minilm, seed):
    draw, cut = random.Random(seed), []
    for known in KNOWN_TEXTS:
        words = known.text.split()
        draw.shuffle(words)
        text = " ".join(words)
        (window,) = windows(minilm.tokenizer, text, minilm.longest)
        tokens_of = minilm.tokens(text).tokens
        pairs = [tuple(map(tokens_of.index, pair.split())) for pair in known.objects]
        back = [(j, i) for i, j in pairs]
        relations = {"verb to object": pairs, "object to verb": back}
        cut.append(mark_window(minilm.tokenizer, window, relations))
    found = looked._label_windows(minilm, cut, "", lambda *_: None)
    assert not {head.label for head in found.all} & {"verb to object", "object to verb"}


def test_a_model_is_labeled_by_the_text_that_suits_it(minilm, labeled):
    """A causal one is probed, another reads texts, one of two texts is labeled in its view."""
    assert label_heads(minilm.view("A cat.")) == labeled
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


# Why a head has its label


def labeled_as(label: str, **scores: Score) -> Head:
    return Head(3, 1, label, None if label == UNCLASSIFIED else 0.77, {**scores})


def test_evidence_in_chinese():
    score = Score(0.777, 0.0123, 1234)
    for label in LABELS[:-1]:
        said = translated(evidence(labeled_as(label, **{label: score})), "zh")
        assert "0.78" in said and "1,234" in said and said.isascii() is False
        assert ("0.01" in said) == (label != "uniform")
        assert label == "uniform" or ON[label][1].format(near=3) in said
    assert "相距不超过 3 的词元" in translated(labeled_as("local", local=score).evidence, "zh")


def test_evidence_of_no_label():
    """Of the nearest pattern; an even spread is never near."""
    near, far, even = Score(0.4, 0.1, 11), Score(0.2, 0.1, 11), Score(0.8, 1.0, 11)
    head = labeled_as(UNCLASSIFIED, previous=far, next=near, uniform=even, local=None)
    assert head.pattern == "next"
    assert head.evidence.startswith("fits no pattern; the nearest is next: puts 0.40 of its weight")
    said = translated(head.evidence, "zh")
    assert said.startswith(
        "不符合任何一种；最接近的是看后一个词元：0.40 的注意力权重落在后一个词元上"
    )
    few = labeled_as(UNCLASSIFIED, previous=None, uniform=even)
    assert (few.pattern, translated(few.evidence, "zh")) == (None, "词元太少，无法判断")


def test_every_label_has_its_words():
    assert list(NAMES) == list(BRIEF) == list(LABELS)
    assert {*ON, "uniform"} == {*PATTERNS}
    assert all(en == label for label, (en, _) in NAMES.items())
    assert all(len(brief) <= 4 for both in BRIEF.values() for brief in both)
