"""A small ESM learns proteins of one fold; where it looks are the residues that touch there.

If one of two residues that touch is hidden, the other tells which it is. That is all it can learn.
"""

import torch
from block import train
from matplotlib.figure import Figure
from torch import Tensor
from transformers import EsmConfig, EsmForMaskedLM

import wqkv

RESIDUES, MASK, PAD, LENGTH = "ACDEFGHIKLMNPQRSTVWY", 20, 21, 40
#: The pairs of positions that touch: two hairpins, in which a chain runs back along itself.
PAIRS = torch.tensor([(i, 17 - i) for i in range(2, 8)] + [(i, 57 - i) for i in range(20, 27)])
TOKENS = {"vocab_size": 22, "mask_token_id": MASK, "pad_token_id": PAD, "token_dropout": False}
SIZES = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1}
SIZES |= {"intermediate_size": 128, "initializer_range": 0.2}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def proteins(count: int) -> Tensor:
    """Random residues (count, LENGTH); the first of a pair decides the second: A and Y, C and W."""
    ids = torch.randint(len(RESIDUES), (count, LENGTH))
    ids[:, PAIRS[:, 1]] = len(RESIDUES) - 1 - ids[:, PAIRS[:, 0]]
    return ids


def main(steps: int = 500, heads: str = "heads.png", contacts: str = "contacts.png") -> None:
    torch.manual_seed(0)
    model = EsmForMaskedLM(EsmConfig(**TOKENS, **SIZES, **NO_DROPOUT))

    def loss(ids: Tensor) -> Tensor:
        hidden = torch.rand(ids.shape) < 0.15
        return model(ids.masked_fill(hidden, MASK), labels=ids.masked_fill(~hidden, -100)).loss

    train(model, [proteins(32) for _ in range(steps)], loss, 6e-3)
    with torch.no_grad(), wqkv.watch(model.eval()) as seen:
        model(read := proteins(1))
    residues = wqkv.Axis([RESIDUES[i] for i in read[0]])
    layer = seen[0].on(queries=residues, keys=residues)
    layer.plot().savefig(heads, dpi=150)
    both = (layer[0] + layer[0].mT).mean(0)  # of all heads, in both directions
    both -= both.sum(0) * both.sum(1, keepdim=True) / both.sum()  # APC, Dunn et al. 2008
    touch, once = torch.zeros(LENGTH, LENGTH), torch.ones(LENGTH, LENGTH).triu(1) > 0
    touch[tuple(PAIRS.T)] = touch[tuple(PAIRS.T.flip(0))] = 1
    right, chance = touch[once][both[once].topk(len(PAIRS)).indices].mean(), touch[once].mean()
    print(says := f"{right:.0%} of the {len(PAIRS)} strongest pairs touch (chance: {chance:.1%})")
    panels = Figure(figsize=(10, 5.3), layout="constrained").subplots(1, 2)
    for axes, title, values in zip(panels, (says, "what touches"), (both, touch), strict=True):
        axes.imshow(values.clamp(min=0).sqrt().numpy(), cmap="Blues")
        axes.set(title=title, xticks=range(LENGTH), xticklabels=residues.labels)
        axes.set(yticks=range(LENGTH), yticklabels=residues.labels)
    panels[0].figure.savefig(contacts, dpi=100)


if __name__ == "__main__":
    main()
