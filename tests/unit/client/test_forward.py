"""Owns the tests of a local UDP port whose senders get tunnels; socket and time are fakes."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from masque_relay.client.address import ForwardSpec
from masque_relay.client.errors import ConnectionLost, ListenFailed, TunnelRefused
from masque_relay.client.events import (
    ClientEvent,
    OversizeDropped,
    PayloadSizeChanged,
    TunnelDenied,
)
from masque_relay.client.forward import UdpForward
from masque_relay.client.limits import ClientLimits, ForwardLimits
from masque_relay.contract.address import Endpoint
from masque_relay.contract.flow import FlowError, FlowFault
from masque_relay.contract.ports import ReceivedBatch
from tests.support.client_fakes import FakeClock, FakeOpener, FakeSocket
from tests.support.http_fakes import settle

SPEC = ForwardSpec.parse("127.0.0.1:0=dns.example:53")
ALICE, BOB, CAROL = ("127.0.0.1", 1001), ("127.0.0.1", 1002), ("127.0.0.1", 1003)


class Rig:
    """A forward on a fake socket, a fake relay and a fake clock."""

    def __init__(self, limits: ForwardLimits, client_limits: ClientLimits | None) -> None:
        self.clock = FakeClock()
        self.opener = FakeOpener(client_limits)
        self.socket = FakeSocket(Endpoint(address=SPEC.listen.address, port=40_000))
        self.events: list[ClientEvent] = []
        self.forward = UdpForward(
            SPEC,
            self.opener,
            limits=limits,
            on_event=self.events.append,
            socket_factory=lambda _endpoint: self.socket,
            clock=self.clock,
        )

    async def send(self, source: tuple[str, int], *payloads: bytes) -> None:
        """Let a local program send."""
        self.socket.waiting.append(ReceivedBatch(list(payloads), source))
        self.forward._on_readable()
        await settle()

    def sent(self) -> list[tuple[int, bytes]]:
        """What reached the relay: stream id and UDP payload."""
        return [(stream_id, payload[1:]) for stream_id, payload in self.opener.transport.datagrams]

    def answer(self, stream_id: int, *payloads: bytes) -> None:
        self.opener.connection.datagrams_received(stream_id, [b"\0" + each for each in payloads])

    def dropped(self) -> dict[str, int]:
        dropped = self.forward.status()["dropped"]
        assert isinstance(dropped, dict)
        return dropped


@asynccontextmanager
async def running(
    limits: ForwardLimits | None = None, client_limits: ClientLimits | None = None
) -> AsyncGenerator[Rig]:
    rig = Rig(limits or ForwardLimits(), client_limits)
    await rig.forward.start()
    async with rig.forward.opening_tunnels():
        yield rig
    rig.forward.close()


class TestStart:
    async def test_the_real_port_is_told(self) -> None:
        async with running() as rig:
            assert str(rig.forward.spec) == "127.0.0.1:40000=dns.example:53"

    async def test_a_taken_port_is_told_with_a_hint(self) -> None:
        def refuse(endpoint: Endpoint) -> FakeSocket:
            raise FlowError(FlowFault.RESOURCES, f"bind {endpoint}: Address already in use")

        forward = UdpForward(SPEC, FakeOpener(), socket_factory=refuse, clock=FakeClock())
        with pytest.raises(ListenFailed, match="already in use") as refused:
            await forward.start()
        assert refused.value.hint

    async def test_a_refused_target_fails_the_start_and_frees_the_port(self) -> None:
        rig = Rig(ForwardLimits(), None)
        rig.opener.failure = TunnelRefused(403, "no")
        with pytest.raises(TunnelRefused):
            await rig.forward.start()
        assert rig.socket.closed


class TestTraffic:
    async def test_the_first_local_peer_uses_the_tunnel_of_the_start(self) -> None:
        async with running() as rig:
            await rig.send(ALICE, b"q1", b"q2")
            assert rig.sent() == [(0, b"q1"), (0, b"q2")]
            rig.answer(0, b"r1", b"r2")
            assert rig.socket.sent == [(b"r1", ALICE), (b"r2", ALICE)]

    async def test_each_local_peer_has_a_tunnel_of_its_own(self) -> None:
        async with running() as rig:
            await rig.send(ALICE, b"a")
            await rig.send(BOB, b"b")
            assert rig.sent() == [(0, b"a"), (4, b"b")]
            rig.answer(4, b"for bob")
            rig.answer(0, b"for alice")
            assert rig.socket.sent == [(b"for bob", BOB), (b"for alice", ALICE)]
            assert rig.forward.status()["peers"] == 2

    async def test_what_comes_before_the_tunnel_is_open_waits_in_order(self) -> None:
        async with running() as rig:
            await rig.send(ALICE, b"spare")
            rig.opener.answer = None
            await rig.send(BOB, b"1", b"2")
            await rig.send(BOB, b"3")
            assert rig.sent() == [(0, b"spare")]
            rig.opener.connection.headers_received(4, [(b":status", b"200")], end_stream=False)
            await settle()
            assert rig.sent()[1:] == [(4, b"1"), (4, b"2"), (4, b"3")]

    async def test_the_waiting_queue_is_bounded_and_drops_the_oldest(self) -> None:
        async with running(ForwardLimits(pending_datagrams=2)) as rig:
            await rig.send(ALICE, b"spare")
            rig.opener.answer = None
            await rig.send(BOB, b"1", b"2", b"3")
            rig.opener.connection.headers_received(4, [(b":status", b"200")], end_stream=False)
            await settle()
            assert rig.sent()[1:] == [(4, b"2"), (4, b"3")]
            assert rig.dropped()["relay_away"] == 1

    async def test_what_waited_too_long_is_dropped(self) -> None:
        async with running(ForwardLimits(pending_lifetime_s=3.0)) as rig:
            await rig.send(ALICE, b"spare")
            rig.opener.answer = None
            await rig.send(BOB, b"old")
            rig.clock.now_s += 5
            await rig.send(BOB, b"new")
            rig.opener.connection.headers_received(4, [(b":status", b"200")], end_stream=False)
            await settle()
            assert rig.sent()[1:] == [(4, b"new")]
            assert rig.dropped()["relay_away"] == 1

    async def test_what_the_local_socket_does_not_take_is_counted(self) -> None:
        async with running() as rig:
            await rig.send(ALICE, b"q")
            rig.socket.takes = False
            rig.answer(0, b"r1", b"r2")
            assert rig.dropped()["local_socket"] == 2

    async def test_answers_to_the_unused_tunnel_go_nowhere(self) -> None:
        async with running() as rig:
            rig.answer(0, b"unasked")
            assert rig.socket.sent == []


class TestPeers:
    async def test_an_idle_peer_loses_its_tunnel_and_gets_another_when_it_sends_again(self) -> None:
        async with running(ForwardLimits(idle_timeout_s=60)) as rig:
            await rig.send(ALICE, b"1")
            rig.clock.now_s += 30
            await rig.send(BOB, b"1")
            rig.clock.now_s += 31
            rig.forward.sweep()
            assert rig.forward.status()["peers"] == 1
            assert rig.forward.status()["peers_expired"] == 1
            assert rig.opener.transport.finished == {0}
            await rig.send(ALICE, b"2")
            assert rig.sent()[-1] == (8, b"2")

    async def test_answers_keep_a_peer_alive(self) -> None:
        async with running(ForwardLimits(idle_timeout_s=60)) as rig:
            await rig.send(ALICE, b"subscribe")
            for _ in range(5):
                rig.clock.now_s += 50
                rig.answer(0, b"news")
                rig.forward.sweep()
            assert rig.forward.status()["peers"] == 1

    async def test_the_longest_idle_peer_makes_room_for_a_new_one(self) -> None:
        async with running(ForwardLimits(peers=2)) as rig:
            await rig.send(ALICE, b"a")
            await rig.send(BOB, b"b")
            rig.clock.now_s += 5
            await rig.send(ALICE, b"a")
            await rig.send(CAROL, b"c")
            assert rig.forward.status()["peers"] == 2
            assert rig.forward.status()["peers_evicted"] == 1
            assert rig.opener.transport.finished == {4}
            assert rig.sent()[-1] == (8, b"c")

    async def test_peers_in_use_are_not_driven_out(self) -> None:
        async with running(ForwardLimits(peers=2)) as rig:
            await rig.send(ALICE, b"a")
            await rig.send(BOB, b"b")
            await rig.send(CAROL, b"c", b"c")
            assert rig.forward.status()["peers_evicted"] == 0
            assert rig.dropped()["refused"] == 2

    async def test_a_peer_that_expires_while_its_tunnel_opens_leaks_none(self) -> None:
        async with running() as rig:
            await rig.send(ALICE, b"spare")
            rig.opener.answer = None
            await rig.send(BOB, b"x")
            rig.forward.close()
            rig.opener.connection.headers_received(4, [(b":status", b"200")], end_stream=False)
            await settle()
            assert 4 in rig.opener.transport.finished

    async def test_a_tunnel_that_the_relay_ends_is_replaced_on_the_next_datagram(self) -> None:
        async with running() as rig:
            await rig.send(ALICE, b"1")
            rig.opener.connection.data_received(0, b"", end_stream=True)
            await rig.send(ALICE, b"2")
            assert rig.sent() == [(0, b"1"), (4, b"2")]
            assert rig.forward.status()["sent"] == 2


class TestRelayTrouble:
    async def test_while_the_relay_is_away_datagrams_are_dropped_and_counted(self) -> None:
        async with running() as rig:
            await rig.send(ALICE, b"1")
            rig.opener.failure = ConnectionLost("away")
            rig.opener.connection.connection_lost(0, "")
            await rig.send(ALICE, b"2", b"3")
            assert rig.dropped()["relay_away"] == 2
            assert rig.events == []

    async def test_a_refusal_is_reported_once_and_not_asked_again_at_once(self) -> None:
        async with running(ForwardLimits(refused_delay_s=4.0)) as rig:
            await rig.send(ALICE, b"spare")
            rig.opener.failure = TunnelRefused(403, "no", error="http_request_denied")
            await rig.send(BOB, b"1")
            await rig.send(BOB, b"2")
            await rig.send(CAROL, b"3")
            (event,) = rig.events
            assert isinstance(event, TunnelDenied)
            assert event.error.status == 403
            assert rig.dropped() == {**rig.dropped(), "relay_away": 1, "refused": 2}
            rig.clock.now_s += 5
            rig.opener.failure = None
            await rig.send(BOB, b"4")
            assert rig.sent()[-1] == (4, b"4")

    async def test_a_relay_that_says_when_to_come_back_is_believed(self) -> None:
        async with running() as rig:
            await rig.send(ALICE, b"spare")
            rig.opener.failure = TunnelRefused(503, "full", retry_after_s=30)
            await rig.send(BOB, b"1")
            (event,) = rig.events
            assert isinstance(event, TunnelDenied)
            assert event.retry_in_s == 30

    async def test_a_tunnel_quota_makes_the_longest_idle_peer_give_way(self) -> None:
        async with running() as rig:
            await rig.send(ALICE, b"a")
            rig.clock.now_s += 10
            rig.opener.failure = TunnelRefused(429, "x", error="connection_limit_reached")
            await rig.send(BOB, b"1")
            assert rig.opener.transport.finished == {0}
            assert rig.events == []
            rig.opener.failure = None
            await rig.send(BOB, b"2")
            assert rig.sent()[-1] == (4, b"2")

    async def test_a_bug_in_opening_costs_one_tunnel_not_the_forward(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with running() as rig:
            await rig.send(ALICE, b"spare")
            rig.opener.failure = ZeroDivisionError()
            await rig.send(BOB, b"1")
            rig.opener.failure = None
            await rig.send(BOB, b"2")
            assert rig.sent()[-1] == (4, b"2")
        assert "bug" in caplog.text


class TestSizes:
    async def test_a_new_payload_size_is_reported_once(self) -> None:
        async with running() as rig:
            rig.forward.sweep()
            told = len(rig.events)
            rig.opener.max_payload_bytes = 1_407
            rig.forward.sweep()
            rig.forward.sweep()
            (event,) = rig.events[told:]
            assert isinstance(event, PayloadSizeChanged)
            assert event.max_payload_bytes == 1_407

    async def test_a_relay_that_is_away_has_no_payload_size(self) -> None:
        async with running() as rig:
            rig.forward.sweep()
            rig.events.clear()
            rig.opener.max_payload_bytes = 0
            rig.forward.sweep()
            assert rig.events == []

    @pytest.mark.parametrize("size_bytes", [1_420, 1_452])
    async def test_datagrams_of_a_default_wireguard_are_reported_with_the_largest(
        self, size_bytes: int
    ) -> None:
        async with running() as rig:
            rig.forward.sweep()
            rig.events.clear()
            for _ in range(3):
                await rig.send(ALICE, bytes(size_bytes), b"small")
            rig.forward.sweep()
            rig.forward.sweep()
            (event,) = rig.events
            assert isinstance(event, OversizeDropped)
            assert (event.dropped_count, event.largest_bytes) == (3, size_bytes)
            assert len(rig.sent()) == 3
            assert rig.dropped()["oversize"] == 3

    async def test_oversize_drops_of_a_tunnel_that_is_gone_are_still_reported(self) -> None:
        async with running() as rig:
            rig.forward.sweep()
            rig.events.clear()
            await rig.send(ALICE, bytes(1_500))
            rig.opener.connection.data_received(0, b"", end_stream=True)
            rig.forward.sweep()
            assert [type(event) for event in rig.events] == [OversizeDropped]


async def test_close_frees_the_port_and_ends_every_tunnel() -> None:
    async with running() as rig:
        await rig.send(ALICE, b"a")
        await rig.send(BOB, b"b")
    assert rig.socket.closed
    assert rig.opener.transport.finished == {0, 4}


async def test_run_before_start_is_a_bug() -> None:
    with pytest.raises(RuntimeError, match="start"):
        await UdpForward(SPEC, FakeOpener(), clock=FakeClock()).run()
