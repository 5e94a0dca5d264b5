"""HTTP for the explorer's server: a connection whose request does not arrive in time is closed."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

#: How many seconds a request, head and body, may take to arrive. An answer may take longer.
ARRIVAL = 30.0


class TimedProtocol(H11Protocol):
    """One connection, which is closed when a request takes too long to arrive.

    uvicorn itself limits only the pause between two requests.
    """

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._timer = self.loop.call_later(ARRIVAL, transport.close)

    def handle_events(self) -> None:
        super().handle_events()
        complete = self.conn.their_state not in (h11.IDLE, h11.SEND_BODY)
        if self._timer is not None and complete:
            self._timer.cancel()
            self._timer = None
        elif self._timer is None and not complete:
            self._timer = self.loop.call_later(ARRIVAL, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()
