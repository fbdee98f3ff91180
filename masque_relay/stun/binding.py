"""Owns a STUN Binding as a client asks it (RFC 8489 section 2): where am I seen?"""

from dataclasses import dataclass

from masque_relay.contract.address import Endpoint
from masque_relay.stun.codepoints import Attribute, MessageClass, Method
from masque_relay.stun.message import decode_message, encode_message
from masque_relay.stun.values import decode_address, decode_xor_address
from masque_relay.wire.errors import WireError

TRANSACTION_BYTES = 12
CHANGE_IP, CHANGE_PORT = 0x04, 0x02


def encode_binding_request(transaction: bytes, *, change: int = 0) -> bytes:
    """Return a Binding request; 12 random bytes tell the answer.

    Args:
        transaction: the random bytes.
        change: CHANGE_IP and CHANGE_PORT ask to be answered from elsewhere (RFC 5780 section 7.2).
    """
    changes = [(Attribute.CHANGE_REQUEST, change.to_bytes(4, "big"))] if change else []
    return encode_message(Method.BINDING, MessageClass.REQUEST, transaction, changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class BindingAnswer:
    """What a server says of us, and of itself."""

    mapped: tuple[str, int]
    """How it sees our socket."""
    other: tuple[str, int] | None
    """Its other address and other port, where it has one (RFC 5780 section 7.4)."""


def decode_binding_answer(payload: bytes, transaction: bytes) -> tuple[str, int] | None:
    """Return the address and port of a success response to our request; None for another message.

    Raises:
        WireError: it is no STUN message, or malformed.
    """
    answer = decode_binding(payload, transaction)
    return None if answer is None else answer.mapped


def decode_binding(payload: bytes, transaction: bytes) -> BindingAnswer | None:
    """Return all of a success response to our request; None for another message.

    Raises:
        WireError: it is no STUN message, or malformed.
    """
    answer = decode_message(payload)
    kind = answer.method, answer.message_class
    if kind != (Method.BINDING, MessageClass.SUCCESS) or answer.transaction_id != transaction:
        return None
    mapped, other = answer.get(Attribute.XOR_MAPPED_ADDRESS), answer.get(Attribute.OTHER_ADDRESS)
    if mapped is None:
        raise WireError("no XOR-MAPPED-ADDRESS", section="RFC 8489 section 14.2")
    return BindingAnswer(
        mapped=_pair(decode_xor_address(mapped, transaction)),
        other=None if other is None else _pair(decode_address(other)),
    )


def _pair(endpoint: Endpoint) -> tuple[str, int]:
    return str(endpoint.address), endpoint.port
