"""What backward reads is saved by autograd, and torch.func and tracing get through."""

import gc
import threading

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, grad, hessian, jacrev, jvp, stack_module_state, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from wqkv import ALiBi, Causal, Lengths, MultiheadAttention, RoPE, Segments, T5Bias, attention
from wqkv.errors import EngineError

N, D = 5, 8


def random(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype)


def agree(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


# Changes in place


@pytest.mark.parametrize("n", [7, 331])  # one rectangle, and several
@pytest.mark.parametrize("what", ["mask", "bias", "slopes", "table", "offset", "query"])
def test_a_change_in_place_before_backward_raises(what, n):
    q, k, v = (random(1, 2, n, D) for _ in range(3))
    changed = {
        "mask": torch.ones(n, n, dtype=torch.bool).tril(),
        "bias": random(n, n),
        "slopes": torch.ones(2, dtype=torch.float64),
        "table": random(8, 2),
        "offset": torch.tensor([1]),
        "query": q,
    }[what]
    rules = {
        "mask": {"mask": changed},
        "bias": {"bias": changed},
        "slopes": {"bias": ALiBi(changed) if what == "slopes" else None},
        "table": {"bias": what == "table" and T5Bias(changed, bidirectional=True, max_distance=16)},
        "offset": {"mask": Causal(), "query_offset": changed},
        "query": {},
    }[what]
    k.requires_grad_()
    loss = attention(q, k, v, **rules).pow(2).sum()
    changed.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("rules", [{}, {"softcap": 3.0}, {"dropout_p": 0.3}], ids=str)
def test_nothing_stays_alive_after_backward_or_a_checkpoint(rules):
    shape = (2, 3, 137, 8)  # of no other test

    def alive():
        gc.collect()
        return sum(type(x) is torch.Tensor and x.shape == shape for x in gc.get_objects())

    before = alive()

    def call(x):
        q = x * 2
        return attention(q, q + 1, q - 1, mask=Causal(), **rules).sum()

    x = torch.randn(shape).requires_grad_()
    out = checkpoint(call, x, use_reentrant=False)
    assert alive() == before + 1  # x itself
    out.backward()
    kept = []
    for _ in range(5):
        kept.append(call(x))
        kept[-1].backward()
    assert alive() == before + 1


def test_saved_tensors_hooks_see_the_mask_too():
    mask, seen = torch.ones(N, N, dtype=torch.bool), []
    q = random(1, 1, N, D).requires_grad_()

    def pack(x):
        seen.append(x.shape)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        attention(q, q, q, mask=mask).sum().backward()
    assert (1, 1, N, N) in seen


# Dropout


@pytest.mark.parametrize("n", [9, 300])
def test_dropout_is_repeated_while_another_thread_draws(n):
    q, stop = random(2, 2, n, D), threading.Event()

    def draw():
        while not stop.is_set():
            torch.rand(1000)

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        for _ in range(10):
            v = random(2, 2, n, D).requires_grad_()
            out = attention(q, q, v, dropout_p=0.5)
            g = random(*out.shape)
            (dv,) = torch.autograd.grad(out, v, g)
            # out is linear in v
            torch.testing.assert_close((dv * v).sum(), (g * out).sum(), rtol=1e-9, atol=1e-9)
    finally:
        stop.set()
        thread.join()


def test_dropout_takes_one_number_of_the_default_generator():
    q = random(1, 2, 300, D)
    torch.manual_seed(7)
    first, state = attention(q, q, q, dropout_p=0.5), torch.get_rng_state()
    torch.manual_seed(7)
    torch.randint(2**62, ())
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    assert torch.equal(attention(q, q, q, dropout_p=0.5), first)
    assert not torch.equal(attention(q, q, q, dropout_p=0.5), first)


def test_dropout_keeps_its_share():
    eye = torch.eye(300)[None, None]
    P = attention(torch.zeros(1, 1, 300, 8), torch.zeros(1, 1, 300, 8), eye, dropout_p=0.25)
    assert 0.24 < float((P == 0).float().mean()) < 0.26
    torch.testing.assert_close(P.max(), torch.tensor(1 / 300 / 0.75))


# torch.func


def both(make):
    """The same function by auto and by the reference."""
    return make("auto"), make("reference")


MASKS = {"plain": {}, "causal": {"mask": Causal()}, "softcap": {"softcap": 2.0, "mask": Causal()}}


@pytest.mark.parametrize("rules", MASKS.values(), ids=MASKS)
def test_first_derivatives(rules):
    q = random(2, 2, N, D)
    ours, theirs = both(lambda e: lambda x: attention(x, x, x, engine=e, **rules))
    agree(grad(lambda x: ours(x).pow(2).sum())(q), grad(lambda x: theirs(x).pow(2).sum())(q))
    agree(vjp(ours, q)[1](q)[0], vjp(theirs, q)[1](q)[0])
    agree(jacrev(ours)(q[:1]), jacrev(theirs)(q[:1]))
    agree(vmap(grad(lambda x: ours(x[None]).pow(2).sum()))(q),
          vmap(grad(lambda x: theirs(x[None]).pow(2).sum()))(q))  # fmt: skip
    agree(grad(lambda y: vmap(lambda x: ours(x[None]))(y).pow(2).sum())(q),
          grad(lambda y: vmap(lambda x: theirs(x[None]))(y).pow(2).sum())(q))  # fmt: skip


def test_forward_mode_goes_to_the_reference():
    q = random(1, 2, N, D)
    ours, theirs = both(lambda e: lambda x: attention(x, x, x, mask=Causal(), engine=e).sum())
    agree(jvp(ours, (q,), (q,))[1], jvp(theirs, (q,), (q,))[1])
    agree(hessian(ours)(q), hessian(theirs)(q))
    with pytest.raises(EngineError, match=r"no forward-mode derivative"):
        jvp(lambda x: attention(x, x, x, engine="tiled"), (q,), (q,))


def test_a_second_derivative_is_refused_when_it_comes():
    q = random(1, 1, N, D).requires_grad_()
    first = grad(lambda x: attention(x, x, x).pow(2).sum())
    agree(first(q.detach()), torch.autograd.grad(attention(q, q, q).pow(2).sum(), q)[0])
    with pytest.raises(EngineError, match=r"no second derivative.*\n.*engine='reference'"):
        grad(lambda x: first(x).sum())(q.detach())


@pytest.mark.parametrize(
    "mapped, call",
    [
        (torch.rand(3, N, N) > 0.3, lambda q, m, e: attention(q, q, q, mask=m, engine=e)),
        (
            torch.tensor([[2, 3], [5, 0], [1, 5]]),
            lambda q, m, e: attention(q, q, q, mask=Lengths(m), engine=e),
        ),
        (
            torch.randint(0, 2, (3, 2, N)),
            lambda q, m, e: attention(q, q, q, mask=Segments(m), engine=e),
        ),
        (torch.randn(3, 2).double(), lambda q, m, e: attention(q, q, q, sinks=m, engine=e)),
        (
            torch.tensor([[0, 1], [3, 2], [4, 0]]),
            lambda q, m, e: attention(q[:, :, :2], q, q, mask=Causal(), query_offset=m, engine=e),
        ),
        (
            torch.randn(3, 8, 2).double(),
            lambda q, m, e: attention(
                q, q, q, bias=T5Bias(m, bidirectional=True, max_distance=16), engine=e
            ),
        ),
        (torch.randn(3, N, N).double(), lambda q, m, e: attention(q, q, q, bias=m, engine=e)),
    ],
    ids=["mask", "lengths", "segments", "sinks", "offset", "table", "bias"],
)
def test_rules_are_mapped(mapped, call):
    q = random(2, 2, N, D)
    one_by_one = torch.stack([call(q, m, "reference") for m in mapped])
    for engine in ("auto", "reference"):
        agree(vmap(lambda m, e=engine: call(q, m, e))(mapped), one_by_one)

    def derivative(m, engine):
        return grad(lambda x: call(x, m, engine).pow(2).sum())(q)

    one_by_one = torch.stack([derivative(m, "reference") for m in mapped])
    agree(vmap(lambda m: derivative(m, "auto"))(mapped), one_by_one)


def test_many_layers_at_once():
    layers = [MultiheadAttention(16, 4, mask=Causal(), position=RoPE()) for _ in range(3)]
    params, buffers = stack_module_state(layers)
    x = torch.randn(2, 7, 16)
    ours = vmap(lambda p, b: functional_call(layers[0], (p, b), (x,)))(params, buffers)
    torch.testing.assert_close(ours, torch.stack([layer(x) for layer in layers]))


# Graphs


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_make_fx_records_one_operator(mode):
    def call(x):
        return attention(x, x, x, mask=Causal())

    graph = make_fx(call, tracing_mode=mode)(torch.randn(1, 2, 300, 8))
    names = [str(node.target) for node in graph.graph.nodes]
    assert sum("wqkv.attend" in name for name in names) == 1
    x = torch.randn(1, 2, 333 if mode == "symbolic" else 300, 8)
    torch.testing.assert_close(graph(x), call(x))


@pytest.mark.compile
@pytest.mark.parametrize("transform", [grad, vmap])
def test_torch_func_inside_a_graph(transform):
    def call(x):
        x = x if x.ndim == 4 else x[None]
        out = attention(x, x, x, mask=Causal()).pow(2)
        return out.sum() if transform is grad else out

    x = torch.randn(2, 2, 5, 8) if transform is grad else torch.randn(3, 2, 5, 8)
    made = torch.compile(transform(call), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(made(x), transform(call)(x))
    graph = make_fx(transform(call))(x)
    torch.testing.assert_close(graph(x), transform(call)(x))


@pytest.mark.parametrize(
    "make", [Causal, lambda: Causal() & Lengths([3, 70]), lambda: Segments([[0] * 70] * 2)]
)
def test_shapes_alone(make):
    with FakeTensorMode():
        x = torch.empty(2, 3, 70, 8).requires_grad_()
        out = attention(x, x, x, mask=make())
        out.sum().backward()
        assert out.shape == x.grad.shape == (2, 3, 70, 8)
        assert MultiheadAttention(16, 4, position=RoPE())(torch.empty(1, 3, 16)).shape == (1, 3, 16)


class Recorder(TorchDispatchMode):
    """The names of all operators that are called."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(str(function))
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("rules", [{}, {"mask": Causal()}, {"softcap": 3.0}])
def test_an_eager_call_enters_no_operator_of_ours(rules):
    """Not even where a mode looks on; only where a graph is made."""
    x = torch.randn(1, 2, 300, 8, requires_grad=True)
    with Recorder() as seen:
        attention(x, x, x, **rules).sum().backward()
    assert seen.names and not any("wqkv" in name for name in seen.names)
    with Recorder() as seen, FakeTensorMode():
        x = torch.randn(1, 2, 300, 8, requires_grad=True)
        attention(x, x, x, **rules).sum().backward()
    ours = {"wqkv.attend.default", "wqkv.attend_backward.default"}
    assert {name for name in seen.names if "wqkv" in name} == ours


@pytest.mark.parametrize("n", [8, 300])
@pytest.mark.parametrize(
    ("rules", "products"),
    # of 2 n n d per head: q k^T and P v forward; what is computed again and four more backward
    [({"softcap": 3.0}, (2, 8)), ({"dropout_p": 0.1}, (2, 7)), ({"engine": "reference"}, (2, 6))],
)
def test_floating_point_operations_are_counted(rules, products, n):
    batch, n_head, d = 2, 4, 16
    q, k, v = (torch.randn(batch, h, n, d, requires_grad=True) for h in (n_head, 2, 2))
    one = 2 * batch * n_head * n * n * d
    with FlopCounterMode(display=False) as forward:
        out = attention(q, k, v, **rules)
    with FlopCounterMode(display=False) as backward:
        out.sum().backward()
    counted = forward.get_total_flops(), forward.get_total_flops() + backward.get_total_flops()
    assert counted == tuple(count * one for count in products)


def test_the_kernel_counts_as_torchs_own():
    """torch has no formula for its CPU kernel, neither in its own attention nor here."""
    x = torch.randn(2, 4, 300, 16)
    with FlopCounterMode(display=False) as ours:
        attention(x, x, x)
    with FlopCounterMode(display=False) as theirs:
        torch.nn.functional.scaled_dot_product_attention(x, x, x)
    assert ours.get_total_flops() == theirs.get_total_flops()
