"""Audit records: what they hold, and what they never hold."""

from ipaddress import ip_address

from masque_relay.contract.address import Endpoint, Target
from masque_relay.contract.request import BearerToken, Method, RelayRequest, Transport
from masque_relay.contract.verdict import Denial, DenyReason
from masque_relay.control.auth.principal import CredentialKind, Principal
from masque_relay.control.records import decision_record

REQUEST = RelayRequest(
    request_id="r1",
    transport=Transport.HTTP3,
    method=Method.CONNECT_UDP,
    target=Target(host="dns.example", port=53),
    credentials=(BearerToken(token="the-secret"),),
    source=Endpoint(address=ip_address("198.51.100.9"), port=5),
)


def test_refusal_names_who_what_and_why_and_never_the_credential() -> None:
    record = decision_record(
        REQUEST,
        Principal(subject="alice", method=CredentialKind.BEARER, key_id="k", token_id="t7"),
        None,
        Denial(reason=DenyReason.POLICY, detail="no rule", rule="last"),
        policy_digest="abc",
        now_s=0,
    )

    assert record == {
        "at": record["at"],
        "event": "decision",
        "result": "deny",
        "request_id": "r1",
        "transport": "h3",
        "method": "connect-udp",
        "target": "dns.example:53",
        "source": "198.51.100.9:5",
        "policy": "abc",
        "subject": "alice",
        "credential": "bearer",
        "token_id": "t7",
        "reason": "policy",
        "detail": "no rule",
        "rule": "last",
    }
    assert "the-secret" not in str(record)


def test_stranger_has_no_subject() -> None:
    record = decision_record(REQUEST, None, None, None, policy_digest="abc", now_s=0)

    assert record["result"] == "allow"
    assert "subject" not in record
