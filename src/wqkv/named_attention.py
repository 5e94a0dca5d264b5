"""Which modules of a model are attention, as their names and parts say."""

from __future__ import annotations

import re

from torch import nn

_ATTENTION = re.compile(r"atten|attn", re.IGNORECASE)
_PROJECTION = re.compile(
    r"w?(q|k|qk|qkv|query|key|query_key_value|c_attn|in_proj|to_q|to_k|to_qkv|sampling_offsets)"
    r"(_|\d|$)",
    re.IGNORECASE,
)


def attention_like(model: nn.Module) -> set[nn.Module]:
    """The innermost modules that are named attention and project queries or keys."""
    like = {}
    for name, module in model.named_modules():
        parts = [part for part, _ in module.named_children()]
        parts += [part for part, _ in module.named_parameters(recurse=False)]
        own = next((part for part in reversed(name.split(".")) if not part.isdecimal()), "")
        titles = [type(module).__name__] + [own] * ("linear" not in own)  # that has no softmax
        named = any(map(_ATTENTION.search, titles))
        if named and any(map(_PROJECTION.match, parts)):
            like[name] = module
    outer = {name for name in like for other in like if other.startswith(f"{name}.")}
    return {module for name, module in like.items() if name not in outer and name}
