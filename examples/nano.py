"""A GPT of your own in plain PyTorch learns to repeat text; `watch` shows its induction heads."""

import torch
from block import train
from torch import Tensor, nn

import wqkv

D_MODEL, N_HEAD, LENGTH, TEXT = 64, 2, 20, "background" * 2


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(0.3 * torch.randn(LENGTH, D_MODEL))
        self.norm, self.out = nn.LayerNorm(D_MODEL), nn.Linear(D_MODEL, D_MODEL)
        self.qkv = nn.Linear(D_MODEL, 3 * D_MODEL)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x) + self.place).unflatten(-1, (3, N_HEAD, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (batch, head, length, d_k) each
        later = torch.ones(LENGTH, LENGTH).triu(1) > 0
        scores = (q @ k.mT / k.shape[-1] ** 0.5).masked_fill(later, -torch.inf)
        return x + self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def behind_the_same(ids: Tensor) -> Tensor:
    """(batch, query, key): whether the key stands behind an earlier letter like the query's."""
    return nn.functional.pad((ids[:, :, None] == ids[:, None]).tril(-1)[..., :-1], (1, 0))


def main(steps: int = 1500, picture: str = "nano.png") -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(26, D_MODEL), Block(), Block(), nn.Linear(D_MODEL, 26))

    def loss(ids: Tensor) -> Tensor:
        known = behind_the_same(ids[:, :-1]).any(-1)  # where the next letter can be known
        return nn.functional.cross_entropy(model(ids[:, :-1])[known], ids[:, 1:][known])

    at = torch.arange(LENGTH + 1) % torch.randint(6, 19, (steps, 64, 1))  # 6 to 18, again
    train(model, torch.rand(steps, 64, 26).argsort(-1).gather(-1, at), loss, 3e-3)
    ids = torch.tensor([list(TEXT.encode())]) - ord("a")
    with torch.no_grad(), wqkv.watch(model) as seen:
        model(ids)
    print(seen.report())
    behind, figure, ticks = behind_the_same(ids)[0], seen.plot(), range(LENGTH)
    before = torch.eye(LENGTH).roll(1, 0) * behind.any(0)[:, None] > 0  # of letters that are read
    for layer, (what, keys) in enumerate({"before": before, "behind the same": behind}.items()):
        on = (seen[layer][0] * keys).sum(-1)[:, keys.any(-1)].mean(-1)  # a number per head
        even = (keys.sum(-1) / torch.arange(1, LENGTH + 1))[keys.any(-1)].mean()
        title, axes = f"layer {layer}: the letter {what}", figure.axes[layer]
        print(f"{title} has {on.min():.2f} to {on.max():.2f} of the weight (evenly: {even:.2f})")
        axes.scatter(*keys.nonzero().T.flip(0), marker="s", s=99, fc="none", ec="#d95f02")
        axes.set(title=title, xticks=ticks, yticks=ticks, xticklabels=TEXT, yticklabels=TEXT)
    figure.savefig(picture, dpi=200)


if __name__ == "__main__":
    main()
