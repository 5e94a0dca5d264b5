"""Models of one's own that put positions into another order, or others beside them.

Each is proved by a changed patch, or token: where an axis is named, exactly its position changes.
"""

import pytest
import torch
from torch import nn

from tests.conformance.changed_pixels import prove
from wqkv import watch

VOCABULARY, PATCH, WIDTH = 31, 4, 16


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        q, k, v = (y.unflatten(-1, (2, -1)).transpose(1, 2) for y in self.qkv(x).chunk(3, -1))
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = Attention()

    def forward(self, x, places=None):
        return x + self.attention(x)


class Tower(nn.Module):
    """A vision tower that arranges its patches in some way, before each of its blocks.

    Args:
        flat: makes a sequence (batch, length, d) of what the convolution made.
    """

    def __init__(self, flat, *arrange, cls=True):
        super().__init__()
        self.cut, self.flat, self.arrange = nn.Conv2d(3, WIDTH, PATCH, PATCH), flat, arrange
        self.blocks = nn.ModuleList(Block() for _ in arrange)
        if cls:
            self.cls_token = nn.Parameter(torch.randn(1, 1, WIDTH))

    def forward(self, pixels):
        x = self.flat(self.cut(pixels))
        for arrange, block in zip(self.arrange, self.blocks, strict=True):
            x = block(arrange(x, self))
        return x


def by_rows(x):
    return x.flatten(2).transpose(1, 2)


def asis(x, tower):
    return x


def cls(x, tower):
    return tower.cls_token.expand(len(x), -1, -1)


def cls_first(x, tower):
    return torch.cat([cls(x, tower), x], 1)


def cls_last(x, tower):
    return torch.cat([x, cls(x, tower)], dim=1)


def cls_between(x, tower):
    return torch.cat([x[:, :7], cls(x, tower), x[:, 7:]], 1)


def cls_for_a_patch(x, tower):
    return torch.cat([cls(x, tower), x[:, 1:]], 1)


def shuffled(x, tower):
    return x[:, torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(3))]


def sorted_by_gather(x, tower):
    order = x[..., :1].argsort(dim=1).expand_as(x)
    return x.gather(1, order)


def extra_around(x, tower):
    """Tokens with names of one's own before the patches, and behind them."""
    return torch.cat([torch.cat([cls(x, tower) + 1, x], 1), torch.ones(len(x), 2, WIDTH)], 1)


def extra_between(x, tower):
    return torch.cat([x[:, :7], torch.ones(len(x), 2, WIDTH), x[:, 7:]], 1)


def scattered(x, tower):
    order = torch.arange(x.shape[1]).flip(0)
    return torch.empty_like(x).index_put_((torch.arange(len(x))[:, None], order), x)


