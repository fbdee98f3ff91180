"""Owns the Proxy-Status field (RFC 9209)."""

from collections.abc import Mapping
from dataclasses import dataclass

from masque_relay.wire.errors import WireError
from masque_relay.wire.structured import (
    BareItem,
    Token,
    parse_list,
    serialize_string,
    serialize_token,
)

MAX_DETAILS_CHARS = 512
"""RFC 9209 leaves it open; keeps a response head well below every peer's limit."""

_SECTION = "RFC 9209 section 2"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyStatus:
    """What one intermediary says about a response."""

    proxy: str
    """Its name."""
    error: str | None
    """A type of RFC 9209 section 2.3, or one that is newer."""
    next_hop: str | None
    rcode: str | None
    """With dns_error: the response code's name (``NXDOMAIN``)."""
    details: str | None
    """For people."""
    parameters: Mapping[str, BareItem]
    """Everything, also what the fields above show."""


def encode_proxy_status(
    proxy: str,
    *,
    error: str | None = None,
    next_hop: str | None = None,
    rcode: str | None = None,
    details: str | None = None,
) -> str:
    """Return the field value for one intermediary.

    ``next_hop``, ``rcode`` and ``details`` may hold anything: what is not printable ASCII becomes
    a question mark, and long text is cut.

    Raises:
        ValueError: ``proxy`` or ``error`` is not a token; a bug of the caller.
    """
    parts = [serialize_token(proxy)]
    if error is not None:
        parts.append(f"error={serialize_token(error)}")
    for key, value in (("next-hop", next_hop), ("rcode", rcode), ("details", details)):
        if value is not None:
            parts.append(f"{key}={serialize_string(_printable(value))}")
    return "; ".join(parts)


def parse_proxy_status(text: str) -> tuple[ProxyStatus, ...]:
    """Return what each intermediary said, the one nearest to the origin first.

    Raises:
        WireError: not a list of tokens or strings; the field is to be ignored then.
    """
    statuses: list[ProxyStatus] = []
    for item in parse_list(text):
        if not isinstance(item.value, str):
            raise WireError("the name of a proxy is a token or a string", section=_SECTION)
        parameters = item.parameters
        error = parameters.get("error")
        statuses.append(
            ProxyStatus(
                proxy=str(item.value),
                error=str(error) if isinstance(error, Token) else None,
                next_hop=_text(parameters.get("next-hop")),
                rcode=_text(parameters.get("rcode")),
                details=_text(parameters.get("details")),
                parameters=parameters,
            )
        )
    return tuple(statuses)


def _text(value: BareItem | None) -> str | None:
    """Return a string or a token as text; another type is as good as missing."""
    return str(value) if isinstance(value, str) else None


def _printable(text: str) -> str:
    cut = text[:MAX_DETAILS_CHARS]
    return "".join(character if " " <= character <= "~" else "?" for character in cut)
