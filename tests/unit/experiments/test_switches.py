"""The experiments against dense float64, made from the matrices of small random models."""

import copy
import dataclasses
import math
import re

import pytest
import torch
import transformers
from transformers import AutoModel

from tests.tiny import TARGET, fill, text, tiny, tiny_bart, tiny_llama, tokens
from wqkv import MultiheadAttention, RoPE, View, experiments
from wqkv.errors import ArgumentError
from wqkv.experiments import HEAD_QUESTIONS
from wqkv.experiments.changed_head import TrainedHead
from wqkv.study.model import OpenModel
from wqkv.study.tokens import TokenizedText
from wqkv.study.whatif import what_if

N, D, HEADS, D_K = 17, 33, 3, 11
LAYER, HEAD, ROW = 1, 2, 13
SCALE = 1 / math.sqrt(D_K)


def of(view: View, name: str, layer: int = LAYER, head: int = HEAD, i: int = ROW):
    more = {"r": 5} if name == "low_rank" else {}
    return getattr(experiments, name)(view, layer, head, i, **more)


def numbers(found) -> dict[str, tuple[float, float | None]]:
    return {one.name: (one.before, one.after) for one in found}


@pytest.fixture(scope="module")
def bert() -> View:
    """Read 17 tokens with a model without RoPE, whose matrices have biases."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=53, hidden_size=D, num_hidden_layers=2, num_attention_heads=HEADS,
        intermediate_size=7, max_position_embeddings=19,
    )  # fmt: skip
    model = OpenModel(fill(transformers.BertModel(config).eval()), None, "tiny-bert")
    with torch.no_grad():  # far from uniform attention
        for name, parameter in model.model.named_parameters():
            parameter *= 3 if "self.query" in name or "self.key" in name else 1
    ids = torch.randint(3, 53, (N,), generator=torch.Generator().manual_seed(1)).tolist()
    return model.view(TokenizedText.of_ids(ids))


@pytest.fixture(scope="module")
def llama() -> View:
    """Read 23 tokens with a causal model with RoPE, two heads of 14 for WK and WV, six for WQ."""
    return tiny_llama().view(text(22))


class Dense:
    """A head in float64: x, q, k, v (n, d), and the rows of WO."""

    def __init__(self, view: View) -> None:
        layer = view.model.layer(LAYER)
        self.x = view.reading.inputs[LAYER][0].double()
        rows = slice(HEAD * D_K, (HEAD + 1) * D_K)
        self.W = {}
        self.b = {}
        for name in ("WQ", "WK", "WV"):
            matrix = getattr(layer, name)
            self.W[name] = matrix.weight.detach()[rows].double().T
            self.b[name] = matrix.bias.detach()[rows].double()
        self.q, self.k, self.v = (self.x @ self.W[m] + self.b[m] for m in self.W)
        self.WO = layer.WO.weight.detach()[:, rows].double().T

    def row(self, scores: torch.Tensor, v: torch.Tensor | None = None):
        """The weights of the row, and what the head adds to its token."""
        weights = scores.softmax(dim=-1)[ROW]
        return weights, weights @ (self.v if v is None else v) @ self.WO


def changed(head: Dense, name: str):
    """What each change of the weights comes to: scores of all rows, and other values."""
    s, q, k, x, W = SCALE, head.q, head.k, head.x, head.W
    if name == "low_rank":
        U, S, Vh = torch.linalg.svd(W["WQ"] @ W["WK"].T)
        low = (U[:, :5] * S[:5]) @ Vh[:5]
        # The bias of q is reduced to the kept directions of WQ, too. The bias of k cancels.
        bias = torch.linalg.lstsq(W["WQ"].T, head.b["WQ"][:, None], driver="gelsd").solution[:, 0]
        return (x + bias) @ low @ x.T * s, None
    return {
        "no_projection": (x @ x.T / math.sqrt(D), None),
        "same_matrix": (q @ q.T * s, None),
        "value_is_key": (q @ k.T * s, k),
        "swapped": ((q @ k.T).T * s, None),
        "merged": (q @ k.T * s, None),
        "unscaled": (q @ k.T, None),
        "variance": (q @ k.T * s, None),
        "no_key_bias": (q @ (k - head.b["WK"]).T * s, None),
        "big_weight": (
            (q @ k.T * s).index_fill(1, (q @ k.T)[ROW].argmax(), -math.inf),
            None,
        ),
    }[name]


@pytest.mark.parametrize("name", sorted({*HEAD_QUESTIONS} - {"shuffled_heads", "concat_or_sum"}))
def test_a_change_is_what_dense_float64_says(bert, name):
    found, head = of(bert, name), Dense(bert)
    scores, v = changed(head, name)
    for state, dense in ((found.before, head.row(head.q @ head.k.T * SCALE)),
                         (found.after, head.row(scores, v))):  # fmt: skip
        torch.testing.assert_close(state.weights.double(), dense[0], rtol=1e-4, atol=2e-6)
        torch.testing.assert_close(state.output.double(), dense[1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(state.map[0, 0, ROW], state.weights, rtol=1e-4, atol=2e-6)
    assert found.key == int(head.row(head.q @ head.k.T * SCALE)[0].argmax())
    assert found.proof.holds
    weights = [head.row(one)[0] for one in (head.q @ head.k.T * SCALE, scores)]
    told = numbers(found.numbers)
    for what, measure in (
        ("weight on itself", lambda P: P[ROW]),
        ("entropy", lambda P: torch.special.entr(P).sum()),
        ("largest weight", lambda P: P.max()),
        ("trace of the softmax's Jacobian", lambda P: (P.diag() - P.outer(P)).trace()),
        ("weight of the strongest link", lambda P: P[found.key]),
    ):
        assert told[what] == pytest.approx([float(measure(P)) for P in weights], rel=1e-4, abs=1e-5)
    outputs = head.row(head.q @ head.k.T * SCALE)[1], head.row(scores, v)[1]
    change = float((outputs[1] - outputs[0]).norm() / outputs[0].norm())
    assert told["change of the output"][0] == pytest.approx(change, rel=1e-4, abs=1e-5)


def test_means_over_all_rows(bert, monkeypatch):
    monkeypatch.setattr("wqkv.experiments.changed_head.BLOCK", 5 * N)  # several blocks
    head, told = Dense(bert), numbers(of(bert, "unscaled").over_rows())
    maps = [(head.q @ head.k.T * scale).softmax(dim=-1) for scale in (SCALE, 1)]
    for what, measure in (
        ("weight on itself", lambda P: P.diag()),
        ("entropy", lambda P: torch.special.entr(P).sum(dim=1)),
        ("largest weight", lambda P: P.amax(dim=1)),
        ("trace of the softmax's Jacobian", lambda P: 1 - P.square().sum(dim=1)),
    ):
        expected = [float(measure(P).mean()) for P in maps]
        assert told[what] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_order_of_the_heads(bert):
    """With WO's rows alike nothing changes; without them the layer adds something else."""
    layer, i = bert.model.layer(LAYER), ROW
    x = bert.reading.inputs[LAYER].double()
    whole = [getattr(layer, m) for m in ("WQ", "WK", "WV", "WO")]
    q, k, v = (
        (x[0] @ m.weight.detach().double().T + m.bias.detach().double()).view(N, HEADS, -1)
        for m in whole[:3]
    )
    context = torch.stack(
        [(q[:, h] @ k[:, h].T * SCALE).softmax(-1)[i] @ v[:, h] for h in range(HEADS)]
    )
    WO, b = whole[3].weight.detach().double().T, whole[3].bias.detach().double()
    plain, moved = (one.flatten() @ WO + b for one in (context, context[[2, 0, 1]]))
    found = of(bert, "shuffled_heads")
    for state, dense in ((found.before, plain), (found.after, moved)):
        torch.testing.assert_close(state.output.double(), dense, rtol=1e-5, atol=1e-5)
    told = numbers(found.numbers)
    assert told["largest number of the output"][0] == pytest.approx(float(plain.abs().max()))
    assert told["largest change of it"][0] == pytest.approx(
        float((moved - plain).abs().max()), rel=1e-5
    )
    assert found.same.holds and found.same.size == pytest.approx(float(plain.abs().max()))
    both = of(bert, "concat_or_sum")
    for state in (both.before, both.after):
        torch.testing.assert_close(state.output.double(), plain, rtol=1e-5, atol=1e-5)
    assert both.same.holds
    torch.testing.assert_close(
        both.before.output, bert.reading.outputs[LAYER][0, i], rtol=1e-5, atol=1e-5
    )


