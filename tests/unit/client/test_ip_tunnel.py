"""Owns the tests of one CONNECT-IP tunnel, over a connection whose other end the test plays."""

import asyncio
from collections.abc import Sequence
from ipaddress import IPv4Address, ip_address, ip_network

import pytest

from masque_relay.client.connection import RelayConnection
from masque_relay.client.errors import RelayTimeout, TunnelClosed, TunnelRefused
from masque_relay.client.ip_tunnel import ANY_IPV4, ANY_IPV6, IpTunnel, ip_request
from masque_relay.client.limits import ClientLimits
from masque_relay.contract.ip_scope import IpRange, IpScope
from masque_relay.contract.verdict import EndReason
from masque_relay.wire.capsule import CapsuleDecoder, encode_capsule
from masque_relay.wire.connect_ip import (
    ADDRESS_ASSIGN,
    ADDRESS_REQUEST,
    ROUTE_ADVERTISEMENT,
    AddressEntry,
    decode_address_assign,
    decode_address_request,
    encode_addresses,
    encode_routes,
    refused_address,
)
from tests.support.client_fakes import ACCEPTED, FakeRelayTransport, connection_on_fake
from tests.support.http_fakes import settle

V4 = AddressEntry(request_id=1, address=IPv4Address("10.89.0.2"), prefix_length=32)


class Recorder:
    """What a user of a tunnel is told."""

    def __init__(self) -> None:
        self.packets: list[bytes] = []
        self.changes = 0
        self.closed: list[TunnelClosed] = []

    def on_packets(self, packets: Sequence[bytes]) -> None:
        self.packets += packets

    def on_changed(self) -> None:
        self.changes += 1

    def tunnel(self, limits: ClientLimits | None = None) -> IpTunnel:
        return IpTunnel(
            on_packets=self.on_packets,
            on_changed=self.on_changed,
            on_closed=self.closed.append,
            limits=limits,
        )


async def opened(
    connection: RelayConnection, user: Recorder, limits: ClientLimits | None = None
) -> IpTunnel:
    """Open a tunnel on stream 0 that the relay accepts."""
    tunnel = user.tunnel(limits)
    asyncio.get_running_loop().call_soon(
        lambda: connection.headers_received(0, ACCEPTED, end_stream=False)
    )
    await connection.open_tunnel(ip_request(IpScope()), tunnel, authority="r.test")
    return tunnel


def tell(connection: RelayConnection, capsule_type: int, value: bytes) -> None:
    connection.data_received(0, encode_capsule(capsule_type, value), end_stream=False)


def said(transport: FakeRelayTransport, capsule_type: int) -> list[bytes]:
    """Return the values of the capsules of one type that the client has sent."""
    decoder = CapsuleDecoder(max_capsule_bytes=65_536, known_types={capsule_type})
    return [capsule.value for capsule in decoder.feed(bytes(transport.data[0]))]


class TestRequest:
    """RFC 9484 section 4.5."""

    def test_a_request_without_limits_expands_the_template_with_wildcards(self) -> None:
        request = ip_request(IpScope())
        assert request.protocol == "connect-ip"
        assert request.path == "/.well-known/masque/ip/%2A/%2A/"

    def test_a_scope_stands_percent_encoded_in_the_path(self) -> None:
        scope = IpScope(target=ip_network("2001:db8::/32"), ip_protocol=17)
        assert ip_request(scope).path == "/.well-known/masque/ip/2001%3Adb8%3A%3A%2F32/17/"

    def test_a_template_without_variables_is_taken_as_it_is(self) -> None:
        assert ip_request(IpScope(), template="/vpn").path == "/vpn"


