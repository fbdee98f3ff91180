"""The nonce cookie of RFC 8489 section 9.2."""

from masque_relay.stun.nonce_cookie import (
    COOKIE,
    PASSWORD_ALGORITHMS,
    USERNAME_ANONYMITY,
    has_password_algorithms_bit,
    nonce_prefix,
)


def test_bits_are_counted_from_the_left() -> None:
    assert nonce_prefix(PASSWORD_ALGORITHMS | USERNAME_ANONYMITY) == b"obMatJos2wAAA"
    assert nonce_prefix(0) == b"obMatJos2AAAA"


def test_password_algorithms_are_told_by_their_bit_alone() -> None:
    assert has_password_algorithms_bit(nonce_prefix(PASSWORD_ALGORITHMS) + b"rest")
    assert not has_password_algorithms_bit(nonce_prefix(USERNAME_ANONYMITY) + b"rest")


def test_other_nonces_claim_nothing() -> None:
    for nonce in (b"", b"f//499k954d6OL34oL9FSTvy64sA", COOKIE, COOKIE + b"??~~"):
        assert not has_password_algorithms_bit(nonce)
