"""Plans: which rectangles, what computes them, and what `explain` says of them."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from wqkv import ALiBi, Causal, Full, Lengths, Window, explain
from wqkv.attend.call import request
from wqkv.attend.engines.plan import make_plan, one_piece

N = 300


def call_of(n=N, **rules):
    q = torch.zeros(2, 4, n, 8)
    return request(q, q, q, **rules)


@pytest.mark.parametrize(
    ("rules", "method", "kernel", "count"),
    [
        ({}, "one kernel call", "kernel", 1),
        ({"mask": Causal()}, "one kernel call", "causal kernel", 1),
        ({"mask": Causal()}, "kernel calls", "kernel", 3),
        ({"mask": Causal()}, "reference", "reference", 3),
        # the kernels' own mask is upper left, hides before it scales, and knows no bias
        ({"mask": Causal(), "scale": -1.0}, "one kernel call", "kernel", 1),
        ({"mask": Causal(), "query_offset": 1}, "one kernel call", "kernel", 1),
        ({"mask": Causal(), "bias": ALiBi(4)}, "one kernel call", "kernel", 1),
        ({"mask": Window(9, 0)}, "kernel calls", "kernel", 3),
        ({"mask": Lengths([7, N])}, "kernel calls", "kernel", 2),
    ],
)
def test_what_computes_a_plan(rules, method, kernel, count):
    plan = make_plan(call_of(**rules), method)
    assert (plan.kernel, len(plan.pieces)) == (kernel, count)


def test_a_short_causal_plan_is_one_kernel_call():
    call = call_of(17, mask=Causal())
    assert make_plan(call, "kernel calls") == make_plan(call, "one kernel call")


def test_is_one():
    call = call_of(mask=Window(9, 0))
    assert one_piece(call, "reference").is_one(call)
    assert not make_plan(call, "kernel calls").is_one(call)
    step = request(torch.zeros(1, 2, 1, 8), *[torch.zeros(1, 2, N, 8)] * 2, mask=Window(9, 0),
                   query_offset=N - 1)  # fmt: skip
    assert not make_plan(step, "one kernel call").is_one(step)  # of ten keys


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({}, "fused, 1 rectangle by the kernel, 100% of all pairs"),
        ({"mask": Causal()}, "tiled, 3 rectangles by the kernel, 69% of all pairs"),
        ({"softcap": 3.0}, "tiled, 1 rectangle by the reference, 100% of all pairs"),
        ({"mask": Full(), "engine": "reference"}, "reference, 1 rectangle by the reference, 100% "),
        ({"mask": Lengths([0, 30])}, "tiled, 1 rectangle by the kernel, 5% of all pairs"),
        ({"engine": "flex", "return_lse": True}, "none: The engine 'flex' cannot run"),
    ],
)
def test_explain_says_the_plan(given, line):
    q = torch.zeros(2, 4, N, 8)
    assert explain(q, q, q, **given).splitlines()[1].startswith(f"engine: {line}")


def test_explain_makes_no_plan_of_numbers_that_are_not_there():
    with FakeTensorMode():
        q = torch.zeros(2, 4, N, 8)
        said = explain(q, q, q, mask=Causal())
    assert said.splitlines()[1] == "engine: tiled, planned when the numbers are there"
