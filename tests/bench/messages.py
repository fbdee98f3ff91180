"""Owns the datagrams that generator and target exchange, through a relay or beside it."""

import struct
from typing import NamedTuple

_HEAD = struct.Struct("!BHQHHH")
HEAD_BYTES = _HEAD.size

ECHO = ord("E")
"""Send it back as it is."""
UPLINK = ord("U")
"""Count it; tell how far you are at ``ack_port``."""
START = ord("D")
"""Send DOWNLINK datagrams of ``size_bytes`` to where this came from, ``window`` ahead."""
DOWNLINK = ord("d")
ACK = ord("A")
"""Beside the relay: everything of this flow up to ``sequence`` is there or lost."""
STOP = ord("S")


class Message(NamedTuple):
    """The head of every datagram; what follows is padding."""

    kind: int
    flow: int
    sequence: int = 0
    ack_port: int = 0
    size_bytes: int = 0
    window: int = 0

    def encode(self) -> bytes:
        """Return the head."""
        return _HEAD.pack(*self)


def decode_message(datagram: bytes) -> Message:
    """Return the head of a datagram."""
    return Message(*_HEAD.unpack_from(datagram))
