"""The layer: by hand, against twenty lines of float64, and against torch's own."""

import copy
import io
import math
import pickle

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from wqkv import (
    ALiBi,
    AllToAll,
    Causal,
    Cross,
    DifferentialAttention,
    Dynamic,
    Full,
    LatentAttention,
    Lengths,
    MultiheadAttention,
    Ring,
    Rolling,
    RoPE,
    T5Bias,
    Trace,
    Window,
    attention,
)
from wqkv.attend.scalings import (
    DynamicNTK,
    LongRoPE,
)
from wqkv.errors import ArgumentError, EngineError, KindError
from wqkv.layer.norms import QKNorm

B, NQ, NK = 2, 5, 7
D_MODEL, N_HEAD, D_K, D_V, KDIM, VDIM = 33, 3, 11, 13, 17, 19


def tokens(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def layer(d_model: int = D_MODEL, n_head: int = N_HEAD, **rest) -> MultiheadAttention:
    torch.manual_seed(1)
    return MultiheadAttention(d_model, n_head, **{"dtype": torch.float64, **rest})


# The three-matrix layer of the textbooks


def test_three_matrices_and_nothing_else():
    made = MultiheadAttention(D_MODEL, N_HEAD, WO=False)
    names = [f"{matrix}.{part}" for matrix in ("WQ", "WK", "WV") for part in ("weight", "bias")]
    assert list(made.state_dict()) == [name for name, _ in made.named_parameters()] == names
    assert made.WO is None and made.d_k == D_K
    for matrix in (made.WQ, made.WK, made.WV):
        assert type(matrix) is nn.Linear
        assert (matrix.in_features, matrix.out_features) == (D_MODEL, D_MODEL)


class Textbook(nn.Module):
    """The layer as a course writes it."""

    def __init__(self, d_model: int, n_head: int) -> None:
        super().__init__()
        self.n_head, self.d_k = n_head, d_model // n_head
        self.WQ, self.WK, self.WV = (nn.Linear(d_model, d_model) for _ in range(3))

    def forward(self, Q, K, V):
        def split(x):
            return x.view(*x.shape[:2], self.n_head, self.d_k).transpose(1, 2)

        q, k, v = split(self.WQ(Q)), split(self.WK(K)), split(self.WV(V))
        weights = torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(self.d_k), dim=-1)
        return (weights @ v).transpose(1, 2).reshape(*Q.shape[:2], -1)


def test_state_dict_of_the_textbook_loads():
    theirs = Textbook(D_MODEL, N_HEAD).double()
    ours = layer(WO=False)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    Q, K, V = tokens(B, NQ, D_MODEL), tokens(B, NK, D_MODEL, seed=1), tokens(B, NK, D_MODEL, seed=2)
    out = ours(Q, K, V)
    assert out.shape == (B, NQ, D_MODEL)
    torch.testing.assert_close(out, theirs(Q, K, V), rtol=1e-13, atol=1e-13)


def test_numbers_by_hand():
    """Two tokens, one head of two channels: scores 1 / sqrt(2) and 0."""
    made = MultiheadAttention(2, 1, WO=False, bias=False, dtype=torch.float64)
    made.WQ.weight.data = torch.tensor([[1.0, 0.0], [0.0, 0.0]]).double()
    made.WK.weight.data = torch.eye(2).double()
    made.WV.weight.data = torch.tensor([[0.0, 10.0], [1.0, 0.0]]).double()
    trace = made.trace(torch.eye(2).double()[None])
    root = 1 / math.sqrt(2)
    high = math.exp(root) / (math.exp(root) + 1)  # 0.6698
    numbers = {
        "q": [[1, 0], [0, 0]],
        "k": [[1, 0], [0, 1]],
        "v": [[0, 1], [10, 0]],
        "scores": [[root, 0], [0, 0]],
        "weights": [[high, 1 - high], [0.5, 0.5]],
    }
    for name, expected in numbers.items():
        torch.testing.assert_close(getattr(trace, name)[0, 0], torch.tensor(expected).double())
    context = torch.tensor([[10 * (1 - high), high], [5, 0.5]]).double()
    torch.testing.assert_close(trace.context[0], context)
    torch.testing.assert_close(made(torch.eye(2).double()[None])[0], context)


# Twenty lines of float64


def twenty_lines(made: MultiheadAttention, Q, K, V, hidden=None):
    """Loops over samples, heads and queries; `hidden[i][j]` hides key j from query i."""
    out = torch.zeros(len(Q), Q.shape[1], made.n_head * made.d_v, dtype=torch.float64)
    for b in range(len(Q)):
        q, k, v = made.WQ(Q[b]), made.WK(K[b]), made.WV(V[b])
        for h in range(made.n_head):
            g = h // (made.n_head // made.n_kv_head)
            qs = q[:, h * made.d_k : (h + 1) * made.d_k]
            ks = k[:, g * made.d_k : (g + 1) * made.d_k]
            vs = v[:, g * made.d_v : (g + 1) * made.d_v]
            for i in range(Q.shape[1]):
                seen = [j for j in range(K.shape[1]) if not (hidden and hidden[i][j])]
                powers = [math.exp(float(qs[i] @ ks[j]) / math.sqrt(made.d_k)) for j in seen]
                for power, j in zip(powers, seen, strict=True):
                    share = power / sum(powers) * vs[j]
                    out[b, i, h * made.d_v : (h + 1) * made.d_v] += share
    return out if made.WO is None else made.WO(out)


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"WO": False},
        {"bias": False},
        {"bias": ("WQ", "WV")},
        {"n_kv_head": 1},
        {"d_k": 5, "d_v": D_V},
        {"kdim": KDIM, "vdim": VDIM, "d_k": 7},
        {"n_head": 6, "n_kv_head": 2, "d_k": 3, "d_v": 5, "WO": False},
    ],
)
@torch.no_grad()
def test_against_twenty_lines(sizes):
    made = layer(**sizes)
    Q = tokens(B, NQ, D_MODEL)
    K, V = tokens(B, NK, sizes.get("kdim", D_MODEL)), tokens(B, NK, sizes.get("vdim", D_MODEL))
    expected = twenty_lines(made, Q, K, V)
    torch.testing.assert_close(made(Q, K, V), expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(made.trace(Q, K, V).output, expected, rtol=1e-12, atol=1e-13)
    hidden = [[j > i + 2 for j in range(NK)] for i in range(NQ)]
    expected = twenty_lines(made, Q, K, V, hidden)
    out = made(Q, K, V, mask=Causal(), query_offset=2)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-13)
    out = made(Q, K, V, mask=~torch.tensor(hidden))
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-13)


