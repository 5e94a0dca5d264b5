"""The map that is never built, against the matrix: every statistic, rule, mask and index."""

import copy
import math
import pickle
import re

import numpy as np
import pytest
import torch

from tests.unit.maps.map_cases import (
    CASES,
    DV,
    HK,
    RULES,
    B,
    D,
    H,
    K,
    Q,
    V,
    arguments,
    draw,
    heads,
    make,
)
from wqkv import ALiBi, Causal, Lengths, Segments
from wqkv.attend.call import request
from wqkv.attend.engines import reference
from wqkv.errors import ArgumentError, KindError
from wqkv.maps import weights
from wqkv.maps.attention_map import AttentionMap

X, Y = draw(K, 3, seed=6), draw(Q, 3, seed=7)
XB, YB = draw(B, HK, K, 2, seed=9), draw(B, H, Q, 2, seed=10)
PAIRS = torch.tensor([0, 3, 3, 12, 7]), torch.tensor([16, 0, 0, 12, 5])


def blocks(P, n):
    rows, cols = torch.arange(Q) * n // Q, torch.arange(K) * n // K
    means = [P[:, :, rows == a][..., cols == b].mean((-1, -2)) for a in range(n) for b in range(n)]
    return torch.stack(means, -1).unflatten(-1, (n, n))


def distances(P, start):
    return (P * (torch.arange(Q)[:, None] + start - torch.arange(K)).abs()).sum(-1)


# name: (of the map, of the matrix); the matrix is asked with where its first query stands
STATISTICS = {
    "tile": (lambda m: m[:], lambda P, start: P),
    "at": (lambda m: m.at(*PAIRS), lambda P, start: P[:, :, PAIRS[0], PAIRS[1]]),
    "rows": (lambda m: m.rows([12, 0]), lambda P, start: P[:, :, [12, 0]]),
    "times": (lambda m: m.times(X), lambda P, start: P @ X),
    "times by head": (lambda m: m.times(XB), lambda P, start: P @ heads(XB)),
    "t_times": (lambda m: m.t_times(Y), lambda P, start: P.mT @ Y),
    "t_times by head": (lambda m: m.t_times(YB), lambda P, start: P.mT @ YB),
    "received": (lambda m: m.received(), lambda P, start: P.sum(2)),
    "entropy": (lambda m: m.entropy(), lambda P, start: torch.special.entr(P).sum(-1)),
    "mass": (lambda m: m.mass([0, -2]), lambda P, start: P[..., [0, -2]].sum(-1)),
    "mean distance": (lambda m: m.mean_distance(), distances),
    "thumbnail": (lambda m: m.thumbnail(4), lambda P, start: blocks(P, 4)),
    "top": (lambda m: m.top(5).weights, lambda P, start: P.flatten(2).topk(5).values),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_as_from_the_matrix(case, dtype):
    made = make(case, dtype)
    for name, (ours, theirs) in STATISTICS.items():
        exact, found = theirs(made.exact, made.start), ours(made.map)
        assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32), name
        assert found.shape == exact.shape, name
        # Twice the error of the matrix in the same dtype, and some roundings of the largest number.
        single = theirs(made.single.double(), made.start)
        size = max(float(exact.abs().max()), 1.0) * (K if name == "mean distance" else 1)
        allowed = 2 * (single - exact).abs().max() + 32 * torch.finfo(found.dtype).eps * size
        assert (found - exact).abs().max() <= allowed, name


@pytest.mark.parametrize("n_kv_head", [1, 2, 6])
def test_grouped_heads(n_kv_head):
    made = make("sinks, causal, per sample", n_kv_head=n_kv_head)
    for name in ("tile", "at", "times", "t_times", "entropy", "received"):
        ours, theirs = STATISTICS[name]
        torch.testing.assert_close(ours(made.map), theirs(made.exact, made.start))


