"""A model's mask function as a value: what transformers itself would write out, for every one."""

import inspect

import pytest
import torch

from wqkv import Causal, Full, Segments, Window
from wqkv.attend.masks import And, Dense
from wqkv.errors import EngineError
from wqkv.upstream import of_transformers

transformers = pytest.importorskip("transformers")
pytest.importorskip("wqkv.replace.use")
masking = pytest.importorskip("transformers.masking_utils")
module = pytest.importorskip("wqkv.replace.carried_mask")
Carried, Unknown = module.Carried, module.Unknown

BATCH = 3


def near(b, h, q, k):
    """A rule of a model's own."""
    return (q - k).abs() % 3 == 0


def past_7(b, h, q, k):
    """Takes one index at a time: `torch.where` on scalars, as vmap gives them."""
    return torch.where(k > 7, q == k, q >= k)


LEFT = torch.tensor([0, 4, 1])
BLOCKS = torch.randint(-1, 3, (BATCH, 29), generator=torch.Generator().manual_seed(0))
FUNCTIONS = {
    "causal": (masking.causal_mask_function, Causal),
    "full": (masking.bidirectional_mask_function, Full),
    "window": (masking.sliding_window_causal_mask_function(5), Window),
    "around": (masking.sliding_window_bidirectional_mask_function(3), Window),
    "chunks": (masking.chunked_causal_mask_function(5, LEFT), And),
    "blocks": (
        masking.or_masks(masking.causal_mask_function, masking.blockwise_overlay(BLOCKS)),
        None,
    ),
    "own": (masking.and_masks(masking.causal_mask_function, near), And),
    "own, one at a time": (masking.or_masks(masking.causal_mask_function, past_7), None),
}
# query_len, key_len, where query 0 stands, where key 0 stands
PLACES = {
    "whole": (11, 11, 0, 0),
    "one more token": (1, 13, 12, 0),
    "some more tokens": (3, 13, 10, 0),
    "static cache": (7, 19, 0, 0),
    "static cache, later": (2, 19, 9, 0),
    "window cache": (1, 5, 17, 13),
    "window cache, some more tokens": (3, 7, 17, 13),
}


def padding(kind, n):
    tokens = torch.ones(BATCH, n, dtype=torch.bool)
    if kind in ("left", "both"):
        tokens[0, :3] = tokens[1, :1] = False
    if kind in ("right", "both"):
        tokens[2, -2:] = False
    if kind == "holes":
        tokens[1, 2:4] = tokens[0, 1] = False
    return tokens


def requested(function, place, tokens=None, use_vmap=False):
    return module.RequestedMask(
        BATCH, *place, function, tokens, use_vmap, torch.device("cpu"), torch.float32
    )


@pytest.mark.parametrize("kind", ["none", "left", "right", "both", "holes"])
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_transformers_would_write(name, place, kind):
    query_len, key_len, _, key_start = place
    function, _ = FUNCTIONS[name]
    tokens = None if kind == "none" else padding(kind, key_start + key_len)
    written = masking.sdpa_mask(
        BATCH, *place, function, tokens, allow_is_causal_skip=False, use_vmap="one" in name
    )
    got = requested(function, place, tokens, "one" in name)
    seen = got.mask.dense(query_len, key_len, got.offset)
    assert torch.equal(seen.expand(BATCH, 1, -1, -1), written)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values(name):
    function, kind = FUNCTIONS[name]
    if kind is not None:
        assert isinstance(requested(function, PLACES["whole"]).mask, kind)


def test_value_of_a_window_is_exact():
    whole = PLACES["whole"]
    assert requested(FUNCTIONS["window"][0], whole).mask == Window(4, 0)
    assert requested(FUNCTIONS["around"][0], whole).mask == Window(3, 3)
    assert repr(requested(FUNCTIONS["own"][0], whole).mask) == "(Causal() & Unknown(near))"


def test_what_hides_nothing_is_left_out():
    tokens = padding("none", 13)
    assert requested(FUNCTIONS["causal"][0], PLACES["one more token"], tokens).mask == Full()
    assert (
        requested(masking.sliding_window_causal_mask_function(40), PLACES["whole"]).mask == Causal()
    )


