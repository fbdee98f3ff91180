"""Owns DERP's frames, version 2: bytes <-> values, sans I/O.

A frame is ``type u8, length u32`` (big-endian) and so many bytes. Types that are not known are
skipped; a longer body than a known type needs is accepted, because servers may send more later.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final

from masque_relay.contract.address import Endpoint
from masque_relay.wire.errors import WireError
from masque_relay.wire.node_key import NODE_KEY_BYTES

PROTOCOL_VERSION = 2
MAGIC: Final = b"DERP\xf0\x9f\x94\x91"
HEADER_BYTES = 5
MAX_PACKET_BYTES = 65_536
MAX_FRAME_BYTES = MAX_PACKET_BYTES + 2 * NODE_KEY_BYTES
"""ForwardPacket with the largest packet."""
NONCE_BYTES = 24
MAX_GREETING_BYTES = 4_096
"""ClientInfo of real clients has about 200; it is all that an unproved client may send at once."""
PING_BYTES = 8
MAX_HEALTH_BYTES = 1_024

_PRESENT_FLAGS_AT = NODE_KEY_BYTES + 16 + 2
"""Behind the key, an address and a port."""

_HEADER = struct.Struct("!BI")
_RESTARTING = struct.Struct("!II")
_SECTION = "DERP: frames"


class FrameType(IntEnum):
    """The types of DERP version 2."""

    SERVER_KEY = 0x01
    CLIENT_INFO = 0x02
    SERVER_INFO = 0x03
    SEND_PACKET = 0x04
    RECV_PACKET = 0x05
    KEEP_ALIVE = 0x06
    NOTE_PREFERRED = 0x07
    PEER_GONE = 0x08
    PEER_PRESENT = 0x09
    FORWARD_PACKET = 0x0A
    WATCH_CONNS = 0x10
    CLOSE_PEER = 0x11
    PING = 0x12
    PONG = 0x13
    HEALTH = 0x14
    RESTARTING = 0x15


FROM_CLIENT = frozenset(
    {
        FrameType.CLIENT_INFO,
        FrameType.SEND_PACKET,
        FrameType.NOTE_PREFERRED,
        FrameType.FORWARD_PACKET,
        FrameType.WATCH_CONNS,
        FrameType.CLOSE_PEER,
        FrameType.PING,
        FrameType.PONG,
    }
)
FROM_SERVER = frozenset(
    {
        FrameType.SERVER_KEY,
        FrameType.SERVER_INFO,
        FrameType.KEEP_ALIVE,
        FrameType.PEER_GONE,
        FrameType.PEER_PRESENT,
        FrameType.PING,
        FrameType.PONG,
        FrameType.HEALTH,
        FrameType.RESTARTING,
    }
)
"""But RecvPacket: a server of the mesh is nobody's peer."""


class GoneReason(IntEnum):
    """Why there is no way to a peer."""

    DISCONNECTED = 0
    NOT_HERE = 1


class PresentFlag(IntFlag):
    """What a peer is."""

    REGULAR = 1
    MESH = 2
    PROBER = 4
    NOT_IDEAL = 8


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a known type."""

    type: FrameType
    body: bytes


class FrameDecoder:
    """Cuts a byte stream into frames; holds at most one incomplete frame.

    Attributes:
        max_frame_bytes: a longer body ends the connection; unknown types are no exception.
        skipped_count: frames of types that the other side does not send, or that nobody knows.
    """

    __slots__ = ("_buffer", "_known", "max_frame_bytes", "skipped_count")

    def __init__(
        self,
        *,
        max_frame_bytes: int = MAX_FRAME_BYTES,
        known: frozenset[FrameType] = FROM_CLIENT,
    ) -> None:
        self._buffer = bytearray()
        self._known = known
        self.max_frame_bytes = max_frame_bytes
        self.skipped_count = 0

    @property
    def held_bytes(self) -> int:
        """What waits for the rest of its frame."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Take stream bytes; :meth:`take` returns the frames that they complete."""
        self._buffer += data

    def take(self) -> Frame | None:
        """Return the next complete frame of a type that is looked for; None when there is none.

        Raises:
            WireError: a frame is announced as longer than may be.
        """
        buffer = self._buffer
        while len(buffer) >= HEADER_BYTES:
            type_number, length = _HEADER.unpack_from(buffer)
            if length > self.max_frame_bytes:
                raise WireError(f"a frame of {length} bytes", section=_SECTION)
            end = HEADER_BYTES + length
            if len(buffer) < end:
                return None
            body = bytes(buffer[HEADER_BYTES:end])
            del buffer[:end]
            if type_number in self._known:
                return Frame(FrameType(type_number), body)
            self.skipped_count += 1
        return None

    def finish(self) -> None:
        """The stream has ended.

        Raises:
            WireError: inside a frame.
        """
        if self._buffer:
            raise WireError("the stream ended inside a frame", section=_SECTION)


def encode_frame(frame_type: FrameType, body: bytes = b"") -> bytes:
    """Return one frame."""
    return _HEADER.pack(frame_type, len(body)) + body


def encode_server_key(key: bytes) -> bytes:
    """Return the greeting: who the server is."""
    return encode_frame(FrameType.SERVER_KEY, MAGIC + key)


def encode_packets(source: bytes, packets: list[bytes]) -> bytes:
    """Return a RecvPacket frame for each packet of one source."""
    pack = _HEADER.pack
    return b"".join(
        pack(FrameType.RECV_PACKET, NODE_KEY_BYTES + len(packet)) + source + packet
        for packet in packets
    )


