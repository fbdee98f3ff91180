"""Nonces that need no memory."""

import base64

import pytest

from fallbacks.turn.nonce import NonceMaker, NonceState
from masque_relay.stun.nonce_cookie import COOKIE

CLIENT = b"203.0.113.7:40000"
NOW_S = 5000.0


def test_a_nonce_holds_for_its_lifetime_and_its_client() -> None:
    maker = NonceMaker(lifetime_s=600)
    nonce = maker.make(CLIENT, NOW_S)
    assert maker.check(nonce, CLIENT, NOW_S + 600) is NonceState.GOOD
    assert maker.check(nonce, CLIENT, NOW_S + 602) is NonceState.STALE
    assert maker.check(nonce, b"somebody else", NOW_S) is NonceState.STALE


def test_a_nonce_of_another_process_is_stale() -> None:
    nonce = NonceMaker(lifetime_s=600).make(CLIENT, NOW_S)
    assert NonceMaker(lifetime_s=600).check(nonce, CLIENT, NOW_S) is NonceState.STALE


@pytest.mark.parametrize("forged", [b"", b"x", COOKIE, COOKIE + b"wAAA" + b"!" * 16, b"\xff" * 29])
def test_a_forged_nonce_is_stale(forged: bytes) -> None:
    assert NonceMaker(lifetime_s=600).check(forged, CLIENT, NOW_S) is NonceState.STALE


def test_every_changed_character_makes_it_stale() -> None:
    maker = NonceMaker(lifetime_s=600)
    nonce = maker.make(CLIENT, NOW_S)
    for index in range(len(nonce)):
        changed = bytearray(nonce)
        changed[index] = ord("B") if changed[index] != ord("B") else ord("C")
        assert maker.check(bytes(changed), CLIENT, NOW_S) is NonceState.STALE


def test_the_cookie_says_that_algorithms_and_anonymity_are_at_hand() -> None:
    nonce = NonceMaker(lifetime_s=600).make(CLIENT, NOW_S)
    assert nonce.startswith(COOKIE)
    assert base64.b64decode(nonce[9:13]) == b"\xc0\0\0"
