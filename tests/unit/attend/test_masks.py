"""Masks against matrices written by hand, and what they say of rectangles against these."""

from itertools import product

import pytest
import torch

from wqkv.attend.functional import attention
from wqkv.attend.geometry import At, Rect, Sizes, places
from wqkv.attend.masks import (
    Causal,
    Chunked,
    Dense,
    Full,
    Lengths,
    Mask,
    Prefix,
    Segments,
    Window,
)
from wqkv.errors import ArgumentError, KindError

N = 7


def picture(mask: Mask, query_len: int, key_len: int, offset: int = 0, sample: int = 0) -> str:
    matrix = mask.dense(query_len, key_len, offset)[sample, 0].int().tolist()
    return " ".join("".join(map(str, row)) for row in matrix)


@pytest.mark.parametrize(
    ("mask", "offset", "seen"),
    [
        (Full(), 0, "11111 11111 11111"),
        (Causal(), 0, "10000 11000 11100"),
        (Causal(), 2, "11100 11110 11111"),
        (Causal(), -2, "00000 00000 10000"),
        (Causal(), 7, "11111 11111 11111"),
        (Window(1, 0), 0, "10000 11000 01100"),
        (Window(1, 0), 2, "01100 00110 00011"),
        (Window(0, 2), 0, "11100 01110 00111"),
        (Window(None, 1), 0, "11000 11100 11110"),
        (Window(1, None), 2, "01111 00111 00011"),
        (Window(None, None), 0, "11111 11111 11111"),
        (Window(0, 0), 1, "01000 00100 00010"),
        (Chunked(2), 0, "11000 11000 00110"),
        (Chunked(2), -1, "00000 11000 11000"),
        (Chunked(3), 4, "00011 00011 00000"),
        (Lengths([3]), 0, "11100 11100 11100"),
        (Lengths([0]), 0, "00000 00000 00000"),
        (Prefix(0), 0, "10000 11000 11100"),
        (Prefix(2), 0, "11000 11000 11100"),
        (Segments([[5, 5, 2, 2, 2]]), 0, "11000 11000 00111"),
        (Segments([[5, 5, 2, 2, 2]]), 2, "00111 00111 00111"),
        (Segments([[1, 2, 1, 2, 1]]), 0, "10101 01010 10101"),
        (Segments([[1, 2, 1, 3, 1]], [[3, 1, 4]]), 0, "00010 10101 00000"),
        (Segments([[1, 2, 1, 3, 1]], [[3, 1, 4]]), 2, "00010 10101 00000"),
        (Dense(torch.eye(3, 5).bool()), 0, "10000 01000 00100"),
        (Dense(torch.eye(3, 5).bool()), 2, "10000 01000 00100"),
        (~Causal(), 0, "01111 00111 00011"),
        (~Lengths([2]), 0, "00111 00111 00111"),
        (Causal() & Window(1, 1), 2, "01100 00110 00011"),
        (Window(0, 0) | Lengths([1]), 0, "10000 11000 10100"),
        (~(Causal() | Window(None, 1)), 0, "00111 00011 00001"),
        (Causal() & ~Window(1, 0) | Window(0, 0), 2, "10100 11010 11101"),
        (Causal() & Segments([[0, 0, 1, 1, 1]]), 2, "00100 00110 00111"),
    ],
    ids=repr,
)
def test_dense(mask, offset, seen):
    assert picture(mask, 3, 5, offset) == seen


def test_dense_has_one_matrix_a_sample_and_head():
    assert [picture(Lengths([1, 3]), 2, 3, sample=b) for b in (0, 1)] == ["100 100", "111 111"]
    assert [picture(Prefix([0, 2]), 2, 3, sample=b) for b in (0, 1)] == ["100 110", "110 110"]
    packed = Segments([[0, 0, 1], [0, 1, 1]])
    assert [picture(packed, 2, 3, sample=b) for b in (0, 1)] == ["110 110", "100 011"]
    stored = torch.rand(2, 3, 5, 7) < 0.7
    assert (Dense(stored).dense(5, 7) == stored).all()
    assert (Dense(stored) & Lengths([3, 5])).dense(5, 7).shape == (2, 3, 5, 7)
    offsets = Causal().dense(2, 3, torch.tensor([0, 1]))
    assert offsets[:, 0].int().tolist() == [[[1, 0, 0], [1, 1, 0]], [[1, 1, 0], [1, 1, 1]]]


