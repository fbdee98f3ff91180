"""Owns the tests of what a payload size means."""

import pytest

from masque_relay.client.mtu import describe_payload, oversize_advice, wireguard_mtu_bytes


@pytest.mark.parametrize(("payload_bytes", "mtu_bytes"), [(1_452, 1_420), (1_440, 1_408), (20, 0)])
def test_wireguard_needs_32_bytes_of_a_payload(payload_bytes: int, mtu_bytes: int) -> None:
    assert wireguard_mtu_bytes(payload_bytes) == mtu_bytes


def test_a_usual_path_is_described_with_the_mtu_to_set() -> None:
    text = describe_payload(1_440, reliable=False)
    assert "1440 bytes fit" in text
    assert "MTU 1408 or less" in text
    assert "IPv6" not in text


def test_a_path_too_narrow_for_quic_and_ipv6_is_described_as_such() -> None:
    text = describe_payload(1_170, reliable=False)
    assert "will not work" in text
    assert "too small for IPv6" in text


def test_capsules_are_described_as_reliable() -> None:
    assert "capsules" in describe_payload(65_527, reliable=True)


def test_advice_names_the_size_that_was_dropped_and_the_one_that_fits() -> None:
    text = oversize_advice(1_452, 1_440)
    assert "1452" in text
    assert "1440" in text
    assert "MTU = 1408" in text
