"""A run: its map is refused when a tensor that it keeps by reference was changed since."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from wqkv import watch
from wqkv.errors import ArgumentError


class Attends(nn.Module):
    """A layer that keeps what it attended with."""

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        self.q, self.k, self.bias = x * 2, x * 3, bias
        return scaled_dot_product_attention(self.q, self.k, x, attn_mask=bias)


@pytest.mark.parametrize("name", ["q", "bias"])
def test_a_change_in_place_is_found_out(name):
    draw = torch.Generator().manual_seed(0)
    model = nn.ModuleDict({"one": Attends()})
    x, bias = torch.randn(2, 3, 5, 8, generator=draw), torch.randn(5, 5, generator=draw)
    model.forward = lambda x, bias: model["one"](x, bias)
    with torch.no_grad(), watch(model) as seen:
        model(x, bias)
    before = seen[0][:]
    assert torch.equal(seen[0][:], before)
    getattr(model["one"], name).mul_(2)
    with pytest.raises(ArgumentError, match="changed in place since then: it was at version"):
        seen[0]