def test_what_is_left_out_is_the_one_before():
    made, Q, K = layer(), tokens(B, NQ, D_MODEL), tokens(B, NK, D_MODEL, seed=1)
    assert torch.equal(made(Q), made(Q, Q, Q))
    assert torch.equal(made(Q, K), made(Q, K, K))
    assert torch.equal(made(Q, V=Q * 2), made(Q, Q, Q * 2))


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_any_batch(batch):
    made, x = layer(), tokens(3, NQ, D_MODEL)
    out = made(x[:batch])
    assert out.shape == (batch, NQ, D_MODEL)
    torch.testing.assert_close(out, made(x)[:batch])


def test_masks_of_layer_and_call_both_count():
    made, x = layer(mask=Causal()), tokens(B, NQ, D_MODEL)
    plain = layer()
    both = plain(x, mask=Causal() & Lengths([2, 5]))
    assert torch.equal(made(x, mask=Lengths([2, 5])), both)
    assert torch.equal(made(x), plain(x, mask=Causal()))
    seen = torch.tensor([[j < 2 for j in range(NQ)], [True] * NQ])[:, None, None]
    torch.testing.assert_close(made(x, mask=seen), both)


# torch's own layer


def copied(theirs: nn.MultiheadAttention, **rest) -> MultiheadAttention:
    ours = layer(theirs.embed_dim, theirs.num_heads, **rest)
    weights = theirs.in_proj_weight
    if weights is None:
        weights = (theirs.q_proj_weight, theirs.k_proj_weight, theirs.v_proj_weight)
    else:
        weights = weights.chunk(3)
    for name, weight, bias in zip(
        ("WQ", "WK", "WV"), weights, theirs.in_proj_bias.chunk(3), strict=True
    ):
        getattr(ours, name).load_state_dict({"weight": weight, "bias": bias})
    ours.WO.load_state_dict(theirs.out_proj.state_dict())
    return ours