class TestAddresses:
    """RFC 9484 sections 4.7.1 and 4.7.2."""

    async def test_a_request_waits_for_its_assignment(self) -> None:
        connection, transport = connection_on_fake()
        tunnel = await opened(connection, user := Recorder())
        asking = asyncio.ensure_future(tunnel.request_addresses([ANY_IPV4]))
        await settle()
        (value,) = said(transport, ADDRESS_REQUEST)
        (asked,) = decode_address_request(value)
        assert (asked.request_id, asked.address, asked.prefix_length) == (1, ANY_IPV4, 32)
        assert not asking.done()
        tell(connection, ADDRESS_ASSIGN, encode_addresses([V4]))
        assert await asking == (ip_network("10.89.0.2/32"),)
        assert user.changes == 1

    async def test_a_refused_family_is_an_answer_too(self) -> None:
        connection, transport = connection_on_fake()
        tunnel = await opened(connection, Recorder())
        asking = asyncio.ensure_future(tunnel.request_addresses([ANY_IPV4, ANY_IPV6]))
        await settle()
        v4, v6 = decode_address_request(said(transport, ADDRESS_REQUEST)[0])
        tell(connection, ADDRESS_ASSIGN, encode_addresses([V4, refused_address(v6)]))
        assert v4.request_id != v6.request_id
        assert await asking == (ip_network("10.89.0.2/32"),)

    @pytest.mark.clause("RFC 9484", "4.7.2", "MUST NOT", "the client uses no request ID twice")
    async def test_request_ids_are_never_used_twice(self) -> None:
        connection, transport = connection_on_fake()
        tunnel = await opened(connection, Recorder())
        for number in (1, 2):
            asking = asyncio.ensure_future(tunnel.request_addresses([ip_address("10.89.0.2")]))
            await settle()
            entry = AddressEntry(request_id=number, address=V4.address, prefix_length=32)
            tell(connection, ADDRESS_ASSIGN, encode_addresses([entry]))
            await asking
        ids = [decode_address_request(value)[0].request_id for value in said(transport, 2)]
        assert ids == [1, 2]

    @pytest.mark.clause("RFC 9484", "4.7.1", "MUST", "the client takes each list for all there is")
    async def test_an_assignment_replaces_what_was_assigned_before(self) -> None:
        connection, _ = connection_on_fake()
        tunnel = await opened(connection, Recorder())
        tell(connection, ADDRESS_ASSIGN, encode_addresses([V4]))
        tell(connection, ADDRESS_ASSIGN, b"")
        assert tunnel.networks == ()

    async def test_a_relay_that_assigns_nothing_in_time_is_reported(self) -> None:
        connection, _ = connection_on_fake()
        limits = ClientLimits(open_timeout_s=0.0)
        tunnel = await opened(connection, Recorder(), limits)
        with pytest.raises(RelayTimeout, match="no address"):
            await tunnel.request_addresses([ANY_IPV4])

    async def test_a_tunnel_that_ends_meanwhile_is_reported(self) -> None:
        connection, _ = connection_on_fake()
        tunnel = await opened(connection, user := Recorder())
        asking = asyncio.ensure_future(tunnel.request_addresses([ANY_IPV4]))
        await settle()
        connection.stream_reset_received(0, 0x10C)
        with pytest.raises(TunnelClosed):
            await asking
        assert [closed.reason for closed in user.closed] == [EndReason.PEER_RESET]

    @pytest.mark.clause("RFC 9484", "4.7.2", "MUST", "the client answers requests of the relay too")
    async def test_a_relay_that_asks_us_for_addresses_is_refused_each(self) -> None:
        connection, transport = connection_on_fake()
        await opened(connection, Recorder())
        asked = AddressEntry(request_id=7, address=ANY_IPV4, prefix_length=32)
        tell(connection, ADDRESS_REQUEST, encode_addresses([asked]))
        (value,) = said(transport, ADDRESS_ASSIGN)
        (answer,) = decode_address_assign(value)
        assert answer.request_id == 7
        assert answer.is_refusal

    @pytest.mark.clause("RFC 9484", "4.7.1", "MUST", "the client aborts on a malformed capsule")
    async def test_a_malformed_capsule_ends_the_tunnel(self) -> None:
        connection, _ = connection_on_fake()
        tunnel = await opened(connection, user := Recorder())
        tell(connection, ADDRESS_ASSIGN, b"\x01\x05")
        assert not tunnel.is_open
        assert user.closed[0].reason is EndReason.PROTOCOL_ERROR


