"""What the gate is asked, and what clients are counted by."""

from ipaddress import ip_address

from fallbacks.turn.gate_request import source_key
from masque_relay.contract.address import Endpoint


def test_an_ipv6_client_is_counted_by_its_64() -> None:
    one = Endpoint(address=ip_address("2001:db8:1:2::1"), port=1)
    other = Endpoint(address=ip_address("2001:db8:1:2:ffff::2"), port=2)
    third = Endpoint(address=ip_address("2001:db8:1:3::1"), port=1)
    assert source_key(one) == source_key(other) != source_key(third)


def test_an_ipv4_client_is_counted_by_its_address() -> None:
    assert source_key(Endpoint(address=ip_address("192.0.2.1"), port=1)) == b"\xc0\0\2\1"
