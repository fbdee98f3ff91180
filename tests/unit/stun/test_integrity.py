"""Message integrity: published vectors, and what must not verify."""

import hmac

import pytest

from masque_relay.stun.codepoints import Attribute, MessageClass, Method, PasswordAlgorithm
from masque_relay.stun.integrity import (
    append_integrity,
    is_signed_by,
    long_term_key,
    user_hash,
)
from masque_relay.stun.message import (
    append_fingerprint,
    decode_message,
    encode_message,
    with_length,
)
from tests.support.stun_vectors import (
    LONG_TERM_REQUEST,
    PASSWORD,
    REALM,
    RESPONSE_V4,
    RESPONSE_V6,
    SAMPLE_REQUEST,
    SHA256_REQUEST,
    SHORT_TERM_KEY,
    USERNAME,
)

ID = bytes(12)


@pytest.mark.parametrize("vector", [SAMPLE_REQUEST, RESPONSE_V4, RESPONSE_V6])
def test_the_short_term_vectors_verify(vector: bytes) -> None:
    assert is_signed_by(decode_message(vector), SHORT_TERM_KEY)
    assert not is_signed_by(decode_message(vector), SHORT_TERM_KEY + b"x")


def test_the_long_term_vector_verifies() -> None:
    key = long_term_key(USERNAME, REALM, PASSWORD)
    assert is_signed_by(decode_message(LONG_TERM_REQUEST), key)


def test_the_sha256_vector_verifies_and_its_user_hash_too() -> None:
    message = decode_message(SHA256_REQUEST)
    assert message.get(Attribute.USERHASH) == user_hash(USERNAME, REALM)
    key = long_term_key(USERNAME, REALM, PASSWORD, PasswordAlgorithm.SHA256)
    assert is_signed_by(message, key)
    assert not is_signed_by(message, long_term_key(USERNAME, REALM, PASSWORD))


@pytest.mark.parametrize("sha256", [False, True])
def test_a_signature_survives_a_fingerprint_and_dies_of_a_change(sha256: bool) -> None:
    data = encode_message(
        Method.REFRESH, MessageClass.REQUEST, ID, [(Attribute.LIFETIME, b"\0\0\1\0")]
    )
    signed = append_integrity(data, b"key", sha256=sha256)
    assert is_signed_by(decode_message(signed), b"key")
    assert is_signed_by(decode_message(append_fingerprint(signed)), b"key")
    changed = signed.replace(b"\0\0\1\0", b"\0\0\2\0")
    assert changed != signed
    assert not is_signed_by(decode_message(changed), b"key")


def test_sha256_decides_where_both_are_present() -> None:
    data = encode_message(Method.BINDING, MessageClass.REQUEST, ID)
    both = append_integrity(append_integrity(data, b"one", sha256=False), b"two", sha256=True)
    assert is_signed_by(decode_message(both), b"two")
    assert not is_signed_by(decode_message(both), b"one")


def test_a_truncated_sha256_verifies_from_16_bytes_on() -> None:
    data = encode_message(Method.BINDING, MessageClass.REQUEST, ID)
    longer = with_length(data, 20)
    digest = hmac.digest(b"key", longer, "sha256")[:16]
    assert is_signed_by(decode_message(longer + b"\0\x1c\0\x10" + digest), b"key")


def test_a_message_without_integrity_is_signed_by_nobody() -> None:
    assert not is_signed_by(
        decode_message(encode_message(Method.BINDING, MessageClass.REQUEST, ID)), b""
    )
