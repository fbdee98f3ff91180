"""Owns what an Allocate asks for: its attributes, read and checked (RFC 8656 section 7.2)."""

from dataclasses import dataclass

from masque_relay.stun.codepoints import (
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    AddressFamily,
    Attribute,
    ErrorCode,
)
from masque_relay.stun.message import StunMessage
from masque_relay.stun.values import decode_family, decode_u32
from masque_relay.wire.errors import WireError


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocateWish:
    """A well-formed wish; whether it can be granted is another matter."""

    is_tcp: bool
    family: AddressFamily
    """Of the (first) relayed address; IPv4 unless asked otherwise."""
    additional_family: AddressFamily | None
    """RFC 8656 section 7.1: a second relayed address."""
    even: bool
    reserve: bool
    reservation_token: bytes | None
    lifetime_s: int | None
    """None: not asked for."""
    wants_mobility: bool


def parse_wish(message: StunMessage, *, may_be_tcp: bool) -> AllocateWish | ErrorCode:
    """Return the wish of an Allocate, or the error that answers it.

    Args:
        message: an Allocate request.
        may_be_tcp: the client came over TCP or TLS, so that TCP may be relayed (RFC 6062).
    """
    try:
        return _parse(message, may_be_tcp=may_be_tcp)
    except WireError:
        return ErrorCode.BAD_REQUEST


def parse_lifetime(message: StunMessage) -> int | None:
    """Return the LIFETIME that is asked for, None without one.

    Raises:
        WireError: not four bytes.
    """
    value = message.get(Attribute.LIFETIME)
    return None if value is None else decode_u32(value, section="RFC 8656 section 18.2")


def parse_family(value: bytes) -> AddressFamily | None:
    """Return a known family, None for another one.

    Raises:
        WireError: not four bytes.
    """
    number = decode_family(value)
    return AddressFamily(number) if number in set(AddressFamily) else None


def _parse(message: StunMessage, *, may_be_tcp: bool) -> AllocateWish | ErrorCode:
    transport = message.get(Attribute.REQUESTED_TRANSPORT)
    if transport is None or len(transport) != 4:
        return ErrorCode.BAD_REQUEST
    is_tcp = transport[0] == PROTOCOL_TCP
    if transport[0] not in (PROTOCOL_UDP, PROTOCOL_TCP):
        return ErrorCode.UNSUPPORTED_TRANSPORT_PROTOCOL
    if not _goes_together(message) or (is_tcp and not (may_be_tcp and _fits_tcp(message))):
        return ErrorCode.BAD_REQUEST
    even = message.get(Attribute.EVEN_PORT)
    requested = message.get(Attribute.REQUESTED_ADDRESS_FAMILY)
    additional = _additional(message)
    family = AddressFamily.IPV4 if requested is None else parse_family(requested)
    if family is None:
        return ErrorCode.ADDRESS_FAMILY_NOT_SUPPORTED
    return AllocateWish(
        is_tcp=is_tcp,
        family=family,
        additional_family=None if additional is None else parse_family(additional),
        even=even is not None,
        reserve=_reserves(even),
        reservation_token=message.get(Attribute.RESERVATION_TOKEN),
        lifetime_s=parse_lifetime(message),
        wants_mobility=message.get(Attribute.MOBILITY_TICKET) == b"",
    )


def _goes_together(message: StunMessage) -> bool:
    """Return whether the attributes do not contradict each other (RFC 8656 section 7.2)."""
    requested = message.get(Attribute.REQUESTED_ADDRESS_FAMILY)
    additional = _additional(message)
    even = message.get(Attribute.EVEN_PORT)
    token = message.get(Attribute.RESERVATION_TOKEN)
    if additional is not None and (
        # Steps 8 to 10: it asks for IPv6 beside IPv4, and goes with none of these.
        parse_family(additional) is not AddressFamily.IPV6
        or requested is not None
        or token is not None
        or _reserves(even)
    ):
        return False
    if token is not None and (even is not None or requested is not None or len(token) != 8):
        return False
    return even is None or len(even) == 1


def _additional(message: StunMessage) -> bytes | None:
    value = message.get(Attribute.ADDITIONAL_ADDRESS_FAMILY)
    return message.get(Attribute.ADDITIONAL_ADDRESS_FAMILY_DRAFT) if value is None else value


def _reserves(even: bytes | None) -> bool:
    return even is not None and len(even) == 1 and bool(even[0] & 0x80)


def _fits_tcp(message: StunMessage) -> bool:
    # RFC 6062 section 5.1: what TCP does not have.
    return all(
        message.get(attribute) is None
        for attribute in (
            Attribute.EVEN_PORT,
            Attribute.DONT_FRAGMENT,
            Attribute.RESERVATION_TOKEN,
        )
    )
