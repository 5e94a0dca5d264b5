"""A layer as a form and back, and checkpoints that say by which rules they were made."""

import copy
import inspect
import io
import json
import re

import pytest
import torch
from torch import Tensor, nn

from wqkv import (
    ALiBi,
    Causal,
    DifferentialAttention,
    Form,
    LatentAttention,
    Lengths,
    Mask,
    MultiheadAttention,
    Norm,
    QKNorm,
    RoPE,
    Segments,
    T5Bias,
    Temperature,
    Window,
)
from wqkv.attend.scalings import (
    YaRN,
)
from wqkv.errors import ArgumentError, KindError

N, D_MODEL = 7, 24


def table(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.rand(shape))


LAYERS = {
    "plain": lambda: MultiheadAttention(D_MODEL, 3),
    "everything": lambda: MultiheadAttention(
        D_MODEL, 4, n_kv_head=2, d_k=10, d_v=7, bias=("WQ", "WO"),
        position=RoPE(scaling=YaRN(2.0, 5)),
        mask=Window(3, 0) & Segments([[0] * 4 + [1] * 3]), norm=QKNorm("l2", bias=True),
        v_norm=Norm(), clip=3.0, temperature=Temperature(2, 0.1), softcap=5.0, sinks=True,
        gate="channel", scale=0.3, dropout=0.1, engine="tiled",
    ),
    "no WO, a learned table": lambda: MultiheadAttention(
        D_MODEL, 3, WO=False, bias=False, gate="head",
        position=T5Bias(table(8, 3), bidirectional=True, max_distance=9),
    ),
    "slopes": lambda: MultiheadAttention(D_MODEL, 3, position=ALiBi([0.5, 0.3, 0.1])),
    "learned slopes": lambda: MultiheadAttention(D_MODEL, 3, position=ALiBi(table(3))),
    "latent": lambda: LatentAttention(D_MODEL, 2, rank=5, d_rope=2),
    "latent, factored": lambda: LatentAttention(
        D_MODEL, 2, rank=5, d_rope=2, d_k=9, d_v=3, q_rank=3, bias=True, kdim=D_MODEL, gate="head",
        c_norm=Norm("layer", bias=True), mask=Causal(), position=RoPE(7.0, interleaved=True),
    ),
    "differential": lambda: DifferentialAttention(
        D_MODEL, 2, n_kv_head=1, start=0.7, c_norm=Norm("l2"), position=RoPE(), mask=Causal()
    ),
}  # fmt: skip


def made(name: str) -> MultiheadAttention:
    torch.manual_seed(0)
    return LAYERS[name]().eval()


