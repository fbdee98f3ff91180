"""What an operator hears of a tunnel whose session fails or whose target sends too much."""

from collections.abc import Sequence

import pytest
import structlog

from masque_relay.contract.counters import TunnelCounters
from masque_relay.contract.flow import FlowError, FlowFault
from masque_relay.contract.ports import ReceivedBatch
from masque_relay.contract.verdict import EndReason
from masque_relay.http.rate import EventRate
from masque_relay.http.watched_sink import (
    OVERSIZE_NOTICES_BURST,
    OVERSIZE_NOTICES_PER_S,
    WatchedBoundSink,
    WatchedSink,
)
from masque_relay.tunnels.connect_udp import ConnectUdpSession
from masque_relay.tunnels.connect_udp_bind import BoundUdpSession
from tests.support.http_fakes import FakeClock, FakeMeter, RecordingCarrier
from tests.unit.tunnels.test_connect_udp_bind import ONE
from tests.unit.tunnels.test_connect_udp_bind import Tunnel as BoundTunnel

FITS = b"x" * 1_000
OVERSIZE = b"x" * 1_300


class Scene:
    """Sinks over recording carriers; all share one rate of notices."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.notices = EventRate(
            rate_per_s=OVERSIZE_NOTICES_PER_S, burst_count=OVERSIZE_NOTICES_BURST, clock=self.clock
        )
        self.counters = TunnelCounters()

    def tunnel(self, request_id: str = "r1") -> tuple[WatchedSink, ConnectUdpSession]:
        session = ConnectUdpSession(
            uplink=FakeMeter(), downlink=FakeMeter(), counters=self.counters
        )
        session.attach(RecordingCarrier())
        return (
            WatchedSink(session, request_id=request_id, oversize_notices=self.notices),
            session,
        )


def fail(*_: object) -> None:
    raise ZeroDivisionError("a bug")


class TestBugs:
    def test_a_session_that_raises_is_closed_with_one_record(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sink, session = Scene().tunnel()
        monkeypatch.setattr(ConnectUdpSession, "on_batch", fail)
        with structlog.testing.capture_logs() as records:
            sink.on_batch([FITS])
        assert session.end_reason is EndReason.BUG
        (record,) = records
        assert (record["event"], record["request_id"]) == ("tunnel session raised", "r1")
        assert record["exc_info"]

    def test_an_error_report_that_raises_closes_it_too(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sink, session = Scene().tunnel()
        monkeypatch.setattr(ConnectUdpSession, "on_flow_error", fail)
        sink.on_flow_error(FlowError(FlowFault.CONNECTION_REFUSED, ""))
        assert session.end_reason is EndReason.BUG

    def test_what_works_is_handed_on(self) -> None:
        scene = Scene()
        sink, session = scene.tunnel()
        with structlog.testing.capture_logs() as records:
            sink.on_batch([FITS, FITS])
            sink.on_flow_error(FlowError(FlowFault.CONNECTION_REFUSED, ""))
        assert scene.counters.downlink_datagrams == 2
        assert session.flow_error_count == 1
        assert not records


class TestOversizeNotice:
    def told(self, *sinks: WatchedSink) -> Sequence[object]:
        with structlog.testing.capture_logs() as records:
            for sink in sinks:
                sink.on_batch([FITS, OVERSIZE])
        return [record["request_id"] for record in records]

    def test_a_tunnel_is_told_of_once(self) -> None:
        scene = Scene()
        sink, session = scene.tunnel()
        assert self.told(sink, sink, sink) == ["r1"]
        assert session.oversize_downlink_count == 3
        assert scene.counters.downlink_datagrams == 3

    def test_the_line_says_how_large_and_what_to_do(self) -> None:
        sink, _ = Scene().tunnel()
        with structlog.testing.capture_logs() as records:
            sink.on_batch([FITS, OVERSIZE])
        (record,) = records
        assert record["largest_bytes"] == len(OVERSIZE)
        assert "ghostctl tunnel check" in record["hint"]

    def test_many_tunnels_keep_within_the_rate(self) -> None:
        scene = Scene()
        sinks = [scene.tunnel(f"r{number}")[0] for number in range(50)]
        assert len(self.told(*sinks[:40])) == OVERSIZE_NOTICES_BURST
        scene.clock.now_s += 1 / OVERSIZE_NOTICES_PER_S
        assert self.told(*sinks[40:]) == ["r40"]


class TestBoundUdp:
    def test_a_session_that_raises_is_closed_with_one_record(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tunnel = BoundTunnel()
        sink = WatchedBoundSink(tunnel.session, request_id="r1", oversize_notices=Scene().notices)
        monkeypatch.setattr(BoundUdpSession, "on_batches", fail)
        with structlog.testing.capture_logs() as records:
            sink.on_batches([ReceivedBatch([FITS], ONE)])
        assert tunnel.session.end_reason is EndReason.BUG
        assert [record["event"] for record in records] == ["tunnel session raised"]

    def test_datagrams_that_are_too_large_are_told_once(self) -> None:
        tunnel = BoundTunnel()
        sink = WatchedBoundSink(tunnel.session, request_id="r1", oversize_notices=Scene().notices)
        with structlog.testing.capture_logs() as records:
            for _ in range(3):
                sink.on_batches([ReceivedBatch([FITS, OVERSIZE], ONE)])
        assert [record["largest_bytes"] for record in records] == [len(OVERSIZE)]
        assert len(tunnel.carrier.datagrams) == 3
