"""Reading a relay's own proxy configuration, strictly."""

from typing import Any

import orjson
import pytest

from masque_relay.client.address import parse_target
from masque_relay.client.pvd import PvdDocument, PvdError, parse_pvd
from masque_relay.client.split import SplitRule, Traffic, Way

GOOD: dict[str, Any] = {
    "identifier": "relay.example.",
    "expires": "2026-06-23T06:00:00Z",
    "prefixes": [],
    "proxies": [
        {
            "protocol": "connect-udp",
            "proxy": "https://relay.example/{target_host}/{target_port}/",
            "identifier": "udp",
        },
        {"protocol": "https-connect", "proxy": "relay.example:443", "identifier": "tcp"},
        {"protocol": "socks5", "proxy": "relay.example:1080", "identifier": "old"},
        {
            "protocol": "https-connect",
            "proxy": "other.example:443",
            "identifier": "tcp",
            "mandatory": ["vendor_auth"],
            "vendor_auth": "what nobody knows",
        },
    ],
    "proxy-match": [
        {"proxies": [], "domains": ["public.corp.example"]},
        {"proxies": ["tcp", "udp"], "domains": ["*.corp.example"], "ports": ["443", "8000-8080"]},
        {"proxies": ["tcp"], "subnets": ["10.0.0.0/8", "2001:db8::1"]},
        {"proxies": ["udp"], "ports": ["53"]},
        {"proxies": ["old"], "domains": ["old.example"]},
        {"proxies": ["tcp"], "domains": ["both.example"], "subnets": ["192.0.2.0/24"]},
        {"proxies": ["tcp"], "domains": ["vendor.example"], "vendor_place": ["moon"]},
    ],
}


def read(**changes: Any) -> PvdDocument:
    return parse_pvd(orjson.dumps({**GOOD, **changes}), host="relay.example")


def way(target: str, traffic: Traffic = Traffic.TCP, *first: str) -> Way:
    rules = read().split_rules([SplitRule.parse(text) for text in first])
    return rules.way_of(parse_target(target), traffic)


@pytest.mark.clause("proxy-config-14", "3.1", "MUST", "ignore proxies with unknown mandatory keys")
def test_proxies_with_unknown_mandatory_keys_are_left_out() -> None:
    assert [proxy.proxy for proxy in read().proxies if proxy.identifier == "tcp"] == [
        "relay.example:443"
    ]


@pytest.mark.clause("proxy-config-14", "4.1", "MUST", "ignore rules with unknown keys")
@pytest.mark.clause("proxy-config-14", "4.3", "MUST", "ignore rules with unknown proprietary keys")
def test_rules_with_unknown_keys_are_left_out() -> None:
    rules = read().rules
    assert rules is not None
    assert len(rules) == 6


def test_expiry() -> None:
    assert read().expires_s == 1_782_194_400


@pytest.mark.clause("proxy-config-14", "4.2", "MUST", "match all properties of a rule")
@pytest.mark.clause(
    "proxy-config-14", "4.2", "MUST NOT", "send to a proxy what a rule without proxies matches"
)
@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("a.corp.example:443", Way.PROXY),
        ("a.b.corp.example:8080", Way.PROXY),
        ("corp.example:443", Way.PROXY),  # "*." means the domain itself too
        ("a.corp.example:22", Way.DIRECT),
        ("public.corp.example:443", Way.DIRECT),
        ("www.public.corp.example:443", Way.PROXY),  # a name is that name alone
        ("10.9.8.7:22", Way.PROXY),
        ("[2001:db8::1]:22", Way.PROXY),
        ("[2001:db8::2]:22", Way.DIRECT),
        ("old.example:80", Way.DIRECT),
        ("both.example:80", Way.DIRECT),
        ("vendor.example:80", Way.DIRECT),
        ("elsewhere.example:443", Way.DIRECT),
    ],
)
def test_where_tcp_goes(target: str, expected: Way) -> None:
    assert way(target) is expected


@pytest.mark.clause(
    "proxy-config-14", "4.2", "MUST", "use a proxy of the protocol that is wanted only"
)
def test_udp_has_rules_of_its_own() -> None:
    assert way("dns.example:53", Traffic.UDP) is Way.PROXY
    assert way("dns.example:53", Traffic.TCP) is Way.DIRECT
    assert way("10.9.8.7:22", Traffic.UDP) is Way.DIRECT


@pytest.mark.clause(
    "proxy-config-14", "6", "MUST NOT", "send more through the proxy than the user lets"
)
@pytest.mark.clause("proxy-config-14", "4.2", "MUST NOT", "widen what goes to a proxy")
def test_the_users_own_rules_come_first() -> None:
    assert way("a.corp.example:443", Traffic.TCP, "block:a.corp.example") is Way.BLOCK
    rules = read().split_rules(default=Way.BLOCK)
    assert rules.way_of(parse_target("elsewhere.example:1")) is Way.BLOCK


def test_without_rules_everything_goes_through_the_relay() -> None:
    document = {key: value for key, value in GOOD.items() if key != "proxy-match"}
    rules = parse_pvd(orjson.dumps(document), host="relay.example").split_rules()
    assert rules.way_of(parse_target("anything.example:1")) is Way.PROXY


def test_with_no_rule_at_all_nothing_does() -> None:
    rules = read(**{"proxy-match": []}).split_rules()
    assert rules.way_of(parse_target("anything.example:1")) is Way.DIRECT


@pytest.mark.clause(
    "proxy-config-14", "6", "MUST", "refuse what exceeds the limits of the client as a whole"
)
@pytest.mark.clause("proxy-config-14", "3.1", "MUST NOT", "name in mandatory what is not there")
@pytest.mark.parametrize(
    "changes",
    [
        {"identifier": "other.example"},
        {"identifier": None},
        {"expires": "tomorrow"},
        {"expires": "2026-06-23T06:00:00"},
        {"prefixes": ["2001:db8::/64"]},
        {"prefixes": None},
        {"proxies": {}},
        {"proxies": ["connect-udp"]},
        {"proxies": [{"protocol": "connect-udp"}]},
        {"proxies": [{"protocol": 1, "proxy": "x"}]},
        {"proxies": [{"protocol": "connect-udp", "proxy": "x", "mandatory": ["alpn"]}]},
        {"proxy-match": {}},
        {"proxy-match": [{"domains": ["a.example"]}]},
        {"proxy-match": [{"proxies": ["tcp"], "domains": []}]},
        {"proxy-match": [{"proxies": ["tcp"], "domains": ["*.*.example"]}]},
        {"proxy-match": [{"proxies": ["tcp"], "domains": ["192.0.2.1"]}]},
        {"proxy-match": [{"proxies": ["tcp"], "subnets": ["10.0.0.1/8"]}]},
        {"proxy-match": [{"proxies": ["tcp"], "ports": ["0"]}]},
        {"proxy-match": [{"proxies": ["tcp"], "ports": ["9-1"]}]},
        {"proxy-match": [{"proxies": ["tcp"], "ports": [443]}]},
        {"proxy-match": [{"proxies": ["tcp"]}] * 5_000},
    ],
)
def test_anything_else_that_is_wrong_makes_it_useless(changes: dict[str, Any]) -> None:
    with pytest.raises(PvdError):
        read(**changes)


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b"null", b'{"identifier":'])
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(PvdError):
        parse_pvd(body, host="relay.example")