def test_numbers_of_all_pairs(bert):
    head = Dense(bert)
    S = head.q @ head.k.T
    told = numbers(of(bert, "variance").numbers)
    assert told["standard deviation of q . k"][0] == pytest.approx(float(S.std()), rel=1e-5)
    assert told["sqrt(d_k)"][0] == pytest.approx(math.sqrt(D_K))
    found = of(bert, "swapped")
    told = numbers(found.numbers)
    share = float((S - S.T).norm() / (S + S.T).norm())
    assert told["antisymmetric part of the scores"][0] == pytest.approx(share, rel=1e-5)
    W = head.W["WQ"] @ head.W["WK"].T
    scores = head.x @ (W + W.T) / 2 @ head.x.T + head.b["WQ"] @ head.W["WK"].T @ head.x.T
    alone = float((scores * SCALE).softmax(-1)[ROW, found.key])
    assert told["the link from the symmetric part of WQ WK^T alone"][1] == pytest.approx(
        alone, 1e-4
    )
    P = (S * SCALE).softmax(-1)
    links = [float(P[ROW, found.key]), float(P[found.key, ROW])]
    assert told["the link back"] == pytest.approx(links, rel=1e-4)


def test_numbers_of_the_matrices(bert):
    head = Dense(bert)
    told = numbers(of(bert, "merged").numbers)
    assert told["size of the matrices"] == (2 * D * D_K, D * D)
    assert told["rank of WQ WK^T"][0] == D_K
    values = torch.linalg.svdvals(head.W["WQ"] @ head.W["WK"].T).square()
    told = numbers(of(bert, "low_rank").numbers)
    assert told["kept of WQ WK^T"] == pytest.approx([1, float(values[:5].sum() / values.sum())])
    whole = experiments.low_rank(bert, LAYER, HEAD, ROW, r=D_K)
    torch.testing.assert_close(whole.after.weights, whole.before.weights, rtol=1e-4, atol=1e-6)


