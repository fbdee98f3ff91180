"""Owns the seam between a request and its connection, whatever the HTTP version below is."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

from masque_relay.contract.address import Endpoint
from masque_relay.quic.application import Headers


class HttpVersion(StrEnum):
    """The values are ASGI's ``http_version``."""

    HTTP3 = "3"
    HTTP2 = "2"
    HTTP1 = "1.1"


class ClientLink(Protocol):
    """Who is at the other end of a connection; a QuicTransport is one."""

    @property
    def connection_id(self) -> str:
        """For logs."""
        ...

    @property
    def peer(self) -> Endpoint:
        """The client's address."""
        ...

    @property
    def server_name(self) -> str | None:
        """SNI as the client sent it."""
        ...

    @property
    def peer_certificate_chain(self) -> tuple[bytes, ...]:
        """DER, leaf first; empty when the client presented none."""
        ...


class HttpTransport(Protocol):
    """One HTTP connection, as its requests see it: the part of H3Transport that all versions have.

    Streams are numbered 0, 4, 8, ... in the order of their beginning, as QUIC numbers them; error
    codes are those of HTTP/3 (codes.py) and become the wire's own below. HTTP/2 and HTTP/1.1 have
    no datagrams: ``datagrams_negotiated`` is False there and carriers write capsules.
    """

    @property
    def datagrams_negotiated(self) -> bool:
        """HTTP Datagrams travel outside streams."""
        ...

    def max_http_datagram_bytes(self, stream_id: int) -> int:
        """The largest HTTP Datagram payload for this stream now; 0 without datagrams."""
        ...

    @property
    def queued_datagrams(self) -> int:
        """Datagrams of the whole connection that wait for its congestion window."""
        ...

    def send_datagrams(self, stream_id: int, prefix: bytes, payloads: Sequence[bytes]) -> int:
        """Queue ``prefix + payload`` each as a datagram; return how many were queued."""
        ...

    def send_headers(self, stream_id: int, headers: Headers, *, end_stream: bool) -> None:
        """A response head (1xx, final) or trailers. Lower-case names; ``:status`` first."""
        ...

    def send_data(self, stream_id: int, data: bytes, *, end_stream: bool) -> None:
        """Body or tunnel bytes. A stream that is already over ignores them."""
        ...

    def unsent_bytes(self, stream_id: int) -> int:
        """Queued on the stream and still ours to hold."""
        ...

    def consume(self, stream_id: int, byte_count: int) -> None:
        """Grant credit for body bytes that were read."""
        ...

    def reset(self, stream_id: int, error_code: int) -> None:
        """Abort both directions of a stream; ignored where it is over."""
        ...

    def stop_receiving(self, stream_id: int, error_code: int) -> None:
        """The response is complete and has left; the rest of the request is not wanted."""
        ...

    def send_goaway(self) -> None:
        """Take no new requests; idempotent."""
        ...

    def close(self, error_code: int, reason: str) -> None:
        """Close the connection once what is queued has left."""
        ...