TOWERS = {
    "other tokens around": (True, True, Tower(by_rows, extra_around, asis)),
    "other tokens between": (False, False, Tower(by_rows, extra_between, asis)),
    "scattered": (False, False, Tower(by_rows, scattered, asis)),
    "the class token first": (True, True, Tower(by_rows, cls_first, asis)),
    "last": (True, True, Tower(by_rows, cls_last, asis)),
    "channels last": (True, True, Tower(lambda x: x.permute(0, 2, 3, 1).flatten(1, 2), asis, asis)),
    "no class token there": (True, True, Tower(by_rows, asis, cls_first)),
    "the class token left out": (True, True, Tower(by_rows, cls_first, lambda x, _: x[:, 1:])),
    "between": (False, False, Tower(by_rows, cls_between, asis)),
    "in a patch's place": (False, False, Tower(by_rows, cls_for_a_patch, asis)),
    "merged": (True, False, Tower(by_rows, cls_first, lambda x, _: x[:, ::3])),
    "shuffled": (False, False, Tower(by_rows, shuffled, asis)),
    "sorted later": (True, False, Tower(by_rows, cls_first, sorted_by_gather)),
    "backwards": (True, False, Tower(by_rows, asis, lambda x, _: x.flip(1))),
    "rolled": (False, False, Tower(lambda x: by_rows(x.roll(1, 3)), asis, asis)),
    "by columns": (False, False, Tower(lambda x: by_rows(x.transpose(2, 3)), asis, asis)),
    "by columns, permuted": (
        False, False, Tower(lambda x: x.permute(0, 3, 2, 1).flatten(1, 2), cls_first, asis),
    ),
    "by columns, with two axes swapped": (
        False, False, Tower(lambda x: x.transpose(1, 3).flatten(1, 2), cls_first, asis),
    ),
    "columns before rows, channels last": (
        False, False,
        Tower(lambda x: x.permute(0, 2, 3, 1).transpose(1, 2).flatten(1, 2), asis, asis),
    ),
    "resized": (
        False, False,
        Tower(lambda x: by_rows(nn.functional.interpolate(x, (5, 3), mode="bilinear")), asis, asis),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TOWERS)
def test_patches_of_a_tower_of_ones_own(name):
    *known, tower = TOWERS[name]
    torch.manual_seed(0)
    found = prove(tower, lambda model, x: model(x), torch.randn(2, 3, 12, 20))
    states = [one.state for one in found]
    assert states == ["right" if one else "unknown" for one in known for _ in range(2)]


def test_a_picture_that_is_turned_inside():
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.tower = Tower(by_rows, cls_first)

        def forward(self, pixels):
            return self.tower(pixels.flip(3))

    found = prove(Turned(), lambda model, x: model(x), torch.randn(2, 3, 12, 20))
    assert {one.state for one in found} == {"unknown"}


class Reader(nn.Module):
    """A model of a text that does something of its own with what it is given."""

    def __init__(self, read):
        super().__init__()
        self.embed, self.other = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(VOCABULARY, WIDTH)
        self.begin = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.block, self.read = Block(), read

    def forward(self, idx, targets=None):
        for x, places in self.read(self, idx, targets):
            self.block(x, places)


READERS = {
    "a text": (["1"], lambda m, idx, _: [(m.embed(idx), None)]),
    "a table": (["1"], lambda m, idx, _: [(m.embed.weight[idx], None)]),
    "numbers beside": (["1"], lambda m, idx, more: [(m.embed(idx), more)]),
    "the other one is the text": (["11"], lambda m, _, more: [(m.embed(more), None)]),
    "shifted": (
        [None],
        lambda m, idx, _: [(torch.cat([m.begin, m.embed(idx)[:, :-1]], 1), None)],
    ),
    "backwards": ([None], lambda m, idx, _: [(m.embed(idx.flip(1)), None)]),
    "turned later": ([None], lambda m, idx, _: [(m.embed(idx).flip(1), None)]),
    "two together": ([None], lambda m, idx, more: [(m.embed(idx) + m.other(more), None)]),
    "one after the other": (
        ["1", None],  # which of them the second is, only the code tells
        lambda m, *both: ((m.embed(one), None) for one in both),
    ),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("swapped", [False, True])
def test_the_text_is_what_was_looked_up(name, swapped):
    firsts, read = READERS[name]
    given = {"idx": torch.arange(1, 6)[None], "targets": torch.arange(11, 16)[None]}
    if swapped:
        given = dict(reversed(given.items()))
    model = Reader(read)
    with torch.no_grad(), watch(model) as seen:
        model(**given)
    assert [m.keys if m.keys is None else m.keys.labels[0] for m in seen] == firsts


def test_numbers_beside_features():
    class Features(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Block()

        def forward(self, x, labels_of_frames):
            return self.block(2 * x)

    model = Features()
    with torch.no_grad(), watch(model) as seen:
        model(torch.randn(1, 5, WIDTH), torch.arange(5)[None])
    assert seen[0].keys is None


def test_a_mask_of_floats_beside_a_text():
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 24, batch_first=True)

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.layers = (
                nn.Embedding(VOCABULARY, WIDTH),
                nn.TransformerEncoder(layer, 1),
            )

        def forward(self, text, mask):
            return self.layers(self.embed(text), mask)

    model, text = Masked().eval(), torch.arange(1, 6)[None]
    with torch.no_grad(), watch(model) as seen:
        model(text, torch.zeros(5, 5))
    assert seen[0].keys.labels == ("1", "2", "3", "4", "5")


@pytest.mark.parametrize("shape", [(5, 3), (5, 1), (1, 5), (5, 5)])
def test_texts_that_stand_side_by_side(shape):
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 24)  # of (length, batch, d)
    model = nn.Sequential(nn.Embedding(VOCABULARY, WIDTH), layer).eval()
    text = torch.arange(shape[0] * shape[1]).view(shape)
    with torch.no_grad(), watch(model) as seen:
        model(text)
    found = seen[0].keys
    if shape == (5, 5):
        assert found is None  # a model may also turn (batch, length) itself
        return
    rows = found if isinstance(found, list) else [found]
    assert [list(one.labels) for one in rows] == [list(map(str, row)) for row in text.T.tolist()]


#: The shape of pictures that a model is given, and what it makes of them for its tower.
REMADE = {
    "resized": ((3, 10, 18), lambda x: nn.functional.interpolate(x, (12, 20))),
    "resized smoothly": (
        (3, 10, 18),
        lambda x: nn.functional.interpolate(x, (12, 20), mode="bilinear", antialias=True),
    ),
    "padded on the left": ((3, 11, 19), lambda x: nn.functional.pad(x, (1, 0, 1, 0))),
    "in another order": ((3, 12, 20), lambda x: torch.cat([x[1:], x[:1]])),
    "views before samples": ((2, 3, 12, 20), lambda x: x.transpose(0, 1).flatten(0, 1)),
    "the same, permuted": ((2, 3, 12, 20), lambda x: x.permute(1, 0, 2, 3, 4).flatten(0, 1)),
}


@pytest.mark.parametrize("name", REMADE)
def test_no_picture_is_shown_that_was_made_anew(name):
    sized, make = REMADE[name]

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.tower = Tower(by_rows, cls_first)

        def forward(self, pixels):
            return self.tower(make(pixels) / 2)

    model, pixels = Whole(), torch.randn(2, *sized)
    with torch.no_grad(), watch(model) as seen:
        model(pixels)
    assert {(patches.grid, patches.source) for _, patches in seen[0].keys} == {((3, 5), None)}


@pytest.mark.parametrize("text_first", [True, False])
def test_a_text_that_is_as_long_as_a_picture(text_first):
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.cut, self.embed = nn.Conv2d(3, WIDTH, PATCH, PATCH), nn.Embedding(31, WIDTH)
            self.seeing, self.reading = Block(), Block()

        def forward(self, pixels, text):
            parts = [
                lambda: self.reading(self.embed(text)),
                lambda: self.seeing(by_rows(self.cut(pixels))),
            ]
            return [part() for part in (parts if text_first else reversed(parts))]

    model, text = Both(), torch.arange(15)[None]
    with torch.no_grad(), watch(model) as seen:
        model(torch.randn(1, 3, 12, 20), text)
    names = [layer.name.partition(".")[0] for layer in seen.layers]
    found = {name: m.keys for name, m in zip(names, seen, strict=True)}
    assert found["seeing"] is None
    assert found["reading"].labels == tuple(map(str, range(15)))
