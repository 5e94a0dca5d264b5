"""An address that leads to the page once.

A browser is started with its address as an argument, and every user of a machine can read the
arguments of all processes. So the address that a browser is started with holds a ticket in place of
the secret. The ticket is good for one request, for VALID seconds, and, where the system tells who
is connected, for the user who started the server alone.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from pathlib import Path

#: How many seconds a browser has to start.
VALID = 120.0
#: Where Linux lists the connections of this machine and their owners.
TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))


def address_with_ticket(address: str) -> str:
    """Return the page's address with the ticket in place of the secret."""
    start, secret, _ = address.rsplit("/", 2)
    return f"{start}/{_ticket_of(secret)}/"


class Ticket:
    """The one ticket for a secret; the secret cannot be computed from it."""

    def __init__(self, secret: str) -> None:
        self._path, self._until = f"/{_ticket_of(secret)}/", time.monotonic() + VALID

    def use(self, path: str, client_port: int, server_port: int) -> bool:
        """Return whether a request may pass with this ticket. Its first use ends it.

        Args:
            path: the path that the request asks for, which must be the ticket's.
            client_port, server_port: the two ends of the request's connection.
        """
        # compare_digest takes the same time for every wrong path, so none can be guessed by time.
        if not hmac.compare_digest(path.encode("utf-8", "replace"), self._path.encode()):
            return False
        good, self._until = time.monotonic() < self._until, 0.0
        return good and all(_is_trusted(user) for user in _users(client_port, server_port))


def _ticket_of(secret: str) -> str:
    return hashlib.sha256(f"ticket {secret}".encode()).hexdigest()


def _users(from_port: int, to_port: int) -> set[int]:
    """Return the ids of the users who own the connection, as far as the system lists it."""
    found = set()
    for table in TABLES:
        lines = table.read_text().splitlines()[1:] if table.exists() else []
        for fields in map(str.split, lines):  # ports are hexadecimal: 0100007F:1F40
            if [int(end.rpartition(":")[2], 16) for end in fields[1:3]] == [from_port, to_port]:
                found.add(int(fields[7]))
    return found


def _is_trusted(user: int) -> bool:
    return user in (0, os.getuid())  # 0 is root, who can read every process anyway
