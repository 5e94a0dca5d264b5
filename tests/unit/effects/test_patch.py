"""Patching against the model itself, run with hooks that put the clean run's tensors in."""

from contextlib import contextmanager

import pytest
import torch
from transformers import AutoModelForMaskedLM

from tests.tiny import READ, text, tiny_llama
from tests.unit.effects.conftest import of_family, opened
from wqkv.effects.asked import ask
from wqkv.effects.patch import patch
from wqkv.errors import ArgumentError, KindError
from wqkv.layer.convert import huggingface

N = 11
CLEAN = text(N)
CORRUPTED = " ".join(["lamp", "sea", *CLEAN.split()[2:]])


def spots(model):
    """Per layer: the block, and the module that the heads' outputs go into."""
    blocks = getattr(model.model, "layers", None)
    if blocks is None:
        blocks = model.model.h if hasattr(model.model, "h") else model.model.encoder.layer
    return [
        (block, huggingface.matrices(model.model, layer, None)["WO"])
        for layer, block in enumerate(blocks)
    ]


def input_of(args, kwargs):
    return args[0] if args else kwargs["hidden_states"]


@contextmanager
def hooked(model, before_block, before_WO):
    """Context in which these see, and may replace, what goes into a block and into WO."""

    def enter(layer):
        def hook(_, args, kwargs):
            new = before_block(layer, input_of(args, kwargs))
            if new is None:
                return None
            return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})

        return hook

    def mix(layer):
        return lambda _, args: before_WO(layer, args[0])

    hooks = []
    for layer, (block, WO) in enumerate(spots(model)):
        hooks.append(block.register_forward_pre_hook(enter(layer), with_kwargs=True))
        hooks.append(WO.register_forward_pre_hook(mix(layer)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def run(asked, words: str) -> float:
    given = torch.tensor([asked.model.tokens(words).ids])
    with torch.no_grad():
        return float(asked.terms(asked.speaker(input_ids=given)).sum())


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "bert"])
@pytest.mark.parametrize("what", ["head", "layer", "token"])
def test_what_is_put_in(name, what):
    model = opened(name)
    given = ("lamp", "sea") if model.speaker is not None else (READ,)
    asked, states, outputs = ask(model, CLEAN, *given), {}, {}
    with hooked(model, states.__setitem__, outputs.__setitem__):
        clean = run(asked, CLEAN)
    found = patch(model, CLEAN, CORRUPTED, *given, what=what)
    assert found.clean == pytest.approx(clean, abs=1e-6)
    assert found.corrupted == pytest.approx(run(asked, CORRUPTED), abs=1e-6)
    assert (found.what, found.question) == (what, asked.question)
    assert found.tokens == model.tokens(CORRUPTED).tokens
    n, sizes = len(found.tokens), model.sizes
    shape = {"head": (sizes.n_layer, sizes.n_head), "layer": (sizes.n_layer,)}
    assert found.after.shape == shape.get(what, (sizes.n_layer, n))
    for place in torch.cartesian_prod(*map(torch.arange, found.after.shape)).view(
        -1, found.after.ndim
    ):
        layer, *which = place.tolist()

        def put_state(at, x, layer=layer, which=which):
            if what != "token" or at != layer:
                return None
            x = x.clone()
            x[:, which[0]] = states[at][:, which[0]]
            return x

        def put_output(at, x, layer=layer, which=which):
            if what == "token" or at != layer:
                return None
            by_head = x.unflatten(-1, (sizes.n_head, -1)).clone()
            clean = outputs[at].unflatten(-1, (sizes.n_head, -1))
            heads = slice(None) if what == "layer" else which[0]
            by_head[:, :, heads] = clean[:, :, heads]
            return by_head.flatten(-2)

        with hooked(model, put_state, put_output):
            expected = run(asked, CORRUPTED)
        assert float(found.after[tuple(place)]) == pytest.approx(expected, abs=1e-5)
    assert (found.after - found.corrupted).abs().max() > 1e-3
    back = (found.after - found.corrupted) / (found.clean - found.corrupted)
    torch.testing.assert_close(found.recovered, back)


def test_the_answer_to_each_prompt_where_none_is_named():
    model = tiny_llama()
    first = ask(model, CLEAN).ids[0]
    rival = ask(model, CORRUPTED).ids[0]
    assert first != rival
    found = patch(model, CLEAN, CORRUPTED)
    decode = model.tokenizer.decode
    assert (found.question.answer, found.question.against) == (decode([first]), decode([rival]))
    assert found.clean > 0 > found.corrupted
    named = patch(model, CLEAN, CORRUPTED, decode([rival]))
    assert named.question.answer == decode([rival]) != named.question.against


def test_tokens_whose_text_is_not_their_own():
    """The likeliest tokens are taken by id: a token need not be cut out of what it decodes to."""
    model = tiny_llama()
    first, rival = (ask(model, words).ids[0] for words in (CLEAN, CORRUPTED))
    expected = patch(model, CLEAN, CORRUPTED)
    model.tokenizer.decode = lambda ids: f"<{ids[0]}>"
    found = patch(model, CLEAN, CORRUPTED)
    assert found.question.number == f"logit of '<{first}>' less logit of '<{rival}>'"
    assert torch.equal(found.after, expected.after)


def test_tokens_that_both_prompts_share_bring_nothing_into_the_first_layer():
    found = patch(tiny_llama(), CLEAN, CORRUPTED, "lamp", "sea", what="token")
    assert found.after[0, 3:].tolist() == pytest.approx([found.corrupted] * (N - 2), abs=1e-5)


def test_progress():
    told = []
    patch(
        tiny_llama(), CLEAN, CORRUPTED, "lamp", "sea", what="layer",
        progress=lambda *at: told.append(at),
    )  # fmt: skip
    assert told[-1] == (3, 3)


@pytest.mark.parametrize(
    ("corrupted", "rest", "says"),
    [
        (CORRUPTED, {"what": "word"}, "`what` is 'word'.\nPass one of 'head', 'layer', 'token'."),
        (text(3), {}, "The clean prompt has 12 tokens and the corrupted one 4.\nPass two prompts"),
        (CLEAN, {"answer": "lamp", "against": "sea"}, "The logit of 'lamp' less logit of 'sea' is"),
    ],
)
def test_what_cannot_be_patched(corrupted, rest, says):
    with pytest.raises(ArgumentError) as error:
        patch(tiny_llama(), CLEAN, corrupted, **rest)
    assert says in str(error.value)


def test_a_mask_elsewhere():
    model = of_family("bert", AutoModelForMaskedLM)
    model.tokenizer.add_special_tokens({"mask_token": "lamp"})
    assert model.tokenizer.mask_token_id < model.config.vocab_size
    found = patch(model, "the lamp lit", "a lamp lit", "sea", "boat", what="layer")
    assert found.question.kind == "masked token"
    with pytest.raises(ArgumentError, match="Token 1 is masked in the clean prompt, and 'keeper'"):
        patch(model, "the lamp lit", "the keeper lamp", "sea", "boat")


def test_models_of_two_texts_are_refused():
    with pytest.raises(KindError, match="`model` is an OpenModel, not OpenPair"):
        patch(opened("t5"), CLEAN, CORRUPTED)
