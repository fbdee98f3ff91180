"""Owns NAT behaviour discovery: answers from another address or port of ours (RFC 5780).

Four sockets: two addresses, two ports. A Binding request may ask to be answered from another of
them, or at another port of its own address; both tell a client how its NAT maps and filters.
"""

from fallbacks.turn import replies
from fallbacks.turn.path import ClientPath
from masque_relay.contract.address import Endpoint
from masque_relay.stun.codepoints import Attribute, ErrorCode
from masque_relay.stun.message import StunMessage
from masque_relay.stun.values import decode_u32, encode_address, encode_xor_address
from masque_relay.wire.errors import WireError

CHANGE_IP = 0x04
CHANGE_PORT = 0x02
MAX_PADDING_BYTES = 1_500
"""RFC 5780 section 7.6: as long as the MTU, so that the answer comes in fragments; not longer."""


def answer_binding(path: ClientPath, message: StunMessage) -> tuple[ClientPath, bytes]:
    """Return the answer to a Binding request, and the path by which it goes."""
    try:
        return _answer(path, message)
    except WireError:
        return path, replies.error(message, ErrorCode.BAD_REQUEST)


def _answer(path: ClientPath, message: StunMessage) -> tuple[ClientPath, bytes]:
    flags = _change_flags(message)
    response_port = message.get(Attribute.RESPONSE_PORT)
    padding = message.get(Attribute.PADDING)
    sibling = path.sibling(change_ip=bool(flags & CHANGE_IP), change_port=bool(flags & CHANGE_PORT))
    mapped = encode_xor_address(path.client, message.transaction_id)
    attributes: list[tuple[int, bytes]] = [(Attribute.XOR_MAPPED_ADDRESS, mapped)]
    other = path.other_address
    if other is None:
        # RFC 5780 section 6.1: without another address these attributes are not understood.
        unknown = [
            int(kind)
            for kind, is_there in (
                (Attribute.CHANGE_REQUEST, bool(flags)),
                (Attribute.RESPONSE_PORT, response_port is not None),
                (Attribute.PADDING, padding is not None),
            )
            if is_there
        ]
        if unknown:
            return path, replies.unknown_attributes(message, unknown)
        return path, replies.success(message, attributes, key=None)
    if padding is not None and (response_port is not None or len(padding) > MAX_PADDING_BYTES):
        return path, replies.error(message, ErrorCode.BAD_REQUEST)
    attributes += [
        (Attribute.MAPPED_ADDRESS, encode_address(path.client)),
        (Attribute.RESPONSE_ORIGIN, encode_address(sibling.server)),
        (Attribute.OTHER_ADDRESS, encode_address(other)),
    ]
    if padding is not None:
        attributes.append((Attribute.PADDING, bytes(len(padding))))
    if response_port is not None:
        port = decode_u32(response_port, section="RFC 5780 section 7.5") >> 16
        sibling = sibling.to(Endpoint(address=path.client.address, port=port))
    return sibling, replies.success(message, attributes, key=None)


def _change_flags(message: StunMessage) -> int:
    value = message.get(Attribute.CHANGE_REQUEST)
    if value is None:
        return 0
    return decode_u32(value, section="RFC 5780 section 7.2") & (CHANGE_IP | CHANGE_PORT)
