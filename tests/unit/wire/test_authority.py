"""Tests of masque_relay.wire.authority."""

import pytest

from masque_relay.wire.authority import parse_authority
from masque_relay.wire.errors import WireError


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("proxy.test", "proxy.test", 443),
        ("Proxy.Test:8443", "proxy.test", 8443),
        ("192.0.2.1", "192.0.2.1", 443),
        ("192.0.2.1:1", "192.0.2.1", 1),
        ("[2001:DB8:0::1]", "2001:db8::1", 443),
        ("[::1]:8443", "::1", 8443),
        ("[::ffff:192.0.2.1]:5", "192.0.2.1", 5),
    ],
)
def test_a_port_may_be_there_or_not(text: str, host: str, port: int) -> None:
    assert parse_authority(text, default_port=443) == (host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":443",
        "proxy.test:",
        "proxy.test:0",
        "proxy.test:70000",
        "proxy.test:4:4",
        "user@proxy.test",
        "user:password@proxy.test:443",
        "::1",
        "2001:db8::1:443",
        "[::1",
        "[::1]443",
        "[::1]:",
        "[proxy.test]:443",
        "[]:443",
        "[fe80::1%eth0]:443",
        "proxy.test/path",
        "https://proxy.test",
        "proxy.test:443 ",
    ],
)
def test_what_is_no_authority_is_refused(text: str) -> None:
    with pytest.raises(WireError):
        parse_authority(text, default_port=443)
