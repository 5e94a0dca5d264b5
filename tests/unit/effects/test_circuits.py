"""The circuits of a head against dense float64 matrices, and heads that are known to copy."""

import math

import pytest
import torch
from transformers import AlbertConfig, GPT2Config, GPT2LMHeadModel

from tests.tiny import of_config, shake, tiny_bart, tiny_llama, tiny_t5
from wqkv import ArgumentError, circuits
from wqkv.effects import circuits as module
from wqkv.study.model import OpenModel
from wqkv.study.part import ModelPart

# tiny_llama: d_model 66, 6 heads, 2 key heads of 14, 3 layers
LAYER, HEAD, OF_KEY, D = 1, 4, 1, 14


def dense(model: ModelPart, layer: int, head: int, d: int = D, group: int = 3):
    """WQ, WK, WV, WO of a head as the paper writes them, in float64."""
    attention = model.model.layers[layer].self_attn
    rows = {name: getattr(attention, f"{name}_proj").weight.detach().double() for name in "qkv"}
    own, shared = slice(head * d, (head + 1) * d), slice(head // group * d, (head // group + 1) * d)
    WO = attention.o_proj.weight.detach().double()[:, own].T
    return rows["q"][own].T, rows["k"][shared].T, rows["v"][shared].T, WO


def unordered(numbers: torch.Tensor) -> torch.Tensor:
    """Complex numbers in an order of their own."""
    return torch.stack(sorted(numbers, key=lambda z: (round(float(z.real), 9), float(z.imag))))


@pytest.fixture(scope="module")
def llama() -> OpenModel:
    return tiny_llama()


@pytest.fixture(scope="module")
def found(llama) -> module.Circuits:
    return circuits(llama, LAYER, HEAD)


@pytest.mark.parametrize("name", ["QK", "OV"])
def test_against_the_dense_matrix(llama, found, name):
    WQ, WK, WV, WO = dense(llama, LAYER, HEAD)
    M, one = {"QK": WQ @ WK.T, "OV": WV @ WO}[name], getattr(found, name)
    assert found.key_head == OF_KEY
    torch.testing.assert_close(one.left @ one.right, M)
    U, S, V = one.left_directions, one.singular_values, one.right_directions
    torch.testing.assert_close(S, torch.linalg.svdvals(M)[:D])
    torch.testing.assert_close(U @ S.diag() @ V.T, M)
    for basis in (U, V):
        torch.testing.assert_close(basis.T @ basis, torch.eye(D, dtype=torch.float64))
    largest = torch.linalg.eigvals(M)
    largest = largest[largest.abs().argsort(descending=True)[:D]]
    torch.testing.assert_close(unordered(one.eigenvalues), unordered(largest))
    assert (one.eigenvalues.abs().diff() <= 0).all()


def test_no_tensor_is_larger_than_the_factors(llama, found):
    for one in (found.QK, found.OV):
        tensors = [part for part in vars(one).values() if isinstance(part, torch.Tensor)]
        assert len(tensors) == 6 and max(part.numel() for part in tensors) == 66 * D


def test_directions_as_tokens(llama, found):
    E = llama.model.embed_tokens.weight.detach().double()
    U = llama.speaker.lm_head.weight.detach().double()
    for circuit, right in ((found.QK, E), (found.OV, U)):
        assert len(circuit.directions) == module.LISTED_DIRECTIONS
        for at, direction in enumerate(circuit.directions):
            assert direction.value == float(circuit.singular_values[at])
            for sign, end in ((1, direction.positive), (-1, direction.negative)):
                sides = (
                    (E, circuit.left_directions, end.left),
                    (right, circuit.right_directions, end.right),
                )
                for weight, basis, names in sides:
                    order = (sign * weight @ basis[:, at]).argsort(descending=True)
                    ids = order[: module.LISTED_NAMES].tolist()
                    assert list(names) == [llama.tokenizer.decode([id]) for id in ids]


# Copying


def test_copying_score_against_the_dense_matrix(llama, found, monkeypatch):
    _, _, WV, WO = dense(llama, LAYER, HEAD)
    E = llama.model.embed_tokens.weight.detach().double()
    U = llama.speaker.lm_head.weight.detach().double().T
    values = torch.linalg.eigvals(E @ WV @ WO @ U)
    exact = float(values.real.sum() / values.abs().sum())
    assert found.copying == pytest.approx(exact, abs=1e-9) and abs(exact) < 0.9
    monkeypatch.setattr(module, "VOCABULARY_BLOCK", 5)
    assert circuits(llama, LAYER, HEAD).copying == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize("sign", [1, -1])
def test_planted_heads_that_copy_and_that_do_not(sign):
    """WV WO projects on some channels, and U is E: a token writes itself, or its opposite."""
    model = tiny_llama()
    attention = model.model.layers[LAYER].self_attn
    with torch.no_grad():
        model.speaker.lm_head.weight.copy_(model.model.embed_tokens.weight)
        WV = attention.v_proj.weight[OF_KEY * D : (OF_KEY + 1) * D]
        WV.copy_(torch.linalg.qr(WV.T).Q.T)
        attention.o_proj.weight[:, HEAD * D : (HEAD + 1) * D] = sign * WV.T
    assert circuits(model, LAYER, HEAD).copying == pytest.approx(sign, abs=1e-6)
    assert abs(circuits(model, LAYER, HEAD - 1).copying) < 0.9


# RoPE


@pytest.mark.parametrize("distance", [0, 5])
def test_the_score_of_two_tokens_at_a_distance(llama, distance):
    """x_i WQ R WK^T x_j^T is q . k of the layer, where token i stands `distance` after token j."""
    found = circuits(llama, LAYER, HEAD, distance=distance)
    x = torch.randn(1, 11, 66, generator=torch.Generator().manual_seed(0))
    q, k, _ = llama.layer(LAYER).qkv(x)
    i, j = 3 + distance, 3
    ours = x[0, i].double() @ found.QK.left @ found.QK.right @ x[0, j].double()
    torch.testing.assert_close(ours.float(), q[0, HEAD, i] @ k[0, OF_KEY, j], rtol=1e-4, atol=1e-5)
    assert found.position.startswith("RoPE(theta=10000.0") and found.distance == distance


def test_a_distance_changes_what_looks_and_not_what_is_written(llama, found):
    far = circuits(llama, LAYER, HEAD, distance=7)
    assert not torch.allclose(far.QK.singular_values, found.QK.singular_values, rtol=0.01)
    assert torch.equal(far.OV.singular_values, found.OV.singular_values)
    q, _, v = (far.composition - found.composition)[2].abs().amax(dim=0).tolist()
    assert q > 1e-4 and v == 0


# Composition


def test_composition_against_dense_matrices(llama, found):
    _, _, WV, WO = dense(llama, LAYER, HEAD)
    OV = WV @ WO
    for head in range(6):
        WQ, WK, WV, WO = dense(llama, 2, head)
        QK, other = WQ @ WK.T, WV @ WO
        exact = [(OV @ side).norm() / (OV.norm() * side.norm()) for side in (QK, QK.T, other)]
        torch.testing.assert_close(found.composition[2, head], torch.stack(exact))
    assert found.composition.shape == (3, 6, 3) and found.composition[:2].isnan().all()


def test_a_planted_composition_stands_out():
    """A later head whose WK reads what the first head writes, and nothing else."""
    model = tiny_llama()
    with torch.no_grad():
        WO = model.model.layers[0].self_attn.o_proj.weight[:, 5 * D : 6 * D]
        model.model.layers[2].self_attn.k_proj.weight[:D] = WO.T
    q, k, v = circuits(model, 0, 5).composition[2].unbind(dim=1)
    assert k[:3].min() > 1.5 * torch.cat((q, k[3:], v)).max()  # heads 0 to 2 share this WK


# What is not in it


def test_what_is_left_out():
    assert circuits(tiny_llama(1), 0, 0).left_out == ("the norms around the layer",)
    gpt2 = of_config(GPT2Config(n_layer=2, n_embd=21, n_head=3, vocab_size=31))
    found = circuits(ModelPart(gpt2, "gpt2"), 0, 1)
    assert found.left_out[1:] == ("the biases of WQ, WK, WV",)
    assert found.position == "" and found.copying is None


def test_gpt2_with_its_head_and_no_tokenizer_of_its_own(llama):
    config = GPT2Config(n_layer=2, n_embd=21, n_head=3, vocab_size=53)
    speaker = shake(GPT2LMHeadModel(config)).eval()
    found = circuits(OpenModel(speaker.transformer, llama.tokenizer, "gpt2", speaker), 1, 2)
    weight = speaker.transformer.h[1].attn.c_attn.weight.detach().double()  # Conv1D: (in, out)
    WV, WO = (
        weight[:, 42 + 14 :],
        speaker.transformer.h[1].attn.c_proj.weight.detach().double()[14:],
    )
    E = speaker.transformer.wte.weight.detach().double()  # U too
    values = torch.linalg.eigvals(E @ WV @ WO @ E.T)
    assert found.copying == pytest.approx(float(values.real.sum() / values.abs().sum()), abs=1e-9)
    # the model has more rows than the tokenizer has tokens
    names = {name for one in found.OV.directions for end in one[1:] for name in end.left}
    assert names & set(map(str, range(len(llama.tokenizer), 53)))


@pytest.mark.parametrize("make", [tiny_t5, tiny_bart])
def test_parts_of_a_pair(make):
    parts = make().parts
    for name, part in parts.items():
        found = circuits(part, 0, 1)
        assert found.copying is None
        ids = [int(id) for id in found.OV.directions[0].positive.left]
        assert max(ids) < part.config.vocab_size
        q, k, v = found.composition[1].unbind(dim=1)
        assert q.isfinite().all()
        assert k.isfinite().all() == v.isfinite().all() == (name != "cross")
    t5 = "T5Bias" in circuits(parts["encoder"], 0, 0).left_out[-1]
    assert t5 == (make is tiny_t5)


def test_an_embedding_of_another_size_names_no_token():
    sizes = {"hidden_size": 22, "num_attention_heads": 2, "intermediate_size": 13}
    model = of_config(AlbertConfig(vocab_size=31, embedding_size=7, **sizes))
    found = circuits(ModelPart(model, "albert"), 0, 1)
    assert found.QK.directions[0].positive == ((), ()) and found.copying is None
    assert len(found.QK.singular_values) == 11


def test_a_head_without_weights_has_no_score():
    model = tiny_llama(1)
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight.zero_()
    assert math.isnan(circuits(model, 0, 0).copying)


def test_repr(found):
    assert repr(found).startswith("Circuits of tiny-llama, layer 1, head 4: rank 14, copying score")
    part = ModelPart(of_config(GPT2Config(n_layer=1, n_embd=21, n_head=3, vocab_size=31)), "gpt2")
    assert repr(circuits(part, 0, 1)) == "Circuits of gpt2, layer 0, head 1: rank 7"


def test_report(found, llama):
    title, left, *lines = found.report().splitlines()
    assert title == repr(found)
    assert left.startswith("left out: the norms around the layer; RoPE(theta=10000.0")
    assert left.endswith("at distance 0")
    direction = found.QK.directions[0]
    left, right = (" ".join(map(repr, side[:4])) for side in direction.positive)
    assert lines[1] == f"  {f'{direction.value:.3g}':>8}  {left} -> {right}"
    left, right = (" ".join(map(repr, side[:4])) for side in direction.negative)
    assert lines[2] == f"{' ' * 12}{left} -> {right}"
    assert lines[11].startswith("WV WO: from a token like these")
    later = found.composition[2]
    for line, side, values in zip(lines[-3:], "QKV", later.unbind(dim=1), strict=True):
        head = int(values.argmax())
        assert line.startswith(f"  {side}  L2H{head} {values[head]:.3f}, L2H")
    last = circuits(llama, 2, 0).report().splitlines()
    assert last[-3:] == ["  Q  none", "  K  none", "  V  none"]


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, 0), "There is no layer 3: the model has 3 layers, 0 to 2"),
        ((0, 6), "There is no head 6: the model has 6 heads, 0 to 5"),
        ((0, -1), "There is no head -1"),
    ],
)
def test_what_is_not_there(llama, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        circuits(llama, *arguments)


def test_a_distance_where_nothing_rotates():
    gpt2 = ModelPart(of_config(GPT2Config(n_layer=1, n_embd=21, n_head=3, vocab_size=31)), "gpt2")
    with pytest.raises(ArgumentError, match="`distance` is 7, and layer 0 of gpt2 does not rotate"):
        circuits(gpt2, 0, 0, distance=7)


def test_heads_without_matrices_of_their_own(monkeypatch, llama):
    from wqkv import LatentAttention

    monkeypatch.setattr(llama, "_layers", [LatentAttention(66, 6, rank=3, d_rope=2)] * 3)
    with pytest.raises(ArgumentError, match="Layer 2 of tiny-llama is a LatentAttention"):
        circuits(llama, 2, 0)


def test_a_matrix_that_computes_more_than_its_weight():
    model = tiny_llama(1)
    model.layer(0).WV.register_forward_hook(lambda *_: None)
    with pytest.raises(ArgumentError, match="`WV` computes more than its weight says"):
        circuits(model, 0, 0)
