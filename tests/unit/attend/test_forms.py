"""Every mask, position and rule as JSON and back, and what is no form of any."""

import copy
import json
import pickle
from dataclasses import asdict, is_dataclass, replace

import pytest
import torch
from torch import nn

from wqkv import MultiheadAttention, attention
from wqkv.attend import forms
from wqkv.attend.bias import ALiBi, Bias, StoredBias, T5Bias
from wqkv.attend.forms import LARGEST, Form, alike, outline
from wqkv.attend.masks import (
    Causal,
    Chunked,
    Dense,
    Full,
    Lengths,
    Mask,
    Prefix,
    Segments,
    Window,
)
from wqkv.attend.rope import RoPE
from wqkv.attend.scalings import (
    DynamicNTK,
    GivenFrequencies,
    LinearScaling,
    Llama3Scaling,
    LongRoPE,
    RoPEScaling,
    YaRN,
)
from wqkv.errors import ArgumentError, KindError
from wqkv.layer.norms import Norm, QKNorm, Temperature

SOME = torch.tensor([[[[0.5, -torch.inf, torch.nan, 3.0]]]])
VALUES = [
    Full(), Causal(), ~Causal(), Window(511, 0), Window(None, 3), Chunked(4),
    Lengths([3, 5]), Lengths(torch.tensor([3, 5], dtype=torch.int32)), Lengths([]),
    Prefix(3), Prefix([1, 2]), Segments([[0, 0, 1]]), Segments([[0, 0, 1]], [[1, 0]]),
    Segments(torch.zeros(2, 0, dtype=torch.long)), Dense(torch.rand(2, 3, 5, 7) > 0.3),
    Causal() & Chunked(4), Causal() | ~Prefix([2]), (~Causal() & Lengths([2])) | Window(1, 1),
    Prefix(3).part(2, 7), Segments([[0, 0, 1]]).part(1, 3, 1, 5),
    RoPE(), RoPE(5e5, d=8, interleaved=True), RoPE.grid(8), RoPE(scaling=LinearScaling(2.0)),
    RoPE(scaling=DynamicNTK(2.0, 7)), RoPE(scaling=YaRN(4.0, 53, gain=1.5, truncate=False)),
    RoPE(scaling=Llama3Scaling(8.0, 1.0, 4.0, 53)),
    RoPE(scaling=LongRoPE((1.0, 2.0), (3.0, 4.0), 7, 3.0)),
    RoPE(d=4, axes=(0, 1), scaling=GivenFrequencies((0.5, 0.1))),
    ALiBi(5), ALiBi(torch.rand(3, dtype=torch.float64)), ALiBi(torch.rand(3, dtype=torch.bfloat16)),
    T5Bias(torch.rand(8, 3), bidirectional=True, max_distance=17), StoredBias(SOME),
    ALiBi(nn.Parameter(torch.rand(3))), T5Bias(nn.Parameter(torch.rand(8, 3)), bidirectional=False),
    Norm("l2", "each head", bias=True), QKNorm("layer", eps=1e-5, after_position=True),
    Temperature(8192, 0.1, 3),
]  # fmt: skip


def named(value: object) -> str | None:
    """Return the id of a value; None, for a numbered one, where the repr is an address."""
    text = repr(value)
    return None if " at 0x" in text else text


def kinds(base: type) -> set[type]:
    below = base.__subclasses__()
    own = {kind for kind in below if kind.__module__.startswith("wqkv.")}
    return own.union(*map(kinds, below))


def test_every_kind_is_tried():
    tried = {type(value) for value in VALUES} | {
        type(v.scaling) for v in VALUES if "RoPE(" in repr(v)
    }
    named = {kind for kind in kinds(Form) if "__match_args__" in vars(kind)}
    assert named - tried == {RoPEScaling}  # which is abstract
    assert len(named) > 20


