"""Which pixels the cells of a grid cover, and which lengths they explain."""

import pytest
import torch
from torch import nn

import wqkv
from wqkv import Axis, watch
from wqkv.record.inputs.cuts import unnormalized

D = 12


class Reader(nn.Module):
    """Patches by a convolution, and one attention that reads them with a class token or without."""

    def __init__(self, conv, token=True, **more):
        super().__init__()
        self.conv = conv
        self.cls_token = nn.Parameter(torch.randn(1, 1, D)) if token else None
        for name, count in more.items():
            setattr(self, name, nn.Parameter(torch.randn(1, count, D)))
        self.look = wqkv.MultiheadAttention(D, 2)

    def forward(self, pictures):
        x = self.conv(pictures).flatten(2).mT
        first = [] if self.cls_token is None else [self.cls_token.expand(len(x), -1, -1)]
        return self.look(torch.cat([*first, x], dim=1))


def keys(model, *given, processor=None, **named):
    with torch.no_grad(), watch(model, processor=processor) as seen:
        model(*given, **named)
    return seen[0].keys


def pictures(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def grid_of(found):
    parts = (found,) if isinstance(found, Axis) else found
    return next(part for part in parts if part.grid is not None)


@pytest.mark.parametrize(
    ("conv", "size", "grid", "begin", "end"),
    [
        # pixels on the right and below that no patch covers are left out
        (nn.Conv2d(3, D, 16, 16), (227, 113), (14, 7), (0, 0), (224, 112)),
        # patches of 8 pixels, one every 4: a cell is the 4 pixels in the middle of one
        (nn.Conv2d(3, D, 8, 4), (29, 41), (6, 9), (2, 2), (26, 38)),
        (nn.Conv2d(3, D, (6, 10), (6, 10)), (24, 30), (4, 3), (0, 0), (24, 30)),
        (nn.Conv2d(3, D, 3, padding="same"), (5, 7), (5, 7), (0, 0), (5, 7)),
        (nn.Conv2d(3, D, 2, padding="valid", stride=2), (5, 7), (2, 3), (0, 0), (4, 6)),
    ],
)  # fmt: skip
def test_what_the_cells_cover(conv, size, grid, begin, end):
    given = pictures(2, 3, *size)
    for sample, found in enumerate(keys(Reader(conv), given)):
        special, patches = found
        assert (special.labels, patches.grid) == (("[CLS]",), grid)
        covered = given[sample, :, begin[0] : end[0], begin[1] : end[1]]
        assert torch.equal(patches.source, covered)


def test_cells_that_reach_past_the_picture():
    """Three stages that halve: 4, 8 and 16 pixels a cell, rounded up."""
    stages = nn.Sequential(
        nn.Conv2d(3, 5, 7, 4, 3), nn.ReLU(), nn.Conv2d(5, 7, 3, 2, 1), nn.Conv2d(7, D, 3, 2, 1)
    )
    given = pictures(1, 3, 40, 56)
    patches = keys(Reader(stages, token=False), given)
    assert patches.grid == (3, 4) and patches.source.shape == (3, 48, 64)
    assert torch.equal(patches.source[:, :40, :56], given[0])
    assert not patches.source[:, 40:].any() and not patches.source[..., 56:].any()


def test_a_pooled_backbone_is_followed_by_its_size():
    """What a pooling makes is no convolution's: only the whole size tells, 32 pixels a cell."""
    pooled = nn.Sequential(
        nn.Conv2d(3, 5, 7, 2, 3), nn.MaxPool2d(2), nn.Conv2d(5, 7, 8, 8), nn.Conv2d(7, D, 1)
    )
    given = pictures(1, 3, 96, 160)
    patches = keys(Reader(pooled, token=False), given)
    assert patches.grid == (3, 5) and torch.equal(patches.source, given[0])


def test_pictures_that_the_model_was_not_given():
    """It makes them itself, so that the grid alone is known."""

    class Inside(Reader):
        def forward(self, pictures):
            return super().forward(nn.functional.interpolate(pictures, (16, 24)))

    patches = keys(Inside(nn.Conv2d(3, D, 8, 8), token=False), pictures(1, 3, 19, 23))
    assert patches.grid == (2, 3) and patches.source is None


def test_a_video():
    class Film(Reader):
        def forward(self, frames):
            return super().forward(frames.transpose(1, 2))

    given = pictures(2, 6, 3, 16, 24)
    for sample, patches in enumerate(
        keys(Film(nn.Conv3d(3, D, (2, 8, 8), (2, 8, 8)), False), given)
    ):
        assert patches.grid == (3, 2, 3)
        assert torch.equal(patches.source, given[sample, ::2])  # the first frame of each cell


def test_a_video_of_as_many_frames_as_channels():
    """Which axis is which, its shape does not tell."""

    class Film(Reader):
        def forward(self, frames):
            return super().forward(frames.transpose(1, 2))

    film = Film(nn.Conv3d(3, D, (1, 8, 8), (1, 8, 8)), token=False)
    patches = keys(film, pictures(1, 3, 3, 16, 24))
    assert patches.grid == (3, 2, 3) and patches.source is None


def test_several_pictures_of_one_shape():
    class Prompted(Reader):
        def forward(self, pictures, prompt):
            return super().forward(pictures + prompt)

    given = pictures(1, 3, 16, 24)
    patches = keys(Prompted(nn.Conv2d(3, D, 8, 8), token=False), given, given + 1)
    assert patches.grid == (2, 3) and patches.source is None


class Processor:
    image_mean, image_std = [0.5, 0.25, 0.125], [0.25, 0.5, 0.75]


def test_pixels_as_they_were_before_the_processor():
    raw = pictures(1, 3, 16, 24)
    mean, std = (
        torch.tensor(x)[:, None, None] for x in (Processor.image_mean, Processor.image_std)
    )
    given = (raw - mean) / std
    found = keys(Reader(nn.Conv2d(3, D, 8, 8)), given, processor=Processor())
    torch.testing.assert_close(grid_of(found).source, raw[0])
    assert unnormalized(given, None) is given
    Processor.do_normalize = False  # it has a mean that it does not use
    assert unnormalized(given, Processor()) is given
    del Processor.do_normalize
    assert torch.equal(unnormalized(given[0, :1], Processor()), given[0, :1])  # of other channels


class Rearrange(nn.Module):
    """As einops has it."""

    def __init__(self, pattern, **axes_lengths):
        super().__init__()
        self.pattern, self.axes_lengths = pattern, axes_lengths

    def forward(self, x):
        p1, p2 = self.axes_lengths["p1"], self.axes_lengths["p2"]
        cut = x.unflatten(3, (-1, p2)).unflatten(2, (-1, p1))
        return cut.permute(0, 2, 4, 3, 5, 1).flatten(1, 2).flatten(2)


ROWS = "b c (h p1) (w p2) -> b (h w) (p1 p2 c)"


@pytest.mark.parametrize("pattern", [ROWS, "b c (h p1) (w p2) -> b (w h) (p1 p2 c)"])
def test_patches_that_are_cut_by_a_pattern(pattern):
    class Lucid(nn.Module):
        def __init__(self):
            super().__init__()
            self.cut = nn.Sequential(Rearrange(pattern, p1=4, p2=6), nn.Linear(72, D))
            self.look = wqkv.MultiheadAttention(D, 2)

        def forward(self, pictures):
            return self.look(self.cut(pictures))

    given = pictures(1, 3, 12, 30)
    found = keys(Lucid(), given)
    if pattern != ROWS:  # they stand column by column
        assert found is None
    else:
        assert found.grid == (3, 5) and torch.equal(found.source, given[0])


def test_patches_of_a_processor():
    """Of SigLIP 2: pictures of several shapes, with padding behind their patches."""

    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.cut, self.look = nn.Linear(12, D), wqkv.MultiheadAttention(D, 2)

        def forward(self, pixel_values, spatial_shapes, inputs_embeds=None):
            return self.look(self.cut(pixel_values))

    given = torch.arange(2 * 7 * 12.0).view(2, 7, 12) / 168
    one, other = keys(Listed(), given, torch.tensor([[2, 3], [1, 7]]))
    assert one.grid == (2, 3) and other.grid == (1, 7)
    assert one.places.tolist() == [0, 1, 2, 3, 4, 5, -1]
    assert one.source.shape == (3, 4, 6)
    # the second channel of the patch in the second row and third column: its lower left pixel
    assert one.source[1, 3, 4] == given[0, 5, 2 * 3 + 1]
    assert keys(Listed(), given, torch.tensor([[2, 4], [1, 7]])) is None  # more than there are
    assert keys(Listed(), given, torch.tensor([[2, 3], [1, 7]]), torch.zeros(2, 7, D)) is None


# What explains no length


def test_tokens_of_a_library_that_was_not_looked_at():
    """Here it has registers, and puts [CLS] alone before the patches: one token, of no name."""
    found = keys(Reader(nn.Conv2d(3, D, 8, 8), register_tokens=2), pictures(1, 3, 16, 24))
    extra, patches = found
    assert extra.labels == ("[extra 0]",) and patches.grid == (2, 3)


def test_two_shapes_with_as_many_cells():
    class Two(Reader):
        def __init__(self):
            super().__init__(nn.Conv2d(3, D, (4, 6), (4, 6)), token=False)
            self.other = nn.Conv2d(3, D, (6, 4), (6, 4))

        def forward(self, pictures):
            return super().forward(pictures) + self.other(pictures).sum()

    assert keys(Two(), pictures(1, 3, 24, 24)).grid == (6, 4)  # the other one runs later

    class Both(Two):
        def forward(self, pictures):
            self.other(pictures)
            return Reader.forward(self, pictures)

    assert keys(Both(), pictures(1, 3, 24, 24)) is None


def test_windows_of_a_picture_are_not_pictures():
    class Cut(Reader):
        def forward(self, pictures):
            x = self.conv(pictures).unflatten(2, (2, -1)).movedim(2, 1).flatten(0, 1)
            return self.look(x.flatten(2).mT)

    assert keys(Cut(nn.Conv2d(3, D, 8, 8), token=False), pictures(1, 3, 32, 24)) is None


def test_more_samples_than_pictures():
    class Twice(Reader):
        def forward(self, pictures):
            return self.look(self.conv(pictures).flatten(2).mT.repeat(2, 1, 1))

    assert keys(Twice(nn.Conv2d(3, D, 8, 8), token=False), pictures(1, 3, 16, 24)) is None


def test_a_text_beside_the_picture():
    """A text with as many tokens as there are patches, in a module that is given both."""

    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.words = nn.Conv2d(3, D, 8, 8), nn.Embedding(31, D)
            self.look = wqkv.MultiheadAttention(D, 2)

        def forward(self, pictures, ids):
            x = self.conv(pictures).flatten(2).mT
            return self.look(self.words(ids) if ids.shape[1] == 6 else x)

    found = keys(Flat(), pictures(1, 3, 16, 24), torch.arange(7)[None])
    assert found is None


def test_more_tokens_than_the_tower_has():
    class More(Reader):
        def forward(self, pictures):
            x = self.conv(pictures).flatten(2).mT
            return self.look(nn.functional.pad(x, (0, 0, 2, 0)))

    assert keys(More(nn.Conv2d(3, D, 8, 8)), pictures(1, 3, 16, 24)) is None


class Pair(Reader):
    """Two pictures that one convolution cuts, and an attention of each or of one to the other."""

    def __init__(self, other):
        super().__init__(nn.Conv2d(3, D, 8, 8), token=False)
        self.other = other

    def forward(self, pictures, others):
        if self.other == "batch":
            x = self.conv(torch.cat([pictures, others])).flatten(2).mT
            return self.look(x, x.flip(0))
        one, other = (self.conv(x).flatten(2).mT for x in (pictures, others))
        return self.look(one) if self.other == "none" else self.look(one, other)


@pytest.mark.parametrize("other", ["batch", "none", "another"])
def test_two_pictures_of_one_size(other):
    """Which of them the keys are, the sizes do not tell."""
    given = pictures(1, 3, 16, 24)
    assert keys(Pair(other), given, given + 1) is None
