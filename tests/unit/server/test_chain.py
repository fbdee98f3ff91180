"""Owns the tests of what a client hears when the second hop fails."""

import pytest

from masque_relay.client.errors import (
    ClientError,
    ConnectionLost,
    RelayTimeout,
    TunnelRefused,
)
from masque_relay.server.chain import refusal_upstream


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (TunnelRefused(403, "no", error="http_request_denied"), 403, "http_request_denied"),
        (TunnelRefused(504, "late", error="connection_timeout"), 504, "connection_timeout"),
        (TunnelRefused(502, "x", error="connection_refused"), 502, "connection_refused"),
        (TunnelRefused(502, "x", error="proxy_loop_detected"), 502, "proxy_loop_detected"),
        (TunnelRefused(404, "x"), 502, "proxy_internal_error"),
        (TunnelRefused(401, "x", error="http_request_denied"), 502, "proxy_configuration_error"),
        (TunnelRefused(407, "x"), 502, "proxy_configuration_error"),
        (TunnelRefused(503, "x"), 503, "connection_limit_reached"),
        (
            TunnelRefused(429, "x", error="connection_limit_reached"),
            503,
            "connection_limit_reached",
        ),
        (TunnelRefused(502, "x", error="BAD; evil=1"), 502, "proxy_internal_error"),
        (RelayTimeout("late"), 504, "http_response_timeout"),
        (ConnectionLost("away"), 502, "destination_unavailable"),
    ],
)
def test_a_failure_upstream_keeps_its_meaning(error: ClientError, status: int, kind: str) -> None:
    refusal = refusal_upstream(error)
    assert (refusal.status, refusal.error) == (status, kind)


def test_a_dns_failure_upstream_keeps_its_code() -> None:
    error = TunnelRefused(502, "x", error="dns_error", rcode="NXDOMAIN")
    assert refusal_upstream(error).rcode == "NXDOMAIN"


def test_when_to_ask_again_is_passed_on() -> None:
    assert refusal_upstream(TunnelRefused(503, "x", retry_after_s=7)).retry_after_s == 7


def test_the_upstreams_own_words_stay_there() -> None:
    error = TunnelRefused(403, "10.1.2.3 is in rule x", details="10.1.2.3 is in rule x")
    assert "10.1.2.3" not in refusal_upstream(error).explanation
