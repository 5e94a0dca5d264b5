"""Padding that holds NaN, and biases so large that lse cannot hold a row's sum."""

import pytest
import torch

from wqkv import AttentionMap, Causal, Dense, Lengths, Segments, T5Bias, Window, attention

ENGINES = ("auto", "tiled", "reference")


def poisoned(n, seen, what, value, heads=(4, 2)):
    q, k, v = (torch.randn(2, h, n, 8) for h in (heads[0], heads[1], heads[1]))
    x = {"key": k, "value": v}[what]
    for sample, end in enumerate(seen):
        x[sample, :, end:] = value
    return q, k, v


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("what", ["key", "value"])
@pytest.mark.parametrize("n, seen", [(20, (12, 19)), (300, (200, 299)), (530, (3, 514))])
@pytest.mark.parametrize("engine", ENGINES)
def test_padding_cannot_be_felt(engine, n, seen, what, value):
    q, k, v = poisoned(n, seen, what, value)
    clean = [x.clone() for x in (k, v)]
    for x in clean:
        for sample, end in enumerate(seen):
            x[sample, :, end:] = 0
    ends, rows = torch.tensor(seen), torch.arange(n)
    masks = [
        Lengths(seen),
        Lengths(seen) & Causal(),
        Dense((rows < ends[:, None])[:, None, None]),
        Segments((rows < ends[:, None]).int(), torch.ones(2, n, dtype=torch.int32)),
    ]
    for mask in masks:
        results = []
        for k_, v_ in ((k, v), clean):
            given = [x.clone().requires_grad_() for x in (q, k_, v_)]
            out = attention(*given, mask=mask, engine=engine)
            results.append([out, *torch.autograd.grad(out.pow(2).sum(), given)])
        for ours, right in zip(*results, strict=True):
            torch.testing.assert_close(ours, right, rtol=1e-5, atol=1e-5)
        if what == "key":
            m = AttentionMap(q, k, mask=mask)
            assert m[:, :, :7].isfinite().all() and m.received().isfinite().all()
            assert m[0, 0, 5].isfinite().all() and m.entropy().isfinite().all()


@pytest.mark.parametrize("query_len", [1, 3])
def test_padding_of_a_cache_cannot_be_felt(query_len):
    q, k, v = torch.randn(2, 4, query_len, 8), *(torch.randn(2, 2, 5000, 8) for _ in range(2))
    ends = [17, 4100]
    for sample, end in enumerate(ends):
        k[sample, :, end:] = v[sample, :, end:] = torch.nan
    for window in (Window(None, None), Window(99, 0)):
        offset = torch.tensor(ends) - query_len
        ours = attention(q, k, v, mask=window & Lengths(ends), query_offset=offset)
        right = [
            attention(
                q[b : b + 1], k[b : b + 1, :, :end], v[b : b + 1, :, :end],
                mask=window, query_offset=end - query_len, engine="reference",
            )
            for b, end in enumerate(ends)
        ]  # fmt: skip
        torch.testing.assert_close(ours, torch.cat(right), rtol=1e-5, atol=1e-5)


def rows_pushed_down(n, low):
    bias = torch.full((n, n), low).triu(1)
    bias[: n // 8] = low  # left padding, as masks of older models have it
    return bias


def formula(q, k, v, bias):
    """In float64, with the scores rounded to float32 as every path rounds them."""
    scores = (q @ k.mT / q.shape[-1] ** 0.5 + bias).double()
    return scores.softmax(dim=-1) @ v.double()


@pytest.mark.parametrize("low", [torch.finfo(torch.float32).min, -1e9, 1e9])
@pytest.mark.parametrize("n", [24, 700])
@pytest.mark.parametrize("engine", ENGINES)
def test_rows_of_a_bias_that_all_hides(engine, n, low):
    q, k, v = (torch.randn(1, 2, n, 8) for _ in range(3))
    bias = rows_pushed_down(n, low)
    results = []
    for call in (lambda *x: attention(*x, bias=bias, engine=engine), lambda *x: formula(*x, bias)):
        given = [x.clone().requires_grad_() for x in (q, k, v)]
        out = call(*given)
        results.append([out, *torch.autograd.grad(out.pow(2).sum(), given)])
    for ours, right in zip(*results, strict=True):
        difference = (ours - right).norm() / right.norm()
        assert difference < 1e-5, difference


def test_rows_of_a_bias_over_rectangles_of_unequal_size():
    """Merged by their lse alone, 512 and 188 equal keys would count half and half."""
    n = 700
    q, k, v = (torch.randn(1, 2, n, 8) for _ in range(3))
    bias = rows_pushed_down(n, -1e9)
    for mask in (Causal(), Window(600, 0)):
        ours, right = (
            attention(q, k, v, bias=bias, mask=mask, engine=e) for e in ("tiled", "reference")
        )
        torch.testing.assert_close(ours, right, rtol=1e-5, atol=1e-6)


def test_the_gradient_of_a_learned_bias_there():
    q = torch.randn(1, 2, 300, 8)
    found = []
    for engine in ("tiled", "reference"):
        bias = rows_pushed_down(300, -1e9).requires_grad_()
        table = torch.full((8, 2), -1e9).requires_grad_()
        t5 = T5Bias(table, bidirectional=True, max_distance=16)
        for given, rules in ((bias, {"bias": bias}), (table, {"bias": t5, "softcap": 5.0})):
            out = attention(q, q, q, engine=engine, **rules)
            found.append(torch.autograd.grad(out.pow(2).sum(), given)[0])
    torch.testing.assert_close(found[0], found[2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1], found[3], rtol=1e-4, atol=1e-4)


def test_a_map_of_such_rows_sums_to_one():
    q, n = torch.randn(1, 2, 300, 8), 300
    bias = rows_pushed_down(n, torch.finfo(torch.float32).min)
    eye = torch.eye(n).expand(1, 2, n, n)
    P = attention(q, q, eye, bias=bias, engine="reference")
    m = AttentionMap(q, q, bias=bias)
    torch.testing.assert_close(m[:], P)
    pairs = torch.stack((P[..., 3, 5], P[..., 50, 6]), dim=-1)
    torch.testing.assert_close(m.at([3, 50], [5, 6]), pairs)
    torch.testing.assert_close(m.received(), P.sum(dim=2), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(m.entropy(), torch.special.entr(P).sum(-1), rtol=1e-5, atol=1e-5)
