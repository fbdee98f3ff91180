"""What an Allocate asks for."""

import pytest

from fallbacks.turn.wish import AllocateWish, parse_wish
from masque_relay.stun.codepoints import Attribute, ErrorCode, MessageClass, Method
from masque_relay.stun.message import decode_message, encode_message

TRANSPORT = Attribute.REQUESTED_TRANSPORT
FAMILY = Attribute.REQUESTED_ADDRESS_FAMILY
SECOND = Attribute.ADDITIONAL_ADDRESS_FAMILY
RESERVED = Attribute.RESERVATION_TOKEN
UNSUPPORTED = ErrorCode.UNSUPPORTED_TRANSPORT_PROTOCOL
NO_FAMILY = ErrorCode.ADDRESS_FAMILY_NOT_SUPPORTED
UDP = (int(TRANSPORT), b"\x11\0\0\0")
TCP = (int(TRANSPORT), b"\x06\0\0\0")
V4, V6 = b"\1\0\0\0", b"\2\0\0\0"
TOKEN = bytes(8)
BAD = ErrorCode.BAD_REQUEST


def wish(*attributes: tuple[int, bytes], may_be_tcp: bool = True) -> AllocateWish | ErrorCode:
    data = encode_message(Method.ALLOCATE, MessageClass.REQUEST, bytes(12), attributes)
    return parse_wish(decode_message(data), may_be_tcp=may_be_tcp)


@pytest.mark.parametrize(
    ("attributes", "error"),
    [
        ((), BAD),
        (((TRANSPORT, b"\x11"),), BAD),
        (((TRANSPORT, b"\x63\0\0\0"),), UNSUPPORTED),
        ((UDP, (FAMILY, b"\3\0\0\0")), NO_FAMILY),
        ((UDP, (FAMILY, b"\1")), BAD),
        ((UDP, (SECOND, V4)), BAD),
        ((UDP, (SECOND, V6), (FAMILY, V4)), BAD),
        ((UDP, (SECOND, V6), (RESERVED, TOKEN)), BAD),
        ((UDP, (SECOND, V6), (Attribute.EVEN_PORT, b"\x80")), BAD),
        ((UDP, (RESERVED, TOKEN), (Attribute.EVEN_PORT, b"\0")), BAD),
        ((UDP, (RESERVED, TOKEN), (FAMILY, V4)), BAD),
        ((UDP, (RESERVED, b"short")), BAD),
        ((UDP, (Attribute.EVEN_PORT, b"")), BAD),
        ((UDP, (Attribute.LIFETIME, b"x")), BAD),
        ((TCP, (Attribute.EVEN_PORT, b"\0")), BAD),
        ((TCP, (Attribute.DONT_FRAGMENT, b"")), BAD),
        ((TCP, (RESERVED, TOKEN)), BAD),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused(
    attributes: tuple[tuple[int, bytes], ...], error: ErrorCode
) -> None:
    assert wish(*attributes) is error


def test_tcp_needs_a_client_on_tcp() -> None:
    assert wish(TCP, may_be_tcp=False) is BAD
    made = wish(TCP)
    assert isinstance(made, AllocateWish)
    assert made.is_tcp


def test_a_plain_wish_is_ipv4_without_extras() -> None:
    made = wish(UDP)
    assert isinstance(made, AllocateWish)
    assert (made.family, made.additional_family) == (1, None)
    assert (made.even, made.reserve, made.reservation_token) == (False, False, None)
    assert (made.lifetime_s, made.wants_mobility) == (None, False)


def test_everything_that_goes_together() -> None:
    made = wish(
        UDP,
        (Attribute.EVEN_PORT, b"\x80"),
        (Attribute.LIFETIME, b"\0\0\4\0"),
        (Attribute.MOBILITY_TICKET, b""),
        (Attribute.DONT_FRAGMENT, b""),
    )
    assert isinstance(made, AllocateWish)
    assert (made.even, made.reserve, made.lifetime_s, made.wants_mobility) == (
        True, True, 1024, True,
    )  # fmt: skip
