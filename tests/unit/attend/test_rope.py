"""Positions against the numbers of the papers and of transformers."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from tests.unit.attend.test_scalings import PLAIN, SCALINGS, THETA, D, config
from wqkv.attend import rope as rope_module
from wqkv.attend.rope import RoPE, rotate
from wqkv.attend.scalings import (
    DynamicNTK,
    GivenFrequencies,
    YaRN,
)
from wqkv.errors import ArgumentError, KindError


@pytest.mark.parametrize("kind", [None, *SCALINGS])
def test_rotation_is_llamas(kind):
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    scaling, rules = SCALINGS.get(kind, (None, {}))
    torch.manual_seed(0)
    q, k = torch.randn(2, 3, 103, D), torch.randn(2, 5, 103, D)
    position = torch.arange(103)
    cos, sin = LlamaRotaryEmbedding(config(kind or "default", rules))(q, position[None])
    rope = RoPE(THETA, scaling=scaling)
    for ours, theirs in zip(
        (rope.rotate(q, position), rope.rotate(k, position, 103)),
        apply_rotary_pos_emb(q, k, cos, sin),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_rotation_of_interleaved_pairs_is_gptjs():
    from transformers.models.gptj.modeling_gptj import (
        apply_rotary_pos_emb,
        create_sinusoidal_positions,
    )

    torch.manual_seed(0)
    x = torch.randn(2, 3, 11, 14)
    sin, cos = create_sinusoidal_positions(11, 14)[None].chunk(2, dim=-1)
    theirs = apply_rotary_pos_emb(x.transpose(1, 2), sin, cos).transpose(1, 2)
    ours = RoPE(interleaved=True).rotate(x, torch.arange(11))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(ours, RoPE().rotate(x, torch.arange(11)))


@pytest.mark.parametrize(("interleaved", "pair"), [(False, (1, 4)), (True, (2, 3))])
def test_rotation_of_one_pair_by_hand(interleaved, pair):
    x = torch.zeros(1, 1, 1, 6, dtype=torch.float64)
    x[..., pair[0]] = 1.0
    angle = 5 * 100.0 ** (-2 / 6)  # pair number 1 of 3 at position 5
    turned = RoPE(theta=100.0, interleaved=interleaved).rotate(x, torch.tensor([5])).flatten()
    expected = torch.zeros(6, dtype=torch.float64)
    expected[pair[0]], expected[pair[1]] = math.cos(angle), math.sin(angle)
    torch.testing.assert_close(turned, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("d", [None, 6])
def test_scores_depend_on_differences_only(interleaved, d):
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 3, 1, 10, dtype=torch.float64)
    rope = RoPE(theta=50.0, d=d, interleaved=interleaved)

    def score(i, j):
        at = [rope.rotate(x, torch.tensor([p])) for x, p in ((q, i), (k, j))]
        return (at[0] * at[1]).sum(-1)

    for ahead in (-3, 0, 2):
        scores = torch.stack([score(i, i + ahead) for i in (3, 7, 13)])
        torch.testing.assert_close(scores, scores[:1].expand_as(scores), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(score(3, 3), score(3, 5))
    torch.testing.assert_close(score(0, 0), (q * k).sum(-1))


def test_partial_rotation_keeps_the_rest():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, 10)
    turned = RoPE(d=4).rotate(x, torch.arange(5))
    assert torch.equal(turned[..., 4:], x[..., 4:])
    assert torch.equal(turned[..., :4], RoPE().rotate(x[..., :4], torch.arange(5)))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_rotation_keeps_the_dtype(dtype):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, 14, dtype=dtype)
    exact = RoPE().rotate(x.double(), torch.arange(5))
    turned = RoPE().rotate(x, torch.arange(5))
    assert turned.dtype == dtype
    torch.testing.assert_close(turned, exact.to(dtype))


def test_a_position_a_sample():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, 14)
    position = torch.tensor([[0, 1, 2, 3, 4], [7, 9, 11, 13, 17]])
    turned = RoPE().rotate(x, position)
    for sample in (0, 1):
        alone = RoPE().rotate(x[sample : sample + 1], position[sample])
        assert torch.equal(turned[sample : sample + 1], alone)


def test_length_of_the_whole_text():
    """A scaling by length turns a short piece as part of the long text it is told of."""
    rope, x = RoPE(scaling=DynamicNTK(3.0, 5)), torch.ones(1, 1, 3, 6)
    first = torch.arange(3)
    assert torch.equal(
        rope.rotate(x, first, 13),
        rope.rotate(x.repeat(1, 1, 5, 1)[:, :, :13], torch.arange(13))[:, :, :3],
    )
    assert torch.equal(rope.rotate(x, first, 5), RoPE().rotate(x, first))
    assert not torch.equal(rope.rotate(x, first, 13), rope.rotate(x, first))
    assert rope.rotate(x[:, :, :0], first[:0]).shape == (1, 1, 0, 6)


def test_rotation_made_in_inference_mode_can_be_trained_later():
    rope = RoPE(theta=123.0)
    with torch.inference_mode():
        rope.rotate(torch.ones(1, 1, 2, 4), torch.arange(2))
    x = torch.ones(1, 1, 2, 4, requires_grad=True)
    rope.rotate(x, torch.arange(2)).sum().backward()
    assert x.grad[0, 0, 0].tolist() == [1.0] * 4


def test_span_is_turns_of_neighbouring_positions():
    x = torch.ones(1, 1, 1, 6)
    for rope in (RoPE(theta=7.0), RoPE(scaling=DynamicNTK(2.0, 11)), RoPE(scaling=YaRN(3.0, 11))):
        for first, n, length in ((0, 5, 5), (3, 1, 4), (60, 9, 69), (-2, 3, 5), (70000, 2, 70002)):
            found = rope.span(x, first, n, length)
            turns = rope.turns(x, torch.arange(first, first + n), length)
            for a, b in zip(found, turns, strict=True):
                assert torch.equal(a, b), (rope, first)


def test_span_is_exact_in_float64_after_float32():
    rope, x = RoPE(theta=5.0), torch.ones(1, 1, 1, 6)
    assert rope.span(x, 0, 3, 3)[0].dtype == torch.float32
    cos, _ = rope.span(x.double(), 0, 3, 3)
    assert torch.equal(cos, rope.turns(x.double(), torch.arange(3))[0])


def test_span_made_in_inference_mode_can_be_trained_with_later():
    rope = RoPE(theta=321.0)
    with torch.inference_mode():
        rope.span(torch.ones(1, 1, 2, 4), 0, 2, 2)
    x = torch.ones(1, 1, 2, 4, requires_grad=True)
    rotate(x, *rope.span(x, 0, 2, 2)).sum().backward()
    assert x.grad[0, 0, 0].tolist() == [1.0] * 4


def test_span_of_a_fake_tensor_is_not_kept():
    rope = RoPE(theta=77.0)
    with FakeTensorMode() as mode:
        cos, _ = rope.span(mode.from_tensor(torch.ones(1, 1, 3, 4)), 0, 3, 3)
        assert isinstance(cos, FakeTensor)
    cos, _ = rope.span(torch.ones(1, 1, 3, 4), 0, 3, 3)
    assert type(cos) is torch.Tensor


@pytest.mark.parametrize(
    "rope", [RoPE(), *(RoPE(scaling=s) for s, _ in SCALINGS.values())], ids=str
)
def test_a_dry_run_leaves_nothing_behind(rope, monkeypatch):
    """On the meta device, of fake tensors, or inside torch.func: later calls have their numbers."""
    x, position = torch.randn(2, 3, 7, D), torch.arange(7)
    expected = rope.rotate(x, position, 7), *rope.span(x, 0, 7, 7)
    dry = [
        lambda: torch.device("meta"),
        FakeTensorMode,
        lambda: FakeTensorMode(allow_non_fake_inputs=True),
    ]
    for mode in dry:
        monkeypatch.setattr(rope_module, "_kept_frequencies", {})
        monkeypatch.setattr(rope_module, "_kept_tables", {})
        with mode():
            rope.rotate(torch.randn(2, 3, 7, D), torch.arange(7), 7)
            rope.span(torch.randn(2, 3, 7, D), 0, 7, 7)
            if mode is dry[-1]:
                rope.span(x, 0, 7, 7)
        found = rope.rotate(x, position, 7), *rope.span(x, 0, 7, 7)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_tables_made_inside_torch_func_are_not_kept(monkeypatch):
    monkeypatch.setattr(rope_module, "_kept_frequencies", {})
    monkeypatch.setattr(rope_module, "_kept_tables", {})
    x = torch.randn(2, 3, 7, D)
    torch.func.grad(lambda x: RoPE().span(x, 0, 7, 7)[0].sum() + x.sum())(x)
    assert not rope_module._kept_frequencies and not rope_module._kept_tables
    RoPE().span(x, 0, 7, 7)
    assert len(rope_module._kept_frequencies) == len(rope_module._kept_tables) == 1


def test_the_oldest_tables_go(monkeypatch):
    monkeypatch.setattr(rope_module, "_kept_tables", {})
    x = torch.randn(2, 3, 7, D)
    for theta in range(2, 12):
        RoPE(float(theta)).span(x, 0, 7, 7)
    assert [key[0].theta for key in rope_module._kept_tables] == list(range(4, 12))


def test_grid_on_the_meta_device():
    expected = RoPE.grid(8)
    with torch.device("meta"):
        assert RoPE.grid(8) == expected


def test_given_frequencies_by_hand():
    rope = RoPE(scaling=GivenFrequencies((math.pi / 2, math.pi)))
    turned = rope.rotate(torch.tensor([[[[1.0, 1.0, 0.0, 0.0]]]]), torch.tensor([1]))
    torch.testing.assert_close(turned, torch.tensor([[[[0.0, -1.0, 1.0, 0.0]]]]), atol=1e-6, rtol=0)


def test_axes_turn_their_own_pairs():
    """A word at (5, 3) is turned in its first pairs as one at 5, in its last as one at 3."""
    rope, plain = RoPE(d=8, axes=(0, 0, 1, 0)), RoPE()
    x = torch.randn(2, 3, 1, 8)
    turned = rope.rotate(x, torch.tensor([[5], [3]]))
    at_5, at_3 = (plain.rotate(x, torch.tensor([i])) for i in (5, 3))
    for pair, expected in ((0, at_5), (1, at_5), (2, at_3), (3, at_5)):
        for channel in (pair, pair + 4):
            torch.testing.assert_close(turned[..., channel], expected[..., channel])
    # as much of a batch, and plain text at the same number on every axis
    batched = rope.rotate(x, torch.tensor([[[5], [5]], [[3], [3]]]))
    torch.testing.assert_close(batched, turned)
    torch.testing.assert_close(
        rope.rotate(x, torch.tensor([4])), plain.rotate(x, torch.tensor([4]))
    )


def test_sections_are_those_of_qwen2_vl():
    qwen = pytest.importorskip("transformers.models.qwen2_vl.modeling_qwen2_vl")
    sections, d, n = [2, 3, 4], 18, 7
    rules = {"rope_type": "default", "rope_theta": THETA, "mrope_section": sections}
    config = SimpleNamespace(rope_parameters=rules, head_dim=d, max_position_embeddings=50)
    position = torch.randint(0, 50, (3, 2, n), generator=torch.Generator().manual_seed(0))
    q, k = torch.randn(2, 5, n, d), torch.randn(2, 5, n, d)
    turns = qwen.Qwen2VLRotaryEmbedding(config)(q, position)
    theirs = qwen.apply_rotary_pos_emb(q, k, *turns)
    axes = tuple(axis for axis, count in enumerate(sections) for _ in range(count))
    rope = RoPE(THETA, d, axes=axes)
    for ours, other in zip(
        (rope.rotate(q, position), rope.rotate(k, position)), theirs, strict=True
    ):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-5)


def test_grid_is_the_vision_rotation_of_qwen2_vl():
    qwen = pytest.importorskip("transformers.models.qwen2_vl.modeling_qwen2_vl")
    d, n = 12, 6
    position = torch.randint(0, 9, (2, n), generator=torch.Generator().manual_seed(0))
    q = torch.randn(n, 5, d)
    plain = 10000 ** (-torch.arange(0, d // 2, 2) / (d // 2))
    angle = (position.T[..., None] * plain).flatten(1)
    cos, sin = (torch.cat((y, y), -1) for y in (angle.cos(), angle.sin()))
    theirs, _ = qwen.apply_rotary_pos_emb_vision(q, q, cos, sin)
    ours = RoPE.grid(d).rotate(q.transpose(0, 1)[None], position)
    torch.testing.assert_close(ours[0].transpose(0, 1), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("run", "error", "says"),
    [
        (lambda: RoPE.grid(8, axes=0), ArgumentError, "8 channels do not make pairs for 0 axes"),
        (lambda: RoPE(d=4, axes=(-1, 0)), ArgumentError, r"`axes` are \(-1, 0\).*from 0"),
        (
            lambda: RoPE().rotate(torch.ones(2, 3, 5, 4), torch.arange(7)),
            ArgumentError,
            r"`position` has shape \(7,\), and `x` \(2, 3, 5, 4\).*\(n,\) or \(batch, n\)",
        ),
        (
            lambda: RoPE().rotate(torch.ones(2, 3, 5, 4).long(), torch.arange(5)),
            ArgumentError,
            r"vectors of floats.*i64\[2, 3, 5, 4\]",
        ),
        (lambda: RoPE.grid(10), ArgumentError, "10 channels do not make pairs for 2 axes.*of 4"),
        (lambda: RoPE(axes=(0, 1)), ArgumentError, "names 2 pairs of channels, and `d` is None"),
        (
            lambda: RoPE(d=4, axes=(0, 2)).turns(PLAIN[:4], torch.ones(2, 5).long()),
            ArgumentError,
            r"turns by 3 axes, and a position has 2.*i64\[2, 5\]",
        ),
        (lambda: RoPE(theta=-3.0), ArgumentError, "`theta` is -3.0"),
        (lambda: RoPE(theta=math.nan), ArgumentError, "`theta` is nan"),
        (
            lambda: RoPE(scaling="yarn"),
            KindError,
            r"`scaling` is a scaling such as YaRN\(.*, not str 'yarn'",
        ),
        (lambda: RoPE(d=5), ArgumentError, "`d` is 5, but channels turn in pairs"),
        (lambda: RoPE(d=0), ArgumentError, "`d` is 0"),
        (
            lambda: RoPE(d=6).rotate(torch.ones(1, 1, 3, 4), torch.arange(3)),
            ArgumentError,
            r"turns 6 channels, which does not fit 4.*f32\[1, 1, 3, 4\].*up to 4",
        ),
        (
            lambda: RoPE().rotate(torch.ones(1, 1, 3, 5), torch.arange(3)),
            ArgumentError,
            "turns 5 channels, which does not fit 5",
        ),
        (
            lambda: RoPE().rotate(torch.ones(1, 1, 3, 4), torch.arange(3.0)),
            KindError,
            r"whole number.*f32\[3\]",
        ),
    ],
)
def test_errors(run, error, says):
    with pytest.raises(error, match=f"(?s){says}"):
        run()
