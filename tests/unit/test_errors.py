"""How things are named in a message, and what a missing package says."""

import pickle

import pytest
import torch
from torch import nn

from wqkv.errors import (
    ArgumentError,
    EngineError,
    KindError,
    MissedError,
    MissingExtraError,
    UpstreamError,
    WqkvError,
    describe,
    message,
    need,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (torch.zeros(2, 3, 5), "f32[2, 3, 5] on cpu"),
        (torch.zeros(2).double(), "f64[2] on cpu"),
        (torch.zeros(2).half(), "f16[2] on cpu"),
        (torch.zeros(2).bfloat16(), "bf16[2] on cpu"),
        (torch.zeros(0, 7, dtype=torch.int64, device="meta"), "i64[0, 7] on meta"),
        (torch.tensor(3, dtype=torch.uint8), "u8[] on cpu"),
        (torch.ones(3).bool(), "bool[3] on cpu"),
        (torch.zeros(1, dtype=torch.complex64), "c64[1] on cpu"),
        (torch.zeros(1).to(torch.float8_e4m3fn), "float8_e4m3fn[1] on cpu"),
        (5, "int 5"),
        (None, "NoneType None"),
        (nn.Linear(2, 3).bias.__class__, "_ParameterMeta <class 'torch.nn.parameter.Parameter'>"),
        (nn.Sequential(nn.Linear(3, 5)), "nn.Module Sequential"),
        ("x" * 58, "str '" + "x" * 58 + "'"),
        ("x" * 59, "str '" + "x" * 56 + "..."),
    ],
    ids=repr,
)
def test_describe(value, text):
    assert describe(value) == text


def test_message_has_three_parts():
    lines = message("They disagree.", {"query": torch.zeros(2), "k": 3}, "Pass one.").splitlines()
    assert lines == ["They disagree.", "  query: f32[2] on cpu", "  k:     int 3", "Pass one."]
    assert message("It is wrong.", {}, "Do this.") == "It is wrong.\nDo this."


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (ArgumentError, ValueError),
        (KindError, TypeError),
        (EngineError, RuntimeError),
        (MissedError, LookupError),
        (MissingExtraError, ImportError),
        (UpstreamError, ImportError),
    ],
)
def test_errors_are_also_what_python_calls_them(error, builtin):
    assert issubclass(error, WqkvError) and issubclass(error, builtin)
    assert str(pickle.loads(pickle.dumps(error("two\nlines")))) == "two\nlines"


def test_need():
    assert need("torch", "hf", "A test") is torch
    says = r"(?s)A test needs the package `not_there`: No module.*pip install 'wqkv\[show\]'"
    with pytest.raises(MissingExtraError, match=says) as caught:
        need("not_there.inside", "show", "A test")
    assert isinstance(caught.value.__cause__, ImportError)
