"""Which modules are attention: by a name and a projection, the innermost, and not the model."""

from __future__ import annotations

from torch import nn

from wqkv.layer.attention import MultiheadAttention
from wqkv.named_attention import attention_like


class Attention(nn.Module):
    def __init__(self, part: str) -> None:
        super().__init__()
        self.add_module(part, nn.Linear(3, 5))


def test_attention_is_named_so_and_projects():
    model = nn.ModuleDict(
        {
            "by_class": Attention("q_proj"),
            "self_attn": nn.ModuleDict({"Wqkv": nn.Linear(3, 5), "attention": Attention("to_q")}),
            "attention_norm": nn.LayerNorm(3),
            "other": Attention("dense"),
            "theirs": nn.MultiheadAttention(6, 2),
            "ours": MultiheadAttention(6, 2),
            "mlp": nn.ModuleDict({"key": nn.Linear(3, 5)}),
        }
    )
    found = attention_like(model)
    names = [name for name, module in model.named_modules() if module in found]
    assert names == ["by_class", "self_attn.attention", "theirs", "ours"]
    assert attention_like(model["theirs"]) == set()
