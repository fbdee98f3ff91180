"""Owns the capsule protocol: capsules <-> stream bytes (RFC 9297 section 3.2)."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum

from masque_relay.wire.errors import WireError
from masque_relay.wire.varint import encode_varint, peek_varint

_SECTION = "RFC 9297 section 3.2"
_MALFORMED_SECTION = "RFC 9297 section 3.3"
_MAX_HEAD_BYTES = 16  # two variable-length integers of 8 bytes


class CapsuleType(IntEnum):
    """Capsule types that this project reads or writes."""

    DATAGRAM = 0x00
    """RFC 9297 section 3.5: an HTTP Datagram on a stream."""


@dataclass(frozen=True, slots=True)
class Capsule:
    """One whole capsule of a known type."""

    type: int
    value: bytes


def encode_capsule(capsule_type: int, value: bytes) -> bytes:
    """Return type, length and value as the stream carries them.

    Raises:
        ValueError: the type does not fit a variable-length integer.
    """
    return encode_varint(capsule_type) + encode_varint(len(value)) + value


class CapsuleDecoder:
    """Cuts one direction of a data stream into capsules, however its bytes arrive.

    Time is linear in the bytes fed, memory is at most one known capsule
    (``max_capsule_bytes``) and a head of 16 bytes. Capsules of unknown types are skipped as they
    pass (RFC 9297 section 3.2: they MUST be silently dropped), whatever length they announce.

    After a WireError the decoder stays broken: every later call raises the same error again.

    Attributes:
        skipped_count: heads of unknown capsules seen so far.
    """

    __slots__ = (
        "_failure",
        "_head",
        "_known_types",
        "_max_capsule_bytes",
        "_missing_bytes",
        "_skip_bytes",
        "_type",
        "_value",
        "skipped_count",
    )

    def __init__(self, *, max_capsule_bytes: int, known_types: Collection[int]) -> None:
        self.skipped_count = 0
        self._max_capsule_bytes = max_capsule_bytes
        self._known_types = frozenset(known_types)
        self._head = bytearray()
        """The beginning of a head whose end has not arrived."""
        self._type = 0
        self._value: bytearray | None = None
        """The beginning of a known capsule's value; None between capsules."""
        self._missing_bytes = 0
        self._skip_bytes = 0
        self._failure: WireError | None = None

    def feed(self, data: bytes) -> list[Capsule]:
        """Take the next stream bytes and return the capsules that they complete, in order.

        Raises:
            WireError: a known capsule announces more than ``max_capsule_bytes``. Raised as soon as
                its head is there; what the same call completed before it is lost, because the
                stream is to be aborted.
        """
        if self._failure is not None:
            raise self._failure
        capsules: list[Capsule] = []
        offset = 0
        while offset < len(data):
            if self._skip_bytes:
                step = min(self._skip_bytes, len(data) - offset)
                self._skip_bytes -= step
                offset += step
            elif self._value is None:
                offset = self._take_head(data, offset, capsules)
            else:
                offset = self._take_value(self._value, data, offset, capsules)
        return capsules

    def finish(self) -> None:
        """Learn that the stream ended cleanly.

        Raises:
            WireError: it ended inside a capsule (RFC 9297 section 3.3: a malformed message).
        """
        if self._failure is not None:
            raise self._failure
        if self._head or self._skip_bytes or self._value is not None:
            raise WireError("the stream ended inside a capsule", section=_MALFORMED_SECTION)

    def _take_head(self, data: bytes, offset: int, capsules: list[Capsule]) -> int:
        """Read type and length if they are complete; return how far the data is used up."""
        known_head_bytes = len(self._head)
        # At most 16 bytes are ever joined here, so a head that comes byte by byte stays cheap.
        head = bytes(self._head) + data[offset : offset + _MAX_HEAD_BYTES]
        found_type = peek_varint(head)
        found_length = None if found_type is None else peek_varint(head, found_type[1])
        if found_type is None or found_length is None:
            self._head += data[offset:]
            return len(data)
        self._head.clear()
        capsule_type, length = found_type[0], found_length[0]
        offset += found_length[1] - known_head_bytes
        if capsule_type not in self._known_types:
            self.skipped_count += 1
            self._skip_bytes = length
        elif length > self._max_capsule_bytes:
            self._failure = WireError(
                f"capsule of type {capsule_type:#x} announces {length} bytes,"
                f" the limit is {self._max_capsule_bytes}",
                section=_SECTION,
            )
            raise self._failure
        elif length <= len(data) - offset:  # the usual case: all of it is there
            capsules.append(Capsule(capsule_type, data[offset : offset + length]))
            offset += length
        else:
            self._type = capsule_type
            self._value = bytearray(data[offset:])
            self._missing_bytes = length - len(self._value)
            offset = len(data)
        return offset

    def _take_value(
        self, value: bytearray, data: bytes, offset: int, capsules: list[Capsule]
    ) -> int:
        """Add to the value that has begun; return how far the data is used up."""
        step = min(self._missing_bytes, len(data) - offset)
        value += data[offset : offset + step]
        self._missing_bytes -= step
        if not self._missing_bytes:
            capsules.append(Capsule(self._type, bytes(value)))
            self._value = None
        return offset + step
