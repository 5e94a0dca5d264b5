"""A small model of plain PyTorch, and what tests ask of a watch of it.

Attention is one fused call, or written out. Each way computes the same bits with and without
`watch`, and each map is the softmax that is computed here from q and k.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from wqkv.maps.attention_map import AttentionMap
from wqkv.record.watch import Seen, watch

BATCH, LENGTH, HEADS, WIDTH, VOCABULARY, LAYERS = 2, 7, 2, 26, 61, 3


class Attention(nn.Module):
    """Causal attention, by one fused call or written out."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        parts = self.qkv(x).unflatten(-1, (3, HEADS, WIDTH // HEADS)).permute(2, 0, 3, 1, 4)
        return parts.unbind(0)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x)
        made = self.attend(q, k, v)
        return self.out(made.transpose(1, 2).flatten(2))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.way == "fused":
            return scaled_dot_product_attention(q, k, v, is_causal=True)
        return weights(q, k) @ v


def weights(q: Tensor, k: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    return scores.masked_fill(later, -torch.inf).softmax(dim=-1)


class Block(nn.Module):
    def __init__(self, way: str) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(WIDTH), Attention(way)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 31), nn.GELU(), nn.Linear(31, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Net(nn.Module):
    """A model of three blocks.

    Args:
        reentrant: the kind of gradient checkpointing; None is without.
    """

    def __init__(self, way: str, reentrant: bool | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.reentrant = reentrant
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList(Block(way) for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, VOCABULARY)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter *= 3 if parameter.ndim > 1 else 1

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for block in self.blocks:
            if self.reentrant is None:
                x = block(x)
            else:
                x = checkpoint(block, x, use_reentrant=self.reentrant)
        return self.head(x)


WAYS = pytest.mark.parametrize("way", ["fused", "written out"])


def tokens(length: int = LENGTH, batch: int = BATCH) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randint(VOCABULARY, (batch, length), generator=draw)


def matrices(model: nn.Module, call: Callable[[], object]) -> list[Tensor]:
    """The weights of each attention that a call runs, in the order in which they run."""
    found, hooks = [], []
    for module in model.modules():
        if isinstance(module, Attention):
            hooks.append(
                module.register_forward_pre_hook(
                    lambda module, args: found.append(weights(*module.project(args[0])[:2]))
                )
            )
    call()
    for hook in hooks:
        hook.remove()
    return [one.detach() for one in found]


def run_twice(model: nn.Module, call: Callable[[], list[Tensor]]) -> Seen[AttentionMap]:
    """What a watch saw of a call that gives the same bits as without.

    The bits are compared with gradients=True too.
    """
    plain, found = call(), []
    for gradients in (True, False):
        with watch(model, gradients=gradients) as seen:
            watched = call()
        assert len(plain) == len(watched)
        assert all(map(torch.equal, plain, watched))
        found.append(seen)
    return found[-1]


def proved(seen: Seen[AttentionMap], names: list[str], theirs: list[Tensor]) -> None:
    """Expect these layers, each proved, and these maps."""
    found = [(layer.name, layer.state, layer.reason) for layer in seen.layers]
    assert found == [(name, "proved", "") for name in names], seen.report()
    for ours, one in zip(seen, theirs, strict=True):
        torch.testing.assert_close(ours[:].to(one.dtype), one, rtol=1e-5, atol=2e-6)


NAMES = [f"blocks.{n}.attn" for n in range(LAYERS)]


def gradients(model: nn.Module) -> list[Tensor]:
    """The output, and all gradients of a loss."""
    model.zero_grad()
    out = model(tokens())
    (out * torch.linspace(-1, 1, VOCABULARY)).sum().backward()
    return [out.detach(), *(one.grad for one in model.parameters() if one.grad is not None)]


class Scaled(Attention):
    """A scale and a bias for each place that are learned."""

    def __init__(self) -> None:
        super().__init__("written out")
        draw = torch.Generator().manual_seed(3)
        self.scale = nn.Parameter(1 + torch.rand(HEADS, 1, 1, generator=draw))
        self.bias = nn.Parameter(torch.randn(HEADS, LENGTH, LENGTH, generator=draw))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.mT * self.scale + self.bias).softmax(dim=-1) @ v