@pytest.mark.parametrize(
    "rules",
    [{}, {"softcap": 2.0}, {"bias": ALiBi(H)}, {"sinks": torch.arange(6.0).double()}],
)
def test_longer_than_a_block(monkeypatch, rules):
    """Many rectangles, and blocks of a few rows."""
    monkeypatch.setattr(weights, "BLOCK", 20_000)
    monkeypatch.setattr(weights, "CACHED", 20_000)
    q, k = draw(1, H, 307, D), draw(1, HK, 701, D, seed=1)
    rules = {**rules, "mask": Causal() & ~Lengths([29]), "query_offset": 394}
    call = request(q, k, k, **rules)
    P = reference.steps(call, call.places()).weights
    m = AttentionMap(q, k, **rules)
    Y, v = draw(307, 3), draw(1, HK, 701, DV)
    i, j = torch.arange(1, 307), torch.arange(306)
    for ours, theirs in (
        (m.entropy(), torch.special.entr(P).sum(-1)),
        (m.received(), P.sum(2)),
        (m.t_times(Y), P.mT @ Y),
        (m.at(i, j), P[:, :, i, j]),
        (m.top(9).weights, P.flatten(2).topk(9).values),
    ):
        torch.testing.assert_close(ours, theirs)
    assert m.proof(v, P @ heads(v)) < 1e-12
    for index in ((0, slice(None), [5, 300]), (0, 3, 306), (0, slice(2, 4), slice(30, 33))):
        few = AttentionMap(q, k, **rules)
        torch.testing.assert_close(few[index], P[index])
        assert few._numbers.known is None  # the lse of these rows alone was computed
    many = AttentionMap(q, k, **rules)
    many.top(2)
    assert many._numbers.known is not None  # once, not again for the rows of every tile


# Indices


@pytest.mark.parametrize(
    "index",
    [
        (1, 5, 12, 16), (0,), (-1, -6, -13, -17), (0, slice(None), 3), (slice(0, 1), 2),
        (0, 0, slice(2, 11, 3)), (0, 0, slice(None, None, -2), slice(-4, None)),
        (slice(1, 1), 0), (0, slice(2, 4), [0, 12], [16, 0, 0]), ([1, 0], [5], [3, -1], [-17]),
        (0, [True, False] * 3, [True] + [False] * 12), (0, 0, range(3), (1, 2)),
        (0, 0, torch.tensor([4, -4]), torch.arange(K) > 11), (0, 0, torch.tensor(3)),
        (0, slice(1, 4)), (0, slice(2, 4)), (1, slice(5, 6), 3),
        (0, 0, []), (0, 0, torch.zeros(Q, dtype=torch.bool)), (0, 0, PAIRS[0].numpy()[1]), (),
    ],
    ids=str,
)  # fmt: skip
def test_every_kind_of_index(index):
    made = make("causal, per sample")
    expected, single = made.exact, []
    for axis, part in enumerate(index):
        if isinstance(part, list | range | tuple):
            part = np.array(part, dtype=bool if any(x is True for x in part) else int)
        numbers = np.arange(made.map.shape[axis])[part]
        expected = expected.index_select(axis, torch.as_tensor(numbers.reshape(-1).copy()))
        single += [axis] if numbers.ndim == 0 else []
    expected = expected.squeeze(single)
    found = made.map[index]
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected)


def test_one_index_is_the_batch():
    made = make("full, int")
    torch.testing.assert_close(made.map[1], made.exact[1])
    torch.testing.assert_close(made.map.rows(slice(1, 3)), made.exact[:, :, 1:3])
    assert made.map.rows([]).shape == (B, H, 0, K)
    assert made.map.at([], []).shape == (B, H, 0)
    assert (made.map.mass([]) == 0).all()
    torch.testing.assert_close(made.map.mass([3, 3, -14]), made.exact[..., 3])


# What is said


def plain(query_len=Q, key_len=K, **rules):
    return AttentionMap(draw(B, H, query_len, D), draw(B, HK, key_len, D), **rules)


