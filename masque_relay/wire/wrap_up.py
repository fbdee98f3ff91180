"""Owns the WRAP_UP capsule: "begin nothing new here" (draft-ietf-httpbis-wrap-up)."""

from collections.abc import Callable

from masque_relay.wire.capsule import encode_capsule
from masque_relay.wire.errors import WireError

WRAP_UP = 0x272DDA5E
WRAP_UP_CAPSULE = encode_capsule(WRAP_UP, b"")
_SECTION = "draft-ietf-httpbis-wrap-up section 3"


class WrapUpReader:
    """Holds the WRAP_UP capsules of one stream to the rules: from the proxy, empty, once."""

    __slots__ = ("_has_come", "_received")

    def __init__(self, received: Callable[[], None] | None = None) -> None:
        """Take what to call; None is a proxy's own side, which must not receive any."""
        self._received = received
        self._has_come = False

    def take(self, value_bytes: int) -> None:
        """Take one capsule by the length of its value.

        Raises:
            WireError: it is none that may come here; the stream is to be aborted.
        """
        if self._received is None:
            raise WireError("WRAP_UP from a client", section=_SECTION)
        if value_bytes:
            raise WireError("WRAP_UP with a value", section=_SECTION)
        if self._has_come:
            raise WireError("a second WRAP_UP", section=_SECTION)
        self._has_come = True
        self._received()
