"""Owns a STUN Binding as a client asks it (RFC 8489 section 2): where am I seen?"""

from dataclasses import dataclass
from ipaddress import ip_address

from masque_relay.wire.errors import WireError
from masque_relay.wire.octets import OctetReader

TRANSACTION_BYTES = 12
CHANGE_IP, CHANGE_PORT = 0x04, 0x02

_SECTION = "RFC 8489 section 5"
_COOKIE = 0x2112A442
_REQUEST, _SUCCESS = 0x0001, 0x0101
_XOR_MAPPED_ADDRESS, _OTHER_ADDRESS = 0x0020, 0x802C
_HEAD_BYTES = 20
_FAMILY_BYTES = {1: 4, 2: 16}


def encode_binding_request(transaction: bytes, *, change: int = 0) -> bytes:
    """Return a Binding request; 12 random bytes tell the answer.

    Args:
        transaction: the random bytes.
        change: CHANGE_IP and CHANGE_PORT ask to be answered from elsewhere (RFC 5780 section 7.2).
    """
    attribute = b"" if not change else bytes.fromhex("00030004") + change.to_bytes(4, "big")
    length = len(attribute).to_bytes(2, "big")
    cookie = _COOKIE.to_bytes(4, "big")
    return _REQUEST.to_bytes(2, "big") + length + cookie + transaction + attribute


def looks_like_stun(payload: bytes) -> bool:
    """Return whether a datagram has STUN's first bits and cookie."""
    return (
        len(payload) >= _HEAD_BYTES and payload[0] < 4 and payload[4:8] == bytes.fromhex("2112a442")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BindingAnswer:
    """What a server says of us, and of itself."""

    mapped: tuple[str, int]
    """How it sees our socket."""
    other: tuple[str, int] | None
    """Its other address and other port, where it has one (RFC 5780 section 7.4)."""


def decode_binding_answer(payload: bytes, transaction: bytes) -> tuple[str, int] | None:
    """Return the address and port of a success response to our request; None for another one.

    Raises:
        WireError: it is an answer to us, and malformed.
    """
    answer = decode_binding(payload, transaction)
    return None if answer is None else answer.mapped


def decode_binding(payload: bytes, transaction: bytes) -> BindingAnswer | None:
    """Return all of a success response to our request; None for another datagram.

    Raises:
        WireError: it is an answer to us, and malformed.
    """
    reader = OctetReader(payload, section=_SECTION)
    kind, length = reader.uint(2), reader.uint(2)
    cookie, answered = reader.uint(4), reader.take(TRANSACTION_BYTES)
    if kind != _SUCCESS or cookie != _COOKIE or answered != transaction:
        return None
    if length != reader.left_bytes:
        raise reader.error("the length is not the message's")
    mapped: tuple[str, int] | None = None
    other: tuple[str, int] | None = None
    while reader.left_bytes:
        attribute, size = reader.uint(2), reader.uint(2)
        value = reader.take(size)
        reader.take(-size % 4)
        if attribute == _XOR_MAPPED_ADDRESS and mapped is None:
            mapped = _address(value, _COOKIE.to_bytes(4, "big") + transaction)
        elif attribute == _OTHER_ADDRESS:
            other = _address(value, bytes(16))
    if mapped is None:
        raise WireError("no XOR-MAPPED-ADDRESS", section=_SECTION)
    return BindingAnswer(mapped=mapped, other=other)


def _address(value: bytes, mask: bytes) -> tuple[str, int]:
    reader = OctetReader(value, section="RFC 8489 section 14.2")
    reader.uint(1)
    size = _FAMILY_BYTES.get(reader.uint(1))
    if size is None:
        raise reader.error("an unknown address family")
    port = reader.uint(2) ^ int.from_bytes(mask[:2], "big")
    masked = reader.take(size)
    reader.finish()
    address = bytes(one ^ other for one, other in zip(masked, mask, strict=False))
    return str(ip_address(address)), port