WRONG = [
    (lambda m: m[0, 0, 13], ArgumentError, "There is no query 13: the map has 13, 0 to 12."),
    (lambda m: m[0, 0, 0, [3, -18]], ArgumentError, "no key -18: the map has 17, 0 to 16."),
    (lambda m: m[:, 6], ArgumentError, "no head 6: the map has 6, 0 to 5."),
    (lambda m: m[2], ArgumentError, "no batch 2: the map has 2, 0 to 1."),
    (lambda m: m[0, 0, 0, 0, 0], ArgumentError, "batch, head, query and key, not (0, 0, 0, 0, 0)."),
    (lambda m: m[..., 0], ArgumentError, "batch, head, query and key, not (Ellipsis, 0)."),
    (lambda m: m[0, None], ArgumentError, "batch, head, query and key, not (0, None)."),
    (lambda m: m[0, 0, 1.5], KindError, "The query axis takes an int, a slice or a list of ints,"),
    (lambda m: m[0, 0, True], KindError, "not bool True."),
    (lambda m: m[0, 0, "a":"b"], KindError, "slice('a', 'b', None) picks no part of the que"),
    (lambda m: m[0, 0, ::0], KindError, "no part of the query axis: slice step cannot be zero"),
    (lambda m: m.at(torch.ones(2, device="meta").long(), 3), ArgumentError, "`query` is on meta"),
    (lambda m: m.times(X.to("meta")), ArgumentError, "`X` is on meta, and its numbers are read."),
    (lambda m: m.t_times(Y.to("meta")), ArgumentError, "`Y` is on meta, and its numbers are read."),
    (lambda m: m.proof(V.long(), V), KindError, "A map is multiplied with floats.\n  value: i64["),
    (lambda m: plain(limit=0), ArgumentError, "`limit` is 0, the most weights of a tile."),
    (lambda m: plain(lse=torch.ones(B, H, Q).long()), KindError, "`lse` holds floats.\n  lse: i64"),
    (lambda m: m["a"], KindError, "The batch axis takes an int, a slice or a list of ints, not"),
    (lambda m: m[0, 0, [[1, 2]]], KindError, "not list [[1, 2]]."),
    (lambda m: m[0, 0, [True] * 12], KindError, "not list [True, True,"),
    (lambda m: m[0, 0, torch.tensor([1.0])], KindError, "not f32[1] on cpu."),
    (lambda m: m.at([1, 2], [1]), ArgumentError, "2 queries and 1 keys make no pairs."),
    (lambda m: m.mass(17), ArgumentError, "no key 17"),
    (lambda m: m.top(0), ArgumentError, "`k` is 0, how many links to find."),
    (lambda m: m.top(3, rows=[]), ArgumentError, "There are no rows to look through."),
    (lambda m: m.thumbnail(0), ArgumentError, "`n` is 0, the blocks of a side."),
    (lambda m: m.times(X.long()), KindError, "A map is multiplied with floats.\n  X: i64[17, 3]"),
    (lambda m: m.t_times(Y.long()), KindError, "A map is multiplied with floats.\n  Y: i64[13, 3]"),
    (lambda m: m.times(X[1:]), ArgumentError, "P has 17 keys, which are the rows of X."),
    (lambda m: m.times(X[:, 0]), ArgumentError, "Pass (17, c) or (2, 3, 17, c)."),
    (lambda m: m.times(heads(XB)), ArgumentError, "X: f64[2, 6, 17, 2] on cpu"),
    (lambda m: m.t_times(X), ArgumentError, "P has 13 queries, which are the rows of Y."),
    (lambda m: m.t_times(YB[:, :3]), ArgumentError, "Pass (13, c) or (2, 6, 13, c)."),
    (lambda m: m.mean_distance(), ArgumentError, "(the first query at the first key), 4 (the last"),
    (lambda m: m.proof(V, YB[:1]), ArgumentError, "P V cannot be the output: the sizes disagree."),
    (lambda m: m.proof(V, V), ArgumentError, "and an output (2, 6, 13, d_v)."),
    (lambda m: m.proof(V[:, :, 1:], draw(B, H, Q, DV)), ArgumentError, "a value (2, 3, 17, d_v)"),
    (lambda m: m.proof(V, draw(B, H, Q, 1)), ArgumentError, "f64[2, 6, 13, 1] on cpu"),
    (lambda m: m.proof(V, draw(B, H, Q, DV), rows=[]), ArgumentError, "There are no rows"),
    (lambda m: plain(lse=torch.ones(B, H, 12)), ArgumentError, "shape (2, 6, 12), not (2, 6, 13)."),
    (lambda m: plain(mask=Causal()), ArgumentError, "Where do 13 queries stand among 17 keys?"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "kind", "says"), WRONG, ids=range(len(WRONG)))
