"""What the relay itself says inside a CONNECT-IP tunnel."""

from ipaddress import ip_address, ip_network

import pytest

from masque_relay.contract.counters import IpCounters
from masque_relay.dataplane.ip_pool import NetworkPool
from masque_relay.tunnels.ip_own import OwnAddresses, is_link_local
from masque_relay.wire.icmp import IcmpError, echo_reply
from tests.support.ip_packets import icmp_kind, ipv4, ping4, ping6, source_of, udp
from tests.support.ip_session import CLIENT4, CLIENT6, HOST4, RELAY4, RELAY6


def own(*networks: str, budget: int = 9) -> tuple[OwnAddresses, IpCounters]:
    counters, left = IpCounters(), [budget]

    def may_send() -> bool:
        left[0] -= 1
        return left[0] >= 0

    pool = NetworkPool(ip_network(text) for text in networks or ("10.71.0.0/24", "fd71::/64"))
    return OwnAddresses(pool, counters, may_send), counters


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (RELAY4, True),
        (RELAY6, True),
        ("ff02::1", True),
        ("ff02::2", True),
        ("ff02::3", False),
        (CLIENT4, False),
        ("224.0.0.1", False),
    ],
)
def test_its_addresses_and_the_groups_of_the_link(text: str, expected: bool) -> None:
    address = ip_address(text)
    assert own()[0].takes(address.version, int(address)) is expected


def test_pings_are_answered_from_its_own_address() -> None:
    addresses, _ = own()
    for ping in (ping4(CLIENT4, RELAY4), ping6(CLIENT6, RELAY6), ping6(CLIENT6, "ff02::2")):
        reply = addresses.answer(ping)
        assert reply is not None
        assert source_of(reply) in {RELAY4, RELAY6}
    assert addresses.answer(ipv4(CLIENT4, RELAY4, udp(b"x"))) is None


def test_errors_come_within_the_rate() -> None:
    addresses, counters = own(budget=1)
    about = ipv4(CLIENT4, HOST4, udp(b"x"))
    first = addresses.error(IcmpError.NO_ROUTE, about)
    assert first is not None
    assert source_of(first) == RELAY4
    assert addresses.error(IcmpError.NO_ROUTE, about) is None
    assert counters.icmp_errors_sent == 1
    assert counters.icmp_errors_suppressed == 1


def test_without_an_address_of_the_version_it_is_silent() -> None:
    addresses, counters = own("fd71::/64")
    assert addresses.error(IcmpError.NO_ROUTE, ipv4(CLIENT4, HOST4, udp(b"x"))) is None
    assert addresses.answer(ping4(CLIENT4, RELAY4)) is None
    assert addresses.probe(ip_address(CLIENT4), 1) is None
    assert counters.icmp_errors_suppressed == 0


def test_only_the_answer_to_the_probe_counts() -> None:
    addresses, _ = own()
    probe = addresses.probe(ip_address(CLIENT6), 0x1234)
    assert probe is not None
    assert (len(probe), icmp_kind(probe)) == (1_280, (128, 0))
    reply = echo_reply(probe)
    assert reply is not None
    assert addresses.answer(reply[:44] + b"\x99\x99" + reply[46:]) is None
    assert not addresses.heard_probe
    assert addresses.answer(reply) is None
    assert addresses.heard_probe


def test_link_local_addresses() -> None:
    assert is_link_local(6, int(ip_address("fe80::1")))
    assert is_link_local(6, int(ip_address("febf::1")))
    assert not is_link_local(6, int(ip_address("fec0::1")))
    assert not is_link_local(4, int(ip_address("169.254.0.1")))
