"""Owns the ways of a session to its relay: what carries it, each opened by one function."""

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from enum import StrEnum

from masque_relay.contract.ghostwire import Exporter, FrameSession


class WayKind(StrEnum):
    """What may carry a session, in the order in which they are preferred."""

    H3 = "h3"
    QUIC = "quic"
    H2 = "h2"
    H1 = "h1"
    WEBSOCKET = "websocket"
    HTTPS = "https"
    TURN = "turn"


SessionMaker = Callable[[Exporter | None], FrameSession]
"""Makes the session once the connection is there; it begins when the way attaches itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenWay:
    """A way that is open and carries a session."""

    kind: WayKind
    session: FrameSession
    remote: str
    """The address that answered, for people."""
    close: Callable[[], Awaitable[None]]
    """Ends what is below the session; idempotent."""
    run: Callable[[], Coroutine[object, object, None]] | None = None
    """Moves the bytes until the way is closed; None where the event loop does it by itself."""


WayOpener = Callable[[SessionMaker], Awaitable[OpenWay]]
"""Connects and attaches a session. Raises ClientError when this way is blocked."""
