"""STUN messages: the vectors of RFC 5769 and RFC 8489 B.1, and what is refused."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masque_relay.stun.codepoints import Attribute, MessageClass, Method
from masque_relay.stun.message import (
    append_fingerprint,
    decode_message,
    encode_message,
    is_stun,
    unknown_required,
    with_length,
)
from masque_relay.wire.errors import WireError
from tests.support.stun_vectors import RESPONSE_V4, SAMPLE_REQUEST, VECTORS

ID = bytes(range(12))


@pytest.mark.parametrize("vector", VECTORS.values(), ids=list(VECTORS))
def test_published_vectors_decode_and_encode_again(vector: bytes) -> None:
    message = decode_message(vector)
    assert is_stun(vector)
    assert message.method == Method.BINDING
    again = encode_message(
        message.method, message.message_class, message.transaction_id, message.attributes
    )
    decoded = decode_message(again)
    assert decoded.attributes == message.attributes
    assert decoded.transaction_id == message.transaction_id


def test_the_sample_request_has_what_rfc_5769_says() -> None:
    message = decode_message(SAMPLE_REQUEST)
    assert message.message_class is MessageClass.REQUEST
    assert message.get(Attribute.SOFTWARE) == b"STUN test client"
    assert message.get(Attribute.USERNAME) == b"evtj:h6vY"
    assert message.has_fingerprint
    assert message.integrity_at is not None


@pytest.mark.parametrize("method", Method)
@pytest.mark.parametrize("message_class", MessageClass)
def test_method_and_class_survive_their_interleaved_bits(
    method: Method, message_class: MessageClass
) -> None:
    decoded = decode_message(encode_message(method, message_class, ID))
    assert (decoded.method, decoded.message_class) == (method, message_class)
    assert decoded.raw[0] < 0x40


@given(method=st.integers(0, 0xFFF))
def test_every_method_number_survives(method: int) -> None:
    assert decode_message(encode_message(method, MessageClass.REQUEST, ID)).method == method


@given(
    attributes=st.lists(
        st.tuples(
            st.integers(0, 0xFFFF).filter(lambda kind: kind not in {0x0008, 0x001C, 0x8028}),
            st.binary(max_size=40),
        ),
        max_size=8,
    )
)
def test_attributes_survive_with_padding(attributes: list[tuple[int, bytes]]) -> None:
    data = encode_message(Method.BINDING, MessageClass.REQUEST, ID, attributes)
    assert len(data) % 4 == 0
    assert list(decode_message(data).attributes) == attributes


@given(data=st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    with suppress(WireError):
        assert decode_message(data).raw == data


@given(position=st.integers(0, len(RESPONSE_V4) - 1), value=st.integers(0, 255))
def test_a_changed_byte_breaks_the_fingerprint(position: int, value: int) -> None:
    changed = bytearray(RESPONSE_V4)
    if changed[position] == value:
        return
    changed[position] = value
    with suppress(WireError):
        assert not decode_message(bytes(changed)).has_fingerprint


@pytest.mark.parametrize("cut", range(len(SAMPLE_REQUEST)))
def test_a_truncated_message_is_refused(cut: int) -> None:
    with pytest.raises(WireError):
        decode_message(SAMPLE_REQUEST[:cut])


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (b"\x40" + SAMPLE_REQUEST[1:], "first two bits"),
        (SAMPLE_REQUEST[:4] + bytes(4) + SAMPLE_REQUEST[8:], "magic cookie"),
        (SAMPLE_REQUEST + b"x", "length"),
        (with_length(SAMPLE_REQUEST, 1), "length"),
        (with_length(SAMPLE_REQUEST[:20] + b"\0\6\0\5abcd", 8), "announces 5 bytes"),
        (with_length(SAMPLE_REQUEST[:20] + b"\0\6\xff\xffabcd", 8), "announces 65535 bytes"),
        (append_fingerprint(SAMPLE_REQUEST)[:-4] + bytes(4), "FINGERPRINT"),
    ],
)
def test_a_malformed_message_says_what_is_wrong(data: bytes, detail: str) -> None:
    with pytest.raises(WireError, match=detail):
        decode_message(data)


def test_a_fingerprint_that_is_not_last_is_refused() -> None:
    more = append_fingerprint(encode_message(Method.BINDING, MessageClass.REQUEST, ID))
    more = with_length(more + b"\x80\x22\0\0", len(more) - 16)
    with pytest.raises(WireError, match="not the last"):
        decode_message(more)


def test_what_follows_the_integrity_is_not_believed() -> None:
    data = SAMPLE_REQUEST[:-8]
    data = with_length(data + b"\0\6\0\4evil", len(data) - 12)
    assert decode_message(data).get_all(Attribute.USERNAME) == [b"evtj:h6vY"]


@pytest.mark.parametrize(
    ("kind", "length"),
    [(0x0008, 19), (0x0008, 24), (0x001C, 12), (0x001C, 30), (0x001C, 36)],
)
def test_an_hmac_of_another_length_is_refused(kind: int, length: int) -> None:
    data = encode_message(Method.BINDING, MessageClass.REQUEST, ID, [(kind, bytes(length))])
    with pytest.raises(WireError, match="bytes of HMAC"):
        decode_message(data)


def test_only_unknown_attributes_that_must_be_understood_are_named() -> None:
    attributes = [(0x7FFF, b""), (0x8FFF, b""), (Attribute.USERNAME, b"x"), (0x0030, b"abcd")]
    data = encode_message(Method.BINDING, MessageClass.REQUEST, ID, attributes)
    assert unknown_required(decode_message(data)) == [0x7FFF, 0x0030]


def test_what_does_not_fit_is_a_bug_of_ours() -> None:
    with pytest.raises(ValueError, match="too long"):
        encode_message(1, MessageClass.REQUEST, ID, [(1, bytes(40_000)), (2, bytes(40_000))])
    with pytest.raises(ValueError, match="12 bytes"):
        encode_message(1, MessageClass.REQUEST, b"short")
