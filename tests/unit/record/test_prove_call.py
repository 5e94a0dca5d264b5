"""No picture without a proof: one wrong number in a layer's output is found."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")

from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tests.tiny import agree, call_of, missed, record, tiny, tokens, weights
from wqkv.attend.functional import attention
from wqkv.errors import ArgumentError
from wqkv.maps.attention_map import AttentionMap
from wqkv.record.captured import Refusal
from wqkv.record.follow import repeat
from wqkv.record.watch import watch


def test_a_planted_wrong_output_fails_the_proof(registered):
    def wrong(*args, **kwargs):
        out, rest = sdpa_attention_forward(*args, **kwargs)
        out = out.clone()
        out[0, 5, 1, 2] += 1e-3  # one number of many
        return out, rest

    missed(tiny("llama", registered("planted_sdpa", wrong)), "its proof failed")


def test_a_planted_nan_fails_the_proof(registered):
    def wrong(*args, **kwargs):
        out, rest = sdpa_attention_forward(*args, **kwargs)
        return out * float("nan"), rest

    missed(tiny("llama", registered("planted_nan", wrong)), "its proof failed")


def test_a_step_whose_proof_fails_takes_nothing_with_it(registered):
    def wrong_steps(module, query, *args, **kwargs):
        out, rest = sdpa_attention_forward(module, query, *args, **kwargs)
        return out + (1e-2 if query.shape[2] == 1 else 0), rest

    model, ids = tiny("llama", registered("wrong_steps_sdpa", wrong_steps)), tokens()
    with torch.no_grad(), watch(model) as seen:
        model.generate(ids, max_new_tokens=2, attention_mask=torch.ones_like(ids))
    assert [layer.reason[:16] for layer in seen.layers] == ["its proof failed"] * 2
    assert len(seen.runs(1)) == 1
    model.set_attn_implementation("sdpa")
    agree(seen.runs(1)[0], weights(model, ids)[1])


def test_a_long_text_is_proved_on_sampled_rows():
    model, ids = tiny("llama", max_position_embeddings=1024), tokens(600, 1)
    with torch.no_grad(), watch(model) as seen:
        model(ids)
    assert "(64 rows)" in seen.report()
    agree(seen[1], weights(model, ids)[1])


@pytest.mark.parametrize(
    ("heads", "says"),
    [
        ((6, 4, 4), "its call is not understood: `query` has 6 heads, no multiple of the 4 heads"),
        ((6, 3, 2), "its values are f32[2, 2, 5, 4] on cpu for the keys f32[2, 3, 5, 4] on cpu"),
    ],
)
def test_heads_that_do_not_fit(heads, says):
    query, key, value = (torch.zeros(2, count, 5, 4) for count in heads)
    given = {"query": query, "key": key, "value": value}
    run = record(None, call_of("sdpa", (), given, query.transpose(1, 2)))
    assert run.refused is not None
    assert run.refused.startswith(says)


@pytest.mark.parametrize("wrong", [0.0, 1e-3])
def test_a_document_whose_proof_fails_leaves_its_run_as_it_was(wrong):
    """The pictures of a batch, one by one: the second is proved before it is added."""
    q, k, v = torch.randn(3, 1, 2, 5, 7, generator=torch.Generator().manual_seed(3))
    given = {"query": q, "key": k, "value": v, "is_causal": False}
    out = attention(q, k, v).transpose(1, 2)
    run = record(None, call_of("eager", (), given, out))
    q2 = given["query"] = q.flip(2) + 1
    later = call_of("eager", (), given, attention(q2, k, v).transpose(1, 2) + wrong)
    if wrong:
        with pytest.raises(Refusal, match=r"its proof failed: .* by 1\.0e-03, .* times what round"):
            repeat(run, later)
    else:
        repeat(run, later)
    documents = 1 if wrong else 2
    assert (run.shape, run.proof.rows) == ((1, 2, 5 * documents, 5 * documents), 5 * documents)
    assert torch.equal(run.map()[:, :, :5, :5], AttentionMap(q, k)[:])


def test_what_the_records_refuse_is_a_reason(monkeypatch):
    def refuses(*args, **kwargs):
        raise ArgumentError("it is odd.\nPass another.")

    monkeypatch.setattr("wqkv.record.listen.begin", refuses)
    monkeypatch.setattr("wqkv.record.operators.door.begin", refuses)
    missed(tiny("llama"), "its call is not understood: it is odd.")
