"""Every private name of torch is there, and means what wqkv takes it for."""

import pytest
import torch
from torch import nn

from wqkv.errors import UpstreamError
from wqkv.upstream import of_torch
from wqkv.upstream.of_torch import NAMES, is_compiled, is_hooked, original, plain_name


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


def test_tree_map_only():
    assert of_torch.tree_map_only(int, lambda x: x + 1, ([2, "a"], {"b": 3})) == (
        [3, "a"],
        {"b": 4},
    )


def test_to_copy():
    assert of_torch.to_copy(torch.zeros(2), dtype=torch.float64).dtype == torch.float64


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
    assert [is_hooked(m) for m in (plain, before, after)] == [False, True, True]
    with pytest.raises(UpstreamError, match=r"torch 2.* has no `torch.nn.Module._forward_hooks`"):
        is_hooked(object())
