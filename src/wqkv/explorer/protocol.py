"""HTTP for the explorer's server: whoever does not complete a request in time is hung up on."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

#: Seconds that a request, head and body, may take to arrive. An answer may take longer.
LATE = 30.0


class Prompt(H11Protocol):
    """One connection; between two requests uvicorn waits for less."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._late = self.loop.call_later(LATE, transport.close)

    def handle_events(self) -> None:
        super().handle_events()
        complete = self.conn.their_state not in (h11.IDLE, h11.SEND_BODY)
        if self._late is not None and complete:
            self._late.cancel()
            self._late = None
        elif self._late is None and not complete:
            self._late = self.loop.call_later(LATE, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._late is not None:
            self._late.cancel()