class TestRoutes:
    """RFC 9484 section 4.7.3."""

    async def test_an_advertisement_replaces_the_one_before(self) -> None:
        connection, _ = connection_on_fake()
        tunnel = await opened(connection, user := Recorder())
        first = [IpRange(IPv4Address("10.0.0.0"), IPv4Address("10.255.255.255"))]
        second = [IpRange(IPv4Address("11.0.0.0"), IPv4Address("11.0.0.255"), 17)]
        tell(connection, ROUTE_ADVERTISEMENT, encode_routes(first))
        assert list(tunnel.routes) == first
        tell(connection, ROUTE_ADVERTISEMENT, encode_routes(second))
        assert list(tunnel.routes) == second
        assert user.changes == 2


class TestPackets:
    """RFC 9484 section 6."""

    async def test_packets_go_out_with_context_zero(self) -> None:
        connection, transport = connection_on_fake()
        tunnel = await opened(connection, Recorder())
        assert tunnel.send_packets([b"E" + bytes(20), b"`" + bytes(40)]) == 2
        assert transport.datagrams == [(0, b"\0E" + bytes(20)), (0, b"\0`" + bytes(40))]
        assert (tunnel.sent_count, tunnel.sent_bytes) == (2, 62)

    async def test_what_does_not_fit_is_dropped_and_counted_alone(self) -> None:
        connection, transport = connection_on_fake()
        tunnel = await opened(connection, Recorder())
        large = bytes(tunnel.max_packet_bytes + 1)
        assert tunnel.send_packets([large, b"E" + bytes(20)]) == 1
        assert tunnel.oversize_count == 1
        assert transport.datagrams == [(0, b"\0E" + bytes(20))]

    async def test_packets_come_in_without_their_context(self) -> None:
        connection, _ = connection_on_fake()
        tunnel = await opened(connection, user := Recorder())
        connection.datagrams_received(0, [b"\0Eone", b"\x02other", b"\0Etwo"])
        assert user.packets == [b"Eone", b"Etwo"]
        assert tunnel.unknown_context_count == 1
        assert (tunnel.received_count, tunnel.received_bytes) == (2, 8)

    async def test_capsules_carry_packets_where_there_are_no_quic_datagrams(self) -> None:
        connection, transport = connection_on_fake(datagrams=False)
        tunnel = await opened(connection, user := Recorder())
        assert tunnel.reliable
        assert tunnel.max_packet_bytes == 65_535
        tunnel.send_packets([b"Eout"])
        assert said(transport, 0) == [b"\0Eout"]
        tell(connection, 0, b"\0Ein")
        assert user.packets == [b"Ein"]

    async def test_a_closed_tunnel_drops_and_counts(self) -> None:
        connection, _ = connection_on_fake()
        tunnel = await opened(connection, Recorder())
        tunnel.close()
        assert tunnel.send_packets([b"E" + bytes(20)]) == 0
        assert tunnel.send_dropped_count == 1
        assert tunnel.max_packet_bytes == 0


async def test_a_refusal_says_why() -> None:
    connection, _ = connection_on_fake()
    tunnel = Recorder().tunnel()
    head = [(b":status", b"403"), (b"proxy-status", b"r; error=http_request_denied")]
    asyncio.get_running_loop().call_soon(
        lambda: connection.headers_received(0, head, end_stream=True)
    )
    with pytest.raises(TunnelRefused) as caught:
        await connection.open_tunnel(ip_request(IpScope()), tunnel, authority="r.test")
    assert caught.value.error == "http_request_denied"