def test_what_is_the_same_to_rounding(bert):
    """A change that the softmax does not see is told as one; the tolerance is far below others."""
    for name in ("merged", "no_key_bias"):
        assert of(bert, name).same.holds
        assert of(bert, name).same.tolerance < 0.02
    assert of(bert, "unscaled").same is None
    # The bias of WQ is another matter: without it the weights are off by more than is allowed.
    at = TrainedHead(bert, LAYER, HEAD, ROW)
    weight, bias = at.part_of("WQ")
    without = at.state(at.with_part("WQ", weight, torch.zeros_like(bias)))
    change = (without.weights - at.before.weights).abs().max()
    assert change > 10 * of(bert, "no_key_bias").same.tolerance
    told = numbers(of(bert, "big_weight").numbers)
    row = bert.row(LAYER, HEAD, ROW)
    key = int(row.weights.argmax())
    assert told["what it adds"][0] == pytest.approx(float(row.effects[key] / row.effects.sum()))
    less = bert.row_without(LAYER, HEAD, ROW, key)
    torch.testing.assert_close(of(bert, "big_weight").after.weights, less.weights)


# With RoPE, grouped heads, a causal mask


def test_one_matrix_goes_through_rope(llama):
    """With WK := WQ the keys are rotated by their positions as before, and the mask stays."""
    head, i = 4, 19  # reads key head 1
    layer = llama.model.layer(LAYER)
    assert isinstance(layer.position, RoPE)
    x = llama.reading.inputs[LAYER].double()
    q = (x[0] @ layer.WQ.weight.detach()[head * 14 : (head + 1) * 14].double().T)[None, None]
    q = layer.position.rotate(q, torch.arange(23))[0, 0]
    dense = q[: i + 1] @ q[i] / math.sqrt(14)
    found = of(llama, "same_matrix", head=head, i=i)
    torch.testing.assert_close(
        found.after.weights[: i + 1].double(), dense.softmax(0), rtol=1e-4, atol=1e-6
    )
    assert (found.after.weights[i + 1 :] == 0).all()
    torch.testing.assert_close(found.before.weights, llama.row(LAYER, head, i).weights)


