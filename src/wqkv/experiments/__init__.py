"""What WQ, WK and WV are for: questions as changes of one head of a trained model, by name."""

from wqkv.experiments.asked_of_heads import HEAD_QUESTIONS
from wqkv.experiments.changed_head import Experiment, HeadState, Measured
from wqkv.experiments.switches import (
    big_weight,
    concat_or_sum,
    low_rank,
    merged,
    no_key_bias,
    no_projection,
    same_matrix,
    shuffled_heads,
    swapped,
    unscaled,
    value_is_key,
    variance,
)

__all__ = [
    "HEAD_QUESTIONS",
    "Experiment",
    "HeadState",
    "Measured",
    "big_weight",
    "concat_or_sum",
    "low_rank",
    "merged",
    "no_key_bias",
    "no_projection",
    "same_matrix",
    "shuffled_heads",
    "swapped",
    "unscaled",
    "value_is_key",
    "variance",
]
