"""Owns links: datagrams to one peer over whatever session is there now, and the table of them."""

import secrets
from collections.abc import Callable, Sequence
from typing import Protocol

from masque_relay.tunnels.ghostwire_peer import PeerSession
from masque_relay.tunnels.ghostwire_peer_channel import PeerChannel
from masque_relay.wire.ghostwire import ChannelKind, ErrorCode

SERVICE = b"ghostwire-e2e"
LINK_ID_BYTES = 8
RETRY_S = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Between calls while the other peer is away."""
MAX_INCOMING_LINKS = 1_024


class Timers(Protocol):
    """Runs something later; the event loop."""

    def call_later(self, delay_s: float, callback: Callable[[], object], /) -> "Timer":
        """Call once, in the event loop."""
        ...


class Timer(Protocol):
    """What has not run yet."""

    def cancel(self) -> None:
        """Do not run it."""
        ...


class PeerLink:
    """One link. Whoever made it calls again when its channel is lost; the other side waits.

    Attributes:
        number: in the addresses of this process.
        peer_id: the other peer.
        direct_send: sends past the relay; None while only the relay leads there.
        is_refused: the last call found nobody, or nobody who wants us.
    """

    def __init__(
        self,
        number: int,
        peer_id: bytes,
        link_id: bytes,
        *,
        receive: Callable[[int, Sequence[bytes]], None],
        timers: Timers | None,
    ) -> None:
        """Make a link that has no path yet.

        Args:
            number: in the addresses of this process.
            peer_id: the other peer.
            link_id: by which the other side knows it again.
            receive: takes what comes.
            timers: for calling again; None for a link that the other side made.
        """
        self.number = number
        self.peer_id = peer_id
        self.link_id = link_id
        self.is_refused = False
        self.direct_send: Callable[[Sequence[bytes]], int] | None = None
        self._receive = receive
        self._timers = timers
        self._session: PeerSession | None = None
        self._channel: PeerChannel | None = None
        self._ear: _Ear | None = None
        """Of the channel that counts; what became of older ones does not matter."""
        self._retry: Timer | None = None
        self._attempt = 0
        self._is_closed = False

    def send(self, payloads: Sequence[bytes]) -> int:
        """Send by the path that is there; QUIC repairs what is lost while there is none."""
        if self.direct_send is not None:
            return self.direct_send(payloads)
        channel = self._channel
        return len(payloads) if channel is None else channel.send_datagrams(payloads)

    def use_session(self, session: PeerSession | None) -> None:
        """Take another session, or none; a link that we made calls at once."""
        self._session = session
        self._attempt = 0
        if self._timers is not None:
            if self._retry is not None:
                self._retry.cancel()
            self._call()

    def use_channel(self, channel: PeerChannel) -> None:
        """Take a channel that the other side opened."""
        old, self._channel = self._channel, channel
        self._ear = _Ear(self)
        if old is not None:
            old.close()
        channel.accept(self._ear)

    def close(self) -> None:
        """Give the link up; idempotent."""
        self._is_closed = True
        if self._retry is not None:
            self._retry.cancel()
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def received(self, payloads: Sequence[bytes]) -> None:
        """Take what came, by whatever path."""
        self._receive(self.number, payloads)

    def answered(self, ear: "_Ear") -> None:
        """The other side is there."""
        if ear is self._ear:
            self._attempt = 0
            self.is_refused = False

    def lost(self, ear: "_Ear", code: int) -> None:
        """The path is gone; call again, less and less often."""
        if ear is not self._ear:
            return
        self._channel = self._ear = None
        self.is_refused = code in (ErrorCode.PEER_UNAVAILABLE, ErrorCode.REFUSED)
        if self._timers is None or self._is_closed or self._session is None:
            return
        delay_s = RETRY_S[min(self._attempt, len(RETRY_S) - 1)]
        self._attempt += 1
        self._retry = self._timers.call_later(delay_s, self._call)

    def _call(self) -> None:
        self._retry = None
        session = self._session
        if session is None or not session.is_open or self._is_closed:
            self._channel = self._ear = None
            return
        self._ear = _Ear(self)
        self._channel = session.open_channel(
            ChannelKind.DATAGRAMS,
            self._ear,
            peer_id=self.peer_id,
            service=SERVICE + b"/" + self.link_id,
        )


class _Ear:
    """The ChannelHandler of one channel of a link.

    One for each, because the old channel of a link ends when the new one is already there.
    """

    def __init__(self, link: PeerLink) -> None:
        self._link = link

    def channel_opened(self) -> None:
        """The other side is there."""
        self._link.answered(self)

    def datagrams_received(self, payloads: Sequence[bytes]) -> None:
        """Hand over, from whichever channel."""
        self._link.received(payloads)

    def data_received(self, data: bytes) -> None:
        """Links have no stream bytes."""

    def end_received(self) -> None:
        """Nor their end."""

    def channel_writable(self) -> None:
        """Nor credit."""

    def channel_closed(self, code: int, reason: str) -> None:
        """The path is gone."""
        self._link.lost(self, code)


class LinkTable:
    """All links of one peer, by their numbers; incoming ones also by who made them."""

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._links: dict[int, PeerLink] = {}
        self._incoming: dict[tuple[bytes, bytes], PeerLink] = {}
        self._next_number = 1
        self._session: PeerSession | None = None

    def __len__(self) -> int:
        return len(self._links)

    def make(self, peer_id: bytes, receive: Callable[[int, Sequence[bytes]], None]) -> PeerLink:
        """Make a link to a peer, which calls at once if there is a session."""
        link = self._add(peer_id, secrets.token_bytes(LINK_ID_BYTES), receive, self._timers)
        link.use_session(self._session)
        return link

    def called(
        self, channel: PeerChannel, receive: Callable[[int, Sequence[bytes]], None]
    ) -> PeerLink | None:
        """Take a call for a link, a new one or one whose path was lost; None: refused."""
        service, _, link_id = channel.service.partition(b"/")
        if service != SERVICE or len(link_id) != LINK_ID_BYTES:
            return None
        link = self._incoming.get((channel.peer_id, link_id))
        if link is None:
            if len(self._incoming) >= MAX_INCOMING_LINKS:
                return None
            link = self._add(channel.peer_id, link_id, receive, None)
            self._incoming[channel.peer_id, link_id] = link
        link.use_channel(channel)
        return link

    def get(self, number: int) -> PeerLink | None:
        """Return a link."""
        return self._links.get(number)

    def use_session(self, session: PeerSession | None) -> None:
        """Give every link another session."""
        self._session = session
        for link in tuple(self._links.values()):
            link.use_session(session)

    def forget(self, link: PeerLink) -> None:
        """Close a link and forget it."""
        link.close()
        self._links.pop(link.number, None)
        self._incoming.pop((link.peer_id, link.link_id), None)

    def send(self, number: int, payloads: Sequence[bytes]) -> int:
        """Send on the link of a number; a SendToLink."""
        link = self._links.get(number)
        return 0 if link is None else link.send(payloads)

    def _add(
        self,
        peer_id: bytes,
        link_id: bytes,
        receive: Callable[[int, Sequence[bytes]], None],
        timers: Timers | None,
    ) -> PeerLink:
        link = PeerLink(self._next_number, peer_id, link_id, receive=receive, timers=timers)
        self._links[link.number] = link
        self._next_number += 1
        return link
