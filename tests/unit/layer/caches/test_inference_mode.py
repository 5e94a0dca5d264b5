"""A cache that is filled under torch.inference_mode() goes on without it, and the reverse."""

import contextlib
import copy
import itertools

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from wqkv import (
    Causal,
    Cross,
    DifferentialAttention,
    Dynamic,
    LatentAttention,
    MultiheadAttention,
    Paged,
    Pool,
    Quantized,
    Rolling,
    RoPE,
    Spread,
    Static,
    Window,
)
from wqkv.errors import ArgumentError

B, N, D_MODEL = 2, 13, 24
KINDS = {
    "Dynamic": Dynamic,
    "Static": lambda: Static(29),
    "Rolling": lambda: Rolling(3, first=1),
    "Quantized": lambda: Quantized(8),
    "Quantized, 4 bits": lambda: Quantized(4, group=2),
    "Paged": lambda: Paged(Pool(17, 3)),
    "Spread": lambda: Spread(block=3),
}
MODES = {
    "inference": torch.inference_mode,
    "no_grad": torch.no_grad,
    "grad": contextlib.nullcontext,
}
PAIRS = list(itertools.permutations(MODES, 2))


def reordered(cache):
    cache.reorder([1, 0])
    cache.reorder([1, 0])
    return cache


def rewound(cache):
    length = cache.length
    piece = cache.held()[-1]
    cache.append(piece.k[:, :, -1:].clone(), piece.v[:, :, -1:].clone())
    cache.rewind(length)
    return cache


BETWEEN = {
    "nothing": lambda cache: cache,
    "deepcopy": copy.deepcopy,
    "split, merge": lambda cache: type(cache).merge(cache.split()),
    "reorder": reordered,
    "rewind": rewound,
}
LAYERS = {
    "heads": lambda: MultiheadAttention(D_MODEL, 3, mask=Causal(), position=RoPE()),
    "latent": lambda: LatentAttention(D_MODEL, 2, rank=4, d_rope=2, mask=Causal()),
    "two maps": lambda: DifferentialAttention(D_MODEL, 2, start=0.5, mask=Causal()),
}


