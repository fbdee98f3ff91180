"""Owns what the local proxy tells a program when a connection fails: SOCKS reply, HTTP status."""

from dataclasses import dataclass
from http import HTTPStatus

from masque_relay.client.errors import ClientError, RelayTimeout, TunnelRefused
from masque_relay.client.socks import SocksReply
from masque_relay.wire.proxy_status import encode_proxy_status

PROXY_NAME = "ghostctl"
"""How the local proxy names itself in ``proxy-status`` (RFC 9209 section 2) and ``via``."""


class TargetFailed(ClientError):  # noqa: N818 - the names say what happened, as in the docs
    """The local proxy itself did not reach a target, or a split rule forbids it.

    Attributes:
        error: the RFC 9209 error type.
    """

    def __init__(self, message: str, *, error: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.error = error


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyAnswer:
    """A failure in both protocols."""

    reply: SocksReply
    status: HTTPStatus
    error: str
    """RFC 9209 section 2.3."""


_BY_ERROR = {
    "http_request_denied": (SocksReply.NOT_ALLOWED, HTTPStatus.FORBIDDEN),
    "destination_ip_prohibited": (SocksReply.NOT_ALLOWED, HTTPStatus.FORBIDDEN),
    "proxy_loop_detected": (SocksReply.NOT_ALLOWED, HTTPStatus.FORBIDDEN),
    "dns_error": (SocksReply.HOST_UNREACHABLE, HTTPStatus.BAD_GATEWAY),
    "destination_not_found": (SocksReply.HOST_UNREACHABLE, HTTPStatus.BAD_GATEWAY),
    "destination_unavailable": (SocksReply.HOST_UNREACHABLE, HTTPStatus.BAD_GATEWAY),
    "destination_ip_unroutable": (SocksReply.NETWORK_UNREACHABLE, HTTPStatus.BAD_GATEWAY),
    "connection_refused": (SocksReply.CONNECTION_REFUSED, HTTPStatus.BAD_GATEWAY),
    "connection_terminated": (SocksReply.CONNECTION_REFUSED, HTTPStatus.BAD_GATEWAY),
    "dns_timeout": (SocksReply.TTL_EXPIRED, HTTPStatus.GATEWAY_TIMEOUT),
    "connection_timeout": (SocksReply.TTL_EXPIRED, HTTPStatus.GATEWAY_TIMEOUT),
}

_BY_STATUS = {
    # the relay does not accept *our* credential: a program must not ask its user for another one
    401: "http_request_denied",
    403: "http_request_denied",
    407: "http_request_denied",
    504: "connection_timeout",
}


def answer_to(error: ClientError) -> ProxyAnswer:
    """Return what a program hears of a failure."""
    kind = _error_type(error)
    reply, status = _BY_ERROR.get(kind, (SocksReply.GENERAL_FAILURE, HTTPStatus.BAD_GATEWAY))
    if isinstance(error, TunnelRefused) and error.status in {429, 503}:
        # over a limit, whichever type says so: it is no verdict on the target
        reply, status = SocksReply.GENERAL_FAILURE, HTTPStatus.SERVICE_UNAVAILABLE
    return ProxyAnswer(reply=reply, status=status, error=kind)


def proxy_status_of(error: ClientError) -> bytes:
    """Return the ``proxy-status`` value that tells the reason (RFC 9209)."""
    rcode = error.rcode if isinstance(error, TunnelRefused) else None
    value = encode_proxy_status(
        PROXY_NAME, error=_error_type(error), rcode=rcode, details=error.message
    )
    return value.encode("ascii")


def _error_type(error: ClientError) -> str:
    match error:
        case TargetFailed():
            return error.error
        case TunnelRefused():
            if error.error in _BY_ERROR:
                return error.error
            return _BY_STATUS.get(error.status, "proxy_internal_error")
        case RelayTimeout():
            return "connection_timeout"
        case _:
            return "proxy_internal_error"
