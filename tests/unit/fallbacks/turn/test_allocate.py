"""Allocate: what is granted, what is refused, and why."""

from ipaddress import ip_address

import pytest

from fallbacks.turn.path import PathKind, RelayAddress
from masque_relay.contract.address import Endpoint
from masque_relay.contract.turn_limits import TurnLimits
from masque_relay.control.settings import GateLimits
from masque_relay.stun.codepoints import AddressFamily, Attribute, Method
from masque_relay.stun.values import decode_address
from tests.support.turn_client import TCP
from tests.support.turn_rig import POLICY, RELAY_V4, RELAY_V6, TurnRig, error_name
from tests.unit.fallbacks.turn.conftest import MakeRig

IPV4 = bytes((AddressFamily.IPV4, 0, 0, 0))
IPV6 = bytes((AddressFamily.IPV6, 0, 0, 0))
REQUESTED = Attribute.REQUESTED_ADDRESS_FAMILY
ADDITIONAL = Attribute.ADDITIONAL_ADDRESS_FAMILY


def test_an_allocation_is_a_relayed_address_under_a_lease(rig: TurnRig) -> None:
    client = rig.client()
    reply = client.try_allocate()
    relayed = reply.address(Attribute.XOR_RELAYED_ADDRESS)
    assert relayed.address == RELAY_V4
    assert 49_152 <= relayed.port <= 65_535
    assert reply.address(Attribute.XOR_MAPPED_ADDRESS) == client.path.client
    assert reply[Attribute.LIFETIME] == (600).to_bytes(4, "big")
    assert client.path.is_kept
    lease = client.allocation.lease
    assert (lease.subject, lease.rule) == ("alice", "turn")
    assert lease.request.method.value == "bind-udp"
    assert lease.request.transport.value == "turn"
    assert lease.request.credentials == ()
    assert rig.counters.allocations_opened == 1
    assert rig.counters.allocations_open == 1


@pytest.mark.parametrize(
    ("asked_s", "granted_s"), [(0, 600), (100, 600), (1200, 1200), (1 << 31, 3600)]
)
def test_a_lifetime_is_granted_within_bounds(rig: TurnRig, asked_s: int, granted_s: int) -> None:
    reply = rig.client().try_allocate([(Attribute.LIFETIME, asked_s.to_bytes(4, "big"))])
    assert int.from_bytes(reply[Attribute.LIFETIME], "big") == granted_s


class TestFamilies:
    def test_ipv6_where_it_is_asked_for(self, rig: TurnRig) -> None:
        assert rig.client().allocate([(REQUESTED, IPV6)]).address == RELAY_V6

    def test_both_where_the_second_is_asked_for(self, rig: TurnRig) -> None:
        client = rig.client()
        reply = client.try_allocate([(ADDITIONAL, IPV6)])
        assert len(reply.message.get_all(Attribute.XOR_RELAYED_ADDRESS)) == 2
        assert [one.family for one in client.allocation.relayed] == [
            AddressFamily.IPV4,
            AddressFamily.IPV6,
        ]

    def test_the_first_alone_with_an_address_error_where_the_second_is_not_to_be_had(
        self, make_rig: MakeRig
    ) -> None:
        rig = make_rig(relay_addresses=(RelayAddress(local=RELAY_V4, public=RELAY_V4),))
        reply = rig.client().try_allocate([(ADDITIONAL, IPV6)])
        assert reply.ok
        assert reply[Attribute.ADDRESS_ERROR_CODE][:4] == b"\x02\0\x04\x28"

    def test_a_family_that_we_do_not_have_is_not_supported(self, make_rig: MakeRig) -> None:
        rig = make_rig(relay_addresses=(RelayAddress(local=RELAY_V4, public=RELAY_V4),))
        reply = rig.client().try_allocate([(REQUESTED, IPV6)])
        assert error_name(reply) == "ADDRESS_FAMILY_NOT_SUPPORTED"
        assert rig.bench.gate.tunnel_count == 0

    def test_behind_a_nat_the_outside_is_told(self, make_rig: MakeRig) -> None:
        inside, outside = ip_address("10.1.2.3"), ip_address("198.51.100.9")
        rig = make_rig(relay_addresses=(RelayAddress(local=inside, public=outside),))
        assert rig.client().allocate().address == outside
        assert rig.relay_sockets[0].local.address == inside


