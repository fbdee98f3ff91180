"""Owns the field types that several sections share: listen addresses and durations."""

from enum import StrEnum
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, PlainValidator

from masque_relay.admin.address import UnixSocket
from masque_relay.contract.address import Endpoint, IPAddress
from masque_relay.contract.ip_scope import IPNetwork
from masque_relay.quic.slots import MAX_WORKERS
from masque_relay.wire.errors import WireError
from masque_relay.wire.host import parse_host
from masque_relay.wire.uri_template import UriTemplate
from masque_relay.wire.varint import MAX_VARINT

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


def parse_admin_address(text: str) -> Endpoint | UnixSocket:
    """Return an endpoint, or the Unix socket that ``unix:PATH`` writes.

    Raises:
        ValueError: it is neither.
    """
    if text.startswith(UNIX_PREFIX) and len(text) > len(UNIX_PREFIX):
        return UnixSocket(path=Path(text.removeprefix(UNIX_PREFIX)))
    return parse_listen_address(text)


def _listen_address(value: object) -> Endpoint:
    if not isinstance(value, str):
        raise ValueError("must be a string such as [::]:443")
    return parse_listen_address(value)


def _admin_address(value: object) -> Endpoint | UnixSocket:
    if not isinstance(value, str):
        raise ValueError("must be a string such as 127.0.0.1:9443")
    return parse_admin_address(value)


class HttpsListen(StrEnum):
    """Words in the place of an address for HTTP/2 and HTTP/1.1."""

    AUTO = "auto"
    """Address and port of HTTP/3, on TCP."""
    OFF = "off"


def _https_address(value: object) -> Endpoint | HttpsListen:
    if not isinstance(value, str):
        raise ValueError('must be a string such as [::]:443, "auto" or "off"')
    if value in set(HttpsListen):
        return HttpsListen(value)
    return parse_listen_address(value)


HttpsAddress = Annotated[Endpoint | HttpsListen, PlainValidator(_https_address)]
"""``ADDRESS:PORT``, ``auto`` or ``off``."""

ListenAddress = Annotated[Endpoint, PlainValidator(_listen_address)]
"""``ADDRESS:PORT``; IPv6 in brackets. Port 0 lets the kernel choose."""

AdminAddress = Annotated[Endpoint | UnixSocket, PlainValidator(_admin_address)]
"""``ADDRESS:PORT`` or ``unix:PATH``."""


def _checked_template(text: str) -> str:
    try:
        UriTemplate.parse(text, required=("target_host", "target_port"))
    except WireError as error:
        raise ValueError(f"{text!r} is not a usable URI template: {error}") from None
    return text


def _checked_ip_template(text: str) -> str:
    try:
        UriTemplate.parse(text)
    except WireError as error:
        raise ValueError(f"{text!r} is not a usable URI template: {error}") from None
    return text


def _ip_network(value: object) -> IPNetwork:
    try:
        if not isinstance(value, str):
            raise ValueError
        return ip_network(value)
    except ValueError:
        raise ValueError("must be a network such as 10.71.0.0/16, in quotes") from None


def _domain_name(text: str) -> str:
    try:
        host = parse_host(text)
    except WireError as error:
        raise ValueError(str(error)) from None
    if not isinstance(host, str):
        raise ValueError(f"{text!r} is an address, not a name")
    return host


def _ip_address(value: object) -> IPAddress:
    try:
        if not isinstance(value, str):
            raise ValueError
        return ip_address(value)
    except ValueError:
        raise ValueError("must be an IP address, in quotes") from None


AnyIpAddress = Annotated[IPAddress, PlainValidator(_ip_address)]
"""An IPv4 or IPv6 address."""

UriTemplateText = Annotated[str, AfterValidator(_checked_template)]
"""A URI template (RFC 6570) with ``target_host`` and ``target_port`` (RFC 9298 section 2)."""

IpTemplateText = Annotated[str, AfterValidator(_checked_ip_template)]
"""A URI template (RFC 6570) that may have ``target`` and ``ipproto`` (RFC 9484 section 3)."""

IpNetworkText = Annotated[IPNetwork, PlainValidator(_ip_network)]
"""An IPv4 or IPv6 network in CIDR notation."""

DomainName = Annotated[str, AfterValidator(_domain_name)]
"""A DNS name in its A-label form."""

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A duration in seconds."""

WorkerCount = Annotated[int, Field(ge=1, le=MAX_WORKERS)]
"""How many processes a relay has."""

CapsuleTypeNumber = Annotated[int, Field(gt=0, le=MAX_VARINT)]
"""A capsule type (RFC 9297 section 3.2) other than DATAGRAM."""

PortNumber = Annotated[int, Field(ge=1, le=65_535)]
"""A UDP or TCP port."""