@pytest.mark.parametrize("value", VALUES, ids=named)
def test_there_and_back(value):
    form = value.to_dict()
    text = json.dumps(form, allow_nan=False)
    again = type(value).from_dict(json.loads(text))
    assert type(again) is type(value)
    assert again.to_dict() == form == Form.from_dict(form).to_dict()
    assert form["type"] == type(value).__name__
    for twin in (copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert twin.to_dict() == form
    fields = [getattr(value, name) for name in forms.fields(type(value))]
    assert type(value)._of_fields(fields).to_dict() == form
    if is_dataclass(value):
        assert again == value and hash(again) == hash(value) and replace(value) == value
        assert json.loads(json.dumps(asdict(value))) == json.loads(text)


@pytest.mark.parametrize("mask", [v for v in VALUES if isinstance(v, Mask)], ids=repr)
def test_the_mask_again_sees_the_same(mask):
    again = Mask.from_dict(mask.to_dict())
    sizes = [n if n is not None else 3 for n in mask._own_lengths()]
    assert torch.equal(again.dense(*sizes), mask.dense(*sizes))


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (Window(511, 0), {"type": "Window", "before": 511, "after": 0}),
        (~Causal(), {"type": "Not", "inner": {"type": "Causal"}}),
        (
            Lengths([3, 5]),
            {"type": "Lengths", "lengths": {"dtype": "int64", "shape": [2], "values": [3, 5]}},
        ),
        (
            StoredBias(SOME),
            {
                "type": "StoredBias",
                "values": {
                    "dtype": "float32",
                    "shape": [1, 1, 1, 4],
                    "values": [0.5, "-inf", "nan", 3.0],
                },
            },
        ),
        (
            ALiBi(nn.Parameter(torch.tensor([0.5]))),
            {
                "type": "ALiBi",
                "slopes": {"dtype": "float32", "shape": [1], "values": [0.5], "learned": True},
            },
        ),
        (
            ALiBi(torch.empty(3, device="meta")),
            {"type": "ALiBi", "slopes": {"dtype": "float32", "shape": [3], "learned": True}},
        ),
    ],
    ids=named,
)
def test_how_a_form_looks(value, form):
    assert value.to_dict() == form


def test_a_form_by_hand():
    made = Mask.from_dict({"type": "Lengths", "lengths": [3, 5]})
    assert made.to_dict() == Lengths([3, 5]).to_dict()
    assert Mask.from_dict(Causal()) == Causal()
    scaling = {"type": "LinearScaling", "factor": 2.0}
    assert RoPE(scaling=scaling) == RoPE(scaling=LinearScaling(2.0))


def test_what_is_learned_without_numbers_begins_at_zero():
    form = {"dtype": "float64", "shape": [3], "learned": True}
    made = ALiBi.from_dict({"type": "ALiBi", "slopes": form})
    assert isinstance(made.slopes, nn.Parameter) and made.slopes.dtype == torch.float64
    assert not made.slopes.any()
    with torch.device("meta"):
        assert ALiBi.from_dict({"type": "ALiBi", "slopes": form}).slopes.is_meta


class Every(Mask):
    """Of one's own: every n-th key."""

    __match_args__ = ("n",)

    def __init__(self, n: int) -> None:
        self.n = n


class Secret(Mask):
    """Of one's own, without fields."""


def test_a_mask_of_ones_own():
    assert (Every(3) & Causal()).to_dict()["a"] == {"type": "Every", "n": 3}
    assert Mask.from_dict((~Every(3)).to_dict()).inner.n == 3
    assert outline(Secret() & Causal())["a"] == {"type": "Secret"}


MANY = Dense(torch.ones(1, 1, 257, 256, dtype=torch.bool))


def test_tensors_that_stand_elsewhere():
    kept = []

    def put(x):
        kept.append(x)
        return {"place": len(kept) - 1}

    mask = Segments([[0, 1, 1]]) & ~Lengths([2])
    form = json.loads(json.dumps(forms.write(mask, put)))
    assert form["a"] == {"type": "Segments", "labels": {"place": 0}, "query_labels": None}
    again = forms.read(form, lambda one: kept[one["place"]])
    assert again.to_dict() == mask.to_dict()
    with pytest.raises(ArgumentError, match='A form names its "type", and this has none'):
        forms.read(form)


def test_the_largest_that_is_written_out():
    most = Dense(torch.ones(1, 1, 256, 256, dtype=torch.bool))
    assert most.matrix.numel() == LARGEST
    assert len(most.to_dict()["matrix"]["values"]) == LARGEST
    assert outline(MANY) == {
        "type": "Dense",
        "matrix": {"dtype": "bool", "shape": [1, 1, 257, 256]},
    }


NO_TENSOR = "no form of a tensor"


