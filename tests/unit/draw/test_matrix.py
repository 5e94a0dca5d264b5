"""wqkv.draw.matrix, on tiny models of many kinds: pictures and sums show what a model computes."""

import math

import pytest
import torch
from transformers import (
    BertConfig,
    DeepseekV3Config,
    DeepseekV3Model,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    Qwen3Config,
)

from tests.tiny import READ, TARGET, of_config, tiny_bart
from tests.unit.draw.stories import make
from wqkv.draw.matrix import (
    legend,
    pixels,
    products,
    scale_end,
    side_by_side,
    worked_sum,
    write_sum,
)
from wqkv.draw.steps import tell
from wqkv.study.model import OpenModel
from wqkv.study.one_token import TokenStory, token_story
from wqkv.study.tokens import TokenizedText

SIZES = {
    "vocab_size": 101, "hidden_size": 66, "intermediate_size": 53, "num_hidden_layers": 2,
    "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 14, "pad_token_id": 0,
}  # fmt: skip
BERT = {"vocab_size": 101, "hidden_size": 42, "intermediate_size": 53, "num_hidden_layers": 2}
KINDS = {
    "bert": (BertConfig(**BERT, num_attention_heads=3), ((), (), ())),
    "gpt2": (GPT2Config(vocab_size=101, n_embd=42, n_layer=2, n_head=3), ((), (), ())),
    "llama": (LlamaConfig(**SIZES), (("RoPE",), ("RoPE",), ())),
    "qwen3": (Qwen3Config(**SIZES), (("norm", "RoPE"), ("norm", "RoPE"), ())),
    "gemma2": (Gemma2Config(**SIZES, query_pre_attn_scalar=14), (("RoPE",), ("RoPE",), ())),
}


def story_of(model: torch.nn.Module, layer: int = 1, head: int = 5, token: int = 8) -> TokenStory:
    ids = torch.randint(3, 101, (13,), generator=torch.Generator().manual_seed(2)).tolist()
    view = OpenModel(model, None, "tiny").view(TokenizedText.of_ids(ids))
    return token_story(view, layer, min(head, view.model.sizes.n_head - 1), token)


@pytest.mark.parametrize("kind", KINDS)
def test_a_product_is_what_the_model_makes(kind):
    config, between = KINDS[kind]
    story = story_of(of_config(config))
    assert tuple(part.between for part in products(story)) == (*between, ())
    made = story.q, story.k, story.v, story.share
    for part, own in zip(products(story), made, strict=True):
        if not part.between:
            torch.testing.assert_close(part.made.float(), own, rtol=1e-4, atol=1e-5)
        elif part.between == ("RoPE",):  # a rotation keeps the length
            torch.testing.assert_close(part.made.norm().float(), own.norm(), rtol=1e-4, atol=1e-5)


def test_a_score_is_what_its_formula_says():
    story = story_of(of_config(Gemma2Config(**SIZES, query_pre_attn_scalar=14)), token=0)
    assert story.softcap == 50.0
    score = 50 * math.tanh(float(story.q @ story.k) * story.scale / 50)  # the first sees itself
    assert score == pytest.approx(story.scores[0].item(), abs=1e-5)
    assert "= 50 tanh(q . k / sqrt(14) / 50) = " in tell(story)[3].formula


def test_latent_attention_has_no_four_matrices():
    config = DeepseekV3Config(
        vocab_size=101, hidden_size=66, intermediate_size=53, moe_intermediate_size=29,
        num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=6, kv_lora_rank=18,
        q_lora_rank=22, qk_rope_head_dim=10, qk_nope_head_dim=14, v_head_dim=16,
        n_routed_experts=4, n_group=2, topk_group=1, num_experts_per_tok=2, pad_token_id=0,
    )  # fmt: skip
    story = story_of(DeepseekV3Model(config).eval())
    assert story.matrices is None and products(story) == () and side_by_side(story) == []


def test_two_texts_are_two_groups():
    view = tiny_bart().views(READ, TARGET)["cross"]
    story = token_story(view, 1, 2, 3)
    of_x, of_y, of_context = side_by_side(story)
    assert [[part.name for part in group] for group in (of_x, of_y, of_context)] == [
        ["WQ"], ["WK", "WV"], ["WO"],
    ]  # fmt: skip
    assert {part.given_name for part in of_y} == {"y"}
    for part, own in zip((*of_x, *of_y), (story.q, story.k, story.v), strict=True):
        torch.testing.assert_close(part.made.float(), own, rtol=1e-4, atol=1e-5)


# Sums and scales


@pytest.mark.parametrize("seed", range(29))
def test_the_parts_of_a_sum_add_up_as_they_are_written(seed):
    generator = torch.Generator().manual_seed(seed)
    scale = 10.0 ** torch.randint(-4, 4, (), generator=generator).item()
    story = make(x=torch.randn(53, generator=generator) * scale)
    for part in products(story):
        told = write_sum(part)
        *added, (name, total) = told.lines
        decimals = len(total.partition(".")[2])
        assert f"{sum(float(number) for _, number in added):.{decimals}f}" == total
        assert float(total) == pytest.approx(worked_sum(part).total, rel=5e-3)
        assert name == f"{part.made_name}[{part.made.abs().argmax()}]"


def test_few_rows_leave_no_other_terms():
    story = make(x=torch.tensor([2.0, -3.0, 0.0]))
    told = worked_sum(products(story)[0])
    assert (told.others, len(told.terms)) == (0, 3)
    assert told.rest == pytest.approx(0, abs=1e-6)
    assert not any("other" in added for added, _ in write_sum(products(story)[0]).lines)


@pytest.mark.parametrize(
    ("numbers", "end"),
    [
        ([0.0], 1.0),
        ([math.nan, math.inf], 1.0),
        ([0.0, 2.0], 2.0),
        ([-0.123456], 0.13),
        ([9.96], 10.0),
        ([3e-7], 3e-7),
        ([1.0] * 199 + [100.0], 1.0),  # one large number does not make all others faint
    ],
)
def test_where_a_scale_ends(numbers, end):
    assert scale_end([torch.tensor(numbers)]) == end
    assert scale_end([torch.tensor(numbers[:1]), torch.tensor(numbers[1:])]) == end


def test_pixels_are_numbers_of_the_matrix():
    numbers = torch.randn(53, 17, generator=torch.Generator().manual_seed(3))
    shown = pixels(numbers, 7, 5)
    assert (shown.rows, shown.columns, shown.numbers.shape) == (8, 4, (7, 5))
    for i in range(7):
        for j in range(5):
            block = numbers[8 * i : 8 * i + 8, 4 * j : 4 * j + 4].flatten()
            assert shown.numbers[i, j] == block[block.abs().argmax()]
    assert torch.equal(pixels(numbers, 53, 17).numbers, numbers)


def test_the_legend_says_rows_blocks_and_ends():
    group = side_by_side(make())[0]
    rows, block, colors = legend(group, 8, pixels(group[0].numbers, 8, 9), "signs", "en")
    assert rows == "rows: the 8 of 53 with the largest |x|, the largest first"
    assert block == "each cell: of 7 x 2 numbers the one of the largest size"
    assert colors.endswith("2.6 (WQ, WK, WV), 2.5 (x), 19 (q, k, v)")
    rows, colors = legend(group, 53, pixels(group[0].numbers, 53, 17), "faint", "zh")
    assert rows == "行：全部 53 行，按 |x| 从大到小"
