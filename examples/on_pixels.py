"""What heads look at, drawn on the pixels themselves: by a ViT of timm, and by digits.py's model.

Both are trained here on scikit-learn's handwritten digits, in half a minute. `watch` finds the
patches of a vision transformer; of a model of your own you say them: `seen[layer].on(keys=...)`.
"""

import argparse

import timm
import torch
from block import train
from digits import Reader
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import wqkv


def main(epochs: int = 40, vit: str = "vit.png", own: str = "own.png", digit: int = 0) -> None:
    torch.manual_seed(0)
    data = load_digits()
    images, names = torch.tensor(data.images).float()[:, None] / 16, torch.tensor(data.target)
    held, kept = torch.randperm(len(images)).tensor_split([len(images) // 3])
    tower = timm.create_model(
        "vit_tiny_patch16_224", img_size=8, patch_size=2, in_chans=1, num_classes=10, depth=2,
        embed_dim=48, num_heads=4, reg_tokens=2,
    )  # fmt: skip
    reader = nn.Sequential(nn.Flatten(), Reader())
    for name, model in {"timm's ViT": tower, "digits.py": reader}.items():
        batches = [kept[i] for _ in range(epochs) for i in torch.randperm(len(kept)).split(64)]
        train(model, batches, lambda i, m=model: F.cross_entropy(m(images[i]), names[i]), 6e-3)
        model.eval()
        right = (model(images[held]).argmax(-1) == names[held]).double().mean()
        print(f"{name}: {right:.1%} of {len(held)} held-out digits right")

    picture = images[held][names[held] == digit][:1]
    with torch.no_grad(), wqkv.watch(tower) as seen:
        tower(picture)
    print(f"timm's ViT looks at {seen[-1].keys}")
    weights = seen[-1][0, :, 0].mean(dim=0)  # of [CLS], the mean of the heads
    wqkv.overlay(weights, seen[-1].keys, title="[CLS] of timm's ViT").savefig(vit)

    with torch.no_grad(), wqkv.watch(reader) as seen:
        reader(picture)
    inner = torch.arange(64).view(8, 8)[1:-1, 1:-1]  # a word is what is around an inner pixel
    axis = wqkv.Axis(64, grid=(8, 8), source=picture[0], places=inner.flatten())
    look = seen[-1].on(keys=axis)
    weights = look[0, :, 0].mean(dim=0)
    wqkv.overlay(weights, look.keys, title="the question of digits.py").savefig(own)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=40)
    main(parser.parse_args().epochs)
