"""What a user's own backward pass says of one call of a layer: dL / d output, beside v and output.

A tensor hook on the output hears its gradient and changes nothing. Under gradient checkpointing a
layer runs again while the backward pass runs: that call begins no run, but belongs to the run of
the forward that it repeats: see `repeated` in listen.py.
"""

from __future__ import annotations

from torch import Tensor

from wqkv.maps.attention_map import AttentionMap
from wqkv.maps.link_map import EffectMap, How
from wqkv.maps.weights import aside


class Backward:
    """v and the output of one call, and the gradient with respect to that output.

    The gradients of several backward passes add up, as those of a parameter do.

    Args:
        output: as the model has it, (batch, query_len, n_head, d_v).
        learns: whether gradients were on when the forward began.
        head_axis: where the heads are in it, 1 in the output of our own attention.
    """

    def __init__(self, output: Tensor, learns: bool, head_axis: int = 2) -> None:
        self.value: Tensor | None = None  # (batch, n_kv_head, key_len, d_v)
        self.output: Tensor | None = None  # (batch, n_head, query_len, d_v)
        self.gradient: Tensor | None = None  # with respect to the output
        self.mixed = False  # whether a call that ran again may be this one or another
        self.hear(output)
        # Reentrant checkpointing runs the forward itself without gradients.
        self.waits = learns and not output.requires_grad
        self._learns = learns or output.requires_grad
        self._head_axis = head_axis

    @property
    def why_none(self) -> str | None:
        """Why there is no gradient; None if there is one."""
        if self.mixed:
            return "another run has the same q and k, and which of them ran again is not known"
        if self.gradient is not None:
            return None
        if not self._learns:
            return "it ran without gradients, as under torch.no_grad"
        if self.waits:
            return "its output needed no gradient, and no backward pass has run it again"
        return "no backward pass has reached it"

    def keep(self, value: Tensor, output: Tensor) -> None:
        """Keep copies: a cache may be written over, and so may an output."""
        self.value, self.output = value.detach().clone(), output.detach().clone()

    def hear(self, output: Tensor) -> None:
        """Add what backward passes say of an output, if it has a gradient."""
        if output.requires_grad:
            output.register_hook(self._add)

    def effects(self, weights: AttentionMap, how: How) -> EffectMap:
        """What removing each link of the call, of which these are the weights, does to the loss."""
        assert self.value is not None
        assert self.output is not None
        assert self.gradient is not None
        return weights.effects(self.value, self.output, self.gradient, how)

    # Autograd goes on with the gradient that it had, because this returns None. It is told None
    # where a function says that the output does not matter.
    def _add(self, gradient: Tensor | None) -> None:
        if gradient is None:
            return
        with aside(gradient.device):
            ours = gradient.detach().movedim(self._head_axis, 1)
            # Never in place, and a copy: functions further down may write into what they are given.
            self.gradient = ours.clone() if self.gradient is None else self.gradient + ours
