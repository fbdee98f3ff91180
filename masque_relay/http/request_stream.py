"""Owns the seam between a connection and one of its requests, tunnel or WebSocket."""

from collections.abc import Callable, Sequence
from typing import Protocol

from starlette.types import Message

from masque_relay.contract.verdict import EndReason
from masque_relay.http.request_head import RequestHead
from masque_relay.quic.application import Headers


class RequestStream(Protocol):
    """One request: the connection pushes into it, its application pulls.

    Nothing but ``receive`` and ``send`` blocks, and nothing but ``send`` raises.
    """

    @property
    def stream_id(self) -> int:
        """Of the request stream."""
        ...

    @property
    def request_id(self) -> str:
        """In logs, the audit trail and ``proxy-status``."""
        ...

    @property
    def head(self) -> RequestHead:
        """The checked request head."""
        ...

    @property
    def is_disconnected(self) -> bool:
        """The client is gone, or was thrown out."""
        ...

    def data_received(self, data: bytes, *, end_stream: bool) -> None:
        """Take stream bytes."""
        ...

    def trailers_received(self, headers: Headers) -> None:
        """Take the trailer section, which ends the request."""
        ...

    def datagrams_received(self, payloads: Sequence[bytes]) -> None:
        """Take HTTP Datagrams."""
        ...

    def writable(self) -> None:
        """Bytes have left."""
        ...

    def disconnected(self, reason: EndReason, code: int | None = None) -> None:
        """The stream is over: reset by the peer, lost with the connection, or shut down."""
        ...

    def abort(self, reason: EndReason, code: int) -> None:
        """End the stream from our side and tell the application."""
        ...

    def wrap_up(self) -> None:
        """Tell a client that understands it to begin nothing new here."""
        ...

    def application_returned(self) -> None:
        """Finish what the application left open."""
        ...

    def application_failed(self) -> None:
        """Answer for an application that raised."""
        ...

    def outlives(self, on_over: Callable[[], None]) -> bool:
        """Return whether a splice goes on without its application, which has returned.

        ``on_over`` is called soon after its end then, and never where nothing goes on.
        """
        ...

    async def receive(self) -> Message:
        """Return the next event for the application."""
        ...

    async def send(self, message: Message) -> None:
        """Take an event from the application."""
        ...
