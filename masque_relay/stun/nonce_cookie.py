"""Owns the nonce cookie: what a server's nonce says of its features (RFC 8489 section 9.2)."""

import base64

COOKIE = b"obMatJos2"
PASSWORD_ALGORITHMS, USERNAME_ANONYMITY = 1 << 23, 1 << 22
"""Security feature bits 0 and 1 (section 18.1), counted from the left of 24."""

_PREFIX_BYTES = len(COOKIE) + 4


def nonce_prefix(features: int) -> bytes:
    """Return what a nonce with these features begins with."""
    return COOKIE + base64.b64encode(features.to_bytes(3, "big"))


def has_password_algorithms_bit(nonce: bytes) -> bool:
    """Return whether a nonce claims that its server offered password algorithms."""
    if not nonce.startswith(COOKIE) or len(nonce) < _PREFIX_BYTES:
        return False
    try:
        bits = base64.b64decode(nonce[len(COOKIE) : _PREFIX_BYTES], validate=True)
    except ValueError:
        return False
    return bool(int.from_bytes(bits, "big") & PASSWORD_ALGORITHMS)
