"""A text as a model read it: every answer against the layer's own trace, in all its parts."""

import copy
import dataclasses
import math
import threading

import pytest
import torch
import transformers
from torch import nn

from tests.tiny import READ, TARGET, text, tiny_llama, tiny_t5
from wqkv import ALiBi, Causal, Full, MultiheadAttention, RoPE, T5Bias, Window
from wqkv.errors import ArgumentError
from wqkv.layer.differential import DifferentialAttention
from wqkv.study import opened_layer as opened
from wqkv.study import part, sweep, view
from wqkv.study.model import OpenModel
from wqkv.study.opened_layer import OpenLayer
from wqkv.study.tokens import TokenizedText
from wqkv.study.view import View

TIRED = "The animal didn't cross the street because it was too tired."
N = 37
DTYPES = (torch.float32, torch.float64)


def llama(**changes) -> OpenModel:
    """A causal model with rotary positions and grouped heads, far from uniform attention."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        **{
            "vocab_size": 101, "hidden_size": 66, "intermediate_size": 53, "num_hidden_layers": 3,
            "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 14,
            "initializer_range": 0.3, "max_position_embeddings": 4099, "pad_token_id": 1,
            **changes,
        }
    )  # fmt: skip
    return OpenModel(transformers.LlamaModel(config).eval(), None, "tiny-llama")


def ids(n: int = N) -> list[int]:
    return torch.randint(3, 101, (n,), generator=torch.Generator().manual_seed(2)).tolist()


@pytest.fixture(scope="module")
def tiny() -> View:
    return llama().view(TokenizedText.of_ids(ids()))


@pytest.fixture(scope="module")
def tired(minilm) -> View:
    return minilm.view(TIRED)


def trace(seen: View, layer: int, dtype: torch.dtype = torch.float32):
    with torch.no_grad():
        ours = copy.deepcopy(seen.model.layer(layer)).to(dtype)
        return ours.trace(seen.reading.inputs[layer].to(dtype))


def near(found: torch.Tensor, plain: torch.Tensor, truth: torch.Tensor, lse: torch.Tensor) -> None:
    """As near to float64 as the layer's plain trace is, and the rounding of exp(score - lse)."""
    rounding = 2**-23 * (1 + lse.abs().max()) * truth.abs().max()
    assert (found - truth).abs().max() <= 2 * (plain - truth).abs().max() + rounding


# Numbers


@pytest.mark.parametrize("name", ["tiny", "tired"])
@pytest.mark.parametrize(("layer", "head"), [(0, 0), (2, 5), (1, 3)])
def test_rows_columns_and_tiles_are_the_traces(name, layer, head, request):
    seen = request.getfixturevalue(name)
    traces = [trace(seen, layer, dtype) for dtype in DTYPES]
    plain, truth = (one.weights[0, head] for one in traces)
    lse = traces[1].scores[0, head].logsumexp(-1)
    for i in (0, 7, seen.n - 1):
        near(seen.row(layer, head, i).weights, plain[i], truth[i], lse)
        column = seen.column(layer, head, i)
        near(column.weights, plain[:, i], truth[:, i], lse)
        assert column.received == pytest.approx(column.weights.sum().item(), rel=1e-6)
    near(seen.tile(layer, head, 2, 9, 1, 12), plain[2:9, 1:12], truth[2:9, 1:12], lse)
    near(seen.received(layer, head), plain.sum(0), truth.sum(0), lse)


