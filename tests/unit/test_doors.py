"""The doors: what an annotation admits, what is said of the rest, and what stays of a function."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx import symbolic_trace

from wqkv import Causal, MultiheadAttention, RoPE, attention
from wqkv.doors import check_tensor, door
from wqkv.errors import KindError

if TYPE_CHECKING:
    from wqkv.nowhere import Unknown

Net = TypeVar("Net", bound=nn.Module)
Q = torch.randn(2, 3, 5, 7)


@door
class Thing:
    """A thing."""

    said = "a thing such as Thing(3)"

    def __init__(self, size: int, *, scale: float | None = None) -> None:
        self.size, self.scale = size, scale

    def first(self, rows: Sequence[int] | Tensor, deep: bool = False) -> int:
        """The first."""
        return len(rows)

    @classmethod
    def read(cls, path: str | PathLike[str], others: tuple[int, float] = (1, 2.0)) -> Thing:
        return cls(len(str(path)))

    def _hidden(self, size: int) -> int:
        return size


@door
def ask(
    thing: Thing | None = None,
    *others: Thing,
    tables: Sequence[Sequence[int]] = (),
    names: Iterable[str] = (),
    pairs: Mapping[str, int] | None = None,
    index: SupportsIndex = 0,
    kind: Literal["a", "b"] = "a",
    axes: tuple[int, ...] = (),
    call: Callable[[int], int] | None = None,
    model: nn.Module | None = None,
    dtype: torch.dtype | None = None,
    unknown: Unknown | None = None,
    any: Any = None,
    plain=None,
    **rest: Any,
) -> str:
    """Ask.

    >>> ask()
    'asked'
    """
    return "asked"


@pytest.mark.parametrize(
    "given",
    [
        {"thing": Thing(3), "tables": [[1, 2], (3,), range(2)], "names": (n for n in "ab")},
        {"names": {"a", "b"}, "pairs": {"a": 1}, "index": np.int64(3), "kind": "b", "axes": (1, 2)},
        {"call": len, "model": nn.Linear(2, 3), "dtype": torch.float32, "unknown": 3, "any": ask},
        {"plain": 3, "kind": "c", "more": object()},  # which letter it is, the function says itself
    ],
)
def test_what_is_admitted(given):
    assert ask(**given) == ask(**given) == "asked"
    assert ask(Thing(2), Thing(3)) == "asked"


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Thing("3"), "`size` is an int, not str '3'.\nPass one to Thing(size=...)."),
        (lambda: Thing(True), "`size` is an int, not bool True."),
        (lambda: Thing(np.int64(3)), "`size` is an int, not int64 "),
        (lambda: Thing(size=2.0), "`size` is an int, not float 2.0."),
        (lambda: Thing(3, scale=False), "`scale` is a number or None, not bool False."),
        (lambda: Thing(3, scale=1j), "`scale` is a number or None, not complex 1j."),
        (
            lambda: Thing(3, scale=torch.tensor(2.0)),
            "`scale` is a number or None, not f32[] on cpu.\n"
            "Pass `scale.item()`, its number without a gradient, to Thing.",
        ),
        (
            lambda: Thing(3).first(2),
            "`rows` is a list of ints or a tensor, not int 2.\nPass [2] to Thing.first.",
        ),
        (lambda: Thing(3).first("ab"), "`rows` is a list of ints or a tensor, not str 'ab'."),
        (lambda: Thing(3).first([1, 2.5]), "not list [1, 2.5]."),
        (lambda: Thing(3).first([[1], [2, 3]]), "not list [[1], [2, 3]]."),
        (
            lambda: Thing(3).first(np.arange(3)),
            "not ndarray array([0, 1, 2]).\nPass `torch.as_tensor(rows)` to Thing.first.",
        ),
        (lambda: Thing(3).first([1], deep=1), "`deep` is a bool, not int 1."),
        (lambda: Thing.read(b"x"), "`path` is a string or a path, not bytes b'x'."),
        (lambda: Thing.read("x", (1, "y")), "`others` is (an int, a number), not tuple (1, 'y')."),
        (lambda: ask(3), "`thing` is a thing such as Thing(3) or None, not int 3."),
        (lambda: ask(Thing(3), None), "`others` is a thing such as Thing(3), not NoneType None."),
        (lambda: ask(tables=[3, 5]), "`tables` is a list of lists of ints, not list [3, 5]."),
        (lambda: ask(names="ab"), "`names` is a list of strings, not str 'ab'.\nPass ['ab'] to"),
        (lambda: ask(pairs=[1]), "`pairs` is a mapping of strings to ints or None, not list [1]."),
        (lambda: ask(pairs={1: 1}), "`pairs` is a mapping of strings to ints or None, not dict {"),
        (lambda: ask(pairs={"a": "b"}), "`pairs` is a mapping of strings to ints or None, not "),
        (lambda: ask(index=1.5), "`index` is an int, not float 1.5."),
        (lambda: ask(kind=3), "`kind` is 'a' or 'b', not int 3."),
        (lambda: ask(axes=[1]), "`axes` is a tuple of ints, not list [1]."),
        (lambda: ask(call=3), "`call` is a function or None, not int 3."),
        (lambda: ask(model=nn.Linear), "`model` is an nn.Module or None, not type"),
        (lambda: ask(model=nn.Linear), "Pass a model of this class, as Linear(...) makes it."),
        (
            lambda: ask(model="gpt2"),
            "not str 'gpt2'.\nPass the model itself, such as "
            "transformers.AutoModel.from_pretrained('gpt2').",
        ),
        (
            lambda: ask(model=nn.Linear(3, 5).state_dict()),
            "\nLoad these weights into the model that they belong to, and pass that.",
        ),
        (
            lambda: ask(model=SimpleNamespace(unet=nn.Linear(3, 5), vae=nn.Linear(5, 3), steps=2)),
            "\nPass a model that it holds: its unet or vae.",
        ),
        (lambda: ask(model=nn.Linear(3, 5).forward), "\nPass the model itself, whose method this"),
        (lambda: ask(model={}), "not dict {}.\nPass one to ask(model=...)."),
        (
            lambda: Thing.read(nn.Linear(3, 5)),
            "`path` is a string or a path, not nn.Module Linear.\n"
            "Pass one to Thing.read(path=...). "
            "`wqkv.watch(model)` takes any nn.Module, and shows its attention.",
        ),
        (
            lambda: Thing(3).first(nn.Linear(3, 5)),
            "not nn.Module Linear.\nPass one to Thing.first(rows=...).",
        ),
        (lambda: ask(dtype="float"), "`dtype` is a torch.dtype or None, not str 'float'."),
    ],
)
def test_what_is_refused(call, says):
    with pytest.raises(KindError, match=re.escape(says)):
        call()


def nested(layout: torch.layout) -> Tensor:
    return torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(5, 3)], layout=layout)


@pytest.mark.filterwarnings("ignore::UserWarning")  # prototypes, and what is going, says torch
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: nested(torch.strided), "a nested tensor, whose.*to_padded_tensor"),
        (lambda: nested(torch.jagged), "a nested tensor, whose.*to_padded_tensor"),
        (Q.to_sparse, "layout sparse_coo.*`NAME.to_dense"),
        (torch.ones(3, 5).to_sparse_csr, "layout sparse_csr.*`NAME.to_dense"),
        (lambda: torch.masked.masked_tensor(Q, Q > 0), "a masked tensor.*`NAME.to_tensor"),
        (
            lambda: torch.quantize_per_tensor(Q, 1.0, 0, torch.quint8),
            "quantized, torch.quint8.*deq",
        ),
    ],
)
def test_tensors_of_another_layout(make, says):
    layer = MultiheadAttention(15, 3)
    doors = {
        "query": lambda x: attention(x, Q, Q),
        "value": lambda x: attention(Q, Q, x),
        "Q": layer,
        "bias": lambda x: attention(Q, Q, Q, bias=x),
        "position": lambda x: RoPE().rotate(Q, x),
        "x": lambda x: check_tensor("x", x),
    }
    for name, call in doors.items():
        with pytest.raises(KindError, match=f"(?s)^`{name}` is .*{says.replace('NAME', name)}"):
            call(make())


def test_what_stays_of_a_function():
    assert ask.__name__ == "ask" and ask.__doc__.startswith("Ask.")
    assert list(inspect.signature(ask).parameters)[:2] == ["thing", "others"]
    assert ask.__globals__ is globals()  # by which doctest finds it
    assert str(inspect.signature(Thing.first)).startswith("(self, rows: ")
    assert Thing(3)._hidden("x") == "x"
    with pytest.raises(TypeError, match="unexpected keyword argument 'sise'"):
        Thing(sise=3)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'size'"):
        Thing()
    with pytest.raises(TypeError, match="takes 2 positional arguments but 3 were given"):
        Thing(3, 4)


def test_many_threads_at_the_first_call():
    @door
    def late(a: int, b: str, c: float, *, d: int = 0) -> tuple[object, ...]:
        return a, b, c, d

    with ThreadPoolExecutor(8) as threads:
        found = threads.map(lambda i: late(i, "b", 0.5, d=i), range(200))
        assert [a for a, *_ in found] == list(range(200))


@pytest.mark.compile
def test_under_a_tracer():
    """The checks are no part of a graph, and its stand-ins are no mistakes."""
    layer = MultiheadAttention(12, 3, mask=Causal()).eval()
    x = torch.randn(2, 5, 12)
    traced = torch.export.export(layer, (x,), strict=True).module()
    torch.testing.assert_close(traced(x), layer(x))
    compiled = torch.compile(
        lambda q: attention(q, q, q, mask=Causal()), backend="eager", fullgraph=True
    )
    torch.testing.assert_close(compiled(Q), attention(Q, Q, Q, mask=Causal()))

    class Caller(nn.Module):
        def forward(self, x: Tensor) -> int:
            return Thing(3).first(x)

    with pytest.raises(RuntimeError, match="'len' is not supported in symbolic tracing"):
        symbolic_trace(Caller())
