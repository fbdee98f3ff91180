"""What stands between a TCP flow and its session."""

from structlog.testing import capture_logs

from masque_relay.contract.counters import TunnelCounters
from masque_relay.contract.flow import FlowError, FlowFault
from masque_relay.contract.verdict import EndReason
from masque_relay.http.watched_bytes import WatchedByteSink
from masque_relay.tunnels.connect_tcp import ConnectTcpSession
from masque_relay.wire.connect_tcp import RawFraming
from tests.support.http_fakes import FakeMeter


class FailingSession(ConnectTcpSession):
    """A bug in every callback."""

    def on_bytes(self, data: bytes) -> None:
        raise LookupError("bug")

    def on_bytes_end(self) -> None:
        raise LookupError("bug")

    def on_flow_writable(self) -> None:
        raise LookupError("bug")

    def on_flow_lost(self, error: FlowError) -> None:
        raise LookupError("bug")


def test_bug_of_a_session_ends_its_tunnel_with_one_record() -> None:
    error = FlowError(FlowFault.CONNECTION_TERMINATED, "x")
    for name, arguments in {
        "on_bytes": (b"x",),
        "on_bytes_end": (),
        "on_flow_writable": (),
        "on_flow_lost": (error,),
    }.items():
        session = FailingSession(
            framing=RawFraming(),
            uplink=FakeMeter(),
            downlink=FakeMeter(),
            counters=TunnelCounters(),
        )
        with capture_logs() as logs:
            getattr(WatchedByteSink(session, request_id="r-1"), name)(*arguments)

        assert session.end_reason is EndReason.BUG
        assert [record["request_id"] for record in logs] == ["r-1"]