BY_STRUCTURE = [
    Full(),
    Causal(),
    Window(2, 0),
    Window(1, 3),
    Window(None, 1),
    Window(2, None),
    Window(0, 0),
    Chunked(1),
    Chunked(3),
    Lengths([5]),
    Lengths([3, 7]),
    Lengths([0, 2]),
    Segments([[0, 0, 0, 1, 1, 2, 2]]),
    Segments([[3, 3, 5, 5, 5, 5, 5], [1, 2, 3, 4, 5, 6, 7]]),
]
OTHERS = [
    Prefix(3),
    Prefix([0, 5]),
    Segments([[2, 2, 1, 1, 2, 2, 0]]),
    Segments([[1, 1, 2, 2, 3, 3, 3]], [[3, 3, 2, 2, 1, 1, 1]]),
    Dense(torch.ones(N, N).bool()),
    ~Causal(),
    ~Lengths([2, 5]),
    Causal() & Window(2, 1),
    Causal() & Segments([[0, 0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 1, 1, 2]]),
    Window(1, 1) | Lengths([3, 0]),
    ~(Causal() | Lengths([3])) & Window(None, 2),
]


def answers(mask: Mask):
    """(region's answer, all visible, none visible) for every small rectangle of every sample."""
    matrix = mask.dense(N, N)
    spans = [(a, b) for a in range(N) for b in range(a + 1, N + 1)]
    for sample in (None, *range(len(matrix))):
        samples = matrix if sample is None else matrix[sample : sample + 1]
        for (q0, q1), (k0, k1) in product(spans, spans):
            tile = samples[:, 0, q0:q1, k0:k1]
            rect = Rect(sample, q0, q1, k0, k1)
            yield mask.region(rect), bool(tile.all()), not bool(tile.any())


@pytest.mark.parametrize("mask", BY_STRUCTURE + OTHERS, ids=repr)
def test_region_is_never_wrong(mask):
    said = [(answer, full, empty) for answer, full, empty in answers(mask) if answer is not None]
    assert all(full if answer else empty for answer, full, empty in said)


@pytest.mark.parametrize("mask", BY_STRUCTURE[:13], ids=repr)
def test_region_is_unknown_only_where_mixed(mask):
    unknown = [(full, empty) for answer, full, empty in answers(mask) if answer is None]
    assert not any(full or empty for full, empty in unknown)


@pytest.mark.parametrize(
    ("mask", "rect", "answer"),
    [
        (Causal() & Lengths([3]), (0, 1, 3, 5), False),
        (Lengths([3]) & Causal(), (0, 1, 2, 3), False),
        (Lengths([3]) & Causal(), (3, 5, 0, 2), True),
        (Lengths([3]) & Causal(), (3, 5, 2, 4), None),
        (Lengths([3]) | Causal(), (3, 5, 2, 4), True),
        (Causal() | Lengths([3]), (0, 1, 1, 3), True),
        (Causal() | Lengths([3]), (0, 2, 3, 5), False),
        (Causal() | Lengths([3]), (2, 4, 2, 4), None),
        (~Causal(), (0, 2, 3, 5), True),
        (~Causal(), (3, 5, 0, 2), False),
        (~Causal(), (3, 5, 3, 5), None),
        (Prefix(3), (0, 1, 0, 3), True),
        (Prefix(3), (0, 1, 3, 5), False),
        (Prefix(3), (5, 7, 3, 5), True),
    ],
    ids=repr,
)
def test_region_of_combinations(mask, rect, answer):
    """One part that knows is enough where one part decides."""
    assert mask.region(Rect(None, *rect)) is answer


def test_region_of_samples_that_are_planned_alone():
    """Segments of several samples answer only for one of them, and say so."""
    packed = BY_STRUCTURE[13]
    assert packed.per_sample
    assert packed.region(Rect(None, 0, 1, 0, 1)) is None
    assert packed.region(Rect(0, 0, 2, 0, 2)) is True
    assert packed.region(Rect(1, 0, 2, 2, 3)) is False


@pytest.mark.parametrize(
    ("mask", "by_position", "per_sample"),
    [
        (Full(), False, False),
        (Causal(), True, False),
        (Window(2, 3), True, False),
        (Lengths([3]), False, False),
        (Lengths([3, 5]), False, True),
        (Prefix(3), True, False),
        (Prefix([3, 5]), True, True),
        (Segments([[1, 2]]), True, False),
        (Segments([[1, 2], [1, 1]]), True, True),
        (Segments([[1, 2]], [[1]]), False, False),
        (Dense(torch.ones(2, 3).bool()), False, False),
        (Causal() & Lengths([3, 5]), True, True),
        (Lengths([3]) | Full(), False, False),
        (~Prefix([3, 5]), True, True),
    ],
    ids=repr,
)
def test_what_a_mask_depends_on(mask, by_position, per_sample):
    assert (mask.by_position, mask.per_sample) == (by_position, per_sample)


