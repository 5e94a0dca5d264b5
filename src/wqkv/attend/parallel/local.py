"""What a rank computes by itself, between messages: the one place here that asks the engines."""

from __future__ import annotations

import torch
from torch import Tensor

from wqkv.attend.call import Call
from wqkv.attend.engines import rectangles, reference
from wqkv.attend.engines.plan import Method, make_plan


class Local:
    """A rank's own work in the forward or backward pass of one call over ranks.

    Its first error waits for `settle`, and what it could not compute is NaN: the other ranks wait
    for their messages, and an error between a send and a receive would leave some in flight.
    """

    def __init__(self, method: Method) -> None:
        self.method = method
        self._error: Exception | None = None

    @classmethod
    def of(cls, call: Call) -> Local:
        return cls("reference" if rectangles.empty_reasons(call) else rectangles.method(call))

    def forward(self, call: Call) -> tuple[Tensor, Tensor]:
        """out and lse of a call without its sinks."""
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
        """dq, dk, dv, and where the reference computes also the gradient of the bias."""
        kept = rectangles.kept(call.query)  # the kernels of a GPU want one dtype
        try:
            return rectangles.backward(
                call, make_plan(call, self.method), out.to(kept), lse,
                None if grad_out is None else grad_out.to(kept), grad_lse,
            )  # fmt: skip
        except Exception as error:
            self._error = self._error or error
        return [torch.full_like(x, torch.nan) for x in (call.query, call.key, call.value)]

    def settle(self) -> None:
        """Raise the error that waited, if there is one."""
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # it holds this frame, which would hold it
