"""The CONNECT-IP endpoint's own parts; whole tunnels are in tests/integration/http."""

from collections.abc import Sequence
from ipaddress import ip_network

import pytest
from structlog.testing import capture_logs

from masque_relay.contract.flow import FlowError, FlowFault
from masque_relay.contract.ip_scope import IpScope
from masque_relay.contract.request import Method
from masque_relay.contract.verdict import EndReason
from masque_relay.http.connect_ip import WatchedIpSink, read_ip_scope
from masque_relay.wire.errors import WireError
from tests.support.ip_session import SessionBench


class TestScope:
    def test_variables_of_the_template(self) -> None:
        asked = read_ip_scope({"path_params": {"target": "10.0.0.0/8", "ipproto": "17"}})
        assert asked.method is Method.CONNECT_IP
        assert asked.target is None
        assert asked.ip_scope == IpScope(target=ip_network("10.0.0.0/8"), ip_protocol=17)

    @pytest.mark.clause("RFC 9484", "4.6", "MUST", "a variable that is not there is the wildcard")
    @pytest.mark.parametrize("variables", [{}, {"target": "*"}, {"target": "*", "ipproto": "*"}])
    def test_a_missing_variable_is_the_wildcard(self, variables: dict[str, str]) -> None:
        assert read_ip_scope({"path_params": variables}).ip_scope == IpScope()

    @pytest.mark.clause("RFC 9484", "3", "MUST NOT", "empty variables")
    @pytest.mark.parametrize("variables", [{"target": ""}, {"target": "*", "ipproto": ""}])
    def test_an_empty_variable_is_malformed(self, variables: dict[str, str]) -> None:
        with pytest.raises(WireError):
            read_ip_scope({"path_params": variables})


class BrokenSink:
    is_busy = False

    def on_packets(self, packets: Sequence[bytes]) -> None:
        raise ZeroDivisionError

    def on_egress_lost(self, error: FlowError) -> None:
        raise NotImplementedError


class TestWatchedSink:
    def test_a_bug_ends_its_tunnel_with_one_record(self) -> None:
        bench = SessionBench().open()
        with capture_logs() as logs:
            WatchedIpSink(BrokenSink(), bench.session, "r1").on_packets([b"x"])
        assert bench.session.end_reason is EndReason.BUG
        assert [(entry["event"], entry["request_id"]) for entry in logs] == [
            ("tunnel failed", "r1")
        ]

    def test_packets_and_the_end_are_handed_on(self) -> None:
        bench = SessionBench().open()
        sink = WatchedIpSink(bench.session, bench.session, "r1")
        assert not sink.is_busy
        sink.on_packets([b"no packet"])
        assert bench.ip.downlink_malformed == 1
        sink.on_egress_lost(FlowError(FlowFault.DESTINATION_UNAVAILABLE, "gone"))
        assert bench.session.end_reason is EndReason.TARGET_FAILED