@pytest.mark.parametrize(
    ("mask", "sample", "cuts"),
    [
        (Causal(), 0, []),
        (Lengths([3, 5]), 1, [5]),
        (Lengths([3, 5]), None, [3, 5]),
        (Lengths([3]), 4, [3]),
        (Segments([[7, 7, 2, 2, 2]]), None, [0, 2, 5]),
        (Segments([[1, 1, 2], [1, 2, 2]]), 1, [0, 1, 3]),
        (Segments([[1, 1, 2], [1, 2, 2]]), None, []),
        (Segments([[1, 1, 2]]) & ~Prefix(2), 0, [0, 2, 3, 2]),
    ],
    ids=repr,
)
def test_cuts(mask, sample, cuts):
    assert list(mask.cuts(sample)) == cuts


def test_numbers_on_another_device_are_not_read():
    hidden = torch.tensor([3, 5], device="meta")
    lengths, packed = Lengths(hidden), Segments(hidden[None])
    assert repr(lengths) == "Lengths(i64[2] on meta)"
    for mask in (lengths, packed):
        assert (mask.region(Rect(0, 0, 1, 0, 1)), list(mask.cuts(0))) == (None, [])
        assert not mask.per_sample
    lengths.check(Sizes(2, 3, 5, 2))


@pytest.mark.parametrize("make", [Lengths, Prefix, lambda x: Segments(x[None], x[None])])
def test_a_mask_stays_what_it_was_made(make):
    numbers = torch.tensor([1, 2])
    mask = make(numbers)
    before, drawn = mask.dense(2, 2), str(mask)
    numbers += 1
    assert (mask.dense(2, 2) == before).all()
    assert str(mask) == drawn
    assert [tensor.flatten().tolist() for tensor in mask.tensors()] == [[1, 2]] * len(
        mask.tensors()
    )


@pytest.mark.parametrize(
    ("mask", "drawing"),
    [
        (
            Window(0, 1) & Lengths([3]),
            ["(Window(before=0, after=1) & Lengths([3]))", "1 1 0", "0 1 1", "0 0 1"],
        ),
        (
            Dense(torch.tensor([[True, False, True]] * 2)),
            ["Dense(bool[1, 1, 2, 3] on cpu)", "1 0 1", "1 0 1"],
        ),
        (~Segments([[4, 4, 5]]), ["~Segments(i64[1, 3] on cpu)", "0 0 1", "0 0 1", "1 1 0"]),
        (Segments([[1]], [[1]]), ["Segments(i64[1, 1] on cpu, i64[1, 1] on cpu)", "1"]),
        (
            Window(1, 0) | Prefix(2),
            "(Window(before=1, after=0) | Prefix([2]))\n1 1 0 0 0 0\n1 1 0 0 0 0\n1 1 1 0 0 0\n"
            "1 1 1 1 0 0\n1 1 1 1 1 0\n1 1 1 1 1 1".splitlines(),
        ),
        (
            Segments([[1, 2, 1]], [[1, 3]]),
            ["Segments(i64[1, 3] on cpu, i64[1, 2] on cpu)", "1 0 1", "0 0 0"],
        ),
        (
            ~Dense(torch.tensor([[True, True, False]] * 2)) | Causal(),
            ["(~Dense(bool[1, 1, 2, 3] on cpu) | Causal())", "1 0 1", "1 1 1"],
        ),
        (Lengths([2, 3]), ["Lengths([2, 3])", "1 1 0", "1 1 0", "1 1 0"]),
    ],
    ids=repr,
)
def test_drawing(mask, drawing):
    assert str(mask).splitlines() == drawing


def test_long_masks_are_drawn_in_part():
    masks = [Segments([[0] * 101]), Dense(torch.ones(29, 31).bool()), Lengths([37]) & Causal()]
    assert [len(str(mask).splitlines()) for mask in masks] == [1 + 24] * 3
    assert {len(row) for row in str(masks[1]).splitlines()[1:]} == {2 * 24 - 1}


def test_algebra_has_values():
    assert Full() & Causal() == Causal() == Causal() & Full()
    assert ~~Causal() == Causal()
    assert Causal() & Window(1, 0) == Causal() & Window(1, 0)
    assert Causal() & Window(1, 0) != Causal() | Window(1, 0)
    assert ~Causal() != ~Full()
    assert len({~Causal(), ~Causal(), Causal() | Full(), Causal() | Full(), Causal()}) == 3