def test_a_row_adds_up(tiny):
    """Effects are the lengths of weight * v * WO, and `output` is the length of their sum."""
    layer, head, i = 1, 4, 23
    row, ours = tiny.row(layer, head, i), tiny.model.layer(layer)
    v = trace(tiny, layer).v[0, head // 3]
    WO = ours.WO.weight.detach().T[head * 14 : (head + 1) * 14]
    parts = row.weights[:, None] * (v @ WO)
    torch.testing.assert_close(row.effects, parts.norm(dim=1))
    assert row.output == pytest.approx(parts.sum(0).norm().item(), rel=1e-5)
    assert row.sink is None
    assert row.lse == pytest.approx(float(trace(tiny, layer).scores[0, head, i].logsumexp(0)))
    assert row.residual.holds and row.residual.rows == 1
    assert row.residual.size == tiny.reading.outputs[layer][0, i].abs().max()


@pytest.mark.parametrize(("i", "j"), [(23, 7), (23, 23), (7, 23)])
def test_a_cell_is_worked_out(tiny, i, j):
    layer, head = 2, 3
    cell, found = tiny.cell(layer, head, i, j), trace(tiny, layer)
    assert [term.q for term in cell.terms] == found.q[0, head, i].tolist()
    assert [term.k for term in cell.terms] == found.k[0, 1, j].tolist()
    assert all(term.product == term.q * term.k for term in cell.terms)
    assert cell.dot == pytest.approx(math.fsum(term.product for term in cell.terms))
    assert cell.scale == 14**-0.5 and cell.scaled == pytest.approx(cell.dot * cell.scale)
    assert (cell.softcap, cell.capped, cell.bias, cell.sink) == (None, None, None, None)
    assert cell.weight == pytest.approx(found.weights[0, head, i, j].item(), rel=1e-5)
    assert cell.hidden == (j > i)
    assert math.exp(cell.score - cell.lse) == pytest.approx(cell.weight, rel=1e-4)


def layered(layer: MultiheadAttention) -> OpenLayer:
    x = torch.randn(1, N, layer.d_model, generator=torch.Generator().manual_seed(3))
    return OpenLayer(layer.eval(), x)


class OneLayer(OpenModel):
    """As much of a model as a view asks for."""

    def __init__(self, layer: MultiheadAttention) -> None:
        self._layer, self.name = layer, "one layer"
        self.sizes = part.PartSizes(1, layer.n_head, layer.n_kv_head, layer.d_model, layer.d_k)

    def layer(self, number: int) -> MultiheadAttention:
        return self._layer


def shown(layer: MultiheadAttention) -> View:
    """A view of one layer of ours on random words."""
    with torch.no_grad():
        x = torch.randn(1, N, layer.d_model, generator=torch.Generator().manual_seed(3))
        output = layer.eval()(x)
    text = TokenizedText.of_ids(ids())
    given = {field.name: getattr(text, field.name) for field in dataclasses.fields(text)}
    reading = part.TextReading(**given, inputs=[x], outputs=[output], rows=torch.arange(N))
    return View(OneLayer(layer), reading)


RULES = {
    "softcap": {"softcap": 3.0, "mask": Causal()},
    "sinks": {"sinks": True, "mask": Window(5, 0)},
    "alibi": {"position": ALiBi(6), "mask": Causal()},
    "t5": {
        "position": T5Bias(nn.Parameter(torch.randn(8, 6)), bidirectional=True, max_distance=19)
    },
    "rope": {"position": RoPE(), "mask": Window(3, 4)},
    "gated by head": {"gate": "head"},
    "gated by channel": {"gate": "channel", "scale": 0.31},
}


@pytest.mark.parametrize("name", RULES)
def test_every_rule_of_a_layer(name):
    torch.manual_seed(4)
    layer = MultiheadAttention(30, 6, n_kv_head=2, d_k=14, d_v=11, **RULES[name])
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    seen, head, i = shown(layer), 4, 23
    found = trace(seen, 0)
    row, cell = seen.row(0, head, i), seen.cell(0, head, i, 21)
    torch.testing.assert_close(row.weights, found.weights[0, head, i])
    assert cell.weight == pytest.approx(found.weights[0, head, i, 21].item(), rel=1e-5)
    assert cell.score == pytest.approx(found.scores[0, head, i, 21].item(), rel=1e-4)
    assert math.exp(cell.score - cell.lse) == pytest.approx(cell.weight, rel=1e-4)
    assert (cell.softcap is not None) == (cell.capped is not None) == (name == "softcap")
    assert (cell.bias is not None) == (name in ("alibi", "t5"))
    assert (row.sink is not None) == (cell.sink is not None) == (name == "sinks")
    if row.sink is not None:
        assert row.sink + row.weights.sum().item() == pytest.approx(1, abs=1e-6)
    context = found.context[0, i].unflatten(0, (6, 11))[head]
    if layer.gate is not None:
        context = (
            context * layer.WG(seen.reading.inputs[0][0, i]).sigmoid().unflatten(0, (6, -1))[head]
        )
    share = context @ layer.WO.weight.detach().T[head * 11 : (head + 1) * 11]
    assert row.output == pytest.approx(share.norm().item(), rel=1e-4)
    assert float(row.effects.sum()) >= row.output * (1 - 1e-5)  # a sum is no longer than its parts
    assert seen.proof(0).holds
    torch.testing.assert_close(seen.tile(0, head, 20, 25, 0, 9), found.weights[0, head, 20:25, :9])
    # The row without one link, from the scores without its own.
    without, zeroed = (seen.row_without(0, head, i, 21, how) for how in ("renormalize", "zero"))
    rest = 1 - row.weights[21]
    others = torch.arange(N) != 21
    torch.testing.assert_close(without.weights, row.weights * others / rest)
    torch.testing.assert_close(without.effects, row.effects * others / rest)
    assert without.lse == pytest.approx(row.lse + math.log(rest), abs=1e-5)
    torch.testing.assert_close(zeroed.weights, row.weights)
    torch.testing.assert_close(zeroed.effects, row.effects * others)
    value = seen.layer(0).v[0, head // 3, 21]
    if layer.gate is not None:
        value = value * layer.WG(seen.reading.inputs[0][0, i]).sigmoid().unflatten(0, (6, -1))[head]
    link = row.weights[21] * (value @ layer.WO.weight.detach().T[head * 11 : (head + 1) * 11])
    assert zeroed.output == pytest.approx((share - link).norm().item(), rel=1e-4)
    assert without.output == pytest.approx(((share - link) / rest).norm().item(), rel=1e-4)
    lacks = ((share - link) / rest - share).norm().item()
    assert without.changed == pytest.approx(lacks, rel=1e-3, abs=1e-5)
    assert zeroed.changed == pytest.approx(link.norm().item(), rel=1e-4, abs=1e-5)
    assert row.changed is None
    assert without.residual is zeroed.residual is None
    assert (without.sink is not None) == (name == "sinks")
    if layer.gate is not None:
        with pytest.raises(ArgumentError, match="The output of layer 0 has a gate, so that"):
            seen.contributions(0, head)
    else:
        made = seen.contributions(0, head)
        torch.testing.assert_close(made[0, 0, i], row.effects, rtol=1e-4, atol=1e-6)


def test_a_link_that_cannot_be_removed(tiny):
    """The first token of a causal model sees itself alone."""
    with pytest.raises(ArgumentError, match="Token 0 sees token 0 alone in head 4 of layer 1"):
        tiny.row_without(1, 4, 0, 0)
    assert tiny.row_without(1, 4, 0, 0, "zero").output == 0
    with pytest.raises(ArgumentError, match="`how` is 'away'"):
        tiny.row_without(1, 4, 3, 0, "away")


def test_a_row_that_sees_nothing():
    """The first word, where every word sees those before it alone."""
    seen = shown(MultiheadAttention(30, 6, mask=Causal() & ~Window(0, 0)))
    row, cell = seen.row(0, 3, 0), seen.cell(0, 3, 0, 0)
    assert not row.weights.any() and not row.effects.any()
    assert (row.lse, row.output, cell.hidden, cell.score) == (-math.inf, 0.0, True, -math.inf)
    assert seen.proof(0).holds


def test_the_sink_is_part_of_the_grid():
    layer = MultiheadAttention(30, 6, sinks=True)
    torch.nn.init.normal_(layer.sinks)
    seen = shown(layer)
    found = trace(seen, 0).weights[0]
    expected = (1 - found.sum(-1) + found[..., 0]).mean(-1)
    torch.testing.assert_close(seen.grid("sink").values[0], expected)


# The whole map


@pytest.mark.parametrize("mask", [Full(), Causal(), Window(3, 2)], ids=repr)
@pytest.mark.parametrize("side", [11, 1024])
def test_a_sweep_is_the_whole_map(mask, side, monkeypatch):
    monkeypatch.setattr(sweep, "SIDE", side)
    one = layered(MultiheadAttention(21, 3, mask=mask))
    P, told = one.map(2)[0, 0].double(), []
    found = sweep.sweep(one.map(2), 7, lambda done, total: told.append((done, total)))
    torch.testing.assert_close(found.received, P.sum(0), rtol=1e-6, atol=1e-6)
    far = (torch.arange(N)[:, None] - torch.arange(N)).abs()
    expected = torch.zeros(N).double().index_add_(0, far.flatten(), P.flatten())
    torch.testing.assert_close(found.by_distance, expected, rtol=1e-6, atol=1e-6)
    i, j, weights = found.links
    torch.testing.assert_close(weights.double(), P.flatten().topk(7).values, rtol=1e-6, atol=0)
    torch.testing.assert_close(weights.double(), P[i, j], rtol=1e-6, atol=0)
    assert told[0] == (0, N) and told[-1] == (N, N)


def test_distances_and_links(tiny):
    weights = trace(tiny, 1).weights[0, 2].double()
    found, links = tiny.distances(1, 2), tiny.links(1, 2, 5)
    assert found.edges == (0, 1, 2, 4, 8, 16, 32, 37)
    far = (torch.arange(N)[:, None] - torch.arange(N)).abs()
    for at, mass in enumerate(found.mass.tolist()):
        inside = (far >= found.edges[at]) & (far < found.edges[at + 1])
        assert mass == pytest.approx(float(weights[inside].sum()) / N, abs=1e-7)
    assert found.mean == pytest.approx(float((weights * far).sum()) / N, rel=1e-6)
    assert [link.weight for link in links] == sorted((link.weight for link in links), reverse=True)
    for link in links:
        assert link.weight == pytest.approx(weights[link.i, link.j].item(), rel=1e-5)


def test_one_word_has_one_distance():
    seen = llama().view(TokenizedText.of_ids(ids(1)))
    assert seen.distances(0, 0).edges == (0, 1)
    assert seen.distances(0, 0).mass.tolist() == pytest.approx([1.0])
    assert [link[:2] for link in seen.links(0, 0)] == [(0, 0)]


def test_links_of_no_weight_are_no_links(tiny):
    """A causal row of 37 words has 37 * 36 / 2 weights of exactly 0."""
    few = tiny.model.view(TokenizedText.of_ids(ids(3)))
    assert len(few.links(0, 0, 9)) == 6


def test_thumbnails(tiny):
    weights = trace(tiny, 1).weights[0]
    found = tiny.thumbnail(1, 2, 5)
    assert found.edges == (0, 8, 15, 23, 30, 37)
    for a in range(5):
        for b in range(5):
            rows, keys = (slice(*found.edges[at : at + 2]) for at in (a, b))
            mean = weights[2, rows, keys].mean().item()
            assert found.values[a, b].item() == pytest.approx(mean, abs=1e-7)
    torch.testing.assert_close(tiny.thumbnail(1, None, 5).values[2], found.values)
    assert tiny.thumbnail(1, 2, 99).edges == tuple(range(N + 1))


def test_grids(tiny):
    found = torch.stack([trace(tiny, layer).weights[0] for layer in range(3)]).double()
    far = (torch.arange(N)[:, None] - torch.arange(N)).abs()
    expected = {
        "entropy": torch.special.entr(found).sum(-1).mean(-1),
        "received": found.sum(2).amax(-1) / N,
        "distance": (found * far).sum(-1).mean(-1),
        "sink": found[..., 0].mean(-1),
    }
    for statistic, values in expected.items():
        told = []
        grid = tiny.grid(statistic, lambda done, total, told=told: told.append((done, total)))
        torch.testing.assert_close(grid.values.double(), values, rtol=1e-4, atol=1e-4)
        assert (grid.low, grid.statistic, grid.labels) == (0.0, statistic, None)
        assert grid.high >= float(grid.values.max())
        assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]


# Proofs


def test_every_layer_is_proved_while_the_model_runs(tiny):
    told = []
    text = TokenizedText.of_ids(ids())
    seen = tiny.model.view(text, lambda seen, layer: told.append((seen.n, layer)))
    assert told == [(N, 0), (N, 1), (N, 2)]
    for layer in range(3):
        proof = seen.proof(layer)
        theirs = seen.reading.outputs[layer]
        ours, off = seen.layer(layer).output(torch.arange(N))
        assert proof.holds and proof.rows == N
        assert proof.difference == float((ours - theirs[0]).abs().max())
        assert proof.size == float(theirs.abs().max())
        assert proof.tolerance == 66 * 2**-24 * proof.size + off
        plain, truth = (trace(seen, layer, dtype).output[0] for dtype in DTYPES)
        assert (ours - truth).abs().max() <= 2 * (plain - truth).abs().max() + off


@pytest.mark.parametrize("name", [*RULES, "plain"])
def test_the_rounding_of_weights_knows_lse(name):
    layer = MultiheadAttention(30, 6, n_kv_head=2, d_k=14, d_v=11, **RULES.get(name, {}))
    one = layered(layer)
    rows = torch.tensor([0, 3, 23, 36])
    ((here, weights),) = one.rows(rows)
    torch.testing.assert_close(one._lse(here, weights), one.whole.lse[:, :, rows])
    v, WO = one.v[0].repeat_interleave(3, 0).abs(), layer.WO.weight.detach().abs()
    bulk = (weights @ v) * (1 + one.whole.lse[0, :, rows, None].abs())
    expected = 2**-23 * (bulk.transpose(0, 1).flatten(1) @ WO.T).max()
    assert one.output(rows)[1] == pytest.approx(expected.item())


def test_a_wrong_layer_fails_its_proof(tiny):
    other = View(llama(), tiny.reading)
    with torch.no_grad():
        other.model.layer(1).WV.weight[0, 0] += 0.1
    assert [other.proof(layer).holds for layer in range(3)] == [True, False, True]
    assert not other.row(1, 0, 11).residual.holds


def test_what_was_not_kept_of_a_long_text(monkeypatch):
    monkeypatch.setattr(part, "KEPT_OUTPUTS", 3 * N * 66 - 1)
    monkeypatch.setattr(part, "SAMPLED_ROWS", 5)
    seen = llama().view(TokenizedText.of_ids(ids()))
    assert seen.reading.rows.tolist() == [0, 9, 18, 27, 36]
    assert [output.shape for output in seen.reading.outputs] == [(1, 5, 66)] * 3
    assert seen.proof(2).holds and seen.proof(2).rows == 5
    assert seen.row(1, 0, 27).residual.holds
    assert seen.row(1, 0, 26).residual is None


def test_some_rows_of_a_long_text_are_proved(monkeypatch):
    monkeypatch.setattr(view, "ALL_ROWS", N - 1)
    monkeypatch.setattr(view, "SAMPLED_ROWS", 7)
    seen = llama().view(TokenizedText.of_ids(ids()))
    assert seen.proof(0).holds and seen.proof(0).rows == 7
    assert seen.row(0, 0, 1).residual.holds


def test_rope_turns_far_words_as_transformers_does():
    """Frequencies that are off by one last digit would fail here."""
    seen = llama().view(TokenizedText.of_ids(ids(4001)))
    proofs = [seen.proof(layer) for layer in range(3)]
    assert all(proof.holds for proof in proofs)
    assert max(proof.difference / proof.tolerance for proof in proofs) < 0.5


# What is kept


def test_layers_are_kept_up_to_a_limit(tiny, monkeypatch):
    seen = View(tiny.model, tiny.reading)
    assert seen.layer(0) is seen.layer(0)
    monkeypatch.setattr(view, "KEPT_BYTES", 2 * seen.layer(0).bytes)
    first = seen.layer(0)
    assert seen.layer(1) is seen.layer(1)
    assert seen.layer(0) is first  # used last, so layer 1 goes
    seen.layer(2)
    assert seen.layer(0) is first
    monkeypatch.setattr(view, "KEPT_BYTES", 0)
    assert seen.layer(1) is seen.layer(1)
    assert seen.layer(0) is not first


def test_bytes(tiny):
    """Hidden states, outputs and what the model hands on; then q, k and v of a layer."""
    seen = View(tiny.model, tiny.reading)
    assert seen.bytes == 4 * N * 66 * (3 + 3 + 1)
    seen.layer(1)
    assert seen.bytes == 4 * N * (66 * 7 + 6 * 14 + 2 * 14 * 2)


def test_blocks_do_not_change_the_numbers(tiny, monkeypatch):
    monkeypatch.setattr(opened, "BLOCK", 6 * N * 4)  # four rows at a time
    seen = View(tiny.model, tiny.reading)
    ours, theirs = (one.layer(1).output(torch.arange(N)) for one in (seen, tiny))
    torch.testing.assert_close(ours[0], theirs[0])
    assert ours[1] == pytest.approx(theirs[1])
    parts = [rows.tolist() for rows, _ in seen.layer(1).rows(torch.arange(9))]
    assert parts == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]


