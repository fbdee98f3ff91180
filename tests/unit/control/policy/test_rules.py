"""Target patterns, subject patterns and times."""

from datetime import UTC, datetime
from ipaddress import ip_address, ip_network

import pytest

from masque_relay.control.policy.rules import (
    HostKind,
    PatternError,
    Times,
    faces,
    glob_to_regex,
    normalize_name,
    parse_network,
    parse_target,
    week_ranges,
)


@pytest.mark.parametrize(
    ("text", "kind", "name", "network", "ports"),
    [
        ("*", HostKind.ANY, "", None, ((0, 65535),)),
        ("*:443", HostKind.ANY, "", None, ((443, 443),)),
        ("*:*", HostKind.ANY, "", None, ((0, 65535),)),
        ("example.org:443", HostKind.EXACT, "example.org", None, ((443, 443),)),
        ("Example.ORG.:443", HostKind.EXACT, "example.org", None, ((443, 443),)),
        ("*.example.org:80,443", HostKind.SUFFIX, "example.org", None, ((80, 80), (443, 443))),
        ("_dns.example:1-1023", HostKind.EXACT, "_dns.example", None, ((1, 1023),)),
        ("10.0.0.0/8:53", HostKind.NETWORK, "", "10.0.0.0/8", ((53, 53),)),
        ("192.0.2.7:53", HostKind.NETWORK, "", "192.0.2.7/32", ((53, 53),)),
        ("[2001:db8::/32]:1-1023", HostKind.NETWORK, "", "2001:db8::/32", ((1, 1023),)),
        ("[::1]:*", HostKind.NETWORK, "", "::1/128", ((0, 65535),)),
    ],
)
def test_target_patterns(
    text: str,
    kind: HostKind,
    name: str,
    network: str | None,
    ports: tuple[tuple[int, int], ...],
) -> None:
    pattern = parse_target(text)
    assert (pattern.kind, pattern.name, pattern.ports) == (kind, name, ports)
    assert pattern.network == (None if network is None else ip_network(network))
    assert pattern.targetless is (text == "*")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("example.org", "no port"),
        ("10.0.0.0/8", "no port"),
        ("[::1]", "no port"),
        ("example.org:", "no port"),
        ("example.org:0", "not a range of ports"),
        ("example.org:70000", "not a range of ports"),
        ("example.org:9-5", "not a range of ports"),
        ("example.org:https", "not a port"),
        ("example.org:80,", "not a port"),
        ("2001:db8::/32:443", "needs brackets"),
        ("[192.0.2.1]:443", "brackets are for IPv6"),
        ("10.0.0.1/8:53", "has host bits set"),
        ("10.0.0.0/33:53", "not an address or a CIDR"),
        ("1.2.3:53", "not an address or a CIDR"),
        ("[::ffff:10.0.0.0/104]:53", "matched as IPv4"),
        ("exa mple.org:53", "not a domain name"),
        ("ex*mple.org:53", "not a domain name"),
        ("*.*.org:53", "not a domain name"),
        ("bücher.example:53", "not ASCII"),
        (f"{'a' * 64}.org:53", "not a domain name"),
        (":443", "no host"),
        ("", "no port"),
    ],
)
def test_what_is_no_target_pattern_is_refused_with_a_reason(text: str, says: str) -> None:
    with pytest.raises(PatternError, match=says):
        parse_target(text)


def test_a_suffix_matches_subdomains_but_not_the_domain_itself() -> None:
    pattern = parse_target("*.example.org:443")
    assert pattern.matches_name("a.example.org")
    assert pattern.matches_name("a.b.example.org")
    assert not pattern.matches_name("example.org")
    assert not pattern.matches_name("badexample.org")
    assert not pattern.matches_name(None)


def test_only_a_cidr_lifts_protection() -> None:
    assert parse_target("127.0.0.1:53").lifts_protection
    assert not parse_target("0.0.0.0/0:53").lifts_protection
    assert not parse_target("localhost:53").lifts_protection
    assert not parse_target("*").lifts_protection


def test_names_are_compared_in_lower_case_without_the_last_dot() -> None:
    assert normalize_name("ExAmple.Org.") == "example.org"


@pytest.mark.parametrize(
    ("pattern", "subject", "matches"),
    [
        ("*@example.org", "bob@example.org", True),
        ("*@example.org", "bob@example.org.evil", False),
        ("a*c", "abbc", True),
        ("a.c", "abc", False),
        ("**", "", True),
        ("x*", "x\ny", True),
    ],
)
def test_a_star_stands_for_any_run_of_characters_and_nothing_else_is_special(
    pattern: str, subject: str, matches: bool
) -> None:
    assert bool(glob_to_regex(pattern).fullmatch(subject)) is matches


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("moment", "holds"),
    [
        ("2026-11-23T07:59:59", False),  # a Monday
        ("2026-11-23T08:00:00", True),
        ("2026-11-23T17:59:59", True),
        ("2026-11-23T18:00:00", False),
        ("2026-11-27T12:00:00", True),  # Friday
        ("2026-11-28T12:00:00", False),  # Saturday
    ],
)
def test_office_hours(moment: str, holds: bool) -> None:
    times = Times(week_ranges=week_ranges(range(5), [(8 * 3600, 18 * 3600)]))
    assert times.hold(at(moment)) is holds


@pytest.mark.parametrize(
    ("moment", "holds"),
    [
        ("2026-11-29T23:00:00", True),  # Sunday night
        ("2026-11-30T01:59:59", True),  # runs into Monday, over the end of the week
        ("2026-11-30T02:00:00", False),
        ("2026-11-30T23:00:00", False),
    ],
)
def test_a_range_over_midnight_belongs_to_the_day_of_its_beginning(
    moment: str, holds: bool
) -> None:
    times = Times(week_ranges=week_ranges([6], [(22 * 3600, 2 * 3600)]))
    assert times.hold(at(moment)) is holds


def test_from_is_included_and_until_is_not() -> None:
    times = Times(from_s=100.0, until_s=200.0)
    assert [times.hold(moment) for moment in (99.9, 100.0, 199.9, 200.0)] == [
        False,
        True,
        True,
        False,
    ]


def test_a_network_may_be_a_single_address() -> None:
    assert parse_network("192.0.2.1") == ip_network("192.0.2.1/32")


def test_a_nat64_address_is_known_by_the_address_it_leads_to() -> None:
    assert faces(ip_address("64:ff9b::808:808")) == (
        ip_address("64:ff9b::808:808"),
        ip_address("8.8.8.8"),
    )
    assert faces(ip_address("2606:4700::1")) == (ip_address("2606:4700::1"),)
