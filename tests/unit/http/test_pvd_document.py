"""The PvD document, as draft-ietf-intarea-proxy-config writes it."""

from ipaddress import ip_network

import pytest

from masque_relay.contract.policy_view import PolicyView, ReachRule
from masque_relay.contract.request import Method
from masque_relay.http.pvd_document import ProxyOffer, build_document

TCP, UDP = Method.CONNECT_TCP, Method.CONNECT_UDP
OFFERS = (
    ProxyOffer(method=UDP, protocol="connect-udp", template="/udp/{target_host}/{target_port}/"),
    ProxyOffer(method=TCP, protocol="https-connect", template=None),
)


def document(
    *rules: ReachRule, authority: str = "relay.example", public: bool = False
) -> dict[str, object]:
    return build_document(
        authority,
        "relay.example",
        OFFERS,
        alpn=["h3"],
        view=None if public else PolicyView(rules=rules, expires_s=None),
        expires_s=1_782_194_400.9,
    )


def proxies(*, authority: str = "relay.example", public: bool = False) -> list[dict[str, object]]:
    written = document(authority=authority, public=public)["proxies"]
    assert isinstance(written, list)
    return written


@pytest.mark.clause("proxy-config-14", "2", "MUST", "have the name of the relay as identifier")
@pytest.mark.clause("proxy-config-14", "2", "MUST", "have no prefixes")
def test_the_keys_of_rfc_8801() -> None:
    written = document()
    assert written["identifier"] == "relay.example"
    assert written["expires"] == "2026-06-23T06:00:00Z"
    assert written["prefixes"] == []


def test_proxies_have_templates_or_host_and_port() -> None:
    udp, tcp = proxies()
    assert udp == {
        "protocol": "connect-udp",
        "proxy": "https://relay.example/udp/{target_host}/{target_port}/",
        "alpn": ["h3"],
        "identifier": "udp",
    }
    assert tcp["proxy"] == "relay.example:443"
    assert proxies(authority="relay.example:8443")[1]["proxy"] == "relay.example:8443"
    assert proxies(authority="[2001:db8::1]")[1]["proxy"] == "[2001:db8::1]:443"


@pytest.mark.clause(
    "proxy-config-14", "4.1", "MUST", "have proxies in every rule, and no empty property"
)
def test_rules_name_proxies_in_the_order_of_preference() -> None:
    written = document(
        ReachRule(methods=frozenset({UDP, TCP}), domains=("*.corp.example",), ports=((1, 99),)),
        ReachRule(methods=frozenset(), subnets=(ip_network("10.0.0.0/8"),)),
        ReachRule(methods=frozenset({UDP}), ports=((53, 53), (443, 444))),
    )
    assert written["proxy-match"] == [
        {"proxies": ["tcp", "udp"], "domains": ["*.corp.example"], "ports": ["1-99"]},
        {"proxies": [], "subnets": ["10.0.0.0/8"]},
        {"proxies": ["udp"], "ports": ["53", "443-444"]},
    ]


def test_a_rule_for_what_is_not_offered_is_left_out() -> None:
    assert document(ReachRule(methods=frozenset({Method.CONNECT_IP})))["proxy-match"] == []


def test_a_public_document_says_what_there_is_and_not_for_what() -> None:
    assert "proxy-match" not in document(public=True)
    assert all("identifier" not in proxy for proxy in proxies(public=True))