class TestPorts:
    def test_an_even_port(self, rig: TurnRig) -> None:
        for index in range(5):
            client = rig.client(path=rig.path(port=30_000 + index))
            assert client.allocate([(Attribute.EVEN_PORT, b"\0")]).port % 2 == 0

    def test_the_next_port_is_reserved_for_who_has_the_token(self, rig: TurnRig) -> None:
        one, other = rig.client(), rig.client(path=rig.path(port=40_001))
        reply = one.try_allocate([(Attribute.EVEN_PORT, b"\x80")])
        even = reply.address(Attribute.XOR_RELAYED_ADDRESS)
        token = reply[Attribute.RESERVATION_TOKEN]
        odd = other.allocate([(Attribute.RESERVATION_TOKEN, token)])
        assert odd.port == even.port + 1
        third = rig.client(path=rig.path(port=40_002))
        refused = third.try_allocate([(Attribute.RESERVATION_TOKEN, token)])
        assert error_name(refused) == "INSUFFICIENT_CAPACITY"

    def test_a_reservation_ends(self, rig: TurnRig) -> None:
        reply = rig.client().try_allocate([(Attribute.EVEN_PORT, b"\x80")])
        rig.advance(31)
        late = rig.client(path=rig.path(port=40_001))
        token = reply[Attribute.RESERVATION_TOKEN]
        refused = late.try_allocate([(Attribute.RESERVATION_TOKEN, token)])
        assert error_name(refused) == "INSUFFICIENT_CAPACITY"

    def test_no_free_port_is_insufficient_capacity(self, make_rig: MakeRig) -> None:
        rig = make_rig(first_port=50_000, last_port=50_000)
        rig.client().allocate()
        reply = rig.client(path=rig.path(port=40_001)).try_allocate()
        assert error_name(reply) == "INSUFFICIENT_CAPACITY"
        assert rig.bench.gate.tunnel_count == 1


class TestRefusals:
    def test_a_second_allocate_on_a_path_is_a_mismatch(self, rig: TurnRig) -> None:
        client = rig.client()
        client.allocate()
        assert error_name(client.try_allocate()) == "ALLOCATION_MISMATCH"

    def test_a_repeated_one_gets_the_same_answer(self, rig: TurnRig) -> None:
        client = rig.client()
        client.challenge()
        data = client.build(Method.ALLOCATE, [(Attribute.REQUESTED_TRANSPORT, b"\x11\0\0\0")])
        first, again = client.exchange(data), client.exchange(data)
        assert again.ok
        assert again.message.attributes == first.message.attributes
        assert rig.counters.allocations_opened == 1

    def test_a_repeated_one_while_the_gate_thinks_is_dropped(self, rig: TurnRig) -> None:
        client = rig.client()
        client.challenge()
        rig.holds_requests = True
        data = client.build(Method.ALLOCATE, [(Attribute.REQUESTED_TRANSPORT, b"\x11\0\0\0")])
        client.deliver(data)
        client.deliver(data)
        rig.release_requests()
        assert rig.counters.allocations_opened == 1

    def test_a_connection_that_is_gone_gets_none(self, rig: TurnRig) -> None:
        client = rig.client(path=rig.path(kind=PathKind.TCP))
        client.challenge()
        rig.holds_requests = True
        data = client.build(Method.ALLOCATE, [(Attribute.REQUESTED_TRANSPORT, b"\x11\0\0\0")])
        client.deliver(data)
        client.path.is_lost = True
        rig.release_requests()
        assert rig.session.allocations == set()
        assert rig.bench.gate.tunnel_count == 0

    def test_a_subject_without_a_rule_is_forbidden(self, rig: TurnRig) -> None:
        reply = rig.client("mallory").try_allocate()
        assert error_name(reply) == "FORBIDDEN"
        assert reply.message.integrity_at is not None

    def test_a_quota_is_486(self, make_rig: MakeRig) -> None:
        rig = make_rig(gate_limits=GateLimits(tunnels_per_subject=1))
        rig.client().allocate()
        reply = rig.client(path=rig.path(port=40_001)).try_allocate()
        assert error_name(reply) == "ALLOCATION_QUOTA_REACHED"

    def test_a_full_relay_is_508_and_says_so_signed(self, make_rig: MakeRig) -> None:
        rig = make_rig(gate_limits=GateLimits(max_tunnels=1))
        rig.client().allocate()
        reply = rig.client("bob", path=rig.path(port=40_001)).try_allocate()
        assert error_name(reply) == "INSUFFICIENT_CAPACITY"
        assert reply.message.integrity_at is not None

    def test_the_cap_on_allocations_is_508(self, make_rig: MakeRig) -> None:
        rig = make_rig(limits=TurnLimits(max_allocations=1))
        rig.client().allocate()
        reply = rig.client(path=rig.path(port=40_001)).try_allocate()
        assert error_name(reply) == "INSUFFICIENT_CAPACITY"

    def test_an_unknown_attribute_is_420_for_who_has_a_key(self, rig: TurnRig) -> None:
        reply = rig.client().try_allocate([(0x7F00, b"")])
        assert error_name(reply) == "UNKNOWN_ATTRIBUTE"
        assert reply.message.integrity_at is not None


