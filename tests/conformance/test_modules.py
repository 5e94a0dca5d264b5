"""torch's own test inputs for its attention modules, through the converted module.

The ModuleInfo inputs of nn.MultiheadAttention and of the four Transformer modules in float64:
outputs, weights and every gradient while training, and outputs and weights in eval without
gradients, where torch takes its fast path.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.testing._internal.common_modules import module_db

from wqkv import convert, to_torch
from wqkv.layer.convert.torch import HELD, StandIn

# Of torch's fast path
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")

KINDS = (
    nn.MultiheadAttention,
    nn.TransformerEncoderLayer,
    nn.TransformerEncoder,
    nn.TransformerDecoderLayer,
    nn.Transformer,
)
MODES = ("training", "eval")


class Sample(NamedTuple):
    """A module, and how torch calls it."""

    module: nn.Module
    args: tuple[Tensor, ...]
    kwargs: dict[str, Any]

    def run(self, module: nn.Module, **more: Any) -> tuple[Tensor, Tensor | None]:
        found = module(*self.args, **self.kwargs, **more)
        return found if isinstance(found, tuple) else (found, None)


@cache
def samples(kind: type[nn.Module], training: bool) -> list[Sample]:
    """The samples of a kind of module, the same in every run, and no parameter 0."""
    (info,) = (info for info in module_db if info.module_cls is kind)
    made = []
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "enable_nested_tensor is True, but", UserWarning)
        torch.manual_seed(0)
        for case in info.module_inputs_func(info, "cpu", torch.float64, True, training=training):
            module = kind(*case.constructor_input.args, **case.constructor_input.kwargs).double()
            for parameter in module.parameters():
                nn.init.normal_(parameter)
            given = case.forward_input
            made.append(Sample(module.train(training), given.args, given.kwargs))
    return made


def numbered() -> list[Any]:
    """Which sample of which kind in which mode."""
    return [
        pytest.param(kind, mode, i, id=f"{kind.__name__}-{mode}-{i}")
        for kind in KINDS
        for mode in MODES
        for i, _ in enumerate(samples(kind, mode == "training"))
    ]


def test_no_sample_is_lost():
    """All run below, 538 of them."""
    counts = [len(samples(kind, training)) for kind in KINDS for training in (True, False)]
    assert counts == [64, 64, 39, 35, 39, 35, 67, 67, 64, 64]
    assert len(numbered()) == 538
    learned = [x.module.bias_k is not None for x in samples(nn.MultiheadAttention, True)]
    assert sum(learned) == 32


def gradients(sample: Sample, module: nn.Module, outputs: list[Tensor]) -> dict[str, Tensor]:
    """Of the inputs, and of the parameters by the names and in the shapes of torch's module."""
    loss = sum((x * torch.arange(x.numel()).cos().view_as(x)).sum() for x in outputs)
    # A zero key of torch's became a sink, which is not learned.
    parameters = {name: x for name, x in module.named_parameters() if x.requires_grad}
    wanted = [*sample.args, *parameters.values()]
    found = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
    inputs, rest = found[: len(sample.args)], found[len(sample.args) :]
    ours = dict(zip(parameters, rest, strict=True))
    result = {str(i): x for i, x in enumerate(inputs)}
    for name, parameter in sample.module.named_parameters():
        parts = [name]
        for held, names in HELD.items():
            if name.endswith(held) and name not in ours:
                parts = [name.removesuffix(held) + part for part in names]
        result[name] = torch.cat([ours[part] for part in parts]).view_as(parameter)
    return result


def compare(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


#: Here torch's fast path gives the encoder's padded words the output 0, which the decoder, not told
#: of the padding, attends to; on every other path they have an output. Ours is as on the others.
PADDED_MEMORY = [(nn.Transformer, "eval", 25)]


@pytest.fixture
def without_fast_path():
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


@torch.no_grad()
@pytest.mark.parametrize(("kind", "mode", "i"), PADDED_MEMORY)
def test_torch_has_two_answers(kind: type[nn.Module], mode: str, i: int, request):
    sample = samples(kind, training=False)[i]
    fast, _ = sample.run(sample.module)
    request.getfixturevalue("without_fast_path")
    assert (sample.run(sample.module)[0] - fast).abs().max() > 0.1


@pytest.mark.parametrize(("kind", "mode", "i"), numbered())
def test_converted(kind: type[nn.Module], mode: str, i: int, request: pytest.FixtureRequest):
    sample = samples(kind, mode == "training")[i]
    if (kind, mode, i) in PADDED_MEMORY:
        request.getfixturevalue("without_fast_path")
    ours = convert(copy.deepcopy(sample.module))
    assert not any(isinstance(part, nn.MultiheadAttention) for part in ours.modules())
    assert any(isinstance(part, StandIn) for part in ours.modules())
    with torch.set_grad_enabled(mode == "training"):
        expected, weights = sample.run(sample.module)
        found, found_weights = sample.run(ours)
        compare((found, found_weights), (expected, weights))
        if kind is nn.MultiheadAttention:
            per_head = sample.run(sample.module, average_attn_weights=False)
            compare(sample.run(ours, average_attn_weights=False), per_head)
            alone = sample.run(ours, need_weights=False)
            assert alone[1] is None and torch.equal(alone[0], found)
    if mode == "training":
        outputs = [x for x in (expected, weights) if x is not None]
        found_outputs = [x for x in (found, found_weights) if x is not None]
        expected_gradients = gradients(sample, sample.module, outputs)
        compare(gradients(sample, ours, found_outputs), expected_gradients)

    back = to_torch(ours)
    assert [*back.state_dict()] == [*sample.module.state_dict()]
    for x, y in zip(back.state_dict().values(), sample.module.state_dict().values(), strict=True):
        assert torch.equal(x, y)
    with torch.set_grad_enabled(mode == "training"):
        assert torch.equal(sample.run(back)[0], expected)


def test_a_wrong_scale_is_found():
    sample = samples(nn.TransformerEncoderLayer, True)[0]
    ours = convert(copy.deepcopy(sample.module))
    ours.self_attn.scale = 0.999 * ours.self_attn.d_k**-0.5
    with pytest.raises(AssertionError, match="not close"):
        compare(sample.run(ours), sample.run(sample.module))


FAST = ("_transformer_encoder_layer_fwd", "_nested_tensor_from_mask")


@pytest.mark.parametrize("padded", [False, True])
def test_torchs_fast_paths_are_not_taken(padded: bool, monkeypatch: pytest.MonkeyPatch):
    """They would go around the module; torch's own model takes them."""
    taken = set()

    def noted(name: str) -> Callable[..., Tensor]:
        was = getattr(torch, name)
        return lambda *args, **rest: taken.add(name) or was(*args, **rest)

    for name in FAST:
        monkeypatch.setattr(torch, name, noted(name))
    layer = nn.TransformerEncoderLayer(12, 2, 7, batch_first=True)
    theirs = nn.TransformerEncoder(layer, 3).double().eval()
    ours = convert(copy.deepcopy(theirs))
    x = torch.randn(5, 11, 12, dtype=torch.float64)
    hidden = torch.arange(11) >= torch.tensor([11, 3, 5, 1, 7])[:, None]
    given = {"src_key_padding_mask": hidden if padded else None}
    with torch.no_grad():
        found = ours(x, **given)
        assert taken == set()
        expected = theirs(x, **given)
    assert taken == ({FAST[0], FAST[1]} if padded else {FAST[0]})
    seen = ~hidden if padded else slice(None)
    compare(found[seen], expected[seen])  # where the padding stands, its nested tensor has zeros