def test_mistakes(what, kind, says):
    with pytest.raises(kind, match=re.escape(says)):
        what(plain())


def test_a_tile_over_the_limit():
    wide = torch.zeros(1, 1, 1, 1).expand(1, 7, 100_003, 1)
    says = (
        r"1 x 7 x 100003 x 100003 weights takes 260\.79 GiB; the limit is 0\.25 GiB\.\nTake fewer"
    )
    with pytest.raises(ArgumentError, match=says):
        AttentionMap(wide, wide[:, :1])[:]
    tight = plain(limit=K)
    assert tight[0, 0, 1].shape == (K,)
    assert tight.top(2).weights.shape == (B, H, 2)  # streamed: the limit is for what is asked
    assert tight.proof(V, tight.times(V)) < 1e-14


# What else is promised


def test_top_is_in_order_and_tells_its_progress(monkeypatch):
    made = make("causal, int")
    monkeypatch.setattr(weights, "CACHED", 2 * K)
    told = []
    top = made.map.top(4, rows=[12, 0, 5, 7, 3], progress=lambda *at: told.append(at))
    assert told == [(2, 5), (4, 5), (5, 5)]
    assert (top.weights.diff(dim=2) <= 0).all()
    b, h = torch.arange(B)[:, None, None], torch.arange(H)[:, None]
    torch.testing.assert_close(top.weights, made.exact[b, h, top.queries, top.keys])
    chosen = made.exact[:, :, [12, 0, 5, 7, 3]].flatten(2)
    torch.testing.assert_close(top.weights, chosen.topk(4).values)
    assert made.map.top(10**6).weights.shape[2] == Q * K


@pytest.mark.parametrize(("query_len", "key_len"), [(0, 0), (0, 3), (3, 0)])
def test_a_map_of_no_tokens(query_len, key_len):
    mask = Segments(torch.zeros(1, key_len).long())
    query, key = torch.randn(2, 3, query_len, 5), torch.randn(2, 3, key_len, 5)
    m = AttentionMap(query, key, mask=mask, query_offset=0)
    assert m[:].shape == (2, 3, query_len, key_len)
    assert m.entropy().shape == (2, 3, query_len)
    assert float(m.received().sum()) == 0


def test_empty_rows_are_zero():
    """In sample 1 the first three queries stand before every key."""
    for name in ("causal", "softcap, causal", "alibi, causal", "hiding bias, causal"):
        made = make(f"{name}, per sample")
        empty = made.exact.sum(-1) == 0
        assert empty[1, :, :3].all()
        assert (made.map.lse[empty] == -torch.inf).all()
        for statistic in ("tile", "times", "entropy", "mass", "mean distance"):
            assert (STATISTICS[statistic][0](made.map)[empty] == 0).all(), statistic
        assert made.map.t_times(Y).isfinite().all()


def test_sinks_take_their_part():
    made = make("sinks, full, int")
    total = made.map.mass(slice(None))
    torch.testing.assert_close(total, made.exact.sum(-1))
    assert (total < 1).all()
    share = (RULES["sinks"]["sinks"].view(1, -1, 1) - made.map.lse).exp()
    torch.testing.assert_close(total, 1 - share)


