"""Names of hosts in the one spelling that browsers send, so that two names can be compared."""

from __future__ import annotations

import ipaddress
import re
import socket
import unicodedata

_NUMBER = "(0x[0-9a-f]+|[0-9]+)"
_IPV4 = re.compile(rf"{_NUMBER}(\.{_NUMBER}){{0,3}}")
_HOST = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]*))?")


def canonical_host(host: str) -> str:
    """Return a name or an address as browsers spell it.

    A name is in lower case, and in Punycode where it has other letters than ASCII. An IPv4 address
    has four decimal numbers; an IPv6 address is in its short form and in brackets.

    Source: https://url.spec.whatwg.org/#host-parsing

    >>> [canonical_host(host) for host in ("MyBox.local.", "127.1", "0:0:0:0:0:0:0:1")]
    ['mybox.local', '127.0.0.1', '[::1]']
    >>> canonical_host("bücher.example")
    'xn--bcher-kva.example'
    """
    inner = host.removeprefix("[").removesuffix("]").lower()
    try:
        if ":" in inner:
            return f"[{ipaddress.IPv6Address(inner)}]"
        plain = unicodedata.normalize("NFKC", inner).replace("\u3002", ".").removesuffix(".")
        if _IPV4.fullmatch(plain):
            return socket.inet_ntoa(socket.inet_aton(plain))
    except (ValueError, OSError):  # not an address, though it looks like one: browsers refuse it
        return inner
    return ".".join(map(_punycode, plain.split(".")))


def canonical_address(host: str) -> str:
    """Return `host:port` in one spelling. Browsers leave port 80 out; here it is written.

    >>> canonical_address("LOCALHOST"), canonical_address("[2001:DB8::1]:8000")
    ('localhost:80', '[2001:db8::1]:8000')
    """
    found = _HOST.fullmatch(host)
    return host if found is None else f"{canonical_host(found[1])}:{int(found[2] or 80)}"


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a host.

    >>> is_loopback("127.1"), is_loopback("LocalHost"), is_loopback("192.0.2.7")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(canonical_host(host).strip("[]")).is_loopback
    except ValueError:
        return canonical_host(host) == "localhost"


def _punycode(label: str) -> str:
    return label if label.isascii() else f"xn--{label.encode('punycode').decode()}"