def test_a_bias_of_keys_that_are_rotated_does_not_cancel():
    model = OpenModel(
        fill(tiny("qwen2", kind=AutoModel, num_key_value_heads=3)), None, "tiny-qwen2"
    )
    view = model.view(TokenizedText.of_ids(tokens(13, 1)[0].tolist()))
    layer, x = model.layer(LAYER), view.reading.inputs[LAYER][0].double()
    head, i, group = 3, 11, layer.n_head // layer.n_kv_head
    q, k = (
        layer.position.rotate(one[None, None], torch.arange(13))[0, 0]
        for one in (
            (x @ m.weight.detach().double().T + b).view(13, -1, layer.d_k)[:, at]
            for m, at, b in (
                (layer.WQ, head, layer.WQ.bias.detach().double()),
                (layer.WK, head // group, 0),
            )
        )
    )
    dense = (k[: i + 1] @ q[i] / math.sqrt(layer.d_k)).softmax(0)
    found = of(view, "no_key_bias", head=head, i=i)
    torch.testing.assert_close(found.after.weights[: i + 1].double(), dense, rtol=1e-4, atol=1e-6)
    assert found.same is None
    assert (found.after.weights - found.before.weights).abs().max() > 1e-3


@pytest.mark.parametrize("rule", ["softcap", "sinks"])
def test_a_bias_of_keys_that_a_rule_sees_does_not_cancel(bert, rule):
    other = copy.deepcopy(bert.model)
    layer = other.layer(LAYER)
    if rule == "softcap":
        layer.softcap = 0.7
    else:
        layer.sinks = torch.nn.Parameter(torch.ones(HEADS), requires_grad=False)
    found = of(View(other, bert.reading), "no_key_bias")
    assert found.same is None
    assert (found.after.weights - found.before.weights).abs().max() > 1e-3


def test_values_that_are_keys_are_not_rotated(llama):
    head, i = 4, 19
    layer = llama.model.layer(LAYER)
    x = llama.reading.inputs[LAYER].double()[0]
    k = x @ layer.WK.weight.detach()[14:28].double().T
    found = of(llama, "value_is_key", head=head, i=i)
    WO = layer.WO.weight.detach()[:, head * 14 : (head + 1) * 14].double().T
    dense = found.before.weights.double() @ k @ WO
    torch.testing.assert_close(found.after.output.double(), dense, rtol=1e-4, atol=1e-6)
    assert torch.equal(found.after.weights, found.before.weights)


def test_the_model_is_as_before(llama):
    before = {name: one.clone() for name, one in llama.model.model.state_dict().items()}
    for name in sorted({*HEAD_QUESTIONS} - {"merged", "low_rank", "no_key_bias"}):
        of(llama, name, i=19)
    after = llama.model.model.state_dict()
    assert all(torch.equal(one, after[name]) for name, one in before.items())
    again = llama.model.read(llama.reading.sentence)
    assert torch.equal(again.final, llama.reading.final)


def test_the_model_goes_on_from_a_changed_head(bert):
    """The same as a model whose matrix has these rows."""
    rows = slice(HEAD * D_K, (HEAD + 1) * D_K)
    other = copy.deepcopy(bert.model)
    changed = other.model.encoder.layer[LAYER].attention.self
    with torch.no_grad():
        changed.key.weight[rows] = changed.query.weight[rows]
        changed.key.bias[rows] = changed.query.bias[rows]
    theirs = other.view(bert.reading).reading
    found = of(bert, "same_matrix")
    assert [*found.contexts()] == [(LAYER, HEAD)]
    change = what_if(bert, contexts=found.contexts())
    relative = (theirs.final - bert.reading.final).norm() / bert.reading.final.norm()
    assert change.change == pytest.approx(float(relative), rel=1e-3) and change.change > 1e-5
    assert change.layers[0] == 0


def test_the_model_goes_on_from_shuffled_heads(bert):
    other = copy.deepcopy(bert.model)
    WO = other.model.encoder.layer[LAYER].attention.output.dense.weight
    with torch.no_grad():  # what head h gives is multiplied by the rows of head h + 1
        WO[:] = WO.view(D, HEADS, D_K).roll(-1, dims=1).reshape(D, D)
    theirs = other.view(bert.reading).reading
    found = of(bert, "shuffled_heads")
    assert [*found.contexts()] == [(LAYER, 0), (LAYER, 1), (LAYER, 2)]
    change = what_if(bert, contexts=found.contexts())
    relative = (theirs.final - bert.reading.final).norm() / bert.reading.final.norm()
    assert change.change == pytest.approx(float(relative), rel=1e-4)
    assert of(bert, "concat_or_sum").contexts() == of(bert, "variance").contexts() == {}


def test_between_two_texts():
    """No token looks at itself there, and none back."""
    views = tiny_bart().views(text(9), TARGET)
    cross = views["cross"]
    found = of(cross, "same_matrix", layer=1, head=1, i=3)
    assert "weight on itself" not in numbers(found.numbers)
    assert "weight on itself" not in numbers(found.over_rows())
    layer = cross.model.layer(1)
    x, source = cross.reading.inputs[1][0], cross.reading.source.final[0]
    rows = slice(layer.d_k, 2 * layer.d_k)
    W, b = layer.WQ.weight.detach()[rows].double(), layer.WQ.bias.detach()[rows].double()
    scores = (x.double() @ W.T + b)[3] @ (source.double() @ W.T + b).T / math.sqrt(layer.d_k)
    torch.testing.assert_close(
        found.after.weights.double(), scores.softmax(0), rtol=1e-4, atol=1e-6
    )
    with pytest.raises(ArgumentError, match=r"tokens look at the \d+ of another text"):
        of(cross, "swapped", layer=1, head=1, i=3)


# Mistakes


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("merged", {}, "WQ and WK of layer 1 are no single matrix: between them stands RoPE.\nAsk"),
        (
            "low_rank",
            {},
            "WQ and WK of layer 1 are no single matrix: between them stands RoPE.\nAsk",
        ),
        ("no_key_bias", {}, "WK of layer 1 has no bias.\nAsk a model whose WK has one."),
        ("big_weight", {"i": 0}, "Token 0 sees token 0 alone in head 2 of layer 1"),
        ("unscaled", {"i": 23}, "There is no token 23: the text has 23 tokens, 0 to 22."),
        ("unscaled", {"head": 6}, "There is no head 6: the model has 6 heads, 0 to 5."),
    ],
)
def test_mistakes(llama, name, given, says):
    with pytest.raises(ArgumentError, match=re.escape(says)):
        of(llama, name, **given)


