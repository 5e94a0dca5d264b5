"""What a rank computes between messages: the one file of parallel/ that calls the engines."""

from __future__ import annotations

import torch
from torch import Tensor

from wqkv.attend.call import Call
from wqkv.attend.engines import rectangles, reference
from wqkv.attend.engines.plan import Method, make_plan


class Local:
    """A rank's own work in the forward or backward pass of one call over ranks.

    An error is held back until `raise_held_error`, and NaN stands for what could not be computed,
    because the other ranks wait for messages: an error between a send and a receive would leave
    some in flight.
    """

    def __init__(self, method: Method) -> None:
        self.method = method
        self._error: Exception | None = None

    @classmethod
    def of(cls, call: Call) -> Local:
        return cls("reference" if rectangles.empty_reasons(call) else rectangles.method(call))

    def forward(self, call: Call) -> tuple[Tensor, Tensor]:
        """out and lse of a call, without its sinks; NaN after an error."""
        try:
            return rectangles.forward(call, make_plan(call, self.method))
        except Exception as error:
            self._error = self._error or error
        nan = call.query.new_full(
            call.query.shape[:3], torch.nan, dtype=reference.exact(call.query)
        )
        return nan.unsqueeze(-1).expand(*nan.shape, call.value.shape[3]), nan

    def backward(
        self,
        call: Call,
        out: Tensor,
        lse: Tensor,
        grad_out: Tensor | None,
        grad_lse: Tensor | None,
    ) -> list[Tensor]:
        """dq, dk, dv, and the bias's gradient if the reference computes; NaN after an error."""
        kept = rectangles.kept(call.query)  # a GPU's kernels take one dtype for all
        try:
            return rectangles.backward(
                call, make_plan(call, self.method), out.to(kept), lse,
                None if grad_out is None else grad_out.to(kept), grad_lse,
            )  # fmt: skip
        except Exception as error:
            self._error = self._error or error
        return [torch.full_like(x, torch.nan) for x in (call.query, call.key, call.value)]

    def raise_held_error(self) -> None:
        """Raise the first error that was held back, if there is one."""
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # its traceback holds this frame, which would hold it for ever
