"""Owns the bytes of bound UDP (draft-ietf-masque-connect-udp-listen-15): capsules, peers, fields.

A peer is kept in its wire form (IP version, address, port): it is what the capsule and the datagram
carry, so that a table of peers needs no parsing per datagram.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address

from masque_relay.wire.errors import WireError
from masque_relay.wire.structured import parse_boolean, parse_list, serialize_string
from masque_relay.wire.varint import decode_varint, encode_varint

BIND_FIELD = "connect-udp-bind"
PUBLIC_ADDRESS_FIELD = "proxy-public-address"
BIND_VALUE = "?1"

ANY_TARGET = "*"
"""Section 2: both template variables of a client that has no one target."""

IPV4_PEER_BYTES = 7
IPV6_PEER_BYTES = 19
"""An uncompressed datagram's head: IP version, address, port (section 4)."""

_ASSIGN_SECTION = "connect-udp-listen section 3.1"
_ACK_SECTION = "connect-udp-listen section 3.2"
_CLOSE_SECTION = "connect-udp-listen section 3.3"
_ADDRESS_SECTION = "connect-udp-listen section 7"
_TARGET_SECTION = "connect-udp-listen section 2"


class BindCapsule(IntEnum):
    """The capsule types of section 11.2."""

    COMPRESSION_ASSIGN = 0x11
    COMPRESSION_ACK = 0x12
    COMPRESSION_CLOSE = 0x13


BIND_CAPSULE_TYPES: frozenset[int] = frozenset(BindCapsule)


@dataclass(frozen=True, slots=True)
class CompressionAssign:
    """A COMPRESSION_ASSIGN capsule."""

    context_id: int
    peer: bytes | None
    """The peer in wire form; None registers the uncompressed context."""


def encode_assign(context_id: int, peer: bytes | None) -> bytes:
    """Return the value of a COMPRESSION_ASSIGN capsule; a peer is as :func:`encode_peer` says."""
    return encode_varint(context_id) + (b"\0" if peer is None else peer)


def decode_assign(value: bytes) -> CompressionAssign:
    """Return what a COMPRESSION_ASSIGN capsule says.

    Raises:
        WireError: context ID 0, an IP version other than 0, 4 and 6, or another length.
    """
    context_id, offset = decode_varint(value)
    if context_id == 0:
        raise WireError("COMPRESSION_ASSIGN of context 0", section=_ASSIGN_SECTION)
    if value[offset:] == b"\0":
        return CompressionAssign(context_id, None)
    if peer_end(value, offset) != len(value):
        raise WireError("COMPRESSION_ASSIGN with a malformed address", section=_ASSIGN_SECTION)
    return CompressionAssign(context_id, value[offset:])


def encode_context_id(context_id: int) -> bytes:
    """Return the value of a COMPRESSION_ACK or COMPRESSION_CLOSE capsule."""
    return encode_varint(context_id)


def decode_ack(value: bytes) -> int:
    """Return the context ID of a COMPRESSION_ACK capsule.

    Raises:
        WireError: it is truncated, or something follows it.
    """
    return _decode_context_id(value, "COMPRESSION_ACK", _ACK_SECTION)


def decode_close(value: bytes) -> int:
    """Return the context ID of a COMPRESSION_CLOSE capsule.

    Raises:
        WireError: it is 0 or truncated, or something follows it.
    """
    context_id = _decode_context_id(value, "COMPRESSION_CLOSE", _CLOSE_SECTION)
    if context_id == 0:
        raise WireError("COMPRESSION_CLOSE of context 0", section=_CLOSE_SECTION)
    return context_id


def encode_peer(address: IPv4Address | IPv6Address, port: int) -> bytes:
    """Return a peer's wire form: IP version, address, port."""
    return bytes((address.version,)) + address.packed + port.to_bytes(2, "big")


def decode_peer(peer: bytes) -> tuple[IPv4Address | IPv6Address, int]:
    """Return address and port of a peer whose wire form :func:`peer_end` has measured."""
    packed = peer[1:-2]
    address = IPv4Address(packed) if peer[0] == 4 else IPv6Address(packed)
    return address, int.from_bytes(peer[-2:], "big")


def peer_end(data: bytes, offset: int) -> int:
    """Return where the peer that begins at ``offset`` ends; 0 when there is none.

    Section 4: the IP version of a datagram MUST be 4 or 6.
    """
    version = data[offset] if offset < len(data) else 0
    if version == 4:
        end = offset + IPV4_PEER_BYTES
    elif version == 6:
        end = offset + IPV6_PEER_BYTES
    else:
        return 0
    return end if end <= len(data) else 0


def asks_to_bind(field_values: Sequence[bytes]) -> bool:
    """Return whether the lines of a ``Connect-UDP-Bind`` field say true (section 6).

    Unknown parameters are ignored; any other type, so also a second line (a list), is as no field.
    """
    if len(field_values) != 1:
        return False
    return parse_boolean(field_values[0].decode("latin-1")) is True


def names_any_target(variables: Mapping[str, str]) -> bool:
    """Return whether a template's variables are both ``*``.

    Raises:
        WireError: only one of them is (section 2: malformed).
    """
    wildcards = [variables[name] == ANY_TARGET for name in ("target_host", "target_port")]
    if any(wildcards) and not all(wildcards):
        raise WireError("only one of host and port is *", section=_TARGET_SECTION)
    return all(wildcards)


def encode_public_addresses(addresses: Iterable[tuple[IPv4Address | IPv6Address, int]]) -> str:
    """Return the value of ``Proxy-Public-Address`` (section 7): a list of strings."""
    return ", ".join(serialize_string(_ip_port(address, port)) for address, port in addresses)


def parse_public_addresses(
    field_value: str,
) -> tuple[tuple[IPv4Address | IPv6Address, int], ...]:
    """Return the addresses and ports of a ``Proxy-Public-Address`` field, in its order.

    Raises:
        WireError: no list of strings, an empty one, or a string that is no ip-port tuple.
    """
    found: list[tuple[IPv4Address | IPv6Address, int]] = []
    for item in parse_list(field_value):
        if type(item.value) is not str:  # a Token is a str of its own kind
            raise WireError("Proxy-Public-Address is no list of strings", section=_ADDRESS_SECTION)
        found.append(_parse_ip_port(item.value))
    if not found:
        raise WireError("empty Proxy-Public-Address", section=_ADDRESS_SECTION)
    return tuple(found)


def _decode_context_id(value: bytes, name: str, section: str) -> int:
    context_id, offset = decode_varint(value)
    if offset != len(value):
        raise WireError(f"{name} with bytes behind the context ID", section=section)
    return context_id


def _ip_port(address: IPv4Address | IPv6Address, port: int) -> str:
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def _parse_ip_port(text: str) -> tuple[IPv4Address | IPv6Address, int]:
    host, _, port_text = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ip_address(host[1:-1] if bracketed else host)
    except ValueError as error:
        raise _bad_ip_port() from error
    port = int(port_text) if port_text.isascii() and port_text.isdigit() else 0
    if bracketed != (address.version == 6) or "%" in host or not 1 <= port <= 65_535:
        raise _bad_ip_port()
    return address, port


def _bad_ip_port() -> WireError:
    return WireError("Proxy-Public-Address with no ip-port tuple", section=_ADDRESS_SECTION)