@pytest.fixture(autouse=True)
def alone():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def tokens(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def stepped(layer, cache, modes: tuple[str, str], between) -> Tensor:
    """The text in steps, by turns in one mode and the other, and what happens between them too."""
    outputs = []
    x = tokens(B, N, D_MODEL)
    for part, mode, other in zip(
        x.split((4, 1, 1, 2, 1, 4), dim=1), itertools.cycle(modes), itertools.cycle(modes[::-1])
    ):
        with MODES[mode]():
            outputs.append(layer(part, cache=cache))
        with MODES[other]():
            cache = BETWEEN[between](cache)
    with torch.no_grad():
        return torch.cat(outputs, dim=1)


@pytest.mark.parametrize(
    ("name", "between"),
    [*(("heads", between) for between in BETWEEN), ("latent", "nothing"), ("two maps", "nothing")],
)
@pytest.mark.parametrize("modes", PAIRS, ids=" ".join)
@pytest.mark.parametrize("kind", KINDS)
def test_steps_in_two_modes_are_one_result(kind, name, modes, between):
    torch.manual_seed(1)
    layer = LAYERS[name]().requires_grad_(False)
    with torch.no_grad():
        if kind == "Dynamic":
            expected = layer(tokens(B, N, D_MODEL))
        else:
            expected = stepped(layer, KINDS[kind](), ("no_grad", "no_grad"), "nothing")
    ours = stepped(layer, KINDS[kind](), modes, between)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_after_inference_mode(kind):
    """Right with Dynamic, whose past is then a constant; the others say that they have none."""
    torch.manual_seed(1)
    layer, cache, x = LAYERS["heads"](), KINDS[kind](), tokens(B, 7, D_MODEL)
    with torch.inference_mode():
        layer(x[:, :6], cache=cache)
    if kind != "Dynamic":
        with pytest.raises(ArgumentError, match=f"{kind.split(',')[0]} writes into its memory"):
            layer(x[:, 6:], cache=cache)
        return
    other = Dynamic()
    with torch.no_grad():
        layer(x[:, :6], cache=other)
    ours, theirs = (
        torch.autograd.grad(layer(x[:, 6:], cache=one).square().sum(), layer.WK.weight)
        for one in (cache, other)
    )
    assert ours[0].any() and torch.equal(*ours, *theirs)


@pytest.mark.parametrize("between", [name for name in BETWEEN if name != "rewind"])
@pytest.mark.parametrize("modes", PAIRS, ids=" ".join)
def test_cross(modes, between):
    layer, cache = MultiheadAttention(D_MODEL, 3), Cross()
    x, other = tokens(B, 5, D_MODEL), tokens(B, 7, D_MODEL)
    expected, first = layer(x, other), modes[0]
    if between == "deepcopy" and first == "grad":  # torch copies no tensor of a graph
        layer.requires_grad_(False)
    with MODES[first]():
        layer(x, other, cache=cache)
        cache = BETWEEN[between](cache)
    with MODES[modes[1]]():
        cache = BETWEEN[between](cache)
        found = layer(x, cache=cache)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        if modes[1] == "grad":
            found.sum().backward()
            assert layer.WQ.weight.grad.any() and layer.WK.weight.grad is None


@pytest.mark.compile
@pytest.mark.parametrize("mode", ["no_grad", "inference"])
def test_a_compiled_cross_is_one_graph(mode):
    layer, cache = MultiheadAttention(D_MODEL, 3), Cross()
    step = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x, other = tokens(B, 5, D_MODEL), tokens(B, 7, D_MODEL)
    expected = layer(x, other)
    with MODES[mode]():
        torch.testing.assert_close(step(x, other, cache=cache), expected)
        torch.testing.assert_close(step(x, cache=cache), expected)


def test_loaded_under_inference_mode(tmp_path):
    layer, x = LAYERS["heads"]().requires_grad_(False), tokens(B, N, D_MODEL)
    for kind in KINDS:
        cache = KINDS[kind]()
        layer(x[:, :5], cache=cache)
        cache.save(tmp_path / kind)
        with torch.inference_mode():
            again = type(cache).load(tmp_path / kind)
        torch.testing.assert_close(layer(x[:, 5:6], cache=again), layer(x[:, 5:6], cache=cache))


@pytest.mark.compile
def test_a_compiled_step_under_inference_mode():
    layer, cache = LAYERS["heads"]().requires_grad_(False), Static(29)
    step, x = torch.compile(layer, backend="aot_eager"), tokens(B, N, D_MODEL)
    expected = layer(x)
    with torch.inference_mode():
        steps = [
            layer(x[:, :4], cache=cache),
            *(step(x[:, i : i + 1], cache=cache) for i in (4, 5, 6)),
        ]
    steps.append(layer(x[:, 7:9], cache=cache))
    with torch.no_grad():
        steps += [step(x[:, i : i + 1], cache=cache) for i in range(9, N)]
    torch.testing.assert_close(torch.cat(steps, dim=1), expected, rtol=1e-5, atol=1e-6)


def test_a_mask_used_under_inference_mode_can_be_trained_with_later():
    """What is kept of a mask by then (its tiles) is made again or fit for a backward pass."""
    layer, x = (
        MultiheadAttention(D_MODEL, 3, mask=Window(5, 0), position=RoPE()),
        tokens(1, 300, D_MODEL),
    )
    with torch.inference_mode():
        layer(x)
    layer(x).sum().backward()
    twin = copy.deepcopy(layer)
    twin.mask = Window(5, 0) & Window(6, 0)
    twin.zero_grad()
    twin(x).sum().backward()
    torch.testing.assert_close(twin.WQ.weight.grad, layer.WQ.weight.grad, rtol=1e-4, atol=1e-5)
