"""The packet filter: the same answers as the policy, found by bisection."""

import time
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masque_relay.contract.ip_scope import IpRange
from masque_relay.contract.request import Method
from masque_relay.control.policy import CompiledPolicy
from masque_relay.control.policy.packets import LeaseFilter, PacketTable
from masque_relay.control.policy.rules import Outcome, Query
from masque_relay.wire.ip_range import find_disorder
from tests.support.gates import NOW_S
from tests.unit.control.policy.test_compile import policy, rule

UDP = 17
EVERYTHING = (
    IpRange(IPv4Address(0), IPv4Address(2**32 - 1)),
    IpRange(IPv6Address(0), IPv6Address(2**128 - 1)),
)


def query(name: str | None = None, subject: str = "alice") -> Query:
    return Query(subject=subject, method=Method.CONNECT_IP, name=name, now_s=NOW_S)


def table(*rules: str, name: str | None = None) -> PacketTable:
    return policy(*rules).packet_table(query(name))


def allow(*targets: str) -> str:
    return rule("yes", "allow", *targets, method="connect-ip")


def deny(*targets: str) -> str:
    return rule("no", "deny", *targets, method="connect-ip")


def admits(compiled: PacketTable, text: str, port: int) -> bool:
    address = ip_address(text)
    return compiled.admits(address.version, int(address), UDP, port)


