"""Owns the two seams of a connection: QUIC <-> its application protocol, HTTP/3 <-> its front end.

Everything here runs in the event loop, inside the handling of one batch of packets. Methods of an
application must neither block nor raise: an exception closes that one connection with an internal
error and is logged as a bug. What an application sends is put on the wire once, at the end of the
batch (or at the end of the loop's turn when it sends from elsewhere).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from masque_relay.contract.address import Endpoint

Headers = list[tuple[bytes, bytes]]


class QuicTransport(Protocol):
    """One QUIC connection, as its application protocol sees it."""

    @property
    def connection_id(self) -> str:
        """For logs: the original destination connection ID in hex."""
        ...

    @property
    def is_client(self) -> bool:
        """Whether we opened it."""
        ...

    @property
    def peer(self) -> Endpoint:
        """The peer's current address; changes with migration."""
        ...

    @property
    def server_name(self) -> str | None:
        """SNI as the client sent it."""
        ...

    @property
    def alpn(self) -> str:
        """The negotiated protocol."""
        ...

    @property
    def peer_certificate_chain(self) -> tuple[bytes, ...]:
        """DER, leaf first; empty when the peer presented none."""
        ...

    def export_keying_material(self, label: bytes, context: bytes, length: int) -> bytes:
        """RFC 8446 section 7.5; equal at both ends."""
        ...

    @property
    def max_datagram_payload_bytes(self) -> int:
        """The largest DATAGRAM frame payload that path and peer take now; 0 if it takes none."""
        ...

    @property
    def queued_datagrams(self) -> int:
        """DATAGRAM frames that wait for the congestion window."""
        ...

    def send_datagrams(self, prefix: bytes, payloads: Sequence[bytes]) -> int:
        """Queue a DATAGRAM frame ``prefix + payload`` each; return how many were queued.

        Oversize ones are refused and counted first (one would wedge the queue for ever); beyond the
        queue's bound the oldest are dropped and counted. Never blocks or raises.
        """
        ...

    def next_stream_id(self, *, unidirectional: bool) -> int:
        """The id that the next stream that we open will have."""
        ...

    def send_stream_data(self, stream_id: int, data: bytes, *, end_stream: bool) -> None:
        """Queue stream bytes. A stream that is already finished or reset ignores them."""
        ...

    def unsent_stream_bytes(self, stream_id: int) -> int:
        """Bytes queued on a stream and not yet acknowledged."""
        ...

    def consume_stream_bytes(self, stream_id: int, byte_count: int) -> None:
        """Grant the peer credit for bytes that the application is done with."""
        ...

    def reset_stream(self, stream_id: int, error_code: int) -> None:
        """RESET_STREAM; ignored where our side is already over."""
        ...

    def stop_stream(self, stream_id: int, error_code: int) -> None:
        """STOP_SENDING; ignored where the peer's side is already over."""
        ...

    def send_ping(self) -> None:
        """Queue a PING (RFC 9000 section 19.2), as a keep-alive."""
        ...

    def close(self, error_code: int, reason: str) -> None:
        """Close the connection with an application error code."""
        ...


class QuicApplication(Protocol):
    """The application protocol of one connection, chosen by ALPN once the handshake is complete."""

    def stream_data_received(self, stream_id: int, data: bytes, *, end_stream: bool) -> None:
        """Take stream bytes; call consume_stream_bytes when they are done with."""
        ...

    def stream_reset_received(self, stream_id: int, error_code: int) -> None:
        """The peer reset its side."""
        ...

    def stop_sending_received(self, stream_id: int, error_code: int) -> None:
        """The peer wants no more; our side has been reset already."""
        ...

    def datagrams_received(self, payloads: list[bytes]) -> None:
        """Take the DATAGRAM frames of one batch of packets, in order."""
        ...

    def streams_writable(self) -> None:
        """Acknowledgements arrived: queues may have drained. Called at most once a batch."""
        ...

    def connection_lost(self, error_code: int, reason: str) -> None:
        """The connection is over; called exactly once, the last call."""
        ...


