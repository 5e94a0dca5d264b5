"""What heads write, beside the dense computation, and where it cannot be known."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")

from torch import Tensor, nn
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from tests.tiny import SEQ2SEQ, SIZES, checkpointed, kept, loss, shake, tiny, tokens
from tests.unit.record.test_seen_effects import in_float64
from wqkv.errors import ArgumentError, MissedError
from wqkv.maps.attention_map import AttentionMap
from wqkv.record.captured import Refusal
from wqkv.record.watch import Seen, watch
from wqkv.record.writes import frozen


def exact(name: str, **others) -> nn.Module:
    model = shake(tiny(name, **others)).double()
    in_float64(model)
    return model


def watched(model: nn.Module, **given) -> Seen[AttentionMap]:
    with torch.no_grad(), watch(model, gradients=True) as seen:
        model(**(given or {"input_ids": tokens()}))
    return seen


def parts_of(model: nn.Module) -> tuple[list[nn.Module], nn.Module]:
    """WO and MLP of each layer, which alone add to the stream, and the last norm."""
    base = model.base_model
    if hasattr(base, "h"):  # GPT-2
        return [part for block in base.h for part in (block.attn.c_proj, block.mlp)], base.ln_f
    adding = [part for one in base.layers for part in (one.self_attn.o_proj, one.mlp)]
    return adding, base.norm


class Told:
    """What a model adds to its stream, part by part, and what its last norm reads."""

    def __init__(self, model: nn.Module, ids: Tensor) -> None:
        adding, self.norm = parts_of(model)
        self.added, self.rows = list[Tensor](), model.get_output_embeddings().weight
        hooks = [one.register_forward_hook(self.add) for one in adding]
        hooks.append(self.norm.register_forward_pre_hook(lambda _, had: setattr(self, "x", had[0])))
        self.logits = model(ids).logits
        for hook in hooks:
            hook.remove()

    def add(self, module: nn.Module, args: tuple[Tensor], out: Tensor) -> None:
        self.added.append(out)

    def lens(self, part: Tensor, x: Tensor) -> Tensor:
        """What a part of the stream x does to all logits, with the norm's scale as it is at x."""
        if hasattr(self.norm, "bias"):
            part, x = part - part.mean(), x - x.mean()
        return self.rows @ (self.norm.weight * part / (x.square().mean() + self.norm.eps).sqrt())


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@torch.no_grad()
def test_against_the_dense_computation(name):
    model, ids, sample, at = exact(name), tokens(), 1, 4
    seen, told, adding = watched(model, input_ids=ids), Told(model, ids), parts_of(model)[0]
    answer = int(told.logits[sample, at].argmax())
    for layer in range(2):
        written = told.added[2 * layer][sample, at]
        bias = getattr(adding[2 * layer], "bias", None)  # no head's own
        written = written if bias is None else written - bias
        change = told.lens(written, told.x[sample, at])
        found = seen.writes(layer, at, sample=sample, against=5, k=61)
        assert (found.layer, found.at, found.answer, found.against) == (layer, at, answer, 5)
        # the parts of the heads are what the layer writes, and their sources sum to them
        total = sum(head.part for head in found.heads)
        assert total == pytest.approx(float(change[answer] - change[5]), rel=1e-9)
        assert found.off < 1e-12
        raised = torch.zeros_like(change)
        for head in found.heads:
            assert sum(part for _, part in head.sources) == pytest.approx(head.part, rel=1e-9)
            assert {token for token, _ in head.sources} == set(range(at + 1))
            assert head.raised == head.lowered[::-1]
            assert list(head.raised) == sorted(head.raised, key=lambda one: -one.part)
            for token, part in head.raised:
                raised[token] += part
        torch.testing.assert_close(raised, change, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@torch.no_grad()
def test_all_that_is_written_sums_to_the_logit(name):
    model, ids = exact(name), tokens()
    seen, told = watched(model, input_ids=ids), Told(model, ids)
    first = model.base_model(ids, output_hidden_states=True).hidden_states[0]
    parts = [first, *told.added]
    torch.testing.assert_close(sum(parts), told.x)
    found, x = seen.writes(1, answer=3), told.x[0, -1]
    every = sum(told.lens(part[0, -1], x) for part in parts)
    assert found.total == pytest.approx(float(every[3]), rel=1e-9)
    bias = float(getattr(told.norm, "bias", torch.zeros(24).double()) @ told.rows[3])
    assert found.total + bias == pytest.approx(float(told.logits[0, -1, 3]), rel=1e-9)
    assert found.heads[2].share == found.heads[2].part / found.total


def test_grouped_values_and_the_likeliest_token():
    model = exact("llama")
    seen = watched(model)
    found = seen.writes(-1)
    assert found.layer == 1
    assert found.at == 6
    assert found.answer == int(model(tokens()).logits[0, -1].argmax())
    assert found.against is None
    assert [head.head for head in found.heads] == list(range(6))
    assert all(len(head.raised) == len(head.lowered) == 8 for head in found.heads)
    assert all(len(head.sources) == 7 for head in found.heads)


@pytest.mark.parametrize("reentrant", [True, False])
def test_while_it_learns(reentrant):
    model, ids = exact("llama"), tokens()
    plain = watched(model).writes(0)
    with watch(checkpointed(model, reentrant), gradients=True) as seen:
        loss(model(ids).logits).backward()
    for ours, theirs in zip(seen.writes(0).heads, plain.heads, strict=True):
        assert ours.part == pytest.approx(theirs.part, rel=1e-9)


def test_the_last_token_alone_makes_logits():
    model = exact("llama")
    seen = watched(model, input_ids=tokens(), logits_to_keep=1)
    assert seen.writes(1) == watched(model).writes(1)


def test_half_precision():
    model = tiny("llama")
    plain = watched(model).writes(1, answer=3)
    found = watched(model.bfloat16()).writes(1, answer=3)
    for ours, theirs in zip(found.heads, plain.heads, strict=True):
        assert ours.part == pytest.approx(theirs.part, rel=0.1, abs=0.02)


def test_an_adapter_around_WO():
    class Adapted(nn.Module):
        def __init__(self, base: nn.Linear) -> None:
            super().__init__()
            self.base = base
            self.down, self.up = nn.Linear(24, 2, bias=False), nn.Linear(2, 24, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.base(x) + self.up(self.down(x))

    model = exact("llama")
    layer = model.model.layers[1].self_attn
    layer.o_proj = Adapted(layer.o_proj).double()
    found = watched(model).writes(1, answer=3)
    layer.o_proj.base.weight.data += layer.o_proj.up.weight @ layer.o_proj.down.weight
    layer.o_proj = layer.o_proj.base
    for ours, theirs in zip(found.heads, watched(model).writes(1, answer=3).heads, strict=True):
        assert ours.part == pytest.approx(theirs.part, rel=1e-9)


def test_an_output_matrix_with_a_bias():
    model = exact("llama")
    biased = nn.Linear(24, 61).double()
    biased.weight = model.lm_head.weight
    model.lm_head = biased
    for head in watched(model).writes(1, answer=3, k=61).heads:
        assert dict(head.raised)[3] == pytest.approx(head.part, rel=1e-9)


# Where it cannot be known


def refused(seen: Seen[AttentionMap], layer: int, why: str) -> None:
    with pytest.raises(MissedError, match="There are no writes of ") as error:
        seen.writes(layer)
    assert why in str(error.value), str(error.value)


def test_models_without_a_plain_way_to_the_logits():
    refused(watched(tiny("llama", kind=AutoModel)), 0, "the model has no output matrix")
    bert = tiny("bert", kind=AutoModelForMaskedLM, **SIZES)
    refused(watched(bert), 0, "it writes to 2 x 7 tokens, and the last norm has read ")
    others = {"head_dim": 8, "query_pre_attn_scalar": 8, "num_key_value_heads": 3}
    gemma = watched(tiny("gemma2", "eager", **others))
    refused(gemma, 0, "its WO is not known: Gemma2RMSNorm changes what WO makes of its heads")
    t5 = tiny("t5", kind=AutoModelForSeq2SeqLM, **SEQ2SEQ)
    seen = watched(t5, input_ids=tokens(7), decoder_input_ids=tokens(5))
    refused(seen, 0, "it writes to 2 x 7 tokens, and the last norm has read 2 x 5 of a decoder")
    refused(seen, 2, "its last norm does not return what the output matrix reads")


def test_heads_that_are_changed_before_WO_reads_them():
    model = tiny("llama")
    WO = model.model.layers[0].self_attn.o_proj
    WO.register_forward_pre_hook(lambda _, args: (args[0] * 2,))
    seen = watched(model)
    refused(seen, 0, "its WO is not known: Linear does not read what its heads return")
    assert seen.writes(1).off < 1e-5


def test_modules_that_are_not_linear():
    class Squares(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).square()

    model = tiny("llama")
    layer = model.model.layers[0].self_attn
    layer.o_proj = Squares(24, 24)
    refused(watched(model), 0, "its WO, a Squares, is not linear")
    model = tiny("llama")
    model.lm_head = Squares(24, 61)
    refused(watched(model), 0, "its output matrix, a Squares, adds to its matrix")
    model = tiny("llama")
    model.model.norm = nn.Sequential(nn.Linear(24, 24))
    refused(watched(model), 0, "the model has no last norm")


def test_a_norm_of_another_kind():
    class CubeNorm(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x**3

    with pytest.raises(Refusal, match="its last norm is none of x / rms"):
        frozen(CubeNorm(), torch.randn(11), torch.float32)


@pytest.mark.parametrize("norm", [nn.LayerNorm(11), nn.RMSNorm(11), nn.LayerNorm(11, bias=False)])
def test_a_frozen_norm(norm):
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    norm = norm.double()
    x, direction = torch.randn(11).double() * 1e-2, torch.randn(11).double()  # eps is felt
    found = frozen(norm, x, torch.float64)
    bias = norm(torch.zeros(11).double())
    torch.testing.assert_close(found.of(x) + bias, norm(x))
    parts = torch.randn(5, 11).double()
    torch.testing.assert_close(found.of(parts) @ direction, parts @ found.before(direction))


def test_a_generation_and_a_watch_without_gradients():
    from transformers import DynamicCache

    model = tiny("llama")
    cache = DynamicCache(config=model.config)
    with torch.no_grad(), watch(model, gradients=True) as seen:
        model(tokens(5), **kept(model, cache))
        model(tokens(2), **kept(model, cache))
        with pytest.raises(ArgumentError, match="the watch is still on"):
            seen.writes(0)
    refused(seen, 0, "its run has 2 calls of the attention function, and this needs one")
    with torch.no_grad(), watch(model) as seen:
        model(tokens())
    with pytest.raises(MissedError, match="What stands behind the heads of LlamaForCausalLM was"):
        seen.writes(0)
    with torch.no_grad(), watch(model, [1], gradients=True) as seen:
        model(tokens())
    refused(seen, 0, "it was not asked for")


def test_what_writes_refuse():
    seen = watched(tiny("llama"))
    with pytest.raises(IndexError, match="There is no layer 2: 2 ran"):
        seen.writes(2)
    for given, says in (
        ({"at": 7}, "There is no row 7: there are 7, 0 to 6"),
        ({"sample": -3}, "There is no sample -3: there are 2, 0 to 1"),
        ({"answer": 61}, "There is no token id 61: there are 61, 0 to 60"),
        ({"against": -1}, "There is no token id -1: there are 61, 0 to 60"),
        ({"k": 0}, "`k` is 0"),
    ):
        with pytest.raises(ArgumentError, match=says):
            seen.writes(0, **given)