@pytest.mark.parametrize("kind", ["self", "cross", "other sizes"])
@pytest.mark.parametrize("padded", [False, True])
def test_torchs_own_layer(kind, padded):
    torch.manual_seed(0)
    sizes = {"kdim": KDIM, "vdim": VDIM} if kind == "other sizes" else {}
    theirs = nn.MultiheadAttention(D_MODEL, N_HEAD, batch_first=True, **sizes).double()
    nn.init.normal_(theirs.in_proj_bias)
    ours = copied(theirs, **sizes)
    Q = tokens(B, NQ, D_MODEL)
    K = V = Q
    if kind != "self":
        K = tokens(B, NK, sizes.get("kdim", D_MODEL), seed=1)
        V = tokens(B, NK, sizes.get("vdim", D_MODEL), seed=2)
    Q, K, V = (x.detach().clone().requires_grad_() for x in (Q, K, V))
    drop = torch.zeros(B, K.shape[1], dtype=torch.bool)
    drop[1, 3:] = padded
    expected, weights = theirs(Q, K, V, key_padding_mask=drop, average_attn_weights=False)
    out = ours(Q, K, V, mask=~drop[:, None, None])
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-13)
    by_length = ours(Q, K, V, mask=Lengths([K.shape[1], 3 if padded else K.shape[1]]))
    torch.testing.assert_close(by_length, expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(ours.trace(Q, K, V, mask=~drop[:, None, None]).weights, weights)
    grad = tokens(B, NQ, D_MODEL, seed=3)
    for a, b in zip(
        torch.autograd.grad(out, (Q, K, V), grad),
        torch.autograd.grad(expected, (Q, K, V), grad),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


# Gradients


@pytest.mark.parametrize(
    "rest",
    [
        {},
        {"n_kv_head": 1, "mask": Window(1, 0)},
        {"position": RoPE(), "d_k": 4},
        {"position": ALiBi(3), "WO": False},
    ],
)
def test_gradients(rest):
    made = layer(6, 3, **rest)
    parameters = dict(made.named_parameters())
    x = tokens(2, 3, 6).requires_grad_()

    def run(x, *values):
        given = dict(zip(parameters, values, strict=True))
        return torch.func.functional_call(made, given, (x,), {"mask": Lengths([3, 2])})

    assert torch.autograd.gradcheck(run, (x, *parameters.values()), fast_mode=True)


def test_hidden_words_get_no_gradient():
    x = tokens(B, NQ, D_MODEL).requires_grad_()
    layer()(tokens(B, 2, D_MODEL), x, mask=Lengths([0, 3])).sum().backward()
    assert not x.grad[0].any() and not x.grad[1, 3:].any()
    assert x.grad[1, :3].any()


# The trace


@pytest.mark.parametrize("WO", [True, False])
def test_trace(WO):
    made = layer(n_head=6, n_kv_head=2, d_k=D_K, d_v=D_V, WO=WO)
    Q, K = tokens(B, NQ, D_MODEL), tokens(B, NK, D_MODEL, seed=1)
    trace = made.trace(Q, K, mask=Causal(), query_offset=1)
    width = D_MODEL if WO else 6 * D_V
    assert isinstance(trace, Trace)
    assert repr(trace).splitlines() == [
        "Trace",
        "  q        f64[2, 6, 5, 11] on cpu",
        "  k        f64[2, 2, 7, 11] on cpu",
        "  v        f64[2, 2, 7, 13] on cpu",
        "  scores   f64[2, 6, 5, 7] on cpu",
        "  weights  f64[2, 6, 5, 7] on cpu",
        "  context  f64[2, 5, 78] on cpu",
        f"  output   f64[2, 5, {width}] on cpu",
    ]
    torch.testing.assert_close(trace.output, made(Q, K, mask=Causal(), query_offset=1))
    seen = Causal().dense(NQ, NK, 1)
    scores = trace.q @ trace.k.repeat_interleave(3, 1).mT / math.sqrt(D_K)
    torch.testing.assert_close(trace.scores, scores.masked_fill(~seen, -torch.inf))
    torch.testing.assert_close(trace.weights, trace.scores.softmax(-1))
    context = (trace.weights @ trace.v.repeat_interleave(3, 1)).transpose(1, 2).flatten(2)
    torch.testing.assert_close(trace.context, context)
    torch.testing.assert_close(trace.output, made.WO(context) if WO else context)


def test_trace_is_without_dropout_and_can_be_trained():
    made, x = layer(dropout=0.5), tokens(B, NQ, D_MODEL)
    trace = made.train().trace(x)
    torch.testing.assert_close(trace.output, made.eval()(x))
    trace.weights[0, 0, 0, 1].backward()
    assert made.WQ.weight.grad.any()


def test_layer_without_memory():
    """On a device that has shapes alone, and does not know autocast."""
    made = MultiheadAttention(D_MODEL, N_HEAD, device="meta")
    x = torch.zeros(B, NQ, D_MODEL, device="meta")
    with pytest.raises(
        KindError, match=r"(?s)layer has another dtype.*Q: +f64\[2, 5, 33\] on meta"
    ):
        made(x.double())
    assert made.trace(x).output.shape == x.shape


def test_trace_has_a_limit():
    made = MultiheadAttention(8, 2, device="meta")
    x = torch.zeros(1, 30011, 8, device="meta")
    with pytest.raises(EngineError, match=r"(?s)30011 x 30011 scores would take 6\.7 GiB.*fewer"):
        made.trace(x)


# A module among modules


def test_matrices_are_called_once():
    made, x = layer(), tokens(B, NQ, D_MODEL)
    calls = []
    for name in ("WQ", "WK", "WV", "WO"):
        module = getattr(made, name)
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    made(x)
    assert sorted(calls) == ["WK", "WO", "WQ", "WV"]
    made.trace(x)
    assert sorted(calls) == sorted(["WK", "WO", "WQ", "WV"] * 2)


def test_another_module_can_stand_in_for_a_matrix():
    made, x = layer(), tokens(B, NQ, D_MODEL)
    before = made(x)
    made.WQ = nn.Sequential(made.WQ, nn.Identity())
    assert torch.equal(made(x), before)


POSITIONS = {
    "none": lambda: None,
    "RoPE": lambda: RoPE(d=4),
    "ALiBi": lambda: ALiBi(N_HEAD),
    "T5Bias": lambda: T5Bias(nn.Parameter(tokens(8, N_HEAD)), bidirectional=True),
}


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("way", ["deepcopy", "pickle", "state dict", "file"])
def test_copies_are_equal_and_apart(position, way):
    made, x = layer(position=POSITIONS[position](), mask=Causal()), tokens(B, NQ, D_MODEL)
    expected = made(x)
    if way == "deepcopy":
        other = copy.deepcopy(made)
    elif way == "pickle":
        other = pickle.loads(pickle.dumps(made))
    else:
        other = layer(position=POSITIONS[position](), mask=Causal())
        for parameter in other.parameters():
            nn.init.zeros_(parameter)
        assert not torch.equal(other(x), expected)
        state = made.state_dict()
        if way == "file":
            torch.save(state, file := io.BytesIO())
            file.seek(0)
            state = torch.load(file)
        other.load_state_dict(state)
    assert torch.equal(other(x), expected)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(2)
    assert torch.equal(made(x), expected)
    assert not torch.equal(other(x), expected)


def test_a_learned_table_is_a_parameter():
    table = nn.Parameter(tokens(8, N_HEAD))
    made = layer(position=T5Bias(table, bidirectional=True))
    assert dict(made.named_parameters())["position_0"] is table
    made(tokens(B, NQ, D_MODEL)).square().sum().backward()
    assert table.grad.any()
    x = tokens(B, NQ, D_MODEL)
    before = made(x)
    torch.optim.SGD(made.parameters(), lr=1.0).step()
    assert not torch.equal(made(x), before)
    twin = copy.deepcopy(made)
    assert twin.position.table is dict(twin.named_parameters())["position_0"]
    assert twin.position.table is not table
    assert layer(position=ALiBi(N_HEAD)).state_dict().keys() == layer().state_dict().keys()


def test_training_and_grad_mode_do_not_matter():
    made, x = layer(), tokens(B, NQ, D_MODEL)
    expected = made.train()(x)
    torch.testing.assert_close(made.eval()(x), expected, rtol=1e-13, atol=1e-13)
    with torch.no_grad():
        torch.testing.assert_close(made(x), expected, rtol=1e-13, atol=1e-13)
    with torch.inference_mode():
        torch.testing.assert_close(made(x), expected, rtol=1e-13, atol=1e-13)


def test_dropout_only_while_training():
    made, plain, x = layer(dropout=0.5), layer(), tokens(B, NQ, D_MODEL)
    torch.testing.assert_close(made.eval()(x), plain(x))
    assert not torch.allclose(made.train()(x), plain(x))


def test_grouped_heads_are_repeated_heads():
    grouped = layer(n_head=6, n_kv_head=2, d_k=D_K)
    full = layer(n_head=6, d_k=D_K)
    full.WQ.load_state_dict(grouped.WQ.state_dict())
    full.WO.load_state_dict(grouped.WO.state_dict())
    for name in ("WK", "WV"):
        for part, tensor in getattr(grouped, name).state_dict().items():
            heads = tensor.unflatten(0, (2, D_K)).repeat_interleave(3, 0).flatten(0, 1)
            getattr(getattr(full, name), part).data = heads
    x = tokens(B, NQ, D_MODEL)
    torch.testing.assert_close(grouped(x), full(x), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("offset", [3, torch.tensor([3, 3])])
def test_rope_turns_queries_where_they_stand(offset):
    made, x = layer(position=RoPE(d=6), mask=Causal()), tokens(B, NK, D_MODEL)
    out = made(x[:, 3:5], x, query_offset=offset)
    torch.testing.assert_close(out, made(x)[:, 3:5], rtol=1e-6, atol=1e-6)
    assert not torch.allclose(made(x[:, 3:5], x, query_offset=2), made(x)[:, 3:5])


def test_rope_is_between_projection_and_scores():
    rope = RoPE(d=6)
    made, x = layer(position=rope), tokens(B, NQ, D_MODEL)
    plain, turned = layer().trace(x), made.trace(x)
    assert torch.equal(turned.q, rope.rotate(plain.q, torch.arange(NQ)))
    assert torch.equal(turned.k, rope.rotate(plain.k, torch.arange(NQ)))
    assert torch.equal(turned.v, plain.v)


def test_bias_reaches_the_scores():
    bias = ALiBi(N_HEAD)
    made, x = layer(position=bias), tokens(B, NQ, D_MODEL)
    trace = layer().trace(x)
    expected = attention(trace.q, trace.k, trace.v, bias=bias).transpose(1, 2).flatten(2)
    torch.testing.assert_close(made(x), made.WO(expected), rtol=1e-13, atol=1e-13)


def test_scale_and_engine_are_passed_on():
    x = tokens(B, NQ, D_MODEL)
    assert not layer(scale=0.0).trace(x).scores.any()
    with pytest.raises(ArgumentError, match="no engine 'fast'"):
        layer(engine="fast")(x)


def test_autocast():
    made, x = layer(dtype=torch.float32), tokens(B, NQ, D_MODEL, dtype=torch.float32)
    exact = made(x)
    with torch.autocast("cpu", torch.bfloat16):
        out, trace = made(x), made.trace(x)
    assert out.dtype == trace.output.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), exact, rtol=0.05, atol=0.02)
    out.float().sum().backward()
    assert made.WQ.weight.grad.dtype == torch.float32


def test_bfloat16():
    made = layer(dtype=torch.bfloat16)
    out = made(tokens(B, NQ, D_MODEL, dtype=torch.bfloat16))
    assert out.dtype == torch.bfloat16


def test_start():
    """Each matrix starts as nn.Linear does: uniform in +-1/sqrt(input size)."""
    made = MultiheadAttention(128, 4, kdim=512)
    for matrix, size in ((made.WQ, 128), (made.WK, 512), (made.WV, 128), (made.WO, 128)):
        assert 0.99 * size**-0.5 < matrix.weight.abs().max().item() <= size**-0.5
        assert matrix.weight.std().item() == pytest.approx((3 * size) ** -0.5, rel=0.02)


@pytest.mark.parametrize(
    ("rest", "text"),
    [
        ({}, "d_model=33, n_head=3, d_k=11"),
        ({"n_kv_head": 1, "d_k": 5}, "d_model=33, n_head=3, n_kv_head=1, d_k=5"),
        (
            {"mask": Causal(), "position": ALiBi(3)},
            "d_model=33, n_head=3, d_k=11, mask=Causal(), position=ALiBi(f32[3] on cpu)",
        ),
        ({"mask": Full()}, "d_model=33, n_head=3, d_k=11"),
    ],
)
def test_repr(rest, text):
    assert layer(**rest).extra_repr() == text


# Mistakes

MADE_WRONG = [
    ((512, 7), {}, ArgumentError, "512 is not a multiple of `n_head` 7.*n_head = 4 or 8"),
    ((7, 11), {}, ArgumentError, "7 is not a multiple of `n_head` 11.*n_head = 7,"),
    ((33, 6), {"d_k": 5, "n_kv_head": 4}, ArgumentError, "6 is not a .* 4.*n_kv_head = 3 or 6"),
    ((33, 0), {}, ArgumentError, "`n_head` is 0"),
    ((-33, 3), {}, ArgumentError, "`d_model` is -33"),
    ((33, 3), {"n_kv_head": 0}, ArgumentError, "`n_kv_head` is 0"),
    ((33, 3), {"kdim": 0}, ArgumentError, "`kdim` is 0"),
    ((33, 3), {"vdim": -1}, ArgumentError, "`vdim` is -1"),
    ((33, 3), {"d_v": 0}, ArgumentError, "`d_v` is 0"),
    ((33.0, 3), {}, KindError, "`d_model` is an int, not float 33.0"),
    ((33, True), {}, KindError, "`n_head` is an int, not bool True"),
    ((33, 3), {"d_k": "5"}, KindError, "`d_k` is an int or None, not str '5'"),
    ((33, None), {}, KindError, "`n_head` is an int, not NoneType None"),
    ((33, 3), {"dropout": 1.0}, ArgumentError, "`dropout` is 1.0"),
    ((33, 3), {"dropout": "0.1"}, KindError, "`dropout` is a number, not str '0.1'"),
    ((33, 3), {"scale": "1"}, KindError, "`scale` is a number or None, not str '1'"),
    ((33, 3), {"scale": math.inf}, ArgumentError, "`scale` is inf"),
    ((33, 3), {"bias": None}, KindError, "`bias` is a bool or a list of strings, not NoneType"),
    ((33, 3), {"bias": "WQ"}, KindError, r"not str 'WQ'\.\nPass \['WQ'\] to MultiheadAttention"),
    ((33, 3), {"engine": "x"}, ArgumentError, "no engine 'x'.*one of: auto, fused, tiled, ref"),
    ((33, 3), {"device": "x"}, ArgumentError, "`device` is 'x': Expected one of.*such as 'cpu'"),
    (
        (33, 3),
        {"dtype": torch.int64},
        KindError,
        "`dtype` is torch.int64, and parameters are floats",
    ),
    ((33, 3), {"bias": ["WX"]}, ArgumentError, r"`bias` is \['WX'\]"),
    ((33, 3), {"mask": torch.ones(5, 5).bool()}, KindError, r"`mask` is .* not bool\[5, 5\]"),
    ((33, 3), {"position": 5}, KindError, "`position` is a RoPE, a bias .* or None, not int 5"),
]


@pytest.mark.parametrize(("sizes", "rest", "error", "says"), MADE_WRONG)
def test_made_wrong(sizes, rest, error, says):
    with pytest.raises(error, match=f"(?s){says}"):
        MultiheadAttention(*sizes, **rest)


X = torch.zeros(B, NQ, D_MODEL)
CALLED_WRONG = [
    (
        (torch.zeros(B, NQ, 31),),
        {},
        ArgumentError,
        r"`Q` has last size 31; this layer takes 33.*  Q: f32\[2, 5, 31\].*\(batch, length, 33\)",
    ),
    ((X, torch.zeros(B, NK, 31)), {}, ArgumentError, r"`K` has last size 31.*K: f32\[2, 7, 31\]"),
    ((X, X, torch.zeros(B, NQ, 31)), {}, ArgumentError, "`V` has last size 31"),
    ((X[0],), {}, ArgumentError, r"`Q` has 2 axes, not 3.*`Q\[None\]`"),
    ((X[None],), {}, ArgumentError, r"`Q` has 4 axes, not 3.*f32\[1, 2, 5, 33\]"),
    ((X, X[0]), {}, ArgumentError, "`K` has 2 axes"),
    ((X, torch.zeros(3, NQ, D_MODEL)), {}, ArgumentError, "batches of 2, 3 and 3.*expand"),
    ((X, X, torch.zeros(3, NQ, D_MODEL)), {}, ArgumentError, "batches of 2, 2 and 3"),
    ((X, X, torch.zeros(B, NK, D_MODEL)), {}, ArgumentError, "K has 5 tokens and V has 7"),
    ((X, X.double()), {}, KindError, r"different dtypes.*K: f64\[2, 5, 33\]"),
    ((X.double(),), {}, KindError, r"layer has another dtype.*Q: +f64.*WQ.weight: f32\[33, 33\]"),
    ((X, X.to("meta")), {}, ArgumentError, r"different devices.*K: f32\[2, 5, 33\] on meta"),
    ((X.to("meta"),), {}, ArgumentError, r"layer is on another device.*on meta.*33, 33\] on cpu"),
    ((X.long(),), {}, KindError, r"`Q` holds torch.int64.*embed the tokens"),
    ((X[:, :0],), {}, ArgumentError, r"`Q` has length 0.*f32\[2, 0, 33\]"),
    ((X, X[:, :0]), {}, ArgumentError, "`K` has length 0"),
    (([1.0],), {}, KindError, r"`Q` is a tensor, not list \[1.0\]"),
    (
        (torch.nested.nested_tensor([X[0], X[0, :3]], layout=torch.jagged),),
        {},
        KindError,
        "`Q` is a nested tensor.*Pass `Q.to_padded_tensor",
    ),
    (
        (X,),
        {"query_offset": "1"},
        KindError,
        "`query_offset` is an int, a tensor or None, not str '1'",
    ),
    ((X,), {"query_offset": torch.ones(3).long()}, ArgumentError, r"shape \(3,\) for a batch of 2"),
    ((X,), {"mask": "causal"}, KindError, "`mask` is a mask .* not str 'causal'"),
    ((X,), {"mask": torch.zeros(NQ, NQ)}, KindError, r"A mask is bool.*f32\[5, 5\]"),
]


@pytest.mark.parametrize("position", [None, RoPE(d=4)])
@pytest.mark.parametrize("method", ["forward", "trace"])
@pytest.mark.parametrize(("given", "rest", "error", "says"), CALLED_WRONG)
def test_called_wrong(given, rest, error, says, method, position):
    """The error comes before any arithmetic."""
    made, calls = layer(dtype=torch.float32, position=position), []
    # A hook on a matrix itself would leave the matrix to say what it takes.
    hook = register_module_forward_pre_hook(lambda module, _: calls.append(type(module)))
    try:
        with pytest.raises(error, match=f"(?s){says}"):
            getattr(made, method)(*given, **rest)
        assert nn.Linear not in calls
        made(X)
        assert calls.count(nn.Linear) == 4
    finally:
        hook.remove()


@pytest.mark.parametrize("method", ["forward", "trace"])
def test_rope_asks_where_the_queries_stand(method):
    made = layer(position=RoPE(d=4))
    with pytest.raises(ArgumentError, match=r"(?s)Where do 5 queries stand among 7 keys.* 2 for"):
        getattr(made, method)(tokens(B, NQ, D_MODEL), tokens(B, NK, D_MODEL))


def test_cache_that_is_none():
    with pytest.raises(KindError, match=r"`cache` is a cache such as Dynamic.*, not type <class"):
        layer()(tokens(B, NQ, D_MODEL), cache=Dynamic)


def test_mask_that_does_not_fit():
    with pytest.raises(ArgumentError, match="3 lengths for a batch of 2"):
        layer()(tokens(B, NQ, D_MODEL), mask=Lengths([1, 2, 3]))
    with pytest.raises(ArgumentError, match=r"(?s)Where do 5 queries stand among 7 keys.*=2: the"):
        layer(mask=Causal())(tokens(B, NQ, D_MODEL), tokens(B, NK, D_MODEL))


# Positions, maps and caches


def test_positions_turn_the_words_and_the_mask_counts_them():
    made, x = layer(30, 3, position=RoPE(), mask=Causal()), tokens(B, NK, 30)
    counted = made(x)
    torch.testing.assert_close(made(x, positions=torch.arange(NK)), counted)
    moved = made(x, positions=torch.arange(NK) + 11)
    torch.testing.assert_close(moved, counted, rtol=0, atol=1e-6)  # differences alone count
    a_sample = torch.stack((torch.arange(NK), 2 * torch.arange(NK)))
    both = made(x, positions=a_sample)
    torch.testing.assert_close(both[:1], counted[:1])
    torch.testing.assert_close(both[1:], made(x[1:], positions=2 * torch.arange(NK)))
    assert not torch.allclose(both[1:], counted[1:], atol=1e-3)


def test_positions_of_queries_alone_where_the_keys_are_others():
    made = layer(30, 3, position=RoPE())
    Q, K = tokens(B, NQ, 30), tokens(B, NK, 30, seed=1)
    torch.testing.assert_close(
        made(Q, K, positions=torch.arange(NQ) + 2), made(Q, K, query_offset=2)
    )


def test_positions_continue_in_a_cache():
    made, x = layer(30, 3, position=RoPE(), mask=Causal()), tokens(B, NK, 30)
    places = torch.tensor([[0, 1, 2, 3, 4, 5, 6], [0, 0, 0, 1, 2, 3, 4]])
    cache = Dynamic()
    with torch.no_grad():
        first = made(x[:, :4], cache=cache, positions=places[:, :4])
        rest = made(x[:, 4:], cache=cache, positions=places[:, 4:])
        torch.testing.assert_close(torch.cat((first, rest), 1), made(x, positions=places))


@pytest.mark.parametrize("scaling", [DynamicNTK(3.0, 5), LongRoPE([1.0] * 5, [3.0] * 5, 5)])
def test_a_cache_is_one_pass_up_to_the_length_that_a_scaling_was_trained_for(scaling):
    made, x = layer(30, 3, position=RoPE(scaling=scaling), mask=Causal()), tokens(B, NK, 30)
    cache = Dynamic()
    with torch.no_grad():
        steps = torch.cat([made(token, cache=cache) for token in x.split(1, dim=1)], dim=1)
        torch.testing.assert_close(steps[:, :5], made(x[:, :5]), rtol=0, atol=1e-6)
        assert not torch.allclose(steps[:, 5:], made(x)[:, 5:], atol=1e-3)


def test_positions_on_axes():
    made, x = layer(24, 3, position=RoPE.grid(8)), tokens(B, 6, 24)
    grid = torch.cartesian_prod(torch.arange(2), torch.arange(3)).T
    assert not torch.allclose(made(x, positions=grid), made(x), atol=1e-3)
    many = grid[:, None].expand(2, B, 6)
    torch.testing.assert_close(made(x, positions=many), made(x, positions=grid))


def test_one_offset_a_sample_is_a_place_on_every_axis():
    """As many samples as axes: the places of the samples are none of the axes."""
    made, Q = layer(24, 3, position=RoPE.grid(8)), tokens(B, NQ, 24)
    K = tokens(B, NK, 24, seed=1)
    together = made(Q, K, query_offset=torch.tensor([2, 5]))
    alone = [made(Q[i : i + 1], K[i : i + 1], query_offset=at) for i, at in enumerate((2, 5))]
    torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize(
    ("position", "positions", "kind", "says"),
    [
        (RoPE(), [0, 1], KindError, "`positions` is a tensor or None, not list"),
        (None, torch.arange(NK), ArgumentError, "no RoPE, so `positions` would change nothing"),
        (RoPE(), torch.arange(NK + 1), ArgumentError, r"shape \(8,\) for 7 tokens of Q.*\(2, 7\)"),
        (RoPE(), torch.arange(NK * 1.0), KindError, "A position is a whole number"),
        (RoPE.grid(8), torch.ones(B, 3, NK).long(), ArgumentError, r"\(2, 3, 7\).*\(2, 2, 7\)"),
    ],
)
def test_errors_of_positions(position, positions, kind, says):
    made = layer(24, 3, position=position)
    with pytest.raises(kind, match=f"(?s){says}"):
        made(tokens(B, NK, 24), positions=positions)


@pytest.mark.parametrize("position", [None, RoPE(), ALiBi(3)], ids=str)
def test_map_and_qkv_are_those_of_the_trace(position):
    made = layer(30, 3, position=position, mask=Causal(), softcap=2.0, sinks=True)
    x = tokens(B, NK, 30)
    trace, seen = made.trace(x), made.map(x)
    torch.testing.assert_close(seen[:], trace.weights)
    for ours, theirs in zip(made.qkv(x), (trace.q, trace.k, trace.v), strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(seen.times(trace.v), made.trace(x).weights @ trace.v)


PERSISTENT = {
    "plain": {},
    "groups and a sink": {"n_head": 6, "n_kv_head": 2, "d_k": 4, "d_v": 7, "sinks": True},
    "turned": {"position": RoPE(), "mask": Causal(), "norm": QKNorm()},
    "biased, capped": {"position": ALiBi(3), "mask": Window(2, 0), "softcap": 1.5},
    "gated": {"mask": Causal(), "gate": "channel", "scale": 0.7},
}


def with_persistent(name: str, **rest) -> MultiheadAttention:
    """No parameter 0, and a row of one sample that sees no key."""
    made = layer(30, **{"n_head": 3, "persistent": 2} | PERSISTENT[name] | rest)
    if made.sinks is not None:
        made.sinks.data += 0.5
    return made


def by_formula(made: MultiheadAttention, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """One query and one head at a time, the persistent keys behind the others."""
    q, k, v = made.qkv(x)
    group, scale = made.n_head // made.n_kv_head, made.scale or made.d_k**-0.5
    context = q.new_zeros(B, x.shape[1], made.n_head, made.d_v)
    for b in range(B):
        for h in range(made.n_head):
            keys = torch.cat((k[b, h // group], made.persistent_k[h // group]))
            values = torch.cat((v[b, h // group], made.persistent_v[h // group]))
            scores = q[b, h] @ keys.T * scale
            if made.softcap is not None:
                scores = made.softcap * torch.tanh(scores / made.softcap)
            n = x.shape[1]
            if isinstance(made.position, ALiBi):
                far = (torch.arange(n)[:, None] - torch.arange(n)).abs()
                scores = torch.cat(
                    (scores[:, :n] - made.position.slopes[h] * far, scores[:, n:]), dim=1
                )
            seen = torch.cat((mask[b], torch.ones(n, made.persistent, dtype=torch.bool)), dim=1)
            weights = scores.masked_fill(~seen, -math.inf).exp()
            total = weights.sum(dim=1, keepdim=True)
            total = total if made.sinks is None else total + made.sinks[h].exp()
            context[b, :, h] = weights / total @ values
    if made.gate is not None:
        context = context * torch.sigmoid(made.WG(x)).view_as(context)
    return made.WO(context.flatten(2))


@pytest.mark.parametrize("name", PERSISTENT)
def test_persistent_keys_and_values_by_their_formula(name: str):
    made, x = with_persistent(name), tokens(B, NK, 30).requires_grad_()
    given = torch.ones(B, NK, NK, dtype=torch.bool)
    given[1, 2] = False
    seen = given & made.mask.dense(NK, NK)[0]
    ours, expected = made(x, mask=given[:, None]), by_formula(made, x, seen)
    torch.testing.assert_close(ours, expected)
    leaves, up = [x, *made.parameters()], tokens(*ours.shape, seed=1)
    grads = (torch.autograd.grad(y, leaves, up) for y in (ours, expected))
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("name", PERSISTENT)
def test_persistent_keys_in_the_trace_and_the_map(name: str):
    made, x = with_persistent(name), tokens(B, NK, 30)
    trace, seen, eye = made.trace(x), made.map(x), torch.eye(NK).double()
    torch.testing.assert_close(trace.output, made(x))
    total = trace.weights.sum(dim=-1)
    assert trace.k.shape[2] == trace.v.shape[2] == trace.scores.shape[3] == NK + 2
    torch.testing.assert_close(trace.scores[..., NK:].isinf().any(), torch.tensor(False))
    if made.sinks is None:
        torch.testing.assert_close(total, torch.ones_like(total))
    weights = trace.weights[..., :NK]
    torch.testing.assert_close(seen[:], weights)
    torch.testing.assert_close(seen.times(eye), weights)
    torch.testing.assert_close(seen.entropy(), torch.special.entr(weights).sum(-1))
    torch.testing.assert_close(seen.received(), weights.sum(2))
    torch.testing.assert_close(seen.mass([1, 3]), weights[..., [1, 3]].sum(-1))
    far = (torch.arange(NK)[:, None] - torch.arange(NK)).abs()
    torch.testing.assert_close(seen.mean_distance(), (weights * far).sum(-1))


@pytest.mark.parametrize("cache", [Dynamic, lambda: Rolling(3)], ids=["Dynamic", "Rolling"])
@pytest.mark.parametrize("name", ["turned", "biased, capped"])
def test_persistent_keys_beside_a_cache(name: str, cache):
    made, x = with_persistent(name, mask=Window(2, 0)), tokens(B, NK, 30)
    with torch.no_grad():
        kept, whole = cache(), made(x)
        steps = [made(part, cache=kept) for part in x.split([3, 1, 3], dim=1)]
    torch.testing.assert_close(torch.cat(steps, dim=1), whole)


def test_persistent_keys_in_half_precision_and_autocast():
    made, x = with_persistent("gated", dtype=torch.float32), tokens(B, NK, 30).float()
    whole = made(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = made(x)
    half = made.bfloat16()(x.bfloat16())
    for found in (mixed, half):
        assert found.dtype == torch.bfloat16
        assert (found.float() - whole).abs().max() < 0.05 * whole.abs().max()


def test_persistent_values_are_dropped_too():
    made = layer(30, 3, persistent=1, dropout=0.5, bias=False).train()
    nn.init.zeros_(made.WV.weight)  # what is left is the persistent value's
    torch.manual_seed(0)
    parts = made(tokens(B, 200, 30)).abs().sum(-1)
    assert 0 < (parts == 0).sum() < parts.numel()


@pytest.mark.parametrize(
    ("count", "error", "says"),
    [
        (-1, ArgumentError, "`persistent` is -1"),
        (1.5, KindError, "`persistent` is an int, not float 1.5"),
        (True, KindError, "`persistent` is an int, not bool True"),
    ],
)
def test_persistent_is_a_count(count, error, says):
    with pytest.raises(error, match=says):
        layer(persistent=count)


def test_map_of_a_long_text_is_never_built():
    made = layer(12, 3, dtype=torch.float32, mask=Window(5, 0))
    with torch.no_grad():
        seen = made.map(torch.randn(1, 40_000, 12))
    assert seen.shape == (1, 3, 40_000, 40_000)
    assert seen[0, 1, 39_999].count_nonzero() == 6


def test_cross_attention_computes_its_keys_once():
    made = layer(30, 3, kdim=KDIM, vdim=VDIM)
    Q, K, V = tokens(B, NQ, 30), tokens(B, NK, KDIM, seed=1), tokens(B, NK, VDIM, seed=2)
    called = []
    made.WK.register_forward_hook(lambda *_: called.append(1))
    cache = Cross()
    with torch.no_grad():
        whole = made(Q, K, V)
        steps = [made(Q[:, :2], K, V, cache=cache), made(Q[:, 2:], cache=cache)]
    torch.testing.assert_close(torch.cat(steps, 1), whole)
    assert len(called) == 2


def test_a_rolling_cache_keeps_its_window_and_first_words():
    made, x = layer(30, 3, position=RoPE(), mask=Causal(), sinks=True), tokens(B, 17, 30)
    made.sinks.data += 0.5
    seen = torch.ones(17, 17).tril().bool()
    seen &= (torch.arange(17)[:, None] - torch.arange(17) < 5) | (torch.arange(17) < 2)
    with torch.no_grad():
        whole = made(x, mask=seen)
        for cuts in ([1] * 17, [9, 1, 7], [3, 3, 11]):
            cache = Rolling(5, first=2)
            steps = [made(part, cache=cache) for part in x.split(cuts, 1)]
            torch.testing.assert_close(torch.cat(steps, 1), whole)


def test_a_mask_of_the_call_is_over_all_keys_of_the_cache():
    made, x = layer(30, 3, mask=Causal()), tokens(B, NK, 30)
    padded = ~Lengths([2, 0])
    cache = Dynamic()
    with torch.no_grad():
        whole = made(x, mask=padded)
        first = made(x[:, :5], cache=cache, mask=padded)
        torch.testing.assert_close(first, whole[:, :5])
        torch.testing.assert_close(made(x[:, 5:], cache=cache, mask=padded), whole[:, 5:])


# Ranks that share the tokens: `mesh`


@pytest.fixture
def one_rank():
    """A mesh needs ranks: here one."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("kind", "rest"),
    [
        (MultiheadAttention, {"position": RoPE()}),
        (LatentAttention, {"rank": 5, "d_rope": 2}),
        (DifferentialAttention, {"start": 0.2}),
    ],
)
def test_a_mesh_is_an_argument_or_set_later(one_rank, kind, rest):
    ranks = Ring(layout="zigzag")
    given = kind(24, 3, mask=Causal(), mesh=ranks, **rest)
    later = kind(24, 3, mask=Causal(), **rest)
    assert later.mesh is None
    later.load_state_dict(given.state_dict())
    x = tokens(B, 8, 24, dtype=torch.float32)
    alone = later(x)
    later.mesh = ranks
    assert torch.equal(given(x), later(x))
    assert torch.allclose(given(x), alone, atol=1e-6)
    assert "mesh=Ring(mesh=None, layout='zigzag')" in given.extra_repr()


def test_a_mesh_is_kept_by_copies_and_not_by_forms(one_rank):
    made = layer(mesh=Ring(dist.group.WORLD))
    copied = copy.deepcopy(made)
    assert copied.mesh is made.mesh  # processes have no copy
    assert torch.equal(copied(tokens(B, NQ, D_MODEL)), made(tokens(B, NQ, D_MODEL)))
    assert "mesh" not in made.to_dict()
    assert MultiheadAttention.from_dict(made.to_dict()).mesh is None
    assert pickle.loads(pickle.dumps(layer(mesh=AllToAll()))).mesh == AllToAll()


def test_a_mesh_that_is_none():
    with pytest.raises(KindError, match="`mesh` is a Ranks or None, not str 'ring'"):
        layer(mesh="ring")
