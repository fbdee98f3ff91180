"""RFC 8656, RFC 6062 and RFC 8016: one test per MUST that a TURN server can break."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fallbacks.turn.path import PathKind
from masque_relay.contract.address import Endpoint
from masque_relay.stun.codepoints import Attribute, Method
from tests.support.turn_client import TCP, Reply
from tests.support.turn_rig import (
    OTHER_PEER,
    PEER,
    PEER_V6,
    RELAY_V6,
    RigClient,
    TurnRig,
    error_name,
)

V6 = b"\2\0\0\0"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[TurnRig]:
    made = TurnRig(tmp_path)
    yield made
    made.close()


@pytest.fixture
def client(rig: TurnRig) -> RigClient:
    made = rig.client()
    made.allocate()
    return made


@pytest.mark.clause("RFC 8656", "5", "MUST", "authenticate every request but Binding")
@pytest.mark.parametrize(
    "method",
    [Method.ALLOCATE, Method.REFRESH, Method.CREATE_PERMISSION, Method.CHANNEL_BIND],
    ids=lambda method: method.name,
)
def test_section_5_every_request_is_authenticated(client: RigClient, method: Method) -> None:
    reply = client.exchange(client.build(method, peers=[PEER], signed=False))
    assert error_name(reply) == "UNAUTHENTICATED"


@pytest.mark.clause("RFC 8656", "5", "MUST", "441 for another user on an allocation")
def test_section_5_the_same_user(rig: TurnRig, client: RigClient) -> None:
    assert error_name(rig.client("bob", path=client.path).refresh()) == "WRONG_CREDENTIALS"


class TestAllocate:
    @pytest.mark.clause("RFC 8656", "7.2", "MUST", "437 for a second Allocate on a 5-tuple")
    def test_section_7_2_a_second_allocate(self, client: RigClient) -> None:
        assert error_name(client.try_allocate()) == "ALLOCATION_MISMATCH"

    @pytest.mark.clause("RFC 8656", "7.2", "MUST", "400 without REQUESTED-TRANSPORT")
    def test_section_7_2_no_transport(self, rig: TurnRig) -> None:
        assert error_name(rig.client().request(Method.ALLOCATE)) == "BAD_REQUEST"

    @pytest.mark.clause("RFC 8656", "7.2", "MUST", "442 for a transport that is not supported")
    def test_section_7_2_another_transport(self, rig: TurnRig) -> None:
        reply = rig.client().try_allocate(transport=b"\x84\0\0\0")
        assert error_name(reply) == "UNSUPPORTED_TRANSPORT_PROTOCOL"

    @pytest.mark.clause("RFC 8656", "7.2", "MUST", "400 for RESERVATION-TOKEN with EVEN-PORT")
    def test_section_7_2_token_and_even_port(self, rig: TurnRig) -> None:
        asked = [(int(Attribute.RESERVATION_TOKEN), bytes(8)), (int(Attribute.EVEN_PORT), b"\0")]
        assert error_name(rig.client().try_allocate(asked)) == "BAD_REQUEST"

    @pytest.mark.clause("RFC 8656", "7.2", "MUST", "508 for a token of no reservation")
    def test_section_7_2_unknown_token(self, rig: TurnRig) -> None:
        reply = rig.client().try_allocate([(Attribute.RESERVATION_TOKEN, bytes(8))])
        assert error_name(reply) == "INSUFFICIENT_CAPACITY"

    @pytest.mark.clause("RFC 8656", "7.2", "MUST", "an even port, and the next one for the token")
    def test_section_7_2_even_port(self, rig: TurnRig) -> None:
        reply = rig.client().try_allocate([(Attribute.EVEN_PORT, b"\x80")])
        even = reply.address(Attribute.XOR_RELAYED_ADDRESS)
        token = reply[Attribute.RESERVATION_TOKEN]
        odd = rig.client(path=rig.path(port=2)).allocate([(Attribute.RESERVATION_TOKEN, token)])
        assert (even.port % 2, odd.port) == (0, even.port + 1)

    @pytest.mark.clause("RFC 8656", "7.2", "MUST", "an address of the family that is asked for")
    def test_section_7_2_family(self, rig: TurnRig) -> None:
        asked = [(int(Attribute.REQUESTED_ADDRESS_FAMILY), V6)]
        assert rig.client().allocate(asked).address == RELAY_V6
        plain = rig.client(path=rig.path(port=2)).allocate()
        assert plain.address.version == 4

    @pytest.mark.clause("RFC 8656", "7.2", "MUST", "400 for ADDITIONAL-ADDRESS-FAMILY of IPv4")
    def test_section_7_2_additional_ipv4(self, rig: TurnRig) -> None:
        reply = rig.client().try_allocate([(Attribute.ADDITIONAL_ADDRESS_FAMILY, b"\1\0\0\0")])
        assert error_name(reply) == "BAD_REQUEST"

    @pytest.mark.clause("RFC 8656", "7.2", "MUST", "both addresses where both are asked for")
    def test_section_7_2_both_families(self, rig: TurnRig) -> None:
        reply = rig.client().try_allocate([(Attribute.ADDITIONAL_ADDRESS_FAMILY, V6)])
        assert len(reply.message.get_all(Attribute.XOR_RELAYED_ADDRESS)) == 2

    @pytest.mark.clause("RFC 8656", "7.3", "MUST", "relayed and mapped address, and lifetime")
    def test_section_7_3_the_answer(self, rig: TurnRig) -> None:
        reply = rig.client().try_allocate()
        for attribute in (Attribute.XOR_RELAYED_ADDRESS, Attribute.XOR_MAPPED_ADDRESS):
            assert reply.address(attribute)
        assert int.from_bytes(reply[Attribute.LIFETIME], "big") == 600


class TestRefresh:
    @pytest.mark.clause("RFC 8656", "8.2", "MUST", "delete the allocation for a lifetime of zero")
    def test_section_8_2_zero(self, rig: TurnRig, client: RigClient) -> None:
        assert client.refresh(0).ok
        assert rig.session.allocations == set()

    @pytest.mark.clause("RFC 8656", "8.2", "MUST", "443 for a family that the allocation lacks")
    def test_section_8_2_family(self, client: RigClient) -> None:
        reply = client.refresh(600, [(Attribute.REQUESTED_ADDRESS_FAMILY, V6)])
        assert error_name(reply) == "PEER_ADDRESS_FAMILY_MISMATCH"

    @pytest.mark.clause("RFC 8656", "8.2", "MUST", "437 without an allocation")
    def test_section_8_2_without(self, rig: TurnRig) -> None:
        assert error_name(rig.client().refresh()) == "ALLOCATION_MISMATCH"


class TestPermissions:
    @pytest.mark.clause("RFC 8656", "9", "MUST", "five minutes, by address and not by port")
    def test_section_9_lifetime(self, rig: TurnRig, client: RigClient) -> None:
        client.permit(PEER)
        rig.advance(299)
        other_port = Endpoint(address=PEER.address, port=9)
        client.received()
        rig.relay_sockets[0].arrive(other_port, b"x")
        rig.readable(rig.relay_sockets[0])
        assert len(client.received()) == 1
        rig.advance(2)
        rig.relay_sockets[0].arrive(other_port, b"x")
        rig.readable(rig.relay_sockets[0])
        assert client.received() == []

    @pytest.mark.clause("RFC 8656", "10.2", "MUST", "400 without a peer, 443 for another family")
    def test_section_10_2_errors(self, client: RigClient) -> None:
        assert error_name(client.permit()) == "BAD_REQUEST"
        assert error_name(client.permit(PEER, PEER_V6)) == "PEER_ADDRESS_FAMILY_MISMATCH"
        assert client.allocation.permissions == {}

    @pytest.mark.clause("RFC 8656", "11.3", "MUST", "discard what comes without a permission")
    def test_section_11_3_no_permission(self, rig: TurnRig, client: RigClient) -> None:
        client.received()
        rig.relay_sockets[0].arrive(PEER, b"x")
        rig.readable(rig.relay_sockets[0])
        assert client.received() == []

    @pytest.mark.clause("RFC 8656", "11.2", "MUST", "discard a Send without a permission")
    def test_section_11_2_no_permission(self, rig: TurnRig, client: RigClient) -> None:
        client.send_indication(PEER, b"x")
        assert rig.relay_sockets[0].sent == []

    @pytest.mark.clause("RFC 8656", "11.2", "MUST", "honour DONT-FRAGMENT")
    def test_section_11_2_dont_fragment(self, rig: TurnRig, client: RigClient) -> None:
        client.permit(PEER)
        client.send_indication(PEER, b"x", [(Attribute.DONT_FRAGMENT, b"")])
        assert rig.relay_sockets[0].sent[0][2] is True


class TestChannels:
    @pytest.mark.clause("RFC 8656", "12.2", "MUST", "400 for a bound number or peer, a bad number")
    def test_section_12_2_bindings(self, client: RigClient) -> None:
        assert client.bind_channel(0x4000, PEER).ok
        assert error_name(client.bind_channel(0x4000, OTHER_PEER)) == "BAD_REQUEST"
        assert error_name(client.bind_channel(0x4001, PEER)) == "BAD_REQUEST"
        assert error_name(client.bind_channel(0x3FFF, OTHER_PEER)) == "BAD_REQUEST"

    @pytest.mark.clause("RFC 8656", "12.2", "MUST", "install the permission with the binding")
    def test_section_12_2_permission(self, client: RigClient) -> None:
        client.bind_channel(0x4000, PEER)
        assert "8.8.8.8" in client.allocation.permissions

    @pytest.mark.clause("RFC 8656", "12", "DEVIATION", "numbers of RFC 5766 up to 0x7FFF count too")
    def test_section_12_numbers_of_older_clients(self, client: RigClient) -> None:
        assert client.bind_channel(0x7FFF, PEER).ok
        assert error_name(client.bind_channel(0x8000, OTHER_PEER)) == "BAD_REQUEST"

    @pytest.mark.clause("RFC 8656", "12.6", "MUST", "discard ChannelData on an unbound number")
    def test_section_12_6_unbound(self, rig: TurnRig, client: RigClient) -> None:
        client.send_channel(0x4000, b"x")
        assert rig.relay_sockets[0].sent == []

    @pytest.mark.clause("RFC 8656", "12.7", "MUST", "ChannelData for a bound peer")
    def test_section_12_7_to_the_client(self, rig: TurnRig, client: RigClient) -> None:
        client.bind_channel(0x4000, PEER)
        client.received()
        rig.relay_sockets[0].arrive(PEER, b"abc")
        rig.readable(rig.relay_sockets[0])
        assert client.received() == [b"\x40\0\0\3abc"]


class TestTcp:
    @pytest.mark.clause("RFC 6062", "5.1", "MUST", "400 for TCP with what only UDP has")
    def test_section_5_1(self, rig: TurnRig) -> None:
        client = rig.client(path=rig.path(kind=PathKind.TCP))
        for attribute in (Attribute.EVEN_PORT, Attribute.DONT_FRAGMENT):
            reply = client.try_allocate([(attribute, b"\0")], transport=TCP)
            assert error_name(reply) == "BAD_REQUEST"

    @pytest.mark.clause("RFC 6062", "5.2", "MUST", "446 for a second connection to a peer")
    def test_section_5_2(self, rig: TurnRig) -> None:
        client = rig.client(path=rig.path(kind=PathKind.TCP))
        client.allocate(transport=TCP)
        assert client.request(Method.CONNECT, peers=[PEER]).ok
        reply = client.request(Method.CONNECT, peers=[PEER])
        assert error_name(reply) == "CONNECTION_ALREADY_EXISTS"

    @pytest.mark.clause("RFC 6062", "5.3", "MUST", "announce a permitted peer, refuse another one")
    def test_section_5_3(self, rig: TurnRig) -> None:
        client = rig.client(path=rig.path(kind=PathKind.TCP))
        client.allocate(transport=TCP)
        client.permit(PEER)
        client.received()
        rig.tcp_relays[0].peer_connects(OTHER_PEER)
        rig.tcp_relays[0].peer_connects(PEER)
        (message,) = client.received_messages()
        assert message.method == Method.CONNECTION_ATTEMPT
        assert Reply(message).address(Attribute.XOR_PEER_ADDRESS) == PEER

    @pytest.mark.clause("RFC 6062", "5.4", "MUST", "400 for a ConnectionBind to no connection")
    def test_section_5_4(self, rig: TurnRig) -> None:
        client = rig.client(path=rig.path(kind=PathKind.TCP))
        number = [(int(Attribute.CONNECTION_ID), bytes(4))]
        assert error_name(client.request(Method.CONNECTION_BIND, number)) == "BAD_REQUEST"


class TestMobility:
    @pytest.mark.clause("RFC 8016", "3.1.2", "MUST", "give a ticket to who asks for one")
    def test_section_3_1_2(self, rig: TurnRig) -> None:
        reply = rig.client().try_allocate([(Attribute.MOBILITY_TICKET, b"")])
        assert reply[Attribute.MOBILITY_TICKET]

    @pytest.mark.clause("RFC 8016", "3.2.2", "MUST", "437 for an unknown ticket")
    def test_section_3_2_2(self, rig: TurnRig) -> None:
        reply = rig.client().refresh(600, [(Attribute.MOBILITY_TICKET, b"none")])
        assert error_name(reply) == "ALLOCATION_MISMATCH"
