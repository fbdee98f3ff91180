"""Owns stateless reset (RFC 9000 section 10.3): its tokens and its packets, to send and to see."""

import hmac
import secrets
from collections.abc import Iterable

RESET_TOKEN_BYTES = 16
MIN_RESET_BYTES = 21
"""RFC 9000 section 10.3: five bytes that look like a short header, and the token."""
MIN_TRIGGER_BYTES = 22
"""Below it nothing is sent: a reset is one byte shorter than what it answers, so that two endpoints
never answer each other for ever (section 10.3.3). A client's lone PING has 28 bytes: it too must
learn that its connection is gone."""
MAX_RESET_BYTES = 60
"""A reset does not need to be longer to look like an ordinary small packet."""


class ResetTokens:
    """Makes the stateless reset token of a connection ID from a static key.

    With the key from a file, a relay that was restarted, or its neighbour behind one address, ends
    connections that nobody remembers (RFC 9000 section 10.3.2).
    """

    def __init__(self, key: bytes) -> None:
        if len(key) < 32:
            msg = "the stateless reset key must have at least 32 bytes"
            raise ValueError(msg)
        self._key = key

    def token_for(self, connection_id: bytes) -> bytes:
        """Return the 16-byte token for a connection ID of ours."""
        return hmac.digest(self._key, connection_id, "sha256")[:RESET_TOKEN_BYTES]

    def reset_for(self, trigger: bytes, connection_id: bytes) -> bytes | None:
        """Return the reset that answers a packet, or None when the packet is too small for one."""
        room_bytes = len(trigger) - 1
        if room_bytes < MIN_TRIGGER_BYTES - 1:
            return None
        size = min(room_bytes, MAX_RESET_BYTES)
        noise = bytearray(secrets.token_bytes(size - RESET_TOKEN_BYTES))
        noise[0] = 0x40 | (noise[0] & 0x3F)
        return bytes(noise) + self.token_for(connection_id)


def is_stateless_reset(datagram: bytes, tokens: Iterable[bytes]) -> bool:
    """Whether a datagram that could not be decrypted ends in one of the peer's reset tokens.

    The comparison takes the same time whatever the bytes are (RFC 9000 section 10.3.1).
    """
    if len(datagram) < MIN_RESET_BYTES or datagram[0] & 0x80:
        return False
    tail = datagram[-RESET_TOKEN_BYTES:]
    found = False
    for token in tokens:
        found |= hmac.compare_digest(tail, token)
    return found
