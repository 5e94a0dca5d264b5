"""What every kind of cache does: steps, rewinding, samples, files, mistakes."""

import copy
import functools
import itertools

import pytest
import torch
import torch.distributed as dist

from wqkv import (
    Causal,
    Cross,
    Dynamic,
    KeyPiece,
    KVCache,
    Lengths,
    Paged,
    Pool,
    Quantized,
    Rolling,
    Spread,
    Static,
    Window,
    attention,
    merge,
)
from wqkv.errors import ArgumentError, KindError

B, HEADS, KV_HEADS, N, D_K, D_V = 2, 6, 3, 23, 5, 7
WINDOW, FIRST = 5, 3

KINDS = {
    "Dynamic": Dynamic,
    "Static": functools.partial(Static, 29),
    "Rolling": functools.partial(Rolling, WINDOW),
    "Rolling with first": functools.partial(Rolling, WINDOW, FIRST),
    "8 bits": Quantized,
    "4 bits": functools.partial(Quantized, 4, 1),
    "Paged": lambda: Paged(Pool(43, 3)),
    "Spread": functools.partial(Spread, block=4),
}
IN_PLACE = [name for name in KINDS if name != "Dynamic"]
every_kind = pytest.mark.parametrize("kind", KINDS)
CUTS = [(23,), (1,) * 23, (7, 1, 1, 11, 3), (2, 5, 9, 1, 6)]


def qkv(n: int = N, batch: int = B, dtype: torch.dtype = torch.float64, seed: int = 0):
    random = torch.Generator().manual_seed(seed)
    shapes = (batch, HEADS, n, D_K), (batch, KV_HEADS, n, D_K), (batch, KV_HEADS, n, D_V)
    return [torch.randn(shape, generator=random, dtype=dtype) for shape in shapes]


def look(q: torch.Tensor, pieces: tuple[KeyPiece, ...], rule, offset) -> torch.Tensor:
    """Attention over the pieces of a cache, as the layer does it; `rule` is made for a length."""
    ends = offset + q.shape[2]
    end = ends if isinstance(ends, int) else int(ends.max())
    parts = [
        attention(
            q, k, v, mask=rule(end).part(start, end) & mask, query_offset=offset - start,
            return_lse=True, engine="reference",
        )
        for k, v, start, mask in pieces
    ]  # fmt: skip
    return merge(*parts).out if len(parts) > 1 else parts[0].out


def in_steps(cache: KVCache, q, k, v, cuts, rule) -> torch.Tensor:
    outs = []
    for some in zip(*(x.split(cuts, dim=2) for x in (q, k, v)), strict=True):
        offset = cache.length
        outs.append(look(some[0], cache.append(*some[1:]), rule, offset))
    return torch.cat(outs, dim=2)


def seen_by(cache: KVCache, rule):
    """What queries see through this kind."""
    if not isinstance(cache, Rolling):
        return rule
    window, first = Window(cache.window - 1, 0), cache.first
    return lambda end: rule(end) & (window | Lengths([min(first, end)]))


def kept(cache: KVCache, k, v):
    """The keys and values as the kind rounds them."""
    if not isinstance(cache, Quantized):
        return k, v
    (piece,) = Quantized(cache.bits, cache.group).append(k, v)
    return piece.k, piece.v


def same(a: KVCache, b: KVCache) -> None:
    """Both keep the same numbers at the same positions."""
    assert torch.equal(torch.as_tensor(a.length), torch.as_tensor(b.length))
    pieces = list(zip(a.held(), b.held(), strict=True))
    for ours, theirs in pieces:
        assert ours.start == theirs.start and repr(ours.mask) == repr(theirs.mask)
        assert torch.equal(ours.k, theirs.k) and torch.equal(ours.v, theirs.v)


def filled(kind: str, n: int = 11, seed: int = 0) -> KVCache:
    """In two steps, of which each can be taken back."""
    cache = KINDS[kind]()
    for k, v in zip(*(x.split((n - 5, 5), dim=2) for x in qkv(n, seed=seed)[1:]), strict=True):
        cache.append(k, v)
    return cache