def test_several_threads_ask_at_once(tiny):
    seen, found = View(tiny.model, tiny.reading), {}

    def ask(name: int) -> None:
        found[name] = [seen.row(layer, name, 20).weights for layer in (0, 1, 2)]

    threads = [threading.Thread(target=ask, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in range(6):
        for layer in range(3):
            torch.testing.assert_close(found[name][layer], tiny.row(layer, name, 20).weights)


def test_engine(tiny, tired):
    assert tiny.layer(1).engine() in ("fused", "tiled")
    assert tired.layer(1).engine() == "fused"


# Mistakes


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda v: v.row(3, 0, 0), "no layer 3: the model has 3 layers, 0 to 2"),
        (lambda v: v.row(-1, 0, 0), "no layer -1"),
        (lambda v: v.map(0, 6), "no head 6: the model has 6 heads, 0 to 5"),
        (lambda v: v.row(0, 0, 37), "no token 37: the text has 37 tokens, 0 to 36"),
        (lambda v: v.cell(0, 0, 0, -1), "no token -1"),
        (lambda v: v.column(0, 0, 99), "no token 99"),
        (lambda v: v.tile(0, 0, 5, 5, 0, 3), "no tokens 5 to 5: the text has 37"),
        (lambda v: v.tile(0, 0, 0, 3, 30, 38), "no tokens 30 to 38"),
        (
            lambda v: v.grid("size"),
            "no statistic 'size'.\nPass one of: entropy, received, distance",
        ),
        (lambda v: v.thumbnail(0, 0, 0), "`n` is 0, the blocks of a side"),
        (lambda v: v.proof(3), "no layer 3"),
        (lambda v: v.links(0, 0, 0), "`k` is 0, how many links to list.\nPass 1 to 256"),
        (lambda v: v.links(0, 0, 257), "`k` is 257"),
    ],
)
def test_mistakes(tiny, ask, says):
    with pytest.raises(ArgumentError, match=says):
        ask(tiny)