class OtherAttention(MultiheadAttention):
    """A layer whose heads may do more than their matrices say."""


def test_a_layer_that_is_not_plain(bert):
    other = copy.deepcopy(bert.model)
    other._layers[LAYER] = OtherAttention(D, HEADS, d_k=D_K)
    says = "The heads of layer 1 of tiny-bert do more than their WQ, WK, WV and WO say"
    with pytest.raises(ArgumentError, match=says) as caught:
        of(View(other, bert.reading), "same_matrix")
    assert "Layer 1 of tiny-bert is a OtherAttention" in str(caught.value.__cause__)


def test_values_of_another_size(bert):
    other = copy.deepcopy(bert.model)
    other._layers[LAYER] = MultiheadAttention(D, HEADS, d_k=D_K, d_v=7)
    says = "The head's part of WV is [33, 7], and what would replace it [33, 11].\nAsk a layer"
    with pytest.raises(ArgumentError, match=re.escape(says)):
        of(View(other, bert.reading), "value_is_key")


@pytest.mark.parametrize("r", [0, 12])
def test_a_rank_that_is_not_there(bert, r):
    says = f"`r` is {r}, and WQ WK^T has {D_K} singular values.\nPass 1 to {D_K}."
    with pytest.raises(ArgumentError, match=re.escape(says)):
        experiments.low_rank(bert, LAYER, HEAD, ROW, r)


# Words


def test_every_experiment_says_what_it_asks(bert):
    assert set(HEAD_QUESTIONS) == {
        name for name in experiments.__all__ if name.islower() and name != "how_often"
    }
    for name in HEAD_QUESTIONS:
        found = of(bert, name)
        assert found.name == name
        assert (found.question, found.change, found.limits) == HEAD_QUESTIONS[name]
        again = eval(found.python, {"wqkv": __import__("wqkv"), "view": bert})
        assert torch.equal(again.after.output, found.after.output)