@pytest.fixture(autouse=True, scope="module")
def one_rank():
    """Spread needs ranks: here one."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(autouse=True, params=[True, False], ids=["grad", "no grad"])
def grad(request):
    """Dynamic writes in place without gradients, and joins with them."""
    with torch.set_grad_enabled(request.param):
        yield


# Steps


@pytest.mark.parametrize("cuts", CUTS)
@every_kind
def test_steps_are_one_pass(kind, cuts):
    q, k, v = qkv()
    cache = KINDS[kind]()
    stepped = in_steps(cache, q, k, v, cuts, lambda end: Causal())
    rule = seen_by(cache, lambda end: Causal())(N)
    whole = attention(q, *kept(cache, k, v), mask=rule)
    torch.testing.assert_close(stepped, whole, rtol=1e-12, atol=1e-13)
    assert cache.length == N


@every_kind
def test_nothing_is_read_that_was_not_written(kind):
    """New memory is full of NaN."""
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(1).isnan()
        q, k, v = qkv()
        cache = KINDS[kind]()
        stepped = in_steps(cache, q, k, v, (2, 5, 9, 1, 6), lambda end: Causal())
    finally:
        torch.use_deterministic_algorithms(False)
    assert stepped.isfinite().all()


@every_kind
def test_an_append_copies_what_came(kind):
    _, k, v = qkv(11)
    cache = KINDS[kind]()
    cache.append(k, v)
    before = copy.deepcopy(cache)
    k.zero_(), v.zero_()
    same(cache, before)


@every_kind
def test_half_precision_is_kept(kind):
    cache = KINDS[kind]()
    pieces = cache.append(*qkv(dtype=torch.bfloat16)[1:])
    assert {x.dtype for piece in pieces for x in piece[:2]} == {torch.bfloat16}


@every_kind
def test_empty(kind):
    cache = KINDS[kind]()
    assert (cache.length, cache.held(), cache.split(), cache.filled) == (0, (), [], False)
    cache.rewind(0)
    assert cache.length == 0


@pytest.mark.parametrize("kind", IN_PLACE)
def test_gradients_are_refused(kind):
    _, k, v = qkv(11)
    cache = KINDS[kind]()
    with (
        torch.enable_grad(),
        pytest.raises(
            ArgumentError,
            match=rf"(?s)^{type(cache).__name__} writes .*k: f64\[2, 3, 11, 5\].*no_grad",
        ),
    ):
        cache.append(k.requires_grad_(), v)
    assert cache.length == 0
    with torch.no_grad():
        assert not cache.append(k, v)[0].k.requires_grad


# Rewinding


@every_kind
def test_the_last_append_can_be_taken_back(kind):
    q, k, v = qkv()
    cache = KINDS[kind]()
    in_steps(cache, q[:, :, :17], k[:, :, :17], v[:, :, :17], (9, 8), lambda end: Causal())
    for wrong in (1, WINDOW):
        cache.append(*(x[:, :, :wrong] + 9 for x in (k, v)))
        cache.rewind(17)
        assert cache.length == 17
    rest = in_steps(cache, *(x[:, :, 17:] for x in (q, k, v)), (2, 4), lambda end: Causal())
    rule = seen_by(cache, lambda end: Causal())(N)
    whole = attention(q, *kept(cache, k, v), mask=rule)
    torch.testing.assert_close(rest, whole[:, :, 17:], rtol=1e-12, atol=1e-13)


@every_kind
def test_rewound_to_the_start(kind):
    cache = filled(kind)
    cache.rewind(0)
    assert (cache.length, cache.held()) == (0, ())
    for some in zip(*(x.split((6, 5), dim=2) for x in qkv(11, seed=5)[1:]), strict=True):
        cache.append(*some)
    same(cache, filled(kind, seed=5))


@every_kind
def test_rewound_too_far(kind):
    cache = filled(kind)
    for length in (12, -1):
        with pytest.raises(
            ArgumentError, match=rf"(?s)back to length {length}: the cache has 11 .*0 to 11"
        ):
            cache.rewind(length)
    assert cache.length == 11


@pytest.mark.parametrize("length", [torch.tensor([3, 4]), 2.0, True])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "Paged"])
def test_one_length_for_all(kind, length):
    with pytest.raises(KindError, match=r"`length` is an int.* not (i64|flo|boo)"):
        filled(kind).rewind(length)


# Samples


@pytest.mark.parametrize("index", [(1, 0), (1,), (0, 0, 1, 1, 0), torch.tensor([1, 1])])
@every_kind
def test_reorder(kind, index):
    q, k, v = qkv()
    cache = filled(kind)
    cache.reorder(index)
    order = [int(b) for b in index]
    rest = [x[order, :, 11:] for x in (q, k, v)]
    _, k0, v0 = qkv(11)
    rule = seen_by(cache, lambda end: Causal())
    stepped = in_steps(cache, *rest, (1, 11), lambda end: Causal())
    k, v = (torch.cat((old[order], new), dim=2) for old, new in ((k0, rest[1]), (v0, rest[2])))
    whole = attention(rest[0], *kept(cache, k, v), mask=rule(N), query_offset=11)
    torch.testing.assert_close(stepped, whole, rtol=1e-12, atol=1e-13)


@every_kind
def test_split_and_merge(kind):
    cache = filled(kind)
    parts = cache.split()
    assert [len(part.held()[0].k) for part in parts] == [1, 1]
    same(type(cache).merge(parts), cache)
    turned = copy.deepcopy(cache)
    turned.reorder([1, 0])
    same(type(cache).merge(parts[::-1]), turned)


@every_kind
def test_parts_are_apart(kind):
    cache = filled(kind)
    before = copy.deepcopy(cache)
    parts = cache.split()
    whole = type(cache).merge(parts)
    for other in (*parts, whole):
        other.rewind(10)
        other.append(*(torch.ones_like(x[: len(other.held()[0].k), :, :1]) for x in qkv()[1:]))
    same(cache, before)
    one = copy.deepcopy(parts[0])
    whole.append(*qkv(1)[1:])
    same(parts[0], one)


@every_kind
def test_deepcopy_is_apart(kind):
    cache = filled(kind)
    other = copy.deepcopy(cache)
    other.append(*qkv(2)[1:])
    assert (cache.length, other.length) == (11, 13)
    same(cache, filled(kind))


# Files


@every_kind
def test_file(kind, tmp_path):
    cache = filled(kind)
    cache.rewind(9)
    cache.save(tmp_path / "cache")
    found = type(cache).load(tmp_path / "cache")
    same(found, cache)
    for one in (found, cache):
        one.append(*qkv(13, seed=3)[1:])
    same(found, cache)


@every_kind
def test_file_of_an_empty_one(kind, tmp_path):
    """Of one that nothing came to, and of one that was rewound to the start."""
    rewound = filled(kind)
    rewound.rewind(0)
    rewound.save(tmp_path / "cache")
    same(type(rewound).load(tmp_path / "cache"), rewound)
    cache = KINDS[kind]()
    cache.save(tmp_path / "cache")
    found = type(cache).load(tmp_path / "cache")
    for some in zip(*(x.split((6, 5), dim=2) for x in qkv(11)[1:]), strict=True):
        found.append(*some)
    same(found, filled(kind))


@every_kind
def test_file_holds_what_is_kept_alone(kind, tmp_path):
    """Not the room behind it, and not what was rewound."""
    sizes = []
    for n in (4, 4000):
        cache = KINDS[kind]() if kind != "Static" else Static(5000)
        cache = Paged(Pool(5000, 3)) if kind == "Paged" else cache
        for k, v in zip(*(x.split((3, n - 3), dim=2) for x in qkv(n)[1:]), strict=True):
            cache.append(k, v)
        if not isinstance(cache, Rolling):
            cache.rewind(4)
        cache.save(tmp_path / "cache")
        sizes.append((tmp_path / "cache").stat().st_size)
    assert sizes[1] < 1.5 * sizes[0]


@every_kind
def test_file_on_another_device(kind, tmp_path):
    cache = filled(kind)
    cache.save(tmp_path / "cache")
    found = type(cache).load(tmp_path / "cache", device="meta")
    assert {piece.k.device.type for piece in found.held()} == {"meta"}


@every_kind
def test_file_of_another_kind(kind, tmp_path):
    cache = filled(kind)
    cache.save(tmp_path / "cache")
    with pytest.raises(
        ArgumentError, match=rf"kind '{type(cache).__name__}', not Cross.\nLoad it with \w+\.load"
    ):
        Cross.load(tmp_path / "cache")


class Harm:
    ran = False

    def __reduce__(self):
        return (setattr, (Harm, "ran", True))


@every_kind
def test_broken_files(kind, tmp_path):
    cache, path = filled(kind), tmp_path / "cache"
    made = type(cache)
    cache.save(path)
    whole, state = path.read_bytes(), torch.load(path)
    for broken in (b"", b"text", whole[: len(whole) // 2], whole[:-100]):
        path.write_bytes(broken)
        with pytest.raises(ArgumentError, match=rf"cache' holds no {made.__name__} cache"):
            made.load(path)
    tensors = {name for name, value in state.items() if isinstance(value, torch.Tensor)}
    wrong = [[1, 2], Harm(), {}, {"kind": made.__name__}]
    wrong += [{key: value for key, value in state.items() if key != name} for name in state]
    wrong += [state | {name: state[name][..., :0, :]} for name in tensors]
    wrong += [state | {name: state[name][0]} for name in tensors]
    wrong += [state | {name: state[name][:1]} for name in tensors]
    wrong += [state | {name: state[name][:, :1]} for name in tensors if name not in ("k", "v")]
    wrong += [state | {name: 3} for name in tensors]
    wrong += [state | {name: "x"} for name in set(state) - {"kind"}]
    for value in wrong:
        torch.save(value, path)
        with pytest.raises(ArgumentError, match=rf"cache' holds no {made.__name__} cache"):
            made.load(path)
    assert not Harm.ran
    with pytest.raises(ArgumentError, match=r"none' holds no .*: FileNotFoundError"):
        made.load(tmp_path / "none")
    with pytest.raises(ArgumentError, match="none/file' cannot be written: RuntimeError"):
        filled(kind).save(tmp_path / "none" / "file")


# Mistakes

K, V = torch.zeros(B, KV_HEADS, 4, D_K), torch.zeros(B, KV_HEADS, 4, D_V)
WRONG_FIRST = [
    ([1.0], V, KindError, r"`k` is a tensor, not list \[1.0\]"),
    (K, None, KindError, "`v` is a tensor, not NoneType None"),
    (K[0], V, ArgumentError, r"`k` has 3 axes, not 4.*f32\[3, 4, 5\].*\(batch, head, length, d\)"),
    (K, V[None], ArgumentError, "`v` has 5 axes, not 4"),
    (K, V[:, :, :3], ArgumentError, "`k` has 2 samples and 4 positions, `v` 2 and 3"),
    (K[:1], V, ArgumentError, "`k` has 1 samples and 4 positions, `v` 2 and 4"),
    (K[:, :, :0], V[:, :, :0], ArgumentError, r"nothing to keep.*f32\[2, 3, 0, 5\]"),
]
WRONG_NEXT = [
    (K[:1], V[:1], ArgumentError, r"`k` has 1 samples; the cache keeps 2.*k: +f32\[1, 3, 4, 5\]"),
    (K[:, :2], V, ArgumentError, "`k` has 2 heads; the cache keeps 3"),
    (K, V[:, :2], ArgumentError, "`v` has 2 heads; the cache keeps 3"),
    (K[..., 1:], V, ArgumentError, "`k` has 4 numbers per head; the cache keeps 5"),
    (K, K, ArgumentError, "`v` has 5 numbers per head; the cache keeps 7"),
    (K.half(), V, KindError, r"`k` changed its dtype.*f16\[2, 3, 4, 5\].*kept: +f32"),
    (K, V.double(), KindError, r"`v` changed its dtype.*f64\[2, 3, 4, 7\]"),
    (K.to("meta"), V, ArgumentError, r"`k` is on another device.*on meta.*kept: .*on cpu"),
]


@pytest.mark.parametrize(("k", "v", "error", "says"), WRONG_FIRST)
@every_kind
def test_appended_wrong(kind, k, v, error, says):
    cache = KINDS[kind]()
    with pytest.raises(error, match=f"(?s){says}"):
        cache.append(k, v)
    assert (cache.length, cache.held()) == (0, ())


@pytest.mark.parametrize(("k", "v", "error", "says"), WRONG_NEXT)
@every_kind
def test_appended_unlike_the_first(kind, k, v, error, says):
    """The cache stays as it was, and goes on."""
    cache, other = KINDS[kind](), KINDS[kind]()
    for one in (cache, other):
        one.append(K, V)
    with pytest.raises(error, match=f"(?s){says}"):
        cache.append(k, v)
    same(cache, other)
    for one in (cache, other):
        one.append(K + 1, V + 2)
    same(cache, other)


@pytest.mark.parametrize(
    ("index", "error", "says"),
    [
        ([0, 2], ArgumentError, "no sample 2: the cache has 2"),
        ([-1], ArgumentError, "no sample -1: the cache has 2"),
        ([], KindError, r"`index` holds .*index: f32\[0\].*0 to 1"),
        (1, KindError, r"not int 1\.\nPass \[1\] to"),
        ([0.0, 1.0], KindError, r"`index` is a list of ints or a tensor, not list \[0.0, 1.0\]"),
        ([True, False], KindError, r"not list \[True, False\]"),
        (torch.tensor(1), KindError, r"index: i64\[\]"),
        (torch.tensor([0.0, 1.0]), KindError, r"index: f32\[2\]"),
        (torch.tensor([True, False]), KindError, r"index: bool\[2\]"),
        (torch.ones(2, device="meta").long(), ArgumentError, "`index` is on meta, and its num"),
    ],
)
@every_kind
def test_reordered_wrong(kind, index, error, says):
    with pytest.raises(error, match=f"(?s){says}"):
        filled(kind).reorder(index)


@every_kind
def test_merged_wrong(kind):
    cache = filled(kind)
    made = type(cache)
    with pytest.raises(ArgumentError, match=rf"{made.__name__}\.merge got no caches"):
        made.merge([])
    with pytest.raises(KindError, match=rf"{made.__name__}\.merge takes its own kind, not Cross"):
        made.merge([cache, Cross()])
    if made is Paged:
        return
    with pytest.raises(ArgumentError, match=r"(?s)do not merge.*length=11.*length=10.*one length"):
        made.merge([cache, filled(kind, n=10)])
    narrow = KINDS[kind]()
    narrow.append(*(x[:, :2] for x in qkv(11)[1:]))
    with pytest.raises(ArgumentError, match=r"(?s)do not merge.*\[2, 3, \d+, \d\].*\[2, 2, \d+, "):
        made.merge([cache, narrow])


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: Static(0), ArgumentError, "`capacity` is 0.\nPass 1 or more"),
        (lambda: Static(2.0), KindError, "`capacity` is an int, not float 2.0"),
        (lambda: Rolling(0), ArgumentError, "`window` is 0"),
        (lambda: Rolling(3, -1), ArgumentError, "`first` is -1.\nPass 0 or more"),
        (lambda: Rolling(True), KindError, "`window` is an int, not bool True"),
        (lambda: Quantized(5), ArgumentError, "`bits` is 5.\nPass 8 or 4"),
        (lambda: Quantized(8, 0), ArgumentError, "`group` is 0"),
        (lambda: Pool(0), ArgumentError, "`blocks` is 0"),
        (lambda: Pool(3, "4"), KindError, "`size` is an int, not str '4'"),
        (lambda: Paged(7), KindError, "`pool` is a Pool, not int 7"),
    ],
)
def test_made_wrong(make, error, says):
    with pytest.raises(error, match=says):
        make()


def test_merged_pieces_are_one_attention():
    """`look`, by which these tests judge, merges what one call would compute."""
    q, k, v = qkv()
    cuts = (0, 4, 15, 23)
    pieces = tuple(KeyPiece(k[:, :, a:b], v[:, :, a:b], a) for a, b in itertools.pairwise(cuts))
    for rule in (Causal(), Window(3, 2), Causal() & Lengths([9, 20])):
        out = look(q, pieces, lambda end, rule=rule: rule, 0)
        torch.testing.assert_close(out, attention(q, k, v, mask=rule), rtol=1e-12, atol=1e-13)
