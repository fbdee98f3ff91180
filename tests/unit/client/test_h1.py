"""Owns the tests of HTTP/1.1 as a transport of the client; the test plays the relay."""

import pytest

from masque_relay.client.errors import RelayLeaving, RelayUnreachable
from masque_relay.client.h1 import Begin, H1ClientTransport
from masque_relay.client.http_transport import HttpTransport
from masque_relay.client.limits import TcpWayLimits
from masque_relay.http.codes import H3Error
from masque_relay.http.tcp_wire import TcpSession
from masque_relay.quic.application import Headers
from tests.support.client_wires import MemoryWire, Told

UPGRADE: Headers = [
    (b":method", b"CONNECT"),
    (b":protocol", b"connect-udp"),
    (b":scheme", b"https"),
    (b":authority", b"relay.test"),
    (b":path", b"/.well-known/masque/udp/192.0.2.1/53/"),
    (b"capsule-protocol", b"?1"),
]
CONNECT: Headers = [(b":method", b"CONNECT"), (b":authority", b"192.0.2.1:443")]
GET: Headers = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"relay.test"),
    (b":path", b"/"),
]
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: connect-udp\r\n"
    b"capsule-protocol: ?1\r\n\r\n"
)


class Rig:
    """A transport whose sockets are in memory."""

    def __init__(self, limits: TcpWayLimits | None = None) -> None:
        self.told = Told()
        self.wires: list[MemoryWire] = []
        self.sessions: list[TcpSession] = []
        self.failure: RelayUnreachable | None = None
        self.transport = H1ClientTransport(self.told, self._dial, limits=limits or TcpWayLimits())

    async def _dial(self, begin: Begin) -> None:
        if self.failure is not None:
            raise self.failure
        wire = MemoryWire()
        self.wires.append(wire)
        self.sessions.append(begin(wire))

    async def ask(self, headers: Headers, *, end_stream: bool = False) -> tuple[int, bytes]:
        """Open a request on a socket of its own; return its stream and what was written."""
        await self.transport.prepare()
        stream_id = self.transport.open_request(headers, end_stream=end_stream)
        return stream_id, self.wires[-1].take()


class TestDialling:
    async def test_a_request_whose_connection_another_one_took_dials_again(self) -> None:
        rig = Rig()
        dial, stolen = rig.transport._dial, list[int]()

        async def slow(begin: Begin) -> None:
            await dial(begin)
            if not stolen:  # before whoever dialled goes on
                await rig.transport.prepare()
                stolen.append(rig.transport.open_request(UPGRADE, end_stream=False))

        rig.transport._dial = slow
        stream_id, _ = await rig.ask(UPGRADE)
        assert stolen == [0]
        assert stream_id == 1
        assert len(rig.wires) == 2

    async def test_a_relay_that_closes_every_connection_is_leaving(self) -> None:
        rig = Rig()
        dial = rig.transport._dial

        async def closing(begin: Begin) -> None:
            await dial(begin)
            rig.sessions[-1].wire_lost()

        rig.transport._dial = closing
        with pytest.raises(RelayLeaving, match="closes every connection"):
            await rig.ask(UPGRADE)