@pytest.mark.parametrize(
    ("kind", "make", "part"),
    [
        ("llama", masking.create_causal_mask, Causal()),
        ("mistral", masking.create_sliding_window_causal_mask, Window(2, 0)),
    ],
)
def test_packed_texts(kind, make, part):
    """Whatever functions a version of transformers makes such a mask of."""
    takes = inspect.signature(make).parameters
    given = {
        "inputs_embeds": torch.zeros(1, 11, 5),
        "attention_mask": None,
        "position_ids": torch.tensor([[0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 3]]),
        "cache" if "cache" in takes else "past_key_values": None,
    }
    made = {}
    for name in ("wqkv", "sdpa"):
        config = transformers.AutoConfig.for_model(kind)
        config.sliding_window, config._attn_implementation = 3, name
        made[name] = make(config=config, **given)
    got = made["wqkv"].requested.mask
    assert repr(got.parts[0]) == repr(part)
    assert isinstance(got.parts[1], Segments)
    assert torch.equal(got.dense(11, 11).view(11, 11), made["sdpa"].view(11, 11))


def test_positions_that_restart_outside_of_texts_stay_a_function():
    remap = of_transformers.positions_of_packed_texts()
    if remap is None:
        pytest.skip(f"transformers {transformers.__version__} counts from the first position")
    function = remap(masking.causal_mask_function, torch.tensor([[0, 1, 2, 0, 1]]))
    got = module.RequestedMask(
        1, 5, 5, 0, 0, function, None, False, torch.device("cpu"), torch.float32
    )
    assert isinstance(got.mask.parts[0] if isinstance(got.mask, And) else got.mask, Unknown)
    written = masking.sdpa_mask(1, 5, 5, 0, 0, function, allow_is_causal_skip=False)
    assert torch.equal(got.mask.dense(5, 5), written)


def test_a_function_of_its_own_is_asked_about_chosen_pairs():
    from wqkv.attend.geometry import At

    mask = requested(near, PLACES["some more tokens"]).mask
    b, row, k = torch.tensor([0, 2]), torch.tensor([1, 2]), torch.tensor([2, 5])
    at = At(b, torch.zeros_like(b), row, row + 10, k)
    assert mask.visible(at).tolist() == [(11 - 2) % 3 == 0, (12 - 5) % 3 == 0]
    assert str(mask).splitlines()[0] == "Unknown(near)"


@pytest.fixture
def carried():
    tokens = padding("both", 11)
    return module.request_mask(
        BATCH, 11, 11, mask_function=FUNCTIONS["window"][0], attention_mask=tokens
    ), masking.eager_mask(
        BATCH, 11, 11, mask_function=FUNCTIONS["window"][0], attention_mask=tokens
    )


@pytest.mark.parametrize(
    "do",
    [
        lambda x: x[..., :7],
        lambda x: x[:, :, 2:5],
        lambda x: x[:, :, -4:, 1:9],
        lambda x: x.contiguous(),
        lambda x: x.clone(),
        lambda x: x.detach(),
        lambda x: x.to(torch.float64),
        lambda x: x.to("cpu"),
    ],
)
def test_on_its_way_it_stays_a_value(carried, do):
    value, written = carried
    got, want = do(value), do(written)
    assert isinstance(got, Carried)
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    assert torch.equal(got.requested.mask.dense(*got.shape[2:], got.requested.offset), want == 0)


@pytest.mark.parametrize(
    "do",
    [
        lambda x: x + 1,
        lambda x: torch.cat([x, x], dim=-1),
        lambda x: x[:, 0],
        lambda x: x == 0,
        lambda x: x.bool(),
        lambda x: torch.where(x < 0, 1.0, 2.0),
        lambda x: x[..., ::2],
    ],
)
def test_computed_with_it_is_the_eager_mask(carried, do):
    value, written = carried
    got = do(value)
    assert not isinstance(got, Carried)
    assert torch.equal(got, do(written))


def test_it_prints(carried):
    assert repr(carried[0]).startswith("Carried((Window(before=4, after=0) & ")
    assert "f32[3, 1, 11, 11] on cpu" in repr(carried[0])


def test_written_out_up_to_a_limit(carried, monkeypatch):
    monkeypatch.setattr(module, "MOST_PAIRS", 362)
    with pytest.raises(EngineError, match=r"aten.add.*11 x 11 .* batch of 3 .* 0\.00 GiB") as e:
        carried[0] + 1
    assert "362 pairs" in str(e.value)
    monkeypatch.setattr(module, "MOST_PAIRS", 363)
    assert torch.equal(carried[0] + 1, carried[1] + 1)


def test_holes_are_one_row_a_sample():
    mask = requested(FUNCTIONS["full"][0], PLACES["whole"], padding("holes", 11)).mask
    assert isinstance(mask, Dense)
    assert mask.matrix.shape == (BATCH, 1, 1, 11)
