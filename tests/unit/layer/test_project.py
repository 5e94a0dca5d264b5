"""A learned position is the layer's own parameter, however it is set; dry runs on meta."""

import copy
import pickle

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.utils import parametrize, prune

from wqkv import ALiBi, Lengths, MultiheadAttention, RoPE, Segments, T5Bias

B, N, D_MODEL, N_HEAD = 2, 7, 33, 3

LEARNED = {
    "T5Bias": lambda: T5Bias(nn.Parameter(tokens(8, N_HEAD)), bidirectional=True, max_distance=7),
    "ALiBi": lambda: ALiBi(nn.Parameter(tokens(N_HEAD).abs())),
}


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def layer(**rest) -> MultiheadAttention:
    torch.manual_seed(1)
    return MultiheadAttention(D_MODEL, N_HEAD, dtype=torch.float64, **rest)


class Zeroed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 0


def assigned(made: nn.Module) -> None:
    state = made.state_dict()
    made.load_state_dict(state | {"position_0": state["position_0"] * 0}, assign=True)


def pruned(made: nn.Module) -> None:
    prune.identity(made, "position_0")
    made.position_0_mask.zero_()


def emptied(made: nn.Module) -> None:
    state = {name: x.clone() for name, x in made.state_dict().items()}
    made.to("meta").to_empty(device="cpu")
    made.load_state_dict(state | {"position_0": state["position_0"] * 0})


WAYS = {
    "load_state_dict(assign=True)": assigned,
    "prune": pruned,
    "parametrize": lambda made: parametrize.register_parametrization(made, "position_0", Zeroed()),
    "meta, then to_empty": emptied,
    "a new parameter": lambda made: setattr(made, "position_0", nn.Parameter(made.position_0 * 0)),
    "in place": lambda made: made.position_0.data.zero_(),
}


@pytest.mark.parametrize("change", WAYS)
@pytest.mark.parametrize("kind", LEARNED)
def test_every_way_to_set_it_is_seen(kind, change):
    """By forward, trace, map and `position`: a bias of zeros is none."""
    made, plain, x = layer(position=LEARNED[kind]()), layer(), tokens(B, N, D_MODEL, seed=2)
    before, expected = made(x), plain(x)
    WAYS[change](made)
    assert not torch.allclose(before, expected)
    torch.testing.assert_close(made(x), expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(made.trace(x).output, expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(made.map(x)[0, 0], plain.map(x)[0, 0], rtol=1e-5, atol=1e-6)
    assert not made.position.tensors()[0].any()


@pytest.mark.parametrize("kind", LEARNED)
def test_torch_func_replaces_it(kind):
    made, x = layer(position=LEARNED[kind](), engine="reference"), tokens(B, N, D_MODEL, seed=2)
    zero = {"position_0": torch.zeros_like(made.position_0)}
    ours = torch.func.functional_call(made, zero, (x,))
    torch.testing.assert_close(ours, layer()(x), rtol=1e-12, atol=1e-13)
    others = [copy.deepcopy(made) for _ in range(3)]
    for i, other in enumerate(others):
        other.position_0.data.mul_(i)
    params, buffers = torch.func.stack_module_state(others)

    def run(params: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(made, (params, buffers), (x,))

    for one, other in zip(torch.vmap(run)(params, buffers), others, strict=True):
        torch.testing.assert_close(one, other(x), rtol=1e-12, atol=1e-13)


@pytest.mark.compile
@pytest.mark.parametrize("kind", LEARNED)
def test_a_compiled_layer_reads_it(kind):
    made, x = layer(position=LEARNED[kind]()), tokens(B, N, D_MODEL, seed=2)
    compiled = torch.compile(made, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        torch.testing.assert_close(compiled(x), made(x), rtol=1e-12, atol=1e-13)
        with torch.no_grad():
            made.position_0.mul_(3)


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module.*returned a view tensor")
@pytest.mark.parametrize("kind", LEARNED)
def test_fsdp_trains_it(kind):
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        plain, x = layer(position=LEARNED[kind]()), tokens(B, N, D_MODEL, seed=2)
        sharded = copy.deepcopy(plain)
        fully_shard(sharded, mesh=init_device_mesh("cpu", (1,)))
        before = plain.position_0.detach().clone()
        for made in (plain, sharded):
            made(x).square().sum().backward()
            torch.optim.SGD(made.parameters(), lr=0.01).step()
        assert not torch.equal(plain.position_0, before)
        torch.testing.assert_close(sharded.position_0.full_tensor(), plain.position_0)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("kind", LEARNED)
def test_copies_have_their_own(kind):
    made, x = layer(position=LEARNED[kind]()), tokens(B, N, D_MODEL, seed=2)
    expected = made(x)
    for twin in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(twin(x), expected)
        assert twin.position.tensors()[0] is twin.position_0 is not made.position_0
        twin.position_0.data.zero_()
        assert not torch.allclose(twin(x), expected) and torch.equal(made(x), expected)


def test_layers_may_share_one_table():
    table = nn.Parameter(tokens(8, N_HEAD))
    one, two = (layer(position=T5Bias(table, bidirectional=True)) for _ in range(2))
    assert one.position.table is two.position.table is one.position_0 is two.position_0 is table


def test_another_position_takes_its_place():
    made = layer(position=LEARNED["T5Bias"]())
    made.position = RoPE()
    assert made.position == RoPE() and "position_0" not in made.state_dict()
    made.position = other = LEARNED["ALiBi"]()
    assert made.position.slopes is made.position_0 is other.slopes
    made.position = fixed = ALiBi(N_HEAD)
    assert made.position is fixed and "position_0" not in made.state_dict()


RULES = {
    "ALiBi": lambda: {"position": ALiBi(N_HEAD)},
    "T5Bias": lambda: {"position": T5Bias(nn.Parameter(tokens(8, N_HEAD)), bidirectional=True)},
    "RoPE": lambda: {"position": RoPE(77.0, d=6)},
    "Lengths": lambda: {"mask": Lengths([N - 1, N])},
    "Segments": lambda: {"mask": Segments([[0, 0, *[1] * (N - 2)]])},
}


@pytest.mark.parametrize("rule", RULES)
def test_a_layer_made_on_meta_runs_once_it_is_filled(rule):
    x, made = tokens(B, N, D_MODEL, seed=2), layer(**RULES[rule]())
    with torch.device("meta"):
        dry = layer(**RULES[rule]())
        assert dry.WQ.weight.is_meta
        assert dry(torch.empty(x.shape, dtype=x.dtype)).is_meta  # a dry run, for the shapes
    dry.to_empty(device="cpu").load_state_dict(made.state_dict())
    assert torch.equal(dry(x), made(x))
