"""Owns ByteStream: two directions of bytes to a target, whatever way they take there."""

from typing import Protocol

READ_BYTES = 65_536
"""Moved at a time: a quarter of the relay's stream window, and what one recv brings at best."""


class ByteStream(Protocol):
    """A TCP connection to a target, through a relay or directly. One reader and one writer."""

    async def read(self) -> bytes:
        """Return what has arrived, waiting for something; empty once the target has ended.

        Raises:
            ClientError: the stream broke off.
        """
        ...

    async def write(self, data: bytes) -> None:
        """Send bytes; waits while too many are under way.

        Raises:
            ClientError: the stream broke off.
        """
        ...

    def write_eof(self) -> None:
        """Say that nothing more comes from us; what the target sends still arrives. Idempotent."""
        ...

    def abort(self) -> None:
        """Give both directions up; idempotent, and nothing where both have ended well."""
        ...