class TestDrain:
    def test_a_draining_relay_sends_clients_elsewhere(self, make_rig: MakeRig) -> None:
        elsewhere = Endpoint(address=ip_address("192.0.2.77"), port=3478)
        other_family = Endpoint(address=ip_address("2001:db8::77"), port=3478)
        rig = make_rig(alternate_servers=(other_family, elsewhere))
        rig.bench.gate.drain()
        reply = rig.client().try_allocate()
        assert error_name(reply) == "TRY_ALTERNATE"
        assert decode_address(reply[Attribute.ALTERNATE_SERVER]) == elsewhere
        assert reply.message.integrity_at is not None
        assert rig.counters.redirects == 1

    def test_without_an_alternate_there_is_no_room(self, rig: TurnRig) -> None:
        rig.bench.gate.drain()
        assert error_name(rig.client().try_allocate()) == "INSUFFICIENT_CAPACITY"

    def test_whoever_has_no_key_is_not_told(self, rig: TurnRig) -> None:
        rig.bench.gate.drain()
        client = rig.client()
        client.credentials.password = "wrong"
        assert error_name(client.try_allocate()) == "UNAUTHENTICATED"

    def test_live_allocations_go_on(self, rig: TurnRig) -> None:
        client = rig.client()
        client.allocate()
        rig.bench.gate.drain()
        assert client.refresh().ok


class TestTcp:
    def test_tcp_is_relayed_for_who_came_by_tcp(self, rig: TurnRig) -> None:
        client = rig.client(path=rig.path(kind=PathKind.TCP))
        relayed = client.allocate(transport=TCP)
        assert relayed == rig.tcp_relays[0].local
        assert client.allocation.lease.request.method.value == "connect-tcp"
        assert client.refresh(0).ok
        assert rig.tcp_relays[0].is_closed

    def test_not_for_who_came_by_udp(self, rig: TurnRig) -> None:
        assert error_name(rig.client().try_allocate(transport=TCP)) == "BAD_REQUEST"

    def test_a_policy_may_allow_one_of_the_two(self, make_rig: MakeRig) -> None:
        rig = make_rig(policy=POLICY.replace(', "connect-tcp"', ""))
        client = rig.client(path=rig.path(kind=PathKind.TCP))
        assert error_name(client.try_allocate(transport=TCP)) == "FORBIDDEN"
        assert client.try_allocate().ok