class TestUpgrade:
    """RFC 9298 section 3.2."""

    @pytest.mark.clause(
        "RFC 9298", "3.2", "MUST", "ask by GET with Connection, Upgrade and one Host"
    )
    async def test_an_extended_connect_becomes_a_get_with_an_upgrade(self) -> None:
        rig = Rig()
        _, written = await rig.ask(UPGRADE)
        head, _, rest = written.partition(b"\r\n\r\n")
        first, *fields = head.split(b"\r\n")
        assert first == b"GET /.well-known/masque/udp/192.0.2.1/53/ HTTP/1.1"
        assert [f.lower() for f in fields] == [
            b"host: relay.test",
            b"capsule-protocol: ?1",
            b"connection: upgrade",
            b"upgrade: connect-udp",
        ]
        assert rest == b""

    @pytest.mark.clause("RFC 9931", "3.1", "MUST NOT", "send capsules before the 101")
    async def test_nothing_follows_the_request_before_the_101(self) -> None:
        rig = Rig()
        stream_id, _ = await rig.ask(UPGRADE)
        rig.transport.send_data(stream_id, b"too early", end_stream=False)
        assert rig.wires[0].take() == b""

    async def test_a_101_shows_as_200_and_the_bytes_behind_it_belong_to_the_tunnel(self) -> None:
        rig = Rig()
        stream_id, _ = await rig.ask(UPGRADE)
        for index in range(len(SWITCH)):  # a byte at a time
            rig.sessions[0].data_received(SWITCH[index : index + 1])
        rig.sessions[0].data_received(b"capsules")
        head = [(b":status", b"200"), (b"capsule-protocol", b"?1")]
        assert rig.told.heard("headers") == [(stream_id, head, False)]
        assert rig.told.heard("data") == [(stream_id, b"capsules", False)]
        rig.transport.send_data(stream_id, b"ours", end_stream=False)
        assert rig.wires[0].take() == b"ours"

    async def test_bytes_in_the_same_read_as_the_101_are_kept(self) -> None:
        rig = Rig()
        stream_id, _ = await rig.ask(UPGRADE)
        rig.sessions[0].data_received(SWITCH + b"at once")
        assert rig.told.heard("data") == [(stream_id, b"at once", False)]

    @pytest.mark.clause("RFC 9298", "3.3", "MUST", "give up where the answer is no proper 101")
    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 101 X\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n",
            b"HTTP/1.1 101 X\r\nconnection: Upgrade\r\n\r\n",
            b"nonsense\r\n\r\n",
        ],
    )
    async def test_another_answer_than_the_upgrade_is_malformed(self, answer: bytes) -> None:
        rig = Rig()
        stream_id, _ = await rig.ask(UPGRADE)
        rig.sessions[0].data_received(answer)
        assert [call[0] for call in rig.told.heard("malformed")] == [stream_id]
        assert rig.told.heard("headers") == []
        assert rig.wires[0].aborted

    async def test_a_refusal_is_told_with_its_fields(self) -> None:
        rig = Rig()
        stream_id, _ = await rig.ask(UPGRADE)
        rig.sessions[0].data_received(
            b"HTTP/1.1 403 No\r\nproxy-status: g; error=http_request_denied\r\n"
            b"content-length: 2\r\n\r\nno"
        )
        head = [
            (b":status", b"403"),
            (b"proxy-status", b"g; error=http_request_denied"),
            (b"content-length", b"2"),
        ]
        assert rig.told.heard("headers") == [(stream_id, head, False)]
        assert rig.told.heard("data")[-1] == (stream_id, b"", True)
        assert rig.wires[0].closed  # RFC 9931 section 6: never used again

    async def test_the_end_of_a_capsule_tunnel_closes_the_socket_when_all_is_sent(self) -> None:
        rig = Rig()
        stream_id, _ = await rig.ask(UPGRADE)
        rig.sessions[0].data_received(SWITCH)
        rig.wires[0].is_congested = True
        rig.transport.send_data(stream_id, b"last", end_stream=True)
        assert (rig.transport.unsent_bytes(stream_id), rig.wires[0].closed) == (4, False)
        rig.wires[0].is_congested = False
        rig.sessions[0].writable()
        assert (rig.wires[0].take(), rig.wires[0].closed) == (b"last", True)
        assert rig.told.heard("writable")