def test_both_ways_of_cutting_agree():
    torch.manual_seed(0)
    box = (slice(1, 2), 3, slice(1, 4), slice(2, 6))
    at = places(box, 5)
    gather = At(*at[:5])
    for shape in product((1, 2), (1, 3), (1, 5), (1, 7)):
        stored = torch.rand(shape)
        expected = stored.expand(2, 3, 5, 7)[1:2, :, 1:4, 2:6]
        assert (at.cut(stored) == expected).all()
        assert (gather.cut(stored) == expected).all()
    assert at.query_pos.flatten().tolist() == [6, 7, 8]


def test_places_with_an_offset_a_sample():
    at = places((slice(1, 3), 2, slice(0, 2), slice(0, 1)), torch.tensor([10, 20, 30]))
    assert at.query_pos.squeeze().tolist() == [[20, 21], [30, 31]]


@pytest.mark.parametrize("mask", BY_STRUCTURE + OTHERS, ids=repr)
def test_by_shift_means_that_only_the_difference_counts(mask):
    matrix = mask.dense(N, N)
    shifted = bool((matrix[:, :, 1:, 1:] == matrix[:, :, :-1, :-1]).all())
    assert shifted or not mask.by_shift


def test_masks_of_differences_say_so():
    by_shift = [Full(), Causal(), Window(1, None), ~Causal(), Causal() & Window(2, 0) | ~Full()]
    assert all(mask.by_shift for mask in by_shift)


# Errors

LABELS = torch.tensor([[3, 5]])
DENSE_FLOAT = torch.tensor([[0.5, -1.0]])


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: Window(-2, 0), ArgumentError, "`before` is -2.*0 for none"),
        (lambda: Window(0, -3), ArgumentError, "`after` is -3"),
        (lambda: Window(0, 1.5), KindError, "`after` is an int or None, not float 1.5"),
        (lambda: Window(True, 1), KindError, "`before` is an int or None, not bool True"),
        (lambda: Chunked(2.5), KindError, "`size` is an int, not float 2.5"),
        (lambda: Chunked(0), ArgumentError, "`size` is 0.*1 token or more"),
        (lambda: Lengths(5), KindError, r"not int 5\.\nPass \[5\]"),
        (lambda: Lengths([3, -1]), ArgumentError, "`lengths` has a length of -1"),
        (lambda: Prefix(-2), ArgumentError, "`length` has a length of -2"),
        (
            lambda: Lengths([1.0, 2.0]),
            KindError,
            r"`lengths` is a list of ints or a tensor, not list \[1.0",
        ),
        (lambda: Lengths(torch.ones(2)), KindError, r"`lengths` holds whole.*f32\[2\]"),
        (
            lambda: Prefix(True),
            KindError,
            "`length` is an int, a list of ints or a tensor, not bool",
        ),
        (lambda: Lengths(LABELS), ArgumentError, "`lengths` has 1 axis, not 2.*one length per"),
        (
            lambda: Segments(LABELS[0]),
            ArgumentError,
            "`labels` has 2 axes, not 1.*one label per pos",
        ),
        (lambda: Segments([[3]], LABELS[0]), ArgumentError, "`query_labels` has 2 axes, not 1"),
        (lambda: Segments([3, 5]), KindError, "`labels` is a list of lists of ints or a tensor"),
        (lambda: Segments([[3, 5], [7]]), ArgumentError, "`labels` makes no tensor.*rows of one l"),
        (
            lambda: Lengths([2, 3]).part(4, 3),
            ArgumentError,
            "no part from key 4 of 3 and from row 0",
        ),
        (
            lambda: Causal().part(1, 3, row=-2),
            ArgumentError,
            "no part from key 1 of 3 and .* row -2",
        ),
        (
            lambda: Causal().dense(2, 3, torch.tensor([0.5])),
            KindError,
            r"counts positions.*f32\[1\]",
        ),
        (lambda: Full().dense(2, -3), ArgumentError, "no matrix of 2 queries and -3 keys"),
        (lambda: Dense(torch.eye(2, 3)), KindError, r"f32\[2, 3\].*only 0 and 1.*matrix.bool"),
        (lambda: Dense(DENSE_FLOAT), KindError, r"f32\[1, 2\].*is a bias: pass it as `bias`"),
        (lambda: Dense(torch.ones(2, 3).int()), KindError, r"i32\[2, 3\].*`matrix.bool\(\)`"),
        (lambda: Dense([[True]]), KindError, r"`matrix` is a tensor, not list \[\[True\]\]"),
        (lambda: Dense(torch.ones(2, 3, 5).bool()), ArgumentError, "2 or 4 axes, not 3.*padding"),
        (lambda: Causal() & 3, KindError, "combines with a mask, not with int 3"),
        (lambda: Full() & 3, KindError, "not with int 3"),
        (lambda: Causal() | torch.ones(2), KindError, r"not with f32\[2\] on cpu"),
    ],
)
def test_what_is_no_mask(make, error, says):
    with pytest.raises(error, match=f"(?s){says}"):
        make()


