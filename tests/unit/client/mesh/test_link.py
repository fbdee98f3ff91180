"""Links: the datagrams of one peer, whichever session and channel carry them."""

from collections.abc import Callable, Sequence
from typing import Any

from masque_relay.client.mesh.link import PeerLink
from masque_relay.wire.ghostwire import ErrorCode

PEER, LINK_ID = b"p" * 32, b"l" * 8


class Channel:
    """Keeps what is sent, and its handler."""

    def __init__(self, handler: Any = None) -> None:
        self.handler = handler
        self.sent: list[bytes] = []
        self.is_closed = False

    def accept(self, handler: Any) -> None:
        self.handler = handler

    def close(self) -> None:
        self.is_closed = True
        self.handler.channel_closed(ErrorCode.NONE, "")

    def send_datagrams(self, payloads: Sequence[bytes]) -> int:
        self.sent += payloads
        return len(payloads)


class Session:
    """Opens channels."""

    is_open = True

    def __init__(self) -> None:
        self.channels: list[Channel] = []

    def open_channel(self, kind: Any, handler: Any, **_: Any) -> Channel:
        self.channels.append(Channel(handler))
        return self.channels[-1]


class Timers:
    """Runs nothing until told to."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], object]] = []

    def call_later(self, delay_s: float, callback: Callable[[], object], /) -> "Timers":
        self.waiting.append(callback)
        return self

    def cancel(self) -> None:
        self.waiting.clear()


def link(timers: Timers | None, received: list[bytes] | None = None) -> PeerLink:
    heard = [] if received is None else received
    return PeerLink(1, PEER, LINK_ID, receive=lambda _, got: heard.extend(got), timers=timers)


def use(made: PeerLink, session: Session) -> None:
    made.use_session(session)  # type: ignore[arg-type]  # the part of a session that a link uses


def test_lost_channel_is_called_again() -> None:
    timers, session = Timers(), Session()
    made = link(timers)
    use(made, session)
    session.channels[0].handler.channel_closed(ErrorCode.PEER_UNAVAILABLE, "")
    assert made.is_refused
    timers.waiting.pop()()

    made.send([b"x"])
    assert session.channels[1].sent == [b"x"]


def test_end_of_the_former_sessions_channel_does_not_touch_the_new_one() -> None:
    timers, old, new = Timers(), Session(), Session()
    made = link(timers)
    use(made, old)
    use(made, new)
    old.channels[0].handler.channel_closed(ErrorCode.PEER_UNAVAILABLE, "")
    made.send([b"x"])

    assert not timers.waiting
    assert not made.is_refused
    assert new.channels[0].sent == [b"x"]


def test_newer_call_of_the_other_side_replaces_the_older() -> None:
    received: list[bytes] = []
    made = link(None, received)
    first, second = Channel(), Channel()
    made.use_channel(first)  # type: ignore[arg-type]
    made.use_channel(second)  # type: ignore[arg-type]
    made.send([b"x"])
    first.handler.datagrams_received([b"late, but good"])

    assert first.is_closed
    assert second.sent == [b"x"]
    assert received == [b"late, but good"]
