"""BoundUdp, the client's end of bound UDP, on a fake connection."""

import asyncio
from ipaddress import ip_address

import pytest

from masque_relay.client.bound_udp import BoundUdp, open_bound_udp
from masque_relay.client.errors import RelayIncapable, RelayTimeout, TunnelClosed, TunnelRefused
from masque_relay.client.limits import ClientLimits
from masque_relay.client.tunnel_stream import TunnelRequest, TunnelStream, TunnelUser
from masque_relay.contract.address import Endpoint
from masque_relay.contract.verdict import EndReason
from masque_relay.http.codes import H3Error
from masque_relay.quic.application import Headers
from masque_relay.wire.capsule import CapsuleDecoder, encode_capsule
from masque_relay.wire.connect_udp_bind import BindCapsule, encode_assign, encode_peer
from tests.support.client_fakes import connection_on_fake
from tests.support.http_fakes import settle

ASSIGN, ACK, CLOSE = BindCapsule
BOUND: Headers = [
    (b":status", b"200"),
    (b"capsule-protocol", b"?1"),
    (b"connect-udp-bind", b"?1"),
    (b"proxy-public-address", b'"192.0.2.45:54321", "[2001:db8::1234]:54321"'),
]
ONE = Endpoint(address=ip_address("203.0.113.11"), port=60_000)
TWO = Endpoint(address=ip_address("2001:db8::2"), port=2)


def wire(peer: Endpoint) -> bytes:
    return encode_peer(peer.address, peer.port)


class Relay:
    """The other end: the test plays it."""

    def __init__(self, limits: ClientLimits | None = None) -> None:
        self.limits = limits or ClientLimits()
        self.connection, self.transport = connection_on_fake(self.limits)
        self.batches: list[tuple[list[bytes], Endpoint]] = []

    async def open_tunnel(self, request: TunnelRequest, user: TunnelUser) -> TunnelStream:
        return await self.connection.open_tunnel(request, user, authority="relay.test")

    async def opened(self, *, listen: bool = True, answer: Headers = BOUND) -> BoundUdp:
        """Open a port; acknowledge the uncompressed context."""
        async with asyncio.TaskGroup() as group:
            opening = group.create_task(self.opening(listen=listen))
            await settle()
            self.connection.headers_received(0, answer, end_stream=False)
            await settle()
            if listen:
                self.say(ACK, b"\x02")
        return opening.result()

    async def opening(self, *, listen: bool = True) -> BoundUdp:
        return await open_bound_udp(
            self.open_tunnel,
            "/%2A/%2A/",
            limits=self.limits,
            listen=listen,
            on_batch=lambda payloads, peer: self.batches.append((list(payloads), peer)),
        )

    def say(self, kind: int, value: bytes) -> None:
        self.connection.data_received(0, encode_capsule(kind, value), end_stream=False)

    def send(self, *datagrams: bytes) -> None:
        self.connection.datagrams_received(0, list(datagrams))

    @property
    def capsules(self) -> list[tuple[int, bytes]]:
        decoder = CapsuleDecoder(max_capsule_bytes=100, known_types=set(BindCapsule))
        return [
            (found.type, found.value) for found in decoder.feed(self.transport.data.get(0, b""))
        ]

    @property
    def datagrams(self) -> list[bytes]:
        return [payload for _, payload in self.transport.datagrams]


class TestOpening:
    @pytest.mark.clause(
        "connect-udp-listen-15", "4", "MUST", "register the uncompressed context before its use"
    )
    async def test_request_and_answer(self) -> None:
        relay = Relay()
        bound = await relay.opened()
        head = dict(relay.transport.headers[0][0])
        assert head[b":protocol"] == b"connect-udp"
        assert head[b"connect-udp-bind"] == b"?1"
        assert head[b":path"] == b"/%2A/%2A/"
        assert [str(end) for end in bound.public] == ["192.0.2.45:54321", "[2001:db8::1234]:54321"]
        assert relay.capsules == [(ASSIGN, b"\x02\x00")]
        assert bound.listens

    async def test_refusal_is_raised(self) -> None:
        with pytest.raises(ExceptionGroup) as caught:
            await Relay().opened(answer=[(b":status", b"403")], listen=False)
        assert isinstance(caught.value.exceptions[0], TunnelRefused)

    @pytest.mark.parametrize(
        "answer",
        [
            [field for field in BOUND if field[0] != b"connect-udp-bind"],
            [*BOUND, (b"connect-udp-bind", b"?1")],
            [field for field in BOUND if field[0] != b"proxy-public-address"],
            [*BOUND[:3], (b"proxy-public-address", b"192.0.2.45:54321")],
        ],
    )
    async def test_answer_that_is_no_bind_resets_the_stream(self, answer: Headers) -> None:
        relay = Relay()
        with pytest.raises(ExceptionGroup) as caught:
            await relay.opened(answer=answer, listen=False)
        assert isinstance(caught.value.exceptions[0], RelayIncapable)
        assert relay.transport.resets == {0: H3Error.MESSAGE_ERROR}

    async def test_relay_that_never_registers_the_context_is_given_up(self) -> None:
        relay = Relay(ClientLimits(open_timeout_s=0.05))
        async with asyncio.TaskGroup() as group:
            opening = group.create_task(self._fails(relay))
            await settle()
            relay.connection.headers_received(0, BOUND, end_stream=False)
        assert isinstance(opening.result(), RelayTimeout)

    @staticmethod
    async def _fails(relay: Relay) -> RelayTimeout:
        with pytest.raises(RelayTimeout) as caught:
            await relay.opening()
        return caught.value