def test_a_difference_of_maps_is_not_one_map():
    says = "Each head of DifferentialAttention is a difference of 2 maps"
    with pytest.raises(ArgumentError, match=says):
        OpenLayer(DifferentialAttention(20, 2, start=0.8), torch.randn(1, 5, 20))


def test_a_layer_that_is_more_than_its_weights():
    layer = MultiheadAttention(20, 2)
    layer.WO.register_forward_hook(lambda module, _, y: 2 * y)
    with pytest.raises(ArgumentError, match=r"(?s)`WO` computes more.*_forward_hooks.*`from_hf`"):
        OpenLayer(layer, torch.randn(1, 5, 20))


def test_keys_that_are_no_words():
    with pytest.raises(ArgumentError, match="2 of the keys are persistent"):
        OpenLayer(MultiheadAttention(20, 2, persistent=2), torch.randn(1, 5, 20))


def test_whoever_watches_a_reading_can_end_it(tiny):
    def stop(seen: View, layer: int) -> None:
        if layer == 1:
            raise InterruptedError

    before = [len(m._forward_hooks) for m in tiny.model.model.modules()]
    with pytest.raises(InterruptedError):
        tiny.model.view(TokenizedText.of_ids(ids()), stop)
    assert [len(m._forward_hooks) for m in tiny.model.model.modules()] == before


def test_a_view_says_what_it_is():
    model, shows = tiny_llama(layers=2), "wqkv.open(model, text) shows them"
    found = repr(View(model, model.read(text(5))))
    assert found == f"View of 6 tokens, read by tiny-llama: 2 layers of 6 heads; {shows}"
    pair = tiny_t5().views(READ, TARGET)["cross"]
    assert repr(pair).startswith(f"View of {pair.n} tokens that look at {pair.m}, read by tiny-t5")
