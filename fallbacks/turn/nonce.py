"""Owns nonces that need no memory: the time and an HMAC over it and the client's 5-tuple.

RFC 8489 section 9.2: the server remembers nothing of whom it challenged, so that a flood of
requests makes no state. Section 9.2 and 18.1 too: the nonce begins with a cookie that says in its
security bits that password algorithms and user anonymity are at hand; as the cookie is covered by
the client's integrity, nobody on the way can talk the two down to MD5.
"""

import base64
import hmac
import secrets
from enum import Enum

from masque_relay.stun.nonce_cookie import (
    PASSWORD_ALGORITHMS,
    USERNAME_ANONYMITY,
    nonce_prefix,
)

MAX_NONCE_BYTES = 763
"""RFC 8489 section 14.10: fewer than 128 characters, which can be as many bytes."""

_TAG_BYTES = 8
_PREFIX = nonce_prefix(PASSWORD_ALGORITHMS | USERNAME_ANONYMITY)
_STAMP_TEXT_BYTES = 16  # 12 bytes in base64


class NonceState(Enum):
    """What is known of a nonce that came back."""

    GOOD = "good"
    STALE = "stale"
    """Ours for this client, but old; or not ours at all, which looks the same from outside."""


class NonceMaker:
    """Makes and checks nonces; the key lives and dies with the process."""

    __slots__ = ("_key", "_lifetime_s")

    def __init__(self, *, lifetime_s: float, key: bytes | None = None) -> None:
        self._key = secrets.token_bytes(32) if key is None else key
        self._lifetime_s = lifetime_s

    def make(self, client: bytes, now_s: float) -> bytes:
        """Return a nonce for one 5-tuple, good from a monotonic moment on."""
        stamp = (int(now_s) & 0xFFFF_FFFF).to_bytes(4, "big")
        return _PREFIX + base64.urlsafe_b64encode(stamp + self._tag(stamp, client))

    def check(self, nonce: bytes, client: bytes, now_s: float) -> NonceState:
        """Return whether a nonce is ours, for this 5-tuple, and young enough."""
        if len(nonce) != len(_PREFIX) + _STAMP_TEXT_BYTES or not nonce.startswith(_PREFIX):
            return NonceState.STALE
        try:
            sealed = base64.urlsafe_b64decode(nonce[len(_PREFIX) :])
        except ValueError:
            return NonceState.STALE
        stamp, tag = sealed[:4], sealed[4:]
        if not hmac.compare_digest(tag, self._tag(stamp, client)):
            return NonceState.STALE
        age_s = (int(now_s) - int.from_bytes(stamp, "big")) & 0xFFFF_FFFF
        return NonceState.GOOD if age_s <= self._lifetime_s else NonceState.STALE

    def _tag(self, stamp: bytes, client: bytes) -> bytes:
        return hmac.digest(self._key, stamp + client, "sha256")[:_TAG_BYTES]
