"""Bound UDP's bytes and fields (connect-udp-listen sections 2 to 7)."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from masque_relay.wire.connect_udp_bind import (
    CompressionAssign,
    asks_to_bind,
    decode_ack,
    decode_assign,
    decode_close,
    decode_peer,
    encode_assign,
    encode_context_id,
    encode_peer,
    encode_public_addresses,
    names_any_target,
    parse_public_addresses,
    peer_end,
)
from masque_relay.wire.errors import WireError

V4 = bytes.fromhex("04 c0000201 1f90".replace(" ", ""))
V6 = bytes.fromhex("06 20010db8000000000000000000000001 0035".replace(" ", ""))


class TestAssign:
    """Section 3.1."""

    @pytest.mark.parametrize("peer", [None, V4, V6])
    @pytest.mark.parametrize("context_id", [1, 2, 64, 2**62 - 1])
    def test_what_is_written_is_read(self, context_id: int, peer: bytes | None) -> None:
        assert decode_assign(encode_assign(context_id, peer)) == CompressionAssign(context_id, peer)

    def test_bytes_of_the_draft_example(self) -> None:
        """Its appendix: context 2 uncompressed, context 4 for 203.0.113.11:60000."""
        assert encode_assign(2, None) == b"\x02\x00"
        peer = encode_peer(IPv4Address("203.0.113.11"), 60_000)
        assert encode_assign(4, peer) == b"\x04\x04\xcb\x00\x71\x0b\xea\x60"

    @pytest.mark.clause("connect-udp-listen-15", "3.1", "MUST", "have IP version 0, 4 or 6")
    @pytest.mark.parametrize(
        "value",
        [
            b"",
            b"\x02",
            b"\x00\x00",
            b"\x00" + V4,
            b"\x02\x05" + V4[1:],
            b"\x02" + V4[:-1],
            b"\x02" + V4 + b"x",
            b"\x02" + V6[:-1],
            b"\x02" + V6 + b"x",
            b"\x02\x00x",
            b"\x40",
        ],
    )
    def test_malformed_value_is_refused(self, value: bytes) -> None:
        with pytest.raises(WireError):
            decode_assign(value)


class TestAckAndClose:
    """Sections 3.2 and 3.3."""

    def test_context_id_survives(self) -> None:
        assert decode_ack(encode_context_id(70)) == decode_close(encode_context_id(70)) == 70

    @pytest.mark.parametrize("value", [b"", b"\x40", b"\x02\x02"])
    def test_truncated_or_longer_value_is_refused(self, value: bytes) -> None:
        for decode in (decode_ack, decode_close):
            with pytest.raises(WireError):
                decode(value)

    @pytest.mark.clause("connect-udp-listen-15", "3.3", "MUST", "CLOSE of context 0 is malformed")
    def test_close_of_context_0_is_malformed(self) -> None:
        with pytest.raises(WireError):
            decode_close(b"\x00")


class TestPeer:
    """Section 4."""

    @pytest.mark.parametrize("text", ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"])
    def test_peer_survives(self, text: str) -> None:
        peer = encode_peer(ip_address(text), 8_080)
        assert decode_peer(peer) == (ip_address(text), 8_080)
        assert peer_end(b"xx" + peer + b"rest", 2) == 2 + len(peer)

    @pytest.mark.clause("connect-udp-listen-15", "4", "MUST", "have IP version 4 or 6 in datagrams")
    @pytest.mark.parametrize("data", [b"", b"\x00", b"\x05" + V4[1:], V4[:-1], V6[:-1], b"\x04"])
    def test_what_is_no_peer_has_no_end(self, data: bytes) -> None:
        assert peer_end(data, 0) == 0


class TestFields:
    """Sections 2, 6 and 7."""

    @pytest.mark.clause("connect-udp-listen-15", "6", "MUST", "ignore unknown parameters")
    @pytest.mark.parametrize(
        ("lines", "asks"),
        [
            ([b"?1"], True),
            ([b" ?1;x=1;y "], True),
            ([b"?0"], False),
            ([b"true"], False),
            ([b'"?1"'], False),
            ([b"?1", b"?1"], False),
            ([b"?1,?1"], False),
            ([b"\xff"], False),
            ([], False),
        ],
    )
    def test_only_one_true_boolean_asks(self, lines: list[bytes], asks: bool) -> None:
        assert asks_to_bind(lines) is asks

    def test_both_variables_or_none_are_wildcards(self) -> None:
        assert names_any_target({"target_host": "*", "target_port": "*"})
        assert not names_any_target({"target_host": "a.example", "target_port": "53"})
        for variables in (
            {"target_host": "*", "target_port": "53"},
            {"target_host": "a.example", "target_port": "*"},
        ):
            with pytest.raises(WireError, match="only one"):
                names_any_target(variables)

    @pytest.mark.clause("connect-udp-listen-15", "7", "MUST", "write addresses as ip-port tuples")
    def test_public_addresses_are_a_list_of_strings(self) -> None:
        addresses = ((IPv4Address("192.0.2.45"), 54_321), (IPv6Address("2001:db8::1234"), 54_321))
        text = '"192.0.2.45:54321", "[2001:db8::1234]:54321"'
        assert encode_public_addresses(addresses) == text
        assert parse_public_addresses(text) == addresses

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "192.0.2.45:54321",
            '"192.0.2.45"',
            '"192.0.2.45:0"',
            '"192.0.2.45:65536"',
            '"2001:db8::1:53"',
            '"[192.0.2.45]:53"',
            '"[fe80::1%eth0]:53"',
            '"relay.example:53"',
            "?1",
            '"192.0.2.45:53",',
            "token",
        ],
    )
    def test_other_values_are_refused(self, text: str) -> None:
        with pytest.raises(WireError):
            parse_public_addresses(text)