def encode_forwards(pair: bytes, packets: list[bytes]) -> bytes:
    """Return a ForwardPacket frame for each packet; ``pair`` is source and destination."""
    pack = _HEADER.pack
    return b"".join(
        pack(FrameType.FORWARD_PACKET, len(pair) + len(packet)) + pair + packet
        for packet in packets
    )


def encode_client_info(key: bytes, sealed: bytes) -> bytes:
    """Return a client's greeting: its key, and what it sealed for the server, nonce first."""
    return encode_frame(FrameType.CLIENT_INFO, key + sealed)


def encode_peer_gone(key: bytes, reason: GoneReason) -> bytes:
    """Return word that there is no way to a peer."""
    return encode_frame(FrameType.PEER_GONE, key + bytes([reason]))


def encode_peer_present(key: bytes, source: Endpoint, flags: PresentFlag) -> bytes:
    """Return word that a peer is here, and where it comes from (IPv4 in IPv6-mapped form)."""
    packed = source.address.packed
    if source.address.version == 4:
        packed = bytes(10) + b"\xff\xff" + packed
    body = key + packed + source.port.to_bytes(2, "big") + bytes([flags])
    return encode_frame(FrameType.PEER_PRESENT, body)


def encode_health(text: str) -> bytes:
    """Return what is wrong with the connection; empty: nothing any more."""
    return encode_frame(FrameType.HEALTH, text.encode()[:MAX_HEALTH_BYTES])


def encode_restarting(*, reconnect_in_ms: int, try_for_ms: int) -> bytes:
    """Return word that the server goes away for a while."""
    return encode_frame(FrameType.RESTARTING, _RESTARTING.pack(reconnect_in_ms, try_for_ms))


def split_server_key(body: bytes) -> bytes:
    """Return the key of a server's greeting.

    Raises:
        WireError: too short, or not DERP's.
    """
    end = len(MAGIC) + NODE_KEY_BYTES
    if len(body) < end or not body.startswith(MAGIC):
        raise WireError("ServerKey is not that of DERP", section=_SECTION)
    return body[len(MAGIC) : end]


def split_peer_gone(body: bytes) -> tuple[bytes, bool]:
    """Return who is gone, and whether the server only says that it was never there.

    Raises:
        WireError: too short for a key.
    """
    if len(body) < NODE_KEY_BYTES:
        raise WireError("PeerGone without a key", section=_SECTION)
    return body[:NODE_KEY_BYTES], body[NODE_KEY_BYTES:][:1] == bytes([GoneReason.NOT_HERE])


def split_peer_present(body: bytes) -> tuple[bytes, PresentFlag]:
    """Return who is there and what it is; servers of before 2024 do not say the latter.

    Raises:
        WireError: too short for a key.
    """
    if len(body) < NODE_KEY_BYTES:
        raise WireError("PeerPresent without a key", section=_SECTION)
    flags = body[_PRESENT_FLAGS_AT : _PRESENT_FLAGS_AT + 1]
    return body[:NODE_KEY_BYTES], PresentFlag(flags[0]) if flags else PresentFlag.REGULAR


def split_client_info(body: bytes) -> tuple[bytes, bytes]:
    """Return a client's key and its sealed information, nonce first.

    Raises:
        WireError: too short to be that.
    """
    if len(body) <= NODE_KEY_BYTES + NONCE_BYTES:
        raise WireError("ClientInfo is cut short", section=_SECTION)
    return body[:NODE_KEY_BYTES], body[NODE_KEY_BYTES:]


def split_packet(body: bytes) -> tuple[bytes, bytes]:
    """Return the key and the packet of SendPacket.

    Raises:
        WireError: too short for a key, or too long for a packet.
    """
    if len(body) < NODE_KEY_BYTES or len(body) - NODE_KEY_BYTES > MAX_PACKET_BYTES:
        raise WireError("SendPacket without a key, or too long", section=_SECTION)
    return body[:NODE_KEY_BYTES], body[NODE_KEY_BYTES:]


def split_forward(body: bytes) -> tuple[bytes, bytes, bytes]:
    """Return source key, destination key and packet of ForwardPacket.

    Raises:
        WireError: too short for two keys.
    """
    if len(body) < 2 * NODE_KEY_BYTES:
        raise WireError("ForwardPacket without two keys", section=_SECTION)
    return (
        body[:NODE_KEY_BYTES],
        body[NODE_KEY_BYTES : 2 * NODE_KEY_BYTES],
        body[2 * NODE_KEY_BYTES :],
    )


def split_key(body: bytes) -> bytes:
    """Return the key of ClosePeer.

    Raises:
        WireError: too short for one.
    """
    if len(body) < NODE_KEY_BYTES:
        raise WireError("ClosePeer without a key", section=_SECTION)
    return body[:NODE_KEY_BYTES]


def split_ping(body: bytes) -> bytes:
    """Return the eight bytes that a Pong repeats.

    Raises:
        WireError: too short.
    """
    if len(body) < PING_BYTES:
        raise WireError("Ping without eight bytes", section=_SECTION)
    return body[:PING_BYTES]


def split_preferred(body: bytes) -> bool:
    """Return what NotePreferred says.

    Raises:
        WireError: not one byte of 0 or 1.
    """
    if body not in {b"\x00", b"\x01"}:
        raise WireError("NotePreferred is not 0 or 1", section=_SECTION)
    return body == b"\x01"