class TestAnswers:
    def test_prefix_and_port(self) -> None:
        compiled = table(deny("10.1.6.6:*"), allow("10.1.0.0/16:22,80-90", "[fd00::/64]:*"))
        assert admits(compiled, "10.1.0.1", 22)
        assert admits(compiled, "10.1.255.255", 90)
        assert not admits(compiled, "10.1.0.1", 91)
        assert not admits(compiled, "10.1.6.6", 22)
        assert not admits(compiled, "10.2.0.0", 22)
        assert admits(compiled, "fd00::1", 65_535)
        assert not admits(compiled, "fd00:0:0:1::", 1)

    def test_nothing_by_default(self) -> None:
        assert not admits(table(), "9.9.9.9", 443)
        assert table().reachable(EVERYTHING) == []

    def test_without_a_port_only_a_rule_for_every_port_admits(self) -> None:
        assert not admits(table(allow("*:1-65535")), "9.9.9.9", 0)
        assert admits(table(allow("*:*")), "9.9.9.9", 0)
        assert admits(table(allow("*")), "9.9.9.9", 0)

    @pytest.mark.parametrize(
        "text", ["10.0.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "fd00::1", "fe80::1"]
    )
    def test_protected_ranges_are_closed_unless_named(self, text: str) -> None:
        assert not admits(table(allow("*:*")), text, 80)

    def test_ipv4_inside_ipv6_is_ipv4_to_a_deny_rule(self) -> None:
        compiled = table(deny("9.9.9.0/24:*"), allow("*:*"))
        assert not admits(compiled, "64:ff9b::9.9.9.9", 80)
        assert not admits(compiled, "2002:909:909::1", 80)
        assert admits(compiled, "64:ff9b::9.9.8.8", 80)
        assert not admits(compiled, "64:ff9b::10.0.0.1", 80)

    def test_a_name_counts_for_the_tunnel_that_is_limited_to_it(self) -> None:
        rules = (allow("db.example:5432"),)
        assert admits(table(*rules, name="db.example"), "9.9.9.9", 5432)
        assert not admits(table(*rules, name="web.example"), "9.9.9.9", 5432)
        assert not admits(table(*rules), "9.9.9.9", 5432)

    @pytest.mark.parametrize(
        "text",
        ["127.0.0.1", "0.0.0.0", "169.254.0.1", "224.0.0.1", "255.255.255.255", "::1", "::",
         "fe80::1", "ff02::1", "::ffff:9.9.9.9"],
    )  # fmt: skip
    def test_what_is_never_routed(self, text: str) -> None:
        compiled = table(
            allow("*:*", "127.0.0.0/8:*", "0.0.0.0/8:*", "169.254.0.0/16:*", "224.0.0.0/4:*",
                  "240.0.0.0/4:*", "[::/96]:*", "[fe80::/10]:*", "[ff00::/8]:*")
        )  # fmt: skip
        assert not admits(compiled, text, 80)


class TestReachable:
    def test_a_port_is_enough(self) -> None:
        compiled = table(allow("10.1.0.0/16:22", "10.2.0.0/16:*", "192.168.0.0/24:53"))
        assert compiled.reachable(EVERYTHING) == [
            IpRange(ip_address("10.1.0.0"), ip_address("10.2.255.255")),
            IpRange(ip_address("192.168.0.0"), ip_address("192.168.0.255")),
        ]

    def test_only_within_what_is_asked(self) -> None:
        compiled = table(allow("10.0.0.0/8:*"))
        asked = [IpRange(ip_address("9.0.0.0"), ip_address("10.0.0.5"), 6)]
        assert compiled.reachable(asked) == [
            IpRange(ip_address("10.0.0.0"), ip_address("10.0.0.5"), 6)
        ]

    def test_the_whole_internet_is_in_the_order_of_routes(self) -> None:
        routes = table(allow("*:443")).reachable(EVERYTHING)
        assert find_disorder(routes) is None
        assert len(routes) < 100


addresses = st.one_of(
    st.sampled_from(
        ["9.9.9.9", "10.0.0.0", "10.1.2.3", "10.1.2.4", "10.255.255.255", "11.0.0.0",
         "100.63.255.255", "192.168.7.7", "2001:db8::1", "fd00::1", "64:ff9b::a01:203",
         "2002:a01:203::5", "2002:909:909::1", "2620:fe::9"]
    ).map(ip_address),
    st.integers(0, 2**32 - 1).map(IPv4Address),
    st.integers(0, 2**128 - 1).map(IPv6Address),
)  # fmt: skip
targets = st.sampled_from(
    ["*", "*:443", "*:1-1024", "10.0.0.0/8:*", "10.1.2.3:22", "10.1.0.0/16:80,443", "9.0.0.0/8:*",
     "0.0.0.0/0:53", "[fd00::/8]:*", "[2620:fe::/32]:443", "[::/0]:*", "db.example:5432",
     "*.example:22", "192.168.0.0/16:*"]
)  # fmt: skip
rules = st.lists(
    st.tuples(st.sampled_from(["allow", "deny"]), st.lists(targets, min_size=1, max_size=3)),
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(rules, st.lists(addresses, min_size=1, max_size=20), st.sampled_from([None, "db.example"]))
def test_the_filter_and_the_policy_agree(
    parts: list[tuple[str, list[str]]],
    asked: list[IPv4Address | IPv6Address],
    name: str | None,
) -> None:
    compiled: CompiledPolicy = policy(
        *(
            rule(f"r{index}", action, *listed, method="connect-ip")
            for index, (action, listed) in enumerate(parts)
        )
    )
    packets = compiled.packet_table(query(name))
    never = [ip_network(text) for text in ("::ffff:0:0/96", "::/127", "ff00::/8", "fe80::/10",
             "0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")]  # fmt: skip
    for address in asked:
        if any(address.version == net.version and address in net for net in never):
            continue
        for port in (0, 1, 22, 53, 80, 443, 444, 1024, 5432, 65_535):
            decision = compiled.decide(
                Query(
                    subject="alice",
                    method=Method.CONNECT_IP,
                    name=name,
                    address=address,
                    port=port,
                    now_s=NOW_S,
                )
            )
            expected = decision.outcome is Outcome.ALLOW
            assert packets.admits(address.version, int(address), UDP, port) is expected


class TestSharing:
    def test_equal_identities_share_a_table(self) -> None:
        compiled = policy(allow("10.0.0.0/8:*"))
        assert compiled.packet_table(query(subject="a")) is compiled.packet_table(
            query(subject="b")
        )
        # No rule knows the name: it makes no difference, and no table of its own.
        assert compiled.packet_table(query("x.example")) is compiled.packet_table(query())

    def test_names_that_the_rules_know_alike_share_one_too(self) -> None:
        compiled = policy(allow("*.corp.example:22", "db.corp.example:5432"))
        tables = {
            name: compiled.packet_table(query(name))
            for name in ("a.corp.example", "b.corp.example", "db.corp.example", "example.org")
        }
        assert tables["a.corp.example"] is tables["b.corp.example"]
        assert len({id(found) for found in tables.values()}) == 3
        assert admits(tables["db.corp.example"], "9.9.9.9", 5432)
        assert not admits(tables["a.corp.example"], "9.9.9.9", 5432)

    def test_a_lease_hears_of_another_table_once(self) -> None:
        first, second = table(allow("10.0.0.0/8:*")), table()
        heard: list[bool] = []
        lease_filter = LeaseFilter(first)
        lease_filter.on_change(lambda: heard.append(lease_filter.admits(4, 10 << 24, UDP, 1)))
        lease_filter.replace(first)
        lease_filter.replace(second)
        assert heard == [False]
        assert lease_filter.reachable(EVERYTHING) == []


def test_a_big_policy_stays_quick() -> None:
    networks = [f"10.{n >> 8}.{n & 255}.0/24:{1000 + n % 50}" for n in range(1_000)]
    compiled = policy(allow("*:443", *networks))
    scale = 10
    started = time.process_time()
    table_of_all = compiled.packet_table(query())
    assert time.process_time() - started < 0.3 * scale
    started = time.process_time()
    for number in range(10_000):
        table_of_all.admits(4, number * 40_003 & 0xFFFF_FFFF, UDP, 443)
    assert time.process_time() - started < 0.02 * scale
