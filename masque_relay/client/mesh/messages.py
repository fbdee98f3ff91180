"""Owns datagrams on a stream: each with its length in front (two bytes)."""

from masque_relay.client.byte_stream import ByteStream

LENGTH_BYTES = 2


def encode_message(payload: bytes) -> bytes:
    """Return a datagram as the stream carries it; at most 65,535 bytes."""
    return len(payload).to_bytes(LENGTH_BYTES, "big") + payload


class MessageReader:
    """Cuts a stream into datagrams; holds one at most."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._held = bytearray()

    async def read(self) -> bytes | None:
        """Return the next datagram; None at the end, also where it ends in a datagram.

        Raises:
            ClientError: the stream broke off.
        """
        while True:
            size = int.from_bytes(self._held[:LENGTH_BYTES], "big")
            if len(self._held) >= LENGTH_BYTES + size:
                payload = bytes(self._held[LENGTH_BYTES : LENGTH_BYTES + size])
                del self._held[: LENGTH_BYTES + size]
                return payload
            data = await self._stream.read()
            if not data:
                return None
            self._held += data
