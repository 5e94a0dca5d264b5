"""A tiny vision-language model is asked "where is bright", and shows on the picture where it looks.

LLaVA of transformers learns here to name the cell that is bright, dark or striped. No download.
"""

import torch
from block import train
from tokenizers import Tokenizer, models
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

import wqkv

CELLS, KINDS = [row + column for row in "abcd" for column in "1234"], ["bright", "dark", "striped"]
TOKENS = {token: n for n, token in enumerate((*CELLS, *KINDS, "where", "is", "<image>"))}
STRIPES = 2 * (torch.arange(28) % 2).float().expand(28, 28) - 1


def ask(count: int) -> tuple[dict[str, Tensor], Tensor]:
    """Gray noise with one cell of each kind, and a question; and the cells that are asked for."""
    places, row = torch.rand(count, 16).argsort(dim=1)[:, :3], torch.arange(count)
    cells = F.one_hot(places, 16).float().view(count, 3, 4, 4)
    cells = cells.repeat_interleave(7, dim=2).repeat_interleave(7, dim=3)
    noise = 0.8 * torch.rand(count, 28, 28) - 0.4
    pixels = noise * (1 - cells.sum(dim=1)) + cells[:, 0] - cells[:, 1] + cells[:, 2] * STRIPES
    prompt = [TOKENS[token] for token in (*["<image>"] * 16, "where", "is", "bright")]
    ids = torch.tensor(prompt).repeat(count, 1)
    ids[:, -1] += row % 3  # the other two kinds
    given = {"input_ids": ids, "pixel_values": pixels[:, None].repeat(1, 3, 1, 1)}
    return given, places[row, row % 3]


def main(steps: int = 600, picture: str = "where-is-{}.png") -> None:
    torch.manual_seed(1)
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 4}
    sizes |= {"num_hidden_layers": 1, "initializer_range": 0.25}
    eyes = CLIPVisionConfig(**sizes, image_size=28, patch_size=7)
    text = LlamaConfig(**sizes, vocab_size=len(TOKENS))
    token = {"image_token_index": TOKENS["<image>"], "vision_feature_layer": -1}
    config = LlavaConfig(vision_config=eyes, text_config=text, **token)
    model = LlavaForConditionalGeneration(config)
    batches = [ask(64) for _ in range(steps)]
    train(model, batches, lambda b: F.cross_entropy(model(**b[0]).logits[:, -1], b[1]), 3e-3)

    given, cells = ask(300)
    tokenizer = Tokenizer(models.WordLevel(TOKENS, unk_token="is"))
    with torch.no_grad(), wqkv.watch(model, processor=tokenizer) as seen:
        right = (model(**given).logits[:, -1].argmax(dim=-1) == cells).double().mean()
    print(f"{right:.0%} of 300 answers are right; the keys are {seen[-1].keys[0]}")
    shares = seen[-1][:, :, -1, :16][torch.arange(300), :, cells].mean(dim=0)
    head = int(shares.argmax())
    print(f"head {head} looks at the cell that is asked for with {shares[head]:.2f} in the mean")
    for sample, kind in enumerate(KINDS):
        seen[-1].overlay(kind, head, sample).savefig(picture.format(kind))


if __name__ == "__main__":
    main()
