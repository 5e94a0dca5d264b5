"""What is asked of a head: by the name of the experiment, the question, the change, the limits."""

from __future__ import annotations

from typing import NamedTuple


class HeadQuestion(NamedTuple):
    """A question about q, k and v, the change that answers it, and what the answer leaves open."""

    question: str
    change: str  # in the paper's notation
    limits: str


HEAD_QUESTIONS = {
    "no_projection": HeadQuestion(
        "Why are there matrices at all? Could a token be its own query and key?",
        "q = k = x, scale = 1 / sqrt(d_model)",
        "The model was trained with WQ and WK; one that is trained without them would have other x."
        " With RoPE x is not rotated.",
    ),
    "same_matrix": HeadQuestion(
        "Why can WQ and WK not be one matrix?",
        "WK := WQ",
        "The model was trained with two matrices. One that is trained with a single matrix, such as"
        " Reformer, does work.",
    ),
    "value_is_key": HeadQuestion(
        "Why is v not the same as k?",
        "WV := WK",
        "The weights stay as they are. Only what the head adds changes, and WO was trained for v.",
    ),
    "swapped": HeadQuestion(
        "Is attention symmetric?",
        "score(i, j) := score(j, i)",
        "The mask stays as it is. The answer holds for this head, and others are more symmetric.",
    ),
    "merged": HeadQuestion(
        "Can WQ and WK be merged into one matrix?",
        "scores = x W x^T * scale, W = WQ WK^T",
        "It holds without RoPE and without a norm of q and k, which stand between WQ and WK.",
    ),
    "unscaled": HeadQuestion(
        "Why are the scores divided by sqrt(d_k)?",
        "scale = 1",
        "The model was trained with the scale, and one that is trained without it could learn"
        " smaller matrices.",
    ),
    "variance": HeadQuestion(
        "Is the variance of q . k equal to d_k?",
        "none: the scores are measured",
        "The argument is about independent numbers of variance 1, so about the start of training."
        " Pairs that the mask hides are counted too.",
    ),
    "no_key_bias": HeadQuestion(
        "What does the bias of WK do?",
        "k without its bias",
        "It adds the same number to all scores of a row, which cancels. With RoPE, a norm of"
        " k, a softcap or a learned sink it does not cancel.",
    ),
    "shuffled_heads": HeadQuestion(
        "Does the order of the heads matter?",
        "head h takes the place of head h + 1, with its rows of WO and without them",
        "The order is free only before training: each head's rows of WO belong to it.",
    ),
    "concat_or_sum": HeadQuestion(
        "Are the heads concatenated, or added?",
        "concat_h(context_h) WO, and sum_h context_h WO_h",
        "Both are one formula. The bias of WO is added once.",
    ),
    "big_weight": HeadQuestion(
        "Is a large weight important?",
        "the head without the key that is heaviest in the row",
        "This is what changes in one head. What changes in the answer, wqkv.why says.",
    ),
    "low_rank": HeadQuestion(
        "What would a smaller d_k do?",
        "WQ WK^T with its r largest singular values",
        "A model that is trained with a smaller d_k would use its few dimensions better.",
    ),
}