ApplicationFactory = Callable[[QuicTransport], QuicApplication]


class H3Transport(Protocol):
    """One HTTP/3 connection, as a front end or the client sees it (implemented in h3_adapter)."""

    @property
    def quic(self) -> QuicTransport:
        """What lies below."""
        ...

    @property
    def peer_settings(self) -> Mapping[int, int] | None:
        """None until the peer's SETTINGS arrived."""
        ...

    @property
    def datagrams_negotiated(self) -> bool:
        """The peer takes DATAGRAM frames and announced H3_DATAGRAM.

        RFC 9297's 0x33=1, or the drafts' 0xffd277 and 0x276.
        """
        ...

    def max_http_datagram_bytes(self, stream_id: int) -> int:
        """The largest HTTP Datagram payload for this stream now; 0 without H3 datagrams."""
        ...

    @property
    def queued_datagrams(self) -> int:
        """Datagrams of the whole connection that wait for its congestion window."""
        ...

    def send_datagrams(self, stream_id: int, prefix: bytes, payloads: Sequence[bytes]) -> int:
        """Queue ``quarter stream id + prefix + payload`` each; return how many were queued."""
        ...

    def open_request(self, headers: Headers, *, end_stream: bool) -> int:
        """Client only: send a request, return its stream id."""
        ...

    def send_headers(self, stream_id: int, headers: Headers, *, end_stream: bool) -> None:
        """A response head (1xx, final) or trailers. Lower-case names; pseudo-headers first."""
        ...

    def send_data(self, stream_id: int, data: bytes, *, end_stream: bool) -> None:
        """One DATA frame (or FIN alone when data is empty)."""
        ...

    def unsent_bytes(self, stream_id: int) -> int:
        """Queued and not yet acknowledged."""
        ...

    def consume(self, stream_id: int, byte_count: int) -> None:
        """Grant credit for body bytes that were read."""
        ...

    def reset(self, stream_id: int, error_code: int) -> None:
        """Abort both directions of a request stream: RESET_STREAM and STOP_SENDING."""
        ...

    def stop_receiving(self, stream_id: int, error_code: int) -> None:
        """STOP_SENDING only: the response is complete, the rest of the request is not wanted."""
        ...

    def send_goaway(self) -> None:
        """GOAWAY for what has not been seen yet (RFC 9114 section 5.2); idempotent."""
        ...

    def close(self, error_code: int, reason: str) -> None:
        """Close the connection."""
        ...


class H3Application(Protocol):
    """What feeds on an HTTP/3 connection. Calls for one stream come in the order of the wire."""

    def settings_received(self, settings: Mapping[int, int]) -> None:
        """The peer's SETTINGS; requests may come before it."""
        ...

    def headers_received(self, stream_id: int, headers: Headers, *, end_stream: bool) -> None:
        """A request head (server), a response head (client; 1xx included), or trailers.

        Syntax has been checked as far as RFC 9114 section 4.2 goes (names, no connection headers,
        size); which pseudo-headers belong together is for the front end.
        """
        ...

    def data_received(self, stream_id: int, data: bytes, *, end_stream: bool) -> None:
        """Body bytes; grant credit with ``consume`` once they are read."""
        ...

    def malformed_received(self, stream_id: int, detail: str) -> None:
        """The stream broke RFC 9114; it has been reset with H3_MESSAGE_ERROR already."""
        ...

    def datagrams_received(self, stream_id: int, payloads: list[bytes]) -> None:
        """HTTP Datagram payloads for one stream, which may be unknown, closed or not yet begun."""
        ...

    def stream_reset_received(self, stream_id: int, error_code: int) -> None:
        """RESET_STREAM or STOP_SENDING from the peer."""
        ...

    def goaway_received(self, stream_id: int) -> None:
        """The peer wants no new requests."""
        ...

    def streams_writable(self) -> None:
        """Queues may have drained."""
        ...

    def connection_lost(self, error_code: int, reason: str) -> None:
        """The last call."""
        ...
