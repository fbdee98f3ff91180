"""Owns the bytes of TCP tunnels: DATA capsules (draft-ietf-httpbis-connect-tcp), or the stream."""

from dataclasses import dataclass
from typing import Protocol

from masque_relay.wire.errors import WireError
from masque_relay.wire.varint import encode_varint, peek_varint
from masque_relay.wire.wrap_up import WRAP_UP, WrapUpReader

DEFAULT_TEMPLATE = "/.well-known/masque/tcp/{target_host}/{target_port}/"
"""Where clients look that know only the proxy's host and port."""

DATA_CAPSULE = 0x2028D7F2
FINAL_DATA_CAPSULE = 0x2028D7F3
"""The draft's codepoints for tests, revision 12 and later; IANA has not assigned the final ones."""

_MAX_HEAD_BYTES = 16  # two variable-length integers of 8 bytes
_SECTION = "connect-tcp section 3"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataCapsuleTypes:
    """The capsule types that carry TCP payload."""

    data: int = DATA_CAPSULE
    final_data: int = FINAL_DATA_CAPSULE


class TcpFraming(Protocol):
    """How one tunnel's stream carries TCP payload; has the state of the client's direction."""

    @property
    def ends_with_stream(self) -> bool:
        """The end of the stream's side is TCP's FIN."""
        ...

    @property
    def has_ended(self) -> bool:
        """The client's FIN has come."""
        ...

    def feed(self, data: bytes) -> list[bytes]:
        """Take stream bytes; return the TCP payload in them, in order.

        Raises:
            WireError: the stream is to be aborted.
        """
        ...

    def finish(self) -> bool:
        """Learn that the client ended its stream; return whether that was a FIN or followed one.

        Raises:
            WireError: it ended inside a capsule.
        """
        ...

    def encode(self, payload: bytes) -> bytes:
        """Return TCP payload as stream bytes."""
        ...

    def encode_end(self) -> bytes:
        """Return the stream bytes that say FIN; none where the stream's end says it."""
        ...


class RawFraming:
    """Classic CONNECT (RFC 9110 section 9.3.6): stream bytes are TCP payload."""

    __slots__ = ("has_ended",)

    ends_with_stream = True

    def __init__(self) -> None:
        self.has_ended = False

    def feed(self, data: bytes) -> list[bytes]:
        """Return the bytes as they are."""
        return [data]

    def finish(self) -> bool:
        """RFC 9114 section 4.4: the stream's FIN is TCP's."""
        self.has_ended = True
        return True

    def encode(self, payload: bytes) -> bytes:
        """Return the bytes as they are."""
        return payload

    def encode_end(self) -> bytes:
        """Return nothing."""
        return b""


class CapsuleFraming:
    """Templated connect-tcp: DATA capsules, and FINAL_DATA whose end is FIN.

    A capsule may announce any length: its payload is handed on as it arrives, so memory is bounded
    by the bytes fed and a head of 16. Other types are skipped (RFC 9297 section 3.2), but for
    WRAP_UP, which only a proxy may send.

    Attributes:
        has_ended: a FINAL_DATA capsule is complete.
        capsule_count: heads of DATA and FINAL_DATA capsules seen.
        skipped_count: heads of other capsules seen.
    """

    __slots__ = (
        "_data_head",
        "_final_head",
        "_head",
        "_is_final",
        "_left_bytes",
        "_skips",
        "_types",
        "_wrap_up",
        "capsule_count",
        "has_ended",
        "skipped_count",
    )

    ends_with_stream = False

    def __init__(self, types: DataCapsuleTypes, wrap_up: WrapUpReader | None = None) -> None:
        self._types = types
        self._wrap_up = wrap_up or WrapUpReader()
        self._data_head = encode_varint(types.data)
        self._final_head = encode_varint(types.final_data)
        self._head = b""
        """The beginning of a head whose end has not arrived."""
        self._left_bytes = 0
        """Of the capsule that has begun."""
        self._skips = False
        self._is_final = False
        self.has_ended = False
        self.capsule_count = 0
        self.skipped_count = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Return the payload pieces in the next stream bytes.

        Raises:
            WireError: DATA or FINAL_DATA after FINAL_DATA.
        """
        pieces: list[bytes] = []
        offset = 0
        while offset < len(data):
            if self._left_bytes:
                piece = data[offset : offset + self._left_bytes]
                offset += len(piece)
                self._left_bytes -= len(piece)
                if not self._skips:
                    pieces.append(piece)
            else:
                offset = self._take_head(data, offset)
            if self._is_final and not self._left_bytes and not self._skips:
                self.has_ended = True
        return pieces

    def finish(self) -> bool:
        """Return whether FINAL_DATA came before the end.

        Raises:
            WireError: the stream ended inside a capsule (RFC 9297 section 3.3).
        """
        if self._head or self._left_bytes:
            raise WireError("the stream ended inside a capsule", section="RFC 9297 section 3.3")
        return self.has_ended

    def encode(self, payload: bytes) -> bytes:
        """Return one DATA capsule."""
        return b"%b%b%b" % (self._data_head, encode_varint(len(payload)), payload)

    def encode_end(self) -> bytes:
        """Return an empty FINAL_DATA capsule."""
        return self._final_head + b"\0"

    def _take_head(self, data: bytes, offset: int) -> int:
        """Read type and length if they are complete; return how far the data is used up."""
        known_bytes = len(self._head)
        head = self._head + data[offset : offset + _MAX_HEAD_BYTES]
        found_type = peek_varint(head)
        found_length = None if found_type is None else peek_varint(head, found_type[1])
        if found_type is None or found_length is None:
            self._head = head
            return len(data)
        self._head = b""
        capsule_type, self._left_bytes = found_type[0], found_length[0]
        self._skips = capsule_type not in (self._types.data, self._types.final_data)
        if capsule_type == WRAP_UP:
            self._wrap_up.take(self._left_bytes)
        elif self._skips:
            self.skipped_count += 1
        elif self._is_final:
            raise WireError("DATA or FINAL_DATA after FINAL_DATA", section=_SECTION)
        else:
            self.capsule_count += 1
            self._is_final = capsule_type == self._types.final_data
        return offset + found_length[1] - known_bytes