def test_report(bert):
    found = of(bert, "merged")
    lines = found.report().splitlines()
    tokens = bert.reading.tokens
    assert lines[:3] == [
        HEAD_QUESTIONS["merged"].question,
        "Experiment merged of layer 1, head 2, token 13: scores = x W x^T · scale, W = WQ WK^T",
        f"strongest link as trained: {tokens[ROW]!r} -> {tokens[found.key]!r}",
    ]
    assert "  size of the matrices: 726 -> 1,089 numbers" in lines
    assert "  rank of WQ WK^T: 11 dimensions" in lines
    assert lines[-2].startswith("  the same to rounding: off by ")
    assert lines[-1] == found.limits
    proof = dataclasses.replace(found.same, difference=1.0)
    wrong = dataclasses.replace(found, same=proof).report()
    assert f"  NOT the same: off by 1.0e+00 of {proof.size:.3g}" in wrong


# A trained model


#: What learners ask is answered as a mean over all heads of the default model and these texts.
TEXTS = (
    "The animal didn't cross the street because it was too tired.",
    "She poured water from the jug into the cup until it was full.",
    "Paris is the capital of France.",
    "The trophy doesn't fit in the suitcase because it is too big.",
    "He went to the bank to deposit his money before it closed.",
)


def test_means_over_all_heads(minilm):
    """The same as from whole matrices, layer by layer; and the numbers that are told of them."""
    found, dense = {}, {}
    for sentence in TEXTS:
        view = minilm.view(sentence)
        for layer in range(6):
            opened = view.layer(layer)
            x = opened.x[:, None]
            pairs = {
                "before": (opened.q, opened.k, 32**-0.5),
                "no_projection": (x, x, 384**-0.5),
                "same_matrix": (opened.q, opened.q, 32**-0.5),
                "unscaled": (opened.q, opened.k, 1),
            }
            for name, (q, k, scale) in pairs.items():
                P = (q @ k.mT * scale).softmax(-1).expand(1, 12, -1, -1)
                dense.setdefault(name, []).append(
                    (P.diagonal(dim1=2, dim2=3).mean(), torch.special.entr(P).sum(-1).mean())
                )
                for head in range(12) if name != "before" else ():
                    told = numbers(of(view, name, layer, head, 1).over_rows())
                    found.setdefault(name, []).append((told["weight on itself"], told["entropy"]))
    means = {name: torch.tensor(one).mean(dim=0) for name, one in found.items()}
    before, names = torch.tensor(dense.pop("before")).mean(dim=0), [*dense]
    for name in names:
        after = torch.tensor(dense[name]).mean(dim=0)
        expected = torch.stack((before, after), dim=1)
        torch.testing.assert_close(means[name], expected, rtol=1e-4, atol=1e-5)
    itself = {name: [round(float(a), 3) for a in one[0]] for name, one in means.items()}
    assert (itself["no_projection"], itself["same_matrix"]) == ([0.104, 0.759], [0.104, 0.549])
    assert [round(float(a), 2) for a in means["unscaled"][1]] == [1.52, 0.22]


@pytest.fixture(scope="module")
def tired(minilm) -> View:
    return minilm.view("The animal didn't cross the street because it was too tired.")


@pytest.mark.parametrize(
    ("name", "after"),
    [("no_projection", 0.013), ("same_matrix", 0.000), ("merged", 0.677), ("no_key_bias", 0.677)],
)
def test_it_looks_at_the_animal(tired, name, after):
    tokens = tired.reading.tokens
    found = of(tired, name, 3, 1, tokens.index("it"))
    assert tokens[found.key] == "animal"
    link = numbers(found.numbers)["weight of the strongest link"]
    assert link == pytest.approx((0.677, after), abs=5e-4)


def test_the_animal_does_not_look_back(tired):
    told = numbers(of(tired, "swapped", 3, 1, tired.reading.tokens.index("it")).numbers)
    assert told["the link back"] == pytest.approx((0.677, 0.030), abs=5e-4)
    alone = told["the link from the symmetric part of WQ WK^T alone"]
    assert alone == pytest.approx((0.677, 0.503), abs=5e-4)
    told = numbers(of(tired, "merged", 3, 1, 10).numbers)
    assert told["size of the matrices"] == (24_576, 147_456)
    assert told["rank of WQ WK^T"][0] == 32
