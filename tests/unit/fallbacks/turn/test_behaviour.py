"""NAT behaviour discovery (RFC 5780)."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from masque_relay.contract.address import Endpoint
from masque_relay.stun.codepoints import Attribute, MessageClass, Method
from masque_relay.stun.message import decode_message, encode_message
from masque_relay.stun.values import decode_address
from tests.support.turn_client import Reply
from tests.support.turn_rig import FakePath, TurnRig, error_name

A2 = ip_address("198.51.100.2")


def binding(*attributes: tuple[int, bytes]) -> bytes:
    return encode_message(Method.BINDING, MessageClass.REQUEST, bytes(12), attributes)


def four_paths(rig: TurnRig) -> FakePath:
    """One client on four sockets; the one that it speaks to."""
    path = rig.path()
    first = path.server
    for change_ip, change_port in ((False, True), (True, False), (True, True)):
        other = rig.path()
        other.server = replace(
            first,
            address=A2 if change_ip else first.address,
            port=3479 if change_port else first.port,
        )
        path.siblings[change_ip, change_port] = other
    return path


def answer(path: FakePath) -> Reply:
    (sent,) = path.sent
    return Reply(decode_message(sent))


@pytest.mark.parametrize(
    ("flags", "changed"),
    [(0, None), (2, (False, True)), (4, (True, False)), (6, (True, True))],
)
def test_the_answer_comes_from_where_it_is_asked_to(
    rig: TurnRig, flags: int, changed: tuple[bool, bool] | None
) -> None:
    path = four_paths(rig)
    rig.session.on_message(path, binding((Attribute.CHANGE_REQUEST, flags.to_bytes(4, "big"))))
    by_path = path if changed is None else path.siblings[changed]
    reply = answer(by_path)
    assert reply.address(Attribute.XOR_MAPPED_ADDRESS) == path.client
    assert decode_address(reply[Attribute.MAPPED_ADDRESS]) == path.client
    assert decode_address(reply[Attribute.RESPONSE_ORIGIN]) == by_path.server
    assert decode_address(reply[Attribute.OTHER_ADDRESS]) == Endpoint(address=A2, port=3479)


def test_the_answer_goes_to_the_port_that_it_is_asked_to(rig: TurnRig) -> None:
    path = four_paths(rig)
    rig.session.on_message(path, binding((Attribute.RESPONSE_PORT, b"\x04\xd2\0\0")))
    assert path.sent == []
    assert path.redirected is not None
    assert path.redirected.client == Endpoint(address=path.client.address, port=1234)
    assert answer(path.redirected).ok


def test_padding_is_answered_with_as_much_and_no_more(rig: TurnRig) -> None:
    path = four_paths(rig)
    request = binding((Attribute.PADDING, bytes(1000)))
    rig.session.on_message(path, request)
    assert answer(path)[Attribute.PADDING] == bytes(1000)
    assert len(path.sent[0]) - len(request) < 100


@pytest.mark.parametrize(
    "attributes",
    [
        ((Attribute.PADDING, bytes(8)), (Attribute.RESPONSE_PORT, b"\x04\xd2\0\0")),
        ((Attribute.PADDING, bytes(2000)),),
        ((Attribute.CHANGE_REQUEST, b"\0"),),
        ((Attribute.RESPONSE_PORT, b"\0"),),
    ],
)
def test_what_does_not_go_together_is_bad(
    rig: TurnRig, attributes: tuple[tuple[int, bytes], ...]
) -> None:
    path = four_paths(rig)
    rig.session.on_message(path, binding(*attributes))
    assert error_name(answer(path)) == "BAD_REQUEST"


@pytest.mark.parametrize(
    "attribute",
    [
        (Attribute.CHANGE_REQUEST, b"\0\0\0\6"),
        (Attribute.RESPONSE_PORT, b"\x04\xd2\0\0"),
        (Attribute.PADDING, bytes(8)),
    ],
)
def test_without_another_address_none_of_it_is_understood(
    rig: TurnRig, attribute: tuple[int, bytes]
) -> None:
    path = rig.path()
    rig.session.on_message(path, binding(attribute))
    reply = answer(path)
    assert error_name(reply) == "UNKNOWN_ATTRIBUTE"
    assert reply[Attribute.UNKNOWN_ATTRIBUTES] == attribute[0].to_bytes(2, "big")
