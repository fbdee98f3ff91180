"""Owns the seam between the client's connections and the HTTP version below: HttpTransport."""

from collections.abc import Sequence
from typing import Protocol

from masque_relay.contract.ghostwire import Exporter
from masque_relay.quic.application import Headers


class HttpTransport(Protocol):
    """One way to send requests to a relay: HTTP/3, HTTP/2, or HTTP/1.1 with a socket per request.

    Error codes are those of HTTP/3 (RFC 9114 section 8.1), whatever the version: each transport
    turns them into its own.
    """

    @property
    def http_version(self) -> str:
        """``"3"``, ``"2"`` or ``"1.1"``."""
        ...

    @property
    def request_limit(self) -> int:
        """How many requests may be open at once."""
        ...

    @property
    def datagrams_negotiated(self) -> bool:
        """HTTP Datagrams go as QUIC datagrams; otherwise as capsules on their stream."""
        ...

    @property
    def exporter(self) -> Exporter | None:
        """TLS keying material (RFC 8446 section 7.5); None where the library has none."""
        ...

    @property
    def queued_datagrams(self) -> int:
        """QUIC datagrams that wait for the congestion window."""
        ...

    def max_http_datagram_bytes(self, stream_id: int) -> int:
        """The largest HTTP Datagram payload of a QUIC datagram on this stream now; 0 without."""
        ...

    def send_datagrams(self, stream_id: int, prefix: bytes, payloads: Sequence[bytes]) -> int:
        """Queue ``prefix + payload`` each as a QUIC datagram; return how many were queued."""
        ...

    async def prepare(self) -> None:
        """Wait until one more request may be opened; to be called before each.

        Raises:
            ClientError: there is no way to open one now.
        """
        ...

    def open_request(self, headers: Headers, *, end_stream: bool) -> int:
        """Send a request in the form of HTTP/2 and 3; return its stream id."""
        ...

    def send_data(self, stream_id: int, data: bytes, *, end_stream: bool) -> None:
        """Send body bytes, capsules or a tunnel's bytes; ignored where our side is over."""
        ...

    def unsent_bytes(self, stream_id: int) -> int:
        """Queued, and not yet gone (or acknowledged, where the transport knows)."""
        ...

    def consume(self, stream_id: int, byte_count: int) -> None:
        """Grant credit for body bytes that were read."""
        ...

    def reset(self, stream_id: int, error_code: int) -> None:
        """Abort both directions of a stream."""
        ...

    def ping(self) -> None:
        """Ask for a sign of life."""
        ...

    def close(self, error_code: int, reason: str) -> None:
        """Close the connection."""
        ...
