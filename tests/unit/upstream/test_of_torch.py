"""Every private name of torch that wqkv uses exists, and does what wqkv expects."""

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from wqkv.errors import UpstreamError
from wqkv.upstream import of_torch
from wqkv.upstream.of_torch import HOOKS, NAMES, hooks, is_compiled, original, plain_name


@pytest.fixture
def forgotten(monkeypatch):
    """Each name is looked up anew."""
    for name in NAMES:
        monkeypatch.delitem(vars(of_torch), name, raising=False)


@pytest.mark.parametrize("name", NAMES)
def test_name(forgotten, name):
    found = getattr(of_torch, name)
    assert found is not None
    assert vars(of_torch)[name] is found  # it is looked up once


def test_a_name_that_is_gone(forgotten, monkeypatch):
    import torch.utils._pytree as trees

    monkeypatch.delattr(trees, "tree_map_only")
    says = (
        r"torch 2.* has no `torch.utils._pytree.tree_map_only`, which wqkv uses: .*\n"
        rf"Install a version that wqkv is tested with: torch {of_torch.TESTED}"
    )
    with pytest.raises(UpstreamError, match=says):
        from wqkv.upstream.of_torch import tree_map_only  # noqa: F401


def test_a_name_that_is_not_listed():
    with pytest.raises(AttributeError, match=r"of_torch' has no attribute 'nothing'"):
        of_torch.nothing  # noqa: B018


def test_compiler_config():
    before = of_torch.compiler_config.recompile_limit
    with of_torch.compiler_config.patch(recompile_limit=7):
        assert of_torch.compiler_config.recompile_limit == 7
    assert of_torch.compiler_config.recompile_limit == before


def test_make_wrapper():
    class Empty(torch.Tensor):
        __torch_dispatch__ = None

    made = of_torch.make_wrapper(Empty, (2, 3), dtype=torch.float32, device="cpu")
    assert (type(made), made.shape) == (Empty, (2, 3))


def test_backward_number():
    """It tells a backward pass from what runs outside of one."""
    assert of_torch.backward_number() == -1
    x, told = torch.ones(1, requires_grad=True), []
    y = x * 2
    y.register_hook(lambda _: told.append(of_torch.backward_number()))
    y.backward()
    assert told[0] >= 0


def test_tree_map_only():
    assert of_torch.tree_map_only(int, lambda x: x + 1, ([2, "a"], {"b": 3})) == (
        [3, "a"],
        {"b": 4},
    )


def test_to_copy():
    assert of_torch.to_copy(torch.zeros(2), dtype=torch.float64).dtype == torch.float64


@pytest.mark.compile
def test_compiled_modules():
    inner = nn.Linear(2, 3)
    wrapped, in_place, forward = torch.compile(inner), nn.Linear(2, 3), nn.Linear(2, 3)
    in_place.compile()
    forward.forward = torch.compile(forward.forward)
    assert [is_compiled(m) for m in (inner, wrapped, in_place, forward)] == [
        False,
        True,
        True,
        True,
    ]
    assert original(wrapped) is inner is original(inner)
    names = [name for name, module in nn.Sequential(wrapped).named_modules() if module is inner]
    assert [plain_name(name) for name in names] == ["0"]


def test_hooked_modules():
    plain, before, after = (nn.Linear(2, 3) for _ in range(3))
    before.register_forward_pre_hook(lambda *_: None)
    after.register_forward_hook(lambda *_: None)
    assert hooks(plain) == []
    assert hooks(before) == ["_forward_pre_hooks"] and hooks(after) == ["_forward_hooks"]
    with pytest.raises(UpstreamError, match=r"torch 2.* has no `torch.nn.Module._forward_pre_hook"):
        hooks(object())


@pytest.mark.parametrize("kind", HOOKS)
def test_every_kind_of_hook(kind):
    registers = {
        "_load_state_dict_pre_hooks": "register_load_state_dict_pre_hook",
        "_load_state_dict_post_hooks": "register_load_state_dict_post_hook",
        "_state_dict_hooks": "register_state_dict_post_hook",
        "_state_dict_pre_hooks": "register_state_dict_pre_hook",
        "_backward_hooks": "register_full_backward_hook",
        "_backward_pre_hooks": "register_full_backward_pre_hook",
    }
    module = nn.Linear(2, 3)
    register = registers.get(kind, "register" + kind.removesuffix("s"))
    getattr(module, register)(lambda *_: None)
    assert hooks(module) == [kind]


def test_hooks_of_a_tensor():
    first, second, third = (torch.ones(2, requires_grad=True) for _ in range(3))
    first.register_hook(lambda g: g)
    second.register_post_accumulate_grad_hook(lambda x: None)
    assert [of_torch.tensor_hooks(x) for x in (first, second, third)] == [True, True, False]


def test_what_a_module_holds():
    module = nn.BatchNorm1d(3, affine=False)
    assert of_torch.parameters_of(module) == {"weight": None, "bias": None}
    assert {*of_torch.buffers_of(module)} == {"running_mean", "running_var", "num_batches_tracked"}


def test_what_a_state_dict_says():
    state = nn.Sequential(nn.BatchNorm1d(3)).state_dict()
    assert of_torch.said_of(state, "0.") == {"version": 2}
    assert of_torch.said_of(dict(state), "0.") is None


def test_changes_in_place():
    x = torch.ones(2)
    x.add_(1)
    assert of_torch.version(x) == 1 == of_torch.version(x.detach())
    with torch.inference_mode():
        assert of_torch.version(torch.ones(2).add_(1)) == 0


def test_transforms():
    seen = []

    def look(x):
        seen.append(
            (of_torch.transforms_active(), of_torch.is_wrapped(x), of_torch.in_forward_mode())
        )
        return x.sum()

    x = torch.ones(2)
    look(x)
    torch.func.grad(look)(x)
    torch.func.jvp(look, (x,), (x,))
    assert seen == [(False, False, False), (True, True, False), (True, True, True)]
    torch.func.vmap(lambda y: seen.append(of_torch.is_batched(y)) or y)(x)
    torch.func.grad(lambda y: seen.append(of_torch.is_batched(of_torch.under(y))) or y.sum())(x)
    assert seen[3:] == [True, False]


def test_a_graph_that_is_recorded():
    seen = []
    make_fx(lambda x: seen.append(of_torch.dispatch_mode(of_torch.PROXY)) or x + 1)(torch.ones(2))
    assert seen[0] is not None and of_torch.dispatch_mode(of_torch.PROXY) is None


@pytest.mark.compile
def test_calls_of_compiled_code():
    before, told = of_torch.on_compiled_call(), []
    made = torch.compile(lambda x: x + 1, backend="eager")
    of_torch.set_on_compiled_call(lambda callback: told.append(callback) or before(callback))
    try:
        made(torch.ones(2))
    finally:
        of_torch.set_on_compiled_call(before)
    assert len([one for one in told if one is not None]) == 1  # None leaves compiled code
    assert of_torch.on_compiled_call() is before


@pytest.mark.compile
def test_a_constant_is_not_traced():
    @of_torch.constant
    def name(kind):
        return vars(kind).get("__doc__")

    def call(x):
        return x + len(name(nn.Linear))

    made = torch.compile(call, backend="eager", fullgraph=True)
    assert torch.equal(made(torch.ones(2)), call(torch.ones(2)))
