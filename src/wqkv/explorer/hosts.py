"""Names of hosts as browsers write them, so that they can be compared."""

from __future__ import annotations

import ipaddress
import re
import socket
import unicodedata

_NUMBER = "(0x[0-9a-f]+|[0-9]+)"
_IPV4 = re.compile(rf"{_NUMBER}(\.{_NUMBER}){{0,3}}")
_HOST = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]*))?")


def name(host: str) -> str:
    """A name or an address: in lower case, IPv4 in four parts, IPv6 short and in brackets, other
    letters than ASCII in Punycode. Source: https://url.spec.whatwg.org/#host-parsing

    >>> name("MyBox.local."), name("127.1"), name("0:0:0:0:0:0:0:1"), name("bücher.example")
    ('mybox.local', '127.0.0.1', '[::1]', 'xn--bcher-kva.example')
    """
    inner = host.removeprefix("[").removesuffix("]").lower()
    try:
        if ":" in inner:
            return f"[{ipaddress.IPv6Address(inner)}]"
        plain = unicodedata.normalize("NFKC", inner).replace("\u3002", ".").removesuffix(".")
        if _IPV4.fullmatch(plain):
            return socket.inet_ntoa(socket.inet_aton(plain))
    except (ValueError, OSError):  # no address: it is compared as it stands
        return inner
    return ".".join(map(_label, plain.split(".")))


def sent(host: str) -> str:
    """`name:port` as one spelling of what a browser sends, which leaves port 80 out.

    >>> sent("LOCALHOST"), sent("[2001:DB8::1]:8000")
    ('localhost:80', '[2001:db8::1]:8000')
    """
    found = _HOST.fullmatch(host)
    return host if found is None else f"{name(found[1])}:{int(found[2] or 80)}"


def own(host: str) -> bool:
    """Whether only this machine reaches a host.

    >>> own("127.1"), own("LocalHost"), own("192.0.2.7")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(name(host).strip("[]")).is_loopback
    except ValueError:
        return name(host) == "localhost"


def _label(label: str) -> str:
    return label if label.isascii() else f"xn--{label.encode('punycode').decode()}"
