"""Owns ChannelData, and the cutting of a stream into STUN and ChannelData (RFC 8656 section 12)."""

from masque_relay.stun.message import COOKIE, HEADER_BYTES
from masque_relay.wire.errors import Scope, WireError

CHANNEL_HEADER_BYTES = 4


def encode_channel_head(channel: int, length: int) -> bytes:
    """Return the four bytes before the application data."""
    return channel.to_bytes(2, "big") + length.to_bytes(2, "big")


def is_channel_data(first_byte: int) -> bool:
    """Return whether a message with this first byte is ChannelData, of RFC 8656 or RFC 5766."""
    return 0x40 <= first_byte <= 0x7F


class StreamDecoder:
    """Cuts one direction of a TCP or TLS connection into STUN messages and ChannelData messages.

    Memory is at most one message of 65,555 bytes. After a WireError it stays broken: where the next
    message begins is no longer known.
    """

    __slots__ = ("_buffer", "_failure")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._failure: WireError | None = None

    @property
    def pending_bytes(self) -> int:
        """How much of an incomplete message has arrived."""
        return len(self._buffer)

    def take_rest(self) -> bytes:
        """Return what follows the last message; afterwards the stream is no longer ours to cut."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def feed(self, data: bytes, *, max_messages: int = 1 << 30) -> list[bytes]:
        """Take the next bytes; return up to so many messages that they complete, in order.

        ChannelData comes without its padding. What is beyond ``max_messages`` comes with the next
        call, which may bring no bytes.

        Raises:
            WireError: neither of the two begins here; what came before it in this call is lost,
                because the connection has to end.
        """
        if self._failure is not None:
            raise self._failure
        buffer = self._buffer
        buffer += data
        messages: list[bytes] = []
        at = 0
        while len(messages) < max_messages and len(buffer) - at >= 4:
            first = buffer[at]
            length = buffer[at + 2] << 8 | buffer[at + 3]
            if first < 0x40:
                if len(buffer) - at >= 8 and bytes(buffer[at + 4 : at + 8]) != COOKIE:
                    raise self._fail("no magic cookie", "RFC 8489 section 5")
                if length & 3:
                    raise self._fail(f"a STUN length of {length}", "RFC 8489 section 5")
                size = wire_size = HEADER_BYTES + length
            elif is_channel_data(first):
                size = CHANNEL_HEADER_BYTES + length
                wire_size = (size + 3) & ~3  # RFC 8656 section 12.5: padded on streams
            else:
                detail = f"a message that begins with 0x{first:02x}"
                raise self._fail(detail, "RFC 8656 section 12")
            if len(buffer) - at < wire_size:
                break
            messages.append(bytes(buffer[at : at + size]))
            at += wire_size
        if at:
            del buffer[:at]
        return messages

    def _fail(self, detail: str, section: str) -> WireError:
        self._failure = WireError(detail, section=section, scope=Scope.CONNECTION)
        self._buffer.clear()
        return self._failure
