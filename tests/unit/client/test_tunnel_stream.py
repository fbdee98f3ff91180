"""Owns the tests of the stream below every capsule tunnel; the test plays the relay."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from masque_relay.client.connection import RelayConnection
from masque_relay.client.errors import RelayLeaving, TunnelClosed, TunnelRefused
from masque_relay.client.limits import ClientLimits
from masque_relay.client.tunnel_stream import MAX_DATAGRAM_BYTES, TunnelRequest, TunnelStream
from masque_relay.contract.verdict import EndReason
from masque_relay.http.codes import H3Error
from masque_relay.wire.capsule import Capsule, encode_capsule
from masque_relay.wire.errors import WireError
from masque_relay.wire.wrap_up import WRAP_UP, WRAP_UP_CAPSULE
from tests.support.client_fakes import ACCEPTED, FakeRelayTransport, connection_on_fake
from tests.support.http_fakes import settle

ASSIGN = 0x01
REQUEST = TunnelRequest(
    protocol="connect-ip",
    path="/.well-known/masque/ip/*/*/",
    goal="the network 10.0.0.0/8",
    headers=((b"x-more", b"1"),),
    capsule_types=frozenset({ASSIGN}),
    max_capsule_bytes=100,
)


class Recorder:
    """A TunnelUser that writes everything down."""

    def __init__(self) -> None:
        self.calls: list[object] = []
        self.stream: TunnelStream | None = None
        self.at_open: Callable[[TunnelStream], None] | None = None
        self.fault: WireError | None = None

    def tunnel_opened(self, stream: TunnelStream) -> None:
        self.calls.append("opened")
        self.stream = stream
        if self.at_open is not None:
            self.at_open(stream)

    def datagrams_received(self, payloads: Sequence[bytes]) -> None:
        if self.fault is not None:
            raise self.fault
        self.calls.append(list(payloads))

    def capsule_received(self, capsule: Capsule) -> None:
        if self.fault is not None:
            raise self.fault
        self.calls.append(capsule)

    def tunnel_closed(self, closed: TunnelClosed) -> None:
        self.calls.append(closed.reason)


async def opened(
    user: Recorder, limits: ClientLimits | None = None, *, datagrams: bool = True
) -> tuple[TunnelStream, RelayConnection, FakeRelayTransport]:
    connection, transport = connection_on_fake(limits, datagrams=datagrams)
    asyncio.get_running_loop().call_soon(
        lambda: connection.headers_received(0, ACCEPTED, end_stream=False)
    )
    stream = await connection.open_tunnel(
        REQUEST, user, authority="relay.test", authorization=b"Bearer t"
    )
    return stream, connection, transport


class TestOpening:
    async def test_the_request_names_the_protocol_and_carries_further_fields(self) -> None:
        _, _, transport = await opened(Recorder())
        assert transport.headers[0] == [
            [
                (b":method", b"CONNECT"),
                (b":protocol", b"connect-ip"),
                (b":scheme", b"https"),
                (b":authority", b"relay.test"),
                (b":path", b"/.well-known/masque/ip/*/*/"),
                (b"capsule-protocol", b"?1"),
                (b"x-more", b"1"),
                (b"authorization", b"Bearer t"),
            ]
        ]

    async def test_the_user_can_send_as_soon_as_the_relay_has_answered(self) -> None:
        user = Recorder()
        user.at_open = lambda stream: user.calls.append(stream.send_capsule(ASSIGN, b"x"))
        stream, _, transport = await opened(user)
        assert user.calls == ["opened", True]
        assert transport.data[0] == encode_capsule(ASSIGN, b"x")
        assert stream.response == ACCEPTED
        assert stream.next_hop == "192.0.2.7:53"
        assert stream.http_version == "3"

    async def test_datagrams_that_overtake_the_answer_come_after_it(self) -> None:
        user = Recorder()
        connection, _ = connection_on_fake()
        loop = asyncio.get_running_loop()
        loop.call_soon(connection.datagrams_received, 0, [b"\0early"])
        loop.call_soon(lambda: connection.headers_received(0, ACCEPTED, end_stream=False))
        await connection.open_tunnel(REQUEST, user, authority="relay.test")
        assert user.calls == ["opened", [b"\0early"]]

    async def test_a_refusal_names_the_goal_and_is_the_only_call(self) -> None:
        user = Recorder()
        connection, _ = connection_on_fake()
        asyncio.get_running_loop().call_soon(
            lambda: connection.headers_received(0, [(b":status", b"403")], end_stream=True)
        )
        with pytest.raises(TunnelRefused, match=r"the network 10\.0\.0\.0/8"):
            await connection.open_tunnel(REQUEST, user, authority="relay.test")
        assert user.calls == [EndReason.DENIED]


class TestCapsules:
    """RFC 9297 section 3."""

    async def test_capsules_and_datagrams_keep_their_order_and_unknown_ones_are_skipped(
        self,
    ) -> None:
        user = Recorder()
        _, connection, transport = await opened(user, datagrams=False)
        data = (
            encode_capsule(0, b"\0a")
            + encode_capsule(0, b"\0b")
            + encode_capsule(0x77, b"unknown")
            + encode_capsule(ASSIGN, b"cap")
            + encode_capsule(0, b"\0c")
        )
        connection.data_received(0, data, end_stream=False)
        assert user.calls == ["opened", [b"\0a", b"\0b"], Capsule(ASSIGN, b"cap"), [b"\0c"]]
        assert transport.consumed == {0: len(data)}

    async def test_a_capsule_that_announces_too_much_ends_the_tunnel(self) -> None:
        user = Recorder()
        stream, connection, transport = await opened(user)
        connection.data_received(0, encode_capsule(ASSIGN, bytes(101)), end_stream=False)
        assert user.calls == ["opened", EndReason.PROTOCOL_ERROR]
        assert transport.resets == {0: 0x10E}
        assert stream.closed is not None
        assert connection.lost is None

    @pytest.mark.parametrize("capsule_type", [0, ASSIGN])
    async def test_a_wire_error_of_the_user_aborts_the_stream(self, capsule_type: int) -> None:
        user = Recorder()
        _, connection, transport = await opened(user)
        user.fault = WireError("overlapping routes", section="RFC 9484 section 4.7.3")
        connection.data_received(0, encode_capsule(capsule_type, b"\0"), end_stream=False)
        assert user.calls == ["opened", EndReason.PROTOCOL_ERROR]
        assert transport.resets == {0: 0x10E}

    async def test_nothing_is_handed_over_after_the_user_has_closed(self) -> None:
        user = Recorder()
        stream, connection, _ = await opened(user)
        stream.close()
        connection.data_received(0, encode_capsule(ASSIGN, b"late"), end_stream=False)
        connection.datagrams_received(0, [b"\0late"])
        await settle()
        assert user.calls == ["opened", EndReason.PEER_CLOSED]

    async def test_a_capsule_beyond_the_buffer_is_not_sent(self) -> None:
        stream, _, transport = await opened(Recorder(), ClientLimits(capsule_buffer_bytes=10))
        assert not stream.send_capsule(ASSIGN, bytes(11))
        assert stream.send_capsule(ASSIGN, bytes(10))
        stream.close()
        assert not stream.send_capsule(ASSIGN, b"")
        assert transport.finished == {0}


class TestDatagrams:
    """RFC 9297 section 2."""

    async def test_they_go_as_quic_datagrams_behind_their_prefix(self) -> None:
        stream, _, transport = await opened(Recorder())
        assert stream.send_datagrams(b"\x04", [b"a", b"bc"]) == 2
        assert transport.datagrams == [(0, b"\x04a"), (0, b"\x04bc")]
        transport.max_payload_bytes = 1_300
        assert stream.max_datagram_bytes == 1_300
        assert not stream.reliable

    async def test_without_quic_datagrams_they_go_as_capsules_up_to_the_buffer(self) -> None:
        stream, _, transport = await opened(
            Recorder(), ClientLimits(capsule_buffer_bytes=40), datagrams=False
        )
        assert stream.reliable
        assert stream.max_datagram_bytes == MAX_DATAGRAM_BYTES
        assert stream.send_datagrams(b"\0", [bytes(20), bytes(20)]) == 1
        assert transport.data[0] == encode_capsule(0, bytes(21))

    async def test_a_tunnel_that_is_over_sends_nothing(self) -> None:
        stream, connection, transport = await opened(Recorder())
        connection.stream_reset_received(0, 0x10C)
        assert stream.send_datagrams(b"\0", [b"a"]) == 0
        assert (stream.max_datagram_bytes, stream.is_open) == (0, False)
        assert transport.datagrams == []


class TestWrapUp:
    """draft-ietf-httpbis-wrap-up sections 2.2 and 2.3: the client's side."""

    @pytest.mark.clause("wrap-up", "2.2", "SHOULD", "begin nothing new after it, and end what runs")
    async def test_nothing_new_is_begun_and_the_tunnel_goes_on(self) -> None:
        user, changes = Recorder(), []
        stream, connection, _ = await opened(user)
        connection.watch(lambda: changes.append(connection.is_leaving))
        connection.data_received(0, WRAP_UP_CAPSULE, end_stream=False)

        assert connection.is_leaving
        assert changes == [True]
        assert stream.is_open
        with pytest.raises(RelayLeaving):
            await connection.request("GET", authority="relay.test")
        connection.data_received(0, encode_capsule(ASSIGN, b"x"), end_stream=False)
        assert user.calls == ["opened", Capsule(ASSIGN, b"x")]

    @pytest.mark.clause("wrap-up", "2.3", "MUST", "abort over a second one")
    @pytest.mark.clause("wrap-up", "2.3", "MUST", "abort over one with a value")
    @pytest.mark.clause("wrap-up", "2.3", "MUST", "abort as RFC 9297 section 3.3 says")
    @pytest.mark.parametrize(
        "sent", [WRAP_UP_CAPSULE * 2, encode_capsule(WRAP_UP, b"!")], ids=["twice", "not empty"]
    )
    async def test_what_breaks_the_rules_ends_the_tunnel(self, sent: bytes) -> None:
        user = Recorder()
        _, connection, transport = await opened(user)
        connection.data_received(0, sent, end_stream=False)

        assert user.calls[-1] is EndReason.PROTOCOL_ERROR
        assert transport.resets[0] == H3Error.MESSAGE_ERROR
