"""Our own attention under watch: the same bits, and a proved map of each call by its own rules."""

from __future__ import annotations

import copy
import threading
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.utils.checkpoint import checkpoint

from wqkv.attend.bias import ALiBi, T5Bias
from wqkv.attend.engines import tiled
from wqkv.attend.functional import attention
from wqkv.attend.heard import SHARED
from wqkv.attend.masks import Causal, Chunked, Dense, Lengths, Window
from wqkv.attend.parallel.ranks import Ring
from wqkv.attend.partial import Partial, merge
from wqkv.attend.rope import RoPE
from wqkv.errors import ArgumentError, MissedError
from wqkv.layer.attention import MultiheadAttention
from wqkv.layer.caches.base import KVCache
from wqkv.layer.caches.buffered import Cross, Dynamic, Static
from wqkv.layer.caches.paged import Paged, Pool
from wqkv.layer.caches.quantized import Quantized
from wqkv.layer.caches.rolling import Rolling
from wqkv.layer.caches.spread import Spread
from wqkv.layer.convert.torch import convert
from wqkv.layer.differential import DifferentialAttention
from wqkv.layer.latent import LatentAttention
from wqkv.record.watch import watch


class Block(nn.Module):
    """A module of a user's own: two attentions over one q, k and v."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(24, 72)
        self.dropout = 0.0

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (y.unflatten(2, (3, 8)).transpose(1, 2) for y in self.qkv(x).chunk(3, dim=2))
        first = attention(q, k, v, mask=Causal(), dropout_p=self.dropout)
        return x + (first + attention(q, k, v, bias=ALiBi(3))).transpose(1, 2).flatten(2)


def layer(**given) -> MultiheadAttention:
    return MultiheadAttention(24, 3, **{"mask": Causal(), **given})


LAYERS = {
    "plain": lambda: layer(),
    "grouped heads, rotated, window, sinks, softcap": lambda: MultiheadAttention(
        24, 6, n_kv_head=3, mask=Window(3, 0), position=RoPE(), sinks=True, softcap=5.0
    ),
    "ALiBi": lambda: layer(position=ALiBi(3)),
    "T5Bias": lambda: layer(
        position=T5Bias(nn.Parameter(torch.randn(8, 3)), bidirectional=False, max_distance=11)
    ),
    "persistent keys, gate": lambda: layer(persistent=5, sinks=True, gate="head"),
    "latent": lambda: LatentAttention(24, 3, rank=5, d_rope=2, mask=Causal()),
    "differential": lambda: DifferentialAttention(24, 3, start=0.8, mask=Causal()),
}
MODELS = {
    **{name: lambda make=make: nn.Sequential(make(), make()) for name, make in LAYERS.items()},
    "dropout": lambda: nn.Sequential(layer(dropout=0.3), layer(dropout=0.5, persistent=2)),
    "converted": lambda: convert(nn.TransformerEncoder(
        nn.TransformerEncoderLayer(24, 3, 29, 0.1, batch_first=True), 2, enable_nested_tensor=False
    )),
    "functions": lambda: nn.Sequential(Block(), Block()),
}  # fmt: skip
MODES = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "gradients": nullcontext,
}


def tokens(length: int = 7, batch: int = 2) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(batch, length, 24)


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name]()


def run(model: nn.Module, x: Tensor, mode: str) -> list[Tensor]:
    """The output, the gradients where there are any, and what is drawn next."""
    torch.manual_seed(5)
    with MODES[mode]():
        out = model(x)
    found = [out.detach()]
    if out.requires_grad:
        model.zero_grad()
        out.float().square().sum().backward()
        found += [one.grad.clone() for one in model.parameters() if one.grad is not None]
    return [*found, torch.rand(3)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_bits_are_those_of_an_unwatched_model(name, train, mode):
    model, x = made(name).train(train), tokens()
    plain = run(model, x, mode)
    for gradients in (False, True):
        with watch(model, gradients=gradients) as seen:
            watched = run(model, x, mode)
        assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
        assert len(watched) == len(plain)
        missed = {one.name: one.reason for one in seen.layers if one.state != "proved"}
        unseeded = train and name == "dropout"
        assert list(missed) == (["1"] if unseeded else []), seen.report()


@pytest.mark.parametrize("name", LAYERS)
def test_the_map_is_the_layers_own(name):
    torch.manual_seed(0)
    model, x = LAYERS[name]().eval(), tokens()
    with torch.no_grad(), watch(model) as seen:
        model(x)
        theirs = model.map(x)
    (found,) = seen
    assert torch.equal(found[:], theirs[:])
    assert torch.equal(found.lse, theirs.lse)
    assert found.mask == theirs.mask  # a value
    assert [one.name for one in seen.layers] == [type(model).__name__]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", [*LAYERS, "converted", "functions"])
def test_other_dtypes(name, dtype):
    torch.manual_seed(0)
    model = {**MODELS, **LAYERS}[name]().eval().to(dtype)
    with torch.no_grad(), watch(model) as seen:
        model(tokens().to(dtype))
    assert {one.state for one in seen.layers} == {"proved"}, seen.report()


def test_the_rules_are_said():
    model = nn.Sequential(*[one().eval() for one in LAYERS.values()])
    with torch.no_grad(), watch(model) as seen:
        model(tokens())
    report = seen.report()
    for said in (
        "Window(before=3, after=0), softcap 5, sinks  ",
        "Causal(), ALiBi(f32[3] on cpu)  ",
        "T5Bias(f32[8, 3] on cpu, bidirectional=False, max_distance=11)  ",
        "keys that take a part of each row and have no column: 5",
        "2 maps of each head: all first ones come before all second ones",
    ):
        assert said in report
    assert {one.kind for one in seen.layers} == {"decoder"}


def test_a_wrong_output_fails_the_proof(monkeypatch):
    model, run_tiled = layer(engine="tiled").eval(), tiled.run

    def wrong(call):
        out, lse = run_tiled(call)
        out = out.clone()
        out[1, 2, 5, 3] += 1e-3  # one number of many
        return Partial(out, lse)

    monkeypatch.setattr(tiled, "run", wrong)
    with torch.no_grad(), watch(model) as seen:
        model(tokens())
    assert seen.layers[0].reason.startswith("its proof failed: the rebuilt output differs")
    with pytest.raises(MissedError, match="its proof failed"):
        seen[0]


def test_several_attentions_of_a_module_are_layers_of_their_own():
    model = Block().eval()
    with torch.no_grad(), watch(model) as seen:
        model(tokens())
        model(tokens(5))
    assert [one.name for one in seen.layers] == ["Block", "Block (attention 2)"]
    assert [one.kind for one in seen.layers] == ["decoder", "encoder"]
    assert [[m.shape[2] for m in seen.runs(n)] for n in (0, 1)] == [[7, 5], [7, 5]]


def test_a_piece_of_keys_that_may_be_merged_with_others_is_named():
    class Prefixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            q = x.unflatten(2, (3, 8)).transpose(1, 2)
            prefix = attention(q, q[:, :, :3], q[:, :, :3], return_lse=True)
            return merge(prefix, attention(q, q, q, return_lse=True)).out

    model = nn.Sequential(layer(persistent=2), Prefixed())
    with torch.no_grad(), watch(model) as seen:
        model(tokens())
    said = "its caller asked for lse, and may merge it with other keys"
    assert [said in line for line in seen.report().splitlines()] == [False, False, True, True]


def test_only_the_layers_that_are_asked_for_are_kept():
    model = nn.Sequential(layer(), Block(), layer()).eval()
    with torch.no_grad(), watch(model, layers=[2]) as seen:
        model(tokens())
    assert [one.state for one in seen.layers] == [
        "not asked for",
        "not asked for",
        "proved",
        "not asked for",
    ]
    assert seen[2].shape == (2, 3, 7, 7)


def test_cross_attention_is_told_by_the_layers_arguments():
    torch.manual_seed(0)
    decoder = convert(nn.TransformerDecoderLayer(24, 3, 29, batch_first=True)).eval()
    own = MultiheadAttention(24, 3).eval()
    x, other = tokens(), tokens(11)
    with torch.no_grad(), watch(decoder) as seen:
        decoder(x, other)
    assert [(one.name, one.kind) for one in seen.layers] == [
        ("self_attn", "encoder"),
        ("multihead_attn", "cross"),
    ]
    with torch.no_grad(), watch(own) as seen:
        own(x, other)
    assert (seen.layers[0].kind, seen.cross[0].shape) == ("cross", (2, 3, 7, 11))


def test_padding_of_a_converted_encoder():
    encoder = made("converted").eval()
    hidden = torch.arange(7) >= torch.tensor([[7], [4]])
    with torch.no_grad(), watch(encoder) as seen:
        encoder(tokens(), src_key_padding_mask=hidden)
    assert [one.state for one in seen.layers] == ["proved"] * 2
    assert not bool(seen[1][1, :, :, 4:].any())
    assert "a stored bias" in seen.report()


# Rules that are changed later


def test_a_parameter_that_learns_afterwards_does_not_change_the_map():
    torch.manual_seed(0)
    model, x = LAYERS["T5Bias"](), tokens()
    with watch(model) as seen:
        model(x).square().sum().backward()
        before = model.map(x)[:]
        with torch.no_grad():
            for one in model.parameters():
                one.add_(1.0)
    assert torch.equal(seen[0][:], before)


def test_what_is_asked_after_a_step_of_training_is_of_the_forward():
    torch.manual_seed(0)
    model, x = layer(persistent=2, sinks=True, position=ALiBi([0.5, 0.25, 0.125])), tokens()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with watch(model) as seen:
        model(x).square().sum().backward()
        theirs = model.map(x)[:]
        optimizer.step()
    assert torch.equal(seen[0][:], theirs)


class Stored(nn.Module):
    """A module with a mask as large as q and k together, or larger."""

    def __init__(self) -> None:
        super().__init__()
        self.WQ = nn.Linear(24, 24)
        self.matrix = torch.ones(101, 101, dtype=torch.bool).tril()

    def forward(self, x: Tensor) -> Tensor:
        q = self.WQ(x).unflatten(2, (3, 8)).transpose(1, 2)
        return attention(q, q, q, mask=self.matrix)


@pytest.mark.parametrize("asked", [False, True])
def test_a_large_matrix_is_kept_itself_and_refuses_the_map_if_it_changes(asked):
    model = Stored().eval()
    with torch.no_grad(), watch(model) as seen:
        model(tokens(101, 1))
        if asked:
            m = seen[0]
            assert m.mask.matrix.data_ptr() == model.matrix.data_ptr()
        model.matrix[3, 3] = False
    if asked:
        with pytest.raises(ArgumentError, match="changed in place since then"):
            m.entropy()
    else:
        assert seen.layers[0].reason == (
            "q, v, its output or a matrix of its rules was changed in place before it was asked for"
        )


def test_a_large_matrix_of_inference_mode_is_copied_because_it_could_not_tell():
    with torch.inference_mode():
        model = Stored().eval()
        with watch(model) as seen:
            model(tokens(101, 1))
            model.matrix[3, :] = False
    assert float(seen[0][0, 1, 3].sum()) == pytest.approx(1.0)


@pytest.mark.parametrize("mode", ["no_grad", "inference_mode"])
def test_an_output_that_is_written_over(mode):
    class Doubled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            q = x.unflatten(2, (3, 8)).transpose(1, 2)
            return attention(q, q, q, mask=Chunked(3), softcap=2.0).mul_(2)

    model = Doubled()
    with MODES[mode](), watch(model) as seen:
        model(tokens())
    assert [one.state for one in seen.layers] == ["proved"]


def test_an_output_that_is_written_over_afterwards_refuses_the_map():
    class Same(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            q = x.unflatten(2, (3, 8)).transpose(1, 2)
            return attention(q, q, q)

    model = Same()
    for mode, state in (("no_grad", "missed"), ("inference_mode", "proved")):
        with MODES[mode](), watch(model) as seen:
            model(tokens()).mul_(2)
        # an inference tensor would not tell, so that it is proved when its forward ends
        assert [one.state for one in seen.layers] == [state]


def test_what_padding_holds_changes_nothing():
    class Padded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            q = x.unflatten(2, (3, 8)).transpose(1, 2)
            k = q.clone()
            k[1, :, 5:] = torch.nan
            return attention(q, k, k, mask=Lengths([7, 5]))

    model = Padded()
    with torch.no_grad(), watch(model) as seen:
        assert not bool(model(tokens()).isnan().any())
    assert [one.state for one in seen.layers] == ["proved"], seen.report()


# Generation


CACHES = {
    "Dynamic": Dynamic,
    "Static": lambda: Static(13),
    "Paged": lambda: Paged(Pool(11, 3)),
    "Quantized": lambda: Quantized(8),
}


def generate(model: MultiheadAttention, x: Tensor, cache: KVCache, first: int = 3) -> None:
    model(x[:, :first], cache=cache)
    for token in x[:, first:].split(1, dim=1):
        model(token, cache=cache)


@pytest.mark.parametrize("mode", ["no_grad", "inference_mode"])
@pytest.mark.parametrize("kind", CACHES)
def test_the_steps_of_a_generation_are_one_map(kind, mode):
    torch.manual_seed(0)
    model, x = layer(position=RoPE(), persistent=2).eval(), tokens()
    with MODES[mode](), watch(model) as seen:
        generate(model, x, CACHES[kind]())
        theirs = model.map(x)
    assert [m.shape for m in seen.runs(0)] == [(2, 3, 7, 7)]
    assert seen[0].mask == Causal()
    off = 1e-2 if kind == "Quantized" else 1e-6
    assert torch.allclose(seen[0][:], theirs[:], atol=off)
    assert "proof" in seen.report() and "(14 rows)" in seen.report()


def test_a_generation_with_gradients_is_one_map():
    torch.manual_seed(0)
    model, x = layer().eval(), tokens()
    with watch(model, gradients=True) as seen:
        generate(model, x, Dynamic())
    assert seen[0].shape == (2, 3, 7, 7)
    assert "no effects: its run has 5 calls of the attention function" in seen.report()


def test_cross_attention_to_kept_keys_goes_on_where_its_place_is_given():
    torch.manual_seed(0)
    model, x, other = MultiheadAttention(24, 3).eval(), tokens(), tokens(11)
    for given, lengths in ((True, [7]), (False, [3, 4])):
        with torch.no_grad(), watch(model) as seen:
            cache = Cross()
            model(x[:, :3], other, cache=cache, query_offset=0 if given else None)
            model(x[:, 3:], cache=cache, query_offset=3 if given else None)
        assert [m.shape[2] for m in seen.runs(0)] == lengths
        assert seen.layers[0].kind == "cross"
        assert torch.allclose(seen.runs(0)[-1][:], model.map(x, other)[:, :, -lengths[-1] :])


def test_a_generation_that_is_watched_from_its_middle_on():
    torch.manual_seed(0)
    model, x, cache = layer().eval(), tokens(), Dynamic()
    with torch.no_grad():
        model(x[:, :5], cache=cache)
        with watch(model) as seen:
            for token in x[:, 5:].split(1, dim=1):
                model(token, cache=cache)
    assert torch.allclose(seen[0][:], model.map(x)[:, :, 5:], atol=1e-6)
    report = seen.report()
    assert "rows from 5 on" in report
    assert "counted from the first key of its cache, whose place in the text is not known" in report


def other_keys(cache: Dynamic) -> None:
    cache._tensors["k"][0, 1, 2, 3] += 1  # one number of a kept key


def shorter(cache: Dynamic) -> None:
    cache.rewind(2)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (other_keys, "its cache does not hold the keys of the run before it"),
        (shorter, "it does not stand behind the rows of the run before it"),
    ],
)
def test_a_step_that_is_not_sure_to_go_on_begins_a_run(change, why):
    torch.manual_seed(0)
    model, x, cache = layer().eval(), tokens(), Dynamic()
    with torch.no_grad(), watch(model) as seen:
        generate(model, x[:, :5], cache)
        change(cache)
        model(x[:, 5:6], cache=cache)
    assert [m.shape[2] for m in seen.runs(0)] == [5, 1]
    assert f"the last of 2 runs, because {why}" in seen.report()


@pytest.mark.parametrize(
    ("given", "step", "why"),
    [
        ({"mask": None}, {}, "its mask does not hide the new keys from the rows of the run"),
        ({}, {"mask": Chunked(5)}, "its rules, or the sizes of q and k, are not those of the run"),
        (
            {},
            {"mask": Dense(torch.ones(1, 4, dtype=torch.bool))},
            "its rules, or the sizes of q and k, are not those of the run",
        ),
    ],
)
def test_other_rules_begin_a_run(given, step, why):
    torch.manual_seed(0)
    model, x, cache = layer(**given).eval(), tokens(), Dynamic()
    with torch.no_grad(), watch(model) as seen:
        model(x[:, :3], cache=cache)
        model(x[:, 3:4], cache=cache, **step)
    assert [m.shape[2] for m in seen.runs(0)] == [3, 1]
    assert why in seen.report()


def without_dropout(model: MultiheadAttention) -> None:
    model.eval()


def other_persistent_keys(model: MultiheadAttention) -> None:
    assert model.persistent_k is not None
    model.persistent_k += 1


@pytest.mark.parametrize(
    ("given", "change"),
    [({"dropout": 0.3}, without_dropout), ({"persistent": 2}, other_persistent_keys)],
)
def test_a_layer_that_changes_between_steps_begins_a_run(given, change):
    torch.manual_seed(0)
    model, x, cache = layer(**given).train(), tokens(), Dynamic()
    with torch.no_grad(), watch(model) as seen:
        model(x[:, :3], cache=cache)
        change(model)
        model(x[:, 3:4], cache=cache)
    assert [m.shape[2] for m in seen.runs(0)] == [3, 1]
    assert "its rules, or the sizes of q and k, are not those of the run" in seen.report()


def test_a_mask_that_is_made_for_one_length_begins_a_run():
    torch.manual_seed(0)
    model, x, cache = layer().eval(), tokens(), Dynamic()
    dense = Dense(torch.ones(3, 1, dtype=torch.bool))  # one number for each row of a call
    with torch.no_grad(), watch(model) as seen:
        model(x[:, :3], cache=cache, mask=dense)
        model(x[:, 3:6], cache=cache, mask=dense)
    assert [m.shape[2] for m in seen.runs(0)] == [3, 3]
    assert "because its mask or bias is made for one length" in seen.report()


def test_a_rolling_cache_shows_each_step_and_counts_its_first_keys():
    torch.manual_seed(0)
    model, x = layer(sinks=True).eval(), tokens(11, 1)
    with torch.no_grad(), watch(model) as seen:
        generate(model, x, Rolling(3, first=2), first=1)
        theirs = model.map(x, mask=Window(2, 0) | Lengths([2]))
    last = seen.runs(0)[-1]
    assert last.shape == (1, 3, 1, 3)
    assert torch.allclose(last[0, :, 0], theirs[0, :, -1, -3:], atol=1e-6)
    assert "have no column: 2" in seen.report()


def test_samples_of_different_lengths_are_proved_at_their_own_places():
    torch.manual_seed(0)
    model, x, cache = layer(position=RoPE()).eval(), tokens(), Paged(Pool(11, 3))
    with torch.no_grad(), watch(model) as seen:
        model(x[:, :5], cache=cache)
        cache.rewind(torch.tensor([5, 2]))
        model(x[:, 5:6], cache=cache)
    assert [one.state for one in seen.layers] == ["proved"]
    assert [int((row > 0).sum()) for row in seen[0][:, 0, 0]] == [6, 3]


# Statistics, gradients, threads, dropout


def test_statistics():
    torch.manual_seed(0)
    model, x = nn.Sequential(layer(), layer(persistent=2)).eval(), tokens()
    with torch.no_grad(), watch(model) as seen:
        model(x)
    with torch.no_grad(), watch(model, keep="statistics") as kept:
        model(x)
    for found, m in zip(kept, seen, strict=True):
        assert torch.equal(found.entropy(), m.entropy())
        assert torch.equal(found.received(), m.received())
    assert [one.kind for one in kept.layers] == ["decoder"] * 2
    assert "have no column: 2" in kept.report()


class Checkpointed(nn.Sequential):
    def __init__(self, reentrant: bool, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        for one in self:
            x = checkpoint(one, x, use_reentrant=self.reentrant)
        return x


@pytest.mark.parametrize("how", ["plain", "reentrant", "not reentrant"])
def test_effects_are_those_of_the_layers_own_gradient(how):
    torch.manual_seed(0)
    parts = layer(), Block()
    model = nn.Sequential(*parts) if how == "plain" else Checkpointed(how == "reentrant", *parts)
    heads: list[Tensor] = []
    parts[0].WO.register_forward_pre_hook(lambda _, given: heads.append(given[0]))
    with watch(model, gradients=True) as seen:
        x = tokens().requires_grad_()
        out = model(x)
        if how == "plain":
            heads[0].retain_grad()
        out.square().sum().backward()
    assert [one.state for one in seen.layers] == ["proved"] * 3
    assert ("ran again in a backward pass" in seen.report()) == (how != "plain")
    with torch.enable_grad():
        q, k, v = (one.detach() for one in parts[0].qkv(tokens()))
        context = attention(q, k, v, mask=Causal()).requires_grad_()
        joined = parts[0].WO(context.transpose(1, 2).flatten(2))
        parts[1](joined).square().sum().backward()
    theirs = seen[0].effects(v, context.detach(), context.grad)
    found = seen.effects()[0]
    assert torch.allclose(found[:], theirs[:], rtol=1e-4, atol=1e-5, equal_nan=True)


def test_a_repeated_call_that_was_not_recorded_is_counted():
    torch.manual_seed(0)
    first, other = layer(), layer()
    model = nn.Sequential(first)
    x = tokens().requires_grad_()
    with watch(model) as seen:
        model(x)
        checkpoint(other, x, use_reentrant=False).sum().backward()
    assert "calls in a backward pass that repeat no run: 1." in seen.report()
    assert len(seen.runs(0)) == 1


def test_each_thread_has_runs_of_its_own():
    torch.manual_seed(0)
    model, shapes = layer().eval(), []

    def work(length: int) -> None:
        with torch.no_grad():
            model(tokens(length))
        shapes.append(seen[0].shape)

    with watch(model) as seen:
        for length in (5, 11):
            thread = threading.Thread(target=work, args=(length,))
            thread.start()
            thread.join()
    assert shapes == [(2, 3, 5, 5), (2, 3, 11, 11)]
    assert [one[0].shape for one in seen.threads] == shapes


def test_a_call_outside_the_model_is_not_its_own():
    torch.manual_seed(0)
    model, other, x = layer().eval(), layer().eval(), tokens()
    with torch.no_grad(), watch(model) as seen:
        other(x)
        model(x)
        attention(*(torch.randn(2, 3, 5, 7) for _ in range(3)))
    assert len(seen) == 1 and len(seen.runs(0)) == 1


def test_the_map_is_the_softmax_before_dropout():
    torch.manual_seed(0)
    model, x = layer(dropout=0.3, mask=Window(2, 1)).train(), tokens()
    with watch(model, gradients=True) as seen:
        model(x).sum().backward()
    assert "the softmax before dropout 0.3" in seen.report()
    assert torch.equal(seen[0][:], copy.deepcopy(model).eval().map(x)[:])
    with pytest.raises(MissedError, match=r"dropout 0\.3 was on, and effects are those of a call"):
        seen.effects()[0]


def test_dropout_of_a_long_text_is_proved_in_some_rows():
    torch.manual_seed(0)
    model = layer(dropout=0.3).train()
    with watch(model) as seen:
        model(tokens(307))
    assert "(64 rows)" in seen.report()


@pytest.mark.parametrize("given", [{"engine": "reference"}, {"persistent": 2}])
def test_dropout_that_cannot_be_drawn_again_is_not_proved(given):
    model = layer(dropout=0.3, **given).train()
    with watch(model) as seen:
        model(tokens())
    assert seen.layers[0].reason == (
        "dropout 0.3 was on, and it cannot be drawn again for a proof: the engine 'reference' and "
        "keys in several pieces draw it without a seed"
    )


def test_a_wrong_seed_fails_the_proof_of_dropout(monkeypatch):
    model, run_tiled = layer(dropout=0.3).train(), tiled.run
    monkeypatch.setattr(tiled, "run", lambda call: run_tiled(replace(call, seed=call.seed + 1)))
    with watch(model) as seen:
        model(tokens())
    assert seen.layers[0].reason.startswith("its proof failed")


# Beside the other doors


def test_a_transformers_model_on_our_attention_is_heard_once():
    pytest.importorskip("transformers")
    from tests.tiny import tiny  # it needs transformers
    from wqkv.replace.use import use

    model, ids = use(tiny("llama")), torch.arange(14).view(2, 7)
    with torch.no_grad():
        plain = model(ids)[0]
        with watch(model) as seen:
            assert torch.equal(model(ids)[0], plain)
    assert [one.name for one in seen.layers] == [f"model.layers.{n}.self_attn" for n in (0, 1)]
    assert [m.mask for m in seen] == [Causal()] * 2
    assert [len(seen.runs(n)) for n in (0, 1)] == [1, 1]


def test_attention_of_ours_and_of_torch_in_one_module():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = layer(), nn.MultiheadAttention(24, 3, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.second(x, x, x, need_weights=False)[0]

    torch.manual_seed(0)
    model = Both().eval()
    with torch.no_grad(), watch(model) as seen:
        model(tokens())
    assert [(one.name, one.state) for one in seen.layers] == [
        ("first", "proved"),
        ("second", "proved"),
    ]


# Calls of which a process has no numbers, or not all


@pytest.fixture
def one_rank():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("given", [{}, {"persistent": 2}, {"cache": True}])
def test_tokens_that_ranks_share_are_named(given, one_rank):
    torch.manual_seed(0)
    cached = given.pop("cache", False)
    model, x = layer(**given).eval(), tokens()
    model.mesh = None if cached else Ring()

    def forward() -> Tensor:
        return model(x, cache=Spread(block=2) if cached else None)

    with torch.no_grad():
        plain = forward()
        with watch(model) as seen:
            assert torch.equal(forward(), plain)
    assert [one.reason for one in seen.layers] == [SHARED]


def test_a_transform_of_torch_func_is_named():
    model, x = layer().eval(), tokens()
    with torch.no_grad(), watch(model) as seen:
        torch.func.vmap(lambda one: model(one[None])[0])(x)
    assert seen.layers[0].reason.startswith("torch.func runs it (vmap, grad, jvp): run the model")


def test_a_model_on_meta_is_named():
    model = MultiheadAttention(24, 3, device="meta")
    with torch.no_grad(), watch(model) as seen:
        model(torch.randn(2, 7, 24, device="meta"))
    assert "on the device meta, which holds no numbers" in seen.layers[0].reason


def test_a_traced_call_is_named():
    model = layer().eval()
    with torch.no_grad(), watch(model) as seen:
        torch.fx.experimental.proxy_tensor.make_fx(model)(tokens())
    assert seen.layers[0].reason == "a graph is made of it: run the model itself to see it"
