"""Owns the tests of what a program hears when its target fails."""

import pytest

from masque_relay.client.errors import (
    ClientError,
    ConnectionLost,
    RelayTimeout,
    TunnelClosed,
    TunnelRefused,
)
from masque_relay.client.proxy_answers import TargetFailed, answer_to, proxy_status_of
from masque_relay.contract.flow import FlowError, FlowFault
from masque_relay.contract.verdict import Denial, DenyReason, EndReason
from masque_relay.http.denials import refuse_denial, refuse_flow_error
from masque_relay.wire.proxy_status import parse_proxy_status


def refused(status: int, error: str | None = None, *, rcode: str | None = None) -> TunnelRefused:
    return TunnelRefused(status, f"refused: {status}", error=error, rcode=rcode)


@pytest.mark.parametrize(
    ("error", "reply", "status"),
    [
        (refused(403, "http_request_denied"), 0x02, 403),
        (refused(403, "destination_ip_prohibited"), 0x02, 403),
        (refused(502, "connection_refused"), 0x05, 502),
        (refused(502, "dns_error", rcode="NXDOMAIN"), 0x04, 502),
        (refused(502, "destination_unavailable"), 0x04, 502),
        (refused(502, "destination_ip_unroutable"), 0x03, 502),
        (refused(504, "connection_timeout"), 0x06, 504),
        (refused(504, "dns_timeout"), 0x06, 504),
        (refused(504), 0x06, 504),
        (refused(401), 0x02, 403),
        (refused(407, "http_request_denied"), 0x02, 403),
        (refused(429, "http_request_denied"), 0x01, 503),
        (refused(503, "connection_limit_reached"), 0x01, 503),
        (refused(501), 0x01, 502),
        (refused(502, "made_up_error"), 0x01, 502),
        (RelayTimeout("silence"), 0x06, 504),
        (ConnectionLost("away"), 0x01, 502),
        (TunnelClosed(EndReason.PEER_RESET, "reset"), 0x01, 502),
        (TargetFailed("blocked", error="http_request_denied"), 0x02, 403),
        (TargetFailed("closed", error="connection_refused"), 0x05, 502),
    ],
)
def test_a_failure_has_its_reply_and_its_status(
    error: ClientError, reply: int, status: int
) -> None:
    answer = answer_to(error)
    assert (answer.reply, answer.status) == (reply, status)


def test_proxy_status_tells_type_code_and_reason() -> None:
    (said,) = parse_proxy_status(
        proxy_status_of(refused(502, "dns_error", rcode="NXDOMAIN")).decode("ascii")
    )
    assert (said.proxy, said.error, said.rcode) == ("ghostctl", "dns_error", "NXDOMAIN")
    assert said.details == "refused: 502"


@pytest.mark.parametrize("reason", DenyReason)
def test_every_denial_of_our_relay_is_a_verdict_or_a_limit(reason: DenyReason) -> None:
    refusal = refuse_denial(Denial(reason=reason, detail=""), speaks_to_proxy=True)
    answer = answer_to(refused(refusal.status, refusal.error))
    assert answer.status in {403, 503}
    assert answer.reply in {0x01, 0x02}


@pytest.mark.parametrize(
    "fault", [fault for fault in FlowFault if fault is not FlowFault.RESOURCES]
)
def test_every_fault_of_a_target_has_a_reply_of_its_own(fault: FlowFault) -> None:
    refusal = refuse_flow_error(FlowError(fault, ""))
    assert answer_to(refused(refusal.status, refusal.error)).reply in {2, 3, 4, 5, 6}
