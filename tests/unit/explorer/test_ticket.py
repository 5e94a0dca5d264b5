"""A ticket leads to the page once, for its owner, for a while, and does not tell the secret."""

import os
import re
import secrets
import socket

import pytest

from wqkv.explorer import ticket as module
from wqkv.explorer.ticket import Ticket, address_with_ticket


def use(ticket: Ticket, address: str, client_port: int = 0, server_port: int = 0) -> bool:
    return ticket.use("/" + address.split("/", 3)[3], client_port, server_port)


def test_an_address_without_the_secret():
    secret = secrets.token_urlsafe(24)
    address = address_with_ticket(f"http://127.0.0.1:8000/{secret}/")
    assert re.fullmatch(r"http://127\.0\.0\.1:8000/[0-9a-f]{64}/", address)
    assert address == address_with_ticket(f"http://127.0.0.1:8000/{secret}/")
    assert address != address_with_ticket(f"http://127.0.0.1:8000/{secret}x/")


def test_it_is_good_once():
    ticket, address = Ticket("secret"), address_with_ticket("http://a/secret/")
    assert not use(ticket, address[:-1])
    assert not use(ticket, f"{address}page/style/frame.css")
    assert not ticket.use("/\udcff/", 0, 0)
    assert use(ticket, address)
    assert not use(ticket, address)


def test_it_is_good_for_a_while(monkeypatch):
    monkeypatch.setattr(module, "VALID", -1.0)
    assert not use(Ticket("secret"), address_with_ticket("http://a/secret/"))


@pytest.mark.parametrize("system", [False, True])
def test_it_is_good_for_its_owner(monkeypatch, tmp_path, system):
    """Another user who read it off the arguments comes first: he does not get in."""
    table = tmp_path / "tcp"
    line = "   {}: 0100007F:{:04X} 0100007F:1F40 01 0:0 00:0 0 {} 0 4711 1 0 20 4 30 10 -1"
    users = {40001: 4242, 40002: os.getuid(), 40003: 0}
    lines = [line.format(at, port, user) for at, (port, user) in enumerate(users.items())]
    table.write_text("\n".join(["  sl  local_address rem_address st", *lines, ""]))
    monkeypatch.setattr(module, "TABLES", (table, tmp_path / "none") if system else ())
    address = address_with_ticket("http://a/secret/")
    for port, good in ((40001, not system), (40002, True), (40003, True), (40004, True)):
        assert use(Ticket("secret"), address, port, 8000) == good
    assert use(Ticket("secret"), address, 40001, 8001)  # goes elsewhere


@pytest.mark.skipif(not module.TABLES[0].exists(), reason="only Linux lists who is connected")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_real_connection(host):
    try:
        listening = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else 2)
    except OSError:
        pytest.skip(f"this machine has no {host}")
    port = listening.getsockname()[1]
    with listening, socket.create_connection((host, port)) as client:
        assert module._users(client.getsockname()[1], port) == {os.getuid()}
        assert module._users(port, port) == set()