@pytest.mark.parametrize(
    ("run", "error", "says"),
    [
        (lambda: MANY.to_dict(), ArgumentError, r"bool\[1, 1, 257, 256\].* has 65792 .* 65536 at"),
        (lambda: Secret().to_dict(), KindError, "Secret has no form.*__match_args__"),
        (lambda: Every(object()).to_dict(), KindError, "no form of object <object"),
        (lambda: Bias().to_dict(), KindError, "Bias has no form"),
        (lambda: Mask.from_dict({}), ArgumentError, r'names its "type".*dict \{\}'),
        (lambda: Mask.from_dict({"type": "Widow"}), ArgumentError, "'Widow'.*known: .*Window"),
        (lambda: Mask.from_dict({"type": ["Full"]}), ArgumentError, r"type \['Full'\]"),
        (lambda: Mask.from_dict(3), KindError, "`form` is a Mapping or a Form, not int 3"),
        (lambda: Mask.from_dict(RoPE().to_dict()), KindError, "of Mask is asked for, not of RoPE"),
        (
            lambda: Mask.from_dict({"type": "Window", "before": 3}),
            ArgumentError,
            "no form of Window: .*'after'.*it has: before.*Its arguments are .*after",
        ),
        (lambda: Mask.from_dict({"type": "Full", "size": 3}), ArgumentError, "Full: .*'size'"),
        (lambda: Mask.from_dict({"type": "Chunked", "size": 0}), ArgumentError, "`size` is 0"),
        (lambda: Mask.from_dict({"type": "Chunked", "size": "3"}), KindError, "not str '3'"),
        (
            lambda: forms.read({"dtype": "float32", "shape": [3], "values": [1.0]}),
            ArgumentError,
            NO_TENSOR,
        ),
        (lambda: forms.read({"dtype": "float32", "shape": [3]}), ArgumentError, NO_TENSOR),
        (
            lambda: forms.read({"dtype": "float32", "shape": [-3], "learned": True}),
            ArgumentError,
            NO_TENSOR,
        ),
        (lambda: forms.read({"dtype": "save", "shape": []}), ArgumentError, "'save'"),
        (lambda: forms.read({"dtype": "float32", "values": [1.0]}), ArgumentError, NO_TENSOR),
    ],
)
def test_errors(run, error, says):
    with pytest.raises(error, match=f"(?s){says}"):
        run()


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (Causal(), Causal(), True),
        (Causal(), Full(), False),
        (Window(3, 0), Window(3, 1), False),
        (RoPE(10000.0), RoPE(10000.001), True),
        (RoPE(10000.0), RoPE(10001.0), False),
        (RoPE(), RoPE(scaling=LinearScaling(2.0)), False),
        (ALiBi(3), ALiBi(ALiBi(3).slopes.double()), True),
        (ALiBi(3), ALiBi([0.1, 0.2, 0.3]), False),
        (ALiBi(3), ALiBi(4), False),
        (ALiBi(nn.Parameter(torch.zeros(3))), ALiBi(torch.zeros(3, device="meta")), True),
        (Lengths([2, 3]), Lengths([3, 2]), False),
        (Lengths([2, 3]), Lengths([2, 3, 3]), False),
        (Causal() & Full(), Causal(), True),
        (Causal() & Prefix(2), Prefix(2) & Causal(), False),
    ],
)
def test_what_is_alike(a, b, same):
    assert alike(outline(a), outline(b)) == alike(outline(b), outline(a)) == same


def test_later_versions_may_say_more():
    form = RoPE().to_dict()
    assert alike(form | {"later": 3}, form) and not alike(form | {"theta": 3}, form)


class Strided(Mask):
    """A mask of someone's own, which keeps more than its fields say."""

    __match_args__ = ("step", "name")
    strict = False

    def __init__(self, step: float, name: str) -> None:
        self.step, self.name = step, name
        self.strict = step > 1
        self.table = torch.arange(40)

    def visible(self, at):
        seen = self.table[at.key_pos] * self.step <= at.query_pos
        return seen if self.strict else seen | True

    def region(self, rect):
        return None


@pytest.mark.parametrize(
    "mask", [Strided(1.5, "x"), Strided(1.5, "x") & Causal()], ids=["alone", "combined"]
)
def test_a_mask_of_ones_own_in_training(mask):
    q = torch.randn(1, 2, 37, 8, dtype=torch.float64)
    right = attention(q, q, q, mask=mask)
    given = q.clone().requires_grad_()
    out = attention(given, given, given, mask=mask)
    assert torch.equal(out, right)
    ours = torch.autograd.grad(out.pow(2).sum(), given)[0]
    out = attention(given, given, given, mask=mask, engine="reference")
    torch.testing.assert_close(ours, torch.autograd.grad(out.pow(2).sum(), given)[0])


def test_a_bias_of_ones_own_with_a_parameter():
    class Own(T5Bias):
        def __init__(self, n: int) -> None:
            super().__init__(torch.nn.Parameter(torch.randn(8, n)), bidirectional=True)

    layer = MultiheadAttention(16, 4, position=Own(4))
    x = torch.randn(2, 7, 16)
    right = MultiheadAttention(16, 4, position=T5Bias(layer.position_0, bidirectional=True))
    right.load_state_dict(dict(layer.state_dict()))
    assert torch.equal(layer(x), right(x))
    layer(x).sum().backward()
    assert layer.position_0.grad is not None