@pytest.mark.parametrize("case", ["causal, int", "softcap, full, int", "sinks, full, int"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_lse_may_be_given(case, dtype):
    made = make(case, dtype)
    q, k, lse = made.map._numbers.given.query, made.map._numbers.given.key, made.map.lse
    rules = arguments(case, dtype)
    given = AttentionMap(q, k, **rules, lse=lse)
    assert torch.equal(given[:], made.map[:])
    assert torch.equal(given.received(), made.map.received())
    # It is used, not computed again: one more in the log is e times less weight.
    less = AttentionMap(q, k, **rules, lse=lse + 1)
    torch.testing.assert_close(less[0], made.map[0] / math.e)


def test_proof_holds_and_finds_a_change():
    made = make("all, causal, per sample")
    output = made.exact @ heads(V)
    assert made.map.proof(V, output) < 1e-14
    changed = output.clone()
    changed[1, 4, 7, 2] += 0.25
    assert made.map.proof(V, changed) == pytest.approx(0.25)
    assert made.map.proof(V, changed, rows=slice(8, None)) < 1e-14
    changed[0, 0, 0, 0] = torch.nan
    assert made.map.proof(V, changed) == math.inf
    assert make("causal, int").map.proof(V, output) > 0.01  # another map


@pytest.mark.parametrize("case", ["causal, per sample", "lengths, per sample", "dense, int"])
def test_flat_has_equal_weights(case):
    made = make(case)
    seen = made.exact > 0
    flat = made.map.flat()
    count = seen.sum(-1)
    torch.testing.assert_close(flat.lse.exp(), count.double())
    torch.testing.assert_close(flat[:], seen.double() / count.clamp(min=1).unsqueeze(-1))


@pytest.mark.parametrize("case", ["causal, int", "softcap, full, int"])
def test_autocast_and_gradients_change_nothing(case):
    made = make(case)
    found = [ours(made.map) for ours, _ in STATISTICS.values()]
    call = made.map._numbers.given
    q, k = (x.clone().requires_grad_() for x in (call.query, call.key))
    learning = AttentionMap(q, k, **arguments(case))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = [ours(learning) for ours, _ in STATISTICS.values()]
    assert all(map(torch.equal, found, again))
    assert not any(x.requires_grad for x in (*again, learning.lse))
    single = AttentionMap(q.float(), k.float(), **arguments(case))
    tile, v = single[:], V.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):  # it casts float32 alone
        assert torch.equal(single[:], tile)
        assert single.proof(v, single.times(v)) < 1e-6


@pytest.mark.parametrize("sizes", [(0, Q, K, D), (B, 0, K, D), (B, Q, 0, D), (B, Q, K, 0)])
def test_nothing_to_look_at(sizes):
    b, q, k, d = sizes
    m = AttentionMap(draw(b, H, q, d), draw(b, HK, k, d), query_offset=0)
    assert m.entropy().shape == m.mean_distance().shape == (b, H, q)
    assert m.received().shape == (b, H, k)
    assert m[:].shape == m.shape == (b, H, q, k)
    if q and k:
        assert m.top(2).weights.shape == (b, H, 2)
    if q:
        assert m.proof(draw(b, HK, k, DV), m.times(draw(b, HK, k, DV))) < 1e-15
    assert m.times(torch.ones(k, 2)).shape == (b, H, q, 2)
    assert m.t_times(torch.ones(q, 2)).shape == (b, H, k, 2)
    assert m.thumbnail(3).shape == (b, H, min(q, 3), min(k, 3))
    assert torch.allclose(m.mass(slice(None)), torch.tensor(1.0 if k else 0.0, dtype=torch.float64))


@pytest.mark.parametrize("what", ["query", "key", "mask", "bias", "sinks", "query_offset", "lse"])
def test_a_change_in_place_is_noticed(what):
    q = torch.randn(2, 3, 5, 4)
    given = {
        "query": q, "key": q.clone(), "mask": torch.ones(5, 5).tril().bool(),
        "bias": torch.randn(5, 5), "sinks": torch.randn(3), "query_offset": torch.tensor([0, 1]),
        "lse": torch.randn(2, 3, 5),
    }  # fmt: skip
    m = AttentionMap(**given)
    before = m[0]
    torch.testing.assert_close(m[0], before)
    given[what].add_(1) if what != "mask" else given[what].fill_(True)
    with pytest.raises(ArgumentError, match=r"changed in place since then.*\n.*tensor:"):
        m[0]


def test_copies_of_a_map():
    q = torch.randn(1, 2, 5, 4)
    m = AttentionMap(q, q, mask=Causal())
    for other in (copy.deepcopy(m), pickle.loads(pickle.dumps(m))):
        assert torch.equal(other[:], m[:])
    q.zero_()
    with pytest.raises(ArgumentError, match="changed in place"):
        copy.deepcopy(m)
