"""Owns the packets that find direct paths: pings and pongs that only the two peers can make.

The key comes from the TLS connection of the two (RFC 8446 section 7.5), so nobody else, the relay
included, can make a peer believe in a path. The first byte tells a probe from data and from STUN.
"""

import hmac
from dataclasses import dataclass
from hashlib import sha256

EXPORTER_LABEL = b"EXPORTER-ghostwire-path"
KEY_BYTES = 32
LINK_ID_BYTES = 8
NONCE_BYTES = 8

PING, PONG = 0, 1

_MAGIC = b"\x07gw"
_TAG_BYTES = 16
PROBE_BYTES = len(_MAGIC) + 1 + LINK_ID_BYTES + NONCE_BYTES + _TAG_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One ping or pong."""

    kind: int
    link_id: bytes
    """Tells the receiver which key to check with."""
    nonce: bytes
    """A pong has that of its ping."""

    def encode(self, key: bytes) -> bytes:
        """Return the packet."""
        body = _MAGIC + bytes((self.kind,)) + self.link_id + self.nonce
        return body + _tag(key, body)


def decode_probe(packet: bytes) -> Probe | None:
    """Return what a packet claims to be; None when it is no probe. Check it before use."""
    if len(packet) != PROBE_BYTES or not packet.startswith(_MAGIC) or packet[3] > PONG:
        return None
    return Probe(kind=packet[3], link_id=packet[4:12], nonce=packet[12:20])


def is_authentic(packet: bytes, key: bytes) -> bool:
    """Return whether a probe was made with this key; constant time."""
    body, tag = packet[:-_TAG_BYTES], packet[-_TAG_BYTES:]
    return hmac.compare_digest(tag, _tag(key, body))


def _tag(key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, body, sha256)[:_TAG_BYTES]
