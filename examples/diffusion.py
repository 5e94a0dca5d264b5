"""Text to picture with diffusers: which patches look at which word while noise becomes a picture.

A transformer as of Stable Diffusion 3, but tiny, learns here in half a minute to paint three
squares in the colors that a text names, from left to right. Nothing but diffusers is needed.
"""

import torch
from block import train
from diffusers import SD3Transformer2DModel
from torch import Tensor, nn

import wqkv

COLORS = {"red": (1, 0, 0), "green": (0, 0.7, 0), "blue": (0, 0.2, 1), "gold": (1, 0.8, 0)}


def painted(text: Tensor) -> Tensor:
    """Colors (batch, 3) as squares on black: (batch, 3, 8, 24), from -1 to 1."""
    squares = torch.tensor([*COLORS.values()])[text].mT[..., None, :, None].expand(-1, 3, 4, 3, 4)
    return nn.functional.pad(squares, (2, 2, 0, 0, 2, 2)).flatten(-2) * 2 - 1


def main(steps: int = 400, picture: str = "diffusion-{}.png") -> None:
    torch.manual_seed(0)
    encoded = torch.randn(3, 4, 48)  # what a text encoder would make of each word at each place
    model = SD3Transformer2DModel(
        sample_size=24, patch_size=2, in_channels=3, out_channels=3, num_layers=2,
        num_attention_heads=3, attention_head_dim=16, joint_attention_dim=48,
        caption_projection_dim=48, pooled_projection_dim=1, pos_embed_max_size=12,
    )  # fmt: skip

    def way(mixed: Tensor, text: Tensor, share: Tensor) -> Tensor:  # on from a picture to noise
        return model(mixed, encoded[range(3), text], share[:, None], 1000 * share).sample

    def loss(text: Tensor) -> Tensor:
        clean, noise, share = painted(text), torch.randn(32, 3, 8, 24), torch.rand(32)
        mixed = clean + share[:, None, None, None] * (noise - clean)
        return (way(mixed, text, share) - (noise - clean)).square().mean()

    train(model, torch.randint(4, (steps, 32, 3)), loss, 3e-3)
    words, made = ["gold", "blue", "green"], torch.randn(1, 3, 8, 24)
    with torch.no_grad(), wqkv.watch(model) as seen:
        for share in torch.arange(12, 0, -1)[:, None] / 12:
            made = made - way(made, torch.tensor([[3, 2, 1]]), share) / 12
    patches = wqkv.Axis(48, grid=(4, 12), source=made[0])  # it found the grid, but has the noise
    axes = (patches, wqkv.Axis(words))
    first = [seen.runs(layer)[0].on(keys=axes, queries=axes) for layer in range(len(seen))]
    for at, word in enumerate(words):
        looks = torch.cat([one[0, :, :48, 48 + at] for one in first]).amax(0)  # of any head
        square = patches.cells(looks)[1:3, 4 * at + 1 : 4 * at + 3]
        rest = (looks.sum() - square.sum()) / (48 - square.numel())
        print(f"{word}: its square looks at it with {square.mean():.2f}, the rest with {rest:.2f}")
        wqkv.overlay(looks, patches, title=f"who looks at {word}").savefig(picture.format(word))
    layer, head = divmod(int(torch.cat([one[0, :, 17, 49] for one in first]).argmax()), 3)
    first[layer].overlay((1, 5), head).savefig(picture.format("patch"))  # position 17, on blue


if __name__ == "__main__":
    main()
