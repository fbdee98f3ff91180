"""A STUN Binding as a client asks it, with the vectors of RFC 5769."""

import pytest

from masque_relay.stun.binding import (
    CHANGE_IP,
    CHANGE_PORT,
    decode_binding,
    decode_binding_answer,
    encode_binding_request,
)
from masque_relay.wire.errors import WireError

TRANSACTION = bytes.fromhex("b7e7a701bc34d686fa87dfae")
IPV4_ANSWER = bytes.fromhex(  # RFC 5769 section 2.2
    "0101003c2112a442b7e7a701bc34d686fa87dfae"
    "8022000b7465737420766563746f7220"
    "002000080001a147e112a643"
    "000800142b91f599fd9e90c38c7489f92af9ba53f06be7d7"
    "80280004c07d4c96"
)
IPV6_ANSWER = bytes.fromhex(  # RFC 5769 section 2.3
    "010100482112a442b7e7a701bc34d686fa87dfae"
    "8022000b7465737420766563746f7220"
    "002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9"
    "00080014a382954e4be67bf11784c97c8292c275bfe3ed41"
    "80280004c8fb0b4c"
)


@pytest.mark.parametrize(
    ("answer", "address"),
    [
        (IPV4_ANSWER, "192.0.2.1"),
        (IPV6_ANSWER, "2001:db8:1234:5678:11:2233:4455:6677"),
    ],
)
def test_answers_of_the_rfc_say_where_we_are_seen(answer: bytes, address: str) -> None:
    assert decode_binding_answer(answer, TRANSACTION) == (address, 32_853)


def test_request_is_a_bare_head() -> None:
    request = encode_binding_request(TRANSACTION)

    assert request == bytes.fromhex("000100002112a442") + TRANSACTION


def test_answer_to_somebody_else_is_none() -> None:
    assert decode_binding_answer(IPV4_ANSWER, bytes(12)) is None
    assert decode_binding_answer(encode_binding_request(TRANSACTION), TRANSACTION) is None


def test_every_shorter_answer_is_refused() -> None:
    for end in range(len(IPV4_ANSWER)):
        with pytest.raises(WireError):
            decode_binding_answer(IPV4_ANSWER[:end], TRANSACTION)


def test_unknown_family_and_missing_address_are_refused() -> None:
    unsigned = IPV4_ANSWER[:2] + (28).to_bytes(2, "big") + IPV4_ANSWER[4:48]
    odd = unsigned.replace(bytes.fromhex("0001a147"), bytes.fromhex("0003a147"))
    with pytest.raises(WireError, match="family"):
        decode_binding_answer(odd, TRANSACTION)
    empty = bytes.fromhex("010100002112a442") + TRANSACTION
    with pytest.raises(WireError, match="XOR-MAPPED"):
        decode_binding_answer(empty, TRANSACTION)


def test_other_address_of_a_server_with_two_is_read() -> None:
    other = bytes.fromhex("802c0008" + "00010d97" + "c0000202")
    unsigned = IPV4_ANSWER[20:48]  # up to and with XOR-MAPPED-ADDRESS
    answer = IPV4_ANSWER[:2] + (28 + 12).to_bytes(2, "big") + IPV4_ANSWER[4:20] + unsigned + other
    found = decode_binding(answer, TRANSACTION)

    assert found is not None
    assert found.mapped == ("192.0.2.1", 32_853)
    assert found.other == ("192.0.2.2", 3_479)


def test_request_asks_to_be_answered_from_elsewhere() -> None:
    request = encode_binding_request(TRANSACTION, change=CHANGE_IP | CHANGE_PORT)

    assert request[2:4] == b"\0\x08"
    assert request[20:] == bytes.fromhex("0003000400000006")  # RFC 5780 section 7.2
