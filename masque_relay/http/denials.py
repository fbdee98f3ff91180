"""Owns how HTTP refuses: every DenyReason and FlowFault -> status, ``proxy-status``, challenges.

What the peer sees is only what stands in the tables here: never ``Denial.detail``, a rule's name,
an address that a name resolved to, or which of several checks a credential failed.
"""

from dataclasses import dataclass, field
from typing import assert_never

from starlette.types import Send

from masque_relay.contract.flow import FlowError, FlowFault
from masque_relay.contract.verdict import Denial, DenyReason
from masque_relay.quic.application import Headers
from masque_relay.wire.proxy_status import encode_proxy_status

REALM = "relay"
DEFAULT_PROXY_NAME = "ghostwire"
"""How we name ourselves in ``proxy-status`` (RFC 9209 section 2); config may choose another."""

_CHALLENGES = (f'Bearer realm="{REALM}"', f'Basic realm="{REALM}", charset="UTF-8"')
_INVALID_TOKEN = f'Bearer realm="{REALM}", error="invalid_token"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One refused request, ready to be sent."""

    status: int
    error: str
    """RFC 9209 section 2.3 error type. Deviation from RFC 9209 section 2.3.17: http_request_denied
    goes with 401, 407 and 429 too, because a client acts on the status."""
    explanation: str
    """For the person at the client: what is wrong and what to do; no secrets."""
    rcode: str | None = None
    retry_after_s: int | None = None
    challenges: tuple[str, ...] = field(default=())
    """Values for ``www-authenticate`` (401) or ``proxy-authenticate`` (407)."""


def refuse_denial(denial: Denial, *, speaks_to_proxy: bool) -> Refusal:
    """Return what a gate's denial looks like.

    Args:
        denial: the gate's value.
        speaks_to_proxy: the request carried ``Proxy-Authorization``. Then the answer is 407 with
            ``Proxy-Authenticate``; otherwise 401 with ``WWW-Authenticate``, because a templated
            tunnel is a resource of this origin (RFC 9298 section 3).
    """
    reason = denial.reason
    if reason is DenyReason.CREDENTIAL_MISSING:
        name = "Proxy-Authorization" if speaks_to_proxy else "Authorization"
        return _refuse_credential(
            f"this relay needs a credential: send {name}: Bearer TOKEN",
            _CHALLENGES,
            speaks_to_proxy=speaks_to_proxy,
        )
    if reason in _CREDENTIAL_REASONS:
        # RFC 6750 section 3.1: one code for expired, revoked, malformed or foreign tokens. Expiry
        # is told apart because only the holder of a real token can get that far.
        expired = reason is DenyReason.CREDENTIAL_EXPIRED
        text = "the credential has expired: get a new one" if expired else "credential not accepted"
        return _refuse_credential(
            text, (_INVALID_TOKEN, _CHALLENGES[1]), speaks_to_proxy=speaks_to_proxy
        )
    status, error, explanation = _deny_answer(reason)
    retry_after_s = denial.retry_after_s
    if retry_after_s is None and status in {429, 503}:
        retry_after_s = _DEFAULT_RETRY_AFTER_S
    return Refusal(status=status, error=error, explanation=explanation, retry_after_s=retry_after_s)


def refuse_flow_error(error: FlowError) -> Refusal:
    """Return what a target that could not be reached looks like."""
    status, error_type, explanation = _fault_answer(error.fault)
    return Refusal(
        status=status,
        error=error_type,
        explanation=explanation,
        rcode=error.rcode if error.fault is FlowFault.DNS_ERROR else None,
    )


def refuse_request(status: int, explanation: str) -> Refusal:
    """Return what a request that we cannot use looks like (bad target, unknown protocol)."""
    return Refusal(status=status, error="http_request_error", explanation=explanation)


def refusal_headers(refusal: Refusal, *, proxy_name: str, request_id: str) -> Headers:
    """Return the response fields; the request id lets an operator find the log record."""
    status_value = encode_proxy_status(
        proxy_name,
        error=refusal.error,
        rcode=refusal.rcode,
        details=f"{refusal.explanation} [{request_id}]",
    )
    headers: Headers = [
        (b"proxy-status", status_value.encode("ascii")),
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"cache-control", b"no-store"),
    ]
    challenge_name = b"proxy-authenticate" if refusal.status == 407 else b"www-authenticate"
    headers += [(challenge_name, value.encode("ascii")) for value in refusal.challenges]
    if refusal.retry_after_s is not None:
        headers.append((b"retry-after", str(refusal.retry_after_s).encode("ascii")))
    return headers


