"""One call of an attention function: what is understood, and what is refused by name."""

import pytest
import torch
from torch import nn

from wqkv.look.readings import Refusal, read


def call(rule="sdpa", args=(), out=None, **given):
    """One call of an attention function, read as `watch` reads it."""
    query = torch.zeros(2, 6, 5, 4)
    whole = {"query": query, "key": query, "value": query, "attention_mask": None, **given}
    out = query.transpose(1, 2) if out is None else out
    return read(rule, nn.Module(), args, whole, (out, None), {}, False, False)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"args": (0,) * 5}, "it passes 5 arguments without names"),
        ({"query": torch.zeros(2, 5, 24)}, r"its query is \(2, 5, 24\), not"),
        ({"value": None}, "its value is NoneType, not"),
        ({"out": torch.zeros(2, 6, 5, 4)}, r"its output has the shape \(2, 6, 5, 4\), not"),
        ({"attention_mask": "causal"}, "its mask is a str, which is not understood"),
        ({"attention_mask": torch.ones(2, 5).long()}, "its mask is torch.int64 with 2 axes"),
        ({"attention_mask": torch.ones(2, 1, 7, 5)}, "does not fit 5 queries and 5 keys"),
        ({"position_bias": torch.zeros(5, 5)}, "its `position_bias` is no float tensor"),
        ({"sinks": torch.zeros(2, 6, 5, 1)}, r"its sinks have the shape \(2, 6, 5, 1\)"),
        ({"rule": "flash", "attention_mask": torch.zeros(2, 5)}, "hides every key"),
        (
            {"rule": "flash", "cu_seq_lens_q": torch.tensor([0, 5])},
            "its documents differ between queries and keys",
        ),
    ],
    ids=str,
)
def test_what_is_not_understood(given, reason):
    with pytest.raises(Refusal, match=reason):
        call(**given)


def test_documents_of_a_flash_function():
    asked = call(
        "flash", cu_seq_lens_q=torch.tensor([0, 2, 5]), cu_seq_lens_k=torch.tensor([0, 2, 5])
    )
    assert asked.readings[0].pattern.starts.tolist() == [[0, 0, 2, 2, 2]]
    one = torch.zeros(1, 6, 5, 4)
    asked = call(
        "flash", out=one.transpose(1, 2), query=one, key=one, value=one,
        position_ids=torch.tensor([[0, 1, 0, 1, 2]]),
    )  # fmt: skip
    assert asked.readings[0].pattern.starts.tolist() == [[0, 0, 2, 2, 2]]
