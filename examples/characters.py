"""A language model of characters learns from Python's documentation, then writes some of its own.

The text is that of help("topics") (`pydoc_data.topics`), which comes with every Python under its
licence. A character sees those before it (Causal) and how far away they are (RoPE). Writing keeps
the keys and values of the last 128 characters, so that a step computes those of one character.
"""

import argparse
import math
from itertools import pairwise
from pydoc_data.topics import topics

import torch
from block import Block, train
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

import wqkv

D_MODEL, N_HEAD, LAYERS, LENGTH = 128, 4, 3, 128
IDS = torch.tensor(list("".join(topics.values()).encode("ascii", "ignore")))
READ, HELD = IDS.tensor_split([len(IDS) * 9 // 10])
SENTENCE = "the interpreter evaluates all arguments first"


class Writer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(128, D_MODEL)  # the characters of ASCII
        self.embed.weight.data *= 0.1  # so that a thousand steps can move it
        see = {"mask": wqkv.Causal(), "position": wqkv.RoPE()}
        self.blocks = nn.ModuleList(Block(D_MODEL, N_HEAD, **see) for _ in range(LAYERS))
        self.next = nn.Sequential(nn.LayerNorm(D_MODEL), nn.Linear(D_MODEL, 128))

    def forward(self, ids: Tensor, caches: list[wqkv.Rolling] | None = None) -> Tensor:
        """(batch, length) -> (batch, length, 128): logits of what comes next."""
        x = self.embed(ids)
        for block, cache in zip(self.blocks, caches or [None] * LAYERS, strict=True):
            x = block(x, cache=cache)
        return self.next(x)

    def loss(self, rows: Tensor) -> Tensor:
        return F.cross_entropy(self(rows[:, :-1]).mT, rows[:, 1:])


def write(model: Writer, text: str, count: int, temperature: float) -> str:
    caches, new = [wqkv.Rolling(LENGTH) for _ in model.blocks], list(text.encode())
    for _ in range(count):
        logits = model(torch.tensor([new]), caches)[0, -1] / temperature
        new = torch.multinomial(logits.softmax(-1), 1).tolist()
        text += chr(*new)
    return text


def draw(model: Writer, path: str) -> None:
    """The head that looks most at its own word (framed), the letter just before not counted."""
    x, maps = model.embed(torch.tensor([list(SENTENCE.encode())])), []
    for block in model.blocks:
        maps.append(block.look.trace(block.norm(x)).weights[0])
        x = block(x)
    word = torch.tensor([letter == " " for letter in SENTENCE]).cumsum(0)
    further = (word[:, None] == word).tril(-2)
    best = int((torch.cat(maps) * further).sum(-1)[:, further.any(-1)].mean(-1).argmax())
    axes = Figure(figsize=(7, 7.2), layout="constrained").subplots()
    axes.imshow(torch.cat(maps)[best].sqrt().numpy(), cmap="Blues", vmin=0, vmax=1)
    for start, end in pairwise([-0.5, *(word.bincount().cumsum(0) - 0.5).tolist()]):
        axes.plot([start, start, end], [start, end, end], color="#d95f02", linewidth=1)
    axes.set_xticks(range(len(SENTENCE)), SENTENCE, family="monospace")
    axes.set_yticks(range(len(SENTENCE)), SENTENCE, family="monospace")
    axes.set_title(f"layer {best // N_HEAD}, head {best % N_HEAD}: where each row looks")
    axes.figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="characters.png", help="where to draw a head's map")
    parser.add_argument("--quick", action="store_true", help="40 steps instead of 1000")
    parser.add_argument("--temperature", type=float, default=0.7, help="low is safe, high is wild")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)

    windows, model = READ.unfold(0, LENGTH + 1, 1), Writer()
    batches = torch.randint(len(windows), (40 if args.quick else 1000, 16))
    train(model, batches, lambda starts: model.loss(windows[starts]), 3e-3)
    model.requires_grad_(False)
    loss = model.loss(HELD.unfold(0, LENGTH + 1, LENGTH))
    alone = F.cross_entropy((READ.bincount(minlength=128) + 1).log().expand(len(HELD), -1), HELD)
    for name, nats in {"frequencies alone": alone, "this model": loss}.items():
        print(f"{name}: loss {nats:.3f}, {nats / math.log(2):.2f} bits per held-out character")
    print(write(model, "The ", 400, args.temperature))
    draw(model, args.output)
    print(f"where one head looks: {args.output}")


if __name__ == "__main__":
    main()
