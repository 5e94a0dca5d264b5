"""Every spelling of a host against what a browser sends for it."""

import pytest

from wqkv.explorer.hosts import canonical_address, canonical_host, is_loopback


@pytest.mark.parametrize(
    ("given", "browsers"),
    [
        ("MyBox.local", "mybox.local"),
        ("mybox.local.", "mybox.local"),
        ("127.1", "127.0.0.1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("0177.0.0.01", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("\uff11\uff12\uff17.1", "127.0.0.1"),
        ("::1", "[::1]"),
        ("0:0:0:0:0:0:0:1", "[::1]"),
        ("[2001:DB8:0:0::1]", "[2001:db8::1]"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("straße.example", "xn--strae-oqa.example"),
        ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
        ("例え\u3002テスト", "xn--r8jz45g.xn--zckzah"),
        ("256.1.1.1", "256.1.1.1"),  # no address: browsers refuse it
        ("1.2.3.4.5", "1.2.3.4.5"),
        ("[nonsense:]", "nonsense:"),
        ("", ""),
    ],
)
def test_names(given, browsers):
    assert canonical_host(given) == browsers
    assert canonical_host(browsers) == browsers


def test_ports():
    for spelling in ("localhost", "LOCALHOST:80", "localhost.:"):
        assert canonical_address(spelling) == "localhost:80"
    assert canonical_address("[::1]") == canonical_address("[0::1]:80") == "[::1]:80"
    assert canonical_address("127.1:8000") == "127.0.0.1:8000"
    assert canonical_address("127.0.0.1:8001") == "127.0.0.1:8001"


@pytest.mark.parametrize(
    "odd", ["a:b", "a:80:80", "[::1", "::1", "127.0.0.1:8000/x", "x@127.0.0.1:8000", "a:\u0661"]
)
def test_what_is_no_host_stays(odd):
    assert canonical_address(odd) == odd


def test_is_loopback():
    assert all(map(is_loopback, ("127.0.0.1", "127.9", "::1", "[::1]", "localhost", "LocalHost.")))
    others = ("0.0.0.0", "::", "192.0.2.7", "mybox.local", "localhost.example", "")
    assert not any(map(is_loopback, others))