class TestClassicConnect:
    """RFC 9110 section 9.3.6."""

    async def test_it_names_the_target_alone(self) -> None:
        rig = Rig()
        _, written = await rig.ask(CONNECT)
        assert written.startswith(b"CONNECT 192.0.2.1:443 HTTP/1.1\r\n")

    async def test_our_end_is_held_back_because_tls_has_no_half_close(self) -> None:
        rig = Rig()
        stream_id, _ = await rig.ask(CONNECT)
        rig.sessions[0].data_received(b"HTTP/1.1 200 OK\r\n\r\nhello")
        rig.transport.send_data(stream_id, b"bye", end_stream=True)
        assert (rig.wires[0].take(), rig.wires[0].closed) == (b"bye", False)
        rig.sessions[0].end_received()
        assert rig.told.heard("data") == [(stream_id, b"hello", False), (stream_id, b"", True)]
        assert rig.told.heard("reset") == [(stream_id, H3Error.CONNECT_ERROR)]
        assert rig.wires[0].closed

    async def test_a_socket_that_breaks_is_a_reset(self) -> None:
        rig = Rig()
        stream_id, _ = await rig.ask(CONNECT)
        rig.sessions[0].data_received(b"HTTP/1.1 200 OK\r\n\r\n")
        rig.sessions[0].wire_lost()
        assert rig.told.heard("reset") == [(stream_id, H3Error.CONNECT_ERROR)]

    async def test_unread_bytes_stop_the_socket_until_they_are_read(self) -> None:
        rig = Rig(TcpWayLimits(stream_window_bytes=10))
        stream_id, _ = await rig.ask(CONNECT)
        rig.sessions[0].data_received(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(11))
        assert not rig.wires[0].is_reading
        rig.transport.consume(stream_id, 11)
        assert rig.wires[0].is_reading


class TestRequests:
    async def test_a_response_without_a_length_ends_with_the_connection(self) -> None:
        rig = Rig()
        stream_id, written = await rig.ask(GET, end_stream=True)
        assert written.lower() == b"get / http/1.1\r\nhost: relay.test\r\n\r\n"
        rig.sessions[0].data_received(b"HTTP/1.1 200 OK\r\n\r\nhel")
        rig.sessions[0].end_received()
        assert rig.told.heard("data") == [(stream_id, b"hel", False), (stream_id, b"", True)]

    async def test_a_response_that_breaks_off_is_malformed(self) -> None:
        rig = Rig()
        stream_id, _ = await rig.ask(GET, end_stream=True)
        rig.sessions[0].data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhel")
        rig.sessions[0].end_received()
        assert [call[0] for call in rig.told.heard("malformed")] == [stream_id]

    async def test_each_request_has_a_socket_and_ends_alone(self) -> None:
        rig = Rig()
        first, _ = await rig.ask(UPGRADE)
        second, _ = await rig.ask(UPGRADE)
        rig.transport.reset(first, H3Error.REQUEST_CANCELLED)
        assert (rig.wires[0].aborted, rig.wires[1].aborted) == (True, False)
        rig.sessions[1].data_received(SWITCH)
        assert [call[0] for call in rig.told.heard("headers")] == [second]


class TestRelay:
    async def test_it_is_ready_as_soon_as_the_first_socket_is_there(self) -> None:
        rig = Rig()
        await rig.transport.prepare()
        rig.transport.started()
        assert rig.told.heard("settings") == [({8: 1},)]
        await rig.transport.prepare()
        assert len(rig.wires) == 1  # the spare one does

    async def test_a_spare_socket_that_the_relay_closes_is_replaced(self) -> None:
        rig = Rig()
        await rig.transport.prepare()
        rig.sessions[0].end_received()
        await rig.transport.prepare()
        assert len(rig.wires) == 2

    async def test_a_relay_that_cannot_be_dialled_is_leaving_and_open_tunnels_live(self) -> None:
        rig = Rig()
        stream_id, _ = await rig.ask(UPGRADE)
        rig.sessions[0].data_received(SWITCH)
        rig.failure = RelayUnreachable("nothing there")
        with pytest.raises(RelayLeaving, match="nothing there"):
            await rig.transport.prepare()
        assert rig.told.heard("goaway")
        assert not rig.told.heard("lost")
        rig.transport.reset(stream_id, H3Error.REQUEST_CANCELLED)
        assert rig.told.heard("lost")

    async def test_close_cuts_every_socket(self) -> None:
        rig = Rig()
        await rig.ask(UPGRADE)
        await rig.transport.prepare()
        rig.transport.close(H3Error.NO_ERROR, "")
        assert all(wire.aborted for wire in rig.wires)


def as_http_transport(transport: H1ClientTransport) -> HttpTransport:
    """Hold the class to the Protocol."""
    return transport
