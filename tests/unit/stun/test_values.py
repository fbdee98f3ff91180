"""Values of attributes."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masque_relay.contract.address import Endpoint
from masque_relay.stun import values
from masque_relay.stun.codepoints import AddressFamily, Attribute, ErrorCode, PasswordAlgorithm
from masque_relay.stun.message import decode_message
from masque_relay.wire.errors import WireError
from tests.support.stun_vectors import RESPONSE_V4, RESPONSE_V6

ID = bytes(range(12))
ENDPOINTS = st.builds(
    lambda address, port: Endpoint(address=address, port=port),
    st.ip_addresses().filter(
        lambda address: not (isinstance(address, IPv6Address) and address.ipv4_mapped)
    ),
    st.integers(0, 65_535),
)


@pytest.mark.parametrize(
    ("vector", "text"),
    [(RESPONSE_V4, "192.0.2.1"), (RESPONSE_V6, "2001:db8:1234:5678:11:2233:4455:6677")],
)
def test_the_vectors_addresses_are_what_rfc_5769_says(vector: bytes, text: str) -> None:
    message = decode_message(vector)
    value = message.get(Attribute.XOR_MAPPED_ADDRESS)
    assert value is not None
    expected = Endpoint(address=ip_address(text), port=32853)
    assert values.decode_xor_address(value, message.transaction_id) == expected
    assert values.encode_xor_address(expected, message.transaction_id) == value


@given(endpoint=ENDPOINTS)
def test_addresses_survive_both_ways(endpoint: Endpoint) -> None:
    assert values.decode_address(values.encode_address(endpoint)) == endpoint
    assert values.decode_xor_address(values.encode_xor_address(endpoint, ID), ID) == endpoint


@given(value=st.binary(max_size=40))
def test_any_bytes_are_an_address_or_refused(value: bytes) -> None:
    try:
        values.decode_xor_address(value, ID)
    except WireError:
        return
    assert len(value) in (8, 20)


def test_an_ipv4_mapped_address_is_ipv4_for_the_policy() -> None:
    mapped = Endpoint(address=ip_address("::ffff:10.0.0.1"), port=1)
    decoded = values.decode_xor_address(values.encode_xor_address(mapped, ID), ID)
    assert decoded.address == IPv4Address("10.0.0.1")


def test_an_error_code_is_class_number_and_phrase() -> None:
    assert values.encode_error(ErrorCode.STALE_NONCE) == b"\0\0\x04\x26Stale Nonce"
    for code in ErrorCode:
        assert values.decode_error(values.encode_error(code)) == code
    address_error = values.encode_address_error(
        AddressFamily.IPV6, ErrorCode.ADDRESS_FAMILY_NOT_SUPPORTED
    )
    assert address_error[:4] == b"\x02\0\x04\x28"


@pytest.mark.parametrize("value", [b"", b"\0\1", b"\0\3\0\0", b"\0\2\0\4abcd", b"\0\2\0\4"])
def test_a_password_algorithm_that_we_do_not_have_is_refused(value: bytes) -> None:
    with pytest.raises(WireError):
        values.decode_algorithm(value)


def test_password_algorithms_are_a_list_of_pairs() -> None:
    both = values.encode_algorithms((PasswordAlgorithm.MD5, PasswordAlgorithm.SHA256))
    assert both == bytes.fromhex("00010000 00020000")
    assert values.decode_algorithm(both[4:]) is PasswordAlgorithm.SHA256


def test_numbers_of_another_length_are_refused() -> None:
    for decode in (values.decode_channel, values.decode_family):
        with pytest.raises(WireError):
            decode(b"abc")
    with pytest.raises(WireError):
        values.decode_error(b"abc")
    assert values.decode_channel(b"\x40\x01\0\0") == 0x4001
    assert values.decode_family(b"\x02\0\0\0") == 2


def test_text_is_short_utf8() -> None:
    assert values.decode_text("é".encode(), max_bytes=2, section="s") == "é"
    for value in (b"abc", b"\xff"):
        with pytest.raises(WireError):
            values.decode_text(value, max_bytes=2, section="s")


def test_icmp_has_type_code_and_data() -> None:
    assert values.encode_icmp(3, 4, 1400) == bytes.fromhex("0000 0304 00000578")
    assert values.encode_types([0x7FFF, 1]) == b"\x7f\xff\0\1"
