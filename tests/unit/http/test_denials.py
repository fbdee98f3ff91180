"""Every refusal of the gate and of the dataplane has its HTTP form (RFC 9209, RFC 6750)."""

import pytest

from masque_relay.contract.flow import FlowError, FlowFault
from masque_relay.contract.verdict import Denial, DenyReason
from masque_relay.http.denials import (
    Refusal,
    refusal_headers,
    refuse_denial,
    refuse_flow_error,
    refuse_request,
    send_refusal,
)
from masque_relay.wire.proxy_status import parse_proxy_status

SECRET = "10.1.2.3 rule=board-members key=ed25519-7"

STATUS_OF_REASON = {
    DenyReason.CREDENTIAL_MISSING: 401,
    DenyReason.CREDENTIAL_INVALID: 401,
    DenyReason.CREDENTIAL_EXPIRED: 401,
    DenyReason.CREDENTIAL_AUDIENCE: 401,
    DenyReason.REVOKED: 401,
    DenyReason.POLICY: 403,
    DenyReason.ADDRESS_PROHIBITED: 403,
    DenyReason.TUNNEL_QUOTA: 429,
    DenyReason.OPEN_RATE: 429,
    DenyReason.BYTE_QUOTA: 429,
    DenyReason.OVERLOADED: 503,
    DenyReason.DRAINING: 503,
}

ANSWER_OF_FAULT = {
    FlowFault.DNS_ERROR: (502, "dns_error"),
    FlowFault.DNS_TIMEOUT: (504, "dns_timeout"),
    FlowFault.DESTINATION_UNAVAILABLE: (502, "destination_unavailable"),
    FlowFault.DESTINATION_IP_UNROUTABLE: (502, "destination_ip_unroutable"),
    FlowFault.DESTINATION_IP_PROHIBITED: (403, "destination_ip_prohibited"),
    FlowFault.CONNECTION_REFUSED: (502, "connection_refused"),
    FlowFault.CONNECTION_TIMEOUT: (504, "connection_timeout"),
    FlowFault.CONNECTION_TERMINATED: (502, "connection_terminated"),
    FlowFault.DATAGRAM_TOO_LARGE: (502, "destination_unavailable"),
    FlowFault.RESOURCES: (503, "connection_limit_reached"),
}


def deny(reason: DenyReason, *, speaks_to_proxy: bool = False) -> Refusal:
    denial = Denial(reason=reason, detail=SECRET, rule="board-members")
    return refuse_denial(denial, speaks_to_proxy=speaks_to_proxy)


def sent_headers(refusal: Refusal) -> list[tuple[bytes, bytes]]:
    return refusal_headers(refusal, proxy_name="ghostwire", request_id="abc123")


def values(refusal: Refusal, name: bytes) -> list[bytes]:
    return [value for header, value in sent_headers(refusal) if header == name]


class TestDenials:
    @pytest.mark.clause(
        "RFC 9209", "4", "SHOULD NOT", "tell more of the inside than a client needs"
    )
    @pytest.mark.parametrize("reason", list(DenyReason))
    def test_every_reason_has_its_status_and_leaks_no_detail(self, reason: DenyReason) -> None:
        refusal = deny(reason)

        assert refusal.status == STATUS_OF_REASON[reason]
        everything = repr(refusal) + repr(sent_headers(refusal))
        assert not any(word in everything for word in ["10.1.2.3", "board-members", "ed25519"])

    @pytest.mark.parametrize("reason", list(DenyReason))
    def test_proxy_status_is_parseable_and_names_the_request(self, reason: DenyReason) -> None:
        (value,) = values(deny(reason), b"proxy-status")

        (status,) = parse_proxy_status(value.decode())
        assert status.proxy == "ghostwire"
        assert status.error
        assert status.details is not None
        assert status.details.endswith("[abc123]")

    def test_every_credential_failure_looks_alike_but_expiry(self) -> None:
        reasons = [
            DenyReason.CREDENTIAL_INVALID,
            DenyReason.CREDENTIAL_AUDIENCE,
            DenyReason.REVOKED,
        ]

        assert len({repr(deny(reason)) for reason in reasons}) == 1
        assert "expired" in deny(DenyReason.CREDENTIAL_EXPIRED).explanation

    def test_origin_style_credentials_get_401_with_www_authenticate(self) -> None:
        refusal = deny(DenyReason.CREDENTIAL_MISSING)

        assert values(refusal, b"www-authenticate") == [
            b'Bearer realm="relay"',
            b'Basic realm="relay", charset="UTF-8"',
        ]
        assert not values(refusal, b"proxy-authenticate")

    def test_proxy_style_credentials_get_407_with_proxy_authenticate(self) -> None:
        refusal = deny(DenyReason.CREDENTIAL_INVALID, speaks_to_proxy=True)

        assert refusal.status == 407
        assert values(refusal, b"proxy-authenticate")[0].endswith(b'error="invalid_token"')
        assert not values(refusal, b"www-authenticate")

    @pytest.mark.parametrize("reason", [r for r in DenyReason if STATUS_OF_REASON[r] in {429, 503}])
    def test_what_may_pass_later_says_when(self, reason: DenyReason) -> None:
        assert values(deny(reason), b"retry-after") == [b"5"]

        denial = Denial(reason=reason, detail="", retry_after_s=17)
        refusal = refuse_denial(denial, speaks_to_proxy=False)
        assert values(refusal, b"retry-after") == [b"17"]

    def test_policy_does_not_invite_a_retry(self) -> None:
        assert not values(deny(DenyReason.POLICY), b"retry-after")


class TestFlowErrors:
    @pytest.mark.parametrize("fault", list(FlowFault))
    def test_every_fault_has_its_answer_and_leaks_no_detail(self, fault: FlowFault) -> None:
        refusal = refuse_flow_error(FlowError(fault, SECRET))

        assert (refusal.status, refusal.error) == ANSWER_OF_FAULT[fault]
        assert "10.1.2.3" not in repr(sent_headers(refusal))

    def test_dns_error_carries_its_rcode(self) -> None:
        refusal = refuse_flow_error(FlowError(FlowFault.DNS_ERROR, "", rcode="NXDOMAIN"))

        (value,) = values(refusal, b"proxy-status")
        assert b'rcode="NXDOMAIN"' in value

    def test_rcode_goes_with_dns_error_only(self) -> None:
        refusal = refuse_flow_error(FlowError(FlowFault.DNS_TIMEOUT, "", rcode="SERVFAIL"))

        assert refusal.rcode is None


async def test_refusal_is_sent_as_a_complete_text_response() -> None:
    messages: list[dict[str, object]] = []

    async def send(message: object) -> None:
        assert isinstance(message, dict)
        messages.append(message)

    refusal = refuse_request(400, "bad target: port 0 is not 1..65535")
    await send_refusal(send, refusal, proxy_name="ghostwire", request_id="abc123")

    start, body = messages
    assert start["status"] == 400
    assert body["body"] == b"bad target: port 0 is not 1..65535\nrequest abc123\n"
    headers = start["headers"]
    assert isinstance(headers, list)
    assert (b"content-length", b"50") in headers
    assert (b"cache-control", b"no-store") in headers
