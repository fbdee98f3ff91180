"""Owns what a refusal means: status and Proxy-Status (RFC 9209) -> TunnelRefused with a hint."""

from masque_relay.client.errors import TunnelRefused
from masque_relay.wire.errors import WireError
from masque_relay.wire.proxy_status import ProxyStatus, parse_proxy_status

Headers = list[tuple[bytes, bytes]]

_MAX_DETAILS_CHARS = 300  # what a peer may put on a person's terminal

_ERROR_HINTS = {
    "dns_error": "check the target's name; the relay's resolver, not yours, looked it up",
    "dns_timeout": "the relay's resolver did not answer; try again, or give the target's address",
    "destination_not_found": "the relay could not find the target; check its name and port",
    "destination_unavailable": "the relay has no way to the target now; try again later",
    "destination_ip_prohibited": (
        "the relay refuses private, loopback, link-local and metadata addresses unless a policy "
        "rule names them; its operator can see which rule with `ghostctl policy explain`"
    ),
    "destination_ip_unroutable": "the relay has no route to that address; IPv6 without IPv6 there?",
    "connection_refused": "nothing listens on that port of the target",
    "connection_timeout": "the target did not answer the relay",
    "connection_limit_reached": "close some tunnels, or ask the operator for a higher limit",
    "http_request_denied": (
        "the relay's policy does not allow this target to you; its operator can see why with "
        "`ghostctl policy explain`"
    ),
    "http_request_error": "the relay could not read the request; check --template and the target",
    "proxy_loop_detected": "the target leads back to the relay itself",
}

_STATUS_HINTS = {
    400: "the relay could not read the request; check --template and the target",
    401: "give a valid credential: --token-file, --basic-file or --client-cert with --client-key",
    403: _ERROR_HINTS["http_request_denied"],
    404: "there is no UDP proxy under this path; ask for the relay's URI template (--template)",
    405: "there is no UDP proxy under this path; ask for the relay's URI template (--template)",
    407: "give a valid credential: --token-file, --basic-file or --client-cert with --client-key",
    421: "the relay does not serve this host name; check --relay",
    429: "the relay limits how many tunnels, or how many per second; try again later",
    501: "what answered is an HTTP/3 server, but not a UDP proxy; check --relay",
    502: "the relay could not reach the target",
    503: "the relay is draining or overloaded; try again later, or another relay",
    504: "the target, or the relay's resolver, took too long",
}

_SWITCHED_OFF_HINT = (
    "this relay has no such tunnels, or has them switched off: its operator can turn them on"
)

_SENT_HINTS = {
    401: (
        "the credential was sent and not accepted: it may have expired, be revoked, or be made for "
        "another relay; `ghostctl token inspect - < FILE` shows what it says"
    ),
    403: _STATUS_HINTS[403],
}
_SENT_HINTS[407] = _SENT_HINTS[401]


def refusal_from(
    status: int, headers: Headers, target: object, *, credential_sent: bool
) -> TunnelRefused:
    """Return the error for a final response outside 2xx.

    Args:
        status: the response's status code.
        headers: the whole response head, names in lower case.
        target: what was asked for, for the message.
        credential_sent: whether the request carried a credential; decides the hint for 401 and 407.
    """
    said = _proxy_status(headers)
    error = said.error if said is not None else None
    details = _printable(said.details) if said is not None and said.details else None
    rcode = _printable(said.rcode) if said is not None and said.rcode else None
    message = f"the relay refused {target}: {status}"
    if error is not None:
        message += f" {error}" + (f" ({rcode})" if rcode else "")
    if details is not None:
        message += f": {details}"
    return TunnelRefused(
        status,
        message,
        error=error,
        details=details,
        rcode=rcode,
        next_hop=said.next_hop if said is not None else None,
        retry_after_s=_retry_after_s(headers),
        hint=_hint(status, error, credential_sent=credential_sent),
    )


def header_values(headers: Headers, name: bytes) -> list[bytes]:
    """Return all values of one field, in order."""
    return [value for field, value in headers if field == name]


def status_of(headers: Headers) -> int | None:
    """Return ``:status``, or None where it is absent or no three-digit number."""
    for name, value in headers:
        if name == b":status":
            return int(value) if len(value) == 3 and value.isdigit() else None
    return None


def next_hop_of(headers: Headers) -> str | None:
    """Return the address that the relay connected to, where it says so (RFC 9209 section 2.1.2)."""
    said = _proxy_status(headers)
    return None if said is None else said.next_hop


def _proxy_status(headers: Headers) -> ProxyStatus | None:
    """Return what the intermediary nearest to the target said; a broken field is ignored."""
    values = header_values(headers, b"proxy-status")
    if not values:
        return None
    try:
        statuses = parse_proxy_status(b", ".join(values).decode("ascii"))
    except (WireError, UnicodeDecodeError):
        return None
    failed = [status for status in statuses if status.error is not None]
    said = failed or list(statuses)
    return said[0] if said else None


def _hint(status: int, error: str | None, *, credential_sent: bool) -> str | None:
    if status in {401, 407}:
        # says more than http_request_denied, which comes with it
        return (_SENT_HINTS if credential_sent else _STATUS_HINTS)[status]
    if status == 501 and error is not None:
        return _SWITCHED_OFF_HINT  # a proxy said it, and it could read what was asked for
    if error in _ERROR_HINTS:
        return _ERROR_HINTS[error]
    return _STATUS_HINTS.get(status)


def _retry_after_s(headers: Headers) -> int | None:
    for value in header_values(headers, b"retry-after"):
        if value.isdigit() and len(value) <= 9:
            return int(value)
    return None


def _printable(text: str) -> str:
    return "".join(c if " " <= c <= "~" else "?" for c in text[:_MAX_DETAILS_CHARS])
