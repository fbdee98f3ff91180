"""The routes of one CONNECT-IP tunnel (RFC 9484 section 4.7.3)."""

from ipaddress import ip_address, ip_network

import pytest

from masque_relay.contract.ip_scope import IpRange
from masque_relay.tunnels.ip_routes import MAX_ROUTES, RouteSet, within_networks
from masque_relay.wire.ip_range import find_disorder


def r(first: str, last: str, ip_protocol: int = 0) -> IpRange:
    return IpRange(ip_address(first), ip_address(last), ip_protocol)


ROUTES = [r("10.0.0.0", "10.0.0.9"), r("10.0.1.0", "10.0.1.0"), r("fd00::", "fd00::ff")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.0", True),
        ("10.0.0.9", True),
        ("10.0.0.10", False),
        ("9.255.255.255", False),
        ("10.0.1.0", True),
        ("10.0.1.1", False),
        ("fd00::ff", True),
        ("fd00::100", False),
        ("::a00:0", False),
    ],
)
def test_look_up(text: str, expected: bool) -> None:
    address = ip_address(text)
    assert RouteSet(ROUTES).has(address.version, int(address)) is expected


def test_nothing_is_in_no_routes() -> None:
    assert not RouteSet(()).has(4, 0)
    assert RouteSet(()).versions == ()


def test_only_the_families_with_addresses_are_advertised_for_the_protocol_asked() -> None:
    routes = RouteSet(ROUTES)
    assert routes.versions == (4, 6)
    assert routes.advertised((6,), None) == (r("fd00::", "fd00::ff"),)
    assert routes.advertised((6,), 17) == (r("fd00::", "fd00::ff", 17),)
    assert find_disorder(routes.advertised((4, 6), 6)) is None


def test_the_capsule_has_an_end() -> None:
    base = int(ip_address("10.0.0.0"))
    many = [IpRange(ip_address(base + 2 * n), ip_address(base + 2 * n)) for n in range(2_000)]
    assert len(RouteSet(many).advertised((4,), None)) == MAX_ROUTES


@pytest.mark.clause("RFC 9484", "4.6", "SHOULD", "advertise the addresses of the scope")
def test_a_scope_cuts_the_routes() -> None:
    everything = [r("0.0.0.0", "255.255.255.255"), r("::", "ffff::")]
    networks = [ip_network(text) for text in ("10.9.0.0/16", "192.0.2.7/32", "fd00::/64")]
    found = within_networks(everything, networks)
    assert found == [
        r("10.9.0.0", "10.9.255.255"),
        r("192.0.2.7", "192.0.2.7"),
        r("fd00::", "fd00::ffff:ffff:ffff:ffff"),
    ]
    assert within_networks(ROUTES, [ip_network("10.0.0.8/30")]) == [r("10.0.0.8", "10.0.0.9")]
    assert within_networks(ROUTES, [ip_network("192.0.2.0/24")]) == []
