"""Owns message integrity: long-term keys and the HMACs over messages (RFC 8489 sections 9, 14).

The digests are SHA-1 and MD5 because the protocol says so (sections 14.5 and 18.5.1.1); the
client that knows better chooses SHA-256 for both.
"""

import hashlib
import hmac
import struct

from masque_relay.stun.codepoints import Attribute, PasswordAlgorithm
from masque_relay.stun.message import HEADER_BYTES, StunMessage, with_length

SHA1_BYTES = 20
SHA256_BYTES = 32

_ATTRIBUTE = struct.Struct("!HH")


def long_term_key(
    username: str, realm: str, password: str, algorithm: PasswordAlgorithm = PasswordAlgorithm.MD5
) -> bytes:
    """Return the key of a long-term credential (RFC 8489 section 9.2.2).

    The three must have gone through the OpaqueString profile (RFC 8265) already.
    """
    text = f"{username}:{realm}:{password}".encode()
    if algorithm is PasswordAlgorithm.SHA256:
        return hashlib.sha256(text).digest()
    return hashlib.md5(text, usedforsecurity=False).digest()


def user_hash(username: str, realm: str) -> bytes:
    """Return the USERHASH of a user name (RFC 8489 section 14.4)."""
    return hashlib.sha256(f"{username}:{realm}".encode()).digest()


def is_signed_by(message: StunMessage, key: bytes) -> bool:
    """Return whether the key made the message's integrity attribute; in constant time.

    MESSAGE-INTEGRITY-SHA256 decides where both are present (RFC 8489 section 9.2.4).
    """
    if message.integrity_sha256_at is not None:
        at = message.integrity_sha256_at
        (length,) = struct.unpack_from("!H", message.raw, at + 2)
        given = message.raw[at + 4 : at + 4 + length]
        # Section 14.6: the length in the header counts up to the end of this attribute.
        covered = with_length(message.raw[:at], at + 4 + length - HEADER_BYTES)
        return hmac.compare_digest(hmac.digest(key, covered, "sha256")[:length], given)
    if message.integrity_at is not None:
        at = message.integrity_at
        given = message.raw[at + 4 : at + 4 + SHA1_BYTES]
        covered = with_length(message.raw[:at], at + 4 + SHA1_BYTES - HEADER_BYTES)
        return hmac.compare_digest(hmac.digest(key, covered, "sha1"), given)
    return False


def append_integrity(data: bytes, key: bytes, *, sha256: bool) -> bytes:
    """Return the message with MESSAGE-INTEGRITY(-SHA256) behind what it has."""
    size, kind = (
        (SHA256_BYTES, Attribute.MESSAGE_INTEGRITY_SHA256)
        if sha256
        else (SHA1_BYTES, Attribute.MESSAGE_INTEGRITY)
    )
    longer = with_length(data, len(data) - HEADER_BYTES + 4 + size)
    digest = hmac.digest(key, longer, "sha256" if sha256 else "sha1")
    return longer + _ATTRIBUTE.pack(kind, size) + digest