def tokens(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", LAYERS)
def test_there_and_back(name):
    layer, x = made(name), tokens(2, N, D_MODEL)
    form = json.loads(json.dumps(layer.to_dict(), allow_nan=False))
    assert form["type"] == type(layer).__name__
    for base in (Form, MultiheadAttention, type(layer)):
        again = base.from_dict(form).eval()
        assert type(again) is type(layer) and again.to_dict() == form
        assert repr(again) == repr(layer)
        again.load_state_dict(layer.state_dict())
        assert torch.equal(again(x), layer(x))
    with torch.device("meta"):
        empty = MultiheadAttention.from_dict(form).eval()
    assert all(parameter.is_meta for parameter in empty.parameters())
    empty.load_state_dict(layer.state_dict(), assign=True)
    assert torch.equal(empty(x), layer(x))
    assert layer.to(torch.bfloat16).to_dict().keys() == copy.deepcopy(layer).to_dict().keys()


@pytest.mark.parametrize("kind", [MultiheadAttention, LatentAttention, DifferentialAttention])
def test_a_form_has_every_argument(kind):
    layer = next(made(name) for name in LAYERS if type(made(name)) is kind)
    names = {name for base in kind.__mro__ if issubclass(base, MultiheadAttention)
             for name in inspect.signature(base).parameters}  # fmt: skip
    apart = {"device", "dtype", "mesh", "rest"}  # where it runs, and not what it computes
    if kind is LatentAttention:
        apart |= {"n_kv_head", "vdim", "norm", "v_norm", "clip", "persistent"}
    assert set(layer.to_dict()) - {"type"} == names - apart


def test_forms_stand_for_values_in_the_constructor():
    """Where a mixin reads a configuration without knowing our types."""
    values = {
        "mask": Causal() & Lengths([N]),
        "position": RoPE(scaling=YaRN(2.0, 5)),
        "norm": QKNorm("l2"),
        "v_norm": Norm(),
        "temperature": Temperature(2, 0.1),
    }
    ours = MultiheadAttention(D_MODEL, 4, **values)
    same = MultiheadAttention(D_MODEL, 4, **{name: v.to_dict() for name, v in values.items()})
    assert same.to_dict() == ours.to_dict()
    c_norm = Norm("l2")
    for kind, rest in (
        (LatentAttention, {"rank": 5, "d_rope": 2}),
        (DifferentialAttention, {"start": 0.5}),
    ):
        layer = kind(D_MODEL, 2, **rest, c_norm=c_norm.to_dict())
        assert layer.c_norm.norm == c_norm


class Mine(MultiheadAttention):
    """Of one's own, with an argument more."""

    def __init__(self, *args, power: float = 1.0, **rest) -> None:
        super().__init__(*args, **rest)
        self.power = power

    def arguments(self) -> dict[str, object]:
        return {**super().arguments(), "power": self.power}


def test_a_layer_of_ones_own():
    again = MultiheadAttention.from_dict(Mine(D_MODEL, 3, power=2.0, mask=Causal()).to_dict())
    assert type(again) is Mine and again.power == 2.0 and again.mask == Causal()
    with pytest.warns(UserWarning, match=r"(?s)other rules .*: power\.\n  power: 2.0 there, 1.0 h"):
        Mine(D_MODEL, 3).load_state_dict(Mine(D_MODEL, 3, power=2.0).state_dict())


# Checkpoints


@pytest.mark.parametrize("name", LAYERS)
def test_a_checkpoint_holds_the_same_tensors_and_loads_everywhere(name):
    layer, other = made(name), made(name)
    state = layer.state_dict()
    assert set(state) == {name for name, _ in layer.named_parameters()}
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    for parameter in other.parameters():
        parameter.data.zero_()
    other.load_state_dict(torch.load(file, weights_only=True))
    x = tokens(2, N, D_MODEL)
    assert torch.equal(other(x), layer(x))
    for told in (state, dict(state), copy.deepcopy(state)):
        other.load_state_dict(told, strict=True)
        other.load_state_dict(told, assign=True)
    json.dumps(state._metadata[""]["rules"], allow_nan=False)


RULES = {
    "mask": {"mask": Causal()},
    "position": {"position": RoPE()},
    "scale": {"scale": 0.3},
    "softcap": {"softcap": 3.0},
    "clip": {"clip": 3.0},
    "temperature": {"temperature": Temperature(2, 0.1)},
    "norm": {"norm": QKNorm(weight=False)},
    "v_norm": {"v_norm": Norm("l2", weight=False)},
    "n_head": {"n_head": 3},
    "d_k": {"n_head": 3},
}


@pytest.mark.parametrize("rule", RULES)
def test_a_checkpoint_of_other_rules_says_so(rule):
    plain = {"d_model": D_MODEL, "n_head": 4}
    one, other = MultiheadAttention(**plain), MultiheadAttention(**plain | RULES[rule])
    third = copy.deepcopy(other)
    for said, here in ((one, other), (third, one)):
        with pytest.warns(
            UserWarning, match=rf"(?s)this layer was made by other.*\b{rule}\b.* there,"
        ):
            here.load_state_dict(said.state_dict())
        assert torch.equal(here.WQ.weight, said.WQ.weight)  # its tensors are loaded
    other.load_state_dict(dict(one.state_dict()))  # says nothing: a warning would be an error here
    other.load_state_dict(third.state_dict())


def test_the_message_names_the_layer_and_both_rules():
    ours = nn.ModuleDict({"block": nn.ModuleList([MultiheadAttention(D_MODEL, 3, mask=Causal())])})
    theirs = nn.ModuleDict({"block": nn.ModuleList([MultiheadAttention(D_MODEL, 3, softcap=3.0)])})
    says = (
        "The checkpoint of `block.0` was made by other rules than the layer has: mask, softcap.\n"
        '  mask: {"type": "Full"} there, {"type": "Causal"} here\n'
        "  softcap: 3.0 there, null here\n"
        "Its tensors are loaded. Make the layer by the rules of the checkpoint, or, if the new "
        "rules are meant, pass load_state_dict(dict(state_dict)), which says nothing."
    )
    with pytest.warns(UserWarning, match=re.escape(says)):
        ours.load_state_dict(theirs.state_dict())


LONG = Segments(torch.arange(2**17)[None])


def test_rules_that_are_too_long_are_told_in_outline():
    layer = MultiheadAttention(D_MODEL, 3, mask=LONG, position=ALiBi(torch.rand(3)))
    said = layer.state_dict()._metadata[""]["rules"]
    assert said["mask"]["labels"] == {"dtype": "int64", "shape": [1, 2**17]}
    layer.load_state_dict(layer.state_dict())
    with pytest.warns(UserWarning, match=r"(?s)mask: .*131072.* there, .*\[1, 3\].* here"):
        MultiheadAttention(
            D_MODEL, 3, mask=Segments([[0, 0, 1]]), position=layer.position
        ).load_state_dict(layer.state_dict())


def test_the_same_rule_written_in_two_ways():
    one = MultiheadAttention(D_MODEL, 3, mask=None, scale=None, dropout=0.1, engine="reference")
    MultiheadAttention(D_MODEL, 3, scale=(D_MODEL // 3) ** -0.5).load_state_dict(one.state_dict())


def test_what_a_layer_learns_is_no_rule():
    one, other = (MultiheadAttention(D_MODEL, 3, position=ALiBi(table(3))) for _ in range(2))
    other.bfloat16().load_state_dict(one.state_dict())
    torch.testing.assert_close(other.position_0, one.position_0.bfloat16())
    other = MultiheadAttention(D_MODEL, 3, position=T5Bias(table(8, 3), bidirectional=True))
    with (
        pytest.warns(UserWarning, match=r"(?s)position: .*ALiBi.* there, .*T5Bias.* here"),
        pytest.raises(RuntimeError, match="size mismatch for position_0"),
    ):
        other.load_state_dict(one.state_dict())


# The mixin of huggingface_hub


def models(mixin: type) -> dict[str, type]:
    coders = {Form: (Form.to_dict, Form.from_dict)}

    class Model(nn.Module, mixin, coders=coders):
        def __init__(
            self,
            d: int,
            mask: Mask,
            position: RoPE | None = None,
            more: ALiBi | T5Bias | None = None,
        ) -> None:
            super().__init__()
            self.one = MultiheadAttention(d, 4, mask=mask, position=position)
            self.two = MultiheadAttention(d, 4, position=more)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x))

    class NoCoders(nn.Module, mixin):
        def __init__(self, d: int, mask: Mask, position: RoPE, norm: QKNorm | None = None) -> None:
            super().__init__()
            self.one = MultiheadAttention(d, 4, mask=mask, position=position, norm=norm)

        def forward(self, x: Tensor) -> Tensor:
            return self.one(x)

    class Layer(MultiheadAttention, mixin, coders=coders):
        pass

    class Latent(LatentAttention, mixin, coders=coders):
        pass

    class Differential(DifferentialAttention, mixin, coders=coders):
        pass

    return {kind.__name__: kind for kind in (Model, NoCoders, Layer, Latent, Differential)}


GIVEN = {
    "Model": [
        {"d": 24, "mask": Causal() & Lengths([N, 3]), "position": RoPE(scaling=YaRN(2.0, 5)),
         "more": T5Bias(table(8, 4), bidirectional=True)},
        {"d": 24, "mask": Window(3, 0), "more": ALiBi(4)},
    ],
    "NoCoders": [
        {"d": 24, "mask": Window(3, 0), "position": RoPE(7.0, scaling=YaRN(2.0, 5))},
        {"d": 24, "mask": Causal(), "position": RoPE(), "norm": QKNorm("l2", bias=True)},
    ],
    "Layer": [
        {"d_model": 24, "n_head": 4, "mask": ~Lengths([2]), "norm": QKNorm("layer"), "sinks": True,
         "position": RoPE(scaling=YaRN(2.0, 5)), "v_norm": Norm(), "bias": ("WQ", "WO")},
        {"d_model": 24, "n_head": 4, "position": ALiBi(table(4))},
    ],
    "Latent": [{"d_model": 24, "n_head": 2, "rank": 5, "d_rope": 2, "c_norm": Norm("l2")}],
    "Differential": [{"d_model": 24, "n_head": 2, "start": 0.5, "c_norm": Norm("l2"),
                      "mask": Causal(), "position": RoPE()}],
}  # fmt: skip


@pytest.mark.parametrize("name", GIVEN)
def test_a_model_goes_through_the_mixin_of_the_hub(name, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    kind = models(hub.PyTorchModelHubMixin)[name]
    for i, given in enumerate(GIVEN[name]):
        model, x = kind(**given).eval(), tokens(2, N, 24)
        model.save_pretrained(tmp_path / str(i))
        again = kind.from_pretrained(tmp_path / str(i)).eval()
        assert torch.equal(again(x), model(x))
        for one, other in zip(model.modules(), again.modules(), strict=True):
            if isinstance(one, MultiheadAttention):
                assert one.to_dict() == other.to_dict()


@pytest.mark.parametrize(
    ("run", "error", "says"),
    [
        (lambda: MultiheadAttention.from_dict({"type": "MultiheadAttention", "d_model": 24}),
         ArgumentError, "no form of MultiheadAttention: .*'n_head'"),
        (lambda: LatentAttention.from_dict(made("plain").to_dict()), KindError,
         "of LatentAttention is asked for, not of nn.Module MultiheadAttention"),
        (lambda: MultiheadAttention.from_dict(Causal().to_dict()), KindError, "not of Causal"),
        (lambda: MultiheadAttention(24, 4, mask={"type": "Causal", "x": 3}), ArgumentError, "'x'"),
        (lambda: MultiheadAttention(24, 4, mask=RoPE().to_dict()), KindError, "`mask` is a mask"),
    ],
)  # fmt: skip
def test_errors(run, error, says):
    with pytest.raises(error, match=f"(?s){says}"):
        run()
