"""Owns the 8-byte framing of the first Ghostwire prototypes, for tools that meet such bytes.

No relay of this project speaks it: its handshake can be broken by anybody in the middle.
"""

from dataclasses import dataclass
from enum import IntEnum, IntFlag

from masque_relay.wire.errors import WireError

HEAD_BYTES = 8
VERSION = 1
MAX_PAYLOAD_BYTES = 65_535

_SECTION = "ghostwire, older framing"


class LegacyType(IntEnum):
    """What a frame is."""

    HANDSHAKE_INIT = 0x01
    HANDSHAKE_RESPONSE = 0x02
    HANDSHAKE_COMPLETE = 0x03
    DATA = 0x10
    KEEPALIVE = 0x20
    CLOSE = 0x30
    STREAM_OPEN = 0x40
    STREAM_DATA = 0x41
    STREAM_CLOSE = 0x42


class LegacyFlag(IntFlag):
    """Bits of the flags byte."""

    ENCRYPTED = 1
    COMPRESSED = 2
    URGENT = 4
    FINAL = 8


_KNOWN_FLAGS = sum(LegacyFlag)


@dataclass(frozen=True, slots=True, kw_only=True)
class LegacyFrame:
    """One frame: ``version u16, type u8, flags u8, stream u16, length u16, payload``."""

    type: LegacyType
    flags: LegacyFlag
    stream_id: int
    payload: bytes

    def encode(self) -> bytes:
        """Return the frame's bytes.

        Raises:
            ValueError: the payload is longer than 65,535 bytes.
        """
        if len(self.payload) > MAX_PAYLOAD_BYTES:
            message = f"{len(self.payload)} bytes do not fit a frame"
            raise ValueError(message)
        return b"".join(
            (
                VERSION.to_bytes(2, "big"),
                bytes((self.type, self.flags)),
                self.stream_id.to_bytes(2, "big"),
                len(self.payload).to_bytes(2, "big"),
                self.payload,
            )
        )


def decode_frames(data: bytes) -> tuple[list[LegacyFrame], bytes]:
    """Return the whole frames at the front of the data, and what is left of it.

    Raises:
        WireError: a version, type or flag that the framing does not have.
    """
    frames: list[LegacyFrame] = []
    offset = 0
    while len(data) - offset >= HEAD_BYTES:
        frame_type, flags = _checked_head(data, offset)
        payload_at = offset + HEAD_BYTES
        end = payload_at + int.from_bytes(data[offset + 6 : payload_at], "big")
        if end > len(data):
            break
        frames.append(
            LegacyFrame(
                type=frame_type,
                flags=flags,
                stream_id=int.from_bytes(data[offset + 4 : offset + 6], "big"),
                payload=data[payload_at:end],
            )
        )
        offset = end
    return frames, data[offset:]


def _checked_head(data: bytes, offset: int) -> tuple[LegacyType, LegacyFlag]:
    version = int.from_bytes(data[offset : offset + 2], "big")
    if version != VERSION:
        raise WireError(f"version {version}", section=_SECTION)
    type_number, flags = data[offset + 2], data[offset + 3]
    if type_number not in list(LegacyType):
        raise WireError(f"frame type {type_number:#04x}", section=_SECTION)
    if flags & ~_KNOWN_FLAGS:
        raise WireError(f"flags {flags:#04x}", section=_SECTION)
    return LegacyType(type_number), LegacyFlag(flags)
