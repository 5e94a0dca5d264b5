"""KL of every head and row against dense float64, and what is said of two models."""

from contextlib import contextmanager

import pytest
import torch
from tokenizers import models, processors
from torch import nn

from tests.tiny import text, tiny_llama
from wqkv import ArgumentError, KindError, Quantized, diff
from wqkv.effects import diff as module
from wqkv.maps.attention_map import AttentionMap
from wqkv.study.heads import record_maps
from wqkv.study.model import OpenModel

LAYERS, HEADS, N = 3, 6, 19  # N: 18 tokens of the text behind <s>
TEXT = text(N - 1)


def turned(layer: int = 1, by: float = 1.3) -> OpenModel:
    """The tiny model with WQ of one layer multiplied by a number."""
    model = tiny_llama()
    with torch.no_grad():
        model.model.layers[layer].self_attn.q_proj.weight *= by
    return model


def dense(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """KL(A || B) of the rows of two N x N matrices of weights."""
    return (torch.xlogy(a, a) - torch.xlogy(a, b)).sum(dim=-1)


def weights(model: OpenModel) -> torch.Tensor:
    """The eager path's weights in float64: (layer, head, query, key)."""
    ids = torch.tensor([model.tokens(TEXT).ids])
    twin = model.model.to(torch.float64)
    twin.set_attn_implementation("eager")
    with torch.no_grad():
        return torch.cat(twin(ids, output_attentions=True).attentions)


@pytest.fixture(scope="module")
def found() -> module.Diff:
    return diff(tiny_llama(), turned(), TEXT)


def test_kl_of_every_row_is_the_dense_one(found):
    exact = dense(weights(tiny_llama()), weights(turned()))
    assert found.kl.shape == exact.shape == (LAYERS, HEADS, N)
    assert ((found.kl - exact).abs() <= found.rounding[..., None]).all()
    assert exact[1:].max() > 0.05 and exact[0].max() == 0
    other_way = dense(weights(turned()), weights(tiny_llama()))
    assert ((found.kl - other_way).abs() > found.rounding[..., None]).any()  # KL has a direction


def test_heads_are_ranked_and_those_below_rounding_stand_last(found):
    assert [(one.layer, one.head) for one in found.heads[-HEADS:]] == [(0, h) for h in range(HEADS)]
    assert all(one.below_rounding == (one.layer == 0) for one in found.heads)
    means = [one.mean for one in found.heads[:-HEADS]]
    assert means == sorted(means, reverse=True)
    for one in found.heads:
        rows = found.kl[one.layer, one.head]
        assert one.mean == float(rows.mean())
        assert one.largest.kl == float(rows.max()) == float(rows[one.largest.query])
        assert one.rounding == float(found.rounding[one.layer, one.head])


def test_rounding_is_a_share_of_the_largest_lse(found):
    lse = torch.stack([torch.cat((a.lse, b.lse))[:, 4].abs().max() for a, b in found.maps])
    torch.testing.assert_close(found.rounding[:, 4], 1e-5 * (1 + lse))


def test_a_row_names_the_keys_where_most_weight_moved(found):
    row = found.heads[0].largest
    a, b = (one[0, row.head, row.query] for one in found.maps[row.layer])
    moved = (a - b).abs()
    assert [one.key for one in row.keys] == moved.topk(module.LISTED_KEYS).indices.tolist()
    for one in row.keys:
        assert (one.a, one.b) == (float(a[one.key]), float(b[one.key]))
    assert found.heads[-1].largest.keys == ()  # no weight moved


def test_the_tokens_where_the_models_differ_most(found):
    real = found.kl.where(found.kl > found.rounding[..., None], 0)
    means = real.mean(dim=(0, 1))
    assert [one.query for one in found.rows] == means.argsort(descending=True)[: N - 1].tolist()
    for one in found.rows:
        row = one.largest
        assert one.mean == pytest.approx(float(means[one.query]))
        assert row.query == one.query
        assert row.kl == float(real[..., one.query].max()) > 0
    assert found.tokens[0] == "<s>" and 0 not in [one.query for one in found.rows]


def test_a_model_does_not_differ_from_itself():
    same = diff(tiny_llama(), tiny_llama(), TEXT)
    assert all(one.below_rounding for one in same.heads) and same.rows == ()
    assert repr(same).endswith("3 layers x 6 heads, 19 tokens, 18 heads below rounding")


# One model in two ways


@pytest.mark.parametrize(("bits", "group"), [(8, None), (4, None), (4, 7)])
def test_keys_as_a_cache_gives_them_back(bits, group):
    """Each layer by itself: its q, and its input, are those of the model."""
    model = tiny_llama()
    found = diff(model, Quantized(bits, group), TEXT)
    exact = record_maps(model, model.tokens(TEXT).ids)
    for layer, (a, b) in enumerate(found.maps):
        call = exact[layer]._numbers.given
        (held,) = Quantized(bits, group).append(call.key, call.value)
        theirs = AttentionMap(call.query, held.k, mask=call.rules.mask, scale=call.scale)
        assert torch.equal(a[:], exact[layer][:]) and torch.equal(b[:], theirs[:])
    assert found.b == f"tiny-llama, keys of {bits} bits" and "not carried" in found.how
    assert ("every 7 channels of each token" in found.how) == (group == 7)
    assert (0 < found.kl.mean() < 1e-3) == (bits == 8)


def test_fewer_bits_differ_more():
    model = tiny_llama()
    by_bits = {bits: float(diff(model, Quantized(bits), TEXT).kl.mean()) for bits in (8, 4)}
    assert by_bits[4] > 50 * by_bits[8] > 0


def test_a_function_that_switches_the_model():
    model = tiny_llama()
    WQ = model.model.layers[1].self_attn.q_proj.weight

    @contextmanager
    def louder():
        with torch.no_grad():
            WQ.mul_(1.3)
            yield
            WQ.div_(1.3)

    found = diff(model, louder, TEXT)
    assert found.b == "tiny-llama in louder()"
    torch.testing.assert_close(found.kl, diff(tiny_llama(), turned(), TEXT).kl, atol=1e-6, rtol=0)


# peft 0.18 asks transformers 5 by a name that goes with its version 6
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_an_adapter_on_and_off():
    peft = pytest.importorskip("peft")
    model, plain = tiny_llama(), tiny_llama()
    config = peft.LoraConfig(r=5, target_modules=["q_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(model.speaker, config).eval()
    found = diff(model, adapted.disable_adapter, TEXT)
    assert found.b == "tiny-llama in disable_adapter()" and not found.heads[0].below_rounding
    torch.testing.assert_close(found.kl, diff(model, plain, TEXT).kl)


# Progress and mistakes


@pytest.mark.parametrize(("other", "total"), [(tiny_llama, 9), (lambda: Quantized(8), 6)])
def test_progress_counts_every_layer(other, total):
    told = []
    diff(tiny_llama(), other(), TEXT, progress=lambda *at: told.append(at))
    assert told == [(done, total) for done in range(total + 1)]


@pytest.mark.parametrize("last", range(9))
def test_cancel(last):
    class Stop(Exception): ...

    def stop(done: int, total: int) -> None:
        if done == last:
            raise Stop

    model = tiny_llama()
    with pytest.raises(Stop):
        diff(model, turned(), TEXT, progress=stop)
    assert not any(one._forward_hooks for one in model.model.modules())


def cut_by(**parts: object) -> OpenModel:
    """The tiny model with other parts in its tokenizer."""
    model = tiny_llama()
    for name, part in parts.items():
        setattr(model.tokenizer.backend_tokenizer, name, part)
    return model


def other_ids() -> OpenModel:
    return cut_by(model=models.WordLevel({"the": 5, "<unk>": 3, "<s>": 0}, "<unk>"))


def one_more() -> OpenModel:
    ends = [("<s>", 0), ("</s>", 1)]
    return cut_by(post_processor=processors.TemplateProcessing("<s> $A </s>", special_tokens=ends))


@pytest.mark.parametrize(
    ("b", "message"),
    [
        (lambda: tiny_llama(2), "has 3 layers x 6 heads, and tiny-llama 2 x 6"),
        (other_ids, r"token 1 is 'the' \(id 3\) in the first and 'the' \(id 5\) in the second"),
        (one_more, r"token 7 is missing in the first and '</s>' \(id 1\) in the second"),
        (lambda: Quantized(4, group=5), "14 channels, no multiple of the group of 5"),
    ],
)
def test_models_that_cannot_be_compared(b, message):
    with pytest.raises(ArgumentError, match=message):
        diff(tiny_llama(), b(), "the keeper lamp , the lamp")


@pytest.mark.parametrize("b", [nn.Linear(2, 3), lambda: nn.Linear(2, 3), lambda: 0])
def test_what_is_no_second_model(b):
    with pytest.raises(
        KindError, match=r"and there is (nn.Module Linear|int 0)[\s\S]*Pass what open_model"
    ):
        diff(tiny_llama(), b, TEXT)
