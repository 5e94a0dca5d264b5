"""What the examples share: one block of a transformer, and how a model is trained."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from rich.progress import track
from torch import Tensor, nn

import wqkv

Batch = TypeVar("Batch")


class Block(nn.Module):
    """Words look at each other, then each thinks for itself: x + look(x), then x + think(x)."""

    def __init__(self, d_model: int, n_head: int, **rules: Any) -> None:
        super().__init__()
        wide = 4 * d_model
        self.norm, self.norm_again = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.look = wqkv.MultiheadAttention(d_model, n_head, **rules)
        self.think = nn.Sequential(nn.Linear(d_model, wide), nn.GELU(), nn.Linear(wide, d_model))

    def forward(self, x: Tensor, **given: Any) -> Tensor:
        """`given` goes to the attention: a mask, a cache."""
        x = x + self.look(self.norm(x), **given)
        return x + self.think(self.norm_again(x))


def train(
    model: nn.Module, batches: Sequence[Batch], loss: Callable[[Batch], Tensor], rate: float
) -> None:
    """One step of AdamW a batch; the learning rate rises to `rate`, then falls to nothing."""
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=len(batches), pct_start=0.1
    )
    for batch in track(batches, "training"):
        optimizer.zero_grad()
        loss(batch).backward()
        optimizer.step()
        schedule.step()
