"""Owns the field types that several sections share: listen addresses and durations."""

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from masque_relay.contract.address import Endpoint

UNIX_PREFIX = "unix:"


def parse_listen_address(text: str) -> Endpoint:
    """Return the endpoint that ``192.0.2.1:443`` or ``[::]:443`` writes.

    Raises:
        ValueError: it is neither.
    """
    host, separator, port_text = text.rpartition(":")
    port = int(port_text) if port_text.isascii() and port_text.isdigit() else -1
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        if not separator or not 0 <= port <= 65_535:
            raise ValueError
        address = ip_address(host[1:-1] if bracketed else host)
        if bracketed != (address.version == 6):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"{text!r} is not ADDRESS:PORT, such as 192.0.2.1:443 or [::]:443"
        ) from None
    return Endpoint(address=address, port=port)


def parse_admin_address(text: str) -> Endpoint | Path:
    """Return an endpoint, or the path of a Unix socket that ``unix:PATH`` writes.

    Raises:
        ValueError: it is neither.
    """
    if text.startswith(UNIX_PREFIX) and len(text) > len(UNIX_PREFIX):
        return Path(text.removeprefix(UNIX_PREFIX))
    return parse_listen_address(text)


def _listen_address(value: object) -> object:
    return parse_listen_address(value) if isinstance(value, str) else value


def _admin_address(value: object) -> object:
    return parse_admin_address(value) if isinstance(value, str) else value


ListenAddress = Annotated[Endpoint, BeforeValidator(_listen_address)]
"""``ADDRESS:PORT``; IPv6 in brackets. Port 0 lets the kernel choose."""

AdminAddress = Annotated[Endpoint | Path, BeforeValidator(_admin_address)]
"""``ADDRESS:PORT`` or ``unix:PATH``."""

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A duration in seconds."""
