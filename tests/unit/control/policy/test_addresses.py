"""Which addresses are protected, and which networks name them."""

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masque_relay.control.policy.addresses import (
    PROTECTED_NETWORKS,
    embedded_ipv4,
    names_protected_range,
    overlaps_protected_range,
    protected_kind,
    unwrap,
)


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "100.100.100.200",
        "127.0.0.1",
        "127.255.255.254",
        "168.63.129.16",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.192",
        "192.0.2.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:0:127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:2::1",
        "2001:db8::1",
        "2002:7f00:1::",
        "2002:a00:1::1",
        "3fff::1",
        "fc00::1",
        "fd00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%eth0",
        "febf::1",
        "fec0::1",
        "ff02::1",
    ],
)
def test_special_purpose_addresses_are_protected(text: str) -> None:
    assert protected_kind(ip_address(text)) is not None


@pytest.mark.parametrize(
    "text",
    [
        "1.1.1.1",
        "8.8.8.8",
        "100.63.255.255",
        "100.128.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "223.255.255.255",
        "64:ff9b::808:808",
        "2002:808:808::1",
        "2001:4860:4860::8888",
        "2606:4700:4700::1111",
        "::ffff:8.8.8.8",
    ],
)
def test_public_addresses_are_not(text: str) -> None:
    assert protected_kind(ip_address(text)) is None


@given(st.ip_addresses())
def test_bisection_agrees_with_reading_the_table(address: object) -> None:
    bare = unwrap(ip_address(str(address)))
    candidates = [bare, *([inner] if (inner := embedded_ipv4(bare)) else [])]
    expected = any(
        candidate in network
        for candidate in candidates
        for network, _ in PROTECTED_NETWORKS
        if network.version == candidate.version
    )
    assert (protected_kind(bare) is not None) == expected


@given(st.sampled_from(PROTECTED_NETWORKS))
def test_both_ends_of_every_range_are_inside_and_their_neighbours_follow_the_table(
    entry: tuple[IPv4Network | IPv6Network, str],
) -> None:
    network, kind = entry
    assert protected_kind(network[0]) == kind or network.version == 6
    assert protected_kind(network[-1]) is not None


@pytest.mark.parametrize(
    ("text", "names", "overlaps"),
    [
        ("127.0.0.0/8", True, True),
        ("127.0.0.1/32", True, True),
        ("10.1.0.0/16", True, True),
        ("0.0.0.0/0", False, True),
        ("8.0.0.0/6", False, True),
        ("8.8.8.0/24", False, False),
        ("::/0", False, True),
        ("fd00::/8", True, True),
        ("64:ff9b::a00:0/104", True, False),
        ("64:ff9b::/96", False, False),
        ("2002:a00::/24", True, False),
        ("2606:4700::/32", False, False),
    ],
)
def test_only_a_network_within_one_range_names_it(text: str, names: bool, overlaps: bool) -> None:
    assert names_protected_range(ip_network(text)) is names
    assert overlaps_protected_range(ip_network(text)) is overlaps


def test_mapped_addresses_become_ipv4_and_zones_are_dropped() -> None:
    assert unwrap(ip_address("::ffff:192.0.2.1")) == ip_address("192.0.2.1")
    assert unwrap(ip_address("fe80::1%eth0")) == ip_address("fe80::1")
