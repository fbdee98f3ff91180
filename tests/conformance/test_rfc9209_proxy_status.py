"""RFC 9209: what the relay says of itself, over every answer that it can give."""

from pathlib import Path

import pytest

from masque_relay.contract.flow import FlowError, FlowFault
from masque_relay.contract.verdict import Denial, DenyReason
from masque_relay.http.denials import Refusal, refuse_denial, refuse_flow_error
from tests.support.relay import ECHO_HOST, running_relay, udp_echo

RECOMMENDED = {
    "dns_timeout": 504,
    "dns_error": 502,
    "destination_not_found": 500,
    "destination_unavailable": 503,
    "destination_ip_prohibited": 502,
    "destination_ip_unroutable": 502,
    "connection_refused": 502,
    "connection_terminated": 502,
    "connection_timeout": 504,
    "connection_limit_reached": 503,
    "http_request_denied": 403,
    "proxy_internal_response": None,
}
"""Error types of section 2.3 that we use, with the status each recommends (None: any)."""

REFUSALS = [
    *(refuse_flow_error(FlowError(fault, "detail")) for fault in FlowFault),
    *(
        refuse_denial(Denial(reason=reason, detail="detail"), speaks_to_proxy=speaks)
        for reason in DenyReason
        for speaks in (False, True)
    ),
]

DEVIATING = {
    ("destination_unavailable", 502),
    ("destination_ip_prohibited", 403),
    ("connection_limit_reached", 429),
    ("http_request_denied", 401),
    ("http_request_denied", 407),
    ("http_request_denied", 429),
}


@pytest.mark.clause("RFC 9209", "2.1.1", "MUST", "take error types from the registry")
@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.error)
def test_section_2_1_1_every_error_type_is_registered(refusal: Refusal) -> None:
    assert refusal.error in RECOMMENDED


@pytest.mark.clause("RFC 9209", "2.3", "SHOULD", "use the status that the error type recommends")
@pytest.mark.clause(
    "RFC 9209", "2.3.4", "DEVIATION", "502 for destination_unavailable: 503 blames the relay"
)
@pytest.mark.clause(
    "RFC 9209", "2.3.5", "DEVIATION", "403 for destination_ip_prohibited: 502 invites retries"
)
@pytest.mark.clause(
    "RFC 9209", "2.3.12", "DEVIATION", "429 for one's own tunnel quota: 503 blames the relay"
)
@pytest.mark.clause(
    "RFC 9209", "2.3.17", "DEVIATION", "401, 407, 429 where HTTP has a better status than 403"
)
def test_section_2_3_statuses_are_the_recommended_ones_but_for_the_deviations() -> None:
    other = {
        (refusal.error, refusal.status)
        for refusal in REFUSALS
        if RECOMMENDED[refusal.error] not in {None, refusal.status}
    }
    assert other == DEVIATING


@pytest.mark.clause("RFC 9209", "2", "MUST", "be a structured list whose member names the relay")
@pytest.mark.clause("RFC 9209", "2.1.2", "MAY", "name the next hop that was chosen")
@pytest.mark.clause("RFC 9209", "2.1.1", "SHOULD", "tell which error made the relay answer itself")
async def test_section_2_success_and_failure_are_told_by_one_member(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, udp_echo() as port:
        client = await relay.connect()
        _, answer = await client.request(relay.connect_udp("echo.test", port))
        told = answer.proxy_status
        assert (told.proxy, told.error) == ("ghostwire", None)
        assert told.next_hop == f"{ECHO_HOST}:{port}"
        _, answer = await client.request(relay.connect_udp("127.0.0.1", port))
        told = answer.proxy_status
        assert (told.proxy, told.error) == ("ghostwire", "destination_ip_prohibited")
        assert told.next_hop is None


@pytest.mark.clause("RFC 9209", "2.3.2", "MAY", "give the response code with dns_error alone")
@pytest.mark.parametrize("fault", list(FlowFault))
def test_section_2_3_2_rcode_goes_with_dns_error(fault: FlowFault) -> None:
    refusal = refuse_flow_error(FlowError(fault, "detail", rcode="NXDOMAIN"))
    assert (refusal.rcode is not None) == (refusal.error == "dns_error")
