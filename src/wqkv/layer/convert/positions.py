"""RoPE, and how it is scaled, from a transformers configuration: its `rope_parameters`.

Older configurations call it `rope_scaling`; transformers reads both into `rope_parameters`.
"""

from __future__ import annotations

import math
from typing import Any

from wqkv.attend.rope import RoPE
from wqkv.attend.scalings import (
    DynamicNTK,
    GivenFrequencies,
    LinearScaling,
    Llama3Scaling,
    LongRoPE,
    RoPEScaling,
    YaRN,
)
from wqkv.errors import ArgumentError


def from_config(
    config: Any, kind: str | None = None, *, interleaved: bool = False, woven: bool = False
) -> RoPE:
    """The RoPE of a configuration.

    Args:
        kind: the layer's kind, such as "sliding_attention", because some configurations have
            parameters of their own for each kind.
        woven: where channels rotate by frame, row and column, whether these take turns from pair to
            pair. Else those of one stand together.
    """
    rules = dict(config.rope_parameters)
    if kind in rules:
        rules = dict(rules[kind])
    theta = float(rules["rope_theta"])
    if sections := rules.get("mrope_section"):
        axes = tuple(axis % 3 for axis, pairs in enumerate(sections) for _ in range(pairs))
        if woven:  # rows and columns while they last, and frames in all other places
            turns = ((at, at % 3) for at in range(len(axes)))
            axes = tuple(axis if at < 3 * sections[axis] else 0 for at, axis in turns)
        plain = {**rules, "rope_type": "default"} if rules["rope_type"] == "mrope" else rules
        scaling = _scaling(plain, config, 2 * len(axes))
        return RoPE(theta, 2 * len(axes), scaling=scaling, axes=axes)
    whole = _d(config)
    part = rules.get("partial_rotary_factor") or getattr(config, "partial_rotary_factor", None)
    turned = int(whole * (part or 1.0))
    if rules["rope_type"] == "proportional":  # all channels rotate, the last ones by angle 0
        turned = whole
    return RoPE(
        theta,
        None if turned == whole else turned,
        interleaved,
        _scaling(rules, config, whole),
    )


def _d(config: Any) -> int:
    """The size of a head."""
    d: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return d


# Any: `rope_parameters` is JSON of the configuration, with other keys for each rope_type.
def _scaling(rules: dict[str, Any], config: Any, d: int) -> RoPEScaling | None:
    """The scaling that `rope_type` names, with the defaults that transformers gives it."""
    kind = rules["rope_type"]
    longest = config.max_position_embeddings
    trained = rules.get("original_max_position_embeddings") or longest
    gain = rules.get("attention_factor")
    if kind == "default":
        return None
    if kind == "linear":
        return LinearScaling(rules["factor"])
    if kind == "dynamic":
        return DynamicNTK(rules["factor"], longest)
    if kind == "llama3":
        low, high = rules["low_freq_factor"], rules["high_freq_factor"]
        return Llama3Scaling(rules["factor"], low, high, trained)
    if kind == "longrope":
        factor = rules.get("factor") or longest / trained
        return LongRoPE(rules["short_factor"], rules["long_factor"], trained, factor, gain)
    if kind == "yarn":
        factor = rules.get("factor") or longest / trained
        above, below = rules.get("mscale"), rules.get("mscale_all_dim")
        if gain is None and above and below and factor > 1:
            gain = (0.1 * above * math.log(factor) + 1) / (0.1 * below * math.log(factor) + 1)
        return YaRN(
            factor,
            trained,
            rules.get("beta_fast") or 32.0,
            rules.get("beta_slow") or 1.0,
            gain,
            rules.get("truncate", True),
        )
    if kind == "proportional":
        turned = int(rules.get("partial_rotary_factor", 1.0) * d // 2)
        slow = rules["rope_theta"] ** (2 / d)
        factor = rules.get("factor") or 1.0
        return GivenFrequencies(
            tuple(slow**-i / factor if i < turned else 0.0 for i in range(d // 2))
        )
    raise ArgumentError(
        f"The model scales its rotary positions by {kind!r}, which is not known here.\n"
        "Known: default, linear, dynamic, llama3, longrope, yarn, proportional."
    )
