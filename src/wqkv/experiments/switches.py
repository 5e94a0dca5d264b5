"""The experiments: each is one change of a matrix, a scale or a rule of one head."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from wqkv.attend.call import Call, call_of
from wqkv.attend.masks.dense import Dense
from wqkv.attend.rope import RoPE
from wqkv.doors import door
from wqkv.effects.circuits import factors_of
from wqkv.errors import ArgumentError
from wqkv.experiments.asked_of_heads import NoExperiment
from wqkv.experiments.changed_head import ChangedHead, Experiment, HeadState, Measured, TrainedHead
from wqkv.layer.attention import MultiheadAttention
from wqkv.maps.proof import Proof, sum_rounding
from wqkv.sentences.experiments import BETWEEN
from wqkv.study.view import View


@door
def no_projection(view: View, layer: int, head: int, i: int) -> Experiment:
    """softmax(x x^T / sqrt(d_model)): row i of a head whose queries and keys are the tokens."""
    at = TrainedHead(view, layer, head, i)
    rules = replace(at.call.rules, scale=None)
    x, source = at.opened.x[:, None], at.source[:, None]
    value = at.call.value
    return at.experiment("no_projection", call_of(x, source, value, rules))


@door
def same_matrix(view: View, layer: int, head: int, i: int) -> Experiment:
    """softmax(q k^T * scale) with WK := WQ: row i of a head that has one matrix for both.

    With grouped heads WK of the group becomes WQ of this head. A bias goes along where WK has one;
    elsewhere it would add the same to all scores of a row.
    """
    at = TrainedHead(view, layer, head, i)
    return at.experiment("same_matrix", at.with_part("WK", *at.part_of("WQ")))


@door
def value_is_key(view: View, layer: int, head: int, i: int) -> Experiment:
    """weights v WO with WV := WK: the weights of row i stay, what the head adds does not.

    Raises:
        ArgumentError: d_v is not d_k.
    """
    at = TrainedHead(view, layer, head, i)
    after = at.state(at.with_part("WV", *at.part_of("WK")))
    return at.experiment("value_is_key", after, _cosine(at.before, after))


@door
def swapped(view: View, layer: int, head: int, i: int) -> Experiment:
    """softmax_j(q_j . k_i * scale): row i of a head where i and j change places in the score.

    "the link back" is P_ij and P_ji of the trained head. The antisymmetric part of the scores S is
    |S - S^T| / |S + S^T|, over all pairs of tokens: 0 if the head is symmetric. Where nothing
    stands between WQ and WK, one more number is for the symmetric part of WQ WK^T alone.

    Raises:
        ArgumentError: the text looks at another one.
    """
    at = TrainedHead(view, layer, head, i)
    if view.reading.source is not None:
        raise NoExperiment("other_text", n=view.n, m=view.m)
    after = replace(at.call, query=at.call.key, key=at.call.query)
    back = float(at.before.map[0, 0, at.key, i])
    alone = () if _between(at.opened.layer) else (_symmetric_alone(at),)
    return at.experiment(
        "swapped",
        after,
        *alone,
        Measured("the link back", "of 1", float(at.before.weights[at.key]), back),
        Measured("antisymmetric part of the scores", "of the symmetric", _antisymmetric(at.call)),
    )


@door
def merged(view: View, layer: int, head: int, i: int) -> Experiment:
    """softmax(x W x^T * scale), W = WQ WK^T: the same scores from one matrix.

    A bias is one more column of x, which is 1. `same` compares the scores.

    Raises:
        ArgumentError: RoPE, a norm, clipping or a temperature stands between WQ and WK.
    """
    at = TrainedHead(view, layer, head, i)
    ours = _check_linear(at)
    (A, a), (B, b) = at.part_of("WQ"), at.part_of("WK")
    W = torch.cat((A, a[:, None]), dim=1).T @ torch.cat((B, b[:, None]), dim=1)
    x, source = (torch.cat((x, torch.ones_like(x[..., :1])), -1) for x in (at.opened.x, at.source))
    rules = replace(at.call.rules, scale=at.call.scale)
    call = call_of((x @ W)[:, None], source[:, None], at.call.value, rules)
    after = at.state(call)
    d_model, d_source = A.shape[1], B.shape[1]
    R_q, R_k = _triangles(ours, head)
    return at.experiment(
        "merged",
        after,
        Measured("size of the matrices", "numbers", A.numel() + B.numel(), d_model * d_source),
        Measured("rank of WQ WK^T", "dimensions", int(torch.linalg.matrix_rank(R_q @ R_k.T))),
        same=same_scores(at, after),
    )


@door
def unscaled(view: View, layer: int, head: int, i: int) -> Experiment:
    """softmax(q k^T): row i of a head whose scores are not divided by sqrt(d_k)."""
    at = TrainedHead(view, layer, head, i)
    return at.experiment("unscaled", replace(at.call, rules=replace(at.call.rules, scale=1.0)))


@door
def variance(view: View, layer: int, head: int, i: int) -> Experiment:
    """std(q_i . k_j) over all pairs of a head, beside sqrt(d_k); nothing is changed."""
    at = TrainedHead(view, layer, head, i)
    deviation, expected = _deviation(at.call), math.sqrt(at.call.query.shape[3])
    return at.experiment(
        "variance",
        at.before,
        Measured("standard deviation of q . k", "of the scores before the scale", deviation),
        Measured("sqrt(d_k)", "of the scores before the scale", expected),
    )


@door
def no_key_bias(view: View, layer: int, head: int, i: int) -> Experiment:
    """softmax(q (k - b)^T * scale): row i of a head whose WK adds no bias b.

    q_i . b is the same number for all keys of row i, and the softmax does not see it; `same` says
    so. With RoPE, a norm or clipping it depends on the key, and a softcap or a learned sink sees
    it: there `same` is None.

    Raises:
        ArgumentError: WK has no bias.
    """
    at = TrainedHead(view, layer, head, i)
    if at.plain.WK.bias is None:
        raise NoExperiment("no_bias", layer=layer)
    weight, bias = at.part_of("WK")
    call = at.with_part("WK", weight, torch.zeros_like(bias))
    after, same, rules = at.state(call), None, at.call.rules
    if not _between(at.opened.layer) and rules.softcap is None and rules.sinks is None:
        same = same_weights(at, after)
    return at.experiment("no_key_bias", after, same=same)


@door
def shuffled_heads(view: View, layer: int, head: int, i: int) -> Experiment:
    """concat_h(context_h) WO with each head in the place of the next one, for token i.

    `same` is for the order with WO's rows alike, `after` for the order alone.
    """
    at = TrainedHead(view, layer, head, i)
    contexts, parts = _contexts(at), _parts_of_WO(at)
    order = torch.arange(len(contexts), device="cpu").roll(1)
    before, alone, alike = (
        at.before._replace(output=_output(at, *pair))
        for pair in ((contexts, parts), (contexts[order], parts), (contexts[order], parts[order]))
    )
    same = Proof.compare(alike.output, before.output, sum_rounding(before.output), 1)
    largest = (float(x.abs().max()) for x in (before.output, alone.output - before.output))
    return at.experiment(
        "shuffled_heads",
        alone,
        _cosine(before, alone),
        *map(Measured, ("largest number of the output", "largest change of it"), ("", ""), largest),
        same=same,
        before=before,
        changes=tuple(
            ChangedHead(place, head, at.opened.head_call(head))
            for place, head in enumerate(order.tolist())
        ),
    )


@door
def concat_or_sum(view: View, layer: int, head: int, i: int) -> Experiment:
    """concat_h(context_h) WO = sum_h context_h WO_h, for token i; `same` compares them."""
    at = TrainedHead(view, layer, head, i)
    contexts, parts = _contexts(at), _parts_of_WO(at)
    before = at.before._replace(output=_output(at, contexts, parts))
    added = torch.stack([context @ part for context, part in zip(contexts, parts, strict=True)])
    bias = _output(at, torch.zeros_like(contexts), parts)
    after = before._replace(output=added.sum(dim=0) + bias)
    same = Proof.compare(after.output, before.output, sum_rounding(before.output), 1)
    lengths = (float(one.output.norm()) for one in (before, after))
    length = Measured("length of the output", "", *lengths)
    return at.experiment("concat_or_sum", after, length, same=same, before=before)


@door
def big_weight(view: View, layer: int, head: int, i: int) -> Experiment:
    """The head without the key that is heaviest in row i: what that link weighs, adds and changes.

    What a link changes in the model's answer, `why` says.

    Raises:
        ArgumentError: nothing else is in the row.
    """
    at = TrainedHead(view, layer, head, i)
    if int(at.before.scores.isfinite().sum()) <= 1:
        raise NoExperiment("alone", row=i, key=at.key, head=head, layer=layer)
    others = (torch.arange(view.m, device="cpu") != at.key).view(1, 1, 1, -1)
    rules = replace(at.call.rules, mask=at.call.rules.mask & Dense(others))
    added = view.row(layer, head, i).effects
    return at.experiment(
        "big_weight",
        replace(at.call, rules=rules),
        Measured("what it adds", "of the lengths of all links", float(added[at.key] / added.sum())),
    )


@door
def low_rank(view: View, layer: int, head: int, i: int, r: int) -> Experiment:
    """softmax(x W_r x^T * scale), W_r the nearest matrix to WQ WK^T of rank r.

    It is q P k^T with one P of rank r, so that the biases go along.

    Args:
        r: how many singular values are kept, the largest ones.

    Raises:
        ArgumentError: r is not from 1 to d_k; RoPE, a norm, clipping or a temperature stands
            between WQ and WK.

    Source: Eckart and Young 1936.
    """
    at = TrainedHead(view, layer, head, i)
    ours = _check_linear(at)
    R_q, R_k = _triangles(ours, head)
    U, S, Vh = torch.linalg.svd(R_q @ R_k.T, full_matrices=False)
    if not 1 <= r <= len(S):
        raise ArgumentError(
            f"`r` is {r}, and WQ WK^T has {len(S)} singular values.\nPass 1 to {len(S)}."
        )
    P = torch.linalg.pinv(R_q) @ (U[:, :r] * S[:r]) @ Vh[:r] @ torch.linalg.pinv(R_k.T)
    query = (at.call.query.double() @ P).to(at.call.query.dtype)
    kept = float(S[:r].square().sum() / S.square().sum())
    return at.experiment(
        "low_rank",
        replace(at.call, query=query),
        Measured("kept of WQ WK^T", "of its squared norm", 1.0, kept),
        given=f", {r}",
    )


# What several of them need


def _between(layer: MultiheadAttention) -> list[tuple[str, str]]:
    """What stands between WQ and WK, so that a score is no x W x^T, in English and Chinese."""
    parts = (
        (isinstance(layer.position, RoPE), BETWEEN["position"]),
        (layer.norm, BETWEEN["norm"]),
        (layer.clip, BETWEEN["clip"]),
        (layer.temperature, BETWEEN["temperature"]),
    )
    return [named for there, named in parts if there]


def _check_linear(at: TrainedHead) -> MultiheadAttention:
    """The layer, if its scores are x W x^T."""
    layer = at.plain
    if between := _between(layer):
        en, zh = zip(*between, strict=True)
        raise NoExperiment("between", layer=at.layer, between=(", ".join(en), "、".join(zh)))
    return layer


def same_scores(at: TrainedHead, after: HeadState) -> Proof:
    """The scores of a row that its head sees, beside those of the trained one."""
    seen, off = at.before.scores.isfinite(), _score_rounding(at, after.call)
    return Proof.compare(
        after.scores[seen], at.before.scores[seen], off + _score_rounding(at, at.call), 1
    )


def same_weights(at: TrainedHead, after: HeadState) -> Proof:
    """The weights of a row, beside those of the trained head."""
    off = _score_rounding(at, at.call) + _score_rounding(at, after.call)
    return Proof.compare(after.weights, at.before.weights, off, 1)


def _score_rounding(at: TrainedHead, call: Call) -> float:
    """How far a score of the row may be off: half a last digit for each product that it sums.

    These are d_model for a number of q or k, and one for each number of q. A weight is off by no
    more than the scores.
    """
    products = at.opened.layer.d_model + call.query.shape[3]
    terms = call.query[0, 0, at.row].abs() * call.key[0, 0].abs()
    bulk = float(terms.sum(dim=1).max()) * abs(call.scale)
    return torch.finfo(torch.float32).eps / 2 * products * bulk


def _triangles(layer: MultiheadAttention, head: int) -> tuple[Tensor, Tensor]:
    """R_q and R_k, (d_k, d_k): R_q R_k^T has the singular values of WQ WK^T, which is not built."""
    QK, _ = factors_of(layer, head, 0)
    return torch.linalg.qr(QK.left).R, torch.linalg.qr(QK.right.T).R


def _square_sum(call: Call) -> Tensor:
    """sum_ij S_ij^2 of S = q k^T, which is trace(q^T q k^T k): from matrices of d_k x d_k."""
    q, k = call.query[0, 0].double(), call.key[0, 0].double()
    return ((q.T @ q) * (k.T @ k)).sum()


def _antisymmetric(call: Call) -> float:
    """|S - S^T| / |S + S^T| of S = q k^T."""
    mixed = call.key[0, 0].double().T @ call.query[0, 0].double()
    square, turned = _square_sum(call), (mixed * mixed.T).sum()  # turned: sum_ij S_ij S_ji
    return float(((square - turned).clamp(min=0) / (square + turned)).sqrt())


def _symmetric_alone(at: TrainedHead) -> Measured:
    """The strongest link, and the same where WQ WK^T is replaced by half its sum with W^T."""
    (A, a), (B, _) = at.part_of("WQ"), at.part_of("WK")
    W, x = A.T @ B, at.opened.x
    # The bias of WQ stays. That of WK adds the same number to all scores of a row.
    query = x @ ((W + W.T) / 2) + a @ B
    rules = replace(at.call.rules, scale=at.call.scale)
    state = at.state(call_of(query[:, None], x[:, None], at.call.value, rules))
    link = (float(one.weights[at.key]) for one in (at.before, state))
    return Measured("the link from the symmetric part of WQ WK^T alone", "of 1", *link)


def _deviation(call: Call) -> float:
    """The standard deviation of all numbers of S = q k^T."""
    count = call.query.shape[2] * call.key.shape[2]
    total = call.query[0, 0].double().sum(dim=0) @ call.key[0, 0].double().sum(dim=0)
    around = (_square_sum(call) - total.square() / count).clamp(min=0)
    return float((around / max(1, count - 1)).sqrt())


def _cosine(before: HeadState, after: HeadState) -> Measured:
    """How far what is added points where it did."""
    found = float(torch.cosine_similarity(before.output, after.output, dim=0))
    return Measured("cosine with the trained output", "of 1", 1.0, found)


def _contexts(at: TrainedHead) -> Tensor:
    """What every head of the layer hands to WO for the token: (n_head, d_v)."""
    opened, i = at.opened, at.row
    return torch.stack(
        [
            opened.apply_gate(head, i, opened.row(head, i)[2].out[0, 0, 0])
            for head in range(opened.layer.n_head)
        ]
    )


def _parts_of_WO(at: TrainedHead) -> Tensor:
    """The rows of WO of every head: (n_head, d_v, d_model)."""
    return torch.stack([at.opened.WO(head) for head in range(at.opened.layer.n_head)])


def _output(at: TrainedHead, contexts: Tensor, parts: Tensor) -> Tensor:
    """concat_h(context_h) WO and the bias of WO, for a WO of these parts: (d_model,)."""
    WO = at.opened.layer.WO
    assert WO is not None
    output: Tensor = contexts.flatten() @ parts.flatten(0, 1)
    return output if WO.bias is None else output + WO.bias.detach()
