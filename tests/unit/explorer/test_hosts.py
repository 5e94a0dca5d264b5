"""Every spelling of a host against what a browser sends for it."""

import pytest

from wqkv.explorer.hosts import name, own, sent


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
    assert name(given) == browsers
    assert name(browsers) == browsers


def test_ports():
    assert sent("localhost") == sent("LOCALHOST:80") == sent("localhost.:") == "localhost:80"
    assert sent("[::1]") == sent("[0::1]:80") == "[::1]:80"
    assert sent("127.1:8000") == "127.0.0.1:8000" != sent("127.0.0.1:8001")


@pytest.mark.parametrize(
    "odd", ["a:b", "a:80:80", "[::1", "::1", "127.0.0.1:8000/x", "x@127.0.0.1:8000", "a:\u0661"]
)
def test_what_is_no_host_stays(odd):
    assert sent(odd) == odd


def test_whose_machine():
    assert all(map(own, ("127.0.0.1", "127.9", "::1", "[::1]", "localhost", "LocalHost.")))
    assert not any(map(own, ("0.0.0.0", "::", "192.0.2.7", "mybox.local", "localhost.example", "")))
