"""Numbers of STUN and TURN."""

from masque_relay.stun.codepoints import COMPREHENSION_REQUIRED, Attribute, ErrorCode


def test_every_error_code_has_a_phrase_without_details() -> None:
    for code in ErrorCode:
        assert 300 <= code <= 699
        assert code.reason.isascii()
        assert 0 < len(code.reason) < 128  # RFC 8489 section 14.8


def test_only_the_lower_half_must_be_understood() -> None:
    assert Attribute.USERNAME in COMPREHENSION_REQUIRED
    assert Attribute.SOFTWARE not in COMPREHENSION_REQUIRED