@pytest.mark.parametrize(
    ("mask", "sizes", "says"),
    [
        (Lengths([3, 5]), (3, 2, 5, 7), "2 lengths for a batch of 3"),
        (Lengths([3, 11]), (2, 2, 5, 7), "length of 11, but there are 7 keys.*from 0 to 7"),
        (Prefix(11), (2, 2, 5, 7), "Prefix has a length of 11, but there are 7 keys"),
        (Segments([[1] * 5]), (2, 2, 5, 7), "labels 5 positions in 1 samples; .* 7 keys .*of 2"),
        (Segments([[1] * 7] * 3), (2, 2, 5, 7), "labels 7 positions in 3 samples;.*batch of 2"),
        (Segments([[1] * 7], [[1] * 3]), (None, None, 5, 7), "`query_labels` labels 3.*of any"),
        (Dense(torch.ones(3, 7).bool()), (2, 2, 5, 7), r"are 2, 2, 5, 7.*bool\[1, 1, 3, 7\]"),
        (Dense(torch.ones(3, 7).bool()), (None, None, 5, 7), "are any, any, 5, 7"),
        (Causal() & ~Prefix(11), (2, 2, 5, 7), "length of 11, but there are 7 keys"),
    ],
    ids=repr,
)
def test_what_does_not_fit(mask, sizes, says):
    with pytest.raises(ArgumentError, match=f"(?s){says}"):
        mask.check(Sizes(*sizes))


def test_dense_matrix_checks_the_lengths():
    with pytest.raises(ArgumentError, match="length of 5, but there are 3 keys"):
        Lengths([5]).dense(2, 3)


def test_a_matrix_that_hides_most_is_asked_about():
    matrix = torch.tensor([[False, False], [False, False], [True, False]])
    with pytest.warns(UserWarning, match='leaves 2 of 3 queries without any key.*True means "may'):
        Dense(matrix)
    Dense(~matrix)  # warnings are errors here


@pytest.mark.parametrize("method", ["visible", "region"])
def test_a_new_mask_says_what_it_sees(method):
    with pytest.raises(NotImplementedError):
        getattr(Mask(), method)(None)


@pytest.mark.parametrize("offset", [-2, 3, 9])
def test_segments_hide_all_from_queries_beyond_the_labels(offset):
    mask = Segments([[0, 0, 1, 1, 1]])
    seen = mask.dense(3, 5, query_offset=offset)[0, 0]
    labels = [0, 0, 1, 1, 1]
    for i in range(3):
        at = offset + i
        inside = 0 <= at < 5
        assert seen[i].tolist() == [inside and labels[at] == label for label in labels]
    q, k = torch.randn(1, 1, 3, 4), torch.randn(1, 1, 5, 4)
    for engine in ("tiled", "reference"):
        out = attention(q, k, k, mask=mask, query_offset=offset, engine=engine)
        assert (out[0, 0] == 0).all(dim=-1).tolist() == (~seen.any(dim=-1)).tolist()


NO_KEYS = torch.zeros(2, 0, dtype=torch.long)


@pytest.mark.parametrize("engine", ["auto", "reference"])
@pytest.mark.parametrize("more", [lambda m: m, lambda m: ~m, lambda m: m & Causal()])
@pytest.mark.parametrize(
    "mask",
    [
        Segments(NO_KEYS),
        Segments(NO_KEYS[:1]),
        Segments([[]]),
        Segments(NO_KEYS, [[1, 2, 3]]),
        Dense(torch.ones(2, 1, 3, 0, dtype=torch.bool)),
        Lengths([0, 0]),
        Prefix(0),
        Window(2, 1),
        Chunked(3),
    ],
    ids=repr,
)
def test_masks_over_no_keys(mask, more, engine):
    mask = more(mask)
    q = torch.randn(2, 3, 3, 5, requires_grad=True)
    k, v = (torch.randn(2, 3, 0, d, requires_grad=True) for d in (5, 7))
    out, lse = attention(q, k, v, mask=mask, query_offset=1, engine=engine, return_lse=True)
    assert out.shape == (2, 3, 3, 7) and not out.any() and (lse == -torch.inf).all()
    out.sum().backward()
    assert not q.grad.any()
    assert mask.dense(3, 0).shape[2:] == (3, 0)
    assert str(mask).startswith(repr(mask))
