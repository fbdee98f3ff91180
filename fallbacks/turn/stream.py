"""Owns one TCP or TLS connection of a client: messages cut from it, and its end (RFC 8656).

After a ConnectionBind (RFC 6062) it is no longer cut: its bytes belong to a peer's connection.
"""

from collections.abc import Sequence
from typing import Protocol

from fallbacks.turn.allocation import Allocation
from fallbacks.turn.gate_request import source_key
from fallbacks.turn.path import PathKind, Splice
from fallbacks.turn.session import TurnSession
from masque_relay.contract.address import Endpoint
from masque_relay.stun.channel_data import StreamDecoder
from masque_relay.wire.errors import WireError

MESSAGES_PER_TURN = 256
"""Cut in one go, so that one client's megabyte does not starve the others."""


class Wire(Protocol):
    """The connection below."""

    @property
    def is_congested(self) -> bool:
        """The socket holds more than it should."""
        ...

    def write(self, data: bytes) -> None:
        """Send; never blocks."""
        ...

    def pause_reading(self) -> None:
        """Let the client wait. Idempotent."""
        ...

    def resume_reading(self) -> None:
        """Read on. Idempotent."""
        ...

    def close(self) -> None:
        """Close once everything is sent; cut off at a deadline. Idempotent."""
        ...

    def abort(self) -> None:
        """Close now. Idempotent."""
        ...


class TurnStream:
    """A client's connection; a ClientPath above a Wire."""

    def __init__(
        self,
        session: TurnSession,
        wire: Wire,
        *,
        kind: PathKind,
        client: Endpoint,
        server: Endpoint,
    ) -> None:
        self.allocation: Allocation | None = None
        self.splice: Splice | None = None
        """Where bytes go after a ConnectionBind."""
        self.wire = wire
        self._session = session
        self._kind = kind
        self._client = client
        self._server = server
        self._decoder = StreamDecoder()
        self._used_s = session.services.clock.monotonic_s()
        self._is_lost = False
        self._is_bound = False

    # -- ClientPath -----------------------------------------------------------------------------

    @property
    def kind(self) -> PathKind:
        """TCP or TLS."""
        return self._kind

    @property
    def client(self) -> Endpoint:
        """The client as the socket saw it."""
        return self._client

    @property
    def server(self) -> Endpoint:
        """Our end."""
        return self._server

    @property
    def is_lost(self) -> bool:
        """The connection is gone."""
        return self._is_lost

    def send(self, message: bytes) -> None:
        """Send one STUN message."""
        if not self._is_lost:
            self.wire.write(message)

    def send_batch(self, messages: Sequence[bytes]) -> int:
        """Send messages, padded; a client that does not read loses datagrams, not our memory."""
        if self._is_lost or self.wire.is_congested:
            return 0
        # RFC 8656 section 12.5: on streams ChannelData is padded to four bytes.
        if len(messages[0]) & 3 or len(messages) > 1:
            self.wire.write(b"".join([one + bytes(-len(one) & 3) for one in messages]))
        else:
            self.wire.write(messages[0])
        return len(messages)

    @property
    def other_address(self) -> Endpoint | None:
        """None: a connection is answered where it is (RFC 5780 section 6.1)."""
        return None

    def sibling(self, *, change_ip: bool, change_port: bool) -> "TurnStream":
        """Return itself."""
        del change_ip, change_port
        return self

    def to(self, client: Endpoint) -> "TurnStream":
        """Return itself."""
        del client
        return self

    def keep(self) -> None:
        """Nothing to do: whatever comes by the connection comes to us."""

    def forget(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Close the connection."""
        self.wire.close()

    # -- what the wire calls --------------------------------------------------------------------

    def start(self) -> None:
        """The connection is ready."""

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        if self.splice is not None:
            self.splice.client_bytes(data)
            return
        self._used_s = self._session.services.clock.monotonic_s()
        try:
            messages = self._decoder.feed(data, max_messages=MESSAGES_PER_TURN)
            while messages:
                self._deliver(messages)
                if self._is_lost or self._is_bound:
                    return
                messages = self._decoder.feed(b"", max_messages=MESSAGES_PER_TURN)
        except WireError:
            # Where the next message begins is not known any more.
            self._session.services.counters.malformed += 1
            self.wire.abort()
            return
        if self.wire.is_congested:
            # Answers pile up: whoever does not read them may not ask for more.
            self.wire.pause_reading()

    def end_received(self) -> None:
        """The client sends no more: without requests an allocation cannot live on."""
        if self.splice is not None:
            self.splice.client_end()
        else:
            self.wire.close()

    def writable(self) -> None:
        """The wire is congested no more."""
        if self.splice is not None:
            self.splice.client_writable()
        else:
            self.wire.resume_reading()

    def wire_lost(self) -> None:
        """The connection is gone; the last call."""
        self._is_lost = True
        if self.splice is not None:
            self.splice.client_lost()
        self._session.path_lost(self)

    def overdue(self, now_s: float) -> bool:
        """Whether the connection has held nothing for too long."""
        if self.allocation is not None or self._is_bound:
            return False
        limits = self._session.services.settings.limits
        return now_s - self._used_s > limits.unused_connection_timeout_s

    def expire(self) -> None:
        """Close it for that."""
        self.wire.abort()

    # -- RFC 6062 -------------------------------------------------------------------------------

    def begin_splice(self, splice: Splice) -> None:
        """Hand what has arrived behind the ConnectionBind, and everything that follows, over."""
        self._is_bound = True
        self.splice = splice
        rest = self._decoder.take_rest()
        if rest:
            splice.client_bytes(rest)

    def write(self, data: bytes) -> bool:
        """Send bytes of a peer; False asks for a pause until ``client_writable``."""
        if not self._is_lost:
            self.wire.write(data)
        return not self.wire.is_congested

    def pause_reading(self) -> None:
        """Let the client wait."""
        self.wire.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        self.wire.resume_reading()

    def _deliver(self, messages: list[bytes]) -> None:
        if self.allocation is not None:
            self._session.on_batch(self, messages)
            return
        key = source_key(self._client)
        for message in messages:
            # An allocation may begin, or the connection be bound, while they are read.
            if self._is_bound:
                return
            if not self._session.wants(key, message):
                self._session.services.counters.over_budget += 1
            else:
                self._session.on_batch(self, [message])
