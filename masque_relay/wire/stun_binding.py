"""Owns a STUN Binding as a client asks it (RFC 8489 section 2): where am I seen?"""

from ipaddress import ip_address

from masque_relay.wire.errors import WireError
from masque_relay.wire.octets import OctetReader

TRANSACTION_BYTES = 12

_SECTION = "RFC 8489 section 5"
_COOKIE = 0x2112A442
_REQUEST, _SUCCESS = 0x0001, 0x0101
_XOR_MAPPED_ADDRESS = 0x0020
_HEAD_BYTES = 20
_FAMILY_BYTES = {1: 4, 2: 16}


def encode_binding_request(transaction: bytes) -> bytes:
    """Return a Binding request without attributes; 12 random bytes tell the answer."""
    return _REQUEST.to_bytes(2, "big") + bytes(2) + _COOKIE.to_bytes(4, "big") + transaction


def looks_like_stun(payload: bytes) -> bool:
    """Return whether a datagram has STUN's first bits and cookie."""
    return (
        len(payload) >= _HEAD_BYTES and payload[0] < 4 and payload[4:8] == bytes.fromhex("2112a442")
    )


def decode_binding_answer(payload: bytes, transaction: bytes) -> tuple[str, int] | None:
    """Return the address and port of a success response to our request; None for another one.

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
    while reader.left_bytes:
        attribute, size = reader.uint(2), reader.uint(2)
        value = reader.take(size)
        reader.take(-size % 4)
        if attribute == _XOR_MAPPED_ADDRESS:
            return _unmask(value, transaction)
    raise WireError("no XOR-MAPPED-ADDRESS", section=_SECTION)


def _unmask(value: bytes, transaction: bytes) -> tuple[str, int]:
    reader = OctetReader(value, section="RFC 8489 section 14.2")
    reader.uint(1)
    size = _FAMILY_BYTES.get(reader.uint(1))
    if size is None:
        raise reader.error("an unknown address family")
    port = reader.uint(2) ^ _COOKIE >> 16
    mask = _COOKIE.to_bytes(4, "big") + transaction
    masked = reader.take(size)
    reader.finish()
    address = bytes(one ^ other for one, other in zip(masked, mask, strict=False))
    return str(ip_address(address)), port
