"""Refresh, CreatePermission, ChannelBind: what the owner of an allocation may have."""

from ipaddress import ip_address

import pytest

from masque_relay.contract.address import Endpoint
from masque_relay.contract.turn_limits import TurnLimits
from masque_relay.contract.verdict import EndReason
from masque_relay.stun.codepoints import Attribute, Method
from tests.support.turn_rig import (
    OTHER_PEER,
    PEER,
    PEER_V6,
    POLICY,
    PRIVATE_PEER,
    RigClient,
    TurnRig,
    error_name,
)
from tests.unit.fallbacks.turn.conftest import MakeRig


@pytest.fixture
def client(rig: TurnRig) -> RigClient:
    made = rig.client()
    made.allocate()
    return made


class TestRefresh:
    def test_it_extends_the_lifetime(self, rig: TurnRig, client: RigClient) -> None:
        reply = client.refresh(1800)
        assert int.from_bytes(reply[Attribute.LIFETIME], "big") == 1800
        rig.advance(1700)
        assert len(rig.session.allocations) == 1

    def test_zero_ends_the_allocation_and_is_answered(
        self, rig: TurnRig, client: RigClient
    ) -> None:
        reply = client.refresh(0)
        assert reply[Attribute.LIFETIME] == bytes(4)
        assert rig.session.allocations == set()
        reason = rig.bench.audit.of("tunnel_end")[0]["reason"]
        assert reason == EndReason.PEER_CLOSED.value

    def test_a_family_without_a_relayed_address_is_a_mismatch(self, client: RigClient) -> None:
        reply = client.refresh(600, [(Attribute.REQUESTED_ADDRESS_FAMILY, b"\2\0\0\0")])
        assert error_name(reply) == "PEER_ADDRESS_FAMILY_MISMATCH"
        assert client.refresh(600, [(Attribute.REQUESTED_ADDRESS_FAMILY, b"\1\0\0\0")]).ok

    @pytest.mark.parametrize("kind", [0x8000, 0x8032])
    def test_one_of_two_addresses_is_given_back(self, rig: TurnRig, kind: int) -> None:
        both = rig.client()
        both.try_allocate([(kind, b"\2\0\0\0")])
        assert both.bind_channel(0x4000, PEER_V6).ok
        reply = both.refresh(0, [(Attribute.REQUESTED_ADDRESS_FAMILY, b"\2\0\0\0")])
        assert reply[Attribute.LIFETIME] == bytes(4)
        assert [one.is_closed for one in rig.relay_sockets] == [False, True]
        assert both.allocation.channels == {}
        assert len(rig.readers) == 1
        assert both.permit(PEER).ok
        assert error_name(both.permit(PEER_V6)) == "PEER_ADDRESS_FAMILY_MISMATCH"
        assert both.refresh(0).ok
        assert rig.session.allocations == set()

    def test_a_lifetime_of_another_length_is_bad(self, client: RigClient) -> None:
        reply = client.refresh(None, [(Attribute.LIFETIME, b"x")])
        assert error_name(reply) == "BAD_REQUEST"

    def test_an_unknown_attribute_is_named(self, client: RigClient) -> None:
        assert error_name(client.refresh(600, [(0x7F00, b"")])) == "UNKNOWN_ATTRIBUTE"


class TestCreatePermission:
    def test_several_at_once_and_for_five_minutes(self, rig: TurnRig, client: RigClient) -> None:
        assert client.permit(PEER, OTHER_PEER).ok
        assert set(client.allocation.permissions) == {"8.8.8.8", "8.8.4.4"}
        rig.advance(299)
        assert client.allocation.permissions
        rig.advance(2)
        assert client.allocation.permissions == {}

    def test_a_private_peer_is_forbidden_and_nothing_is_installed(self, client: RigClient) -> None:
        assert error_name(client.permit(PEER, PRIVATE_PEER)) == "FORBIDDEN"
        assert client.allocation.permissions == {}

    @pytest.mark.parametrize(
        "text",
        ["127.0.0.1", "169.254.169.254", "10.0.0.1", "192.168.1.1", "100.64.0.1", "0.0.0.0"],
    )
    def test_no_private_range_is_reached(self, client: RigClient, text: str) -> None:
        peer = Endpoint(address=ip_address(text), port=80)
        assert error_name(client.permit(peer)) == "FORBIDDEN"
        assert error_name(client.bind_channel(0x4000, peer)) == "FORBIDDEN"

    def test_an_ipv4_mapped_private_peer_is_private(self, client: RigClient) -> None:
        peer = Endpoint(address=ip_address("::ffff:10.0.0.1"), port=80)
        assert error_name(client.permit(peer)) == "FORBIDDEN"

    def test_the_hosts_own_public_address_is_forbidden_but_for_its_relayed_ones(
        self, rig: TurnRig, client: RigClient
    ) -> None:
        rig.own_addresses |= {PEER.address, ip_address("198.51.100.1")}
        assert error_name(client.permit(PEER)) == "FORBIDDEN"
        assert error_name(client.bind_channel(0x4000, PEER)) == "FORBIDDEN"

    def test_another_family_is_a_mismatch(self, client: RigClient) -> None:
        assert error_name(client.permit(PEER_V6)) == "PEER_ADDRESS_FAMILY_MISMATCH"

    def test_no_peer_is_bad(self, client: RigClient) -> None:
        assert error_name(client.permit()) == "BAD_REQUEST"

    def test_their_number_is_bounded(self, make_rig: MakeRig) -> None:
        rig = make_rig(limits=TurnLimits(permissions_per_allocation=1))
        client = rig.client()
        client.allocate()
        assert client.permit(PEER).ok
        assert client.permit(PEER).ok
        assert error_name(client.permit(OTHER_PEER)) == "INSUFFICIENT_CAPACITY"
        assert error_name(client.bind_channel(0x4000, OTHER_PEER)) == "INSUFFICIENT_CAPACITY"


