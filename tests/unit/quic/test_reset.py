"""Stateless reset (RFC 9000 section 10.3)."""

import pytest

from masque_relay.quic.reset import MAX_RESET_BYTES, ResetTokens, is_stateless_reset

KEY = bytes(range(32))


def test_token_depends_on_key_and_connection_id_only() -> None:
    assert ResetTokens(KEY).token_for(b"a" * 8) == ResetTokens(KEY).token_for(b"a" * 8)
    assert ResetTokens(KEY).token_for(b"a" * 8) != ResetTokens(KEY).token_for(b"b" * 8)
    assert ResetTokens(KEY).token_for(b"a" * 8) != ResetTokens(KEY[::-1]).token_for(b"a" * 8)


def test_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        ResetTokens(b"short")


class TestSending:
    @pytest.mark.clause("RFC 9000", "10.3.3", "MUST", "send a reset smaller than its trigger")
    @pytest.mark.clause(
        "RFC 9000", "10.3", "MUST NOT", "send a reset three times as large as its trigger"
    )
    @pytest.mark.parametrize("size", [22, 28, 43, 60, 61, 1200])
    def test_reset_is_smaller_than_its_trigger_and_looks_like_a_short_header(
        self, size: int
    ) -> None:
        reset = ResetTokens(KEY).reset_for(bytes(size), b"c" * 8)
        assert reset is not None
        assert len(reset) == min(size - 1, MAX_RESET_BYTES)
        assert reset[0] & 0xC0 == 0x40

    @pytest.mark.parametrize("size", [0, 1, 20, 21])
    def test_small_packet_is_never_answered(self, size: int) -> None:
        assert ResetTokens(KEY).reset_for(bytes(size), b"c" * 8) is None

    @pytest.mark.clause("RFC 9000", "10.3.3", "MUST", "send a reset smaller than its trigger")
    def test_resets_answering_each_other_die_out(self) -> None:
        tokens = ResetTokens(KEY)
        packet: bytes | None = bytes(1200)
        answers = 0
        while packet is not None:
            packet = tokens.reset_for(packet, b"c" * 8)
            answers += 1
        assert answers < 45


class TestSeeing:
    def test_reset_is_recognised_by_the_token_of_its_connection(self) -> None:
        tokens = ResetTokens(KEY)
        reset = tokens.reset_for(bytes(1200), b"c" * 8)
        assert reset is not None
        assert is_stateless_reset(reset, [tokens.token_for(b"x" * 8), tokens.token_for(b"c" * 8)])

    def test_other_tokens_long_headers_and_scraps_are_no_reset(self) -> None:
        tokens = ResetTokens(KEY)
        token = tokens.token_for(b"c" * 8)
        reset = tokens.reset_for(bytes(1200), b"c" * 8)
        assert reset is not None
        assert not is_stateless_reset(reset, [tokens.token_for(b"x" * 8)])
        assert not is_stateless_reset(reset, [])
        assert not is_stateless_reset(b"\xc0" + reset[1:], [token])
        assert not is_stateless_reset(b"\x40" + token, [token])
