"""nn.MultiheadAttention as ours and back, alone and inside models."""

import copy
import io
import pickle

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.utils import parametrizations, prune

from wqkv import (
    ALiBi,
    Causal,
    MultiheadAttention,
    Ring,
    RoPE,
    Window,
    convert,
    from_torch,
    to_torch,
)
from wqkv.attend.engines import reference
from wqkv.errors import ArgumentError, EngineError, KindError
from wqkv.layer.convert.torch import StandIn, conversion
from wqkv.layer.differential import DifferentialAttention
from wqkv.layer.norms import Norm, QKNorm

B, NQ, NK = 2, 5, 7
D_MODEL, N_HEAD, D_K, KDIM, VDIM = 33, 3, 11, 17, 19


def tokens(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def theirs(**rest) -> nn.MultiheadAttention:
    """torch's layer with no parameter 0."""
    torch.manual_seed(1)
    usual = {"dtype": torch.float64, "batch_first": True}
    made = nn.MultiheadAttention(D_MODEL, N_HEAD, **(usual | rest))
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made


def same(a: nn.Module, b: nn.Module) -> None:
    """Equal parameters: names, numbers, dtypes, who learns; and equal options."""
    mine, others = dict(a.named_parameters()), dict(b.named_parameters())
    assert type(a) is type(b) and mine.keys() == others.keys()
    for name, x in mine.items():
        y = others[name]
        assert torch.equal(x, y) and x.data_ptr() != y.data_ptr(), name
        assert (x.dtype, x.device, x.requires_grad) == (y.dtype, y.device, y.requires_grad), name
        assert x.is_leaf and x.is_contiguous()
    assert (a.training, a.dropout) == (b.training, b.dropout)
    assert repr(a) == repr(b)


def close(a: object, b: object) -> None:
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


# One layer

SIZES = {
    "packed": {},
    "kdim": {"kdim": KDIM},
    "vdim": {"vdim": VDIM},
    "both": {"kdim": KDIM, "vdim": VDIM},
}


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("learned", [True, False])
def test_there_and_back(sizes: str, bias: bool, zero: bool, learned: bool):
    rest = {"add_zero_attn": zero, "add_bias_kv": learned}
    made = theirs(bias=bias, dropout=0.25, **rest, **SIZES[sizes]).eval()
    ours = from_torch(made)
    assert type(ours) is MultiheadAttention and not ours.training and ours.dropout == 0.25
    names = {f"{name}.{part}" for name in ("WQ", "WK", "WV", "WO") for part in ("weight", "bias")}
    names = names if bias else {name for name in names if "weight" in name}
    names |= {"persistent_k", "persistent_v"} if learned else set()
    assert {name for name, x in ours.named_parameters() if x.requires_grad} == names
    back = to_torch(ours)
    same(back, made)
    assert back.batch_first and back.add_zero_attn == zero
    assert (back.kdim, back.vdim) == (made.kdim, made.vdim)
    same(from_torch(back), ours)
    Q = tokens(B, NQ, D_MODEL)
    K, V = tokens(B, NK, made.kdim, seed=1), tokens(B, NK, made.vdim, seed=2)
    expected, weights = made(Q, K, V, average_attn_weights=False)
    close(ours(Q, K, V), expected)
    close(ours.trace(Q, K, V).weights, weights[..., : NK + learned])
    close(ours.map(Q, K, V)[:], weights[..., :NK])
    assert torch.equal(back(Q, K, V)[0], made(Q, K, V)[0])


def test_a_layer_of_ours_there_and_back():
    ours = MultiheadAttention(D_MODEL, N_HEAD, kdim=KDIM, bias=False, scale=D_K**-0.5)
    made = to_torch(ours)
    Q, K = tokens(B, NQ, D_MODEL).float(), tokens(B, NK, KDIM).float()
    V = tokens(B, NK, D_MODEL).float()
    torch.testing.assert_close(made(Q, K, V)[0], ours(Q, K, V))
    assert made.batch_first and made.in_proj_bias is None
    back = from_torch(made)
    assert back.scale is None  # which is the same
    assert all(map(torch.equal, back.parameters(), ours.parameters()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtype_and_device_stay(dtype: torch.dtype):
    made = theirs(dtype=dtype)
    ours = from_torch(made)
    assert {x.dtype for x in ours.parameters()} == {dtype}
    same(to_torch(ours), made)
    far = from_torch(nn.MultiheadAttention(D_MODEL, N_HEAD, device="meta", dtype=dtype))
    assert {(x.device.type, x.dtype) for x in to_torch(far).parameters()} == {("meta", dtype)}


@pytest.mark.parametrize("frozen", ["in_proj_weight", "in_proj_bias", "out_proj.weight"])
def test_what_learns_stays(frozen: str):
    made = theirs()
    made.get_parameter(frozen).requires_grad_(False)
    ours = from_torch(made)
    assert sum(not x.requires_grad for x in ours.parameters()) == (1 if "out" in frozen else 3)
    same(to_torch(ours), made)


def test_making_one_draws_no_random_numbers():
    made, state = theirs(), torch.get_rng_state()
    to_torch(from_torch(made))
    convert(copy.deepcopy(made))
    assert torch.equal(torch.get_rng_state(), state)


class Other(nn.MultiheadAttention):
    pass


@pytest.mark.parametrize("door", [from_torch, convert])
def test_what_ours_cannot_hold(door):
    made = theirs()
    made.register_buffer("seen", torch.zeros(3))
    with pytest.raises(ArgumentError, match=r"(?s)has seen, which our.*It takes in_proj_weight,"):
        door(made)
    with pytest.raises(KindError, match=r"nn.MultiheadAttention itself is asked for, not Other"):
        door(Other(D_MODEL, N_HEAD))
    with pytest.raises(KindError, match="not ParametrizedMultiheadAttention"):
        door(parametrizations.weight_norm(theirs(), "in_proj_weight"))


def ours(n_head: int = N_HEAD, **rest) -> MultiheadAttention:
    return MultiheadAttention(D_MODEL, n_head, **rest)


def with_adapter() -> MultiheadAttention:
    made = ours()
    made.WV = nn.Sequential(made.WV)
    return made


def with_half_of_a_matrix() -> MultiheadAttention:
    made = ours(bias=False)
    made.WQ = nn.Linear(D_MODEL, 22, bias=False)
    return made


def with_learned_sinks(learned: bool) -> MultiheadAttention:
    made = ours(sinks=True)
    made.sinks.requires_grad_(learned)
    made.sinks.data += not learned
    return made


HELD_NOT = [
    (lambda: ours(11, n_kv_head=1), "layer: n_kv_head is 1, not 11.\nIt has d_model"),
    (lambda: ours(d_k=5), "d_k is 5, not 11; d_v is 5, not 11"),
    (lambda: ours(d_v=13), "d_v is 13, not 11"),
    (lambda: ours(6, d_k=5), "d_model 33 is not a multiple of n_head 6"),
    (lambda: ours(WO=False), "WO is a builtins.NoneType, not nn.Linear"),
    (lambda: ours(bias=["WQ"]), "it has WQ.bias"),
    (lambda: ours(bias=["WQ", "WK", "WO"]), "it has no WV.bias"),
    (lambda: ours(mask=Causal()), r"mask is Causal\(\), not Full\(\)"),
    (lambda: ours(position=RoPE(d=4)), r"position is RoPE\(.*, not None"),
    (lambda: ours(position=ALiBi(N_HEAD)), r"position is ALiBi\(.*, not None"),
    (lambda: ours(scale=0.5, mask=Window(3, 0)), r"mask is Window.*; scale is 0.5, not None"),
    (lambda: ours(norm=QKNorm()), r"norm is QKNorm.*, not None; it has k_norm.weight; it has q_"),
    (lambda: ours(softcap=5.0), "softcap is 5.0, not None"),
    (lambda: ours(gate="head"), "gate is 'head', not None; it has WG.bias; it has WG.weight"),
    (lambda: ours(v_norm=Norm()), "layer: it has v_norm.weight.\nIt has d_model"),
    (lambda: ours(v_norm=Norm(weight=False)), "layer: it has v_norm.\nIt has d_model"),
    (lambda: ours(persistent=2), "persistent is 2, not 1"),
    (lambda: ours(mesh=Ring()), r"mesh is Ring\(.*, not None"),
    (with_half_of_a_matrix, r"WQ.weight is \(22, 33\), not \(33, 33\)"),
    (lambda: with_learned_sinks(True), "it has sinks"),
    (lambda: with_learned_sinks(False), "it has sinks"),
    (with_adapter, r"WV is a torch\.nn\.modules\.container\.Sequential, not nn\.Linear"),
    (lambda: DifferentialAttention(40, 2, start=0.8), "it is a DifferentialAttention"),
]


@pytest.mark.parametrize(("make", "says"), HELD_NOT)
def test_what_torchs_layer_cannot_hold(make, says: str):
    with pytest.raises(ArgumentError, match=f"(?s)nn.MultiheadAttention cannot hold .*{says}"):
        to_torch(make())


def test_packed_matrices_are_of_one_kind():
    made = ours()
    made.WK.weight.requires_grad_(False)
    says = r"(?s)`in_proj_weight` is one.*WQ.weight, learned: f32\[33, 33\].*WK.weight, frozen: "
    with pytest.raises(ArgumentError, match=says):
        to_torch(made)
    made.WK.requires_grad_(True).double()
    with pytest.raises(ArgumentError, match=r"(?s)WQ.weight, learned: f32.*WK.weight, learned: f6"):
        to_torch(made)
    made = ours(kdim=KDIM, bias=False)
    made.WK.requires_grad_(False)
    assert not to_torch(made).k_proj_weight.requires_grad


# Inside a model


class Block(nn.Module):
    """Two users of one attention, one of another, and a layer of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.first = theirs()
        self.both = nn.ModuleDict({"again": self.first, "cross": theirs(kdim=KDIM, vdim=VDIM)})
        self.ours = MultiheadAttention(D_MODEL, N_HEAD, dtype=torch.float64)

    def forward(self, x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        x = x + self.first(x, x, x)[0]
        x = x + self.both["again"](x, x, x, need_weights=False)[0]
        return self.ours(x + self.both["cross"](x, y, z)[0])


BLOCK_INPUTS = tokens(B, NQ, D_MODEL), tokens(B, NK, KDIM, seed=1), tokens(B, NK, VDIM, seed=2)


def test_every_one_is_replaced_and_shared_ones_stay_shared():
    block = Block()
    expected, untouched = block(*BLOCK_INPUTS), block.ours
    assert convert(block) is block
    assert type(block.first) is type(block.both["cross"]) is StandIn
    assert block.both["again"] is block.first and block.ours is untouched
    close(block(*BLOCK_INPUTS), expected)
    stand_ins = [block.first, block.both["cross"]]
    assert convert(block) is block and [block.first, block.both["cross"]] == stand_ins
    assert to_torch(block) is block and block.both["again"] is block.first
    assert block.ours is untouched
    same(block.first, theirs())
    assert torch.equal(block(*BLOCK_INPUTS), expected)


def test_a_module_by_itself():
    made = theirs(batch_first=False)
    converted = convert(made)
    assert isinstance(converted, StandIn) and isinstance(converted, MultiheadAttention)
    back = to_torch(converted)
    same(back, made)
    assert not back.batch_first


class HandWritten(nn.Module):
    """Attention of somebody else, as in timm."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(D_MODEL, 3 * D_MODEL)


def test_the_account_names_what_was_replaced_and_what_was_left():
    block = Block()
    block.attn = nn.ModuleList(HandWritten() for _ in range(5))
    before = conversion(block)
    assert before.replaced == ()
    with pytest.warns(UserWarning) as warned:
        assert convert(block) is block
    account = conversion(block)
    assert account.replaced == ("first", "both.cross")  # a module in two places counts once
    kind = f"{__name__}.HandWritten"
    assert account.left == {kind: tuple(f"attn.{n}" for n in range(5))}
    assert set(before.left) == {kind, "torch.nn.modules.activation.MultiheadAttention"}
    assert str(warned[0].message) == (
        f"Block: 2 attention modules replaced, 5 left\n"
        f"  left, because it is a {kind}: attn.0, attn.1, ..., attn.4\n"
        "wqkv.watch looks at attention as it is; wqkv.use is for Hugging Face models."
    )
    assert warned[0].filename == __file__
    assert repr(conversion(to_torch(block))).startswith("Block: 0 attention modules replaced, 7 l")


def test_nothing_to_replace_is_said():
    with pytest.warns(UserWarning, match="Linear: 0 attention modules replaced, 0 left"):
        convert(nn.Linear(3, 5))
    assert conversion(convert(theirs())).replaced == ("StandIn",)


def replaced(module: nn.Module) -> None:
    module.forward = type(module).forward


def put(module: nn.Module, name: str, tensor: torch.Tensor) -> None:
    setattr(module, name, nn.Parameter(tensor, requires_grad=False))


class Quantized(torch.Tensor):
    """Stands for a tensor that computes by its own rules."""


LOST = {
    "a hook": (lambda m: m.register_forward_pre_hook(lambda *_: None), "it has _forward_pre_hooks"),
    "a hook on the way back": (
        lambda m: m.register_full_backward_hook(lambda *_: None),
        "it has _backward_hooks",
    ),
    "a hook inside": (
        lambda m: m.out_proj.register_forward_hook(lambda *_: None),
        "out_proj has _forward_hooks",
    ),
    "a hook of a parameter": (
        lambda m: m.q_proj_weight.register_hook(lambda grad: grad * 0),
        "it has hooks of q_proj_weight",
    ),
    "a hook after a gradient": (
        lambda m: m.out_proj.bias.register_post_accumulate_grad_hook(lambda _: None),
        "out_proj has hooks of bias",
    ),
    "another forward": (replaced, "it has a replaced forward"),
    "another forward inside": (lambda m: replaced(m.out_proj), "out_proj has a replaced forward"),
    "another kind of tensor": (
        lambda m: put(m, "k_proj_weight", torch.ones(D_MODEL, KDIM).as_subclass(Quantized)),
        "it has a k_proj_weight of class Quantized",
    ),
    "a parametrization inside": (
        lambda m: parametrizations.weight_norm(m.out_proj),
        "out_proj has .*parametrizations, which",
    ),
    "pruned": (
        lambda m: prune.random_unstructured(m, "in_proj_bias", 0.5),
        "it has _forward_pre_hooks",
    ),
}


@pytest.mark.parametrize("what", LOST)
def test_all_are_replaced_or_none(what: str):
    block, (change, says) = Block(), LOST[what]
    change(block.both["cross"])
    with pytest.raises(ArgumentError, match=rf"(?s)both\.cross: {says}"):
        convert(block)
    assert not any(isinstance(module, StandIn) for module in block.modules())
    with pytest.raises(ArgumentError, match=f"(?s)^{says}"):
        from_torch(block.both["cross"])


def test_hooks_of_all_modules_of_the_process_stay():
    hook = register_module_forward_pre_hook(lambda *_: None)
    try:
        assert isinstance(convert(theirs()), StandIn)
    finally:
        hook.remove()


def test_parameters_that_two_modules_share():
    block = nn.ModuleList([theirs(), theirs(), nn.Linear(D_MODEL, D_MODEL)])
    block[1].in_proj_weight = block[0].in_proj_weight
    says = (
        r"(?s)0: one parameter is 0\.in_proj_weight and 1\.in_proj_weight, and would.*tie the new"
    )
    with pytest.raises(ArgumentError, match=says):
        convert(block)
    block[1] = theirs()
    block[2].weight = block[1].out_proj.weight
    with pytest.raises(ArgumentError, match=r"1: one parameter is 1\.out_proj\.weight and 2\.wei"):
        convert(block)
    assert not any(isinstance(module, StandIn) for module in block.modules())
    block[2] = block[1]  # one module in two places stays one
    assert convert(block)[2] is block[1]
    block[0].WQ.weight = block[1].WK.weight
    with pytest.raises(ArgumentError, match=r"0: one parameter is 0\.WQ\.weight and 1\.WK\.weight"):
        to_torch(block)
    alone = theirs(kdim=D_MODEL, vdim=KDIM)
    alone.q_proj_weight = alone.k_proj_weight
    with pytest.raises(ArgumentError, match="q_proj_weight and k_proj_weight, and would"):
        convert(alone)


@pytest.fixture
def one_rank():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_model_that_is_wrapped_already(one_rank):
    says = r"(?s)The model is DistributedDataParallel, .*Pass the model before it is wrapped"
    with pytest.raises(ArgumentError, match=says):
        convert(nn.parallel.DistributedDataParallel(theirs()))
    other = nn.parallel.DistributedDataParallel(nn.Linear(3, 5))
    with pytest.warns(UserWarning, match="DistributedDataParallel: 0 attention modules replaced"):
        assert convert(other) is other


def test_going_back_too_is_all_or_none():
    block = convert(Block())
    block.both["cross"].mask = Causal()
    with pytest.raises(ArgumentError, match=r"both\.cross: nn.Mul.* cannot hold .* mask is Causal"):
        to_torch(block)
    assert isinstance(block.first, StandIn)
    block.both["cross"].mask = MultiheadAttention(4, 2).mask
    block.first.WQ.register_forward_hook(lambda *_: None)
    with pytest.raises(ArgumentError, match="first: WQ has _forward_hooks"):
        to_torch(block)
    with pytest.raises(ArgumentError, match=r"(?s)^WQ has _forward_hooks, which would be los"):
        to_torch(block.first)


def test_a_step_of_training_is_torchs():
    torchs, mine = Block(), convert(Block())
    mine.ours.load_state_dict(torchs.ours.state_dict())
    for block in (torchs, mine):
        block(*BLOCK_INPUTS).square().mean().backward()
        torch.optim.SGD(block.parameters(), lr=0.1).step()
    trained = to_torch(mine)
    for x, y in zip(trained.parameters(), torchs.parameters(), strict=True):
        close(x, y)


@pytest.mark.parametrize("nested", [True, False])
def test_an_encoder_goes_back_to_nested_tensors(nested: bool):
    layer = nn.TransformerEncoderLayer(12, 2, 5, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=nested)
    before = {*vars(encoder)}
    assert not convert(encoder).use_nested_tensor
    back = to_torch(pickle.loads(pickle.dumps(convert(encoder))))
    assert back.use_nested_tensor == nested and {*vars(back)} == before


def test_an_encoder_made_of_a_converted_layer():
    layer = convert(nn.TransformerEncoderLayer(12, 2, 5, 0.0, batch_first=True).double())
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    x = tokens(B, NQ, 12)
    close(encoder(x), layer(layer(x)))
    close(to_torch(copy.deepcopy(encoder))(x), encoder(x))


# States


def states() -> dict[str, tuple[nn.Module, nn.Module]]:
    """Models with the same numbers: torch's, and converted."""
    return {
        "packed": (theirs(), convert(theirs())),
        "separate": (theirs(kdim=KDIM), convert(theirs(kdim=KDIM))),
        "no bias": (theirs(bias=False), convert(theirs(bias=False))),
        "zero key": (theirs(add_zero_attn=True), convert(theirs(add_zero_attn=True))),
        "learned key": (theirs(add_bias_kv=True), convert(theirs(add_bias_kv=True))),
        "block": (Block(), convert(Block())),
    }


def blank(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("name", states())
def test_states_load_both_ways(name: str, assign: bool):
    torchs, ours = states()[name]
    if name == "block":
        ours.ours.load_state_dict(torchs.ours.state_dict())
    for state in (torchs.state_dict(), ours.state_dict()):
        torch.save(state, file := io.BytesIO())
        file.seek(0)
        loaded, kept = torch.load(file, weights_only=True), [*state]
        other = blank(ours)
        learned = [x.requires_grad for x in other.parameters()]
        assert other.load_state_dict(loaded, assign=assign) == ([], [])
        assert [*loaded] == kept  # the caller's is as it was
        assert [x.requires_grad for x in other.parameters()] == learned
        for x, y in zip(other.parameters(), ours.parameters(), strict=True):
            assert torch.equal(x, y)
    back = to_torch(copy.deepcopy(ours))
    other = blank(torchs)
    assert other.load_state_dict(back.state_dict(), assign=assign) == ([], [])
    for x, y in zip(other.parameters(), torchs.parameters(), strict=True):
        assert torch.equal(x, y)


def test_states_that_do_not_fit_are_named():
    state, made = Block().state_dict(), convert(Block())
    del state["both.cross.k_proj_weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*: \"both\.cross\.WK\.weight\"\. "):
        made.load_state_dict(state)
    state = theirs().state_dict()
    state["in_proj_weight"] = state["in_proj_weight"][:-3]
    with pytest.raises(RuntimeError, match=r"size mismatch for WQ\.weight.*\[32, 33\]"):
        convert(theirs()).load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*WQ\.bias"):
        convert(theirs(bias=False)).load_state_dict(theirs().state_dict())
    with pytest.raises(RuntimeError, match=r"Unexpected key.*persistent_k"):
        convert(theirs()).load_state_dict(theirs(add_bias_kv=True).state_dict())


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "file"])
def test_copies_of_a_converted_model(way: str):
    made = convert(Block())
    if way == "deepcopy":
        other = copy.deepcopy(made)
    elif way == "pickle":
        other = pickle.loads(pickle.dumps(made))
    else:
        torch.save(made, file := io.BytesIO())
        file.seek(0)
        other = torch.load(file, weights_only=False)
    assert torch.equal(other(*BLOCK_INPUTS), made(*BLOCK_INPUTS))
    assert other.both["again"] is other.first and other.first.batch_first


# The call

BOOLS = torch.tensor([[False, True, False, False, True, False, False]] * 4 + [[True] + [False] * 6])
PADDED = torch.tensor([[False] * 7, [False] * 3 + [True] * 4])
PER_HEAD = torch.rand(B * N_HEAD, NQ, NK, generator=torch.Generator().manual_seed(5)) < 0.4
PER_HEAD[..., 2] = False  # so that every query sees something
FLOATS = tokens(NQ, NK, seed=6)
MASKS = {
    "none": {},
    "bool": {"attn_mask": BOOLS},
    "float": {"attn_mask": FLOATS},
    "float with -inf": {"attn_mask": FLOATS.masked_fill(BOOLS, -torch.inf)},
    "bool a head": {"attn_mask": PER_HEAD},
    "float a head": {"attn_mask": tokens(B * N_HEAD, NQ, NK, seed=7)},
    "padding": {"key_padding_mask": PADDED},
    "float padding": {"key_padding_mask": tokens(B, NK, seed=8)},
    "bool and padding": {"attn_mask": BOOLS, "key_padding_mask": PADDED},
    "both floats": {"attn_mask": FLOATS, "key_padding_mask": tokens(B, NK, seed=8)},
    "bool a head and padding": {"attn_mask": PER_HEAD, "key_padding_mask": PADDED},
}


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("name", MASKS)
def test_masks_mean_what_they_did(name: str, batch_first: bool, need_weights: bool):
    made = theirs(batch_first=batch_first)
    given = [tokens(B, NQ, D_MODEL), tokens(B, NK, D_MODEL, seed=1), tokens(B, NK, D_MODEL, seed=2)]
    given = [x if batch_first else x.transpose(0, 1) for x in given]
    rest = MASKS[name] | {"need_weights": need_weights, "average_attn_weights": False}
    close(convert(made)(*given, **rest), made(*given, **rest))


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("name", ["none", "bool", "padding", "float padding", "bool a head"])
def test_words_without_a_batch(name: str, average: bool):
    made, masks = theirs(batch_first=False), dict(MASKS[name])
    if "key_padding_mask" in masks:
        masks["key_padding_mask"] = masks["key_padding_mask"][1]
    if name == "bool a head":
        masks["attn_mask"] = PER_HEAD[:N_HEAD]
    given = tokens(NQ, D_MODEL), tokens(NK, D_MODEL, seed=1), tokens(NK, D_MODEL, seed=2)
    rest = masks | {"average_attn_weights": average}
    close(convert(made)(*given, **rest), made(*given, **rest))


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_the_hint_is_taken_at_its_word(need_weights: bool, padded: bool):
    made, x = theirs(), tokens(B, NK, D_MODEL)
    causal = torch.ones(NK, NK, dtype=torch.bool).triu(1)
    rest = {"need_weights": need_weights, "key_padding_mask": PADDED if padded else None}
    expected = made(x, x, x, attn_mask=causal, is_causal=True, **rest)
    ours = convert(made)
    close(ours(x, x, x, attn_mask=causal, is_causal=True, **rest), expected)
    close(ours(x, x, x, is_causal=True, **rest), expected)
    close(ours(x, x, x, attn_mask=causal, **rest), expected)


def test_asking_for_weights_changes_nothing():
    made, x = convert(theirs(dropout=0.4)).train(), tokens(B, NQ, D_MODEL)
    found = []
    for need_weights in (True, False):
        torch.manual_seed(3)
        found.append(made(x, x, x, need_weights=need_weights))
    assert torch.equal(found[0][0], found[1][0]) and found[1][1] is None
    assert not torch.equal(found[0][0], made.eval()(x, x, x)[0])
    close(found[0][1], made(x, x, x)[1])  # those before dropout
    close(found[0][1].sum(dim=-1), torch.ones(B, NQ, dtype=torch.float64))


def test_a_gradient_reaches_a_float_mask_and_the_weights():
    made, x = theirs(), tokens(B, NK, D_MODEL)
    bias = tokens(NK, NK, seed=4).requires_grad_()
    results = []
    for module in (made, convert(made)):
        output, weights = module(x, x, x, attn_mask=bias)
        loss = (output * tokens(*output.shape, seed=5)).sum() + (weights**3).sum()
        results.append(torch.autograd.grad(loss, bias))
    close(results[1], results[0])


@pytest.mark.parametrize("kind", [bool, float])
def test_a_row_that_sees_nothing_is_zero(kind: type):
    made, x = convert(theirs()), tokens(B, NQ, D_MODEL).requires_grad_()
    hidden = torch.zeros(NQ, NQ, dtype=torch.bool)
    hidden[3] = True
    mask = hidden if kind is bool else torch.zeros(NQ, NQ).double().masked_fill(hidden, -torch.inf)
    output, weights = made(x, x, x, attn_mask=mask)
    assert not weights[:, 3].any() and (output[:, 3] == made.WO.bias).all()
    output.sum().backward()
    assert x.grad.isfinite().all()
    assert theirs()(x, x, x, attn_mask=mask)[0][:, 3].isnan().all()


def test_half_precision_and_autocast():
    made, x = theirs(dtype=torch.bfloat16), tokens(B, NQ, D_MODEL, dtype=torch.bfloat16)
    output, weights = convert(made)(x, x, x)
    assert output.dtype == weights.dtype == torch.bfloat16
    torch.testing.assert_close((output, weights), made(x, x, x), rtol=0.05, atol=0.02)
    made, x = theirs(dtype=torch.float32), tokens(B, NQ, D_MODEL, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert convert(made)(x, x, x)[0].dtype == torch.bfloat16


CALLED_WRONG = [
    (
        {"attn_mask": BOOLS[:, :6]},
        ArgumentError,
        r"`attn_mask` has .*\(5, 6\); .* it is \(5, 7",
    ),
    ({"attn_mask": BOOLS[:1]}, ArgumentError, r"`attn_mask` has shape \(1, 7\)"),
    ({"attn_mask": PER_HEAD[:3]}, ArgumentError, r"\(3, 5, 7\); for this call it is \(6, 5, 7\)"),
    ({"attn_mask": BOOLS[None, None]}, ArgumentError, r"\(1, 1, 5, 7\); .* \(6, 5, 7\)"),
    ({"key_padding_mask": PADDED[:1]}, ArgumentError, r"`key_p.*\(1, 7\); .* \(2, 7\).*bool\[1, 7"),
    ({"attn_mask": BOOLS.long()}, KindError, r"`attn_mask` holds torch.int64.*True = hidden"),
    ({"key_padding_mask": PADDED.int()}, KindError, "`key_padding_mask` holds torch.int32"),
    ({"attn_mask": Causal()}, KindError, r"`attn_mask` is a tensor, not Causal Causal\(\)"),
    ({"key_padding_mask": [True]}, KindError, r"`key_padding_mask` is a tensor, not list \[True\]"),
]


@pytest.mark.parametrize(("rest", "error", "says"), CALLED_WRONG)
def test_called_wrong(rest: dict, error: type, says: str):
    made = convert(theirs())
    with pytest.raises(error, match=f"(?s){says}"):
        made(tokens(B, NQ, D_MODEL), *[tokens(B, NK, D_MODEL)] * 2, **rest)


@pytest.mark.parametrize("convert_or_back", [convert, to_torch])
def test_a_model_is_asked_for(convert_or_back):
    with pytest.raises(KindError, match=r"is an nn.Module, not NoneType None"):
        convert_or_back(None)


RAGGED = torch.nested.nested_tensor(
    [torch.ones(3, D_MODEL), torch.ones(2, D_MODEL)], layout=torch.jagged
)


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ((RAGGED,) * 3, KindError, "`query` is a nested tensor.*`query.to_padded_tensor"),
        ((torch.ones(2, 3, D_MODEL), None, None), KindError, "`key` is a tensor, not NoneType"),
        ((torch.ones(D_MODEL),) * 3, ArgumentError, r"`query` has 1 axes, not 2 or 3.*f32\[33\]"),
    ],
)
def test_words_that_are_none(given: tuple, error: type, says: str):
    with pytest.raises(error, match=f"(?s){says}"):
        convert(theirs())(*given)


def test_all_weights_have_a_limit(monkeypatch: pytest.MonkeyPatch):
    made, x = convert(theirs()), tokens(B, NQ, D_MODEL)
    monkeypatch.setattr(reference, "LIMIT_GIB", 1e-7)
    says = r"All weights are asked for: its 5 x 5 scores would take .* GiB.*\nPass need_weights=F"
    with pytest.raises(EngineError, match=says):
        made(x, x, x)
    assert made(x, x, x, need_weights=False)[0].shape == x.shape


@pytest.mark.compile
@pytest.mark.parametrize("masked", [True, False])
def test_a_converted_model_compiles_whole(masked: bool):
    torch._dynamo.reset()
    made = convert(nn.TransformerEncoderLayer(12, 2, 5, 0.0, batch_first=True))
    compiled = torch.compile(made, fullgraph=True, dynamic=True, backend="eager")
    for length in (7, 5):
        x, hidden = tokens(B, length, 12).float(), torch.zeros(B, length, dtype=torch.bool)
        hidden[1, 3:] = True
        rest = {"src_key_padding_mask": hidden} if masked else {}
        torch.testing.assert_close(compiled(x, **rest), made(x, **rest))