class TestSending:
    async def test_first_datagrams_carry_the_peer_until_its_context_is_acknowledged(self) -> None:
        relay = Relay()
        bound = await relay.opened()
        assert bound.send_batch([b"a", b"b"], ONE) == 2
        assert relay.capsules[-1] == (ASSIGN, b"\x04" + wire(ONE))
        relay.say(ACK, b"\x04")
        assert bound.send(b"c", ONE)
        head = b"\x02" + wire(ONE)
        assert relay.datagrams == [head + b"a", head + b"b", b"\x04c"]
        assert bound.sent_count == 3

    @pytest.mark.clause(
        "connect-udp-listen-15", "3.3", "MUST NOT", "send datagrams of a context that is closed"
    )
    async def test_rejected_peer_stays_uncompressed(self) -> None:
        relay = Relay()
        bound = await relay.opened()
        bound.send(b"a", ONE)
        relay.say(CLOSE, b"\x04")
        bound.send(b"b", ONE)
        assert relay.datagrams[-1] == b"\x02" + wire(ONE) + b"b"

    async def test_without_listening_the_context_is_used_at_once(self) -> None:
        relay = Relay()
        bound = await relay.opened(listen=False)
        assert not bound.listens
        bound.send(b"a", ONE)
        assert relay.capsules == [(ASSIGN, b"\x02" + wire(ONE))]
        assert relay.datagrams == [b"\x02a"]

    async def test_stop_listening_closes_the_uncompressed_context(self) -> None:
        relay = Relay()
        bound = await relay.opened()
        bound.stop_listening()
        bound.stop_listening()
        assert relay.capsules[-1] == (CLOSE, b"\x02")
        assert not bound.listens
        bound.listen()
        assert relay.capsules[-1] == (ASSIGN, b"\x04\x00")

    async def test_forget_closes_a_peers_context(self) -> None:
        relay = Relay()
        bound = await relay.opened()
        bound.send(b"a", ONE)
        bound.forget(ONE)
        bound.forget(ONE)
        assert relay.capsules[-1] == (CLOSE, b"\x04")

    async def test_what_does_not_fit_or_has_no_tunnel_is_counted(self) -> None:
        relay = Relay()
        bound = await relay.opened()
        assert bound.max_payload_bytes == 1_200 - 27
        assert not bound.send(bytes(1_200), ONE)
        bound.close()
        assert not bound.send(b"a", ONE)
        assert bound.send_dropped_count == 2
        assert bound.max_payload_bytes == 0


class TestReceiving:
    async def test_batches_come_by_peer(self) -> None:
        relay = Relay()
        bound = await relay.opened()
        bound.send(b"hello", ONE)
        relay.say(ACK, b"\x04")
        head = b"\x02" + wire(TWO)
        relay.send(b"\x04a", head + b"x", b"\x04b", head + b"y")
        assert relay.batches == [([b"a", b"b"], ONE), ([b"x", b"y"], TWO)]
        assert bound.received_count == 4

    async def test_relay_may_register_contexts_too(self) -> None:
        relay = Relay()
        await relay.opened()
        relay.say(ASSIGN, encode_assign(1, wire(TWO)))
        assert relay.capsules[-1] == (ACK, b"\x01")
        relay.send(b"\x01short")
        assert relay.batches == [([b"short"], TWO)]

    async def test_datagrams_of_unknown_contexts_are_counted(self) -> None:
        relay = Relay()
        bound = await relay.opened()
        relay.send(b"\x09a", b"\x02\x05zz", b"")
        assert bound.malformed_count == 3
        assert relay.batches == []

    @pytest.mark.clause(
        "connect-udp-listen-15", "3", "MUST", "abort over context 0 where there is no target"
    )
    async def test_context_0_aborts_the_stream(self) -> None:
        relay = Relay()
        bound = await relay.opened()
        relay.send(b"\x00a")
        assert relay.transport.resets == {0: H3Error.MESSAGE_ERROR}
        assert bound.closed is not None
        assert bound.closed.reason is EndReason.PROTOCOL_ERROR

    @pytest.mark.parametrize(
        ("kind", "value"),
        [(ASSIGN, b"\x01\x00"), (ASSIGN, b"\x02\x00"), (ACK, b"\x08"), (CLOSE, b"\0")],
    )
    async def test_malformed_capsule_aborts_the_stream(self, kind: int, value: bytes) -> None:
        relay = Relay()
        await relay.opened()
        relay.say(kind, value)
        assert relay.transport.resets == {0: H3Error.MESSAGE_ERROR}

    async def test_receive_waits_and_drops_the_oldest(self) -> None:
        relay = Relay(ClientLimits(receive_datagrams=2))
        bound = BoundUdp(limits=relay.limits, listen=True)
        stream_task = asyncio.ensure_future(
            relay.open_tunnel(TunnelRequest(protocol="connect-udp", path="/", goal="x"), bound)
        )
        await settle()
        relay.connection.headers_received(0, BOUND, end_stream=False)
        await stream_task
        head = b"\x02" + wire(ONE)
        relay.send(head + b"1", head + b"2", head + b"3")
        assert bound.receive_dropped_count == 1
        assert await bound.receive() == (b"2", ONE)
        assert await bound.receive() == (b"3", ONE)
        bound.close()
        with pytest.raises(TunnelClosed):
            await bound.receive()


async def test_lost_connection_is_told_once() -> None:
    told: list[TunnelClosed] = []
    relay = Relay()

    async def open_it() -> BoundUdp:
        return await open_bound_udp(relay.open_tunnel, "/", listen=False, on_closed=told.append)

    opening = asyncio.ensure_future(open_it())
    await settle()
    relay.connection.headers_received(0, BOUND, end_stream=False)
    bound = await opening
    relay.connection.connection_lost(0, "gone")
    assert [closed.reason for closed in told] == [EndReason.CONNECTION_LOST]
    assert not bound.is_open
