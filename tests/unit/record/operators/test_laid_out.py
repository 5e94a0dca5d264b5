"""Scores that are computed again, laid out as the model uses them, in any order of axes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from wqkv.record.watch import watch

BATCH, N, HEADS, D_K = 3, 7, 5, 2


class Ordered(nn.Module):
    """Attention whose scores have their axes in an order of their own, outside of the formula."""

    def __init__(self, order: str, way: str) -> None:
        super().__init__()
        self.qkv = nn.Linear(HEADS * D_K, 3 * HEADS * D_K)
        self.mix = nn.Parameter(torch.eye(HEADS) + 0.3 * torch.randn(HEADS, HEADS))
        self.order, self.way = order, way
        self.weights = torch.empty(0)  # (batch, head, query, key), as the softmax gave them

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(BATCH, N, 3, HEADS, D_K).unbind(2)
        order, keys = self.order, self.order.index("j")
        scores = torch.einsum(f"bihd,bjhd->{order}", q, k)
        if self.way == "clamped":
            scores = scores.clamp(max=0.1)
        elif self.way == "two products":
            scores = scores + torch.einsum(f"bihd,bjhd->{order}", q, v)
        elif self.way == "sinks":  # one for each sample and query
            ones = {"b": BATCH, "i": N, "h": HEADS, "j": 1}
            sinks = torch.einsum(
                f"bi,{order}->{order}", x.sum(-1), x.new_ones([ones[a] for a in order])
            )
            scores = torch.cat((sinks, scores), dim=keys)
        P = scores.softmax(dim=keys)
        if self.way == "sinks":
            P = P.narrow(keys, 1, N)
        self.weights = torch.einsum(f"{order}->bhij", P).clone()
        if self.way == "mixed":
            P = torch.einsum(f"{order},hg->{order.replace('h', 'g')}", P, self.mix)
        return torch.einsum(f"{order},bjhd->bihd", P, v).flatten(2)


@pytest.mark.parametrize("way", ["clamped", "two products", "mixed", "sinks"])
@pytest.mark.parametrize("order", ["bhij", "bihj", "ijbh", "hbji", "jhib"])
def test_any_order_of_axes(order, way):
    torch.manual_seed(3)
    model = Ordered(order, way).eval()
    with torch.no_grad(), watch(model) as seen:
        model(torch.randn(BATCH, N, HEADS * D_K))
    more = way in ("two products", "mixed")
    assert seen.layers[0].state == ("captured" if more else "proved"), seen.report()
    assert seen[0].shape == (BATCH, HEADS, N, N)
    torch.testing.assert_close(seen[0][:], model.weights, rtol=0, atol=2e-6)