class TestChannelBind:
    def test_it_binds_and_permits(self, rig: TurnRig, client: RigClient) -> None:
        assert client.bind_channel(0x4000, PEER).ok
        assert list(client.allocation.permissions) == ["8.8.8.8"]
        assert client.bind_channel(0x4000, PEER).ok
        rig.advance(599)
        assert client.allocation.channels
        client.refresh(600)
        rig.advance(2)
        assert client.allocation.channels == {}
        assert client.allocation.channel_by_peer == {}

    @pytest.mark.parametrize("number", [0x0000, 0x3FFF, 0x8000, 0xFFFF])
    def test_a_number_out_of_range_is_bad(self, client: RigClient, number: int) -> None:
        assert error_name(client.bind_channel(number, PEER)) == "BAD_REQUEST"

    def test_a_number_has_one_peer_and_a_peer_has_one_number(self, client: RigClient) -> None:
        assert client.bind_channel(0x4000, PEER).ok
        assert error_name(client.bind_channel(0x4000, OTHER_PEER)) == "BAD_REQUEST"
        assert error_name(client.bind_channel(0x4001, PEER)) == "BAD_REQUEST"
        other_port = Endpoint(address=PEER.address, port=PEER.port + 1)
        assert client.bind_channel(0x4001, other_port).ok

    def test_number_and_peer_are_needed(self, client: RigClient) -> None:
        assert error_name(client.request(Method.CHANNEL_BIND, peers=[PEER])) == "BAD_REQUEST"
        number = [(int(Attribute.CHANNEL_NUMBER), b"\x40\0\0\0")]
        assert error_name(client.request(Method.CHANNEL_BIND, number)) == "BAD_REQUEST"
        short = [(int(Attribute.CHANNEL_NUMBER), b"\x40\0")]
        reply = client.request(Method.CHANNEL_BIND, short, peers=[PEER])
        assert error_name(reply) == "BAD_REQUEST"

    def test_their_number_is_bounded(self, make_rig: MakeRig) -> None:
        rig = make_rig(limits=TurnLimits(channels_per_allocation=1))
        client = rig.client()
        client.allocate()
        assert client.bind_channel(0x4000, PEER).ok
        assert error_name(client.bind_channel(0x4001, OTHER_PEER)) == "INSUFFICIENT_CAPACITY"

    def test_connect_is_for_tcp_allocations(self, client: RigClient) -> None:
        assert error_name(client.request(Method.CONNECT, peers=[PEER])) == "BAD_REQUEST"


class TestReload:
    def test_what_the_new_policy_refuses_is_gone_the_rest_stays(
        self, rig: TurnRig, client: RigClient
    ) -> None:
        client.bind_channel(0x4000, PEER)
        client.bind_channel(0x4001, OTHER_PEER)
        narrower = POLICY.replace('targets = ["*:*"]', 'targets = ["8.8.4.4/32:*"]')
        rig.bench.reload(narrower)
        rig.advance(1)
        assert [channel.number for channel in client.allocation.channels.values()] == [0x4001]
        assert set(client.allocation.permissions) == {"8.8.4.4"}
        assert error_name(client.permit(PEER)) == "FORBIDDEN"

    def test_a_peer_that_may_no_longer_be_reached_may_no_longer_send_in(
        self, rig: TurnRig, client: RigClient
    ) -> None:
        client.permit(PEER)
        client.permit(OTHER_PEER)
        rig.bench.reload(POLICY.replace('targets = ["*:*"]', 'targets = ["8.8.4.4/32:*"]'))
        rig.advance(1)
        assert set(client.allocation.permissions) == {"8.8.4.4"}
        client.received()
        rig.relay_sockets[0].arrive(PEER, b"still here")
        assert client.received() == []

    def test_a_policy_without_the_method_ends_the_allocation(
        self, rig: TurnRig, client: RigClient
    ) -> None:
        rig.bench.reload(POLICY.replace('"bind-udp", ', ""))
        assert rig.session.allocations == set()
        assert client.path.allocation is None
