"""No name, no notation and no rebinding leads a tunnel to an address that no rule names."""

from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masque_relay.contract.request import Method
from masque_relay.contract.verdict import Denial, DenyReason
from masque_relay.control.policy import parse_policy
from masque_relay.control.policy.addresses import protected_kind
from masque_relay.control.policy.rules import Outcome, Query
from tests.support.gates import NOW_S, GateBench, parse_endpoint

PERMISSIVE = """
[[rule]]
name = "everything"
action = "allow"
who = ["*"]
methods = ["*"]
targets = ["*", "*:*", "0.0.0.0/0:*", "[::/0]:*", "localhost:*", "*.example:*"]
"""

INSIDE = [
    "0.0.0.0", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.1.2.3", "169.254.169.254",
    "172.16.0.1", "192.168.0.1", "198.18.0.1", "224.0.0.251", "255.255.255.255", "168.63.129.16",
    "100.100.100.200", "192.0.0.192", "::", "::1", "::ffff:10.0.0.1", "::ffff:127.0.0.1",
    "::ffff:169.254.169.254", "::ffff:0:10.0.0.1", "::10.0.0.1", "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe", "64:ff9b:1::a00:1", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2001::1",
    "fe80::1", "fe80::1%lo", "fec0::1", "fc00::1", "fd00::1", "fd00:ec2::254", "ff02::1",
    "2001:db8::1",
]  # fmt: skip


def text_of(address: str, port: int = 80) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


@pytest.mark.parametrize("address", INSIDE)
async def test_an_inside_address_is_refused_as_a_literal(tmp_path: Path, address: str) -> None:
    bench = GateBench(tmp_path, policy=PERMISSIVE)
    denial = await bench.denied(bench.request(text_of(address)))
    assert denial.reason is DenyReason.ADDRESS_PROHIBITED


@pytest.mark.parametrize("address", INSIDE)
@pytest.mark.parametrize("name", ["localhost", "rebind.example", "metadata.google.internal"])
async def test_a_name_that_resolves_to_it_is_refused_before_a_socket_opens(
    tmp_path: Path, address: str, name: str
) -> None:
    bench = GateBench(tmp_path, policy=PERMISSIVE)
    lease = await bench.open(bench.request(f"{name}:80"))
    denial = bench.gate.admit_address(lease, ip_address(address), 80)
    assert denial is not None
    assert denial.reason is DenyReason.ADDRESS_PROHIBITED
    assert bench.audit.of("address")[0]["address"] == str(ip_address(address))


async def test_a_name_that_is_rebound_after_a_good_answer_is_refused_again(tmp_path: Path) -> None:
    bench = GateBench(tmp_path, policy=PERMISSIVE)
    lease = await bench.open(bench.request("rebind.example:80"))
    assert bench.gate.admit_address(lease, ip_address("1.1.1.1"), 80) is None
    assert bench.gate.admit_address(lease, ip_address("127.0.0.1"), 80) is not None
    assert bench.gate.admit_address(lease, ip_address("1.1.1.1"), 80) is None


@pytest.mark.parametrize(
    "name", ["127.1", "0x7f.1", "2130706433", "0177.0.0.1", "127.0.0.1.", "①②⑦.0.0.1", "[::1]"]
)
async def test_an_odd_spelling_of_an_address_is_at_most_a_name(tmp_path: Path, name: str) -> None:
    bench = GateBench(tmp_path, policy=PERMISSIVE)
    result = await bench.gate.admit(bench.request(f"{name}:80"))
    if isinstance(result, Denial):
        return
    denial = bench.gate.admit_address(result, ip_address("127.0.0.1"), 80)
    assert denial is not None
    assert denial.reason is DenyReason.ADDRESS_PROHIBITED


async def test_only_a_rule_that_names_the_range_reaches_it_and_only_that_range(
    tmp_path: Path,
) -> None:
    policy = PERMISSIVE.replace('"*.example:*"', '"127.0.0.0/8:53"')
    bench = GateBench(tmp_path, policy=policy)
    lease = await bench.open(bench.request("localhost:53"))
    assert bench.gate.admit_address(lease, ip_address("127.0.0.1"), 53) is None
    assert bench.gate.admit_address(lease, ip_address("127.0.0.1"), 80) is not None
    assert bench.gate.admit_address(lease, ip_address("10.0.0.1"), 53) is not None
    assert bench.gate.admit_address(lease, ip_address("::1"), 53) is not None


ADDRESSES = st.one_of(
    st.ip_addresses(),
    st.ip_addresses(v=4).map(lambda inner: IPv6Address(0x64FF9B << 96 | int(inner))),
    st.ip_addresses(v=4).map(lambda inner: IPv6Address(0x2002 << 112 | int(inner) << 80)),
    st.ip_addresses(v=4).map(lambda inner: IPv6Address(0xFFFF << 32 | int(inner))),
)


@settings(max_examples=300, deadline=None)
@given(ADDRESSES)
def test_whatever_is_admitted_is_public(address: IPv4Address | IPv6Address) -> None:
    target = parse_endpoint(text_of(str(address)))
    assert not isinstance(target.host, str)
    query = Query(subject="a", method=Method.CONNECT_UDP, address=target.host, port=80, now_s=NOW_S)
    admitted = parse_policy(PERMISSIVE).decide(query).outcome is Outcome.ALLOW
    assert admitted == (protected_kind(address) is None)
    if admitted:
        # Python's tables are older than ours and know no addresses within addresses.
        bare = address.ipv4_mapped or address if isinstance(address, IPv6Address) else address
        assert bare.is_global or int(bare) >> 96 == 0x64FF9B or int(bare) >> 112 == 0x2002
