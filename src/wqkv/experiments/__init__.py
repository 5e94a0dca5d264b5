"""What WQ, WK and WV are for: questions as changes of one head of a trained model, by name.

Each takes a view, a layer, a head and a query token i, and returns an `Experiment`.

>>> from transformers import GPT2Config, GPT2Model
>>> from wqkv.study.model import OpenModel
>>> from wqkv.study.tokens import TokenizedText
>>> model = OpenModel(GPT2Model(GPT2Config(n_layer=2, n_embd=24, n_head=3)).eval(), None, "gpt2")
>>> view = model.view(TokenizedText.of_ids([5, 7, 11, 13, 17]))
>>> found = unscaled(view, 1, 2, 4)
>>> found
Experiment unscaled of layer 1, head 2, token 4: scale = 1
>>> found.before.weights.shape, found.after.map.shape, found.after.output.shape
(torch.Size([5]), (1, 1, 5, 5), torch.Size([24]))
"""

from wqkv.experiments.asked_of_heads import HEAD_QUESTIONS
from wqkv.experiments.changed_head import Experiment, HeadState, Measured
from wqkv.experiments.how_often import how_often
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
    "how_often",
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
