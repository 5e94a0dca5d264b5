"""The scalings of RoPE against those of transformers."""

import math

import pytest
import torch

from wqkv.attend.scalings import (
    DynamicNTK,
    GivenFrequencies,
    LinearScaling,
    Llama3Scaling,
    LongRoPE,
    RoPEScaling,
    YaRN,
)
from wqkv.errors import ArgumentError

D, THETA, TRAINED = 26, 5000.0, 101
PLAIN = THETA ** -(torch.arange(0, D, 2, dtype=torch.float64) / D)
SHORT = tuple(1 + i / 7 for i in range(D // 2))
LONG = tuple(2 + i / 3 for i in range(D // 2))

SCALINGS = {
    "linear": (LinearScaling(3.0), {"factor": 3.0}),
    "dynamic": (DynamicNTK(3.0, TRAINED), {"factor": 3.0}),
    "yarn": (YaRN(3.0, 53), {"factor": 3.0, "original_max_position_embeddings": 53}),
    "yarn ramp": (
        YaRN(3.0, 53, beta_fast=7.0, beta_slow=0.5, truncate=False),
        {
            "factor": 3.0,
            "original_max_position_embeddings": 53,
            "beta_fast": 7.0,
            "beta_slow": 0.5,
            "truncate": False,
        },
    ),
    "yarn gain": (
        YaRN(3.0, 53, gain=1.25),
        {"factor": 3.0, "original_max_position_embeddings": 53, "attention_factor": 1.25},
    ),
    "llama3": (
        Llama3Scaling(5.0, 1.0, 4.0, 53),
        {
            "factor": 5.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 53,
        },
    ),
    "longrope": (
        LongRoPE(SHORT, LONG, 53, TRAINED / 53),
        {
            "short_factor": list(SHORT),
            "long_factor": list(LONG),
            "original_max_position_embeddings": 53,
        },
    ),
    "longrope gain": (
        LongRoPE(list(SHORT), list(LONG), 53, 7.0, 1.5),
        {
            "short_factor": list(SHORT),
            "long_factor": list(LONG),
            "factor": 7.0,
            "attention_factor": 1.5,
            "original_max_position_embeddings": 53,
        },
    ),
}


def config(kind: str, rules: dict[str, object]):
    transformers = pytest.importorskip("transformers")
    return transformers.LlamaConfig(
        hidden_size=3 * D,
        num_attention_heads=3,
        max_position_embeddings=TRAINED,
        rope_parameters={"rope_type": kind.split()[0], "rope_theta": THETA, **rules},
    )


@pytest.mark.parametrize("length", [7, 53, 54, 101, 103, 211])
@pytest.mark.parametrize("kind", SCALINGS)
def test_scalings_are_those_of_transformers(kind, length):
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling, rules = SCALINGS[kind]
    theirs, gain = ROPE_INIT_FUNCTIONS[kind.split()[0]](config(kind, rules), seq_len=length)
    ours = scaling.frequencies(PLAIN, THETA, length).float()
    torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=0)
    assert scaling.amplitude() == pytest.approx(gain, rel=1e-12)


def test_scalings_change_the_frequencies():
    for scaling, _ in SCALINGS.values():
        assert not torch.allclose(scaling.frequencies(PLAIN, THETA, 211), PLAIN)
        changes = not torch.equal(
            scaling.frequencies(PLAIN, THETA, 7), scaling.frequencies(PLAIN, THETA, 211)
        )
        assert changes == scaling.by_length
    assert LongRoPE(SHORT, LONG, 53, factor=0.5).amplitude() == 1.0
    assert YaRN(0.5, 53).amplitude() == 1.0
    assert LinearScaling(3.0).amplitude() == 1.0


@pytest.mark.parametrize(
    ("run", "says"),
    [
        (
            lambda: LinearScaling(math.inf),
            "`factor` of LinearScaling is inf.*finite",
        ),
        (
            lambda: Llama3Scaling(8.0, 4.0, 1.0, 7),
            "`low` 4.0 and `high` 1.0.*lower `low`",
        ),
        (lambda: LongRoPE((1.0, 0.0), (2.0, 3.0), 5), r"divisors \(1.0, 0.0\) and"),
        (
            lambda: GivenFrequencies((1.0, math.nan)),
            r"frequencies \(1.0, nan\).*finite",
        ),
        (
            lambda: GivenFrequencies((1.0,)).frequencies(PLAIN, THETA, 3),
            "1 frequencies for 13 pairs",
        ),
        (lambda: LinearScaling(0.0), "`factor` of LinearScaling is 0.0.*above 0"),
        (lambda: DynamicNTK(3.0, 0), "`trained_length` of DynamicNTK is 0"),
        (lambda: YaRN(math.nan, 5), "`factor` of YaRN is nan"),
        (lambda: LongRoPE((1.0,), (1.0,), -7), "`trained_length` of LongRoPE is -7"),
        (
            lambda: LongRoPE((1.0,), (2.0, 3.0), 5).frequencies(PLAIN, THETA, 3),
            "1 divisors for 13 pairs",
        ),
        (
            lambda: LongRoPE((1.0,), (2.0, 3.0), 5).frequencies(PLAIN, THETA, 7),
            "2 divisors for 13 pairs",
        ),
    ],
)
def test_errors(run, says):
    with pytest.raises(ArgumentError, match=f"(?s){says}"):
        run()


def test_the_base_has_no_frequencies():
    with pytest.raises(NotImplementedError):
        RoPEScaling().frequencies(PLAIN, THETA, 3)
