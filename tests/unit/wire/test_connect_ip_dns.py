"""DNS_ASSIGN and PREF64 (draft-ietf-masque-connect-ip-dns-06)."""

import contextlib
from ipaddress import IPv6Network, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masque_relay.wire.connect_ip_dns import (
    DnsConfiguration,
    Nameserver,
    decode_dns_assign,
    decode_pref64,
    encode_dns_assign,
    encode_pref64,
)
from masque_relay.wire.errors import WireError

SPLIT_TUNNEL = DnsConfiguration(
    nameservers=(Nameserver(addresses=(ip_address("192.0.2.33"), ip_address("2001:db8::1"))),),
    internal_domains=("internal.corp.example",),
    search_domains=("internal.corp.example", "corp.example"),
)
"""The draft's own example."""
SPLIT_TUNNEL_BYTES = (
    bytes.fromhex("01000101c00002210120010db80000000000000000000000010000")
    + b"\x01\x15internal.corp.example"
    + b"\x02\x15internal.corp.example\x0ccorp.example"
)
NAT64 = IPv6Network("64:ff9b::/96")
NAT64_BYTES = bytes.fromhex("600064ff9b0000000000000000")


def test_split_tunnel_of_the_draft_as_bytes() -> None:
    assert encode_dns_assign([SPLIT_TUNNEL]) == SPLIT_TUNNEL_BYTES
    assert decode_dns_assign(SPLIT_TUNNEL_BYTES) == (SPLIT_TUNNEL,)


def test_several_configurations_in_one_capsule() -> None:
    https = DnsConfiguration(
        nameservers=(
            Nameserver(
                authentication_name="masque.example.org", service_parameters=b"\0\1\0\3\2h3"
            ),
        ),
        internal_domains=("",),
    )
    assert decode_dns_assign(encode_dns_assign([https, SPLIT_TUNNEL])) == (https, SPLIT_TUNNEL)
    assert decode_dns_assign(b"") == ()


@pytest.mark.parametrize("size", range(1, len(SPLIT_TUNNEL_BYTES)))
def test_truncated_capsule_is_refused(size: int) -> None:
    with pytest.raises(WireError):
        decode_dns_assign(SPLIT_TUNNEL_BYTES[:size])


@pytest.mark.clause("connect-ip-dns-06", "3.2", "MUST NOT", "have the service priority 0")
@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"\x01\x00\x00" + SPLIT_TUNNEL_BYTES[3:], id="priority 0"),
        pytest.param(b"\x00\x01\x03a b\x00", id="space in a name"),
        pytest.param(b"\x7f\xff", id="too many nameservers"),
    ],
)
def test_malformed_configuration_is_refused(value: bytes) -> None:
    with pytest.raises(WireError):
        decode_dns_assign(value)


def test_pref64_of_the_draft_as_bytes() -> None:
    assert encode_pref64([NAT64]) == NAT64_BYTES
    assert decode_pref64(NAT64_BYTES) == (NAT64,)
    assert decode_pref64(b"") == ()


@pytest.mark.clause(
    "connect-ip-dns-06",
    "4.2",
    "MUST",
    "take PREF64 of another length than 13 bytes each for malformed",
)
@pytest.mark.parametrize(
    "value", [NAT64_BYTES[:-1], NAT64_BYTES + b"\0", b"\x5f" + NAT64_BYTES[1:]]
)
def test_malformed_pref64_is_refused(value: bytes) -> None:
    with pytest.raises(WireError):
        decode_pref64(value)


def test_a_length_that_nat64_does_not_have_is_a_bug() -> None:
    with pytest.raises(ValueError, match="NAT64"):
        encode_pref64([IPv6Network("64:ff9b::/95", strict=False)])


@given(st.binary(max_size=120))
def test_any_bytes_are_decoded_or_refused(value: bytes) -> None:
    for decode in (decode_dns_assign, decode_pref64):
        with contextlib.suppress(WireError):
            decode(value)