async def send_refusal(send: Send, refusal: Refusal, *, proxy_name: str, request_id: str) -> None:
    """Answer a request with a refusal."""
    body = f"{refusal.explanation}\nrequest {request_id}\n".encode()
    headers = refusal_headers(refusal, proxy_name=proxy_name, request_id=request_id)
    headers.append((b"content-length", str(len(body)).encode("ascii")))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


_DEFAULT_RETRY_AFTER_S = 5
_CREDENTIAL_REASONS = frozenset(
    {
        DenyReason.CREDENTIAL_INVALID,
        DenyReason.CREDENTIAL_EXPIRED,
        DenyReason.CREDENTIAL_AUDIENCE,
        DenyReason.REVOKED,
    }
)


def _refuse_credential(
    explanation: str, challenges: tuple[str, ...], *, speaks_to_proxy: bool
) -> Refusal:
    return Refusal(
        status=407 if speaks_to_proxy else 401,
        error="http_request_denied",
        explanation=explanation,
        challenges=challenges,
    )


def _deny_answer(reason: DenyReason) -> tuple[int, str, str]:  # noqa: PLR0911  (one per member)
    """Status, RFC 9209 error type, explanation."""
    match reason:
        case DenyReason.POLICY:
            return 403, "http_request_denied", "the relay's policy does not allow this target"
        case DenyReason.ADDRESS_PROHIBITED:
            # Deviation: RFC 9209 section 2.3.5 recommends 502, which invites retries; this is a
            # decision of the relay and stays one.
            return 403, "destination_ip_prohibited", "the target's address is prohibited"
        case DenyReason.TUNNEL_QUOTA:
            # Deviation: RFC 9209 section 2.3.12 recommends 503, which blames the relay; this client
            # has used up what is its own (RFC 6585 section 4).
            return 429, "connection_limit_reached", "too many tunnels open: close one"
        case DenyReason.OPEN_RATE:
            return 429, "http_request_denied", "tunnels are opened too fast: slow down"
        case DenyReason.BYTE_QUOTA:
            return 429, "http_request_denied", "the byte quota is used up"
        case DenyReason.OVERLOADED:
            return 503, "connection_limit_reached", "the relay is full: try again later"
        case DenyReason.DRAINING:
            return 503, "proxy_internal_response", "the relay is going away: use another one"
        case (
            DenyReason.CREDENTIAL_MISSING
            | DenyReason.CREDENTIAL_INVALID
            | DenyReason.CREDENTIAL_EXPIRED
            | DenyReason.CREDENTIAL_AUDIENCE
            | DenyReason.REVOKED
        ):
            return 401, "http_request_denied", "credential not accepted"
        case _:
            assert_never(reason)


def _fault_answer(fault: FlowFault) -> tuple[int, str, str]:  # noqa: C901, PLR0911  (one per member)
    """Status, RFC 9209 error type, explanation."""
    match fault:
        case FlowFault.DNS_ERROR:
            return 502, "dns_error", "the target's name does not resolve"
        case FlowFault.DNS_TIMEOUT:
            return 504, "dns_timeout", "the target's name did not resolve in time"
        case FlowFault.DESTINATION_UNAVAILABLE:
            # Deviation: RFC 9209 section 2.3.4 recommends 503, which blames the relay and makes
            # load balancers take it out.
            return 502, "destination_unavailable", "the target cannot be reached"
        case FlowFault.DESTINATION_IP_UNROUTABLE:
            return 502, "destination_ip_unroutable", "the relay has no route to the target"
        case FlowFault.DESTINATION_IP_PROHIBITED:
            return _deny_answer(DenyReason.ADDRESS_PROHIBITED)
        case FlowFault.CONNECTION_REFUSED:
            return 502, "connection_refused", "the target refused"
        case FlowFault.CONNECTION_TIMEOUT:
            return 504, "connection_timeout", "the target did not answer in time"
        case FlowFault.CONNECTION_TERMINATED:
            return 502, "connection_terminated", "the target ended the connection"
        case FlowFault.DATAGRAM_TOO_LARGE:
            return 502, "destination_unavailable", "the path to the target is too narrow"
        case FlowFault.RESOURCES:
            return 503, "connection_limit_reached", "the relay is out of sockets: try again later"
        case _:
            assert_never(fault)
