"""Owns PeerConnection: an end-to-end encrypted QUIC connection to another peer, with streams."""

import asyncio
from collections.abc import Callable

from masque_relay.client.errors import ClientError, ConnectionLost
from masque_relay.client.mesh.certificate import peer_id_of
from masque_relay.client.mesh.peer_stream import PeerStream
from masque_relay.quic.application import QuicTransport

ALPN = "ghostwire-peer/1"
MAX_SERVICE_BYTES = 63
_BIDIRECTIONAL_SERVER = 1
_UNIDIRECTIONAL = 2
_NO_ERROR = 0
_REFUSED = 1
_NOT_THE_PEER = 2

OnStream = Callable[["PeerConnection", bytes, PeerStream], bool]
"""Takes a stream that the other peer opened, and its service; False refuses it."""


class PeerConnection:
    """A QuicApplication. TLS has proved that the other side holds the key of its certificate.

    Attributes:
        peer_id: that key.
    """

    def __init__(
        self,
        transport: QuicTransport,
        *,
        expected: bytes | None,
        on_stream: OnStream,
        on_lost: Callable[["PeerConnection"], None],
    ) -> None:
        """Take a connection whose handshake is complete.

        Args:
            transport: what lies below.
            expected: whom we meant to reach; None takes whoever comes, and says who it is.
            on_stream: takes the streams of the other side.
            on_lost: told once, when the connection is over.
        """
        self._transport = transport
        self._on_stream = on_stream
        self._on_lost = on_lost
        self._streams: dict[int, PeerStream] = {}
        self._heads: dict[int, bytes] = {}
        """The beginnings of streams whose service is not complete yet."""
        self._lost: ClientError | None = None
        self.closed = asyncio.Event()
        peer_id = peer_id_of(transport.peer_certificate_chain)
        self.peer_id = peer_id or b""
        if peer_id is None or (expected is not None and peer_id != expected):
            self._lost = ConnectionLost("somebody else answered: the key is not the peer's")
            transport.close(_NOT_THE_PEER, "")

    @property
    def lost(self) -> ClientError | None:
        """Why the connection is over; None while it lives."""
        return self._lost

    @property
    def transport(self) -> QuicTransport:
        """What lies below; its ``peer`` is the link's made-up address."""
        return self._transport

    def open_stream(self, service: bytes) -> PeerStream:
        """Open a stream for a service of the other peer.

        Raises:
            ClientError: the connection is over.
            ValueError: the service has more than 63 bytes.
        """
        if self._lost is not None:
            raise self._lost
        if len(service) > MAX_SERVICE_BYTES:
            message = f"a service of {len(service)} bytes"
            raise ValueError(message)
        stream_id = self._transport.next_stream_id(unidirectional=False)
        stream = PeerStream(self._transport, stream_id, forget=self._forget)
        self._streams[stream_id] = stream
        head = bytes((len(service),)) + service
        self._transport.send_stream_data(stream_id, head, end_stream=False)
        return stream

    def ping(self) -> None:
        """Send something at once: the path has come back, and QUIC may be waiting longer."""
        if self._lost is None:
            self._transport.send_ping()

    def close(self) -> None:
        """Close the connection and its streams; idempotent."""
        if self._lost is None:
            self._end(ConnectionLost("the connection was closed"))
            self._transport.close(_NO_ERROR, "")

    # QuicApplication.

    def stream_data_received(self, stream_id: int, data: bytes, *, end_stream: bool) -> None:
        """Take stream bytes; of a new stream the service first."""
        stream = self._streams.get(stream_id)
        if stream is None:
            self._begin(stream_id, data, end_stream=end_stream)
        else:
            stream.data_received(data, end_stream=end_stream)

    def stream_reset_received(self, stream_id: int, error_code: int) -> None:
        """The other side broke a stream off."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.reset_received(error_code)

    def stop_sending_received(self, stream_id: int, error_code: int) -> None:
        """The other side wants no more of a stream."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.stopped(error_code)

    def datagrams_received(self, payloads: list[bytes]) -> None:
        """Drop them: services here use streams."""

    def streams_writable(self) -> None:
        """Acknowledgements came."""
        for stream in tuple(self._streams.values()):
            stream.writable()

    def connection_lost(self, error_code: int, reason: str) -> None:
        """The connection is over."""
        self._end(self._lost or ConnectionLost(f"the peer is gone: {reason or hex(error_code)}"))

    def _begin(self, stream_id: int, data: bytes, *, end_stream: bool) -> None:
        ours = _BIDIRECTIONAL_SERVER if not self._transport.is_client else 0
        is_new = stream_id % 4 == 1 - ours and not stream_id & _UNIDIRECTIONAL
        head = self._heads.pop(stream_id, b"") + data
        if not is_new or (end_stream and (not head or len(head) <= head[0])):
            self._refuse(stream_id)
            return
        if not head or len(head) <= head[0]:
            self._heads[stream_id] = head
            return
        service, rest = head[1 : 1 + head[0]], head[1 + head[0] :]
        self._transport.consume_stream_bytes(stream_id, 1 + head[0])
        stream = PeerStream(self._transport, stream_id, forget=self._forget)
        self._streams[stream_id] = stream
        if len(service) > MAX_SERVICE_BYTES or not self._on_stream(self, service, stream):
            self._forget(stream_id)
            self._refuse(stream_id)
            return
        stream.data_received(rest, end_stream=end_stream)

    def _refuse(self, stream_id: int) -> None:
        self._transport.stop_stream(stream_id, _REFUSED)
        if not stream_id & _UNIDIRECTIONAL:
            self._transport.reset_stream(stream_id, _REFUSED)

    def _forget(self, stream_id: int) -> None:
        self._streams.pop(stream_id, None)

    def _end(self, error: ClientError) -> None:
        if self.closed.is_set():
            return
        self._lost = error
        self.closed.set()
        for stream in tuple(self._streams.values()):
            stream.connection_lost(error)
        self._streams.clear()
        self._on_lost(self)
