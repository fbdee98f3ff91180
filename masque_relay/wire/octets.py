"""Owns OctetReader: fixed and variable fields taken one after the other from a message."""

from masque_relay.wire.errors import WireError
from masque_relay.wire.varint import peek_varint


class OctetReader:
    """Takes big-endian fields from the front of one message's bytes.

    Every method raises WireError, with the section given, where the message ends too early.
    """

    __slots__ = ("_data", "_offset", "_section")

    def __init__(self, data: bytes, *, section: str) -> None:
        self._data = data
        self._offset = 0
        self._section = section

    @property
    def left_bytes(self) -> int:
        """How much has not been taken."""
        return len(self._data) - self._offset

    def uint(self, byte_count: int) -> int:
        """Take an unsigned integer of that many bytes."""
        return int.from_bytes(self.take(byte_count), "big")

    def varint(self) -> int:
        """Take a variable-length integer (RFC 9000 section 16)."""
        found = peek_varint(self._data, self._offset)
        if found is None:
            raise self.error("ends inside a variable-length integer")
        value, self._offset = found
        return value

    def take(self, byte_count: int) -> bytes:
        """Take that many bytes."""
        end = self._offset + byte_count
        if end > len(self._data):
            raise self.error(f"ends {end - len(self._data)} bytes too early")
        taken = self._data[self._offset : end]
        self._offset = end
        return taken

    def rest(self) -> bytes:
        """Take what is left."""
        return self.take(self.left_bytes)

    def finish(self) -> None:
        """Check that nothing is left."""
        if self.left_bytes:
            raise self.error(f"{self.left_bytes} bytes too many")

    def error(self, detail: str) -> WireError:
        """Make the error for a value that is out of its range."""
        return WireError(detail, section=self._section)
