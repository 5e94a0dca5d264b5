"""(output, lse) of disjoint sets of keys: identities, empty rows and gradients."""

import math

import pytest
import torch

from wqkv.attend.functional import attention
from wqkv.attend.partial import Partial, logaddexp, merge, share, with_sinks
from wqkv.errors import ArgumentError, KindError

B, H, Q, D = 2, 3, 5, 7


def part(seed: int, keys: int = 11) -> Partial:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (
        torch.randn(B, H, n, D, generator=generator, dtype=torch.float64) for n in (Q, keys, keys)
    )
    return attention(q, k, v, return_lse=True, engine="reference")


def close(a: Partial, b: Partial) -> None:
    torch.testing.assert_close(a.out, b.out, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(a.lse, b.lse, rtol=1e-13, atol=1e-13)


NOTHING = Partial(torch.zeros(B, H, Q, D).double(), torch.full((B, H, Q), -torch.inf).double())


def test_keys_in_pieces():
    torch.manual_seed(0)
    q, k, v = (torch.randn(B, H, n, D, dtype=torch.float64) for n in (Q, 13, 13))
    pieces = [
        attention(q, k[:, :, span], v[:, :, span], return_lse=True, engine="reference")
        for span in (slice(0, 2), slice(2, 2), slice(2, 9), slice(9, 13))
    ]
    close(merge(*pieces), attention(q, k, v, return_lse=True, engine="reference"))


def test_order_and_brackets_do_not_matter():
    a, b, c = part(1), part(2), part(3)
    close(merge(a, b, c), merge(c, a, b))
    close(merge(a, merge(b, c)), merge(merge(a, b), c))


def test_identity():
    a = part(1)
    close(merge(a, NOTHING), a)
    close(merge(NOTHING, a), a)
    close(merge(NOTHING, NOTHING), NOTHING)
    assert merge(a) is a


def test_huge_scores_do_not_overflow():
    a, b = part(1), part(2)
    high = Partial(a.out, a.lse + 1e4)
    close(merge(high, b), high)
    assert torch.equal(merge(Partial(a.out, a.lse - 1e4), b).out, b.out)


def test_output_keeps_its_dtype():
    a, b = part(1), part(2)
    merged = merge(
        Partial(a.out.bfloat16(), a.lse.float()), Partial(b.out.bfloat16(), b.lse.float())
    )
    assert (merged.out.dtype, merged.lse.dtype) == (torch.bfloat16, torch.float32)


def test_sink_is_a_key_of_value_zero():
    a, sinks = part(1), torch.tensor([0.5, -2.0, 3.0], dtype=torch.float64)
    zero = Partial(torch.zeros_like(a.out), sinks[None, :, None].expand(B, H, Q))
    close(with_sinks(a, sinks), merge(a, zero))
    close(with_sinks(a, torch.full((H,), -torch.inf).double()), a)
    close(with_sinks(NOTHING, sinks), zero)


@pytest.mark.parametrize("first", [0.0, -torch.inf])
@pytest.mark.parametrize("second", [1.0, -torch.inf])
def test_gradients_are_finite_with_empty_rows(first, second):
    outs = [torch.ones(1, 1, 2, 3).requires_grad_() for _ in range(2)]
    lses = [torch.tensor([[[lse, 0.25]]]).requires_grad_() for lse in (first, second)]
    merged = merge(Partial(outs[0], lses[0]), Partial(outs[1], lses[1]))
    (merged.out.square().sum() + merged.lse.exp().sum()).backward()
    assert all(bool(tensor.grad.isfinite().all()) for tensor in (*outs, *lses))
    expected = math.exp(first) + math.exp(second)
    assert merged.lse.exp()[0, 0, 0].item() == pytest.approx(expected, rel=1e-6)


def test_gradients():
    a, b, sinks = part(1), part(2), torch.randn(H, dtype=torch.float64, requires_grad=True)
    tensors = [tensor.detach().requires_grad_() for tensor in (*a, *b)]

    def merged(a_out, a_lse, b_out, b_lse, sinks):
        return tuple(with_sinks(merge(Partial(a_out, a_lse), Partial(b_out, b_lse)), sinks))

    assert torch.autograd.gradcheck(merged, (*tensors, sinks), fast_mode=True)


def test_parts_of_nothing():
    empty, one = torch.tensor([-torch.inf]), torch.tensor([1.0])
    assert logaddexp(empty, empty).item() == -torch.inf
    assert logaddexp(empty, one).item() == 1.0
    assert share(empty, empty).item() == share(empty, one).item() == 0.0
    assert share(one, one).shape == (1, 1)


@pytest.mark.parametrize(
    ("other", "error", "says"),
    [
        (NOTHING._replace(out=NOTHING.out[:, :, :3]), ArgumentError, r"out: +f64\[2, 3, 3, 7\]"),
        (
            NOTHING._replace(lse=NOTHING.lse[:1]),
            ArgumentError,
            r"lse: +f64\[1, 3, 5\].*one lse per row",
        ),
        (NOTHING._replace(out=NOTHING.out.float()), KindError, r"differ in dtype.*out: +f32"),
        (NOTHING._replace(lse=3), KindError, "`lse` is a tensor, not int 3"),
        (tuple(NOTHING), KindError, "`others` is a Partial, not tuple"),
    ],
)
def test_what_does_not_merge(other, error, says):
    with pytest.raises(error, match=f"(?s){says}"):
        merge(part(0), other)
