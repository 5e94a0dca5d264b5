"""A transformer as it was first drawn: an encoder reads, a decoder looks at it and writes."""

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from block import Block
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

import wqkv

D_MODEL, N_HEAD, LAYERS = 96, 4, 2
START, END, RARE = "\1", "\2", 2  # a word seen so often or less is spelled
Pairs = Sequence[tuple[str, str]]


class Decoder(Block):
    """A block that looks at its own words, then at the encoder's, which is the cross-attention."""

    def __init__(self) -> None:
        super().__init__(D_MODEL, N_HEAD, mask=wqkv.Causal(), position=wqkv.RoPE())
        self.norm_between = nn.LayerNorm(D_MODEL)
        self.cross = wqkv.MultiheadAttention(D_MODEL, N_HEAD)

    def forward(self, y: Tensor, x: Tensor, lengths: wqkv.Lengths) -> Tensor:
        y = y + self.look(self.norm(y))
        y = y + self.cross(self.norm_between(y), x, mask=lengths)
        return y + self.think(self.norm_again(y))


class Translator(nn.Module):
    """From words, rare ones letter by letter, to characters; both have one table of tokens."""

    def __init__(self, pairs: Pairs) -> None:
        super().__init__()
        counts = Counter(word for source, _ in pairs for word in source.split())
        common = {word for word, count in counts.items() if count > RARE}
        self.tokens = ["\0", START, END, *sorted(common.union(*map("".join, pairs)))]
        self.number = {token: i for i, token in enumerate(self.tokens)}
        self.embed = nn.Embedding(len(self.tokens), D_MODEL)
        self.embed.weight.data *= 0.1  # so that a few epochs can move it
        self.encoder = nn.ModuleList(
            Block(D_MODEL, N_HEAD, position=wqkv.RoPE()) for _ in range(LAYERS)
        )
        self.decoder = nn.ModuleList(Decoder() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(D_MODEL)

    def spell(self, source: str) -> list[str]:
        words = ([word] if word in self.number else list(word) for word in source.split())
        return [token for word in words for token in word]

    def rows(self, texts: Iterable[Sequence[str]]) -> Tensor:
        """Numbers (batch, length), with 0 for padding and for what was never seen."""
        ids = [torch.tensor([self.number.get(token, 0) for token in text]) for text in texts]
        return pad_sequence(ids, batch_first=True)

    def read(self, sources: Sequence[str]) -> tuple[Tensor, wqkv.Lengths]:
        """What the encoder makes of each word (batch, length, d_model), and how many there are."""
        words = [self.spell(source) for source in sources]
        x, lengths = self.embed(self.rows(words)), wqkv.Lengths([len(row) for row in words])
        for block in self.encoder:
            x = block(x, mask=lengths)
        return x, lengths

    def write(self, texts: Sequence[Sequence[str]], x: Tensor, lengths: wqkv.Lengths) -> Tensor:
        """Logits of the character after each one (batch, length, tokens)."""
        y = self.embed(self.rows(texts))
        for block in self.decoder:
            y = block(y, x, lengths)
        return self.norm(y) @ self.embed.weight.T

    def loss(self, pairs: Pairs) -> Tensor:
        sources, targets = zip(*pairs, strict=True)
        logits = self.write([[START, *target] for target in targets], *self.read(sources))
        wanted = self.rows([*target, END] for target in targets)
        rules = {"ignore_index": 0, "label_smoothing": 0.1}
        return F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), **rules)

    def translate(self, sources: Sequence[str], longest: int) -> list[str]:
        """The likeliest character, again and again."""
        read, texts = self.read(sources), [[START] for _ in sources]
        for _ in range(longest):
            best = self.write(texts, *read)[:, -1].argmax(-1)
            texts = [[*text, self.tokens[i]] for text, i in zip(texts, best, strict=True)]
        return ["".join(text[1:]).partition(END)[0] for text in texts]
