"""Owns WireError: the one way in which bytes or text from a peer are refused."""

from enum import StrEnum


class Scope(StrEnum):
    """How much of the peer's connection a fault takes down."""

    STREAM = "stream"
    """One request, tunnel or message; its neighbours do not notice."""
    CONNECTION = "connection"
    """The specification says that the whole connection is at fault."""


class WireError(Exception):
    """What a peer sent breaks a wire format.

    Attributes:
        detail: what was wrong, for our log; never holds more than a short excerpt of the input.
        section: the rule that was broken, such as ``RFC 9297 section 3.2``.
        scope: whether the stream or the connection has to end.
    """

    def __init__(self, detail: str, *, section: str, scope: Scope = Scope.STREAM) -> None:
        super().__init__(f"{detail} ({section})")
        self.detail = detail
        self.section = section
        self.scope = scope
