"""Owns the client's errors: what went wrong, whose doing it was, and what to try next."""

from masque_relay.contract.verdict import EndReason
from masque_relay.wire.ghostwire import ErrorCode


class ClientError(Exception):
    """The base of everything that :mod:`masque_relay.client` raises on purpose.

    Attributes:
        message: one line for a person.
        hint: what to do next, or None where we have no advice.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class AddressError(ClientError, ValueError):
    """A relay URL, template, LISTEN=TARGET or target cannot be read."""


class CredentialError(ClientError):
    """A credential file is absent, unreadable or not in the form it must have."""


class ListenFailed(ClientError):  # noqa: N818 - the names say what happened, as in the docs
    """A local port is taken, or its address is not ours."""


class DeviceFailed(ClientError):  # noqa: N818
    """A TUN device, its routes or the name servers of this machine cannot be set up."""


class RelayUnreachable(ClientError):  # noqa: N818 - the names say what happened, as in the docs
    """Nothing answered there: no address, no route, a closed port, or silence."""


class RelayUntrusted(ClientError):  # noqa: N818
    """The TLS handshake failed: the certificate was not accepted, or the relay refused ours."""


class RelayTimeout(ClientError):  # noqa: N818
    """The relay is there but did not answer one request in time."""


class EchoSilent(ClientError):  # noqa: N818
    """The relay opened a tunnel to a benchmark's echo, and nothing comes back from there."""


class RelayIncapable(ClientError):  # noqa: N818
    """What answers speaks HTTP/3, but not extended CONNECT (RFC 9220): probably no relay."""


class ConnectionLost(ClientError):  # noqa: N818
    """The connection to the relay is over, with all its tunnels."""


class RelayLeaving(ClientError):  # noqa: N818
    """The relay sent GOAWAY: it takes no new tunnels on this connection."""


class TunnelClosed(ClientError):  # noqa: N818
    """The tunnel is over; raised by receive() once its queue is empty.

    Attributes:
        reason: who ended it and how.
    """

    def __init__(self, reason: EndReason, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class TunnelRefused(ClientError):  # noqa: N818
    """The relay answered a tunnel request with something else than 2xx.

    Attributes:
        status: the HTTP status code.
        error: the RFC 9209 error type, or None where the relay gave none.
        details: the relay's own words, or None.
        rcode: the DNS response code where a name did not resolve.
        next_hop: the address that the relay tried, or None.
        retry_after_s: when asking again may help, or None.
    """

    def __init__(  # noqa: PLR0913 - all but two are optional, by keyword, and what a response says
        self,
        status: int,
        message: str,
        *,
        error: str | None = None,
        details: str | None = None,
        rcode: str | None = None,
        next_hop: str | None = None,
        retry_after_s: int | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.error = error
        self.details = details
        self.rcode = rcode
        self.next_hop = next_hop
        self.retry_after_s = retry_after_s


class MeshRefused(ClientError):  # noqa: N818
    """The relay does not let this peer into the mesh.

    Attributes:
        code: of the protocol's ERROR (``wire.ghostwire.ErrorCode``).
        retry_after_s: when asking again may help.
    """

    def __init__(self, code: int, *, retry_after_s: float = 0) -> None:
        known = code in list(ErrorCode)
        name = ErrorCode(code).name.lower().replace("_", " ") if known else str(code)
        hint = (
            "is the token for this peer? See: ghostctl token issue --peer"
            if code == ErrorCode.UNAUTHENTICATED
            else None
        )
        super().__init__(f"the relay does not let this peer in: {name}", hint=hint)
        self.code = code
        self.retry_after_s = retry_after_s


class PeerRefused(ClientError):  # noqa: N818
    """The other peer has no such service, broke the stream off, or does not take what was sent."""
