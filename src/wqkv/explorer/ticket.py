"""An address that leads to the page once.

A browser is started with its address as an argument, and every user of a machine sees the arguments
of all processes. So the address has a ticket in place of the token: good for one request, for a
while, and where the system tells who is connected, for this user alone.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Seconds that a browser has to start.
VALID = 120.0
#: Where Linux lists the connections of this machine and their owners.
TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))


def once(address: str) -> str:
    """The page's address with a ticket in place of its token."""
    start, token, _ = address.rsplit("/", 2)
    return f"{start}/{_name(token)}/"


class Ticket:
    """The one ticket of a token, which cannot be told from it."""

    def __init__(self, token: str) -> None:
        self._path, self._until = f"/{_name(token)}/", time.monotonic() + VALID

    def use(self, scope: Mapping[str, Any]) -> bool:
        """Whether a request shows the ticket and may; it is void from then on."""
        if not hmac.compare_digest(scope["path"].encode("utf-8", "replace"), self._path.encode()):
            return False
        good, self._until = time.monotonic() < self._until, 0.0
        ports = [(scope.get(end) or ("", 0))[1] for end in ("client", "server")]
        return good and all(_trusted(user) for user in _users(ports))


def _name(token: str) -> str:
    return hashlib.sha256(f"ticket {token}".encode()).hexdigest()


def _users(ports: list[int]) -> set[int]:
    """Whose the connection from one port to another is, as far as the system tells."""
    found = set()
    for table in TABLES:
        lines = table.read_text().splitlines()[1:] if table.exists() else []
        for fields in map(str.split, lines):
            if [int(end.rpartition(":")[2], 16) for end in fields[1:3]] == ports:
                found.add(int(fields[7]))
    return found


def _trusted(user: int) -> bool:
    return user in (0, os.getuid())
