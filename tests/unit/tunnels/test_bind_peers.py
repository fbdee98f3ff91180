"""The peers of a bound UDP tunnel, by wire form and by socket address."""

from ipaddress import ip_address

import pytest

from masque_relay.contract.address import Endpoint
from masque_relay.tunnels.bind_peers import PeerTable
from masque_relay.wire.connect_udp_bind import encode_peer
from tests.unit.tunnels.test_connect_udp_bind import FakeBoundFlow

ONE = encode_peer(ip_address("192.0.2.1"), 53)


@pytest.fixture
def table() -> PeerTable:
    table = PeerTable(2)
    table.flow = FakeBoundFlow()
    table.flow.versions.add(6)
    return table


def test_wire_form_and_socket_address_are_one_peer(table: PeerTable) -> None:
    peer = table.of_wire(ONE)
    assert peer is not None
    assert peer.endpoint == Endpoint(address=ip_address("192.0.2.1"), port=53)
    assert table.of_source(peer.source) is peer
    assert table.of_source(peer.source) is peer


@pytest.mark.parametrize("spelling", ["::192.0.2.1", "::c000:201", "0:0::c000:201"])
def test_spelling_of_an_address_does_not_matter(table: PeerTable, spelling: str) -> None:
    peer = table.of_source((spelling, 7))
    assert peer is table.of_wire(encode_peer(ip_address("::c000:201"), 7))


@pytest.mark.parametrize(
    "wire",
    [encode_peer(ip_address("192.0.2.1"), 0), encode_peer(ip_address("::ffff:192.0.2.1"), 53)],
)
def test_second_names_and_port_0_are_no_peers(table: PeerTable, wire: bytes) -> None:
    assert table.of_wire(wire) is None


def test_address_with_a_zone_is_no_peer(table: PeerTable) -> None:
    assert table.of_source(("fe80::1%2", 53)) is None


def test_what_the_flow_does_not_reach_is_no_peer(table: PeerTable) -> None:
    flow = table.flow
    assert isinstance(flow, FakeBoundFlow)
    flow.versions.remove(4)
    assert table.of_wire(ONE) is None
    assert table.of_source(("192.0.2.1", 53)) is None
    table.flow = None
    assert table.of_wire(encode_peer(ip_address("2001:db8::1"), 53)) is None


def test_the_oldest_is_forgotten_and_met_anew(table: PeerTable) -> None:
    first = table.of_wire(ONE)
    for port in range(1, 50):
        table.of_source(("192.0.2.2", port))
    assert len(table) == 2
    again = table.of_wire(ONE)
    assert again is not None
    assert again is not first
