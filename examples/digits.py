"""Handwritten digits, read by a three-layer perceptron and by attention with as many parameters.

scikit-learn's 1,797 images of 8 x 8 pixels, a third of them held out. The perceptron weighs each
pixel by its place. Attention cuts an image into 36 words, the 3 x 3 pixels around each inner pixel;
the words look at each other, then a learned question looks at the words: its weights are drawn.
"""

import argparse

import torch
from block import Block, train
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import wqkv

D_MODEL, N_HEAD = 48, 4


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ink = nn.Linear(9, D_MODEL)
        self.place = nn.Parameter(0.1 * torch.randn(36, D_MODEL))
        self.block = Block(D_MODEL, N_HEAD)
        self.norm = nn.LayerNorm(D_MODEL)
        self.question = nn.Parameter(torch.randn(1, 1, D_MODEL))
        self.look = wqkv.MultiheadAttention(D_MODEL, N_HEAD)
        self.answer = nn.Linear(D_MODEL, 10)

    def ask(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The question (batch, 1, d_model) and the words (batch, 36, d_model)."""
        words = self.ink(F.unfold(images.view(-1, 1, 8, 8), kernel_size=3).mT) + self.place
        return self.question.expand(len(images), -1, -1), self.norm(self.block(words))

    def forward(self, images: Tensor) -> Tensor:
        """Images (batch, 64) -> logits (batch, 10)."""
        return self.answer(self.look(*self.ask(images))[:, 0])


def draw(reader: Reader, images: Tensor, path: str) -> None:
    """A column an image, a row a head; the orange is as dense as the root of the weight."""
    looks = reader.look.trace(*reader.ask(images)).weights.sqrt().view(-1, N_HEAD, 6, 6)
    figure = Figure(figsize=(11, 5.7), layout="constrained")
    axes = figure.subplots(N_HEAD + 1, len(images), subplot_kw={"xticks": [], "yticks": []})
    for column, (image, read) in enumerate(zip(images, reader(images).argmax(-1), strict=True)):
        axes[0, column].set_title(f"read as {read}", fontsize=9)
        for head, look in enumerate(looks[column], 1):
            orange = torch.cat([torch.tensor([1, 0.5, 0]).expand(6, 6, 3), look[..., None]], -1)
            axes[head, column].imshow(orange.numpy(), extent=(0.5, 6.5, 6.5, 0.5), zorder=2)
            axes[head, 0].set_ylabel(f"head {head - 1}")
        for axis in axes[:, column]:
            axis.imshow(image.view(8, 8).numpy(), cmap="gray_r", vmin=0, vmax=1.5)
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="digits.png", help="where to draw what the heads see")
    parser.add_argument("--quick", action="store_true", help="8 epochs instead of 30")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)

    data = load_digits()
    images, digits = torch.tensor(data.data).float() / 16, torch.tensor(data.target)
    held, kept = torch.randperm(len(images)).tensor_split([len(images) // 3])
    reader = Reader()
    hidden = sum(map(torch.numel, reader.parameters())) // 75  # a unit: 64 in, a bias, 10 out
    perceptron = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))
    for name, model in {"perceptron": perceptron, "attention": reader}.items():
        epochs = range(8 if args.quick else 30)
        batches = [kept[i] for _ in epochs for i in torch.randperm(len(kept)).split(64)]
        train(model, batches, lambda i, m=model: F.cross_entropy(m(images[i]), digits[i]), 5e-3)
        right = (model(images[held]).argmax(-1) == digits[held]).double().mean().item()
        size = sum(map(torch.numel, model.parameters()))
        print(f"{name}: {right:.1%} of {len(held)} held-out images right, {size:,} parameters")
    with torch.no_grad():
        draw(
            reader,
            torch.stack([images[held][digits[held] == n][0] for n in range(10)]),
            args.output,
        )
    print(f"what the heads look at: {args.output}")


if __name__ == "__main__":
    main()
